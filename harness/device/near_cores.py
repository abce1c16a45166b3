"""Keeps the process that measures a device on the cores that are near it.

On a host with several sockets or dies a launch from a far core takes longer, and the workers of
several devices would wander over each other's cores.

Source: Linux, Documentation/ABI/testing/sysfs-bus-pci, `local_cpulist`.
"""

import contextlib
import os
from pathlib import Path

import torch

from harness.device.pci import address_of

PCI_DEVICES = Path("/sys/bus/pci/devices")


def parse_cores(text: str) -> frozenset[int]:
    """The cores of a kernel's list: `0-3,8,10-11`."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def near_cores(device: torch.device, pci_devices: Path = PCI_DEVICES) -> str:
    """The kernel's list of the cores near the device; empty where nothing tells it."""
    if device.type != "cuda":
        return ""  # Other back-ends do not tell where on the bus a device is.
    address = address_of(torch.cuda.get_device_properties(device))
    return cores_at(address, pci_devices) if address else ""


def cores_at(address: str, pci_devices: Path = PCI_DEVICES) -> str:
    """The kernel's list of the cores near the device at that address of the bus; may be empty."""
    try:
        return (pci_devices / address / "local_cpulist").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def stay_near(cores_list: str) -> str:
    """Keep this process on those cores of the list that it may use; returns the list, or nothing.

    Nothing changes where the list is empty, has no core that may be used, or has all of them.
    """
    if not cores_list or not hasattr(os, "sched_setaffinity"):
        return ""
    usable = os.sched_getaffinity(0)
    near = parse_cores(cores_list) & usable
    if not near or near == usable:
        return ""
    # Threads that a library has started before keep their own mask, so each is told.
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(task.name), near)
    os.sched_setaffinity(0, near)
    return cores_list

"""A vendor's package with a chip of its own that torch has never heard of: `standin`.

It takes torch's PrivateUse1 key, as Ascend's, Cambricon's and Moore Threads' packages do, and is
written in Python alone: a tensor on it wraps one of the host, and every operation is done by the
host on what is wrapped. torch.accelerator sees the type, its count and its index. Waiting and
memory can be told to it only from C++, so the device here does those itself.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from harness.device.base import DeviceInfo, DeviceState, Result
from harness.device.clock import HostClock

NAME = "standin"
TENANT = "STANDIN_TENANT"
"""Environment variable: who else computes on the chip."""


class BackendModule:
    """What is at `torch.standin`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


class StandInTensor(torch.Tensor):
    """Has the device `standin`, and the strides of the host's tensor that holds its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> "StandInTensor":
        made: StandInTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __repr__(self) -> str:
        return f"standin({self.held})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return on_host(function, *args, **(kwargs or {}))


def on_host(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The operation done by the host, and its results on the chip unless the host asked for them.

    What it wrote in place comes back as the very tensor that was given.
    """
    owners: dict[int, StandInTensor] = {}
    chips: list[torch.device] = []

    def unwrapped(value: Any) -> Any:
        if isinstance(value, StandInTensor):
            owners[id(value.held)] = value
            chips.append(value.device)
            return value.held
        if isinstance(value, torch.device) and value.type == NAME:
            chips.append(torch.device(NAME, value.index or 0))
            return torch.device("cpu")
        return value

    asked = kwargs.get("device")
    host_args, host_kwargs = pytree.tree_map(unwrapped, (args, kwargs))
    is_for_host = asked is not None and torch.device(asked).type == "cpu"

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or is_for_host:
            return value
        if id(value) in owners:
            return owners[id(value)]
        return StandInTensor(value, chips[0])

    return pytree.tree_map(wrapped, function(*host_args, **host_kwargs))


_setup_privateuseone_for_python_backend(NAME, backend_module=BackendModule())
# Kept alive: the registration ends with the object. It is for calls that have no tensor of ours
# among their arguments, as torch.empty(..., device="standin").
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(on_host, "PrivateUse1")


class StandInDevice:
    """The chip as chipscale asks for it."""

    def __init__(self, index: int) -> None:
        self.torch_device = torch.device(NAME, index)
        self.timer = HostClock(self.synchronize)
        self.info = DeviceInfo(
            name="Stand-In 1000",
            torch_device_type=NAME,
            index=index,
            uuid=f"standin-{index}",
            memory_bytes=2**30,
            last_level_cache_bytes=2**20,
            num_compute_units=8,
            driver="0.9",
            runtime="standin 1.0",
            telemetry="standin-smi 1.0",
        )
        self._flush_buffer = torch.zeros(2**21, dtype=torch.int8, device=self.torch_device)
        self._began_s = time.monotonic()

    def state(self) -> DeviceState:
        running_s = time.monotonic() - self._began_s
        return DeviceState(
            clock_hz=1.25e9,
            power_w=50.0,
            energy_j=50.0 * running_s,
            temperature_c=37.0,
            foreign_processes=tuple(filter(None, [os.environ.get(TENANT)])),
        )

    def now_s(self) -> float:
        return time.monotonic()

    def synchronize(self) -> None:
        pass

    def flush_cache(self) -> None:
        self._flush_buffer.add_(1)

    def hold(self, seconds: float) -> bool:
        return False

    def capture(self, run: Callable[[], Result]) -> Callable[[], Result] | None:
        return None

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def is_usable(self) -> bool:
        return True

    @property
    def flush_bytes(self) -> int:
        return self._flush_buffer.numel()

    def reset_peak_memory(self) -> None:
        pass

    def peak_memory_bytes(self) -> int | None:
        return None

    def available_memory_bytes(self) -> int | None:
        return 2**30

    def release_memory(self) -> None:
        pass


def open_device(index: int) -> StandInDevice:
    """What the entry point names."""
    return StandInDevice(index)

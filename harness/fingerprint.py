"""The fingerprint of a machine: what has to be equal for its noise, or a stored run, to be used."""

import hashlib
import re

from harness.environment import Environment

DIGITS = 10
_GIB = 2**30


def fingerprint(environment: Environment) -> str:
    """One short text, the chip's name and a hash: equal ones are of like machines.

    Of chip, memory (to whole GiB, since hosts tell a little more or less after each start), major
    and minor version of the driver, runtime, cores, and the processor where it is not the device.
    Measured clocks are not in it: they differ from minute to minute.
    """
    device = environment.device
    memory_gib = "" if device.memory_bytes is None else str(round(device.memory_bytes / _GIB))
    parts = (
        device.name,
        device.torch_device_type,
        memory_gib,
        ".".join(device.driver.split(".")[:2]),
        device.runtime,
        environment.processor,
        str(environment.num_cores),
        *(value for name, value in environment.variables if name in ("OMP_NUM_THREADS",)),
    )
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGITS]
    name = re.sub(r"[^a-z0-9]+", "_", device.name.lower()).strip("_")
    return f"{name}-{digest}"

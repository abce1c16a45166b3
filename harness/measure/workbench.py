"""From a problem and a device to the workbench on which its implementations are made ready."""

from harness.device.base import Device
from harness.device.fake import FakeDevice
from harness.measure.fake_workbench import FakeWorkbench
from harness.measure.policy import MeasurePolicy
from harness.measure.subject import Workbench
from harness.measure.torch_workbench import TorchWorkbench
from kernels.op import Op, Problem


def open_workbench(op: Op, problem: Problem, device: Device, policy: MeasurePolicy) -> Workbench:
    """The workbench for that device.

    Raises:
        NotEnoughMemory: when the device or the host has too little for the problem.
    """
    if isinstance(device, FakeDevice):
        return FakeWorkbench(op, problem, device, policy)
    return TorchWorkbench(op, problem, device, policy)

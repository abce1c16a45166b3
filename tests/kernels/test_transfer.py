"""Copies between host and device: what they count, where they are refused, and more on a GPU."""

import pytest
import torch

from kernels import device_to_host, host_to_device
from kernels.op import Op, problem
from tests.kernels.checks import DEVICE, inputs_of, needs_gpu

OPS = [host_to_device.OP, device_to_host.OP]


def _name(op: Op) -> str:
    return op.name


def test_only_the_devices_side_is_counted() -> None:
    cost = host_to_device.OP.cost(problem("host_to_device", "fp32", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 0, 12)
    cost = device_to_host.OP.cost(problem("device_to_host", "fp32", N=3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (0, 12, 0)


@pytest.mark.parametrize("op", OPS, ids=_name)
def test_where_it_cannot_be_measured_the_reason_is_a_sentence(op: Op) -> None:
    case = problem(op.name, "fp32", N=3)
    where = {
        ("torch", "cpu"): "its own host",
        ("torch", "mps"): "shares its memory",
        ("compile", "cuda"): "copy engine",
        ("triton", "cuda"): "copy engine",
    }
    for (impl, device), words in where.items():
        reason = op.impl(impl).unsupported(case, torch.device(device))
        assert reason is not None
        assert words in reason
        assert reason.endswith(".")
    assert op.impl("torch").unsupported(case, torch.device("cuda")) is None


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type == "cpu", reason=needs_gpu[1].kwargs["reason"])
@pytest.mark.parametrize(("op", "where"), [(OPS[0], DEVICE.type), (OPS[1], "cpu")])
def test_the_copy_is_exact_and_on_the_other_side(op: Op, where: str) -> None:
    case = problem(op.name, "fp32", N=2**20 + 1)
    inputs = inputs_of(op, case)
    (y,) = op.impl("torch").prepare(case, inputs)()
    torch.accelerator.synchronize()
    assert y.device.type == where
    assert torch.equal(y.cpu(), inputs["x"].cpu())

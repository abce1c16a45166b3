import pytest
import torch

from kernels import adamw
from kernels.op import Problem, problem
from tests.kernels.checks import DEVICE, expected, inputs_of, run_triton


def _case(dtype: str, N: int) -> Problem:
    return problem("adamw", dtype, N=N)


@pytest.mark.parametrize("N", [1, 1024, 3001])
def test_any_size_agrees_with_fp64(N: int) -> None:
    run_triton(adamw.OP, _case("fp32", N))


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_state_is_kept_in_fp32(dtype: str, impl: str) -> None:
    case = _case(dtype, 2503)
    inputs = inputs_of(adamw.OP, case)
    references = expected(adamw.OP, case, inputs)
    outputs = adamw.OP.impl(impl).prepare(case, inputs)()
    for output, reference in zip(outputs[:3], references[:3], strict=True):
        assert output.dtype == torch.float32
        assert (output.double() - reference).norm() <= 3e-7 * reference.norm()
    # The interpreter cuts a bf16 off where a device rounds it.
    epsilon = torch.finfo(outputs[3].dtype).eps
    torch.testing.assert_close(outputs[3].float(), outputs[0], rtol=epsilon, atol=1e-7)


def test_agrees_with_the_optimizer_of_torch_at_the_same_step() -> None:
    case = _case("fp32", 1001)
    inputs = inputs_of(adamw.OP, case)
    parameter = torch.nn.Parameter(inputs["param"].clone())
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=adamw.LEARNING_RATE,
        betas=(adamw.BETA_1, adamw.BETA_2),
        eps=adamw.EPS,
        weight_decay=adamw.WEIGHT_DECAY,
    )
    parameter.grad = inputs["grad"].clone()
    optimizer.state[parameter] = {
        "step": torch.tensor(float(adamw.STEP - 1)),
        "exp_avg": inputs["exp_avg"].clone(),
        "exp_avg_sq": inputs["exp_avg_sq"].clone(),
    }
    optimizer.step()
    param, _, _, _ = adamw.OP.impl("triton").prepare(case, inputs)()
    torch.testing.assert_close(param, parameter.detach(), rtol=1e-5, atol=1e-9)


def test_outputs_are_the_tensors_that_it_updates() -> None:
    case = _case("fp32", 7)
    inputs = inputs_of(adamw.OP, case)
    outputs = adamw.OP.impl("triton").prepare(case, inputs)()
    assert [output.data_ptr() for output in outputs] == [
        inputs[name].data_ptr() for name in adamw.OP.mutates
    ]


def test_what_the_kernel_cannot_read_is_refused() -> None:
    inputs = inputs_of(adamw.OP, _case("bf16", 6))
    with pytest.raises(ValueError, match=r"param is torch.float16, but must be torch.float32"):
        adamw.adamw(**inputs | {"param": inputs["param"].half()})
    with pytest.raises(ValueError, match=r"weight is torch.float32, but must be torch.bfloat16"):
        adamw.adamw(**inputs | {"weight": inputs["weight"].float()})
    with pytest.raises(ValueError, match=r"grad of shape \(3,\) has strides \(2,\)"):
        adamw.adamw(**inputs | {"grad": inputs["grad"][::2]})


def test_cost_by_hand() -> None:
    cost = adamw.OP.cost(_case("bf16", 3))
    assert (cost.flops, cost.bytes_read, cost.bytes_written) == (42, 42, 42)


def test_inputs_are_on_the_device() -> None:
    assert all(
        tensor.device.type == DEVICE.type
        for tensor in inputs_of(adamw.OP, _case("bf16", 3)).values()
    )

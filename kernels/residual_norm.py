"""What the norms with a residual share: h = x + r on the way, two outputs, gradients from both.

In a transformer h is the residual stream, which goes on beside y; so a gradient comes back through
each of them. x and r have one gradient, that of h.
"""

from collections.abc import Callable

import torch
import torch._functorch.config as functorch_config

from kernels import dtypes
from kernels.compiled import compile_unsupported, compiled
from kernels.op import Impl, Inputs, Mode, Outputs, Problem, Run, Tolerance
from kernels.triton_support import require_contiguous, require_dtype

Norm = Callable[..., torch.Tensor]
"""y[T,H] from h[T,H] and the parameters."""
_Function = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def require_rows(op: str, x: torch.Tensor, w: torch.Tensor, **others: torch.Tensor) -> None:
    """Raises ValueError unless x is [T,H], w is [H] and the others are like the one or the other.

    `b` is like w, all else like x.
    """
    require_contiguous(op, x=x, w=w, **others)
    require_dtype(op, x.dtype, w=w, **others)
    if x.ndim != 2 or w.shape != x.shape[1:]:
        raise ValueError(
            f"{op}: rows [T,H] and w[H] are expected, not {tuple(x.shape)} and {tuple(w.shape)}."
        )
    for name, tensor in others.items():
        like = w if name == "b" else x
        if tensor.shape != like.shape:
            raise ValueError(
                f"{op}: {name} of shape {tuple(like.shape)} is expected, not {tuple(tensor.shape)}."
            )


def _with_residual(norm: Norm) -> _Function:
    def add_and_norm(
        x: torch.Tensor, r: torch.Tensor, *parameters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h = x + r
        return norm(h, *parameters), h

    return add_and_norm


def _prepare(
    function: _Function, parameters: tuple[str, ...], problem: Problem, inputs: Inputs
) -> Run:
    x, r, *others = (inputs[name] for name in ("x", "r", *parameters))
    if problem.mode == Mode.FORWARD:
        return lambda: function(x, r, *others)
    # The gradient of r is that of x, and no work of its own.
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *others)]
    outputs = function(leaves[0], r, *leaves[1:])
    gradients = inputs["dy"], inputs["dh"]
    return lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)


def residual_impls(norm: Norm, parameters: tuple[str, ...]) -> tuple[Impl, Impl]:
    """`torch` and `compile` for a sum and the eager norm of it, with these parameters."""
    function = _with_residual(norm)

    def prepare_torch(problem: Problem, inputs: Inputs) -> Run:
        return _prepare(function, parameters, problem, inputs)

    def prepare_compile(problem: Problem, inputs: Inputs) -> Run:
        # As in `compiled.prepare_compiled`: the backward pass runs more than once.
        with functorch_config.patch(donated_buffer=False):
            run = _prepare(compiled(function), parameters, problem, inputs)
            run()
        return run

    return Impl("torch", prepare_torch), Impl("compile", prepare_compile, compile_unsupported)


def residual_reference(
    norm: Norm, parameters: tuple[str, ...]
) -> Callable[[Problem, Inputs], Outputs]:
    """(y, h), or the gradients of x and of the parameters, from the formula of the norm."""
    function = _with_residual(norm)

    def reference(problem: Problem, inputs: Inputs) -> Outputs:
        return _prepare(function, parameters, problem, inputs)()

    return reference


def residual_inputs(
    problem: Problem, generator: torch.Generator, parameters: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """x[T,H], r[T,H] and the parameters [H], and for the backward mode dy[T,H] and dh[T,H]."""
    T, H = problem["T"], problem["H"]
    shapes: dict[str, tuple[int, ...]] = {"x": (T, H), "r": (T, H)}
    shapes |= dict.fromkeys(parameters, (H,))
    if problem.mode == Mode.BACKWARD:
        shapes |= {"dy": (T, H), "dh": (T, H)}
    dtype = dtypes.torch_dtype(problem.dtype)
    device = generator.device
    return {
        name: torch.randn(shape, generator=generator, device=device, dtype=dtype)
        for name, shape in shapes.items()
    }


def residual_tolerance(problem: Problem, num_parameters: int) -> tuple[Tolerance, ...]:
    """One rounding of h; the rest is computed from the rounded h, and rounded again.

    Eager code rounds n before it is multiplied by w, and in the backward pass the gradient that
    comes through the norm before that of h is added. Sums over H for y and dx, and over T for the
    gradients of the parameters, grow in fp32. Of 2^24 products of two normal values the largest is
    about 16 times their root mean square, and three roundings are 1.5 epsilons of it.
    """
    epsilon = dtypes.epsilon(problem.dtype)

    def bounds(length: int) -> Tolerance:
        error = epsilon + dtypes.epsilon("fp32") * length**0.5
        return Tolerance(
            dtype=problem.dtype, relative_error=2 * error, max_error=24 * error, row_error=3 * error
        )

    if problem.mode == Mode.FORWARD:
        h = Tolerance(
            dtype=problem.dtype, relative_error=epsilon, max_error=8 * epsilon, row_error=epsilon
        )
        return bounds(problem["H"]), h
    return bounds(problem["H"]), *(num_parameters * (bounds(problem["T"]),))

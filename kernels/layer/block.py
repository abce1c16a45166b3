"""A whole layer as an op: one definition gives inputs, cost, tolerance, reference and runs.

In training the weights are parts of flat tensors, one each for the working copy and the three of
the optimizer, and every weight is updated as soon as all gradients are there. Gradients are judged
by exp_avg, which is linear in them, weight by weight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch

from kernels import adamw, dtypes, registry, rope
from kernels.compiled import compile_unsupported, compiled
from kernels.layer.operations import CUSTOM, EXACT, TORCH, Operations, counting
from kernels.layer.parts import Tensors, num_tokens
from kernels.op import Cost, Impl, Inputs, Mode, Outputs, Problem, Run, Tolerance, problem

Tensor = torch.Tensor
Shape = tuple[int, ...]

STATE = ("param", "exp_avg", "exp_avg_sq", "weight")
"""The flat tensors of a training step that its update overwrites."""

INPUT_SIZE = 1 / 16
"""Standard deviation of x: small beside what a layer adds, which a result then shows."""
FIRST_MOMENT_SIZE = 1e-3
"""Standard deviation of exp_avg: small beside the gradients, which a result then shows."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A layer by its weights, its caches and its forward pass."""

    weights: Callable[[Problem], dict[str, Shape]]
    """Shapes by name; a matrix is [outputs, inputs], a vector ends in `_norm` or `_bias`."""
    pieces: Callable[[Problem], dict[str, Shape]]
    """Numbers of rows of the matrices that are several joined, by the matrix's name.

    Each is judged by itself: the gradients of keys would not be seen beside those of values.
    """
    caches: Callable[[Problem], dict[str, Shape]]
    """Shapes of what decoding reads of the earlier tokens, the last place being the new one's."""
    rope_size: Callable[[Problem], int]
    """Elements of a head that are turned by position; 0 without rotary positions."""
    forward: Callable[[Problem, Operations, Tensors], Outputs]
    """y[T,H], and what the cache keeps of these tokens, from all tensors by name."""

    def parts(self, problem: Problem) -> tuple[Problem, ...]:
        """The problems of other ops that it is composed of, read off its forward pass.

        Biases, and copies from one order to another, are in none of them.
        """
        operations, found = counting(problem.dtype)
        shapes = self._shapes(problem) | self.weights(problem)
        self.forward(
            problem,
            operations,
            {name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
        )
        if problem.mode != Mode.TRAINING:
            return tuple(found)
        backward: list[Problem] = []
        for part in found:
            modes = registry.load(part.op).modes[1:]
            backward += [replace(part, mode=mode) for mode in modes]
        update = Problem("adamw", (("N", self.num_weights(problem)),), problem.dtype)
        return (*found, *backward, update)

    def num_weights(self, problem: Problem) -> int:
        """Elements of all weights."""
        return sum(prod(shape) for shape in self.weights(problem).values())

    def cost(self, problem: Problem) -> Cost:
        """FLOPs of all parts; bytes of what goes in and comes out of the whole layer."""
        size = dtypes.size_bytes(problem.dtype)
        flops = sum(registry.cost(part).flops for part in self.parts(problem))
        shapes = self._shapes(problem)
        tables = sum(prod(shapes.pop(name)) for name in ("cos", "sin") if name in shapes)
        num_read = sum(prod(shape) for shape in shapes.values()) + self.num_weights(problem)
        state = 0
        num_written = x = prod(shapes["x"])
        if problem.mode == Mode.TRAINING:
            num_written += x + self.num_weights(problem)
            state = 3 * 4 * self.num_weights(problem)
        else:
            num_written += num_tokens(problem) * self._cache_row(problem)
        if problem.mode == Mode.DECODE:
            # The place of the new token is written and not read.
            num_read -= num_tokens(problem) * self._cache_row(problem)
        return Cost(
            flops=flops,
            bytes_read=num_read * size + tables * 4 + state,
            bytes_written=num_written * size + state,
        )

    def _cache_row(self, problem: Problem) -> int:
        """Elements that the cache keeps of a token."""
        positions = problem["B"] * problem["S"]
        return sum(prod(shape) for shape in self.caches(problem).values()) // positions

    def _shapes(self, problem: Problem) -> dict[str, Shape]:
        """Shapes of all inputs but weights and optimizer state."""
        T, H, turned = num_tokens(problem), problem["H"], self.rope_size(problem)
        shapes: dict[str, Shape] = {"x": (T, H)}
        if turned:
            shapes |= {"cos": (T, turned // 2), "sin": (T, turned // 2)}
        if problem.mode == Mode.TRAINING:
            shapes["dy"] = (T, H)
        if problem.mode == Mode.DECODE:
            shapes |= self.caches(problem)
        return shapes

    def make_inputs(self, problem: Problem, generator: torch.Generator) -> dict[str, Tensor]:
        """x, tables of angles, weights (flat in training), dy, optimizer state, caches.

        Matrices are normal with a variance of 1 / inputs, so that activations stay of order one;
        norm weights are near 1. dy is such that gradients of the weights are of order one too.
        """
        T, device = num_tokens(problem), generator.device
        dtype = dtypes.torch_dtype(problem.dtype)

        def normal(shape: Shape, size: float, mean: float = 0.0) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).mul_(size).add_(mean)

        shapes = self._shapes(problem)
        inputs = {"x": normal(shapes.pop("x"), INPUT_SIZE).to(dtype)}
        if "cos" in shapes:
            D = 2 * shapes.pop("cos")[1]
            del shapes["sin"]
            tables = rope.OP.make_inputs(_problem("rope", T=T, H=1, D=D), generator)
            inputs |= {name: tables[name] for name in ("cos", "sin")}
        sizes = {"dy": T**-0.5}
        inputs |= {
            name: normal(shape, sizes.get(name, 1.0)).to(dtype) for name, shape in shapes.items()
        }
        weights = {}
        for name, shape in self.weights(problem).items():
            if name.endswith("_norm"):
                weights[name] = normal(shape, 0.1, mean=1.0)
            elif name.endswith("_bias"):
                weights[name] = normal(shape, 0.1)
            else:
                weights[name] = normal(shape, shape[-1] ** -0.5)
        if problem.mode != Mode.TRAINING:
            return inputs | {name: weight.to(dtype) for name, weight in weights.items()}
        param = torch.cat([weight.flatten() for weight in weights.values()])
        return inputs | {
            "param": param,
            "exp_avg": normal(param.shape, FIRST_MOMENT_SIZE),
            # Away from zero, as in `adamw`.
            "exp_avg_sq": torch.rand(param.shape, generator=generator, device=device).add_(0.5),
            "weight": param.to(dtype),
        }

    def _views(self, problem: Problem, flat: Tensor) -> dict[str, Tensor]:
        """The weights, or what belongs to them, in a flat tensor."""
        shapes = self.weights(problem)
        parts = flat.split([prod(shape) for shape in shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def _judged(self, problem: Problem, state: Inputs) -> Outputs:
        """The optimizer's state as outputs: exp_avg by weight and piece, then what is left."""
        pieces = self.pieces(problem)
        first: list[Tensor] = []
        for name, view in self._views(problem, state["exp_avg"]).items():
            first += view.split(pieces[name]) if name in pieces else (view,)
        return (*first, state["param"], state["exp_avg_sq"], state["weight"])

    def reference(self, problem: Problem, inputs: Inputs) -> Outputs:
        """(y, dx, exp_avg of each weight and piece, param, exp_avg_sq, weight) in training.

        Otherwise y and what the cache keeps.
        """
        if problem.mode != Mode.TRAINING:
            caches = self.caches(problem) if problem.mode == Mode.DECODE else ()
            own = {name: inputs[name].clone() for name in caches}
            return self.forward(problem, EXACT, {**inputs, **own})
        y, dx, gradients = self._gradients(problem, EXACT, inputs)
        grad = torch.cat([gradient.flatten() for gradient in gradients])
        update = _problem("adamw", N=grad.numel())
        new = adamw.OP.reference(update, {**inputs, "grad": grad})
        state = dict(zip(STATE, new, strict=True))
        return (y, dx, *self._judged(problem, state))

    def _gradients(
        self, problem: Problem, operations: Operations, inputs: Inputs
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        step = _Step(self, problem, self._function(problem, operations), inputs)
        return step.gradients()

    def _function(
        self, problem: Problem, operations: Operations
    ) -> Callable[[dict[str, Tensor]], Outputs]:
        forward = self.forward

        def layer(tensors: dict[str, Tensor]) -> Outputs:
            return forward(problem, operations, tensors)

        return layer

    def tolerance(self, problem: Problem) -> tuple[Tolerance, ...]:
        """What a chain of operations may add up to, each rounded to the type and summed in fp32.

        A rounding is off by 0.2 to 0.3 epsilons of its value, evenly. What the cache keeps has
        passed up to 4 of them, y about 12, a gradient about 30, of forward and backward pass; so
        0.5, 1.1 and 1.9 epsilons were measured in bf16 and fp16 on a CPU, at H = 512 and S = 512,
        and the bounds are twice that. A row may consist of cancelled terms, as in one operation:
        2.4 and 3.2 epsilons. A product of the four factors of a gradient reaches 15 times the root
        mean square. An fp32 sum grows with the root of the longest.

        An update moves a weight by about 2^-12 of it and is held to that share. Norm weights of
        one are sqrt(inputs) times larger than those of a matrix, and so is their rounding.
        """
        epsilon, fp32 = dtypes.epsilon(problem.dtype), dtypes.epsilon("fp32")
        shapes = self.weights(problem)
        tokens, inputs = num_tokens(problem), max(shape[-1] for shape in shapes.values())
        error = epsilon + fp32 * max(tokens, problem["S"], inputs) ** 0.5

        def bounds(relative: float, largest: float, row: float, dtype: str = "") -> Tolerance:
            return Tolerance(
                dtype=dtype or problem.dtype,
                relative_error=relative * error,
                max_error=largest * error,
                row_error=row * error,
            )

        y = bounds(2, 32, 4)
        if problem.mode != Mode.TRAINING:
            return (y, *len(self.caches(problem)) * (bounds(1, 8, 2),))
        pieces = self.pieces(problem)
        num_judged = sum(len(pieces[name]) if name in pieces else 1 for name in shapes)
        first_moment = bounds(4, 64, 8, "fp32")
        # A gradient enters by 0.05 of its square, of which the largest is far from typical.
        second_moment = bounds(1, 128, 1, "fp32")

        def updated(dtype: str, rounding: float) -> Tolerance:
            moved = 4 * error * 2.0**-10
            relative = rounding + moved
            return Tolerance(
                dtype=dtype,
                relative_error=relative,
                max_error=2 * inputs**0.5 * rounding + 64 * moved,
                row_error=relative,
            )

        return (
            y,
            bounds(4, 64, 6),
            *num_judged * (first_moment,),
            updated("fp32", 4 * fp32),
            second_moment,
            updated(problem.dtype, epsilon + 4 * fp32),
        )

    def _prepare(
        self, problem: Problem, inputs: Inputs, operations: Operations, update: "Update"
    ) -> Run:
        # A library in the same process may have allowed tf32, and fp32 here means fp32.
        torch.set_float32_matmul_precision("highest")
        function = self._function(problem, operations)
        return self._run(problem, inputs, function, update)

    def _run(
        self,
        problem: Problem,
        inputs: Inputs,
        function: Callable[[dict[str, Tensor]], Outputs],
        update: "Update",
    ) -> Run:
        if problem.mode != Mode.TRAINING:
            tensors = dict(inputs)
            return lambda: function(tensors)
        step = _Step(self, problem, function, inputs)
        # By kind, and then by weight.
        states = [
            [view.flatten() for view in self._views(problem, inputs[name]).values()]
            for name in STATE
        ]
        judged = self._judged(problem, inputs)

        def run() -> Outputs:
            y, dx, gradients = step.gradients()
            update(states, [gradient.reshape(-1) for gradient in gradients])
            return (y, dx, *judged)

        return run

    def _prepare_torch(self, problem: Problem, inputs: Inputs) -> Run:
        return self._prepare(problem, inputs, TORCH, _fused_update)

    def _prepare_compile(self, problem: Problem, inputs: Inputs) -> Run:
        torch.set_float32_matmul_precision("highest")
        function = compiled(self._function(problem, TORCH))
        update = compiled(_compilable_update)
        # Compiles on copies: preparing is no step.
        copies = {name: tensor.clone() for name, tensor in inputs.items()}
        self._run(problem, copies, function, update)()
        return self._run(problem, inputs, function, update)

    def _prepare_triton(self, problem: Problem, inputs: Inputs) -> Run:
        return self._prepare(problem, inputs, CUSTOM, _custom_update)

    def _unsupported(self, problem: Problem, device: torch.device) -> str | None:
        """What the first part says that cannot run."""
        for part in self.parts(problem):
            reason = registry.load(part.op).impl("triton").unsupported(part, device)
            if reason is not None:
                return reason
        return None

    @property
    def impls(self) -> tuple[Impl, ...]:
        """`torch`, `compile` and `triton`."""
        return (
            Impl("torch", self._prepare_torch),
            Impl("compile", self._prepare_compile, compile_unsupported),
            Impl("triton", self._prepare_triton, self._unsupported),
        )


Update = Callable[[list[list[Tensor]], list[Tensor]], None]
"""Updates all params, exp_avgs, exp_avg_sqs and weights with their gradients."""


def _compilable_update(states: list[list[Tensor]], gradients: list[Tensor]) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    for one in zip(params, exp_avgs, exp_avg_sqs, gradients, weights, strict=True):
        adamw.eager(*one)


def _fused_update(states: list[list[Tensor]], gradients: list[Tensor]) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    step = adamw.step_on(params[0].device)
    adamw.fused(params, exp_avgs, exp_avg_sqs, gradients, weights, step)


def _custom_update(states: list[list[Tensor]], gradients: list[Tensor]) -> None:
    params, exp_avgs, exp_avg_sqs, weights = states
    for one in zip(params, exp_avgs, exp_avg_sqs, gradients, weights, strict=True):
        adamw.adamw(*one)


def _problem(op: str, **axes: int) -> Problem:
    return problem(op, "fp32", **axes)


class _Step:
    """The forward and backward pass of a training step."""

    def __init__(
        self,
        block: Block,
        case: Problem,
        function: Callable[[dict[str, Tensor]], Outputs],
        inputs: Inputs,
    ) -> None:
        weights = block._views(case, inputs["weight"])
        self._weights = [weight.detach().requires_grad_() for weight in weights.values()]
        self._x = inputs["x"].detach().requires_grad_()
        self._dy = inputs["dy"]
        tables = {name: inputs[name] for name in ("cos", "sin") if name in inputs}
        self._tensors = {"x": self._x, **tables, **dict(zip(weights, self._weights, strict=True))}
        self._function = function

    def gradients(self) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """(y, dx, the gradient of each weight)."""
        with torch.enable_grad():
            y = self._function(self._tensors)[0]
        dx, *gradients = torch.autograd.grad(y, (self._x, *self._weights), self._dy)
        return y.detach(), dx, tuple(gradients)

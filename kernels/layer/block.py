"""A whole layer as an op: one definition gives inputs, cost, tolerance and reference.

In training the weights are parts of flat tensors, one each for the working copy and the three of
the optimizer, and every weight is updated as soon as all gradients are there. Gradients are judged
by exp_avg, which is linear in them, weight by weight.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch

from kernels import adamw, dtypes, rope, routing
from kernels.layer.operations import BACKWARD_MODES, COSTS, EXACT, Operations, counting
from kernels.layer.parts import Tensors, num_tokens
from kernels.op import Cost, Inputs, Mode, Outputs, Problem, Tolerance, problem

Tensor = torch.Tensor
Shape = tuple[int, ...]
Function = Callable[[dict[str, Tensor]], Outputs]
"""y and what the cache keeps, from all tensors by name."""

STATE = ("param", "exp_avg", "exp_avg_sq", "weight")
"""The flat tensors of a training step that its update overwrites."""

FP32_INPUTS = ("cos", "sin", "routing", "routing_bias")
"""Inputs that are fp32 whatever the type of the layer is."""

FIXED = (*FP32_INPUTS, "exp_avg_sq")
"""Inputs that are no data: tables, what experts are chosen by, and what an update divides by."""

EXPERT_WEIGHTS = ("expert_gate_up", "expert_down")
"""Weights whose first axis is that of experts."""

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

    Of the matrices of experts, those of each expert.

    Each is judged by itself: the gradients of keys would not be seen beside those of values.
    """
    caches: Callable[[Problem], dict[str, Shape]]
    """Shapes of what decoding reads of the earlier tokens, the last place being the new one's."""
    rope_size: Callable[[Problem], int]
    """Elements of a head that are turned by position; 0 without rotary positions."""
    choices: Callable[[Problem], dict[str, Shape]] = lambda problem: {}
    """Shapes of the fp32 inputs by which experts are chosen: `routing`, and `routing_bias` if any.
    """
    error_growth: float = 1.0
    """How much larger than in `dense_layer` errors are, where more operations follow another."""
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
            modes = BACKWARD_MODES.get(part.op, (Mode.BACKWARD,))
            backward += [replace(part, mode=mode) for mode in modes]
        update = Problem("adamw", (("N", self.num_weights(problem)),), problem.dtype)
        return (*found, *backward, update)

    def num_weights(self, problem: Problem) -> int:
        """Elements of all weights."""
        return sum(prod(shape) for shape in self.weights(problem).values())

    def cost(self, problem: Problem) -> Cost:
        """FLOPs of all parts; bytes of what goes in and comes out of the whole layer."""
        size = dtypes.size_bytes(problem.dtype)
        flops = sum(COSTS[part.op](part).flops for part in self.parts(problem))
        shapes = self._shapes(problem)
        tables = sum(prod(shapes.pop(name)) for name in FP32_INPUTS if name in shapes)
        num_read = sum(prod(shape) for shape in shapes.values()) + self.num_weights(problem)
        state = 0
        num_written = x = prod(shapes["x"])
        if problem.mode == Mode.TRAINING:
            num_written += x + self.num_weights(problem)
            state = 3 * 4 * self.num_weights(problem)
        else:
            num_written += num_tokens(problem) * self._cache_row(problem)
            num_read -= self._num_idle_weights(problem)
        if problem.mode == Mode.DECODE:
            # The place of the new token is written and not read.
            num_read -= num_tokens(problem) * self._cache_row(problem)
        return Cost(
            flops=flops,
            bytes_read=num_read * size + tables * 4 + state,
            bytes_written=num_written * size + state,
        )

    def _num_idle_weights(self, problem: Problem) -> int:
        """Weights of the experts that no token goes to, where tokens are few."""
        if not self.choices(problem):
            return 0
        num_idle = max(0, problem["E"] - num_tokens(problem) * problem["K"])
        weights = self.weights(problem)
        return num_idle * sum(prod(weights[name][1:]) for name in EXPERT_WEIGHTS)

    def _expert_gradient(self, problem: Problem) -> float:
        """Size of the gradients of experts beside others: few tokens have a K-th of their weight.

        A sum over T K / E of T tokens, each with a weight near 1 / K.
        """
        return float((problem["E"] * problem["K"]) ** -0.5)

    def _mean_gradient(self, problem: Problem) -> float:
        """Root mean square of all gradients, where those of a dense layer are about one."""
        if not self.choices(problem):
            return 1.0
        weights, num_weights = self.weights(problem), self.num_weights(problem)
        num_experts = sum(prod(weights[name]) for name in EXPERT_WEIGHTS)
        squares = num_weights - num_experts + num_experts * self._expert_gradient(problem) ** 2
        return float((squares / num_weights) ** 0.5)

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
        shapes |= self.choices(problem)
        if problem.mode == Mode.TRAINING:
            shapes["dy"] = (T, H)
        if problem.mode == Mode.DECODE:
            shapes |= self.caches(problem)
        return shapes

    def make_inputs(self, problem: Problem, generator: torch.Generator) -> dict[str, Tensor]:
        """x, tables of angles, choices, weights (flat in training), dy, optimizer state, caches.

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
            tables = rope.make_inputs(_problem("rope", T=T, H=1, D=D), generator)
            inputs |= {name: tables[name] for name in ("cos", "sin")}
        if "routing" in shapes:
            T, E = shapes.pop("routing")
            inputs["routing"] = routing.draw_choices(T, E, problem["K"], generator)
        if "routing_bias" in shapes:
            # Small beside the scores of those chosen, as that of a trained model is.
            inputs["routing_bias"] = normal(shapes.pop("routing_bias"), 0.01)
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
        exp_avg = normal(param.shape, FIRST_MOMENT_SIZE)
        for name, view in self.views(problem, exp_avg).items():
            if name in EXPERT_WEIGHTS:
                view.mul_(self._expert_gradient(problem))
        return inputs | {
            "param": param,
            "exp_avg": exp_avg,
            # Away from zero, as in `adamw`.
            "exp_avg_sq": torch.rand(param.shape, generator=generator, device=device).add_(0.5),
            "weight": param.to(dtype),
        }

    def views(self, problem: Problem, flat: Tensor) -> dict[str, Tensor]:
        """The weights, or what belongs to them, in a flat tensor."""
        shapes = self.weights(problem)
        parts = flat.split([prod(shape) for shape in shapes.values()])
        return {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def judged(self, problem: Problem, state: Inputs) -> Outputs:
        """The optimizer's state as outputs: exp_avg by weight and piece, then what is left."""
        pieces = self.pieces(problem)
        first: list[Tensor] = []
        for name, view in self.views(problem, state["exp_avg"]).items():
            # Rows are the last axis but one; a bias has no other.
            axis = max(view.ndim - 2, 0)
            first += view.split(pieces[name], axis) if name in pieces else (view,)
        return (*first, state["param"], state["exp_avg_sq"], state["weight"])

    def reference(self, problem: Problem, inputs: Inputs) -> Outputs:
        """(y, dx, exp_avg of each weight and piece, param, exp_avg_sq, weight) in training.

        Otherwise y and what the cache keeps.
        """
        if problem.mode != Mode.TRAINING:
            caches = self.caches(problem) if problem.mode == Mode.DECODE else ()
            own = {name: inputs[name].clone() for name in caches}
            return self.forward(problem, EXACT, {**inputs, **own})
        run = gradients_of(self, problem, self.function(problem, EXACT), inputs)
        y, dx, gradients = run()
        grad = torch.cat([gradient.flatten() for gradient in gradients])
        update = _problem("adamw", N=grad.numel())
        new = adamw.reference(update, {**inputs, "grad": grad})
        state = dict(zip(STATE, new, strict=True))
        return (y, dx, *self.judged(problem, state))

    def function(self, problem: Problem, operations: Operations) -> Function:
        """The forward pass in these operations, as a function of all tensors by name."""
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

        Few tokens go to an expert, and a row of its gradients may rest on one whose own factors
        cancel: 17 epsilons were measured with 10 tokens, no more than elsewhere with 128.

        An update moves a weight by about 2^-12 of it, of experts less, and is held to that share.
        Norm weights of one are sqrt(inputs) times larger than those of a matrix, and so is their
        rounding.
        """
        epsilon, fp32 = dtypes.epsilon(problem.dtype), dtypes.epsilon("fp32")
        shapes = self.weights(problem)
        tokens, inputs = num_tokens(problem), max(shape[-1] for shape in shapes.values())
        error = epsilon + fp32 * max(tokens, problem["S"], inputs) ** 0.5
        error *= self.error_growth

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
        first_moments: list[Tolerance] = []
        for name in shapes:
            row = 8.0
            if name in EXPERT_WEIGHTS:
                row *= (1 + 128 * problem["E"] / (tokens * problem["K"])) ** 0.5
            num_pieces = len(pieces[name]) if name in pieces else 1
            first_moments += num_pieces * [bounds(4, 64, row, "fp32")]
        # A gradient enters by 0.05 of its square, of which the largest is far from typical.
        second_moment = bounds(1, 128, 1, "fp32")

        def updated(dtype: str, rounding: float) -> Tolerance:
            moved = 4 * error * 2.0**-10 * self._mean_gradient(problem)
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
            *first_moments,
            updated("fp32", 4 * fp32),
            second_moment,
            updated(problem.dtype, epsilon + 4 * fp32),
        )


def _problem(op: str, **axes: int) -> Problem:
    return problem(op, "fp32", **axes)


def gradients_of(
    block: Block, case: Problem, function: Function, inputs: Inputs
) -> Callable[[], tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
    """The forward and backward pass: (y, dx, the gradient of each weight) when called."""
    weights = block.views(case, inputs["weight"])
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    x, dy = inputs["x"].detach().requires_grad_(), inputs["dy"]
    tables = {name: inputs[name] for name in FP32_INPUTS if name in inputs}
    tensors = {"x": x, **tables, **leaves}

    def run() -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        with torch.enable_grad():
            y = function(tensors)[0]
        dx, *gradients = torch.autograd.grad(y, (x, *leaves.values()), dy)
        return y.detach(), dx, tuple(gradients)

    return run

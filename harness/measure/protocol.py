"""The protocol hash: equal hashes mean that two results did equal work under equal rules."""

import hashlib
import inspect

from harness.codec import to_json
from harness.measure.policy import MeasurePolicy
from kernels.op import Op, Problem


def protocol_hash(op: Op, problem: Problem, policy: MeasurePolicy, timer: str) -> str:
    """Twelve hexadecimal digits over everything that defines the work and the rules.

    Op definition (the source of its inputs, reference and cost), sizes, type, seed, tolerance,
    cache, stop rule and timer class. The implementation, the chip and the time a case may take
    before it is stopped are not part of it: those may differ between comparable results.
    """
    rules = {
        "cache": policy.cache,
        "relative_half_width": policy.relative_half_width,
        "min_samples": policy.min_samples,
        "warmup": [policy.warmup_window, policy.warmup_tolerance],
        "seed": policy.seed,
    }
    parts = [
        problem.id,
        op.formula,
        *(inspect.getsource(part) for part in (op.make_inputs, op.reference, op.cost)),
        to_json(op.tolerance(problem)),
        to_json(rules),
        timer,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

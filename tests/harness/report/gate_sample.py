"""A gate's result as the gate makes one, for the tests of what shows it."""

import random

from harness.gate_result import (
    Arm,
    CommonShift,
    Exemption,
    GateCase,
    GateResult,
    Stage,
    State,
)
from harness.projection import Interval

OPS = ("attention", "gemm", "rms_norm", "swiglu")
MATRIX_CLOCK_HZ = 1.98e9


def stage(base_s: float, ratio: float, *, rounds: int = 5, seed: int = 0) -> Stage:
    draw = random.Random(seed)
    base = tuple(base_s * (1 + draw.gauss(0, 0.004)) for _ in range(rounds))
    head = tuple(value * ratio * (1 + draw.gauss(0, 0.004)) for value in base)
    change = ratio - 1
    return Stage(
        base_s=base,
        head_s=head,
        change=Interval(value=change, low=change - 0.011, high=change + 0.013),
    )


def case(place: int, state: State, *, change: float | None = None, **values: object) -> GateCase:
    op = OPS[place % len(OPS)]
    size = 1024 * (1 + place // len(OPS))
    shape = f"M={size} N=4096 K=4096"
    base_s = 12.34e-6 * (1 + place % 7)
    has_both = state not in (State.MISSING, State.NEW, State.INVALID)
    ratio = 1 + (change or 0.0)
    filled: dict[str, object] = {
        "case_id": f"{op}.bf16.forward.{size}.{place}/triton",
        "op": op,
        "impl": "triton",
        "dtype": "bf16",
        "mode": "forward",
        "shape": shape,
        "state": state,
        "reason": "",
        "tolerance": 0.03,
        "tolerance_basis": "the default",
        "base_s": None if state is State.NEW else base_s,
        "head_s": None if state in (State.MISSING, State.INVALID) else base_s * ratio,
        "base_clock_hz": MATRIX_CLOCK_HZ if has_both else None,
        "head_clock_hz": MATRIX_CLOCK_HZ - 1.5e7 if has_both else None,
        "reproduce": f"chipscale gate base=main 'cases=[{op}.bf16.forward.{size}.{place}/triton]'",
    }
    if has_both:
        is_flagged = state in (State.REGRESSED, State.IMPROVED, State.INCONCLUSIVE)
        filled["screen"] = stage(base_s, ratio, seed=place)
        filled["confirm"] = stage(base_s, ratio, seed=place + 1) if is_flagged else None
        change = change or 0.0
        width = 0.05 if state is State.INCONCLUSIVE else 0.009
        filled["change"] = Interval(value=change, low=change - width, high=change + width)
    return GateCase(**(filled | values))  # type: ignore[arg-type]


def flagged_cases() -> tuple[GateCase, ...]:
    """One of each state, as different as they come."""
    return (
        case(
            0,
            State.REGRESSED,
            change=0.112,
            reason="Slower by 11.2 % in the screen and by 11.3 % in fresh rounds.",
            tolerance_basis="the user",
        ),
        case(
            1,
            State.REGRESSED,
            change=0.052,
            reason="Slower by 5.2 %, and again.",
            tolerance=0.05,
            tolerance_basis="shorter than 20 us",
        ),
        case(
            2,
            State.REGRESSED,
            change=0.06,
            reason="Slower by 6.0 %, and again.",
            exemption=Exemption(
                case_id="rms_norm.*",
                limit=0.08,
                reason="the new epilogue; see #12",
                until="2026-12-31",
                author="ada",
            ),
        ),
        case(3, State.INVALID, reason="head: incorrect | error of y is 0.2 <and> the bound 0.01"),
        case(4, State.MISSING, reason="The head has no such case."),
        case(5, State.INCONCLUSIVE, change=0.02, reason="The interval is wider than 6 %."),
        case(
            6,
            State.NOISY,
            change=0.04,
            tolerance=0.14,
            tolerance_basis="the machine's own A/A floor",
            reason="Base differs from base by 14 % here.",
        ),
        case(7, State.IMPROVED, change=-0.071, reason="Faster by 7.1 %, and again."),
        case(8, State.NEW, reason="The base has no such case."),
    )


def result(cases: tuple[GateCase, ...] | None = None, **values: object) -> GateResult:
    if cases is None:
        same = tuple(case(place, State.UNCHANGED, change=0.002) for place in range(9, 20))
        cases = flagged_cases() + same
    filled: dict[str, object] = {
        "gate_id": "20260102-030405-quick-h200-abcde",
        "suite": "quick",
        "model": "llama3_8b",
        "chip": "h200",
        "fingerprint": "0123456789ab",
        "base": Arm(label="origin/main", commit="0123456789abcdef", branch="main"),
        "head": Arm(label="working tree", commit="fedcba9876543210-dirty", branch="faster"),
        "cases": cases,
        "num_rounds": 5,
        "num_confirm_rounds": 5,
        "is_interleaved": True,
        "is_advisory": False,
        "expected_false_alarms": 0.0042,
        "warnings": ("The clocks are not locked.",),
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": "2026-01-02T03:14:35+00:00",
        "command": "chipscale gate base=origin/main suite=quick",
        "ui_links": (
            ("base", "http://127.0.0.1:5177/#/experiments/1/runs/a?workflowType=machine_learning"),
            ("head", "http://127.0.0.1:5177/#/experiments/1/runs/b?workflowType=machine_learning"),
        ),
    }
    return GateResult(**(filled | values))  # type: ignore[arg-type]


def shifted() -> GateResult:
    """The whole suite moved, and nobody has confirmed it yet."""
    cases = tuple(case(place, State.REGRESSED, change=0.04) for place in range(12))
    shift = CommonShift(share=1.0, shift=0.04, is_confirmed=False)
    return result(
        cases,
        common_shift=shift,
        is_advisory=True,
        environment_changes=("The driver differs: 550.54 and 560.28.",),
    )


def large(num_cases: int, reason: str = "Slower, and again.") -> GateResult:
    """As many regressions as there are cases."""
    return result(
        tuple(case(place, State.REGRESSED, change=0.1, reason=reason) for place in range(num_cases))
    )

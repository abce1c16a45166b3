"""How a run was measured: timer, launch and cache of its samples, and what was proven of them."""

from collections import Counter
from collections.abc import Iterable, Sequence

from harness.judgement import judge
from harness.proof import Proof
from harness.record import Measurement, Record
from harness.units import capacity, duration

TITLE = "How it was measured"
NOTE = (
    "What the samples hold besides the work, found out before the first case with nothing and with "
    "work of known length. Nothing is subtracted from a sample."
)
COLUMNS = ("what", "found", "what to do")


def method_facts(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Names and values of what the records say of their samples."""
    timed = [record.measurement for record in records if record.measurement is not None]
    if not timed:
        return ()
    facts = (
        ("timer", _counts(one.timer for one in timed)),
        ("its steps", _counts(duration(one.timer_resolution_s) for one in timed)),
        ("launch", _counts(one.launch for one in timed if one.launch)),
        ("cache", _counts(_cache(one) for one in timed)),
        ("sets of inputs", _counts(str(one.num_input_sets) for one in timed)),
    )
    return tuple((name, value) for name, value in facts if value)


def proof_rows(proof: Proof) -> tuple[tuple[str, str, str], ...]:
    """A row for each thing proven: what, what was found, and what to do where it is bad."""
    return tuple(
        (one.what, one.found, f"{one.warning} {one.advice}".strip() if one.warning else "")
        for one in judge(proof)
    )


def _cache(measurement: Measurement) -> str:
    if not measurement.flush_bytes:
        return measurement.cache
    return f"{measurement.cache}, {capacity(measurement.flush_bytes)} written before each sample"


def _counts(values: Iterable[str]) -> str:
    """`held (40 cases), direct (2 cases)`, or the value alone where all have the same."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} cases)" for value, count in counts.most_common())

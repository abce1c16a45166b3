"""`docs/ops.md`: every op with its formula, cost, kernels and, where measured, its speed.

python -m harness.report.ops_page docs/ops.md
"""

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.record import Record, Status
from harness.store.folder import run_folders
from harness.units import KIBI
from kernels import registry
from kernels.resources import Resources, read_table

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "nvidia-h200"
KERNELS = ROOT / "results" / "kernel-resources.csv"

HEAD = """\
# Ops

Made by `make docs` from the op files in `kernels/`; the tests hold it to them. Every op has a
`torch` (eager), a `compile` (torch.compile) and a `triton` implementation. Shape letters and how
work is counted: [conventions.md](conventions.md).

Kernels are compiled without a GPU for sm_80, sm_89, sm_90, sm_100, sm_120, gfx942 and gfx950, in
every launch configuration that may be chosen; registers are the most that a thread of any of them
takes, `results/kernel-resources.csv` has each. The last column is the time of the fastest other
implementation over that of `triton` on an NVIDIA H200, the median over the measured sizes with the
lowest and the highest: above 1, `triton` is faster.

"""


def render(kernels: Sequence[Resources], records: Iterable[Record]) -> str:
    """The page, from the table of kernels and the reference records."""
    ratios = ratios_by_op(records)
    lines = [
        "| op | types | modes | variants | kernels x targets | registers | spills | "
        "shared memory | H200 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in registry.names():
        op = registry.outline(name)
        own = [one for one in kernels if one.op == name]
        cells = (
            f"[`{name}`](#{name})",
            " ".join(op.dtypes),
            " ".join(op.modes),
            " ".join(op.variants) or "-",
            *_kernel_cells(own, is_block=op.is_block),
            _ratio_cell(ratios.get(name, ())),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for name in registry.names():
        op = registry.outline(name)
        lines += [
            "",
            f"## {name}",
            "",
            f"    {op.formula}",
            "",
            f"Axes {', '.join(f'`{axis}`' for axis in op.axes)}. {op.counted}",
            "",
            f"Source: {op.source}.",
        ]
    return HEAD + "\n".join(lines) + "\n"


def _kernel_cells(kernels: Sequence[Resources], *, is_block: bool) -> tuple[str, ...]:
    if is_block:
        return ("composed of other ops", "-", "-", "-")
    if not kernels:
        return ("none", "-", "-", "-")
    names = {(one.kernel, one.num_warps, one.num_stages) for one in kernels}
    targets = {one.target for one in kernels}
    return (
        f"{len(names)} x {len(targets)}",
        str(max(one.registers_per_thread for one in kernels)),
        "none" if not any(one.spilled_bytes_per_thread for one in kernels) else "yes",
        f"{max(one.shared_bytes for one in kernels) / KIBI:.0f} KiB",
    )


def _ratio_cell(ratios: Sequence[float]) -> str:
    if not ratios:
        return "not measured"
    middle = statistics.median(ratios)
    return f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} sizes)"


def ratios_by_op(records: Iterable[Record]) -> Mapping[str, Sequence[float]]:
    """Time of the fastest other implementation over that of `triton`, for each problem of an op."""
    times: dict[tuple[str, str], dict[str, float]] = {}
    for record in records:
        is_usual = not (record.case.forced or record.case.cache)
        if record.status is Status.OK and record.measurement is not None and is_usual:
            of_problem = times.setdefault((record.case.problem.op, record.case.problem.id), {})
            of_problem[record.case.impl] = statistics.median(record.measurement.steady_samples_s)
    found: dict[str, list[float]] = {}
    for (op, _), by_impl in times.items():
        others = [seconds for impl, seconds in by_impl.items() if impl != "triton"]
        if "triton" in by_impl and others:
            found.setdefault(op, []).append(min(others) / by_impl["triton"])
    return found


def current() -> str:
    """The page as it has to be now."""
    records = (record for folder in run_folders(REFERENCE) for record in folder.records())
    return render(read_table(KERNELS), records)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(current(), encoding="utf-8")

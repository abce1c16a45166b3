"""A comparison as people read it: terminal, Markdown, table for a spreadsheet, page."""

import csv
import io
import re
from dataclasses import replace
from functools import lru_cache

import pytest
from expecttest import assert_expected_inline
from rich.console import Console

from harness.compare import TOLERANCE, compare_runs
from harness.comparison import ChipComparison, ProjectedRun
from harness.projection import Interval
from harness.report import comparison_csv, comparison_markdown, comparison_page
from harness.report.comparison_table import comparison_view
from tests.harness.compare.chips import Chip, chip_input
from tests.harness.sample_run import sample_projection

SUITE = ("suite=quick", "suite.ops=[gemm,swiglu,rope,adamw]")
ALPHA = Chip(joules_per_s=700.0)
BETA = Chip(
    name="beta",
    flops_per_s=180e12,
    bytes_per_s=1.5e12,
    launch_s=9e-6,
    efficiency={"torch": 0.6, "compile": 0.7, "triton": 0.74},
    lacking=("swiglu/triton", "rope"),
    joules_per_s=800.0,
)


def tokens(value: float) -> Interval:
    return Interval(value=value, low=0.8 * value, high=1.1 * value)


PROJECTED = (
    ProjectedRun(
        label="A",
        model="llama3_8b",
        cluster="this_100k",
        num_chips=100_000,
        plan="TP8 PP4 DP3125",
        held_back_by="pipeline bubble",
        tokens_per_second=tokens(200e6),
        mfu=0.41,
        useful_tokens_per_second=tokens(170e6),
        site_w=95.6e6,
        joules_per_token=0.48,
        currency="USD",
        cost_per_million_tokens=0.21,
        ratio=Interval(value=1.0, low=1.0, high=1.0),
        has_common_draws=True,
        measured_share=0.62,
    ),
    ProjectedRun(label="B", reason="no projection is kept with it"),
)


@lru_cache(maxsize=1)
def compared() -> ChipComparison:
    first, second = (
        chip_input(chip, *SUITE, projection=sample_projection()) for chip in (ALPHA, BETA)
    )
    second = replace(second, warnings=("2 of 36 cases are noisy.",))
    return compare_runs(
        [first, second],
        comparison_id="alpha-vs-beta-1",
        tolerance=TOLERANCE,
        projections=PROJECTED,
        created_at="2026-01-02T03:04:05+00:00",
        command="chipscale compare chip=alpha chip=beta",
    )


def shown(comparison: ChipComparison, has_cases: bool = False, width: int = 80) -> str:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(comparison_view(comparison, has_cases))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_the_terminal_says_the_verdict_first_within_80_columns() -> None:
    text = shown(compared())
    assert max(map(len, text.splitlines())) <= 80
    assert_expected_inline(
        text,
        """\
B (beta) is 1.34 times as fast as A (alpha) (1.33 to 1.34): geometric mean of 22
problems, each by its fastest implementation; op groups: 7 faster, 3 slower.
Training step of llama3_8b, one chip of 8, 1 sequence of 512 tokens: 101 ms on
A, 70.5 ms on B (-30 % time), 16 pieces of its work left out. Most of it: matrix
rate -14.3 ms (mlp gate up -2.39 ms ...); bandwidth -8.59 ms (optimizer -8.43 ms
...); communication -6.40 ms (exposed tensor-parallel communication -4.10 ms
...).

A: alpha, quick, 20260102T030405-quick-llama3_8b-alpha
B: beta, quick, 20260102T030405-quick-llama3_8b-beta
B: 2 of 36 cases are noisy.

B over A                n speedup  95 % interval      of roof verdict
training               18  1.38 x   1.38 to 1.38   90 -> 77 % faster
 swiglu.bf16.forward    1 0.834 x 0.832 to 0.837   58 -> 35 % slower
   A triton, B compile
 swiglu.bf16.backward   1 0.928 x 0.926 to 0.931   70 -> 47 % slower
   A triton, B compile
 adamw.bf16.forward     1  1.38 x   1.37 to 1.38 100 -> 100 % faster
 gemm.bf16.forward      5  1.47 x   1.47 to 1.47   93 -> 83 % faster
 gemm.bf16.dgrad        5  1.47 x   1.47 to 1.47   93 -> 83 % faster
 gemm.bf16.wgrad        5  1.47 x   1.47 to 1.47   93 -> 83 % faster
roof
 empty.fp32.forward     1 0.556 x 0.554 to 0.557              slower
 copy.bf16.forward      1  1.36 x   1.35 to 1.36   99 -> 97 % faster
 adamw.bf16.forward     1  1.38 x   1.37 to 1.38 100 -> 100 % faster
 gemm.bf16.forward      1  1.66 x   1.65 to 1.66 100 -> 100 % faster

Training step of llama3_8b, one chip of 8, 1 sequence of 512 tokens
A                          101 ms           ######################
matrix rate              -14.3 ms     -14 %                    ###
bandwidth                -8.59 ms    -8.5 %                  ##
efficiency, memory-bound -7.88 us -0.0078 %                  |
launch                   +1.75 ms    +1.7 %                  |
missing kernels          +31.1 us  +0.031 %                  |
no time on one side       -122 us   -0.12 %                  |
communication            -6.40 ms    -6.3 %                 #
bubble, jitter and host  -3.07 ms    -3.0 %                #
B                         70.5 ms     -30 % ###############
Its measured ops together: B 1.44 x as fast (1.43 to 1.44, 95 % interval).
Communication, bubble and jitter are those of the projections on imaginary_100k,
for each second of compute: A 21.1 ms and B 14.7 ms of communication.
0.459 % of B's step is estimated from its roofs, since it has no time of some
ops; that difference is a bar of its own.
Not in it: embedding (embedding.bf16.forward[T=512,V=16032,H=4096]): no time on
either chip; embedding (embedding.bf16.backward[T=512,V=16032,H=4096]): no time
on either chip; attention norm (rms_norm.bf16.forward[T=64,H=4096]): no time on
either chip; and 13 more.
Energy of its measured ops: 48.7 J on A, 38.8 J on B (0.796 x).

B (beta) has no time for 2 cases, 2 of them with no other implementation:
unsupported (No torch here), as rope.bf16.forward[T=512,H=5,D=128]/torch.
B (beta) has no time for 2 cases, 2 of them with no other implementation:
unsupported (No compile here), as rope.bf16.forward[T=512,H=5,D=128]/compile.
B (beta) has no time for 4 cases, 2 of them with no other implementation:
unsupported (No triton here), as rope.bf16.forward[T=512,H=5,D=128]/triton.

Projected: llama3_8b on 100,000 chips
                       A (alpha)
tokens/s (P10 to P90)  200 M (160 M to 220 M)
against A              1
MFU                    41.0 %
useful tokens/s        170 M
MW at the site         95.6
J per token            0.480
cost of 1M tokens      USD 0.210
A (alpha): TP8 PP4 DP3125, held back by pipeline bubble; 62.0 % of the compute
time is measured.
B (beta): no projection is kept with it.""",
    )


def test_markdown_says_the_verdict_first() -> None:
    assert_expected_inline(
        comparison_markdown.render(compared()),
        """\
**B (beta) is 1.34 times as fast as A (alpha) (1.33 to 1.34): geometric mean of 22 problems, each by its fastest implementation; op groups: 7 faster, 3 slower.**

Training step of llama3_8b, one chip of 8, 1 sequence of 512 tokens: 101 ms on A, 70.5 ms on B (-30 % time), 16 pieces of its work left out. Most of it: matrix rate -14.3 ms (mlp gate up -2.39 ms ...); bandwidth -8.59 ms (optimizer -8.43 ms ...); communication -6.40 ms (exposed tensor-parallel communication -4.10 ms ...).

|  | chip | suite | run | host | measured |
| --- | --- | --- | --- | --- | --- |
| A | alpha | quick of llama3_8b | 20260102T030405-quick-llama3_8b-alpha | node-7 | 70 of 70 cases |
| B | beta | quick of llama3_8b | 20260102T030405-quick-llama3_8b-beta | node-7 | 62 of 70 cases |

- B: 2 of 36 cases are noisy.

## B (beta) against A (alpha)

| phase | problems | speedup | 95 % interval | of roof | joules | verdict |
| --- | --- | --- | --- | --- | --- | --- |
| all | 22 | 1.34 x | 1.33 to 1.34 | 91.0 -> 79.9 % | 0.856 x | faster |
| training | 18 | 1.38 x | 1.38 to 1.38 | 89.6 -> 77.1 % | 0.827 x | faster |

### Training step of llama3_8b, one chip of 8, 1 sequence of 512 tokens

| cause | difference | of A's step | most of it |
| --- | --- | --- | --- |
| matrix rate | -14.3 ms | -14 % | mlp gate up -2.39 ms, mlp gate up dgrad -2.39 ms |
| bandwidth | -8.59 ms | -8.5 % | optimizer -8.43 ms, mlp activation backward -103 us |
| efficiency, memory-bound | -7.88 us | -0.0078 % | mlp activation backward -4.93 us, mlp activation -2.96 us |
| launch | +1.75 ms | +1.7 % | mlp activation backward +130 us, mlp activation +129 us |
| missing kernels | +31.1 us | +0.031 % | mlp activation backward +19.4 us, mlp activation +11.6 us |
| no time on one side | -122 us | -0.12 % | rope -61.2 us, rope backward -61.2 us |
| communication | -6.40 ms | -6.3 % | exposed tensor-parallel communication -4.10 ms, exposed data-parallel communication -2.30 ms |
| bubble, jitter and host | -3.07 ms | -3.0 % | pipeline bubble -3.07 ms |
| together | -30.7 ms | -30 % |  |

- Its measured ops together: B 1.44 x as fast (1.43 to 1.44, 95 % interval).
- Communication, bubble and jitter are those of the projections on imaginary_100k, for each second of compute: A 21.1 ms and B 14.7 ms of communication.
- 0.459 % of B's step is estimated from its roofs, since it has no time of some ops; that difference is a bar of its own.
- Not in it: embedding (embedding.bf16.forward[T=512,V=16032,H=4096]): no time on either chip; embedding (embedding.bf16.backward[T=512,V=16032,H=4096]): no time on either chip; attention norm (rms_norm.bf16.forward[T=64,H=4096]): no time on either chip; and 13 more.
- Energy of its measured ops: 48.7 J on A, 38.8 J on B (0.796 x).

### Op groups

| phase | op group | sizes | speedup | 95 % interval | of roof | joules | fastest | verdict |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| training | swiglu.bf16.forward | 1 | 0.834 x | 0.832 to 0.837 | 58.2 -> 35.2 % | 1.37 x | triton -> compile | slower |
| training | swiglu.bf16.backward | 1 | 0.928 x | 0.926 to 0.931 | 69.9 -> 47.1 % | 1.23 x | triton -> compile | slower |
| training | adamw.bf16.forward | 1 | 1.38 x | 1.37 to 1.38 | 99.9 -> 99.8 % | 0.830 x | triton | faster |
| training | gemm.bf16.forward | 5 | 1.47 x | 1.47 to 1.47 | 93.1 -> 82.5 % | 0.779 x | triton | faster |
| training | gemm.bf16.dgrad | 5 | 1.47 x | 1.47 to 1.47 | 93.1 -> 82.5 % | 0.779 x | triton | faster |
| training | gemm.bf16.wgrad | 5 | 1.47 x | 1.47 to 1.47 | 93.1 -> 82.5 % | 0.779 x | triton | faster |
| roof | empty.fp32.forward | 1 | 0.556 x | 0.554 to 0.557 |  | 2.06 x | torch | slower |
| roof | copy.bf16.forward | 1 | 1.36 x | 1.35 to 1.36 | 99.0 -> 97.4 % | 0.842 x | triton | faster |
| roof | adamw.bf16.forward | 1 | 1.38 x | 1.37 to 1.38 | 100 -> 100 % | 0.829 x | triton | faster |
| roof | gemm.bf16.forward | 1 | 1.66 x | 1.65 to 1.66 | 100 -> 100 % | 0.690 x | triton | faster |

- B (beta) has no time for 2 cases, 2 of them with no other implementation: unsupported (No torch here), as rope.bf16.forward[T=512,H=5,D=128]/torch.
- B (beta) has no time for 2 cases, 2 of them with no other implementation: unsupported (No compile here), as rope.bf16.forward[T=512,H=5,D=128]/compile.
- B (beta) has no time for 4 cases, 2 of them with no other implementation: unsupported (No triton here), as rope.bf16.forward[T=512,H=5,D=128]/triton.

## Projected: llama3_8b on 100,000 chips

| run | tokens/s (P10 to P90) | against A | MFU | useful tokens/s | MW | J/token | per M tokens |
| --- | --- | --- | --- | --- | --- | --- | --- |
| A (alpha) | 200 M (160 M to 220 M) | 1 | 41.0 % | 170 M | 95.6 | 0.480 | USD 0.210 |

- A (alpha): TP8 PP4 DP3125, held back by pipeline bubble; 62.0 % of the compute time is measured.
- B (beta): no projection is kept with it.
""",  # noqa: E501
    )


def test_the_lines_for_a_spreadsheet_hold_means_groups_cases_and_bars() -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv.render(compared()))))
    kinds = {row["row"] for row in rows}
    assert kinds == {"mean", "group", "case", "step", "bar"}
    assert all(None not in row and None not in row.values() for row in rows)
    (waterfall,) = compared().pairs[0].waterfalls
    bars = [float(row["run_s"]) for row in rows if row["row"] == "bar"]
    (step,) = (row for row in rows if row["row"] == "step")
    times = [float(step[key]) for key in ("reference_s", "run_s")]
    assert times == pytest.approx([waterfall.first_s, waterfall.second_s])
    assert times[0] + sum(bars) == pytest.approx(times[1])


def test_every_case_is_shown_where_that_is_asked_for() -> None:
    few, all_of_them = shown(compared()), shown(compared(), has_cases=True, width=160)
    assert "adamw.bf16.forward N=33554432/torch" not in few
    assert "adamw.bf16.forward N=33554432/torch" in all_of_them


def test_the_page_has_every_section_and_loads_nothing() -> None:
    page = comparison_page.render(compared())
    for name in ("waterfall-B", "groups-B", "cases-B", "missing-B", "projected", "runs"):
        assert f'<section id="{name}"' in page
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', without_scripts)
    assert "B: 2 of 36 cases are noisy." in page


def test_names_from_a_run_cannot_become_markup() -> None:
    run = replace(compared().runs[1], chip="<b>x</b>", warnings=("<script>",))
    page = comparison_page.render(replace(compared(), runs=(compared().runs[0], run)))
    assert "<b>x</b>" not in page
    assert "B: &lt;script&gt;" in page


def test_sections_can_stand_in_another_page() -> None:
    found = comparison_page.sections(compared())
    assert [one.name for one in found][:2] == ["waterfall-B", "groups-B"]
    assert all(one.html.startswith(f'<section id="{one.name}"') for one in found)

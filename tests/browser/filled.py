"""Results to browse: runs of two fake chips, their projections, and one of serving.

Real runs of the command line; only the chips are made up, and named so.
"""

from pathlib import Path

from harness.cli.main import main
from harness.run import RUNS
from harness.store.folder import RunFolder, run_folders
from harness.store.mlflow import TrackingTarget, sync, tracking_target

SIZES = (64, 128, 256, 512)
SWEPT = {"gemm": "M: {}, N: 1024, K: 1024", "swiglu": "T: {}, F: 1024"}
CHIPS = {"fake_alpha": (), "fake_beta": ("device.fake.spread=0.4", "device.fake.seed=1")}
"""The overrides that make each chip; the second one is a tenth slower."""
SYNC_S = 240.0
_SHEET = """\
name: {name}
title: {title}
vendor: {vendor}
torch_device_type: fake
match: [chipscale fake chip]
peak_tflops: {{bf16: 110}}
memory_gib: 64
memory_bandwidth_gb_per_s: 1100
l2_mib: 64
power_w: 400
source: made up
evidence: made up
"""


def _config_dir(folder: Path, chip: str) -> Path:
    """A folder of one's own with the data sheet that names the fake chip."""
    path = folder / chip / "chip" / f"{chip}.yaml"
    path.parent.mkdir(parents=True)
    title = chip.replace("_", " ").capitalize()
    path.write_text(_SHEET.format(name=chip, title=title, vendor="Made up"), encoding="utf-8")
    return path.parents[1]


def _run(results: Path, config_dir: Path, *overrides: str) -> None:
    problems = ", ".join(
        f"{{op: {op}, mode: forward, axes: {{{axes.format(size)}}}}}"
        for op, axes in SWEPT.items()
        for size in SIZES
    )
    code = main(
        [
            "run",
            "device=fake",
            "suite=quick",
            "suite.ops=[rms_norm,gemm,swiglu]",
            "suite.sequence_length=128",
            f"suite.problems=[{problems}]",
            "impls=[torch,triton]",
            "tracking.enabled=false",
            f"--config-dir={config_dir}",
            f"results_dir={results}",
            *overrides,
        ]
    )
    assert code == 0


def fill(results: Path) -> TrackingTarget:
    """Measure, project and log: three runs of two chips, two projections, one of serving."""
    folders = {chip: _config_dir(results / "chips", chip) for chip in CHIPS}
    for chip, overrides in CHIPS.items():
        _run(results, folders[chip], *overrides)
    _run(results, folders["fake_alpha"], "device.fake.seed=3", "projection=false")
    served = ["serve", "model=llama3_8b", "cluster=h100_100k", f"results_dir={results}"]
    assert main([*served, "tracking.enabled=false"]) == 0
    target = tracking_target(results, {})
    projections = [RunFolder(path) for path in sorted((results / "projections").iterdir())]
    vendors = dict.fromkeys(CHIPS, "Made up")
    done = sync(
        [*run_folders(results / RUNS), *projections], target, budget_s=SYNC_S, vendors=vendors
    )
    assert all(result.is_done for result in done), [result.message for result in done]
    return target

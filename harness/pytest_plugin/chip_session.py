"""What a session of pytest has of ours: its options, its device, its baseline and its verdicts."""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.config.build import run_request
from harness.config.compose import compose
from harness.config.gate_request import FLOORS
from harness.config.specs import match_chip
from harness.config.tuning import load_tables
from harness.device.request import DeviceRequest
from harness.fingerprint import fingerprint
from harness.gate.floors import Floors, FloorsFile, choose, read_floors
from harness.measure.policy import MeasurePolicy
from harness.pytest_plugin.baseline import Baseline, read_baseline
from harness.pytest_plugin.engine import Engine
from harness.pytest_plugin.verdict import Verdict
from harness.record import Record
from harness.roof_source import roofs_of_device
from harness.roofline import Roofline, data_sheet_roofline
from harness.run import RUNS
from harness.store.folder import run_folders
from kernels import tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    device: str
    overrides: tuple[str, ...]
    """Of the configuration of `chipscale run`, as `measure=careful`."""
    baseline: str
    tolerance: float
    rounds: int
    """Fresh processes that confirm what looks slow."""
    results_dir: Path
    """Where runs are looked up."""
    fresh_file: Path | None
    """This process is such a one, and leaves its median here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What makes two times comparable, beside the chip."""

    case_id: str
    """Empty for a function."""
    protocol_hash: str


@dataclass(slots=True)
class ChipSession:
    """Filled while the tests run."""

    options: Options
    baseline: Baseline | None
    kept_floors: FloorsFile
    """Of all machines that were calibrated."""
    is_check: bool = False
    """Benchmarks are disabled: tests are run and checked, and nothing is timed."""
    records: dict[str, Record] = field(default_factory=dict)
    """Of the cases that tests measured, by the test's name."""
    identities: dict[str, Identity] = field(default_factory=dict)
    """What every timed test measured, by its name."""
    verdicts: list[Verdict] = field(default_factory=list)
    notices: dict[str, None] = field(default_factory=dict)
    """Sentences a reader of the times should know, in order, each once."""
    opened: Engine | None = None
    known_roofs: Roofline | None = None

    def tell(self, sentence: str) -> None:
        """Keep it for the summary."""
        self.notices[sentence] = None

    @property
    def engine(self) -> Engine:
        """The device, opened when it is first asked for.

        Raises:
            ConfigError: for a wrong override, or a device that is not there.
        """
        if self.opened is None:
            device, policy = asked(self.options.device, self.options.overrides)
            self.opened = Engine(
                device,
                policy,
                is_check=self.is_check,
                is_proven=self.options.fresh_file is None,
                on_notice=self.tell,
            )
            tuning.use(tuning.table_of(self.opened.device.info.name, load_tables()))
        return self.opened

    @property
    def roofs(self) -> Roofline:
        """What results are held against, found once.

        The measured roofs of this device where a run has searched for them, else the rates of its
        data sheet, else nothing.
        """
        if self.known_roofs is None:
            environment, policy = self.engine.environment, self.engine.policy
            chip = match_chip(environment.device.name)
            sheet = None if chip is None else data_sheet_roofline(chip)
            others = run_folders(self.options.results_dir / RUNS)
            found = roofs_of_device(environment, policy, others, sheet)
            is_measured = bool(found.flops_per_s or found.bytes_per_s)
            if not is_measured and sheet is not None:
                found = replace(sheet, sheet=sheet)
            self.known_roofs = found
        return self.known_roofs

    @property
    def floors(self) -> Floors | None:
        """How far this machine differs from itself, where `chipscale gate calibrate` kept it."""
        found, _ = choose(
            self.kept_floors, fingerprint(self.engine.environment), self.options.rounds
        )
        return found


@functools.cache
def asked(device: str, overrides: tuple[str, ...]) -> tuple[DeviceRequest, MeasurePolicy]:
    """Device and rules as `chipscale run` would take them from the same words.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    request = run_request(compose("run", [f"device={device}", *overrides]))
    return request.device, request.policy


def open_session(options: Options) -> ChipSession:
    """A session with its baseline read, before anything is measured.

    Raises:
        RecordError: when there is no such baseline, or it or the floors cannot be read.
    """
    baseline = read_baseline(options.baseline, options.results_dir) if options.baseline else None
    floors = read_floors(options.results_dir / FLOORS) if options.baseline else FloorsFile()
    return ChipSession(options=options, baseline=baseline, kept_floors=floors)

"""With which block sizes, warps and stages a kernel is launched, and where that choice came from.

An op file gives a heuristic and the configurations that are worth trying (`TUNABLES`). What a tuner
found best for a chip comes in as a `TuningTable`; sizes near a tuned one take its configuration,
others the heuristic's. Which it was can be asked afterwards, so that a record can say so.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Records name these choices, and reading one must not cost the seconds that torch takes.
    import torch

NEAR_FACTOR = 2.0
"""A tuned size counts for sizes within this factor of it in every axis. Twice as many tiles of one
kind fill a chip about as well; what is farther away has been seen by nobody."""


@dataclass(frozen=True, slots=True)
class Config:
    """One way to launch a kernel."""

    blocks: tuple[tuple[str, int], ...]
    """The constexpr arguments that are searched, by name."""
    num_warps: int
    num_stages: int

    def __getitem__(self, name: str) -> int:
        return dict(self.blocks)[name]

    @property
    def launch(self) -> dict[str, int]:
        """Keyword arguments of a launch."""
        return {**dict(self.blocks), "num_warps": self.num_warps, "num_stages": self.num_stages}

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.blocks)
        return f"{sizes} num_warps={self.num_warps} num_stages={self.num_stages}".lstrip()


def config(num_warps: int, num_stages: int, /, **blocks: int) -> Config:
    """A Config from keyword block sizes, in the order they are written."""
    return Config(tuple(blocks.items()), num_warps, num_stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunable:
    """A kernel whose configuration is worth a search."""

    kernel: str
    """`gemm`, or `attention.forward` where an op has several."""
    configs: Mapping[str, tuple[Config, ...]]
    """All that may be chosen, by family of devices as in `triton_support.AotKernel.families`;
    each of them is compiled ahead of time by the tests."""

    @property
    def families(self) -> dict[Config, tuple[str, ...]]:
        """Each configuration once, with the families in which it may be chosen."""
        return {
            one: tuple(name for name, others in self.configs.items() if one in others)
            for configs in self.configs.values()
            for one in configs
        }

    @property
    def first(self) -> frozenset[Config]:
        """The first configuration of each family."""
        return frozenset(configs[0] for configs in self.configs.values())


class Origin(StrEnum):
    """Where a configuration came from."""

    HEURISTIC = "heuristic"
    TUNED = "tuned"
    FORCED = "forced"
    """A tuner is trying it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a kernel was launched with, at which sizes."""

    kernel: str
    dtype: str
    """As torch writes it: `bfloat16`."""
    variant: str = ""
    """What else decides which program it is, as `causal`; empty where nothing does."""
    sizes: tuple[tuple[str, int], ...]
    config: Config
    origin: Origin

    def __str__(self) -> str:
        return f"{self.kernel} {self.config} ({self.origin})"


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningEntry:
    """The best configuration of a kernel at a size."""

    kernel: str
    dtype: str
    """As torch writes it: `bfloat16`."""
    variant: str = ""
    """As `Choice.variant`; another one takes nothing from this entry."""
    sizes: tuple[tuple[str, int], ...]
    config: Config
    evidence: str = ""
    """What it was better than, in words with the times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningTable:
    """What a tuner found on one chip."""

    chip: str = ""
    devices: tuple[str, ...] = ()
    """The names by which the chip's driver tells of it."""
    entries: tuple[TuningEntry, ...] = ()


def table_of(device_name: str, tables: Iterable[TuningTable]) -> TuningTable:
    """The table of the device whose driver tells that name, or an empty one."""
    wanted = device_name.strip().casefold()
    for table in tables:
        if wanted in (name.casefold() for name in table.devices):
            return table
    return TuningTable()


_Key = tuple[str, "torch.dtype", str, tuple[tuple[str, int], ...]]


class Launches:
    """The choices made while it watched, each kernel at each of its sizes once."""

    def __init__(self) -> None:
        self._choices: dict[_Key, Choice] = {}

    def add(self, key: _Key, choice: Choice) -> None:
        """Take one more into account; again the same costs a look into a table."""
        self._choices[key] = choice

    def __iter__(self) -> Iterator[Choice]:
        return iter(self._choices.values())

    def of(self, kernel: str) -> tuple[Choice, ...]:
        """Those of the kernel of that name."""
        return tuple(choice for choice in self if choice.kernel == kernel)


class _State:
    def __init__(self) -> None:
        self.table = TuningTable()
        self.forced: dict[str, Config] = {}
        self.known: dict[_Key, Choice] = {}
        self.launches = Launches()


_state = _State()


def use(table: TuningTable) -> None:
    """Choose by that table from now on."""
    _state.table = table
    _state.known.clear()


@contextmanager
def forced(configs: Mapping[str, Config]) -> Iterator[None]:
    """Launch these kernels with these configurations, whatever the table says."""
    before = _state.forced
    _state.forced = dict(configs)
    _state.known.clear()
    try:
        yield
    finally:
        _state.forced = before
        _state.known.clear()


@contextmanager
def observed() -> Iterator[Launches]:
    """The choices made inside."""
    before = _state.launches
    _state.launches = Launches()
    try:
        yield _state.launches
    finally:
        _state.launches = before


def choose(
    kernel: str, dtype: "torch.dtype", heuristic: Config, variant: str = "", /, **sizes: int
) -> Config:
    """The configuration to launch a kernel with, at sizes of those names.

    Forced by a tuner, else the table's nearest of the variant within `NEAR_FACTOR`, else the
    heuristic.
    """
    key = (kernel, dtype, variant, tuple(sizes.items()))
    choice = _state.known.get(key)
    # A heuristic may depend on more than the sizes, as on the device.
    if choice is None or (choice.origin is Origin.HEURISTIC and choice.config != heuristic):
        choice = _decide(kernel, dtype, heuristic, variant, sizes)
        _state.known[key] = choice
    _state.launches.add(key, choice)
    return choice.config


def _decide(
    kernel: str, dtype: "torch.dtype", heuristic: Config, variant: str, sizes: Mapping[str, int]
) -> Choice:
    name = str(dtype).removeprefix("torch.")

    def choice(config: Config, origin: Origin) -> Choice:
        return Choice(
            kernel=kernel,
            dtype=name,
            variant=variant,
            sizes=tuple(sizes.items()),
            config=config,
            origin=origin,
        )

    tried = _state.forced.get(kernel)
    if tried is not None:
        return choice(tried, Origin.FORCED)
    near = [
        (distance, index, entry.config)
        for index, entry in enumerate(_state.table.entries)
        if entry.kernel == kernel
        and (entry.dtype, entry.variant) == (name, variant)
        and (distance := _distance(dict(entry.sizes), sizes)) <= math.log2(NEAR_FACTOR)
    ]
    if near:
        return choice(min(near)[2], Origin.TUNED)
    return choice(heuristic, Origin.HEURISTIC)


def _distance(tuned: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Doublings between the two in the axis where they differ most."""
    if tuned.keys() != sizes.keys():
        return math.inf
    return max((abs(math.log2(tuned[name] / sizes[name])) for name in sizes), default=0.0)

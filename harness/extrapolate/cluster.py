"""ClusterSpec: how many chips, joined by which networks, how often they fail, what they draw.

Everything here is data of one YAML file per cluster. What a file leaves out is None, and what
follows from it is n/a, never guessed; `harness/config/` says which values have a default.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

HOURS_PER_YEAR = 8766.0
MIXED = "mixed"
"""What a cluster of islands has for its chip."""

ALGORITHMS = ("ring", "halving", "tree", "pat")
"""Algorithms over the members of a tier; what they take is in `algorithms.py` beside this file."""
DEFAULT_ALGORITHMS = ("ring", "tree", "pat")
"""Those of NCCL and RCCL, taken where a cluster's file does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTier:
    """One level of the network, from the scale-up domain outwards."""

    name: str
    topology: str
    """The name of a file in `harness/extrapolate/topology/`."""
    chips: int
    """Chips that this tier joins, those of the tiers below included."""
    bandwidth_bytes_per_s_per_chip: float
    """One direction, on the data sheet, when every chip of a domain below sends at once."""
    efficiency: float
    """Share of the bandwidth that large messages reach."""
    latency_s: float
    """One step of a collective between two chips that meet at this tier."""
    oversubscription: float = 1.0
    """Bandwidth below this tier's switches over the bandwidth through them."""
    dims: tuple[int, ...] = ()
    """Chips along each axis of a torus, the innermost first; empty elsewhere."""
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    """What the library of collectives chooses from at this tier, by name."""
    in_network_efficiency: float | None = None
    """Share of the rate that reductions inside the switches reach; None where they have none."""
    scattered_efficiency: float = 1.0
    """Share of the rate that flows to many chips at once reach.

    0.95 with adaptive routing or spraying, 0.75 to 0.85 where flows are hashed onto links.
    """
    half_size_bytes: float | None = None
    """Message of one step that reaches half the rate; None takes NCCL's protocols."""
    ports_per_chip: float = 1.0
    """Network ports over chips; below 1 chips share a port, and wait for each other's set-up."""
    source: str = ""

    @property
    def achieved_bytes_per_s_per_chip(self) -> float:
        """Bandwidth of large messages, before oversubscription."""
        return self.bandwidth_bytes_per_s_per_chip * self.efficiency


class Part(StrEnum):
    """What can fail and stop the job."""

    CHIP = "chip"
    MEMORY = "memory"
    PORT = "port"
    """A network card and its cable."""
    SWITCH = "switch"
    HOST = "host"
    """Processors, memory, disks, power supplies and maintenance of a host."""
    SOFTWARE = "software"
    ANY = "any"
    """All of them together, where only their sum is known."""


PARTS_OF_A_HOST = frozenset({Part.CHIP, Part.MEMORY, Part.PORT, Part.HOST, Part.ANY})
"""Parts whose failure sends a whole host to repair and calls for a spare one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """How often parts of one kind stop the job."""

    part: Part
    per_hour: float
    """Unexpected interruptions per hour of one such part."""
    chips_per_part: float = 1.0
    """Chips that share one: 8 of a host, 1 of a memory stack set."""
    source: str = ""

    @property
    def per_chip_hour(self) -> float:
        """The same for each chip that depends on it."""
        return self.per_hour / self.chips_per_part


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How often the job is stopped, and what brings it back."""

    failures: tuple[FailureRate, ...]
    restart_s: float
    """Starting the processes and their communicators, until the first new step."""
    checkpoint_s: float
    """Time that one checkpoint keeps the chips from training, where no storage is given."""
    detection_s: float = 0.0
    """From a failure until somebody knows of it; nothing trains meanwhile."""
    replacement_s: float = 0.0
    """Taking a failed host out and a spare one in."""
    restart_failure_share: float = 0.0
    """Restarts that fail by themselves and are begun again."""
    repair_hours: float | None = None
    """Mean time until a failed host is back as a spare; None where spares are not modelled."""
    is_elastic: bool = False
    """A failed replica leaves and the others go on, instead of all going back to a checkpoint."""
    reconfiguration_s: float = 0.0
    """What leaving or joining of a replica costs all others, where the job is elastic."""
    source: str = ""

    @property
    def failures_per_chip_hour(self) -> float:
        """Interruptions of the whole job by one chip and its share of everything else."""
        return math.fsum(rate.per_chip_hour for rate in self.failures)

    @property
    def mtbf_hours_per_chip(self) -> float:
        """Chip-hours per interruption of the whole job."""
        return 1 / self.failures_per_chip_hour

    def with_mtbf_hours_per_chip(self, hours: float) -> "Reliability":
        """The same parts in proportion, failing so that a chip has that time between them."""
        factor = self.mtbf_hours_per_chip / hours
        failures = tuple(replace(rate, per_hour=factor * rate.per_hour) for rate in self.failures)
        return replace(self, failures=failures)

    @property
    def repairs_per_chip_hour(self) -> float:
        """Interruptions that send a host to repair."""
        return math.fsum(
            rate.per_chip_hour for rate in self.failures if rate.part in PARTS_OF_A_HOST
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where checkpoints go; rates are what each chip has when all of them write at once."""

    write_bytes_per_s_per_chip: float
    read_bytes_per_s_per_chip: float
    host_copy_bytes_per_s_per_chip: float
    """From the chip to its host's memory."""
    is_asynchronous: bool
    """Training waits for the copy to the host only, and the rest is written behind it."""
    overhead_s: float = 0.0
    """What a checkpoint costs whatever its size: agreeing on the step, planning, bookkeeping."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """How far chips differ, and how often one holds up all others."""

    chip_spread: float
    """Standard deviation over the mean of the chips' own lasting speed."""
    screening: float
    """Chips slower than the mean by more than this are taken out."""
    barrier_jitter: float
    """Standard deviation over the mean of a chip's time from one barrier to the next."""
    stalls_per_chip_hour: float
    stall_s: float
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What draws power; a value of a chip that is None follows from its data sheet."""

    host_w: float
    """One host without its chips and network cards: processors, memory, fans, conversion loss."""
    nic_w_per_chip: float
    network_w_per_chip: float
    """Switches and optics of all tiers outside the host, shared out."""
    pue: float
    """Power of the site over that of the machines."""
    chip_w: float | None = None
    """Thermal design power, where the chip's file has none."""
    chip_limit_w: float | None = None
    """A power limit below the design power that the operator sets."""
    chip_idle_w: float | None = None
    joules_per_flop: float | None = None
    """Of 16-bit matrix products."""
    joules_per_memory_byte: float | None = None
    joules_per_network_byte: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What an hour costs: rented, or bought and fed with electricity."""

    currency: str
    per_chip_hour: float | None = None
    """Rent with everything in it; None where the machine is bought."""
    purchase_per_chip: float = 0.0
    """A chip with its share of host, network and storage."""
    lifetime_hours: float = math.inf
    electricity_per_kwh: float = 0.0
    source: str = ""

    def per_hour(self, num_chips: float, site_w: float) -> float:
        """Cost of an hour of so many chips that draw so much at the site's meter."""
        if self.per_chip_hour is not None:
            return num_chips * self.per_chip_hour
        bought = num_chips * self.purchase_per_chip / self.lifetime_hours
        return bought + site_w / 1000 * self.electricity_per_kwh


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Chips and the networks that join them; data, one YAML file per cluster.

    The chips are equal, but for a cluster made of islands, each of which is a cluster of its own.
    """

    name: str
    title: str
    chip: str
    """Name of the chip in `configs/chip/`, `this` for the chip just measured, or `mixed`."""
    num_chips: int
    tiers: tuple[NetworkTier, ...]
    """From the scale-up domain to the whole cluster; chips grow from one to the next. Those of a
    cluster of islands join the islands."""
    reliability: Reliability
    source: str
    chips_per_host: int = 8
    chips_per_rack: int | None = None
    """None where it is not known; the network's racks are others."""
    spare_hosts: int | None = None
    """Hosts that wait beside those of `num_chips`; None where `spare_confidence` says how many."""
    spare_confidence: float | None = None
    """Share of the time for which there are spares enough; None where spares are not modelled."""
    storage: Storage | None = None
    stragglers: Stragglers | None = None
    power: Power | None = None
    price: Price | None = None
    islands: tuple["ClusterSpec", ...] = ()
    """Clusters of other chips that train one model together."""
    assumptions: tuple[str, ...] = ()
    """What about it is taken on trust, one sentence each."""

    @property
    def scaleup_chips(self) -> int:
        """Chips of one scale-up domain."""
        return min(self.tiers[0].chips, self.num_chips)

    @property
    def is_mixed(self) -> bool:
        """It has islands of different chips."""
        return bool(self.islands)

    def with_num_chips(self, num_chips: int) -> "ClusterSpec":
        """The same kind of cluster with another number of chips; islands keep their proportions."""
        islands = tuple(
            island.with_num_chips(count)
            for island, count in zip(
                self.islands,
                shared_out([island.num_chips for island in self.islands], num_chips),
                strict=True,
            )
        )
        return replace(self, num_chips=num_chips, islands=islands)


def shared_out(weights: list[int], total: int) -> list[int]:
    """Whole numbers in the proportion of the weights that add up to the total, largest remainder.

    Source: the method of Hare and Hamilton.
    """
    if not weights:
        return []
    whole = sum(weights)
    exact = [weight * total / whole for weight in weights]
    found = [math.floor(one) for one in exact]
    order = sorted(range(len(weights)), key=lambda place: found[place] - exact[place])
    for place in order[: total - sum(found)]:
        found[place] += 1
    return found

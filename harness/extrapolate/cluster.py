"""ClusterSpec: how many chips, joined by which networks, and how often they fail."""

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How often a chip stops the job, and what that costs."""

    mtbf_hours_per_chip: float
    """Chip-hours per unexpected interruption of the whole job, hosts and network included."""
    restart_s: float
    """Detecting, replacing, starting and loading, until the first new step."""
    checkpoint_s: float
    """Time that one checkpoint keeps the chips from training."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """Equal chips and the networks that join them; data, one YAML file per cluster."""

    name: str
    title: str
    chip: str
    """Name of the chip in `configs/chip/`, or `this`: the chip just measured."""
    num_chips: int
    tiers: tuple[NetworkTier, ...]
    """From the scale-up domain to the whole cluster; chips grow from one to the next."""
    reliability: Reliability
    source: str
    assumptions: tuple[str, ...] = ()
    """What about it is taken on trust, one sentence each."""

    @property
    def scaleup_chips(self) -> int:
        """Chips of one scale-up domain."""
        return min(self.tiers[0].chips, self.num_chips)

    def with_num_chips(self, num_chips: int) -> "ClusterSpec":
        """The same kind of cluster with another number of chips."""
        return replace(self, num_chips=num_chips)

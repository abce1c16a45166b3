"""The tables of a cluster's file beside its network: failures, storage, power, price, islands.

Each takes its own table out of the file and checks it; what is absent is None.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.config.reader import Reader
from harness.errors import ConfigError
from harness.extrapolate.cluster import (
    HOURS_PER_YEAR,
    ClusterSpec,
    FailureRate,
    Part,
    Power,
    Price,
    Reliability,
    Storage,
    Stragglers,
    shared_out,
)
from harness.units import GIGA, MEGA

PICO = 1e-12
MOST_SECONDS = 1e9
"""Thirty years; longer is a mistake, and sums stay finite."""
MOST_HOURS = 1e6
MOST_WATTS = 1e6


def reliability_of(reader: Reader, islands: Sequence[ClusterSpec]) -> Reliability:
    """The table `reliability`; a cluster of islands has that of all of them unless it says so.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    table = reader.nested("reliability")
    if table is None:
        if islands:
            return joined(islands)
        raise ConfigError(
            f"{reader.key}.reliability: missing; it must be a table with failures or "
            "mtbf_hours_per_chip, restart_minutes, checkpoint_seconds and source. Add it."
        )
    repair_hours = table.optional_real("repair_hours", above=0, most=MOST_HOURS, example=24)
    reliability = Reliability(
        failures=_failures(table),
        restart_s=table.real("restart_minutes", above=0, most=MOST_SECONDS, example=3) * 60,
        checkpoint_s=table.real("checkpoint_seconds", above=0, most=MOST_SECONDS, example=6),
        detection_s=table.real("detection_seconds", most=MOST_SECONDS, default=0.0),
        replacement_s=table.real("replacement_seconds", most=MOST_SECONDS, default=0.0),
        restart_failure_share=table.real("restart_failure_share", most=0.99, default=0.0),
        repair_hours=repair_hours,
        is_elastic=table.flag("is_elastic", False),
        reconfiguration_s=table.real("reconfiguration_seconds", most=MOST_SECONDS, default=0.0),
        source=table.sources(),
    )
    table.finish()
    return reliability


def _failures(table: Reader) -> tuple[FailureRate, ...]:
    """Rates by part, or the chip-hours between interruptions of any kind."""
    if table.has("failures") == table.has("mtbf_hours_per_chip"):
        raise ConfigError(
            f"{table.key}: give exactly one of failures, a list of rates by part, and "
            f"mtbf_hours_per_chip. Set {table.key}.mtbf_hours_per_chip=50700 as Llama 3 reports."
        )
    if table.has("mtbf_hours_per_chip"):
        table.used.add("failures")
        hours = table.real("mtbf_hours_per_chip", above=0, most=1e12, example=50700)
        return (FailureRate(part=Part.ANY, per_hour=1 / hours),)
    table.used.add("mtbf_hours_per_chip")
    rates = []
    for entry in table.list_of_tables("failures"):
        rates.append(
            FailureRate(
                part=Part(entry.choice("part", list(Part))),
                per_hour=entry.real("per_million_hours", above=0, most=MEGA, example=1) / MEGA,
                chips_per_part=entry.real("chips_per_part", above=0, example=1, default=1.0),
                source=entry.sources(),
            )
        )
        entry.finish()
    return tuple(rates)


def joined(islands: Sequence[ClusterSpec]) -> Reliability:
    """One job on all islands: failures add up, and the slowest to come back is waited for."""
    whole = sum(island.num_chips for island in islands)
    failures: dict[Part, float] = {}
    for island in islands:
        share = island.num_chips / whole
        for rate in island.reliability.failures:
            failures[rate.part] = failures.get(rate.part, 0.0) + share * rate.per_chip_hour
    each = [island.reliability for island in islands]
    repairs = [one.repair_hours for one in each]
    return Reliability(
        failures=tuple(
            FailureRate(part=part, per_hour=rate, source="mean of the islands")
            for part, rate in failures.items()
        ),
        restart_s=max(one.restart_s for one in each),
        checkpoint_s=max(one.checkpoint_s for one in each),
        detection_s=max(one.detection_s for one in each),
        replacement_s=max(one.replacement_s for one in each),
        restart_failure_share=max(one.restart_failure_share for one in each),
        repair_hours=None if None in repairs else max(one for one in repairs if one is not None),
        is_elastic=all(one.is_elastic for one in each),
        reconfiguration_s=max(one.reconfiguration_s for one in each),
        source="of the islands: rates by their chips, times of the slowest",
    )


def spare_confidence_of(reader: Reader) -> float | None:
    """The share of the time for which there are spare hosts, where the file gives no number.

    Raises:
        ConfigError: where it is no share, or the number is given as well.
    """
    if not reader.has("spare_confidence"):
        reader.used.add("spare_confidence")
        return None
    if reader.has("spare_hosts"):
        raise ConfigError(
            f"{reader.key}: give one of spare_hosts and spare_confidence. "
            f"Set {reader.key}.spare_confidence=null to keep {reader.data['spare_hosts']} hosts."
        )
    return reader.real("spare_confidence", most=0.999999)


def storage_of(reader: Reader) -> Storage | None:
    """The table `storage`, or None where there is none.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    table = reader.nested("storage")
    if table is None:
        return None
    chips_per_host = reader.optional_count("chips_per_host") or 8
    storage = Storage(
        write_bytes_per_s_per_chip=_per_chip(table, "write", chips_per_host),
        read_bytes_per_s_per_chip=_per_chip(table, "read", chips_per_host),
        host_copy_bytes_per_s_per_chip=GIGA
        * table.real("host_copy_gb_per_s_per_chip", above=0, example=20),
        is_asynchronous=table.flag("is_asynchronous", True),
        overhead_s=table.real("overhead_seconds", most=MOST_SECONDS, default=0.0),
        source=table.sources(),
    )
    table.finish()
    return storage


def _per_chip(table: Reader, what: str, chips_per_host: int) -> float:
    """A rate that is given per chip or per host, in bytes per second and chip."""
    chip, host = (f"{what}_gb_per_s_per_{unit}" for unit in ("chip", "host"))
    if table.has(chip) == table.has(host):
        raise ConfigError(
            f"{table.key}: give exactly one of {chip} and {host}. Set {table.key}.{chip}=0.1, "
            "a host's rate over its chips."
        )
    if table.has(chip):
        table.used.add(host)
        return GIGA * table.real(chip, above=0, example=0.1)
    table.used.add(chip)
    return GIGA * table.real(host, above=0, example=0.8) / chips_per_host


def stragglers_of(reader: Reader) -> Stragglers | None:
    """The table `stragglers`, or None where there is none.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    table = reader.nested("stragglers")
    if table is None:
        return None
    stragglers = Stragglers(
        chip_spread=table.real("chip_spread", most=1),
        screening=table.real("screening", above=0, most=1, example=0.1),
        barrier_jitter=table.real("barrier_jitter", most=1),
        stalls_per_chip_hour=table.real("stalls_per_million_chip_hours", most=1e9) / MEGA,
        stall_s=table.real("stall_seconds", most=MOST_SECONDS),
        source=table.sources(),
    )
    table.finish()
    return stragglers


def power_of(reader: Reader) -> Power | None:
    """The table `power`, or None where there is none.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    table = reader.nested("power")
    if table is None:
        return None

    def picojoules(name: str, example: float) -> float | None:
        value = table.optional_real(name, above=0, example=example)
        return None if value is None else value * PICO

    power = Power(
        host_w=table.real("host_watts", most=MOST_WATTS),
        nic_w_per_chip=table.real("nic_watts_per_chip", most=MOST_WATTS),
        network_w_per_chip=table.real("network_watts_per_chip", most=MOST_WATTS),
        pue=table.real("pue", least=1, most=10),
        chip_w=table.optional_real("chip_watts", above=0, most=MOST_WATTS, example=700),
        chip_limit_w=table.optional_real("chip_limit_watts", above=0, most=MOST_WATTS, example=700),
        chip_idle_w=table.optional_real("chip_idle_watts", above=0, most=MOST_WATTS, example=120),
        joules_per_flop=picojoules("picojoules_per_flop", 0.6),
        joules_per_memory_byte=picojoules("picojoules_per_memory_byte", 60),
        joules_per_network_byte=picojoules("picojoules_per_network_byte", 80),
        source=table.sources(),
    )
    table.finish()
    return power


def price_of(reader: Reader) -> Price | None:
    """The table `price`, or None where there is none.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    table = reader.nested("price")
    if table is None:
        return None
    if table.has("per_chip_hour") == table.has("purchase_per_chip"):
        raise ConfigError(
            f"{table.key}: give exactly one of per_chip_hour, the rent, and purchase_per_chip "
            f"with lifetime_years and electricity_per_kwh. Set {table.key}.per_chip_hour=2.5."
        )
    rent = table.optional_real("per_chip_hour", above=0, example=2.5)
    bought = table.optional_real("purchase_per_chip", above=0, example=50000)
    lifetime, electricity = math.inf, 0.0
    # Rent has them in it; a file may keep them for when the machine is bought.
    table.used |= {"lifetime_years", "electricity_per_kwh"}
    if bought is not None:
        lifetime = table.real("lifetime_years", above=0, most=1000, example=4) * HOURS_PER_YEAR
        electricity = table.real("electricity_per_kwh", most=1e6)
    price = Price(
        currency=table.text("currency"),
        per_chip_hour=rent,
        purchase_per_chip=bought or 0.0,
        lifetime_hours=lifetime,
        electricity_per_kwh=electricity,
        source=table.sources(),
    )
    table.finish()
    return price


def islands_of(
    reader: Reader,
    num_chips: int,
    extra: Sequence[Path],
    load: Callable[[str, Sequence[Path]], ClusterSpec],
) -> tuple[ClusterSpec, ...]:
    """The list `islands`: clusters by name, each with its number of chips; empty for none.

    Raises:
        ConfigError: when a cluster is unknown, an island is one of islands itself, or the chips
            do not add up.
    """
    if not reader.has("islands"):
        reader.used.add("islands")
        return ()
    if reader.has("chip"):
        raise ConfigError(
            f"{reader.key}.chip: {reader.data['chip']!r} is given, but the islands have their own. "
            "Remove it."
        )
    counts, clusters = [], []
    for entry in reader.list_of_tables("islands"):
        cluster = load(entry.text("cluster"), extra)
        count = entry.count("num_chips")
        entry.sources()
        entry.finish()
        if cluster.is_mixed or cluster.chip == "this":
            raise ConfigError(
                f"{entry.key}.cluster: '{cluster.name}' is not a cluster of one known chip. "
                "Set it to h100_100k or another; `chipscale list clusters` shows all."
            )
        most = cluster.tiers[-1].chips
        if count > most:
            raise ConfigError(
                f"{entry.key}.num_chips: {count} is more than the {most} chips that the last tier "
                f"of {cluster.name} joins. Set {entry.key}.num_chips={most}."
            )
        counts.append(count)
        clusters.append(cluster.with_num_chips(count))
    if len(clusters) < 2:
        raise ConfigError(
            f"{reader.key}.islands: 1 island is not at least 2. Add another, or set "
            f"cluster={clusters[0].name}."
        )
    if sum(counts) != num_chips:
        nearest = shared_out(counts, num_chips)
        or_islands = f", or the islands' num_chips to {', '.join(map(str, nearest))}"
        raise ConfigError(
            f"{reader.key}.num_chips: {num_chips} is not the {sum(counts)} of its islands "
            f"({' + '.join(map(str, counts))}). Set {reader.key}.num_chips={sum(counts)}"
            f"{or_islands if min(nearest) > 0 else ''}."
        )
    return tuple(clusters)

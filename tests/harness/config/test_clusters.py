"""What a cluster's file may say beside its network, and what is refused."""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.config.specs import cluster_spec, list_names, load_cluster, load_data
from harness.errors import ConfigError
from harness.extrapolate.cluster import ClusterSpec, Part, shared_out

H100: Mapping[str, Any] = load_data("cluster", "h100_100k")
MIXED: Mapping[str, Any] = load_data("cluster", "mixed_100k")
TEXTS = frozenset({"name", "title", "chip", "cluster", "part", "topology", "assumptions"})
"""Keys that name something, which no source is needed for."""


def tables(data: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each table of a file with its place, the file itself first."""
    yield place, data
    for key, value in data.items():
        if key == "sources":
            continue
        if isinstance(value, dict):
            yield from tables(value, f"{place}.{key}")
        if isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, dict):
                    yield from tables(entry, f"{place}.{key}[{index}]")


@pytest.mark.parametrize("name", list_names("cluster"))
def test_every_value_of_every_file_has_its_source_or_is_assumed(name: str) -> None:
    missing = []
    for place, table in tables(load_data("cluster", name), name):
        values = [
            key
            for key, value in table.items()
            if key not in TEXTS | {"source", "sources"}
            and value is not None
            and not isinstance(value, dict)
            and not (isinstance(value, list) and value and isinstance(value[0], dict))
        ]
        sources = table.get("sources", {})
        if len(values) == 1 and table.get("source"):
            continue
        missing += [f"{place}.{key}" for key in values if not str(sources.get(key, "")).strip()]
    assert missing == []


@pytest.mark.parametrize("chip", ["h100_sxm", "gb200", "ascend_910c", "tpu_v5p", "mixed"])
def test_there_is_a_cluster_of_100_000_of_each(chip: str) -> None:
    sizes = {
        data.get("chip", "mixed"): data["num_chips"]
        for data in (load_data("cluster", name) for name in list_names("cluster"))
        if data["name"].endswith("_100k")
    }
    assert sizes[chip] == 100_000


def test_the_supernode_is_that_of_the_paper() -> None:
    # arXiv 2506.12708 section 3: 48 nodes of 8 packages and 4 processors, 392 GB/s and 400 Gbit/s.
    cluster = load_cluster("ascend_910c_100k")
    inner, outer = cluster.tiers
    assert inner.chips == 48 * cluster.chips_per_host == 384
    assert inner.bandwidth_bytes_per_s_per_chip == 392e9
    assert outer.bandwidth_bytes_per_s_per_chip == 50e9
    assert outer.chips % inner.chips == 0


def test_units_of_a_cluster_are_converted() -> None:
    cluster = load_cluster("h100_100k")
    assert cluster.reliability.restart_s == 180
    assert cluster.storage is not None
    assert cluster.storage.write_bytes_per_s_per_chip == 0.08e9
    assert cluster.power is not None
    assert cluster.price is not None
    assert cluster.price.lifetime_hours == 4 * 8766
    rates = {rate.part: rate.per_hour for rate in cluster.reliability.failures}
    assert rates[Part.CHIP] == pytest.approx(9.23e-6)


def test_a_file_of_before_still_reads() -> None:
    old = {
        "name": "mine",
        "title": "Mine",
        "chip": "h100_sxm",
        "num_chips": 64,
        "tiers": [
            {
                "name": "nvlink",
                "topology": "fully_connected",
                "chips": 64,
                "gb_per_s_per_chip": 450,
                "efficiency": 0.8,
                "latency_us": 1.5,
                "source": "data sheet",
            }
        ],
        "reliability": {
            "mtbf_hours_per_chip": 50700,
            "restart_minutes": 5,
            "checkpoint_seconds": 6,
            "source": "assumed",
        },
        "source": "mine",
    }
    cluster = cluster_spec(old)
    assert cluster.reliability.mtbf_hours_per_chip == pytest.approx(50700)
    assert (cluster.storage, cluster.power, cluster.price, cluster.spare_confidence) == (None,) * 4
    assert cluster.chips_per_host == 8


def test_a_rate_of_a_host_is_shared_by_its_chips() -> None:
    data = changed("storage", write_gb_per_s_per_chip=None, write_gb_per_s_per_host=0.8)
    del data["storage"]["sources"]["write_gb_per_s_per_chip"]
    storage = cluster_spec(data).storage
    assert storage is not None
    assert storage.write_bytes_per_s_per_chip == pytest.approx(0.1e9)


def test_a_bought_cluster_can_be_rented_by_one_more_key() -> None:
    data = changed("price", per_chip_hour=2.5)
    data["price"]["purchase_per_chip"] = None
    price = cluster_spec(data).price
    assert price is not None
    assert price.per_hour(1000, 1e6) == 2500


def test_the_islands_of_the_mixed_cluster_are_their_own_files() -> None:
    cluster = load_cluster("mixed_100k")
    assert [island.chip for island in cluster.islands] == ["h100_sxm", "ascend_910c", "mi300x"]
    assert sum(island.num_chips for island in cluster.islands) == cluster.num_chips
    assert cluster.islands[0].tiers == load_cluster("h100_100k").tiers


def test_islands_keep_their_proportions_and_lose_no_chip() -> None:
    half = load_cluster("mixed_100k").with_num_chips(50_001)
    assert sum(island.num_chips for island in half.islands) == 50_001
    assert shared_out([5, 3, 2], 11) == [6, 3, 2]
    assert sum(shared_out([1, 1, 1], 100)) == 100


def test_islands_of_the_user_are_found_in_the_user_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    text = (Path(__file__).parents[3] / "configs/cluster/mi300x_100k.yaml").read_text("utf-8")
    (folder / "mine.yaml").write_text(text.replace("name: mi300x_100k", "name: mine"), "utf-8")
    data: Any = copy.deepcopy(dict(MIXED))
    data["islands"][2]["cluster"] = "mine"
    assert cluster_spec(data, extra=[tmp_path]).islands[2].name == "mine"
    with pytest.raises(ConfigError, match="no cluster named 'mine'"):
        cluster_spec(data)


def changed(table: str, **keys: object) -> dict[str, Any]:
    """The file of H100 with other values in one of its tables; None takes a key away."""
    data: dict[str, Any] = copy.deepcopy(dict(H100))
    for key, value in keys.items():
        if value is None:
            data[table].pop(key, None)
        else:
            data[table][key] = value
    return data


def rate_of_a_part(**keys: object) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(dict(H100))
    data["reliability"]["failures"][0].update(keys)
    return data


def mixed(**keys: object) -> dict[str, Any]:
    return {**copy.deepcopy(dict(MIXED)), **keys}


def island(index: int, **keys: object) -> dict[str, Any]:
    data: Any = copy.deepcopy(dict(MIXED))
    data["islands"][index].update(keys)
    return dict(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            changed("storage", write_gb_per_s_per_chip=0),
            "cluster.storage.write_gb_per_s_per_chip: 0 is not a finite number greater than 0. "
            "Set cluster.storage.write_gb_per_s_per_chip=0.1.",
        ),
        (
            changed("storage", host_copy_gb_per_s_per_chip=-25),
            "-25 is not a finite number greater than 0. "
            "Set cluster.storage.host_copy_gb_per_s_per_chip=25.",
        ),
        (
            changed("storage", read_gb_per_s_per_chip=math.nan),
            "cluster.storage.read_gb_per_s_per_chip: nan is not a finite number greater than 0",
        ),
        (
            changed("storage", read_gb_per_s_per_host=1),
            "cluster.storage: give exactly one of read_gb_per_s_per_chip and",
        ),
        (
            changed("storage", host_copy_gb_per_s_per_chip=None),
            "cluster.storage.host_copy_gb_per_s_per_chip: missing; it must be a finite number "
            "greater than 0. Set cluster.storage.host_copy_gb_per_s_per_chip=20 or another.",
        ),
        (
            changed("storage", overhead_seconds=-1),
            "cluster.storage.overhead_seconds: -1 is not a finite number of at least 0. "
            "Set cluster.storage.overhead_seconds=1.",
        ),
        (
            changed("reliability", failures=None),
            "cluster.reliability: give exactly one of failures, a list of rates by part, and "
            "mtbf_hours_per_chip. Set cluster.reliability.mtbf_hours_per_chip=50700",
        ),
        (
            changed("reliability", mtbf_hours_per_chip=50700),
            "cluster.reliability: give exactly one of failures",
        ),
        (
            changed("reliability", failures=None, mtbf_hours_per_chip=0),
            "cluster.reliability.mtbf_hours_per_chip: 0 is not a finite number greater than 0. "
            "Set cluster.reliability.mtbf_hours_per_chip=50700.",
        ),
        (
            rate_of_a_part(per_million_hours=-1),
            "cluster.reliability.failures[0].per_million_hours: -1 is not a finite number "
            "greater than 0",
        ),
        (
            rate_of_a_part(chips_per_part=0),
            "cluster.reliability.failures[0].chips_per_part: 0 is not",
        ),
        (
            rate_of_a_part(part="gpu"),
            "cluster.reliability.failures[0].part: 'gpu' is not one of chip, memory, port",
        ),
        (
            changed("reliability", restart_failure_share=1.5),
            "restart_failure_share: 1.5 is not a finite number of at least 0 and at most 0.99. "
            "Set cluster.reliability.restart_failure_share=0.99.",
        ),
        (
            changed("reliability", restart_minutes=math.inf),
            "cluster.reliability.restart_minutes: inf is not a finite number greater than 0",
        ),
        (
            changed("reliability", repair_hours=0),
            "cluster.reliability.repair_hours: 0 is not a finite number greater than 0. "
            "Set cluster.reliability.repair_hours=24.",
        ),
        (
            changed("stragglers", screening=0),
            "cluster.stragglers.screening: 0 is not a finite number greater than 0 and at most 1",
        ),
        (changed("stragglers", chip_spread=2), "Set cluster.stragglers.chip_spread=1."),
        (
            changed("power", pue=0.9),
            "cluster.power.pue: 0.9 is not a finite number of at least 1 and at most 10. "
            "Set cluster.power.pue=1.",
        ),
        (changed("power", host_watts=-1), "Set cluster.power.host_watts=1."),
        (changed("power", chip_limit_watts=0), "Set cluster.power.chip_limit_watts=700."),
        (
            changed("price", per_chip_hour=2),
            "cluster.price: give exactly one of per_chip_hour, the rent, and purchase_per_chip",
        ),
        (
            rate_of_a_part(per_million_hours=1e30),
            "1e+30 is not a finite number greater than 0 and at most 1000000. "
            "Set cluster.reliability.failures[0].per_million_hours=1000000.",
        ),
        (
            changed("price", lifetime_years=0),
            "cluster.price.lifetime_years: 0 is not a finite number greater than 0 and at most "
            "1000. "
            "Set cluster.price.lifetime_years=4.",
        ),
        (changed("price", electricity_per_kwh=-0.1), "Set cluster.price.electricity_per_kwh=0."),
        (
            changed("power", sources={"pues": "assumed"}),
            "cluster.power.sources.pues: cluster.power has no such key. Did you mean 'pue'?",
        ),
        (
            changed("power", sources=None),
            "cluster.power.source: missing; it must be a text, or sources a text by key. "
            "Set cluster.power.source=assumed",
        ),
        ({**H100, "num_chips": 0}, "cluster.num_chips: 0 is not a whole number of at least 1"),
        (
            {**H100, "spare_hosts": -1},
            "cluster.spare_hosts: -1 is not a whole number of at least 0",
        ),
        ({**H100, "chips_per_host": 0}, "cluster.chips_per_host: 0 is not a whole number"),
        ({**H100, "storage": 5}, "cluster.storage: 5 is not a table of keys"),
        (
            mixed(num_chips=50_000),
            "cluster.num_chips: 50000 is not the 100000 of its islands (50000 + 30000 + 20000). "
            "Set cluster.num_chips=100000, or the islands' num_chips to 25000, 15000, 10000.",
        ),
        (
            mixed(num_chips=1),
            "(50000 + 30000 + 20000). Set cluster.num_chips=100000.",
        ),
        (
            island(0, num_chips=0),
            "cluster.islands[0].num_chips: 0 is not a whole number of at least 1",
        ),
        (
            island(1, num_chips=200_000),
            "cluster.islands[1].num_chips: 200000 is more than the 101376 chips that the last tier "
            "of ascend_910c_100k joins. Set cluster.islands[1].num_chips=101376.",
        ),
        (island(0, cluster="h100_100"), "no cluster named 'h100_100'. Did you mean 'h100_100k'?"),
        (
            island(0, cluster="this_100k"),
            "cluster.islands[0].cluster: 'this_100k' is not a cluster of one known chip",
        ),
        (
            mixed(islands=[MIXED["islands"][0]], num_chips=50_000),
            "cluster.islands: 1 island is not at least 2. Add another, or set cluster=h100_100k.",
        ),
        (
            mixed(chip="h100_sxm"),
            "cluster.chip: 'h100_sxm' is given, but the islands have their own",
        ),
    ],
)
def test_a_wrong_value_names_the_key_and_the_nearest_that_works(
    data: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        cluster_spec(data)
    assert "\n" not in str(caught.value)


def test_a_cluster_can_be_told_apart_from_one_of_islands() -> None:
    assert load_cluster("mixed_100k").is_mixed
    one = load_cluster("h100_100k")
    assert isinstance(one, ClusterSpec)
    assert not one.is_mixed

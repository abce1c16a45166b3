"""What may still be allocated: the host's figure, or less where a container has a limit."""

from pathlib import Path

import pytest

from harness.device import host_memory
from harness.device.host_memory import available_memory_bytes

GIB = 2**30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with 64 GiB available and no container."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {64 * 2**20} kB\n")
    monkeypatch.setattr(host_memory, "_MEMINFO", meminfo)
    moved = tuple((tmp_path / str(index), *names) for index, (_, *names) in enumerate(LIMITS))
    monkeypatch.setattr(host_memory, "_LIMITS", moved)
    return tmp_path


LIMITS = host_memory._LIMITS


def limit(host: Path, version: int, limit_text: str, used: int, reclaimable: int) -> None:
    folder, limit_name, used_name, key = host_memory._LIMITS[0 if version == 2 else 1]
    folder.mkdir()
    (folder / limit_name).write_text(f"{limit_text}\n")
    (folder / used_name).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{key} {reclaimable}\n")


def test_without_a_container_it_is_what_the_host_tells(host: Path) -> None:
    assert available_memory_bytes() == 64 * GIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_is_left_of_its_limit_with_what_is_given_back(
    host: Path, version: int
) -> None:
    limit(host, version, str(16 * GIB), used=10 * GIB, reclaimable=3 * GIB)
    assert available_memory_bytes() == 9 * GIB


@pytest.mark.parametrize(("version", "text"), [(2, "max"), (1, "9223372036854771712")])
def test_a_container_without_a_limit_has_the_host(host: Path, version: int, text: str) -> None:
    limit(host, version, text, used=10 * GIB, reclaimable=0)
    assert available_memory_bytes() == 64 * GIB


def test_where_the_system_does_not_tell_it_is_unknown(host: Path) -> None:
    (host / "meminfo").unlink()
    assert available_memory_bytes() is None

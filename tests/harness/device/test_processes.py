"""Other programs: who is ours and who is not, and who keeps the host busy."""

import os
import subprocess
import sys
from pathlib import Path

from harness.device.processes import Occupants, busy, foreign


def process(proc: Path, pid: int, parent: int, name: str, ticks: int = 0) -> None:
    """An entry of the kernel's table; a name may hold spaces and brackets."""
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    fields = ["S", parent, *[0] * 9, ticks, 0, *[0] * 30]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(map(str, fields))}\n")
    (folder / "comm").write_text(f"{name}\n")


def family(proc: Path) -> None:
    """init -> shell 10 -> ours 20 -> child 30; beside them another's 40."""
    process(proc, 1, 0, "init")
    process(proc, 10, 1, "sh")
    process(proc, 20, 10, "python) (x")
    process(proc, 30, 20, "ptxas")
    process(proc, 40, 1, "trainer) 1 2 (")


def test_our_own_tree_is_not_foreign(tmp_path: Path) -> None:
    family(tmp_path)
    assert foreign([10, 20, 30], proc=tmp_path, own_pid=20) == ()


def test_another_program_is_named_with_its_number(tmp_path: Path) -> None:
    family(tmp_path)
    assert foreign([20, 40], proc=tmp_path, own_pid=20) == ("trainer) 1 2 ( (40)",)
    assert foreign([20, 40], {40: "/opt/bin/serve"}, tmp_path, 20) == ("serve (40)",)


def test_a_program_that_has_ended_meanwhile_is_named_by_its_number(tmp_path: Path) -> None:
    family(tmp_path)
    assert foreign([20, 50], proc=tmp_path, own_pid=20) == ("process (50)",)


def test_where_numbers_are_of_another_container_one_of_them_is_ours(tmp_path: Path) -> None:
    family(tmp_path)
    assert foreign([], proc=tmp_path, own_pid=20) == ()
    assert foreign([70001], proc=tmp_path, own_pid=20) == ()
    assert foreign([70001, 70002, 70003], proc=tmp_path, own_pid=20) == ("2 of another container",)


def test_a_driver_is_asked_at_most_once_a_second() -> None:
    now_s, looks = 0.0, 0

    def find() -> dict[int, str]:
        nonlocal looks
        looks += 1
        return {os.getpid(): "", 999999991: "trainer"}

    occupants = Occupants(find, lambda: now_s)
    assert occupants() == occupants() == ("trainer (999999991)",)
    assert looks == 1
    now_s = 1.0
    occupants()
    assert looks == 2


def test_a_driver_that_cannot_tell_stops_nothing() -> None:
    def find() -> dict[int, str]:
        raise RuntimeError("insufficient permissions")

    assert Occupants(find)() == ()


def test_busy_programs_are_named_with_their_share_of_a_core(tmp_path: Path) -> None:
    own = os.getpid()
    process(tmp_path, 1, 0, "init")
    process(tmp_path, own, 1, "python")
    process(tmp_path, own + 1, own, "ours", 0)
    process(tmp_path, 40, 1, "trainer", 100)
    process(tmp_path, 41, 1, "editor", 100)
    process(tmp_path, 42, 1, "compiler", 100)
    (tmp_path / "self").symlink_to(tmp_path / "1")
    per_s = os.sysconf("SC_CLK_TCK")

    def work(seconds: float) -> None:
        process(tmp_path, own + 1, own, "ours", round(per_s * seconds))
        process(tmp_path, 40, 1, "trainer", 100 + round(0.5 * per_s * seconds))
        process(tmp_path, 41, 1, "editor", 100 + round(0.1 * per_s * seconds))
        process(tmp_path, 42, 1, "compiler", 100 + round(2 * per_s * seconds))
        process(tmp_path, 43, 1, "started", 1000)

    assert busy(10.0, tmp_path, work) == ("compiler (42) 200 %", "trainer (40) 50 %")


def test_a_system_without_such_a_table_has_no_busy_programs(tmp_path: Path) -> None:
    assert busy(0.0, tmp_path) == ()


def test_a_program_that_spins_is_found_on_this_host() -> None:
    # In a session of its own and started by a process that has ended, it is no child of ours.
    spin = "import os, sys\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\nwhile 1: 1"
    started = subprocess.Popen(
        [sys.executable, "-c", spin], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    started.wait()
    try:
        # A host that is full may give it less than its share for a while.
        is_found = any(f"({pid})" in text for _ in range(10) for text in busy(0.5))
    finally:
        os.kill(pid, 9)
        started.stdout.close()
    assert is_found

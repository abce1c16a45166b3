"""What a reader sees of a beat, at whatever moment it looks."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.worker.heartbeat import NO_CASE, Beat, Heartbeat

CASES = (5, 7)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "heartbeat"


@pytest.fixture
def read(path: Path) -> Iterator[Callable[[], Beat]]:
    with closing(Heartbeat(path)) as heartbeat:
        yield heartbeat.read


def beat_until_killed(path: Path) -> None:
    heartbeat = Heartbeat(path)
    while True:
        for case in CASES:
            heartbeat.beat(case)


def test_the_other_process_sees_the_case_and_that_it_moves(
    path: Path, read: Callable[[], Beat]
) -> None:
    assert read() == Beat(NO_CASE, 0, 0)
    with closing(Heartbeat(path)) as child:
        child.beat(0)
        child.beat(3)
        child.beat(3)
    assert read() == Beat(case=3, count=3, count_of_case=2)


def test_a_file_of_zeros_names_no_case(path: Path) -> None:
    path.write_bytes(bytes(4096))
    with closing(Heartbeat(path)) as heartbeat:
        assert heartbeat.read().case == NO_CASE


def test_no_look_at_a_beat_being_written_names_a_case_that_was_not_in_flight(
    path: Path, read: Callable[[], Beat]
) -> None:
    child = multiprocessing.get_context("fork").Process(target=beat_until_killed, args=(path,))
    child.start()
    try:
        deadline_s = time.monotonic() + 30
        while read().count == 0 and time.monotonic() < deadline_s:
            time.sleep(0.001)
        until_s = time.monotonic() + 0.5
        seen: set[int] = set()
        while time.monotonic() < until_s:
            seen.add(read().case)
    finally:
        child.kill()
        child.join()
    assert seen == set(CASES)
    # Killed between two words or between two beats: it was at one of the two cases.
    assert read().case in CASES


@pytest.mark.parametrize(("num_written", "case"), [(0, 5), (1, 5), (2, 7), (3, 7)])
def test_a_beat_that_its_writer_was_killed_in_names_one_of_the_two_cases(
    path: Path, monkeypatch: pytest.MonkeyPatch, num_written: int, case: int
) -> None:
    with closing(Heartbeat(path)) as heartbeat:
        heartbeat.beat(5)
        words = heartbeat._words

        class Dying:
            """Writes so many words more."""

            num_left = num_written

            def __getitem__(self, index: int) -> int:
                return words[index]

            def __setitem__(self, index: int, value: int) -> None:
                if not self.num_left:
                    raise KeyboardInterrupt
                self.num_left -= 1
                words[index] = value

        with monkeypatch.context() as patch:
            patch.setattr(heartbeat, "_words", Dying())
            with pytest.raises(KeyboardInterrupt):
                heartbeat.beat(7)
        assert heartbeat.read().case == case

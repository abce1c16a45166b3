"""A function as the measuring loop takes it."""

from harness.measure.function import function_subject


def test_setup_comes_before_every_run_and_outside_it() -> None:
    seen: list[str] = []
    subject = function_subject(lambda: seen.append("run"), setup=lambda: seen.append("setup"))
    subject.check()
    subject.restore(0)
    subject.runs[0]()
    assert seen == ["setup", "run", "setup", "run"]


def test_a_fault_is_found_before_and_after() -> None:
    subject = function_subject(lambda: 3, find_fault=lambda result: f"{result} is odd.")
    assert subject.check().explanation == "3 is odd."
    later = subject.recheck(0, subject.runs[0]())
    assert later.explanation == (
        "It was right when it was checked, and the last timed run is wrong. 3 is odd."
    )


def test_a_function_that_returns_nothing_can_be_measured() -> None:
    subject = function_subject(lambda: None)
    assert subject.check().is_right
    assert subject.runs[0]() == (None,)

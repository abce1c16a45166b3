import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.extrapolate.distinct import distinct, runs

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=40)


def columns(rows: list[tuple[int, int]]) -> list[np.ndarray]:
    return [np.array([row[place] for row in rows], dtype=np.int64) for place in range(2)]


@given(ROWS)
def test_each_row_is_as_the_first_of_its_group(rows: list[tuple[int, int]]) -> None:
    for find in (runs, distinct):
        alike = find(*columns(rows))
        assert [rows[first] for first in alike.first[alike.group]] == rows


@given(ROWS)
def test_no_two_groups_are_alike(rows: list[tuple[int, int]]) -> None:
    assert len(distinct(*columns(rows)).first) == len(set(rows))


def test_runs_are_ended_by_another_row() -> None:
    alike = runs(np.array([1, 1, 2, 1]), np.array([5, 5, 5, 5]))
    assert alike.group.tolist() == [0, 0, 1, 2]

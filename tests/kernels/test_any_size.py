"""Any size is right, for the ops whose own tests draw none: drawn, and held to fp64."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import registry
from kernels.op import problem
from tests.kernels.checks import run_triton

Sizes = st.SearchStrategy[dict[str, int]]


ROWS = frozenset("HFVDES")
"""Axes that a row lies along, of a result or of the scores of attention."""
SHORTEST_ROW = 16
"""The terms of a gradient over one or two elements cancel, and what is left is their rounding,
which no bound that follows from the type holds."""


def _size(axis: str, largest: int) -> st.SearchStrategy[int]:
    return st.integers(SHORTEST_ROW if axis in ROWS else 1, largest)


def _sizes(**largest: int) -> Sizes:
    return st.fixed_dictionaries({axis: _size(axis, size) for axis, size in largest.items()})


def _attention() -> Sizes:
    """Heads in groups of equal size, and no more queries than keys."""
    drawn = _sizes(B=2, G=2, per_group=3, S=70, fewer=70, D=40, E=40)
    return drawn.map(
        lambda d: {
            "B": d["B"],
            "Q": max(1, d["S"] - d["fewer"]),
            "S": d["S"],
            "H": d["G"] * d["per_group"],
            **{axis: d[axis] for axis in "GDE"},
        }
    )


SIZES: Mapping[str, Sizes] = {
    "adamw": _sizes(N=3000),
    "attention": _attention(),
    "copy": _sizes(N=5000),
    "cross_entropy": _sizes(T=4, V=5000),
    "embedding": _sizes(T=40, V=20, H=1100),
    "geglu": _sizes(T=4, F=1100),
    "layer_norm": _sizes(T=9, H=600),
    "rms_norm": _sizes(T=9, H=600),
    # Pairs of elements are turned, so a head has an even number.
    "rope": _sizes(T=4, H=20, D=70).map(lambda sizes: sizes | {"D": 2 * sizes["D"]}),
    "softmax": _sizes(T=4, V=5000),
    "swiglu": _sizes(T=4, F=1100),
}


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("name", SIZES)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_any_size_agrees_with_fp64_in_every_mode(
    name: str, dtype: str, data: st.DataObject
) -> None:
    op = registry.load(name)
    sizes = data.draw(SIZES[name])
    mode = data.draw(st.sampled_from(op.modes))
    variant = data.draw(st.sampled_from(op.variants))
    run_triton(op, problem(name, dtype, mode, variant, **sizes))

import subprocess
import sys

import pytest

from kernels import registry


@pytest.mark.parametrize("name", registry.names())
def test_the_outline_of_an_op_is_that_of_the_op(name: str) -> None:
    op = registry.load(name)
    outline = registry.outline(name)
    assert outline.axes == op.axes
    assert outline.modes == op.modes
    assert outline.dtypes == op.dtypes
    assert outline.variants == op.variants
    assert outline.formula == op.formula
    assert outline.source == op.source
    assert outline.is_block == op.is_block
    assert "FLOP" in outline.counted


def test_naming_and_outlining_ops_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from kernels import registry\n"
        "print([registry.outline(name).axes for name in registry.names()])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_op_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        registry.load("swiglo")

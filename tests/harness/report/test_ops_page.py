from harness.report.ops_page import ROOT, current
from kernels import registry


def test_the_page_in_the_repository_is_the_present_one() -> None:
    page = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
    assert page == current(), "`make docs` writes it again"


def test_every_op_is_there_with_its_formula_and_cost() -> None:
    page = current()
    for name in registry.names():
        op = registry.outline(name)
        assert f"## {name}\n" in page
        assert op.formula in page
        assert op.counted in page

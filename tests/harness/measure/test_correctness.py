"""What is wrong is told with the output, the error and its bound; nothing wrong is let through."""

import pytest
import torch

from harness.measure.correctness import compare, imagined
from kernels.op import Tolerance

TOLERANCE = Tolerance(dtype="fp32", relative_error=1e-2, max_error=1e-1, row_error=2e-2)


def explain(output: torch.Tensor, reference: torch.Tensor) -> str:
    return compare((output,), (reference.double(),), (TOLERANCE,)).explanation


def test_a_right_result_needs_no_explanation() -> None:
    reference = torch.arange(1.0, 4.0)
    assert compare((reference,), (reference.double(),), (TOLERANCE,)).is_right
    assert explain(reference, reference) == ""


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (torch.tensor([1.0, float("nan"), 3.0]), "1 of 3 elements are NaN or infinite"),
        (torch.tensor([1.0, float("inf"), 3.0]), "1 of 3 elements are NaN or infinite"),
        (torch.tensor([1.0, 2.0]), "its shape is (2,), and (3,) is expected"),
        (
            torch.tensor([1.0, 2.0, 3.0]).half(),
            "its type is torch.float16, and torch.float32 is expected",
        ),
    ],
)
def test_what_makes_an_output_infinitely_wrong_is_named(output: torch.Tensor, words: str) -> None:
    reference = torch.tensor([1.0, 2.0, 3.0])
    assert explain(output, reference) == f"Output 1 of 1: {words}."
    found = compare((output,), (reference.double(),), (TOLERANCE,))
    assert found.outputs[0].relative_error == float("inf")


def test_a_missing_output_is_wrong() -> None:
    reference = torch.ones(3)
    exact = reference.double()
    found = compare((reference,), (exact, exact), (TOLERANCE, TOLERANCE))
    assert found.explanation.startswith("Output 1 of 2: 1 came back, and 2 are expected.")


def test_one_wrong_element_among_many_is_seen() -> None:
    reference = torch.ones(100_000)
    output = reference.clone()
    output[5] = 2.0
    words = "Output 1 of 1: largest element error 1, at most 0.1 allowed."
    assert explain(output, reference) == words


def test_one_wrong_row_among_larger_ones_is_seen() -> None:
    reference = torch.ones(1000, 4)
    reference[:100] = 10
    output = reference.clone()
    output[-1] *= 0.9
    assert explain(output, reference) == (
        "Output 1 of 1: largest row error 0.1, at most 0.02 allowed."
    )


def test_a_row_that_cancels_is_compared_with_the_typical_row() -> None:
    reference = torch.ones(1000, 4)
    reference[-1] = 0
    output = reference.clone()
    output[-1] = 1e-3
    assert explain(output, reference) == ""


def test_every_output_is_held_to_its_own_tolerance() -> None:
    reference = torch.ones(3)
    strict = Tolerance(dtype="fp32", relative_error=1e-6, max_error=1e-6, row_error=1e-6)
    outputs = (1.005 * reference, 1.005 * reference)
    found = compare(outputs, (reference.double(),) * 2, (TOLERANCE, strict))
    assert found.explanation == (
        "Output 2 of 2: relative error 0.005, at most 1e-06 allowed; "
        "largest element error 0.005, at most 1e-06 allowed; "
        "largest row error 0.005, at most 1e-06 allowed."
    )


def test_zeros_and_scalars_are_compared_absolutely() -> None:
    for reference in (torch.zeros(2, 3), torch.zeros(())):
        assert explain(reference, reference) == ""
        assert "relative error" in explain(reference + 1, reference)


def test_an_imagined_result_is_right_or_as_wrong_as_asked() -> None:
    assert imagined((TOLERANCE,)).is_right
    assert not imagined((TOLERANCE,), 1.0).is_right
    exact = Tolerance(dtype="fp32", relative_error=0.0, max_error=0.0, row_error=0.0)
    assert imagined((exact,)).is_right
    assert "relative error nan, at most 0 allowed" in imagined((exact,), float("nan")).explanation

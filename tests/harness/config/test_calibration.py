"""Tables of a calibration: what is read from them, and what is refused."""

import pytest

from harness.config.calibration import (
    read_constants,
    read_left_out,
    read_residuals,
    runs_of_constants,
    runs_of_residuals,
    shipped_calibration,
)
from harness.errors import ConfigError
from harness.extrapolate.constants import NAMES, SPREADS

CONSTANTS = "constant,subject,value,spread,prior,prior_spread,runs\n"
RESIDUALS = "software,kind,low,high,runs\n"
LEFT_OUT = "software,kind,median,mean,bias,runs\n"


def test_a_constant_is_read_with_its_spread() -> None:
    found = read_constants(CONSTANTS + "host_s_per_step,nemo,0.03,1.5,0.05,2.3,7\n")
    one = found["host_s_per_step", "nemo"]
    assert (one.value, one.spread) == (0.03, 1.5)


def test_a_line_of_comment_is_passed_over() -> None:
    assert read_residuals("# P10 and P90\n" + RESIDUALS + "nemo,dense,0.9,1.2,7\n")


def test_a_residual_is_read_by_software_and_kind() -> None:
    one = read_residuals(RESIDUALS + "nemo,dense,0.9,1.2,7\n")["nemo", "dense"]
    assert (one.low, one.high) == (0.9, 1.2)


def test_errors_of_runs_left_out_are_read_by_software_and_kind() -> None:
    one = read_left_out(LEFT_OUT + "nemo,dense,0.05,0.07,-0.01,7\n")["nemo", "dense"]
    assert (one.median, one.mean, one.bias, one.num_runs) == (0.05, 0.07, -0.01, 7)


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (read_constants, "constants.csv"),
        (read_residuals, "residuals.csv"),
        (read_left_out, "left_out.csv"),
    ],
)
@pytest.mark.parametrize("text", ["constant,value\nmatrix_share,0.8\n", ""])
def test_other_columns_are_refused_with_what_to_do(read: object, file: str, text: str) -> None:
    assert callable(read)
    with pytest.raises(ConfigError, match=file) as caught:
        read(text)
    assert "chipscale validate calibrate=" in str(caught.value)


def test_a_constant_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="matrix_shear is no constant") as caught:
        read_constants(CONSTANTS + "matrix_shear,h100_sxm,0.9,1.1,0.85,1.12,3\n")
    assert "matrix_share" in str(caught.value)


def test_what_is_shipped_has_runs_for_each_of_its_values() -> None:
    found = shipped_calibration()
    assert runs_of_constants().keys() == found.values.keys()
    assert runs_of_residuals().keys() == found.residuals.keys()
    assert min(runs_of_constants().values()) > 0
    assert {name for name, _ in found.values} <= set(NAMES)


def test_no_shipped_constant_is_wider_than_its_prior() -> None:
    wider = {
        key: one.spread
        for key, one in shipped_calibration().values.items()
        if one.spread > SPREADS[key[0]] * 1.001
    }
    assert not wider


def test_shipped_residuals_hold_the_prediction_itself() -> None:
    ends = [(one.low, one.high) for one in shipped_calibration().residuals.values()]
    assert all(low <= 1 <= high for low, high in ends)
    assert all(low < high for low, high in ends)

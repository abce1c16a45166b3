"""When two environments are of one kind of machine."""

from dataclasses import replace

from harness.pytest_plugin.baseline import chip_differences, version_differences
from tests.harness.sample_run import sample_environment

BASE = sample_environment()


def test_a_patch_of_the_driver_and_a_little_memory_are_no_difference() -> None:
    device = replace(BASE.device, driver="1.2.9", memory_bytes=96 * 2**30 - 1000)
    assert chip_differences(BASE, replace(BASE, device=device, host="node-8")) == ()


def test_what_makes_another_machine_is_named_with_both_values() -> None:
    device = replace(BASE.device, name="Other X2", driver="1.3.0")
    here = replace(BASE, device=device, variables=())
    assert chip_differences(BASE, here) == (
        "chip: Imaginary X1 and Other X2",
        "driver: 1.2 and 1.3",
        "OMP_NUM_THREADS: 8 and unset",
    )


def test_versions_are_told_and_are_no_other_machine() -> None:
    newer = replace(BASE, versions=(("torch", "2.14.0"), *BASE.versions[1:]))
    assert chip_differences(BASE, newer) == ()
    assert version_differences(BASE, newer) == ("torch: 2.13.0 and 2.14.0",)

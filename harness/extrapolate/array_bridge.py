"""Pipelines of many plans at once: arrays in, arrays out, as `pipeline` for one."""

import numpy as np

from harness.extrapolate.plans import Floats, Ints


def bubble_s(
    slowest_s: Floats,
    sum_s: Floats,
    *,
    pipeline: Ints | Floats,
    virtual_stages: Ints | Floats,
    num_microbatches: Ints | Floats,
) -> Floats:
    """Idle time of the slowest stage, as `pipeline.bubble_s`."""
    fill = (sum_s - slowest_s) / virtual_stages
    missing = np.maximum(0.0, pipeline - num_microbatches)
    waiting = (1 - 1 / virtual_stages) * missing * slowest_s
    return np.where(pipeline == 1, 0.0, fill + waiting)


def layers_in_flight(
    *, pipeline: Floats, virtual_stages: Floats, num_microbatches: Floats, stage: Floats
) -> Floats:
    """Microbatches whose activations a stage holds at once, as `pipeline.layers_in_flight`."""
    behind = pipeline - stage - 1
    # With fewer microbatches than stages there is one round, of all of them.
    length = np.ceil(num_microbatches / np.maximum(1.0, np.floor(num_microbatches / pipeline)))
    chunks = (2 * behind + 1 + (virtual_stages - 1) * length) / virtual_stages
    held = np.where(virtual_stages == 1, behind + 1, chunks)
    return np.minimum(num_microbatches, held)

"""What a pipeline costs beyond the work of its slowest stage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Forward and backward time of one microbatch, over the stages of a pipeline."""

    slowest_s: float
    sum_s: float
    """Of all stages, through which the first microbatch must go."""


def bubble_s(
    stages: StageTimes, *, pipeline: int, virtual_stages: int, num_microbatches: int
) -> float:
    """Idle time of the slowest stage in a 1F1B schedule, interleaved when stages are virtual.

    1F1B takes (m - 1) max T + sum T, so it idles sum T - max T; with v chunks per stage the fill
    and the drain are v times shorter. Fewer microbatches than stages leave each chunk but the
    last waiting for the first microbatch to come round: (v - 1)/v (p - m) T. Any m >= p is
    scheduled without a gap, in rounds of p to 2p - 1 microbatches.

    Source: Narayanan et al. (SC21, arXiv 2104.04473) section 2.2, (p - 1)/(v m) of the ideal
    time; rounds of any length: Llama 3 (arXiv 2407.21783) section 3.3.2.
    """
    if pipeline == 1:
        return 0.0
    fill = (stages.sum_s - stages.slowest_s) / virtual_stages
    missing = max(0, pipeline - num_microbatches)
    waiting = (virtual_stages - 1) / virtual_stages * missing * stages.slowest_s
    return fill + waiting


def stage_layers(num_layers: int, pipeline: int) -> tuple[int, int, int]:
    """Layers of an inner, the first and the last stage.

    Where layers do not divide evenly the last stage, which has the output head, and then the
    first, which has the embedding, have one less (Llama 3, arXiv 2407.21783 section 3.3.2).
    """
    if pipeline == 1:
        return num_layers, num_layers, num_layers
    most = -(-num_layers // pipeline)
    spare = most * pipeline - num_layers
    return most, most - (spare >= 2), most - (spare >= 1)


def layers_in_flight(
    layers: int, *, pipeline: int, virtual_stages: int, num_microbatches: int
) -> float:
    """Layers times microbatches whose activations the first stage holds at once.

    Source: Korthikanti et al. (MLSys 2023, arXiv 2205.05198) section 4.2: L/p layers of up to p
    microbatches, times 1 + (p - 1)/(p v) when interleaved; p is the length of a round.
    """
    held = float(min(num_microbatches, pipeline))
    if virtual_stages > 1:
        if num_microbatches >= pipeline > 1:
            held = num_microbatches / (num_microbatches // pipeline)
        held += (pipeline - 1) / virtual_stages
    return layers * min(held, float(num_microbatches))

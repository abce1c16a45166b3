"""Hybrid sharding: a part of the data group shares states by ZeRO, with replicas outside.

Source: Zhao et al., PyTorch FSDP (VLDB 2023, arXiv 2304.11277) section 3.2.2.
"""

from dataclasses import replace

from harness.errors import PlanError
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.plans import Bools, PlanTable
from harness.workload.plan import ParallelSpec


def sharded(plans: PlanTable, cluster: ClusterSpec, parallel: ParallelSpec) -> PlanTable:
    """The plans that can have the group that is asked for; all and those of a domain if none is.

    Weights are gathered for every microbatch under ZeRO 3 alone, which is why a group of neighbours
    is searched only there; in a pipeline replicas are no neighbours.
    """
    if parallel.shard_group is not None:
        return plans.rows(shards_fit(plans)) if parallel.shard_group else plans
    gathered = plans.rows((plans.zero_stage == 3) & (plans.pipeline == 1))
    group = cluster.tiers[0].chips // gathered.tensor
    is_part = (group > 1) & (group < gathered.data * gathered.context)
    grouped = replace(gathered, shard_group=group).rows(is_part)
    return plans.with_rows(grouped.rows(shards_fit(grouped)))


def shards_fit(plans: PlanTable) -> Bools:
    """Groups are of whole sequences, divide the data group, and hold whole groups of experts.

    Or they are parts of one, so that every chip has as many replicas.
    """
    group, chips = plans.shard_group, plans.tensor * plans.shard_group
    fits: Bools = (
        (plans.zero_stage >= 1)
        & (group % plans.context == 0)
        & (plans.data * plans.context % group == 0)
        & ((chips % plans.expert == 0) | (plans.expert % chips == 0))
    )
    return fits


def check_shard_group(parallel: ParallelSpec) -> None:
    """Refuse a group that the fixed degrees rule out.

    Raises:
        PlanError: with the nearest that they allow.
    """
    group, context, data = parallel.shard_group, parallel.context, parallel.data
    if not group:
        return
    if parallel.zero_stage == 0:
        raise PlanError(
            f"parallel.shard_group: {group} chips share nothing under parallel.zero_stage=0. "
            "Set parallel.zero_stage=1 or more, or parallel.shard_group=0."
        )
    if context is None:
        return
    if data is None and group % context:
        raise PlanError(
            f"parallel.shard_group: {group} is no multiple of the {context} chips of a sequence. "
            f"Set parallel.shard_group={max(1, round(group / context)) * context}."
        )
    if data is not None and (group % context or data * context % group):
        allowed = [context * replicas for replicas in range(1, data + 1) if data % replicas == 0]
        raise PlanError(
            f"parallel.shard_group: {group} does not divide the {data * context} chips of data "
            f"{data} x context {context} in whole sequences. Set parallel.shard_group="
            f"{min(allowed, key=lambda fits: abs(fits - group))}."
        )

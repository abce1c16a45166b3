"""The replicas that a model and a cluster allow."""

from collections.abc import Iterator

from harness.errors import PlanError
from harness.extrapolate.cluster import ClusterSpec
from harness.extrapolate.serving.spec import ServingSpec
from harness.serving_projection import ReplicaPlan
from harness.workload.model import ModelSpec
from harness.workload.step import Shard, check_shard

MAX_TENSOR = 64
MAX_PIPELINE = 16
MAX_EXPERT = 512
"""Beyond these an exchange in each layer takes longer than what it saves."""


def divisors(number: int, most: int) -> tuple[int, ...]:
    """The divisors of a number up to `most`."""
    return tuple(d for d in range(1, min(number, most) + 1) if number % d == 0)


def _tensor_degrees(model: ModelSpec, cluster: ClusterSpec, spec: ServingSpec) -> tuple[int, ...]:
    if spec.tensor is not None:
        check_shard(model, Shard(tensor=spec.tensor), "serving")
        return (spec.tensor,)
    most = min(MAX_TENSOR, cluster.scaleup_chips)
    return tuple(d for d in divisors(model.num_heads, most) if _divides(model, d))


def _divides(model: ModelSpec, tensor: int) -> bool:
    try:
        check_shard(model, Shard(tensor=tensor))
    except PlanError:
        return False
    return True


def _expert_degrees(model: ModelSpec, spec: ServingSpec, tensor: int) -> tuple[int, ...]:
    if model.experts is None:
        return (1,)
    if spec.expert is not None:
        return (spec.expert,) if spec.expert % tensor == 0 else ()
    found = divisors(model.experts.num_experts, MAX_EXPERT)
    return tuple(expert for expert in found if expert % tensor == 0)


def _pipelines(model: ModelSpec, spec: ServingSpec) -> tuple[int, ...]:
    if spec.pipeline is not None:
        return (spec.pipeline,)
    return tuple(p for p in (1, 2, 4, 8, MAX_PIPELINE) if p <= model.num_layers)


def check_fixed(model: ModelSpec, cluster: ClusterSpec, spec: ServingSpec) -> None:
    """Refuse degrees that are set and that no replica can have.

    Raises:
        PlanError: with the key, the value, and the nearest that works.
    """
    if spec.pipeline is not None and spec.pipeline > model.num_layers:
        raise PlanError(
            f"serving.pipeline: {spec.pipeline} stages are more than the {model.num_layers} layers "
            f"of {model.name}. Set serving.pipeline={model.num_layers} or less."
        )
    if spec.expert is not None:
        if model.experts is None:
            raise PlanError(
                f"serving.expert: {spec.expert} chips would share the experts of {model.name}, "
                "which has none. Set serving.expert=null."
            )
        check_shard(model, Shard(expert=spec.expert), "serving")
        if spec.tensor is not None and spec.expert % spec.tensor:
            raise PlanError(
                f"serving.expert: {spec.expert} is not a multiple of serving.tensor, which is "
                f"{spec.tensor}. Set serving.expert="
                f"{max(1, round(spec.expert / spec.tensor)) * spec.tensor}."
            )
    if spec.tensor is not None and spec.tensor > cluster.scaleup_chips:
        fits = max(
            (d for d in divisors(model.num_heads, cluster.scaleup_chips) if _divides(model, d)),
            default=1,
        )
        raise PlanError(
            f"serving.tensor: {spec.tensor} is more than the {cluster.scaleup_chips} chips of a "
            f"scale-up domain of {cluster.name}. Set serving.tensor={fits} or less."
        )


def replica_plans(
    model: ModelSpec, cluster: ClusterSpec, spec: ServingSpec
) -> Iterator[ReplicaPlan]:
    """Every legal replica that the cluster has chips for.

    Raises:
        PlanError: when a degree that is set does not divide the model.
    """
    check_fixed(model, cluster, spec)
    for plan in legal_plans(model, cluster, spec):
        if plan.num_chips <= cluster.num_chips:
            yield plan


def least_chips(model: ModelSpec, cluster: ClusterSpec, spec: ServingSpec) -> int:
    """Chips of the smallest replica with the degrees that are set."""
    return min(plan.num_chips for plan in legal_plans(model, cluster, spec))


def legal_plans(model: ModelSpec, cluster: ClusterSpec, spec: ServingSpec) -> Iterator[ReplicaPlan]:
    """Every legal replica, however many chips it has."""
    for tensor in _tensor_degrees(model, cluster, spec):
        for expert in _expert_degrees(model, spec, tensor):
            for pipeline in _pipelines(model, spec):
                yield ReplicaPlan(tensor=tensor, pipeline=pipeline, expert=expert)

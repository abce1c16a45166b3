"""What one chip computes for a model and a shard of it: problems with counts, by phase.

A suite measures these problems, and the projection sums their times; there is no other list.
What has no op (the cache of latent attention, dropout) is a `copy` that moves the same bytes, with
a role that says so.

Assumptions: routing to experts is balanced unless a shard says otherwise; the sequence is cut so
that each chip of a context group has the same number of query-key pairs; projections from one input
are one matrix product.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from harness.errors import PlanError
from harness.workload.divisors import largest_divisor
from harness.workload.model import ModelSpec, StateSpace
from kernels.op import Cost, Mode, Problem, problem


class Phase(StrEnum):
    """What the chip is doing."""

    TRAINING = "training"
    PREFILL = "prefill"
    DECODE = "decode"


class Direction(StrEnum):
    """When in a step the work is done."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    """Once per step, after all microbatches."""


class LayerKind(StrEnum):
    """Which feed-forward part a layer has."""

    DENSE = "dense"
    MOE = "moe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of a model and of a batch that one chip works on at a time."""

    tensor: int = 1
    """Chips that share each matrix; norms and residuals are cut along the sequence instead."""
    expert: int = 1
    """Chips that share the experts; they are taken from the data, context and tensor groups."""
    context: int = 1
    """Chips that share one sequence."""
    expert_load: float = 1.0
    """Tokens of the busiest expert over the mean of all; 1 is an even load."""
    microbatch_size: int = 1
    """Sequences at a time; in decoding, sequences that are each given one token."""
    sequence_length: int = 4096
    """Tokens per sequence; in decoding, tokens already in the cache with the new one."""
    dtype: str = "bf16"
    linear_dtype: str = ""
    """Type in which layers multiply by their weights, as `fp8`; empty for `dtype`."""
    is_attention_fused: bool = True
    """False writes the scores to memory and multiplies all of them, as before FlashAttention."""
    are_weights_trained: bool = True
    """False has no gradients of weights, as where adapters beside them are trained (LoRA)."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A problem, how often it is computed, and what it is in the model."""

    problem: Problem
    count: int
    role: str
    """`attention qkv`, `mlp down`, `optimizer` ...; one that ends in `as copy` stands for bytes."""
    phase: Phase
    direction: Direction = Direction.FORWARD
    num_experts: int = 0
    """Of a product of that many experts as one; 0 for any other work."""


def chip_load(model: ModelSpec, shard: Shard) -> float:
    """Tokens that the experts of the busiest chip get, over the mean of all chips.

    As much as the busiest expert has where a chip has one, none more where it has all. Of n on a
    chip, placed without regard to their load, the mean spreads less than a single one by
    sqrt((E - n) / (n (E - 1))); the busiest of few chips is taken to be as far out as that of many
    experts.

    Source: Cochran, Sampling Techniques (3rd edition, 1977), theorem 2.2.
    """
    if model.experts is None or shard.expert == 1:
        return 1.0
    total = model.experts.num_experts
    own = total / shard.expert
    return 1.0 + (shard.expert_load - 1.0) * math.sqrt((total - own) / (own * (total - 1)))


def check_shard(model: ModelSpec, shard: Shard, key: str = "shard") -> None:
    """Refuse a shard that cuts the model unevenly.

    Raises:
        PlanError: with the arithmetic and the nearest degree that divides.
    """
    for axis, size, what in (
        ("tensor", model.num_heads, "query heads"),
        ("tensor", model.ffn, "columns of the feed-forward network"),
        ("tensor", model.state_space.num_heads if model.state_space else 0, "state space heads"),
        ("tensor", model.experts.expert_ffn if model.experts else 0, "columns of an expert"),
        ("expert", model.experts.num_experts if model.experts else 1, "experts"),
        ("context", shard.sequence_length, "tokens of a sequence"),
    ):
        degree = getattr(shard, axis)
        if degree < 1 or size % degree:
            fits = largest_divisor(max(1, size), degree)
            raise PlanError(
                f"{key}.{axis}: {degree} does not divide the {size} {what} of {model.name}. "
                f"Set {key}.{axis}={fits}, or another divisor of {size}."
            )
    kv_heads = model.num_kv_heads
    if model.latent_attention is None and kv_heads % shard.tensor and shard.tensor % kv_heads:
        raise PlanError(
            f"{key}.tensor: {shard.tensor} and the {kv_heads} key-value heads of {model.name} do "
            f"not divide each other. Set {key}.tensor={math.gcd(shard.tensor, kv_heads)}."
        )


SCAN = "state space scan"
"""How the role of the product begins that stands for a scan with as many FLOPs."""


def _ceil(value: float) -> int:
    return max(1, math.ceil(value))


PAGE_TOKENS = 64
"""Tokens of a page of the cache when decoding, as FlashMLA has them
(https://github.com/deepseek-ai/FlashMLA); vLLM's default is 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One layer of one chip's shard: the sizes that every item is made of."""

    model: ModelSpec
    shard: Shard
    phase: Phase

    @property
    def tokens(self) -> int:
        """Tokens that the matrices of this chip see at a time."""
        shard = self.shard
        if self.phase is Phase.DECODE:
            return shard.microbatch_size
        return _ceil(shard.microbatch_size * shard.sequence_length / shard.context)

    @property
    def own_tokens(self) -> int:
        """Tokens of this chip where work is cut along the sequence."""
        return _ceil(self.tokens / self.shard.tensor)

    @property
    def heads(self) -> int:
        return self.model.num_heads // self.shard.tensor

    @property
    def kv_heads(self) -> int:
        return max(1, self.model.num_kv_heads // self.shard.tensor)

    def item(
        self,
        op: str,
        role: str,
        /,
        dtype: str = "",
        variant: str = "",
        **axes: int,
    ) -> WorkItem:
        made = problem(op, dtype or self.shard.dtype, Mode.FORWARD, variant, **axes)
        return WorkItem(made, 1, role, self.phase)

    def gemm(self, role: str, rows: int, columns: int, depth: int) -> WorkItem:
        return self.item("gemm", role, M=rows, N=columns, K=depth)

    def linear(self, role: str, rows: int, columns: int, depth: int) -> list[WorkItem]:
        """The product with a weight of the layer, in 8 or 4 bits where the shard says so.

        Then its input is quantized first. Weights are quantized once for all microbatches, which
        is left out; head, router and attention core keep the type of the model.

        Source: Transformer Engine's FP8 recipe, Micikevicius et al. (arXiv 2209.05433) section 3.
        """
        dtype = self.shard.linear_dtype
        if not dtype:
            return [self.gemm(role, rows, columns, depth)]
        return [
            _quantized(self, role, dtype, rows, depth),
            self.item("scaled_gemm", role, dtype, "row", M=rows, N=columns, K=depth),
        ]

    def experts_linear(
        self, role: str, rows: int, num_experts: int, columns: int, depth: int
    ) -> list[WorkItem]:
        """The same for the rows of all experts of this chip.

        In 8 bits training does all as one product. Serving may give an expert few rows, so that
        the weights of each are what is read, and keeps them apart.
        """
        dtype = self.shard.linear_dtype
        if not dtype:
            return [self.experts_gemm(role, rows, num_experts, columns, depth)]
        if self.phase is Phase.TRAINING:
            made = self.linear(f"{role}, experts as one", rows, columns, depth)
            return [replace(item, num_experts=num_experts) for item in made]
        grouped = self.experts_gemm(role, rows, num_experts, columns, depth)
        return [
            _quantized(self, role, dtype, rows, depth),
            replace(grouped, problem=replace(grouped.problem, dtype=dtype)),
        ]

    def experts_gemm(
        self, role: str, rows: int, num_experts: int, columns: int, depth: int
    ) -> WorkItem:
        """The products of the rows that went to the experts of this chip, evenly."""
        return self.item(
            "grouped_gemm", role, variant="uniform", R=rows, E=num_experts, N=columns, K=depth
        )

    def moved(self, op: str, role: str) -> WorkItem:
        """Rows between the order of tokens and that of experts."""
        experts = self.model.experts
        assert experts is not None
        top_k, num_experts = experts.num_experts_per_token, experts.num_experts
        hidden = self.model.expert_hidden
        return self.item(op, role, T=self.own_tokens, K=top_k, E=num_experts, H=hidden)

    def activation(self, role: str, rows: int, width: int) -> WorkItem:
        if self.model.is_ffn_gated:
            return self.item("swiglu", f"{role} activation", T=rows, F=width)
        return self.item("gelu", f"{role} activation", N=rows * width)

    def copied(self, role: str, num_elements: float) -> WorkItem:
        return self.item("copy", f"{role}, as copy", N=_ceil(num_elements))

    def norm(self, role: str, rows: int, width: int) -> WorkItem:
        op = "layer_norm" if self.model.has_bias else "rms_norm"
        return self.item(op, role, T=rows, H=width)

    def residual(self, role: str) -> WorkItem:
        return self.item("add", role, N=self.own_tokens * self.model.hidden)

    def mixer(self, kind: LayerKind) -> list[WorkItem]:
        """What mixes the tokens of a layer of that kind."""
        if kind is LayerKind.MOE and self.model.state_space is not None:
            return self._state_space(self.model.state_space)
        return self.attention()

    def _state_space(self, space: StateSpace) -> list[WorkItem]:
        """A Mamba-2 block; its scan is given as a product and copies with the same work.

        The convolution and the gate read and write their channels; in decoding so is the state.

        Source: Dao and Gu (arXiv 2405.21060) sections 6 and 7; FLOPs as
        `ModelSpec.scan_flops_per_token`.
        """
        tensor, tokens = self.shard.tensor, self.tokens
        width, heads = space.width // tensor, max(1, space.num_heads // tensor)
        convolved = width + 2 * max(1, space.num_groups // tensor) * space.state
        items = [
            self.norm("state space norm", self.own_tokens, self.model.hidden),
            *self.linear("state space in", tokens, convolved + width + heads, self.model.hidden),
            self.copied("state space convolution", tokens * convolved),
            self.gemm(f"{SCAN}, heads as one", tokens, 7 * width // 2, space.state),
        ]
        if self.phase is Phase.DECODE:
            items.append(self.copied("state space state", tokens * width * space.state))
        return [
            *items,
            self.copied("state space gate", 1.5 * tokens * width),
            self.norm("state space inner norm", tokens, width),
            *self.linear("state space out", tokens, self.model.hidden, width),
            self.residual("state space residual"),
        ]

    def attention(self) -> list[WorkItem]:
        if self.model.latent_attention is not None:
            return self._latent_attention()
        model, heads, kv_heads = self.model, self.heads, self.kv_heads
        width = model.head_dim
        items = [
            self.norm("attention norm", self.own_tokens, model.hidden),
            *self.linear(
                "attention qkv", self.tokens, (heads + 2 * kv_heads) * width, model.hidden
            ),
        ]
        if model.has_qk_norm:
            items.append(self.norm("query norm", self.tokens * heads, width))
            items.append(self.norm("key norm", self.tokens * kv_heads, width))
        if not model.num_learned_positions:
            items.append(self.item("rope", "rope", T=self.tokens, H=heads + kv_heads, D=width))
        if self.phase is not Phase.TRAINING:
            items.append(self._cache_write(kv_heads, width))
        core = [self._core(heads, kv_heads, width, width)]
        if self.phase is Phase.DECODE:
            core = [self._paged_core(heads, kv_heads, width)]
        elif not self.shard.is_attention_fused:
            core = self._unfused_core(heads, width)
        return [
            *items,
            *core,
            *self.linear("attention out", self.tokens, model.hidden, heads * width),
            self.residual("attention residual"),
        ]

    def _core(self, heads: int, kv_heads: int, query_dim: int, value_dim: int) -> WorkItem:
        shard = self.shard
        queries, keys = 1, shard.sequence_length
        if self.phase is not Phase.DECODE:
            queries = _ceil(shard.sequence_length / shard.context)
            # The bottom-right causal problem with this many keys has exactly 1/context of the
            # sequence's query-key pairs: queries * (length + 1) / 2.
            keys = (shard.sequence_length + queries) // 2
        return self.item(
            "attention",
            "attention core",
            variant="causal",
            B=shard.microbatch_size,
            Q=queries,
            S=keys,
            H=heads,
            G=kv_heads,
            D=query_dim,
            E=value_dim,
        )

    def _cache_write(self, kv_heads: int, width: int) -> WorkItem:
        pages = _ceil(self.shard.microbatch_size * self.shard.sequence_length / PAGE_TOKENS)
        return self.item(
            "kv_cache_write",
            "kv cache write",
            T=self.tokens,
            N=pages,
            P=PAGE_TOKENS,
            G=kv_heads,
            D=width,
        )

    def _paged_core(self, heads: int, kv_heads: int, width: int) -> WorkItem:
        shard = self.shard
        return self.item(
            "paged_decode",
            "attention core",
            B=shard.microbatch_size,
            S=shard.sequence_length,
            H=heads,
            G=kv_heads,
            D=width,
            P=PAGE_TOKENS,
        )

    def _latent_core(self, heads: int, kv_rank: int, rope: int) -> WorkItem:
        shard = self.shard
        return self.item(
            "mla_decode",
            "attention core",
            B=shard.microbatch_size,
            S=shard.sequence_length,
            H=heads,
            C=kv_rank,
            R=rope,
            P=PAGE_TOKENS,
        )

    def _unfused_core(self, heads: int, width: int) -> list[WorkItem]:
        """Scores, softmax and values as ops of their own, masked pairs computed like others.

        The products of all heads are one product with as many FLOPs. Softmax and dropout each
        read and write the scores; dropout writes a mask of one byte too.

        Source: Korthikanti et al. (arXiv 2205.05198) section 4.1, what each of them keeps.
        """
        length = self.shard.sequence_length
        rows = self.shard.microbatch_size * heads * _ceil(length / self.shard.context)
        return [
            self.gemm("attention core scores", rows, length, width),
            self.item("softmax", "attention core softmax", T=rows, V=length),
            self.copied("attention core dropout", 1.25 * rows * length),
            self.gemm("attention core values", rows, width, length),
        ]

    def _latent_attention(self) -> list[WorkItem]:
        model, latent, heads = self.model, self.model.latent_attention, self.heads
        assert latent is not None
        nope, rope, value = latent.qk_nope_head_dim, latent.qk_rope_head_dim, latent.v_head_dim
        kv_rank, q_rank = latent.kv_lora_rank, latent.q_lora_rank
        # The projections down are small and whole on every chip, so each does its own tokens.
        items = [self.norm("attention norm", self.own_tokens, model.hidden)]
        if q_rank:
            items += [
                *self.linear("query down", self.own_tokens, q_rank, model.hidden),
                self.norm("query norm", self.own_tokens, q_rank),
            ]
        items += [
            *self.linear("query up", self.tokens, heads * (nope + rope), q_rank or model.hidden),
            *self.linear("key-value down", self.own_tokens, kv_rank + rope, model.hidden),
            self.norm("key-value norm", self.own_tokens, kv_rank),
            self.item("rope", "rope", T=self.tokens, H=heads + 1, D=rope),
        ]
        if self.phase is not Phase.TRAINING:
            items.append(self.copied("kv cache write", self.tokens * (kv_rank + rope)))
        if self.phase is Phase.DECODE:
            # Absorbed form (DeepSeek-V2, arXiv 2405.04434 section 2.1.2): the keys and values stay
            # compressed. The products per head are one product with as many FLOPs and weights.
            items += [
                self.gemm("query absorb, heads as one", self.tokens, kv_rank * heads, nope),
                self._latent_core(heads, kv_rank, rope),
                self.gemm("value absorb, heads as one", self.tokens, value * heads, kv_rank),
            ]
        else:
            items += [
                *self.linear("key-value up", self.tokens, heads * (nope + value), kv_rank),
                self._core(heads, heads, nope + rope, value),
            ]
        return [
            *items,
            *self.linear("attention out", self.tokens, model.hidden, heads * value),
            self.residual("attention residual"),
        ]

    def _network(self, role: str, rows: int, width: int, hidden: int) -> list[WorkItem]:
        """A feed-forward network of that width on so many rows."""
        gated = self.model.is_ffn_gated
        up = f"{role} gate up" if gated else f"{role} up"
        return [
            *self.linear(up, rows, (2 if gated else 1) * width, hidden),
            self.activation(role, rows, width),
            *self.linear(f"{role} down", rows, hidden, width),
        ]

    def feed_forward(self, kind: LayerKind) -> list[WorkItem]:
        model, tensor = self.model, self.shard.tensor
        if kind is LayerKind.DENSE and not model.ffn:
            return []
        items = [self.norm("mlp norm", self.own_tokens, model.hidden)]
        if kind is LayerKind.DENSE:
            items += self._network("mlp", self.tokens, model.ffn // tensor, model.hidden)
        else:
            items += self._mixture()
        return [*items, self.residual("mlp residual")]

    def _mixture(self) -> list[WorkItem]:
        experts, hidden = self.model.experts, self.model.hidden
        assert experts is not None
        inner = self.model.expert_hidden
        top_k = experts.num_experts_per_token
        # All chips wait for the one whose experts have most tokens.
        sent = _ceil(round(self.own_tokens * top_k * chip_load(self.model, self.shard), 6))
        # Tokens that the chips of one expert group route at once. In decoding few tokens may
        # leave experts untouched: E (1 - (1 - K/E)^T) of E are expected to be reached.
        routed = self.own_tokens * self.shard.expert
        reached = experts.num_experts * (1 - (1 - top_k / experts.num_experts) ** routed)
        local = _ceil(round(reached / self.shard.expert, 6))
        width, gated = experts.expert_ffn, 2 if self.model.is_ffn_gated else 1
        items = [
            self.gemm("router", self.own_tokens, experts.num_experts, hidden),
            self.item(
                "moe_route",
                "routing",
                dtype="fp32",  # Chosen in fp32 whatever the type of the model is.
                variant=experts.routing,
                T=self.own_tokens,
                E=experts.num_experts,
                K=top_k,
            ),
            *self._latent_projection("expert latent down", inner, hidden),
            self.moved("moe_permute", "expert dispatch"),
            *self.experts_linear("expert gate up", sent, local, gated * width, inner),
            self.activation("expert", sent, width),
            *self.experts_linear("expert down", sent, local, inner, width),
            self.moved("moe_unpermute", "expert combine"),
            *self._latent_projection("expert latent up", hidden, inner),
        ]
        if experts.num_shared_experts:
            width = experts.num_shared_experts * experts.expert_ffn // self.shard.tensor
            items += self._network("shared expert", self.tokens, width, hidden)
        return items

    def _latent_projection(self, role: str, columns: int, depth: int) -> list[WorkItem]:
        """Between the width of the model and that of its experts, where the two differ."""
        return [] if columns == depth else self.linear(role, self.own_tokens, columns, depth)

    def prediction(self) -> list[WorkItem]:
        """What a module that predicts a further token does in training."""
        model = self.model
        kind = LayerKind.MOE if model.experts is not None else LayerKind.DENSE
        return [
            self.norm("prediction state norm", self.own_tokens, model.hidden),
            self.norm("prediction token norm", self.own_tokens, model.hidden),
            *self.linear("prediction projection", self.own_tokens, model.hidden, 2 * model.hidden),
            *self.attention(),
            *self.feed_forward(kind),
            *self.head(),
        ]

    def head(self) -> list[WorkItem]:
        """The output matrix and, in training, the loss; the vocabulary is cut by tensor."""
        model, columns = self.model, _ceil(self.model.vocab / self.shard.tensor)
        rows = self.tokens
        if self.phase is Phase.PREFILL:
            rows = self.shard.microbatch_size  # Only the last token of a prompt is continued.
        items = [
            self.norm("final norm", min(self.own_tokens, rows), model.hidden),
            self.gemm("head", rows, columns, model.hidden),
        ]
        if self.phase is Phase.TRAINING:
            items.append(self.item("cross_entropy", "loss", T=rows, V=columns))
        return items

    def embedding(self) -> list[WorkItem]:
        model = self.model
        rows = _ceil(model.vocab / self.shard.tensor)
        return [self.item("embedding", "embedding", T=self.tokens, V=rows, H=model.hidden)]


FOR_WEIGHTS = ", for its weight"
"""How the role of what only the gradient of a weight needs ends, in 8 bits."""


def _quantized(layer: _Layer, role: str, dtype: str, rows: int, width: int) -> WorkItem:
    return layer.item("quantize", f"{role} input", dtype, "token", T=rows, H=width)


def _scaled_gradients(item: WorkItem) -> list[WorkItem]:
    """The gradients of an 8-bit product, which are two products of the forward kind.

    That of the input sums over columns, so the output's gradient is quantized along them. That of
    the weight sums over tokens, so both its operands are quantized again along those. Each of
    several experts has a weight of its own, whose gradient sums over its own rows alone.
    """
    product = item.problem
    rows, columns, depth = product["M"], product["N"], product["K"]
    experts = max(1, item.num_experts)
    own_rows, all_columns = _ceil(rows / experts), columns * experts

    def again(op: str, variant: str, what: str = "", /, **axes: int) -> WorkItem:
        made = problem(op, product.dtype, Mode.FORWARD, variant, **axes)
        role = f"{item.role}{what}"
        return replace(item, problem=made, role=role, direction=Direction.BACKWARD)

    return [
        again("quantize", "token", T=rows, H=columns),
        again("scaled_gemm", product.variant, M=rows, N=depth, K=columns),
        again("quantize", "token", FOR_WEIGHTS, T=columns, H=rows),
        again("quantize", "token", FOR_WEIGHTS, T=depth, H=rows),
        again("scaled_gemm", product.variant, FOR_WEIGHTS, M=all_columns, N=depth, K=own_rows),
    ]


def backward(items: Iterable[WorkItem]) -> tuple[WorkItem, ...]:
    """The gradients of forward work, in reverse order.

    A matrix product has one for its activations and one for its weights; a `copy` that stands
    for a sum or a gather moves as many bytes back.
    """
    found: list[WorkItem] = []
    for item in reversed(tuple(items)):
        base = replace(item, direction=Direction.BACKWARD)
        if item.problem.op == "quantize":
            continue  # Its gradient passes through as it is.
        if item.problem.op == "scaled_gemm":
            found += _scaled_gradients(item)
            continue
        if item.problem.op == "moe_route":
            continue  # The gradient of T x K weights is no work worth the name.
        if item.problem.op == "add":
            found.append(base)  # The gradients of both branches are summed.
        elif item.problem.op in ("gemm", "grouped_gemm"):
            for mode in (Mode.DGRAD, Mode.WGRAD):
                found.append(replace(base, problem=replace(item.problem, mode=mode)))
        elif item.problem.op == "copy":
            found.append(base)
        else:
            found.append(replace(base, problem=replace(item.problem, mode=Mode.BACKWARD)))
    return tuple(found)


KEPT_LISTS = 8192
"""Lists of work that are kept: a search asks for the same few hundred, a calibration for some
thousand, again and again."""


@lru_cache(maxsize=KEPT_LISTS)
def layer_work(
    model: ModelSpec, shard: Shard, kind: LayerKind, phase: Phase = Phase.TRAINING
) -> tuple[WorkItem, ...]:
    """One layer of one microbatch on one chip; in training with its backward pass."""
    layer = _Layer(model=model, shard=shard, phase=phase)
    forward = (*layer.mixer(kind), *layer.feed_forward(kind))
    if phase is not Phase.TRAINING:
        return forward
    gradients = backward(forward)
    if not shard.are_weights_trained:
        gradients = tuple(item for item in gradients if not _is_of_weights(item))
    return (*forward, *gradients)


def _is_of_weights(item: WorkItem) -> bool:
    """It is part of the gradient of a weight: its product, or an operand made for it alone."""
    return item.problem.mode is Mode.WGRAD or item.role.endswith(FOR_WEIGHTS)


@lru_cache(maxsize=KEPT_LISTS)
def head_work(
    model: ModelSpec, shard: Shard, phase: Phase = Phase.TRAINING
) -> tuple[WorkItem, ...]:
    """The output head and loss of one microbatch, on a chip of the last stage.

    In training with the modules that predict further tokens, which are on that stage too.
    """
    layer = _Layer(model=model, shard=shard, phase=phase)
    forward = tuple(layer.head())
    if phase is Phase.TRAINING and model.num_prediction_modules:
        forward += merged(layer.prediction() * model.num_prediction_modules)
    return (*forward, *backward(forward)) if phase is Phase.TRAINING else forward


@lru_cache(maxsize=KEPT_LISTS)
def embedding_work(
    model: ModelSpec, shard: Shard, phase: Phase = Phase.TRAINING
) -> tuple[WorkItem, ...]:
    """The embedding of one microbatch, on a chip of the first stage."""
    forward = tuple(_Layer(model=model, shard=shard, phase=phase).embedding())
    return (*forward, *backward(forward)) if phase is Phase.TRAINING else forward


def optimizer_work(num_parameters: int, dtype: str) -> tuple[WorkItem, ...]:
    """The update of so many parameters on one chip, once per step."""
    made = problem("adamw", dtype, N=_ceil(num_parameters))
    return (WorkItem(made, 1, "optimizer", Phase.TRAINING, Direction.UPDATE),)


def layer_parameters_per_chip(model: ModelSpec, shard: Shard, kind: LayerKind) -> tuple[int, int]:
    """Weights of one layer on one chip: those every chip of the group has, and its experts.

    Query, output and feed-forward matrices are cut by tensor; the narrow projections of latent
    attention, norms and routers are whole on every chip.
    """
    tensor = shard.tensor
    latent = model.latent_attention
    has_experts = kind is LayerKind.MOE
    whole = model.vector_parameters(has_experts)
    cut = model.mixer_parameters(has_experts)
    if has_experts and model.state_space is not None:
        pass  # All of its projections are cut by heads.
    elif latent is not None:
        down = model.hidden * (latent.q_lora_rank + latent.kv_lora_rank + latent.qk_rope_head_dim)
        whole, cut = whole + down, cut - down
    elif tensor > model.num_kv_heads:
        # Fewer key-value heads than chips: each chip still holds one.
        kv = 2 * model.hidden * model.head_dim
        cut += kv * (tensor - model.num_kv_heads)
    if not has_experts:
        return whole + (cut + model.dense_ffn_matrix_parameters) // tensor, 0
    experts = model.experts
    assert experts is not None
    router = model.router_parameters
    shared = model.shared_ffn_matrix_parameters - router
    own = experts.num_experts // shard.expert * model.expert_parameters
    return whole + router + (cut + shared) // tensor, own


def prediction_parameters_per_chip(model: ModelSpec, shard: Shard) -> tuple[int, int]:
    """Weights of all prediction modules on one chip, as `layer_parameters_per_chip`."""
    plain = replace(model, state_space=None)
    kind = LayerKind.DENSE if model.experts is None else LayerKind.MOE
    layer = layer_parameters_per_chip(plain, shard, kind)
    projection = 2 * model.hidden**2 + 3 * model.hidden
    modules = 1 if model.is_prediction_shared else model.num_prediction_modules
    return modules * (layer[0] + projection), modules * layer[1]


def phase_problems(model: ModelSpec, shard: Shard, phase: Phase) -> tuple[WorkItem, ...]:
    """Every distinct piece of work of a phase: one layer of each kind, head, loss, optimizer.

    Counts are those of one layer; a whole step is built in `extrapolate`, which multiplies by the
    layers of a stage. Decoding gives one token to each of `microbatch_size` sequences with a
    cache of `sequence_length`.

    Raises:
        PlanError: when the shard does not divide the model.
    """
    check_shard(model, shard)
    kinds = []
    if model.num_dense_layers:
        kinds.append(LayerKind.DENSE)
    if model.num_moe_layers:
        kinds.append(LayerKind.MOE)
    items = list(embedding_work(model, shard, phase))
    for kind in kinds:
        items += layer_work(model, shard, kind, phase)
    items += head_work(model, shard, phase)
    if phase is Phase.TRAINING:
        largest = max(sum(layer_parameters_per_chip(model, shard, kind)) for kind in kinds)
        items += optimizer_work(largest, shard.dtype)
    return merged(items)


def merged(items: Iterable[WorkItem]) -> tuple[WorkItem, ...]:
    """Work with the same problem, role and direction once, its counts added."""
    counts: dict[WorkItem, int] = {}
    for item in items:
        key = replace(item, count=1)
        counts[key] = counts.get(key, 0) + item.count
    return tuple(replace(key, count=count) for key, count in counts.items())


def total_cost(items: Iterable[WorkItem], cost: Callable[[Problem], Cost]) -> Cost:
    """The cost of all items together, each times its count."""
    flops = read = written = 0
    for item in items:
        one = cost(item.problem)
        flops += item.count * one.flops
        read += item.count * one.bytes_read
        written += item.count * one.bytes_written
    return Cost(flops=flops, bytes_read=read, bytes_written=written)

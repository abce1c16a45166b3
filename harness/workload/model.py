"""ModelSpec: the architecture of a language model, and what follows from it by counting."""

from dataclasses import dataclass
from enum import StrEnum


class CausalCount(StrEnum):
    """How many query-key pairs of causal attention are counted; published figures differ."""

    CAUSAL = "causal"
    """Only the pairs a token may see, (s + 1) / 2 of s per token: the least work."""
    FULL = "full"
    """All s of them, as PaLM (arXiv 2204.02311 appendix B) and Megatron-LM count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1)."""

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """Mamba-2 in place of the attention of layers (arXiv 2405.21060 sections 6 and 7).

    Layers with experts have it; where a hybrid has layers of attention alone, they are its dense
    layers, with a feed-forward network of width 0.
    """

    num_heads: int
    head_dim: int
    state: int
    """Width of the state of each channel."""
    num_groups: int
    """Groups of heads that share their input and output maps of the state."""
    convolution: int = 4
    """Tokens that the depthwise convolution before it sees."""

    @property
    def width(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Channels that are convolved: the input, and the maps of each group."""
        return self.width + 2 * self.num_groups * self.state

    @property
    def projected(self) -> int:
        """Columns of the projection in: what is convolved, a gate and a step size per head."""
        return self.convolved + self.width + self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the dense feed-forward network."""

    num_experts: int
    num_experts_per_token: int
    expert_ffn: int
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    """The first layers, which keep a dense feed-forward network."""
    routing: str = "softmax"
    """How experts are chosen: a variant of the op `moe_route`."""
    latent_width: int = 0
    """Width to which tokens are projected before they are sent to experts and work there; 0 is
    that of the model (LatentMoE, NVIDIA Nemotron 3 Super)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer."""

    name: str
    """The name of its file in `configs/model/`, as `llama3_8b`."""
    title: str
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn: int
    """Width of the dense feed-forward network; 0 when every layer has experts."""
    vocab: int
    is_embedding_tied: bool
    source: str
    """Where the published configuration is."""
    latent_attention: LatentAttention | None = None
    experts: Experts | None = None
    published_parameters: float | None = None
    """As the makers state it; a test compares the count derived from the configuration."""
    is_ffn_gated: bool = True
    """SwiGLU with three matrices; False is a plain network with two, as in GPT-3."""
    has_bias: bool = False
    """Biases on every matrix and LayerNorm instead of RMSNorm, as in GPT-3."""
    has_qk_norm: bool = False
    """An RMSNorm over each query and key head, as in Qwen3."""
    num_learned_positions: int = 0
    """Rows of a learned position table; 0 means rotary positions."""
    state_space: StateSpace | None = None
    """What layers with experts have in place of attention."""
    num_prediction_modules: int = 0
    """Tokens predicted beyond the next one in training: for each, a projection of two states to
    one, a layer of the last kind with attention, and the output head again (DeepSeek-V3, arXiv
    2412.19437 section 2.2)."""
    is_prediction_shared: bool = False
    """The modules are one and the same, called again for each token."""

    @property
    def num_moe_layers(self) -> int:
        """Layers with experts."""
        return 0 if self.experts is None else self.num_layers - self.experts.num_dense_layers

    @property
    def num_dense_layers(self) -> int:
        """Layers with a dense feed-forward network."""
        return self.num_layers - self.num_moe_layers

    @property
    def query_key_dim(self) -> int:
        """Size of one query or key head, the rotary part included."""
        latent = self.latent_attention
        return (
            self.head_dim if latent is None else latent.qk_nope_head_dim + latent.qk_rope_head_dim
        )

    @property
    def value_dim(self) -> int:
        """Size of one value head."""
        return self.head_dim if self.latent_attention is None else self.latent_attention.v_head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Elements one layer keeps per token in the cache when decoding.

        Source: DeepSeek-V2 (arXiv 2405.04434) table 1.
        """
        latent = self.latent_attention
        if latent is not None:
            return latent.kv_lora_rank + latent.qk_rope_head_dim
        return 2 * self.num_kv_heads * self.head_dim

    @property
    def attention_matrix_parameters(self) -> int:
        """Weights of the matrices of one attention block."""
        h, heads = self.hidden, self.num_heads
        latent = self.latent_attention
        if latent is None:
            return 2 * h * heads * self.head_dim + 2 * h * self.num_kv_heads * self.head_dim
        queries = heads * self.query_key_dim
        query = (
            h * latent.q_lora_rank + latent.q_lora_rank * queries
            if latent.q_lora_rank
            else h * queries
        )
        return (
            query
            + h * (latent.kv_lora_rank + latent.qk_rope_head_dim)
            + latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
            + heads * latent.v_head_dim * h
        )

    @property
    def state_space_matrix_parameters(self) -> int:
        """Weights of the projections of one state space block."""
        space = self.state_space
        return 0 if space is None else self.hidden * (space.projected + space.width)

    def mixer_parameters(self, has_experts: bool) -> int:
        """Matrix weights of what mixes the tokens of a layer, attention or a state space."""
        if has_experts and self.state_space is not None:
            return self.state_space_matrix_parameters
        return self.attention_matrix_parameters

    @property
    def num_attention_layers(self) -> int:
        """Layers with attention."""
        return self.num_layers if self.state_space is None else self.num_dense_layers

    @property
    def dense_ffn_matrix_parameters(self) -> int:
        """Weights of the matrices of one dense feed-forward network."""
        return (3 if self.is_ffn_gated else 2) * self.hidden * self.ffn

    @property
    def expert_parameters(self) -> int:
        """Weights of one expert."""
        if self.experts is None:
            return 0
        return (3 if self.is_ffn_gated else 2) * self.expert_hidden * self.experts.expert_ffn

    @property
    def expert_hidden(self) -> int:
        """Width of the tokens that experts are sent."""
        return self.hidden if self.experts is None else self.experts.latent_width or self.hidden

    @property
    def router_parameters(self) -> int:
        """Weights that every chip has whole: the router, and projections to the experts' width."""
        if self.experts is None:
            return 0
        count = self.hidden * self.experts.num_experts
        if self.experts.latent_width:
            count += 2 * self.hidden * self.experts.latent_width
        return count

    @property
    def shared_ffn_matrix_parameters(self) -> int:
        """Weights of the router and the shared experts of one layer with experts."""
        if self.experts is None:
            return 0
        one = (3 if self.is_ffn_gated else 2) * self.hidden * self.experts.expert_ffn
        return self.router_parameters + self.experts.num_shared_experts * one

    def vector_parameters(self, has_experts: bool) -> int:
        """Norm weights and biases of one layer; routing biases of DeepSeek-V3 are not trained."""
        if has_experts and self.state_space is not None:
            # Two norms, one over the channels, the convolution with its bias; per head the decay,
            # the skip and the step's bias.
            space = self.state_space
            convolution = (space.convolution + 1) * space.convolved
            return 2 * self.hidden + space.width + convolution + 3 * space.num_heads
        if not has_experts and not self.ffn:
            return self.hidden * (2 if self.has_bias else 1)
        return self.vector_parameters_per_layer

    @property
    def vector_parameters_per_layer(self) -> int:
        """Norm weights and biases of a layer with attention and a feed-forward network."""
        count = 2 * self.hidden * (2 if self.has_bias else 1)
        if self.has_qk_norm:
            count += 2 * self.head_dim
        if self.latent_attention is not None:
            count += self.latent_attention.q_lora_rank + self.latent_attention.kv_lora_rank
        if self.has_bias:
            heads = self.num_heads + 2 * self.num_kv_heads
            count += heads * self.head_dim + self.hidden
            count += self.ffn * (2 if self.is_ffn_gated else 1) + self.hidden
        return count

    @property
    def embedding_parameters(self) -> int:
        """The token table, and the position table where there is one."""
        return (self.vocab + self.num_learned_positions) * self.hidden

    @property
    def head_parameters(self) -> int:
        """The output matrix; 0 when it is the token table again."""
        return 0 if self.is_embedding_tied else self.vocab * self.hidden

    @property
    def final_norm_parameters(self) -> int:
        """Weights of the norm before the output matrix."""
        return self.hidden * (2 if self.has_bias else 1)

    def layer_parameters(self, has_experts: bool) -> int:
        """All weights of one layer, every expert included."""
        count = self.mixer_parameters(has_experts) + self.vector_parameters(has_experts)
        if not has_experts:
            return count + self.dense_ffn_matrix_parameters
        assert self.experts is not None, "a layer has experts only in a model that has some"
        experts = self.experts.num_experts * self.expert_parameters
        return count + self.shared_ffn_matrix_parameters + experts

    @property
    def num_parameters(self) -> int:
        """All weights but those of prediction modules, which are not counted when published."""
        layers = self.num_dense_layers * self.layer_parameters(has_experts=False)
        if self.num_moe_layers:
            layers += self.num_moe_layers * self.layer_parameters(has_experts=True)
        ends = self.embedding_parameters + self.final_norm_parameters + self.head_parameters
        return layers + ends

    @property
    def num_active_parameters(self) -> int:
        """Weights that work on one token, embeddings included."""
        if self.experts is None:
            return self.num_parameters
        idle = self.experts.num_experts - self.experts.num_experts_per_token
        return self.num_parameters - self.num_moe_layers * idle * self.expert_parameters

    @property
    def active_expert_parameters(self) -> int:
        """Weights of one layer's router and experts that work on one token; 0 without experts."""
        if self.experts is None:
            return 0
        active = self.experts.num_experts_per_token * self.expert_parameters
        return self.shared_ffn_matrix_parameters + active

    @property
    def scan_flops_per_token(self) -> float:
        """Forward FLOPs of a state space block beside its projections.

        Source: Megatron-LM megatron/training/training.py, num_floating_point_operations: 7 for
        each channel and each of its states.
        """
        space = self.state_space
        return 0.0 if space is None else 7.0 * space.width * space.state

    @property
    def prediction_parameters(self) -> int:
        """Weights of the modules that predict further tokens; the output head is the model's."""
        if not self.num_prediction_modules:
            return 0
        one = self.attention_matrix_parameters + self.vector_parameters_per_layer
        # The projection, a norm of each of its two halves, and a norm before the head.
        one += 2 * self.hidden**2 + 3 * self.hidden
        one += self.shared_ffn_matrix_parameters or self.dense_ffn_matrix_parameters
        if self.experts is not None:
            one += self.experts.num_experts * self.expert_parameters
        return one if self.is_prediction_shared else self.num_prediction_modules * one

    def attention_flops_per_token(
        self, sequence_length: int, count: CausalCount = CausalCount.CAUSAL
    ) -> float:
        """Forward FLOPs of scores and weighted values in one layer, mean over the sequence."""
        keys = (sequence_length + 1) / 2 if count is CausalCount.CAUSAL else sequence_length
        return 2.0 * keys * self.num_heads * (self.query_key_dim + self.value_dim)

    def forward_flops_per_token(
        self, sequence_length: int, count: CausalCount = CausalCount.CAUSAL
    ) -> float:
        """FLOPs of one forward pass per token: matrices, attention and the output head.

        A multiply-add is 2 FLOPs; norms, activations and the embedding gather count as none.

        Source: Narayanan et al. (SC21, arXiv 2104.04473) section 5.1, with grouped heads, gated
        networks, experts and latent attention counted by their own matrices.
        """
        mixers = self.num_moe_layers * self.mixer_parameters(has_experts=True)
        mixers += self.num_dense_layers * self.mixer_parameters(has_experts=False)
        matrices = mixers + self.num_dense_layers * self.dense_ffn_matrix_parameters
        if self.experts is not None:
            matrices += self.num_moe_layers * self.active_expert_parameters
        matrices += self.vocab * self.hidden
        attention = self.num_attention_layers * self.attention_flops_per_token(
            sequence_length, count
        )
        attention += (self.num_layers - self.num_attention_layers) * self.scan_flops_per_token
        if self.num_prediction_modules:
            again = self.attention_matrix_parameters + 2 * self.hidden**2
            again += self.vocab * self.hidden
            again += self.active_expert_parameters or self.dense_ffn_matrix_parameters
            matrices += self.num_prediction_modules * again
            attention += self.num_prediction_modules * self.attention_flops_per_token(
                sequence_length, count
            )
        return 2.0 * matrices + attention

    def model_flops_per_token(
        self, sequence_length: int, count: CausalCount = CausalCount.CAUSAL
    ) -> float:
        """FLOPs of one training step per token: forward and twice that backward.

        Recomputed activations are not model FLOPs.
        """
        return 3.0 * self.forward_flops_per_token(sequence_length, count)

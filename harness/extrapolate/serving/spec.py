"""ServingSpec: what is asked of a serving cluster; what is None is searched."""

from dataclasses import dataclass

from harness.serving_projection import ServingMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Tokens that are guessed and checked in one pass.

    Source: Leviathan, Kalman and Matias, Fast Inference from Transformers via Speculative
    Decoding (arXiv 2211.17192), section 3.
    """

    num_tokens: int = 0
    """Guessed per pass; 0 is plain decoding."""
    acceptance: float = 0.85
    """Probability that a guess is right, given that those before it were."""
    draft_cost: float = 0.02
    """Time of one guess over that of a pass."""

    @property
    def tokens_per_pass(self) -> float:
        """Expected tokens that a pass gives: (1 - a^(k+1)) / (1 - a)."""
        if self.acceptance == 1.0:
            return self.num_tokens + 1.0
        power = self.acceptance ** (self.num_tokens + 1)
        return float((1 - power) / (1 - self.acceptance))

    @property
    def checked_tokens(self) -> int:
        """Tokens of each sequence that one pass computes."""
        return self.num_tokens + 1

    @property
    def pass_share(self) -> float:
        """Time of a pass with its guesses over that of the pass alone."""
        return 1 + self.num_tokens * self.draft_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSpec:
    """The requests, their limits, and how the model may be run."""

    input_tokens: int
    output_tokens: int
    ttft_s: float
    """Limit on the mean time to the first token."""
    tpot_s: float
    """Limit on the mean time per output token."""
    cached_input_share: float = 0.0
    """Share of the prompt whose keys and values are there already."""
    dtype: str = "bf16"
    """Type of the model but for the weights of its layers."""
    weight_dtype: str = ""
    """Type of the layers' products; empty for `dtype`."""
    cache_dtype: str = ""
    """Type of cached keys and values; empty for `dtype`."""
    dispatch_dtype: str = "fp8"
    """Type in which tokens are sent to their experts; they come back in `dtype`."""
    modes: tuple[ServingMode, ...] = tuple(ServingMode)
    tensor: int | None = None
    pipeline: int | None = None
    expert: int | None = None
    chunk_tokens: int | None = None
    has_graphs: bool = True
    """Kernels of a pass are launched as one graph, not one by one."""
    is_overlapped: bool = True
    """Two halves of a batch take turns in computing and exchanging, where that is faster."""
    speculation: Speculation = Speculation()
    price_per_chip_hour: float | None = None
    """None for the price of the cluster."""
    source: str = ""

    @property
    def mean_context(self) -> int:
        """Tokens cached for a sequence in flight, mean over its output."""
        return max(1, self.input_tokens + self.output_tokens // 2)

    @property
    def new_input_tokens(self) -> int:
        """Tokens of a prompt that must be read."""
        return max(1, round(self.input_tokens * (1 - self.cached_input_share)))

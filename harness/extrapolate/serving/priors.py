"""What the model of serving takes from elsewhere, beside the constants that training has too."""

from harness.extrapolate.priors import Prior

GRAPH_KERNEL_S = Prior(
    value=1.5e-6,
    spread=2.0,
    source="ramp, drain and gap of a kernel in a CUDA graph; the gap alone is 0.5 us of 3.4 "
    "(NVIDIA, Getting Started with CUDA Graphs, developer.nvidia.com/blog/cuda-graphs, recalled); "
    "ramp and drain assumed",
)
EAGER_KERNEL_S = Prior(
    value=4e-6,
    spread=2.0,
    source="as FIXED_S_PER_KERNEL: launch gap and drain of one kernel, 3 to 5 us; assumed",
)
HOST_S_PER_KERNEL = Prior(
    value=10e-6,
    spread=2.0,
    source="assumed, as for training: the host needs about 10 us to launch an op in eager "
    "PyTorch, and a pass takes at least that for each",
)
HOST_S_PER_PASS = Prior(
    value=0.5e-3,
    spread=3.0,
    source="assumed: scheduling and sampled tokens that an asynchronous scheduler does not hide",
)
EXPERT_LOAD = Prior(
    value=1.45,
    spread=1.25,
    source="load of the busiest chip over the mean. CloudMatrix384 (arXiv 2506.12708) prefills "
    "6,688 tokens/s per chip with ideal and 5,655 with default balance, a ratio of 1.18; it "
    "follows from this load where experts and the exchange that shows are 0.4 of a prefill, as "
    "they are here for that configuration. Only the ratio enters, not the rates",
)
"""The excess over 1 is what the spread is of."""
NETWORK_EFFICIENCY = Prior(
    value=1.0,
    spread=1.15,
    source="DeepEP V1 reaches 39 to 63 GB/s of a 50 GB/s port where 46 are taken "
    "(deepseek-ai/DeepEP docs/legacy.md)",
)
MODEL_ERROR = Prior(
    value=1.0,
    spread=1.4,
    source="assumed: what no list of ops has (schedulers, uneven lengths, fragmentation); of six "
    "published rates five are within 1.2, the mean of a day of production within 1.6",
)
MEMORY_FOR_MODEL = Prior(
    value=0.9,
    spread=1.05,
    source="vLLM's default gpu_memory_utilization: the share of memory for weights, work space "
    "and cache",
)
CACHE_FILL = Prior(
    value=0.96,
    spread=1.02,
    source="paged caches waste less than 4 % (Kwon et al., PagedAttention, arXiv 2309.06180)",
)
CACHE_SIGMAS = 1.645
"""The cache must hold the sum of the sequences' lengths in 95 % of the moments."""
ROUTER_IMBALANCE = Prior(
    value=0.05,
    spread=2.0,
    source="assumed: requests differ in length and replicas are chosen by load",
)
MAX_UTILIZATION = 0.95
"""Share of the time in which prompts are read, beyond which queues are too long; assumed."""
MAX_PREFILL_TOKENS = 16384
"""Tokens of a pass of prefill: those of a chip in CloudMatrix384 (arXiv 2506.12708)."""
ROUTED_NODES = 4
"""Nodes to which a token of a model with routing by groups is sent at most: DeepSeek-V3
(arXiv 2412.19437) section 2.1.2."""
POWER_SHARE_OF_HOST = Prior(
    value=0.22,
    spread=1.5,
    source="MLPerf Training v4.0 power: 855 W per H100 of 700 W, hosts and network included",
)
POWER_USAGE_EFFECTIVENESS = Prior(
    value=1.25,
    spread=1.15,
    source="assumed: 1.1 is reported by the largest operators, 1.5 is the mean of surveys",
)
SAMPLES = 1000
"""Draws of the constants; P10 and P90 of them move by about 1 % from one seed to another."""
SEED = 20260101

"""The tiles that the kernels of attention launch with, by family of devices and size of a head.

Each is the largest that was found to need no memory for registers in causal, windowed and packed
attention alike, by Triton 3.7.1; `kernels.resources` compiles them for every architecture.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from kernels import triton_support
from kernels.triton_support import next_power_of_2
from kernels.tuning import Config, Tunable, config


class Tiles(NamedTuple):
    """BLOCK_M queries and BLOCK_N keys at a time of the three large kernels, and how."""

    forward: Config
    dkdv: Config
    dq: Config


def _tile(queries: int, keys: int, num_warps: int, num_stages: int) -> Config:
    return config(num_warps, num_stages, BLOCK_M=queries, BLOCK_N=keys)


# The widest head whose accumulators (queries x E in fp32) and operands fit a multiprocessor.
MAX_HEAD = 256

# The least number of rows of a tensor-core product.
MIN_ROWS = 16

_HEADS_OF_256 = Tiles(_tile(64, 64, 8, 2), _tile(64, 32, 8, 1), _tile(64, 32, 8, 2))

# Of 16-bit types, by family and padded head size. A program keeps its queries and the fp32
# accumulator in registers, keys and values pass through shared memory, num_stages of them at once.
TILES: Mapping[str, Mapping[int, Tiles]] = {
    # Without the products of sm_90, which read shared memory, operands are registers too.
    "sm_80": {
        64: Tiles(_tile(128, 128, 8, 3), _tile(32, 128, 8, 2), _tile(128, 64, 8, 2)),
        128: Tiles(_tile(128, 64, 8, 3), _tile(64, 64, 8, 1), _tile(128, 32, 8, 2)),
        256: _HEADS_OF_256,
    },
    "sm_90": {
        64: Tiles(_tile(128, 128, 8, 3), _tile(64, 128, 8, 2), _tile(128, 64, 8, 2)),
        128: Tiles(_tile(128, 64, 8, 3), _tile(32, 128, 8, 2), _tile(128, 64, 8, 2)),
        256: _HEADS_OF_256,
    },
    "sm_100": {
        64: Tiles(_tile(128, 128, 8, 3), _tile(64, 128, 8, 1), _tile(64, 128, 8, 2)),
        128: Tiles(_tile(128, 64, 8, 3), _tile(64, 128, 8, 1), _tile(128, 64, 8, 2)),
        256: _HEADS_OF_256,
    },
    # sm_86, sm_89 and sm_120 multiply as sm_80 does and let a block use 99 KiB.
    "cuda_99k": {
        64: Tiles(_tile(128, 64, 8, 3), _tile(32, 128, 8, 2), _tile(128, 64, 8, 2)),
        128: Tiles(_tile(128, 64, 8, 3), _tile(64, 64, 8, 1), _tile(128, 32, 8, 2)),
        256: Tiles(_tile(64, 32, 8, 2), _tile(32, 32, 8, 1), _tile(64, 32, 8, 1)),
    },
    # 64 KiB of LDS per workgroup on gfx942, where a pipeline of 2 stages keeps one copy.
    "hip": {
        64: Tiles(_tile(128, 64, 4, 2), _tile(32, 128, 4, 1), _tile(128, 32, 4, 1)),
        128: Tiles(_tile(128, 64, 4, 1), _tile(32, 64, 4, 1), _tile(64, 32, 4, 1)),
        256: Tiles(_tile(64, 32, 4, 1), _tile(16, 32, 4, 1), _tile(32, 16, 4, 1)),
    },
}

# fp32 is multiplied without tensor cores on NVIDIA and passes entirely through registers.
TILES_32_BIT: Mapping[int, Tiles] = {
    64: Tiles(_tile(32, 32, 4, 1), _tile(32, 32, 4, 1), _tile(32, 32, 4, 1)),
    128: Tiles(_tile(32, 32, 8, 1), _tile(16, 32, 8, 1), _tile(32, 16, 8, 1)),
    256: Tiles(_tile(16, 16, 8, 1), _tile(16, 16, 8, 1), _tile(16, 16, 8, 1)),
}

# Where the masks of an op cost registers, tiles that replace those above: by the op, the family and
# the padded head, of 16-bit types and of fp32. ptxas spills 8 to 120 bytes a thread without them.
_Overrides = Mapping[tuple[str, str, int], Mapping[str, Config]]

OVERRIDES: _Overrides = {
    ("window_attention", "sm_100", 64): {"forward": _tile(128, 64, 8, 3)},
    ("window_attention", "cuda_99k", 128): {"forward": _tile(128, 32, 8, 3)},
}
OVERRIDES_32_BIT: _Overrides = {
    ("window_attention", "sm_80", 64): {"dkdv": _tile(32, 16, 4, 1)},
    ("window_attention", "sm_90", 64): {"dkdv": _tile(32, 16, 4, 1)},
    ("window_attention", "sm_90", 128): {"dkdv": _tile(32, 16, 8, 1)},
    ("window_attention", "cuda_99k", 128): {"dkdv": _tile(32, 16, 8, 1)},
    ("varlen_attention", "cuda_99k", 128): {
        "dkdv": _tile(32, 16, 8, 1),
        "dq": _tile(16, 32, 8, 1),
    },
}

# Worth trying for `attention` besides the tiles above, with heads of up to 128.
MORE: Mapping[str, Mapping[str, tuple[Config, ...]]] = {
    "sm_80": {"forward": (_tile(64, 64, 4, 3),)},
    "sm_90": {
        "forward": (_tile(128, 128, 8, 2), _tile(64, 64, 4, 3)),
        "dkdv": (_tile(64, 64, 8, 1),),
        "dq": (_tile(64, 128, 8, 2),),
    },
    "sm_100": {"forward": (_tile(64, 64, 4, 3),)},
    "cuda_99k": {"forward": (_tile(64, 64, 4, 2),)},
}


def family_of(device: torch.device) -> str:
    """The key of `TILES` for a device; those of sm_90 where no GPU interprets the kernels."""
    return next((name for name in triton_support.families(device) if name in TILES), "sm_90")


def tiles_of(op: str, family: str, head_size: int, dtype: torch.dtype) -> Tiles:
    """The tiles of an op for a padded head size on a family of devices."""
    is_32_bit = dtype == torch.float32
    table = TILES_32_BIT if is_32_bit else TILES[family]
    overrides = OVERRIDES_32_BIT if is_32_bit else OVERRIDES
    head = next(largest for largest in table if head_size <= largest)
    return table[head]._replace(**overrides.get((op, family, head), {}))


def padded(head_size: int) -> int:
    """The power of two that a head is padded to, and at least a tensor core's least size."""
    return max(next_power_of_2(head_size), MIN_ROWS)


def more_of(op: str, family: str, part: str) -> tuple[Config, ...]:
    """What a search tries besides the tiles of an op."""
    return MORE.get(family, {}).get(part, ()) if op == "attention" else ()


def tunables(op: str) -> tuple[Tunable, ...]:
    """What may be searched for an op that launches these kernels."""

    def searched(part: str, family: str) -> tuple[Config, ...]:
        tiles = (tiles_of(op, family, head, torch.bfloat16) for head in TILES[family])
        defaults = (getattr(one, part) for one in tiles)
        return tuple(dict.fromkeys((*defaults, *more_of(op, family, part))))

    return tuple(
        Tunable(kernel=f"{op}.{part}", configs={family: searched(part, family) for family in TILES})
        for part in Tiles._fields
    )

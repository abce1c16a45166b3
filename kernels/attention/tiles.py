"""The tiles that the kernels of attention launch with, by size of a head and by device."""

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

# By padded head size. 16 bits: a program keeps its queries and the fp32 accumulator in registers,
# keys and values pass through shared memory, num_stages of them at once.
TILES_16_BIT = {
    64: Tiles(_tile(128, 128, 8, 3), _tile(64, 128, 8, 2), _tile(128, 64, 8, 2)),
    128: Tiles(_tile(128, 64, 8, 3), _tile(32, 128, 8, 2), _tile(128, 64, 8, 2)),
    256: Tiles(_tile(64, 64, 8, 2), _tile(64, 32, 8, 1), _tile(64, 32, 8, 2)),
}
# From sm_100 on a second stage makes dk and dv of heads up to 128 spill (204 bytes a thread at
# 32 x 128, 68 at 64 x 128 for heads of 64); with one stage 64 x 128 does not, and sm_90 does (28).
TILES_16_BIT_SM100 = TILES_16_BIT | {
    head: TILES_16_BIT[head]._replace(dkdv=_tile(64, 128, 8, 1)) for head in (64, 128)
}
# Of these, only heads of 256 take more than the 99 KiB that a block may use on sm_86, sm_89 and
# sm_120: up to 128 KiB on sm_80 and 160 KiB on sm_90. Without the products of sm_90, which read
# shared memory, dk and dv of heads of 128 spill 64 bytes at 32 x 128 and none at 64 x 64; heads of
# 64 spill 32 there on sm_80 and 8 on sm_120, the least that was found (40 and 52 with two stages).
TILES_16_BIT_99K = {
    64: TILES_16_BIT[64]._replace(dkdv=_tile(64, 64, 8, 1)),
    128: TILES_16_BIT[128]._replace(dkdv=_tile(64, 64, 8, 1)),
    256: Tiles(_tile(64, 32, 8, 2), _tile(32, 32, 8, 1), _tile(64, 32, 8, 1)),
}
TILES_16_BIT_SM80 = TILES_16_BIT | {
    head: TILES_16_BIT[head]._replace(dkdv=TILES_16_BIT_99K[head].dkdv) for head in (64, 128)
}
LEAST_SHARED_BYTES = 160 * 1024
# AMD has 64 KiB of LDS per workgroup on gfx942, and its pipeline of 2 stages keeps one copy there.
TILES_16_BIT_AMD = {
    64: Tiles(_tile(128, 64, 4, 2), _tile(32, 128, 4, 1), _tile(128, 32, 4, 1)),
    128: Tiles(_tile(128, 64, 4, 1), _tile(32, 64, 4, 1), _tile(64, 32, 4, 1)),
    256: Tiles(_tile(64, 32, 4, 1), _tile(16, 32, 4, 1), _tile(32, 16, 4, 1)),
}
# fp32 is multiplied without tensor cores on NVIDIA and passes entirely through registers.
TILES_32_BIT = {
    64: Tiles(_tile(32, 32, 4, 1), _tile(32, 32, 4, 1), _tile(32, 32, 4, 1)),
    128: Tiles(_tile(32, 32, 8, 1), _tile(16, 32, 8, 1), _tile(32, 16, 8, 1)),
    256: Tiles(_tile(16, 16, 8, 1), _tile(16, 16, 8, 1), _tile(16, 16, 8, 1)),
}

FAMILIES = {"cuda": TILES_16_BIT, "cuda_99k": TILES_16_BIT_99K, "hip": TILES_16_BIT_AMD}

# Worth trying for heads of up to 128 besides the tiles above. 230 registers at most on sm_90.
MORE: dict[str, dict[str, tuple[Config, ...]]] = {
    "cuda": {
        "forward": (_tile(128, 128, 8, 2), _tile(64, 64, 4, 3)),
        "dkdv": (TILES_16_BIT_SM100[128].dkdv, TILES_16_BIT_SM80[128].dkdv),
        "dq": (_tile(64, 128, 8, 2),),
    },
    "cuda_99k": {"forward": (_tile(64, 64, 4, 2),), "dkdv": (), "dq": ()},
    "hip": {"forward": (), "dkdv": (), "dq": ()},
}


def tiles_for(
    head_size: int, dtype: torch.dtype, is_amd: bool, shared_bytes: int, capability: int = 9
) -> Tiles:
    """The tiles for a padded head size, where a block may use that much shared memory.

    The capability is the major one of an NVIDIA GPU.
    """
    table = TILES_16_BIT
    if shared_bytes < LEAST_SHARED_BYTES:
        table = TILES_16_BIT_99K
    elif capability >= 10:
        table = TILES_16_BIT_SM100
    elif capability < 9:
        table = TILES_16_BIT_SM80
    if is_amd:
        table = TILES_16_BIT_AMD
    if dtype == torch.float32:
        table = TILES_32_BIT
    return next(tiles for largest, tiles in table.items() if head_size <= largest)


def tiles_on(device: torch.device, head_size: int, dtype: torch.dtype) -> Tiles:
    """The tiles for a padded head size on a device."""
    shared_bytes = triton_support.shared_memory_bytes(device)
    capability = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return tiles_for(head_size, dtype, triton_support.is_amd(), shared_bytes, capability)


def padded(head_size: int) -> int:
    """The power of two that a head is padded to, and at least a tensor core's least size."""
    return max(next_power_of_2(head_size), MIN_ROWS)


def tunables(op: str, *heads: int) -> tuple[Tunable, ...]:
    """What may be searched for an op that launches these kernels.

    Args:
        op: The name of the op.
        heads: The padded head sizes whose default tiles are tried; all, and more, without any.
    """

    def searched(part: str, family: str) -> tuple[Config, ...]:
        tables = FAMILIES[family]
        defaults = (getattr(tables[head], part) for head in heads or tables)
        return tuple(dict.fromkeys((*defaults, *(() if heads else MORE[family][part]))))

    return tuple(
        Tunable(
            kernel=f"{op}.{part}", configs={family: searched(part, family) for family in FAMILIES}
        )
        for part in Tiles._fields
    )

"""Tiles of a matrix product: their order, their configurations and which of them is taken."""

import torch

from kernels import triton_support
from kernels.triton_support import cdiv, tl, triton
from kernels.tuning import Config, config

GROUP_ROWS = 8
"""Rows of tiles that run at the same time and share the columns they read in L2."""

DESCRIPTOR_ROWS = 65
"""Fewer rows than this read each weight for so few products that memory decides, and small tiles by
pointers give more of them at once than one persistent program for each multiprocessor."""

_ARCHITECTURES = {9: "sm_90", 10: "sm_100"}


def descriptor_architecture(device: torch.device) -> str:
    """`sm_90` or `sm_100`, on which tensor descriptors become TMA and feed wgmma or tcgen05.

    Else nothing: sm_120 has TMA, but the products of sm_80, which read shared memory as the kernels
    by pointers do.
    """
    return _ARCHITECTURES.get(triton_support.compute_capability(device)[0], "")


@triton.jit
def tile_at(index, num_rows, num_columns, GROUP_M: tl.constexpr):
    """Row and column of a tile; GROUP_M rows of tiles go together, column after column.

    Tiles that run at the same time then share their columns of b in L2.
    """
    group = index // (GROUP_M * num_columns)
    first_row = group * GROUP_M
    rows_in_group = tl.minimum(num_rows - first_row, GROUP_M)
    within = index % (GROUP_M * num_columns)
    return first_row + within % rows_in_group, within // rows_in_group


def tile_config(num_warps: int, num_stages: int, rows: int, columns: int, depth: int) -> Config:
    """A tile of a kernel by pointers."""
    return config(num_warps, num_stages, BLOCK_M=rows, BLOCK_N=columns, BLOCK_K=depth)


def pipelined(num_warps: int, num_stages: int, *tile: int, stores: int = 2) -> Config:
    """All warps load and multiply, in one loop over tiles and depth."""
    rows, columns, depth = tile
    return config(
        num_warps, num_stages, BLOCK_M=rows, BLOCK_N=columns, BLOCK_K=depth, STORES=stores,
        WARP_SPECIALIZE=0, FLATTEN=1,
    )  # fmt: skip


def specialized(num_stages: int, *tile: int, stores: int, flatten: int) -> Config:
    """One group of warps loads while others multiply."""
    rows, columns, depth = tile
    return config(
        4, num_stages, BLOCK_M=rows, BLOCK_N=columns, BLOCK_K=depth, STORES=stores,
        WARP_SPECIALIZE=1, FLATTEN=flatten,
    )  # fmt: skip


def label(tile: Config) -> str:
    """Rows, columns and depth, as `128x256x64`."""
    shape = "x".join(str(tile[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    is_specialized = dict(tile.blocks).get("WARP_SPECIALIZE", 0)
    return f"{shape} specialized" if is_specialized else shape


def _time(tile: Config, rows: int, columns: int, num_multiprocessors: int) -> int:
    """Estimate of the time of all tiles, in units of a product; it only orders tiles.

    All multiprocessors compute a tile each until none is left. A tile takes its products and,
    for each row and column, the time of 32 of them to be loaded: a tile of 128 x 128 is then 9 %
    slower for its size than one of 128 x 256, one of 64 x 64 is 45 % slower.
    """
    height, width = tile["BLOCK_M"], tile["BLOCK_N"]
    waves = cdiv(cdiv(rows, height) * cdiv(columns, width), num_multiprocessors)
    return waves * (height * width + 32 * (height + width))


def heuristic(
    tiles: tuple[Config, ...], rows: int, columns: int, num_multiprocessors: int
) -> Config:
    """The tile that a chip with so many multiprocessors is estimated to finish first.

    A tile of 16 rows is for as many rows or fewer, and then the only one.
    """
    decode = [tile for tile in tiles if tile["BLOCK_M"] == 16]
    if decode and rows <= 16:
        return decode[0]
    return min(
        (tile for tile in tiles if tile not in decode),
        key=lambda tile: _time(tile, rows, columns, num_multiprocessors),
    )


def takes_descriptors(*tensors: torch.Tensor) -> bool:
    """Whether TMA can read matrices or stacks of them: 16-byte aligned, and so are their rows."""
    return all(
        tensor.data_ptr() % 16 == 0
        # All but that of neighbours.
        and all(stride * tensor.element_size() % 16 == 0 for stride in sorted(tensor.stride())[1:])
        for tensor in tensors
    )

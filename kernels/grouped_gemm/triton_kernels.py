"""The kernels of a mixture's products: rows by pointers and by tensor descriptors, and weights."""

from kernels.tiles import tile_at
from kernels.triton_support import tl, triton


@triton.jit
def tiles_up_to(offsets_ptr, E, num_columns, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr):
    """The first tile after those of each expert and of all before it."""
    experts = tl.arange(0, BLOCK_E)
    starts = tl.load(offsets_ptr + experts, mask=experts < E, other=0)
    ends = tl.load(offsets_ptr + 1 + experts, mask=experts < E, other=0)
    return tl.cumsum(tl.cdiv(ends - starts, BLOCK_M) * num_columns, 0)


@triton.jit
def find_tile(
    tile, last_tiles, offsets_ptr, num_columns, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr
):
    """The expert of a tile, its first row and their number, and the tile's place among them."""
    is_before = last_tiles <= tile
    expert = tl.sum(is_before.to(tl.int32), 0)
    within_expert = tile - tl.max(tl.where(is_before, last_tiles, 0), 0)
    start_row = tl.load(offsets_ptr + expert)
    num_expert_rows = tl.load(offsets_ptr + expert + 1) - start_row
    num_rows = tl.cdiv(num_expert_rows, BLOCK_M)
    tile_m, tile_n = tile_at(within_expert, num_rows, num_columns, GROUP_M)
    return expert, start_row, num_expert_rows, tile_m, tile_n


@triton.jit
def rows_kernel(
    a_ptr, b_ptr, c_ptr, offsets_ptr, E, N, K, stride_be, stride_bk, stride_bn,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    """c[r,N] = a[r,K] @ b[e(r),K,N]; a and c are dense.

    A program takes every so-many-th tile of all experts' tiles, whose number only the device knows.
    """
    num_columns = tl.cdiv(N, BLOCK_N)
    last_tiles = tiles_up_to(offsets_ptr, E, num_columns, BLOCK_E, BLOCK_M)
    num_tiles = tl.max(last_tiles, 0)
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        expert, start_row, num_expert_rows, tile_m, tile_n = find_tile(
            tile, last_tiles, offsets_ptr, num_columns, BLOCK_M, GROUP_M
        )

        # The start of a tile is a 64-bit offset; inside a tile 32 bits do.
        start_m = start_row.to(tl.int64) + tile_m * BLOCK_M
        start_n = tile_n.to(tl.int64) * BLOCK_N
        mask_m = m < num_expert_rows - tile_m * BLOCK_M
        mask_n = n < N - start_n
        # Rows past the expert's are its last one again: their products are not stored, and a mask
        # of loads costs registers.
        read_m = tl.minimum(m, num_expert_rows - tile_m * BLOCK_M - 1)
        a_ptrs = a_ptr + start_m * K + (read_m[:, None] * K + k[None, :])
        b_ptrs = b_ptr + (expert.to(tl.int64) * stride_be + start_n * stride_bn)
        b_ptrs += k[:, None] * stride_bk + n[None, :] * stride_bn

        c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for start_k in range(0, K, BLOCK_K):
            mask_k = k < K - start_k
            a = tl.load(a_ptrs, mask=mask_k[None, :], other=0.0)
            b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
            c = tl.dot(a, b, c, input_precision="ieee")
            a_ptrs += BLOCK_K
            b_ptrs += BLOCK_K * stride_bk

        c_ptrs = c_ptr + start_m * N + start_n + (m[:, None] * N + n[None, :])
        tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def descriptor_kernel(
    a, b, c_ptr, offsets_ptr, E, N, K,
    B_IS_NK: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    """As `rows_kernel`, with tensor descriptors of a[R,K] and of b[E,N,K] or, else, b[E,K,N].

    The descriptors know where the matrices end. Rows of the next expert that come with the last
    tile are multiplied and not stored.
    """
    num_columns = tl.cdiv(N, BLOCK_N)
    last_tiles = tiles_up_to(offsets_ptr, E, num_columns, BLOCK_E, BLOCK_M)
    num_tiles = tl.max(last_tiles, 0)
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        expert, start_row, num_expert_rows, tile_m, tile_n = find_tile(
            tile, last_tiles, offsets_ptr, num_columns, BLOCK_M, GROUP_M
        )
        start_m = start_row + tile_m * BLOCK_M
        start_n = tile_n * BLOCK_N
        c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for k in range(0, K, BLOCK_K):
            left = a.load([start_m, k])
            if B_IS_NK:
                right = b.load([expert, start_n, k]).reshape(BLOCK_N, BLOCK_K).T
            else:
                right = b.load([expert, k, start_n]).reshape(BLOCK_K, BLOCK_N)
            c = tl.dot(left, right, c)

        mask = (m < num_expert_rows - tile_m * BLOCK_M)[:, None] & (n < N - start_n)[None, :]
        c_ptrs = c_ptr + start_m.to(tl.int64) * N + start_n + (m[:, None] * N + n[None, :])
        tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=mask)


@triton.jit
def wgrad_kernel(
    dy_ptr, x_ptr, dw_ptr, offsets_ptr, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """dw[e,N,K] = dy[rows of e,N]^T @ x[rows of e,K], a program for each tile.

    As in any product BLOCK_M and BLOCK_N are of the result, here of N and of K, and BLOCK_K is of
    the sum, here of rows.
    """
    num_rows = tl.cdiv(N, BLOCK_M)
    num_columns = tl.cdiv(K, BLOCK_N)
    tiles_of_expert = num_rows * num_columns
    expert = tl.program_id(0) // tiles_of_expert
    within_expert = tl.program_id(0) % tiles_of_expert
    tile_n, tile_k = tile_at(within_expert, num_rows, num_columns, GROUP_M)
    start_n = tile_n.to(tl.int64) * BLOCK_M
    start_k = tile_k.to(tl.int64) * BLOCK_N

    start_row = tl.load(offsets_ptr + expert)
    num_expert_rows = tl.load(offsets_ptr + expert + 1) - start_row
    r = tl.arange(0, BLOCK_K)
    n = tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_N)
    mask_n = n < N - start_n
    mask_k = k < K - start_k
    dy_ptrs = dy_ptr + start_row.to(tl.int64) * N + start_n + (r[None, :] * N + n[:, None])
    x_ptrs = x_ptr + start_row.to(tl.int64) * K + start_k + (r[:, None] * K + k[None, :])

    dw = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, num_expert_rows, BLOCK_K):
        mask_r = r < num_expert_rows - start
        dy = tl.load(dy_ptrs, mask=mask_n[:, None] & mask_r[None, :], other=0.0)
        x = tl.load(x_ptrs, mask=mask_r[:, None] & mask_k[None, :], other=0.0)
        dw = tl.dot(dy, x, dw, input_precision="ieee")
        dy_ptrs += BLOCK_K * N
        x_ptrs += BLOCK_K * K

    dw_ptrs = dw_ptr + (expert.to(tl.int64) * N + start_n) * K + start_k
    dw_ptrs += n[:, None] * K + k[None, :]
    tl.store(dw_ptrs, dw.to(dw_ptr.dtype.element_ty), mask=mask_n[:, None] & mask_k[None, :])

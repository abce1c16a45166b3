"""The two kernels of a matrix product: by pointers, and by tensor descriptors (TMA)."""

from kernels.tiles import tile_at
from kernels.triton_support import tl, triton


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """c[M,N] = a[M,K] @ b[K,N] with any strides, a program for each tile; c is dense.

    PRECISION is as `tl.dot` takes it: `ieee`, or `tf32` for fp32 operands.
    """
    tile_m, tile_n = tile_at(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    # The start of a tile is a 64-bit offset; inside a tile 32 bits do, and cost fewer registers.
    start_m = tile_m.to(tl.int64) * BLOCK_M
    start_n = tile_n.to(tl.int64) * BLOCK_N
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    mask_m = m < M - start_m
    mask_n = n < N - start_n
    a_ptrs = a_ptr + start_m * stride_am + (m[:, None] * stride_am + k[None, :] * stride_ak)
    b_ptrs = b_ptr + start_n * stride_bn + (k[:, None] * stride_bk + n[None, :] * stride_bn)

    c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start_k in range(0, K, BLOCK_K):
        mask_k = k < K - start_k
        a = tl.load(a_ptrs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        b = tl.load(b_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        c = tl.dot(a, b, c, input_precision=PRECISION)
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk

    c_ptrs = c_ptr + start_m * N + start_n + (m[:, None] * N + n[None, :])
    tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def descriptor_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, A_IS_KM: tl.constexpr, B_IS_NK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    STORES: tl.constexpr, WARP_SPECIALIZE: tl.constexpr, FLATTEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """c[M,N] = a @ b of dense matrices whose rows are multiples of 16 bytes, by TMA.

    As many programs as multiprocessors; each walks over its tiles, and the loads of the next tile
    run while the last one is stored. The descriptors know where the matrices end.

    A_IS_KM says that a is stored as [K,M], not as [M,K]; B_IS_NK, that b is stored as [N,K], not as
    [K,N]. A tile is written in STORES parts, 1 or 2, which halves the shared memory for it. With
    WARP_SPECIALIZE, loads and products are done by different warps; with FLATTEN, the loops over
    tiles and over K are made one and pipelined across tiles.
    """
    num_rows = tl.cdiv(M, BLOCK_M)
    num_columns = tl.cdiv(N, BLOCK_N)
    if A_IS_KM:
        a_matrix = tl.make_tensor_descriptor(a_ptr, [K, M], [M, 1], [BLOCK_K, BLOCK_M])
    else:
        a_matrix = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    if B_IS_NK:
        b_matrix = tl.make_tensor_descriptor(b_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    else:
        b_matrix = tl.make_tensor_descriptor(b_ptr, [K, N], [N, 1], [BLOCK_K, BLOCK_N])
    c_matrix = tl.make_tensor_descriptor(c_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N // STORES])

    for tile in tl.range(
        tl.program_id(0),
        num_rows * num_columns,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=WARP_SPECIALIZE,
    ):
        tile_m, tile_n = tile_at(tile, num_rows, num_columns, GROUP_M)
        m = tile_m * BLOCK_M
        n = tile_n * BLOCK_N
        c = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
        for k in range(0, K, BLOCK_K):
            a = a_matrix.load([k, m]).T if A_IS_KM else a_matrix.load([m, k])
            b = b_matrix.load([n, k]).T if B_IS_NK else b_matrix.load([k, n])
            c = tl.dot(a, b, c, input_precision=PRECISION)
        if STORES == 2:
            left, right = tl.split(c.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1))
            c_matrix.store([m, n], left.to(c_ptr.dtype.element_ty))
            c_matrix.store([m, n + BLOCK_N // 2], right.to(c_ptr.dtype.element_ty))
        else:
            c_matrix.store([m, n], c.to(c_ptr.dtype.element_ty))

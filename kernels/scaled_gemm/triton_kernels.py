"""The two kernels of a scaled product of 8-bit matrices: by pointers, and by descriptors (TMA)."""

from kernels.tiles import tile_at
from kernels.triton_support import tl, triton


@triton.jit
def scaled_matmul_kernel(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, y_ptr, M, N, K, VARIANT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """y[M,N] = scaled x[M,K] @ w[N,K]^T, a program for each tile.

    VARIANT says where scales are, as in the op's variants. In blocks, BLOCK_K is 128 and BLOCK_N
    divides it, so that a tile has one scale of w at a time.
    """
    tile_m, tile_n = tile_at(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    start_m = tile_m.to(tl.int64) * BLOCK_M
    start_n = tile_n.to(tl.int64) * BLOCK_N
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    mask_m = m < M - start_m
    mask_n = n < N - start_n
    x_ptrs = x_ptr + start_m * K + (m[:, None] * K + k[None, :])
    w_ptrs = w_ptr + start_n * K + (n[None, :] * K + k[:, None])
    num_groups = tl.cdiv(K, 128)
    x_scale_ptrs = x_scale_ptr + start_m * num_groups + m * num_groups
    w_scale_start = w_scale_ptr + start_n // 128 * num_groups

    sum_type: tl.constexpr = tl.int32 if x_ptr.dtype.element_ty == tl.int8 else tl.float32
    is_block: tl.constexpr = VARIANT == "block"
    y = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32 if is_block else sum_type)
    for start_k in range(0, K, BLOCK_K):
        mask_k = k < K - start_k
        x = tl.load(x_ptrs, mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        w = tl.load(w_ptrs, mask=mask_k[:, None] & mask_n[None, :], other=0.0)
        if is_block:
            # The scales of this group of 128; what the tensor core sums is promoted to fp32 here.
            x_scale = tl.load(x_scale_ptrs + start_k // 128, mask=mask_m, other=0.0)
            w_scale = tl.load(w_scale_start + start_k // 128)
            part = tl.dot(x, w, out_dtype=sum_type)
            y += part.to(tl.float32) * (x_scale * w_scale)[:, None]
        else:
            y = tl.dot(x, w, y, out_dtype=sum_type)
        x_ptrs += BLOCK_K
        w_ptrs += BLOCK_K

    if VARIANT == "tensor":
        y = y.to(tl.float32) * (tl.load(x_scale_ptr) * tl.load(w_scale_ptr))
    if VARIANT == "row":
        x_scale = tl.load(x_scale_ptr + start_m + m, mask=mask_m, other=0.0)
        w_scale = tl.load(w_scale_ptr + start_n + n, mask=mask_n, other=0.0)
        y = y.to(tl.float32) * x_scale[:, None] * w_scale[None, :]
    y_ptrs = y_ptr + start_m * N + start_n + (m[:, None] * N + n[None, :])
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_n[None, :])


@triton.jit
def scaled_descriptor_kernel(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, y_ptr, M, N, K, VARIANT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    STORES: tl.constexpr, WARP_SPECIALIZE: tl.constexpr, FLATTEN: tl.constexpr,
):  # fmt: skip
    """As `scaled_matmul_kernel`, for rows that are multiples of 16 bytes, by TMA.

    As many programs as multiprocessors walk over the tiles; the last three arguments are those of
    `kernels.gemm.triton_kernels.descriptor_kernel`.
    """
    num_rows = tl.cdiv(M, BLOCK_M)
    num_columns = tl.cdiv(N, BLOCK_N)
    num_groups = tl.cdiv(K, 128)
    x_matrix = tl.make_tensor_descriptor(x_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])
    w_matrix = tl.make_tensor_descriptor(w_ptr, [N, K], [K, 1], [BLOCK_N, BLOCK_K])
    y_matrix = tl.make_tensor_descriptor(y_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N // STORES])
    sum_type: tl.constexpr = tl.int32 if x_ptr.dtype.element_ty == tl.int8 else tl.float32
    is_block: tl.constexpr = VARIANT == "block"

    for tile in tl.range(
        tl.program_id(0),
        num_rows * num_columns,
        tl.num_programs(0),
        flatten=FLATTEN,
        warp_specialize=WARP_SPECIALIZE,
    ):
        tile_m, tile_n = tile_at(tile, num_rows, num_columns, GROUP_M)
        start_m = tile_m * BLOCK_M
        start_n = tile_n * BLOCK_N
        m = start_m + tl.arange(0, BLOCK_M)
        y = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32 if is_block else sum_type)
        for k in range(0, K, BLOCK_K):
            x = x_matrix.load([start_m, k])
            w = w_matrix.load([start_n, k]).T
            if is_block:
                group = k // 128
                rows = x_scale_ptr + m.to(tl.int64) * num_groups + group
                x_scale = tl.load(rows, mask=m < M, other=0.0)
                w_scale = tl.load(w_scale_ptr + (start_n // 128).to(tl.int64) * num_groups + group)
                part = tl.dot(x, w, out_dtype=sum_type)
                y += part.to(tl.float32) * (x_scale * w_scale)[:, None]
            else:
                y = tl.dot(x, w, y, out_dtype=sum_type)
        scaled = y.to(tl.float32)
        if VARIANT == "tensor":
            scaled = scaled * (tl.load(x_scale_ptr) * tl.load(w_scale_ptr))
        if VARIANT == "row":
            n = start_n + tl.arange(0, BLOCK_N)
            x_scale = tl.load(x_scale_ptr + m.to(tl.int64), mask=m < M, other=0.0)
            w_scale = tl.load(w_scale_ptr + n.to(tl.int64), mask=n < N, other=0.0)
            scaled = scaled * x_scale[:, None] * w_scale[None, :]
        if STORES == 2:
            left, right = tl.split(scaled.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1))
            y_matrix.store([start_m, start_n], left.to(y_ptr.dtype.element_ty))
            y_matrix.store([start_m, start_n + BLOCK_N // 2], right.to(y_ptr.dtype.element_ty))
        else:
            y_matrix.store([start_m, start_n], scaled.to(y_ptr.dtype.element_ty))

"""The Triton kernels of attention; sizes and their letters are in the head of this package.

Names ending in `_kernel` are launched, the others are compiled into them.
"""

from kernels.triton_support import tl, triton


@triton.jit
def _load_rows(ptr, rows, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    # Rows of a dense [num_rows, WIDTH] matrix, zeros beyond its edges.
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + rows[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(ptr, value, rows, num_rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    ptrs = ptr + rows[:, None] * WIDTH + columns[None, :]
    tl.store(ptrs, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _attend(
    q, k_ptr, v_ptr, acc, total, peak, positions, first, last, S, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds the keys of [first, last) to the running softmax of a block of queries.
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, D, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = _load_rows(v_ptr, keys, S, E, BLOCK_E)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, num_rows, Q, S, heads_per_group, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head.

    A head has num_rows rows of q: its Q queries, or if PACKED those of all heads of its group.
    """
    batch_head = tl.program_id(0)
    # The last queries see the most keys; they start first so that the short ones fill the gaps.
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    # Heads divide into groups without a remainder, so b H + h over H / G is b G + g.
    group = batch_head // heads_per_group
    q_ptr += batch_head.to(tl.int64) * num_rows * D
    out_ptr += batch_head.to(tl.int64) * num_rows * E
    lse_ptr += batch_head.to(tl.int64) * num_rows
    k_ptr += group.to(tl.int64) * S * D
    v_ptr += group.to(tl.int64) * S * E

    rows = start_m + tl.arange(0, BLOCK_M)
    if PACKED:
        positions = rows % Q + (S - Q)
        first_position = S - Q
        end = S
    else:
        positions = rows + (S - Q)
        first_position = start_m + (S - Q)
        end = tl.minimum(first_position + BLOCK_M, S)
    # Up to here every query of the block sees every key, and no mask is needed.
    full = (first_position + 1) // BLOCK_N * BLOCK_N

    q = _load_rows(q_ptr, rows, num_rows, D, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_E], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    peak = tl.full([BLOCK_M], -float("inf"), dtype=tl.float32)
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, 0, full, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, full, end, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, True,
    )  # fmt: skip
    _store_rows(out_ptr, acc / total[:, None], rows, num_rows, E, BLOCK_E)
    # Natural logarithm: ln(x) = log2(x) / log2(e).
    lse = (peak + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + rows, lse, mask=rows < num_rows)


@triton.jit
def delta_kernel(
    dout_ptr, out_ptr, delta_ptr, num_rows, E: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The sum over E of dout * out, for every row of every head at once."""
    start = tl.program_id(0).to(tl.int64) * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    remaining = num_rows - start
    dout = _load_rows(dout_ptr + start * E, rows, remaining, E, BLOCK_E).to(tl.float32)
    out = _load_rows(out_ptr + start * E, rows, remaining, E, BLOCK_E).to(tl.float32)
    tl.store(delta_ptr + start + rows, tl.sum(dout * out, axis=1), mask=rows < remaining)


@triton.jit
def _add_dkdv(
    dk, dv, k, v, q_ptr, dout_ptr, lse_ptr, delta_ptr, keys, first, last, Q, offset, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the queries of [first, last) of one head give to a block of keys; [key, query].
    for start in range(first, last, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = _load_rows(q_ptr, rows, Q, D, BLOCK_D)
        dout = _load_rows(dout_ptr, rows, Q, E, BLOCK_E)
        # Past the last query lse is infinite, so its probabilities are zero.
        lse = tl.load(lse_ptr + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
        delta = tl.load(delta_ptr + rows, mask=rows < Q, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[:, None] <= (rows + offset)[None, :], scores, -float("inf"))
        p = tl.exp2(scores - lse[None, :])
        dv = tl.dot(p.to(dout.dtype), dout, dv, input_precision="ieee")
        dp = tl.dot(v, tl.trans(dout), input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, Q, S, heads_per_group,
    scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """One block of keys of one key/value head, summed over the query heads of its group."""
    group = tl.program_id(0).to(tl.int64)
    start_n = tl.program_id(1) * BLOCK_N
    keys = start_n + tl.arange(0, BLOCK_N)
    k = _load_rows(k_ptr + group * S * D, keys, S, D, BLOCK_D)
    v = _load_rows(v_ptr + group * S * E, keys, S, E, BLOCK_E)
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)

    # Query i sees key j if i >= j - offset. Blocks of queries before `first` see none of these
    # keys and are skipped; from `full` on every query sees all of them.
    offset = S - Q
    first = tl.maximum(start_n - offset, 0) // BLOCK_M * BLOCK_M
    full = tl.cdiv(tl.maximum(start_n + BLOCK_N - 1 - offset, 0), BLOCK_M) * BLOCK_M
    full = tl.minimum(full, tl.cdiv(Q, BLOCK_M) * BLOCK_M)
    for head in range(heads_per_group):
        row = (group * heads_per_group + head) * Q
        dk, dv = _add_dkdv(
            dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + row, delta_ptr + row,
            keys, first, full, Q, offset, scale_log2, D, E, BLOCK_M, BLOCK_D, BLOCK_E, True,
        )  # fmt: skip
        dk, dv = _add_dkdv(
            dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + row, delta_ptr + row,
            keys, full, Q, Q, offset, scale_log2, D, E, BLOCK_M, BLOCK_D, BLOCK_E, False,
        )  # fmt: skip
    _store_rows(dk_ptr + group * S * D, dk * scale, keys, S, D, BLOCK_D)
    _store_rows(dv_ptr + group * S * E, dv, keys, S, E, BLOCK_E)


@triton.jit
def _add_dq(
    dq, q, dout, lse, delta, k_ptr, v_ptr, positions, first, last, S, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the keys of [first, last) give to a block of queries; [query, key].
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, D, BLOCK_D)
        v = _load_rows(v_ptr, keys, S, E, BLOCK_E)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            scores = tl.where(keys[None, :] <= positions[:, None], scores, -float("inf"))
        p = tl.exp2(scores - lse[:, None])
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, Q, S, heads_per_group,
    scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head."""
    batch_head = tl.program_id(0).to(tl.int64)
    group = batch_head // heads_per_group
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    rows = start_m + tl.arange(0, BLOCK_M)
    row = batch_head * Q
    q = _load_rows(q_ptr + row * D, rows, Q, D, BLOCK_D)
    dout = _load_rows(dout_ptr + row * E, rows, Q, E, BLOCK_E)
    lse = tl.load(lse_ptr + row + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
    delta = tl.load(delta_ptr + row + rows, mask=rows < Q, other=0.0)

    k_ptr += group * S * D
    v_ptr += group * S * E
    first_position = start_m + (S - Q)
    positions = rows + (S - Q)
    full = (first_position + 1) // BLOCK_N * BLOCK_N
    end = tl.minimum(first_position + BLOCK_M, S)
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, 0, full, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, False,
    )  # fmt: skip
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, full, end, S, scale_log2,
        D, E, BLOCK_N, BLOCK_D, BLOCK_E, True,
    )  # fmt: skip
    _store_rows(dq_ptr + row * D, dq * scale, rows, Q, D, BLOCK_D)

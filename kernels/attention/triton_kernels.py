"""The Triton kernels of attention; sizes and their letters are in the head of this package.

Names ending in `_kernel` are launched, the others are compiled into them. `attention`,
`window_attention` and `varlen_attention` share them by constexpr switches:
    CAUSAL    query i sees keys j <= i + S - Q, otherwise all
    WINDOWED  and of those only the last `window`
    VARLEN    tensors are [tokens, heads, size] and sequence b is the tokens of cu[b] to cu[b + 1]
HEADS and GROUPS are the heads between two tokens of one head: 1 where a head is dense.
"""

from kernels.triton_support import tl, triton


@triton.jit
def _load_rows(ptr, rows, num_rows, STRIDE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    # Rows of a [num_rows, WIDTH] matrix, zeros beyond its edges.
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    return tl.load(ptr + rows[:, None] * STRIDE + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store_rows(
    ptr, value, rows, num_rows, STRIDE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    columns = tl.arange(0, BLOCK)
    mask = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    ptrs = ptr + rows[:, None] * STRIDE + columns[None, :]
    tl.store(ptrs, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _visible(keys, positions, S, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    # Whether a query at a position sees a key; one of the two is a column, the other a row.
    if CAUSAL:
        seen = keys <= positions
        if WINDOWED:
            seen = seen & (keys > positions - window)
        return seen
    return (keys < S) & (positions >= 0)


@triton.jit
def _key_ranges(
    first_position, last_position, S, window, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOWED: tl.constexpr,
):  # fmt: skip
    # (begin, middle, full, end) for queries at these positions: of [middle, full) every query sees
    # every key and no mask is needed, of the rest of [begin, end) some see some.
    begin = 0
    middle = 0
    end = S
    full = S // BLOCK_N * BLOCK_N
    if CAUSAL:
        full = (first_position + 1) // BLOCK_N * BLOCK_N
        end = tl.minimum(last_position + 1, S)
    if WINDOWED:
        begin = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
        middle = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_N) * BLOCK_N
        middle = tl.minimum(middle, full)
    return begin, middle, full, end


@triton.jit
def _attend(
    q, k_ptr, v_ptr, acc, total, peak, positions, first, last, S, window, scale_log2,
    D: tl.constexpr, E: tl.constexpr, GROUPS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    # Adds the keys of [first, last) to the running softmax of a block of queries.
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, GROUPS * D, D, BLOCK_D)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            seen = _visible(keys[None, :], positions[:, None], S, window, CAUSAL, WINDOWED)
            scores = tl.where(seen, scores, -float("inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - new_peak[:, None])
        correction = tl.exp2(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = _load_rows(v_ptr, keys, S, GROUPS * E, E, BLOCK_E)
        acc = tl.dot(p.to(v.dtype), v, acc * correction[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, cu_ptr, num_rows, Q, S, heads_per_group, window,
    scale_log2,
    D: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, VARLEN: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head.

    A head has num_rows rows of q: its Q queries, or if PACKED those of all heads of its group.
    If VARLEN, Q is the number of all tokens.
    """
    batch_head = tl.program_id(0).to(tl.int64)
    # The last queries see the most keys; they start first so that the short ones fill the gaps.
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    if VARLEN:
        batch = batch_head // HEADS
        head = batch_head % HEADS
        token = tl.load(cu_ptr + batch).to(tl.int64)
        length = (tl.load(cu_ptr + batch + 1) - token).to(tl.int32)
        if start_m >= length:
            return
        q_ptr += (token * HEADS + head) * D
        out_ptr += (token * HEADS + head) * E
        lse_ptr += head * Q + token
        k_ptr += (token * GROUPS + head // heads_per_group) * D
        v_ptr += (token * GROUPS + head // heads_per_group) * E
        num_rows = length
        Q = length
        S = length
    else:
        # Heads divide into groups without a remainder, so b H + h over H / G is b G + g.
        group = batch_head // heads_per_group
        q_ptr += batch_head * num_rows * D
        out_ptr += batch_head * num_rows * E
        lse_ptr += batch_head * num_rows
        k_ptr += group * S * D
        v_ptr += group * S * E

    rows = start_m + tl.arange(0, BLOCK_M)
    if PACKED:
        positions = rows % Q + (S - Q)
        first_position = S - Q
        last_position = S - 1
    else:
        # Rows past the last query repeat it, so that each row sees a key.
        positions = tl.minimum(rows, Q - 1) + (S - Q)
        first_position = start_m + (S - Q)
        last_position = tl.minimum(start_m + BLOCK_M, Q) - 1 + (S - Q)
    begin, middle, full, end = _key_ranges(
        first_position, last_position, S, window, BLOCK_N, CAUSAL, WINDOWED
    )

    q = _load_rows(q_ptr, rows, num_rows, HEADS * D, D, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_E], dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    # Below every score, and finite: a query may see no key of the first block of its window.
    peak = tl.full([BLOCK_M], -1e30, dtype=tl.float32)
    if WINDOWED:
        acc, total, peak = _attend(
            q, k_ptr, v_ptr, acc, total, peak, positions, begin, middle, S, window, scale_log2,
            D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, True,
        )  # fmt: skip
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, middle, full, S, window, scale_log2,
        D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, False,
    )  # fmt: skip
    acc, total, peak = _attend(
        q, k_ptr, v_ptr, acc, total, peak, positions, full, end, S, window, scale_log2,
        D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, True,
    )  # fmt: skip
    _store_rows(out_ptr, acc / total[:, None], rows, num_rows, HEADS * E, E, BLOCK_E)
    # Natural logarithm: ln(x) = log2(x) / log2(e).
    lse = (peak + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + rows, lse, mask=rows < num_rows)


@triton.jit
def delta_kernel(
    dout_ptr, out_ptr, delta_ptr, num_rows, num_tokens, E: tl.constexpr, HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The sum over E of dout * out, for every row of every head at once.

    Rows come as [.., HEADS] and are written as [HEADS, ..], each head's together.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK_M
    rows = tl.arange(0, BLOCK_M)
    remaining = num_rows - start
    dout = _load_rows(dout_ptr + start * E, rows, remaining, E, E, BLOCK_E).to(tl.float32)
    out = _load_rows(out_ptr + start * E, rows, remaining, E, E, BLOCK_E).to(tl.float32)
    to = start + rows
    if HEADS > 1:
        to = to % HEADS * num_tokens + to // HEADS
    tl.store(delta_ptr + to, tl.sum(dout * out, axis=1), mask=rows < remaining)


@triton.jit
def _add_dkdv(
    dk, dv, k, v, q_ptr, dout_ptr, lse_ptr, delta_ptr, keys, first, last, Q, S, window, scale_log2,
    D: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the queries of [first, last) of one head give to a block of keys; [key, query].
    for start in range(first, last, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        q = _load_rows(q_ptr, rows, Q, HEADS * D, D, BLOCK_D)
        dout = _load_rows(dout_ptr, rows, Q, HEADS * E, E, BLOCK_E)
        # Past the last query lse is infinite, so its probabilities are zero.
        lse = tl.load(lse_ptr + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
        delta = tl.load(delta_ptr + rows, mask=rows < Q, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
        if MASKED:
            positions = rows + (S - Q)
            seen = _visible(keys[:, None], positions[None, :], S, window, CAUSAL, WINDOWED)
            scores = tl.where(seen, scores, -float("inf"))
        p = tl.exp2(scores - lse[None, :])
        dv = tl.dot(p.to(dout.dtype), dout, dv, input_precision="ieee")
        dp = tl.dot(v, tl.trans(dout), input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def dkdv_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, cu_ptr, Q, S,
    heads_per_group, window, scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """One block of keys of one key/value head, summed over the query heads of its group."""
    group = tl.program_id(0).to(tl.int64)
    start_n = tl.program_id(1) * BLOCK_N
    num_tokens = Q
    if VARLEN:
        batch = group // GROUPS
        group = group % GROUPS
        token = tl.load(cu_ptr + batch).to(tl.int64)
        length = (tl.load(cu_ptr + batch + 1) - token).to(tl.int32)
        if start_n >= length:
            return
        Q = length
        S = length
        # In rows of the matrices of keys and values.
        key_row = token * GROUPS + group
    else:
        key_row = group * S
    keys = start_n + tl.arange(0, BLOCK_N)
    k = _load_rows(k_ptr + key_row * D, keys, S, GROUPS * D, D, BLOCK_D)
    v = _load_rows(v_ptr + key_row * E, keys, S, GROUPS * E, E, BLOCK_E)
    dk = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_E], dtype=tl.float32)

    # Query i sees key j if j - offset <= i, and in a window if i < j - offset + window. Blocks of
    # queries outside [first, end) see none of these keys; from `full` on they see all of them. A
    # window masks every block: a loop for those inside it costs registers (536 bytes of spill on
    # sm_100), and windows are a few blocks.
    offset = S - Q
    end = Q
    if CAUSAL:
        first = tl.maximum(start_n - offset, 0) // BLOCK_M * BLOCK_M
        if WINDOWED:
            end = tl.minimum(tl.maximum(start_n + BLOCK_N - 1 - offset + window, 0), Q)
            full = end
        else:
            full = tl.cdiv(tl.maximum(start_n + BLOCK_N - 1 - offset, 0), BLOCK_M) * BLOCK_M
            full = tl.minimum(full, tl.cdiv(Q, BLOCK_M) * BLOCK_M)
    else:
        full = 0
    for head in range(heads_per_group):
        query_head = group * heads_per_group + head
        if VARLEN:
            row = token * HEADS + query_head
            lse_row = query_head * num_tokens + token
        else:
            row = query_head * Q
            lse_row = row
        if CAUSAL:
            dk, dv = _add_dkdv(
                dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + lse_row,
                delta_ptr + lse_row, keys, first, full, Q, S, window, scale_log2,
                D, E, HEADS, BLOCK_M, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, True,
            )  # fmt: skip
        if not WINDOWED:
            dk, dv = _add_dkdv(
                dk, dv, k, v, q_ptr + row * D, dout_ptr + row * E, lse_ptr + lse_row,
                delta_ptr + lse_row, keys, full, end, Q, S, window, scale_log2,
                D, E, HEADS, BLOCK_M, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, False,
            )  # fmt: skip
    _store_rows(dk_ptr + key_row * D, dk * scale, keys, S, GROUPS * D, D, BLOCK_D)
    _store_rows(dv_ptr + key_row * E, dv, keys, S, GROUPS * E, E, BLOCK_E)


@triton.jit
def _add_dq(
    dq, q, dout, lse, delta, k_ptr, v_ptr, positions, first, last, S, window, scale_log2,
    D: tl.constexpr, E: tl.constexpr, GROUPS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    # Adds what the keys of [first, last) give to a block of queries; [query, key].
    for start in range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        k = _load_rows(k_ptr, keys, S, GROUPS * D, D, BLOCK_D)
        v = _load_rows(v_ptr, keys, S, GROUPS * E, E, BLOCK_E)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if MASKED:
            seen = _visible(keys[None, :], positions[:, None], S, window, CAUSAL, WINDOWED)
            scores = tl.where(seen, scores, -float("inf"))
        p = tl.exp2(scores - lse[:, None])
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit
def dq_kernel(
    q_ptr, k_ptr, v_ptr, dout_ptr, lse_ptr, delta_ptr, dq_ptr, cu_ptr, Q, S, heads_per_group,
    window, scale, scale_log2,
    D: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, VARLEN: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head."""
    batch_head = tl.program_id(0).to(tl.int64)
    start_m = (tl.num_programs(1) - 1 - tl.program_id(1)) * BLOCK_M
    if VARLEN:
        batch = batch_head // HEADS
        head = batch_head % HEADS
        token = tl.load(cu_ptr + batch).to(tl.int64)
        length = (tl.load(cu_ptr + batch + 1) - token).to(tl.int32)
        if start_m >= length:
            return
        row = token * HEADS + head
        lse_row = head * Q + token
        key_row = token * GROUPS + head // heads_per_group
        Q = length
        S = length
    else:
        row = batch_head * Q
        lse_row = row
        key_row = batch_head // heads_per_group * S
    rows = start_m + tl.arange(0, BLOCK_M)
    q = _load_rows(q_ptr + row * D, rows, Q, HEADS * D, D, BLOCK_D)
    dout = _load_rows(dout_ptr + row * E, rows, Q, HEADS * E, E, BLOCK_E)
    lse = tl.load(lse_ptr + lse_row + rows, mask=rows < Q, other=float("inf")) * 1.4426950408889634
    delta = tl.load(delta_ptr + lse_row + rows, mask=rows < Q, other=0.0)

    k_ptr += key_row * D
    v_ptr += key_row * E
    positions = rows + (S - Q)
    last_position = tl.minimum(start_m + BLOCK_M, Q) - 1 + (S - Q)
    begin, middle, full, end = _key_ranges(
        start_m + (S - Q), last_position, S, window, BLOCK_N, CAUSAL, WINDOWED
    )
    dq = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    if WINDOWED:
        dq = _add_dq(
            dq, q, dout, lse, delta, k_ptr, v_ptr, positions, begin, middle, S, window, scale_log2,
            D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, True,
        )  # fmt: skip
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, middle, full, S, window, scale_log2,
        D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, False,
    )  # fmt: skip
    dq = _add_dq(
        dq, q, dout, lse, delta, k_ptr, v_ptr, positions, full, end, S, window, scale_log2,
        D, E, GROUPS, BLOCK_N, BLOCK_D, BLOCK_E, CAUSAL, WINDOWED, True,
    )  # fmt: skip
    _store_rows(dq_ptr + row * D, dq * scale, rows, Q, HEADS * D, D, BLOCK_D)

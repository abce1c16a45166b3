"""The cost of every op, counted again here, so that these tests need neither torch nor kernels."""

from kernels.op import Cost, Mode, Problem

SIZE = {"bf16": 2, "fp16": 2, "fp32": 4}


def counted(problem: Problem) -> Cost:
    axes = dict(problem.axes)
    size = SIZE[problem.dtype]
    backward = problem.mode is Mode.BACKWARD
    if problem.op == "gemm":
        M, N, K = axes["M"], axes["N"], axes["K"]
        written = {Mode.FORWARD: M * N, Mode.DGRAD: M * K, Mode.WGRAD: N * K}[problem.mode]
        total = M * N + N * K + M * K
        return Cost(
            flops=2 * M * N * K, bytes_read=(total - written) * size, bytes_written=written * size
        )
    if problem.op == "attention":
        B, Q, S, H, G = (axes[name] for name in "BQSHG")
        D, E = axes["D"], axes["E"]
        pairs = Q * S - Q * (Q - 1) // 2
        flops = 2 * B * H * pairs * (D + E)
        inputs = B * (Q * H * D + S * G * (D + E))
        outputs = B * Q * H * E
        if not backward:
            return Cost(flops=flops, bytes_read=inputs * size, bytes_written=outputs * size)
        return Cost(
            flops=2 * flops, bytes_read=(inputs + outputs) * size, bytes_written=inputs * size
        )
    if problem.op == "adamw":
        return Cost(flops=12 * axes["N"], bytes_read=14 * axes["N"], bytes_written=14 * axes["N"])
    elements = 1
    for _, length in problem.axes:
        elements *= length
    reads, writes = {
        ("rms_norm", False): (1, 1),
        ("rms_norm", True): (2, 1),
        ("swiglu", False): (2, 1),
        ("swiglu", True): (3, 2),
        ("cross_entropy", False): (1, 0),
        ("cross_entropy", True): (1, 1),
        ("copy", False): (1, 1),
    }[problem.op, backward]
    return Cost(
        flops=0, bytes_read=reads * elements * size, bytes_written=max(writes * elements * size, 4)
    )

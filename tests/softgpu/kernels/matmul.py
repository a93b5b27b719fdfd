"""A matmul for Triton: c[m, n] = a[m, k] @ b[k, n], bf16 in, f32 out; cp.async, ldmatrix and mma.sync on sm_80."""

import triton
import triton.language as tl


@triton.jit
def matmul(a, b, c, n, k, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr):
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inner = tl.arange(0, depth)
    left = a + row[:, None] * k + inner[None, :]
    right = b + inner[:, None] * n + column[None, :]
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for _ in range(0, k, depth):
        total = tl.dot(tl.load(left), tl.load(right), total)
        left += depth
        right += depth * n
    tl.store(c + row[:, None] * n + column[None, :], total)

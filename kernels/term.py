"""What belongs to a term of a small problem: the cross term 0, x with itself 1, y with itself 2."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ucmkd.kernels.ground import MATRIX


@triton.jit
def pick(term, cross, first, second):
    """What belongs to this program's term."""
    if term == 1:
        cross = first
    elif term == 2:
        cross = second
    return cross


@triton.jit
def sides(
    term, problem, x_ptr, y_ptr, a_ptr, b_ptr, n, m, d, stride_b, COST: tl.constexpr
):  # fmt: skip
    """Points, weights and numbers of the columns p, then of the rows q."""
    x_ptr += problem * (stride_b if COST == MATRIX else n.to(tl.int64) * d)
    y_ptr += problem * m.to(tl.int64) * d
    a_ptr += problem * n
    b_ptr += problem * m
    p_ptr, q_ptr, pw_ptr, qw_ptr, p_count, q_count = y_ptr, x_ptr, b_ptr, a_ptr, m, n
    if term == 1:
        p_ptr, pw_ptr, p_count = x_ptr, a_ptr, n
    elif term == 2:
        q_ptr, qw_ptr, q_count = y_ptr, b_ptr, m
    return p_ptr, pw_ptr, p_count, q_ptr, qw_ptr, q_count


@triton.jit
def parameters(term, problem, scale, epsilon_ptr, reach_x_ptr, reach_y_ptr):
    """ε and the reaches of the columns and of the rows, in units of the cost."""
    reach_x = scale * tl.load(reach_x_ptr + problem)
    reach_y = scale * tl.load(reach_y_ptr + problem)
    epsilon = scale * tl.load(epsilon_ptr + problem)
    return epsilon, tl.where(term == 1, reach_x, reach_y), tl.where(term == 2, reach_y, reach_x)


@triton.jit
def label_pointers(term, problem, x_label_ptr, y_label_ptr, n, m):
    """Labels of the columns, then of the rows."""
    x_label_ptr += problem * n
    y_label_ptr += problem * m
    return (
        pick(term, y_label_ptr, x_label_ptr, y_label_ptr),
        pick(term, x_label_ptr, x_label_ptr, y_label_ptr),
    )

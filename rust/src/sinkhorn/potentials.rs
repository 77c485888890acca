//! Passes over the cost matrix with the row potentials given.

use crate::real::{LANES, Real};
use crate::simd_dispatch;

use super::sweep::rows_of;

/// Column maxima and sums of `exp(row_i - c_ij / eps - max)`.
#[inline(always)]
fn columns_body<T: Real, const FMA: bool>(
    inverse: T,
    cost: &[T],
    row: &[T],
    top: &mut [T],
    sum: &mut [T],
) {
    let stride = top.len();
    top.fill(T::NEG_INFINITY);
    sum.fill(T::ZERO);
    let top = top.as_chunks_mut::<LANES>().0;
    let sum = sum.as_chunks_mut::<LANES>().0;
    for (i, &r) in row.iter().enumerate() {
        for (c, t) in rows_of(cost, stride, i).iter().zip(top.iter_mut()) {
            for l in 0..LANES {
                t[l] = c[l].fma::<FMA>(-inverse, r).max(t[l]);
            }
        }
    }
    for (i, &r) in row.iter().enumerate() {
        for ((c, t), s) in rows_of(cost, stride, i)
            .iter()
            .zip(top.iter())
            .zip(sum.iter_mut())
        {
            for l in 0..LANES {
                s[l] += (c[l].fma::<FMA>(-inverse, r) - t[l]).exp_small::<FMA>();
            }
        }
    }
}

simd_dispatch! {
    /// Column maxima `top_j` of `row_i - c_ij / eps`, and the sums of `exp(. - top_j)`.
    pub fn columns[T: Real](inverse: T, cost: &[T], row: &[T], top: &mut [T], sum: &mut [T])
        = columns_body;
}

/// Takes the maxima and sums of some rows into those of others.
#[inline(always)]
fn merge_body<T: Real, const FMA: bool>(
    (top, sum): (&[T], &[T]),
    all_top: &mut [T],
    all_sum: &mut [T],
) {
    for (((t, s), p), q) in top.iter().zip(sum).zip(all_top).zip(all_sum) {
        let most = t.max(*p);
        // Rows without mass have a maximum of -inf and a sum that means nothing.
        let part = |top: T, sum: T| {
            let scaled = sum * (top - most).exp_small::<FMA>();
            if top > T::NEG_INFINITY {
                scaled
            } else {
                T::ZERO
            }
        };
        *q = part(*t, *s) + part(*p, *q);
        *p = most;
    }
}

simd_dispatch! {
    /// Takes the maxima and sums of some rows into those of others; without rows they are `-inf`
    /// and anything.
    pub fn merge[T: Real](part: (&[T], &[T]), all_top: &mut [T], all_sum: &mut [T]) = merge_body;
}

/// The kernel at given potentials: `exp(row_i + h_j - c_ij / eps)`.
#[inline(always)]
fn rebuild_body<T: Real, const FMA: bool>(
    inverse: T,
    cost: Option<&[T]>,
    h: &[T],
    row: &[T],
    kernel: &mut [T],
) {
    let stride = h.len();
    let h = h.as_chunks::<LANES>().0;
    for (i, &r) in row.iter().enumerate() {
        let k = kernel[i * stride..(i + 1) * stride]
            .as_chunks_mut::<LANES>()
            .0;
        if let Some(cost) = cost {
            for ((e, c), q) in k.iter_mut().zip(rows_of(cost, stride, i)).zip(h) {
                for l in 0..LANES {
                    e[l] = c[l].fma::<FMA>(-inverse, q[l] + r).exp_fast::<FMA>();
                }
            }
        } else {
            for (e, q) in k.iter_mut().zip(h) {
                for l in 0..LANES {
                    e[l] = e[l].fma::<FMA>(-inverse, q[l] + r).exp_fast::<FMA>();
                }
            }
        }
    }
}

simd_dispatch! {
    /// The kernel at given potentials: `exp(row_i + h_j - c_ij / eps)`. Without `cost` it stands in
    /// `kernel`.
    pub fn rebuild[T: Real](
        inverse: T, cost: Option<&[T]>, h: &[T], row: &[T], kernel: &mut [T]
    ) = rebuild_body;
}

//! The loops over a row of the cost matrix or of the gradient, compiled for every vector level.

use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath::{axpy_body, sum_lanes};

/// `row = factor * max(x + y - 2 row, 0)`; says whether any entry is below `close * (x + y)`.
#[inline(always)]
fn square_row_body<T: Real, const FMA: bool>(
    row: &mut [T],
    x: T,
    y: &[T],
    close: T,
    factor: T,
) -> bool {
    let minus_two = -(T::ONE + T::ONE);
    let mut least = [T::ZERO; LANES];
    let (row, _) = row.as_chunks_mut::<LANES>();
    let (y, _) = y.as_chunks::<LANES>();
    for (c, q) in row.iter_mut().zip(y) {
        for l in 0..LANES {
            let norms = x + q[l];
            let d = c[l].fma::<FMA>(minus_two, norms);
            least[l] = least[l].min(d - close * norms);
            // Written so that NaN stays.
            let d = if d < T::ZERO { T::ZERO } else { d };
            c[l] = factor * d;
        }
    }
    least.iter().any(|&v| v < T::ZERO)
}

simd_dispatch! {
    /// `row = factor * max(x + y - 2 row, 0)`; says whether any entry is below `close * (x + y)`.
    pub fn square_row[T: Real](row: &mut [T], x: T, y: &[T], close: T, factor: T) -> bool
        = square_row_body;
}

#[inline(always)]
fn root_row_body<T: Real, const FMA: bool>(row: &mut [T]) {
    for c in row {
        *c = c.sqrt();
    }
}

simd_dispatch! {
    /// `row = sqrt(row)`.
    pub fn root_row[T: Real](row: &mut [T]) = root_row_body;
}

/// Columns held in registers at a time.
const BLOCK: usize = 4 * LANES;

/// `out_ij = sum_k |x_ik - y_jk|`, with `y` column-major and padded like the rows of `out`.
#[inline(always)]
fn l1_rows_body<T: Real, const FMA: bool>(x: &[T], y: &[T], dim: usize, out: &mut [T]) {
    if dim == 0 {
        out.fill(T::ZERO);
        return;
    }
    let stride = y.len() / dim;
    for (p, row) in x.chunks_exact(dim).zip(out.chunks_exact_mut(stride)) {
        let mut j = 0;
        while j + BLOCK <= stride {
            let mut sum = [T::ZERO; BLOCK];
            for (&v, column) in p.iter().zip(y.chunks_exact(stride)) {
                let column: &[T; BLOCK] = column[j..j + BLOCK].try_into().expect("length");
                for l in 0..BLOCK {
                    sum[l] += (v - column[l]).abs();
                }
            }
            row[j..j + BLOCK].copy_from_slice(&sum);
            j += BLOCK;
        }
        while j < stride {
            let mut sum = [T::ZERO; LANES];
            for (&v, column) in p.iter().zip(y.chunks_exact(stride)) {
                let column: &[T; LANES] = column[j..j + LANES].try_into().expect("length");
                for l in 0..LANES {
                    sum[l] += (v - column[l]).abs();
                }
            }
            row[j..j + LANES].copy_from_slice(&sum);
            j += LANES;
        }
    }
}

simd_dispatch! {
    /// `out_ij = sum_k |x_ik - y_jk|`, with `y` column-major and padded like the rows of `out`.
    pub fn l1_rows[T: Real](x: &[T], y: &[T], dim: usize, out: &mut [T]) = l1_rows_body;
}

/// Gradient of `sum_j q_j |x - y_j|_1` with respect to one point `x`, and `-a` times the signs
/// added to `y_columns` (column-major, may be empty).
#[inline(always)]
fn l1_gradient_body<T: Real, const FMA: bool>(
    x: &[T],
    y: &[T],
    q: &[T],
    a: T,
    x_gradient: &mut [T],
    y_gradient: &mut [T],
) {
    let stride = q.len();
    let (q, _) = q.as_chunks::<LANES>();
    for k in 0..x.len() {
        let (column, _) = y[k * stride..(k + 1) * stride].as_chunks::<LANES>();
        let mut sum = [T::ZERO; LANES];
        for (c, p) in column.iter().zip(q) {
            for l in 0..LANES {
                let signed = if x[k] > c[l] { p[l] } else { -p[l] };
                sum[l] += if x[k] == c[l] { T::ZERO } else { signed };
            }
        }
        x_gradient[k] = a * sum_lanes(sum);
        if !y_gradient.is_empty() {
            let (out, _) = y_gradient[k * stride..(k + 1) * stride].as_chunks_mut::<LANES>();
            for ((c, p), o) in column.iter().zip(q).zip(out) {
                for l in 0..LANES {
                    let signed = if x[k] > c[l] { p[l] } else { -p[l] };
                    let signed = if x[k] == c[l] { T::ZERO } else { signed };
                    o[l] = (-a).fma::<FMA>(signed, o[l]);
                }
            }
        }
    }
}

simd_dispatch! {
    /// Gradient of `a sum_j q_j |x - y_j|_1` with respect to one point `x`; that with respect to
    /// the `y_j` is added to `y_gradient` (column-major like `y`; empty: not wanted).
    pub fn l1_gradient[T: Real](
        x: &[T], y: &[T], q: &[T], a: T, x_gradient: &mut [T], y_gradient: &mut [T]
    ) = l1_gradient_body;
}

/// `row_j += price [label != labels_j]`.
#[inline(always)]
fn label_row_body<T: Real, const FMA: bool>(row: &mut [T], label: T, labels: &[T], price: T) {
    for (c, &l) in row.iter_mut().zip(labels) {
        *c += if l == label { T::ZERO } else { price };
    }
}

simd_dispatch! {
    /// `row_j += price [label != labels_j]`.
    pub fn label_row[T: Real](row: &mut [T], label: T, labels: &[T], price: T) = label_row_body;
}

/// `sum_j q_j [label != labels_j]`.
#[inline(always)]
fn mismatch_body<T: Real, const FMA: bool>(q: &[T], label: T, labels: &[T]) -> T {
    let mut sum = [T::ZERO; LANES];
    let (q, _) = q.as_chunks::<LANES>();
    let (labels, _) = labels.as_chunks::<LANES>();
    for (p, other) in q.iter().zip(labels) {
        for l in 0..LANES {
            sum[l] += if other[l] == label { T::ZERO } else { p[l] };
        }
    }
    sum_lanes(sum)
}

simd_dispatch! {
    /// `sum_j q_j [label != labels_j]`.
    pub fn mismatch[T: Real](q: &[T], label: T, labels: &[T]) -> T = mismatch_body;
}

/// `gradient_i = scale_i (mass_i x_i - gradient_i)`, row by row.
#[inline(always)]
fn barycentre_rows_body<T: Real, const FMA: bool>(
    x: &[T],
    mass: &[T],
    scale: &[T],
    gradient: &mut [T],
) {
    let dim = gradient.len() / mass.len().max(1);
    for (i, g) in gradient.chunks_exact_mut(dim.max(1)).enumerate() {
        let s = scale[i];
        g.iter_mut().for_each(|v| *v = -s * *v);
        axpy_body::<T, FMA>(s * mass[i], &x[i * dim..(i + 1) * dim], g);
    }
}

simd_dispatch! {
    /// `gradient_i = scale_i (mass_i x_i - gradient_i)` for each row of `gradient`.
    pub fn barycentre_rows[T: Real](x: &[T], mass: &[T], scale: &[T], gradient: &mut [T])
        = barycentre_rows_body;
}

//! One tile of point pairs: from scalar products to kernel values and the sums over them.

use super::kernel::Shape;
use crate::lanes::{sum_four, sum_lanes};
use crate::real::{LANES, Real};
use crate::simd_dispatch;

/// The points of a tile, its rows and columns.
///
/// The columns are padded to `stride`, a multiple of [`LANES`], with norms and weights of zero.
pub struct Points<'a, T> {
    /// Coordinates of a point, zeros behind them.
    pub width: usize,
    /// Points of the rows.
    pub row: &'a [T],
    /// Points of the columns.
    pub column: &'a [T],
    /// Squared norms of the row points.
    pub row_norm: &'a [T],
    /// Squared norms of the column points, padded.
    pub column_norm: &'a [T],
    /// Length of a padded row.
    pub stride: usize,
    /// The tile lies on the diagonal, where a point meets itself, and leaves that out.
    pub skip: bool,
}

/// What a tile with one mass per point reads and fills.
pub struct Tile<'a, T> {
    /// Weights of the row points.
    pub row_weight: &'a [T],
    /// Weights of the column points, padded.
    pub column_weight: &'a [T],
    /// In: scalar products of the points. Out: `g_ij = w_i w_j c_ij`.
    pub entries: &'a mut [T],
    /// Out: `sum_j S k_ij w_j`.
    pub row_kernel: &'a mut [T],
    /// Out: `sum_j g_ij`.
    pub row_coefficient: &'a mut [T],
    /// Out, with `COLUMNS`: `sum_i S k_ij w_i`.
    pub column_kernel: &'a mut [T],
    /// Out, with `COLUMNS`: `sum_i g_ij`.
    pub column_coefficient: &'a mut [T],
    /// Two padded rows.
    pub scratch: &'a mut [T],
}

/// Squared distances below this share of the squared norms, times `EPSILON`, have lost digits.
const DOUBT: f64 = 1e5;

/// Squared distances of row `i` from its scalar products (or these, for a kernel of them).
#[inline(always)]
fn arguments<T: Real, const FMA: bool>(
    points: &Points<'_, T>,
    shape: &Shape<T>,
    i: usize,
    products: &[T],
    out: &mut [T],
) {
    let norm = points.row_norm[i];
    let minus_two = -(T::ONE + T::ONE);
    if !shape.invariant() {
        out.copy_from_slice(products);
    } else if !shape.rooted() {
        for ((d2, &product), &other) in out.iter_mut().zip(products).zip(points.column_norm) {
            *d2 = minus_two.fma::<FMA>(product, norm + other).max(T::ZERO);
        }
    } else {
        let doubt = T::from_f64(DOUBT) * T::EPSILON;
        let mut least = T::MAX;
        for ((d2, &product), &other) in out.iter_mut().zip(products).zip(points.column_norm) {
            let sum = norm + other;
            let value = minus_two.fma::<FMA>(product, sum);
            least = (value - doubt * sum).min(least);
            *d2 = value.max(T::ZERO);
        }
        if least <= T::ZERO {
            directly::<T>(points, i, doubt, out);
        }
    }
}

/// Takes the distances that lost digits from the differences of the coordinates.
#[inline(never)]
fn directly<T: Real>(points: &Points<'_, T>, i: usize, doubt: T, out: &mut [T]) {
    let (norm, width) = (points.row_norm[i], points.width);
    let mine = &points.row[i * width..(i + 1) * width];
    let columns = points.column.chunks_exact(width).zip(points.column_norm);
    for (d2, (other, &other_norm)) in out.iter_mut().zip(columns) {
        if *d2 <= doubt * (norm + other_norm) {
            let mut sum = T::ZERO;
            for (&p, &q) in mine.iter().zip(other) {
                sum += (p - q) * (p - q);
            }
            *d2 = sum;
        }
    }
}

#[inline(always)]
fn tile_body<T: Real, const FMA: bool, const COLUMNS: bool>(
    points: &Points<'_, T>,
    tile: &mut Tile<'_, T>,
    shape: &Shape<T>,
) -> f64 {
    let stride = points.stride;
    let weights = &tile.column_weight[..stride];
    let (weight_lanes, _) = weights.as_chunks::<LANES>();
    let (d2, k) = tile.scratch[..2 * stride].split_at_mut(stride);
    if COLUMNS {
        tile.column_kernel[..stride].fill(T::ZERO);
        tile.column_coefficient[..stride].fill(T::ZERO);
    }
    let mut moment = [T::ZERO; LANES];
    for (i, row) in tile.entries.chunks_exact_mut(stride).enumerate() {
        let weight = tile.row_weight[i];
        arguments::<T, FMA>(points, shape, i, row, d2);
        shape.evaluate::<FMA>(d2, k, row);
        if points.skip {
            (k[i], row[i]) = (T::ZERO, T::ZERO);
        }
        if COLUMNS {
            for (sum, &k) in tile.column_kernel[..stride].iter_mut().zip(&*k) {
                *sum = k.fma::<FMA>(weight, *sum);
            }
            let column = &mut tile.column_coefficient[..stride];
            for ((sum, c), &w) in column.iter_mut().zip(&mut *row).zip(weights) {
                *c *= weight * w;
                *sum += *c;
            }
        } else {
            for (c, &w) in row.iter_mut().zip(weights) {
                *c *= weight * w;
            }
        }
        let mut sum_k = [T::ZERO; LANES];
        let mut sum_c = [T::ZERO; LANES];
        let mut sum_m = [T::ZERO; LANES];
        let (k, _) = k.as_chunks::<LANES>();
        let (c, _) = row.as_chunks::<LANES>();
        let (d2, _) = d2.as_chunks::<LANES>();
        for (((w, k), c), d2) in weight_lanes.iter().zip(k).zip(c).zip(d2) {
            for l in 0..LANES {
                sum_k[l] = k[l].fma::<FMA>(w[l], sum_k[l]);
            }
            for l in 0..LANES {
                sum_c[l] += c[l];
            }
            for l in 0..LANES {
                sum_m[l] = c[l].fma::<FMA>(d2[l], sum_m[l]);
            }
        }
        let nothing = [T::ZERO; LANES];
        [tile.row_kernel[i], tile.row_coefficient[i], ..] =
            sum_four([sum_k, sum_c, nothing, nothing]);
        for l in 0..LANES {
            moment[l] += sum_m[l];
        }
    }
    sum_lanes(moment).to_f64()
}

simd_dispatch! {
    /// Fills the outputs of `tile` (the sums over columns only with `COLUMNS`) and returns
    /// `sum_ij g_ij d_ij^2`.
    pub fn tile[T: Real, const COLUMNS: bool](
        points: &Points<'_, T>, tile: &mut Tile<'_, T>, shape: &Shape<T>
    ) -> f64 = tile_body;
}

#[inline(always)]
fn kernels_body<T: Real, const FMA: bool>(
    points: &Points<'_, T>,
    shape: &Shape<T>,
    products: &mut [T],
    d2: &mut [T],
    k: &mut [T],
) {
    let stride = points.stride;
    let rows = products.chunks_exact_mut(stride);
    let outputs = d2.chunks_exact_mut(stride).zip(k.chunks_exact_mut(stride));
    for (i, (row, (d2, k))) in rows.zip(outputs).enumerate() {
        arguments::<T, FMA>(points, shape, i, row, d2);
        shape.evaluate::<FMA>(d2, k, row);
        if points.skip {
            (k[i], row[i]) = (T::ZERO, T::ZERO);
        }
    }
}

simd_dispatch! {
    /// `d^2` and `S k` of a tile; `c` takes the place of the scalar products.
    pub fn kernels[T: Real](
        points: &Points<'_, T>, shape: &Shape<T>, products: &mut [T], d2: &mut [T], k: &mut [T]
    ) = kernels_body;
}

#[inline(always)]
fn combine_body<T: Real, const FMA: bool>(
    weights: &[T],
    d2: &[T],
    c: &mut [T],
    row_sum: &mut [T],
    column_sum: &mut [T],
) -> f64 {
    let stride = column_sum.len();
    column_sum.fill(T::ZERO);
    let mut moment = 0.0;
    let inputs = weights.chunks_exact(stride).zip(d2.chunks_exact(stride));
    for ((c, (w, d2)), total) in c.chunks_exact_mut(stride).zip(inputs).zip(row_sum) {
        for ((c, &w), sum) in c.iter_mut().zip(w).zip(&mut *column_sum) {
            *c *= w;
            *sum += *c;
        }
        let mut sum_c = [T::ZERO; LANES];
        let mut sum_m = [T::ZERO; LANES];
        for (c, d2) in c
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(d2.as_chunks::<LANES>().0)
        {
            for l in 0..LANES {
                sum_c[l] += c[l];
            }
            for l in 0..LANES {
                sum_m[l] = c[l].fma::<FMA>(d2[l], sum_m[l]);
            }
        }
        *total = sum_lanes(sum_c);
        moment += sum_lanes(sum_m).to_f64();
    }
    moment
}

simd_dispatch! {
    /// Multiplies `c` by `weights`, entry by entry; the sums of the rows and columns of the
    /// product `g`, and the value `sum_ij g_ij d_ij^2`.
    pub fn combine[T: Real](
        weights: &[T], d2: &[T], c: &mut [T], row_sum: &mut [T], column_sum: &mut [T]
    ) -> f64 = combine_body;
}

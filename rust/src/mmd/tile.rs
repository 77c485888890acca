//! Kernel values of one tile of point pairs, from their scalar products.

use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath::sum_lanes;

/// Longest run of scales that share an exponential.
const LONGEST: usize = 5;

/// Scales that each are half of the one before: one exponential, then fourth powers.
#[derive(Clone, Debug, PartialEq)]
struct Run<T> {
    /// `-1/(2 (s sigma)^2)` of the widest scale.
    exponent: T,
    /// `1/((s sigma)^2 S)`, the weight of each scale in the coefficient `c`.
    coefficients: Vec<T>,
}

/// The scales of a kernel `k(d) = 1/S sum_s exp(-d^2 / (2 (s sigma)^2))`, widest first.
///
/// The kernel of half the width is the fourth power. That makes the relative error four times as
/// large, so a run of scales ends where it would pass 16 units in the last place in `f32` (256 in
/// `f64`).
#[derive(Clone, Debug)]
pub struct Scales<T> {
    runs: Vec<Run<T>>,
    /// `1/S`.
    pub mean: f64,
}

impl<T: Real> Scales<T> {
    /// Plan for the given scales, in any order, times the bandwidth `sigma`.
    #[must_use]
    pub fn new(scales: &[f64], sigma: f64) -> Self {
        let longest = if T::EPSILON.to_f64() > 1e-10 {
            3
        } else {
            LONGEST
        };
        let mut sorted = scales.to_vec();
        sorted.sort_by(|p, q| q.total_cmp(p));
        let mean = 1.0 / sorted.len() as f64;
        let mut runs: Vec<Run<T>> = Vec::new();
        for (i, &s) in sorted.iter().enumerate() {
            let inverse = 1.0 / ((s * sigma) * (s * sigma));
            let coefficient = T::from_f64(inverse * mean);
            let halved = i > 0 && sorted[i - 1] == 2.0 * s;
            match runs.last_mut() {
                Some(run) if halved && run.coefficients.len() < longest => {
                    run.coefficients.push(coefficient);
                }
                _ => runs.push(Run {
                    exponent: T::from_f64(-0.5 * inverse),
                    coefficients: vec![coefficient],
                }),
            }
        }
        Scales { runs, mean }
    }
}

/// One tile of `rows x columns` pairs and the sums over it.
///
/// The columns are padded to `stride`, a multiple of [`LANES`], with zero weights.
pub struct Tile<'a, T> {
    /// In: scalar products of the points. Out: `c = sum_s k_s / ((s sigma)^2 S)`.
    pub entries: &'a mut [T],
    /// Length of a padded row.
    pub stride: usize,
    /// Squared norms of the row points.
    pub row_norm: &'a [T],
    /// Weights of the row points.
    pub row_weight: &'a [T],
    /// Squared norms of the column points, padded.
    pub column_norm: &'a [T],
    /// Weights of the column points, padded.
    pub column_weight: &'a [T],
    /// Out: `sum_j S k_ij w_j`.
    pub row_kernel: &'a mut [T],
    /// Out: `sum_j c_ij w_j`.
    pub row_coefficient: &'a mut [T],
    /// Out, with `COLUMNS`: `sum_i S k_ij w_i`.
    pub column_kernel: &'a mut [T],
    /// Out, with `COLUMNS`: `sum_i c_ij w_i`.
    pub column_coefficient: &'a mut [T],
    /// Two padded rows.
    pub scratch: &'a mut [T],
}

/// Adds `S k` and `c` of one run of `N` scales for a row of squared distances.
#[inline(always)]
fn add_run<T: Real, const FMA: bool, const N: usize>(
    d2: &[T],
    run: &Run<T>,
    k: &mut [T],
    c: &mut [T],
) {
    // A fourth power of less than this would not be a normal number, which is slow on many
    // machines. It is also nothing beside the wider scales.
    let small = T::from_f64(if T::EPSILON.to_f64() > 1e-10 {
        4.7e-10
    } else {
        1e-76
    });
    let exponent = run.exponent;
    let mut coefficients = [T::ZERO; N];
    coefficients.copy_from_slice(&run.coefficients);
    for ((k, c), &d2) in k.iter_mut().zip(c).zip(d2) {
        let mut power = (d2 * exponent).exp_small::<FMA>();
        let mut sum_k = *k + power;
        let mut sum_c = power.fma::<FMA>(coefficients[0], *c);
        for &coefficient in &coefficients[1..] {
            let square = power * power;
            power = if power < small {
                T::ZERO
            } else {
                square * square
            };
            sum_k += power;
            sum_c = power.fma::<FMA>(coefficient, sum_c);
        }
        *k = sum_k;
        *c = sum_c;
    }
}

/// `S k` and `c` of a row of squared distances.
#[inline(always)]
fn kernel<T: Real, const FMA: bool>(d2: &[T], scales: &Scales<T>, k: &mut [T], c: &mut [T]) {
    k.fill(T::ZERO);
    c.fill(T::ZERO);
    for run in &scales.runs {
        match run.coefficients.len() {
            1 => add_run::<T, FMA, 1>(d2, run, k, c),
            2 => add_run::<T, FMA, 2>(d2, run, k, c),
            3 => add_run::<T, FMA, 3>(d2, run, k, c),
            4 => add_run::<T, FMA, 4>(d2, run, k, c),
            _ => add_run::<T, FMA, LONGEST>(d2, run, k, c),
        }
    }
}

#[inline(always)]
fn tile_body<T: Real, const FMA: bool, const COLUMNS: bool>(
    tile: &mut Tile<'_, T>,
    scales: &Scales<T>,
) -> f64 {
    let stride = tile.stride;
    let norms = &tile.column_norm[..stride];
    let (weights, _) = tile.column_weight.as_chunks::<LANES>();
    let (d2, k) = tile.scratch[..2 * stride].split_at_mut(stride);
    if COLUMNS {
        tile.column_kernel[..stride].fill(T::ZERO);
        tile.column_coefficient[..stride].fill(T::ZERO);
    }
    let minus_two = -(T::ONE + T::ONE);
    let mut moment = 0.0;
    for (i, row) in tile.entries.chunks_exact_mut(stride).enumerate() {
        let (norm, weight) = (tile.row_norm[i], tile.row_weight[i]);
        for ((d2, &product), &other) in d2.iter_mut().zip(&*row).zip(norms) {
            *d2 = minus_two.fma::<FMA>(product, norm + other).max(T::ZERO);
        }
        kernel::<T, FMA>(d2, scales, k, row);
        if COLUMNS {
            for (sum, &k) in tile.column_kernel[..stride].iter_mut().zip(&*k) {
                *sum = k.fma::<FMA>(weight, *sum);
            }
            for (sum, &c) in tile.column_coefficient[..stride].iter_mut().zip(&*row) {
                *sum = c.fma::<FMA>(weight, *sum);
            }
        }
        let mut sum_k = [T::ZERO; LANES];
        let mut sum_c = [T::ZERO; LANES];
        let mut sum_m = [T::ZERO; LANES];
        let (k, _) = k.as_chunks::<LANES>();
        let (c, _) = row.as_chunks::<LANES>();
        let (d2, _) = d2.as_chunks::<LANES>();
        for (((w, k), c), d2) in weights.iter().zip(k).zip(c).zip(d2) {
            for l in 0..LANES {
                sum_k[l] = k[l].fma::<FMA>(w[l], sum_k[l]);
            }
            for l in 0..LANES {
                sum_c[l] = c[l].fma::<FMA>(w[l], sum_c[l]);
            }
            for l in 0..LANES {
                sum_m[l] = (c[l] * w[l]).fma::<FMA>(d2[l], sum_m[l]);
            }
        }
        tile.row_kernel[i] = sum_lanes(sum_k);
        tile.row_coefficient[i] = sum_lanes(sum_c);
        moment += weight.to_f64() * sum_lanes(sum_m).to_f64();
    }
    moment
}

simd_dispatch! {
    /// Fills the outputs of `tile` (the sums over columns only with `COLUMNS`) and returns
    /// `sum_ij w_i w_j c_ij d_ij^2`.
    pub fn tile[T: Real, const COLUMNS: bool](tile: &mut Tile<'_, T>, scales: &Scales<T>) -> f64
        = tile_body;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halved_scales_share_an_exponential() {
        fn lengths<T: Real>(scales: &[f64]) -> Vec<usize> {
            let runs = Scales::<T>::new(scales, 3.0).runs;
            runs.iter().map(|r| r.coefficients.len()).collect()
        }
        let five = [0.25, 4.0, 1.0, 2.0, 0.5];
        assert_eq!(lengths::<f64>(&five), [5]);
        assert_eq!(lengths::<f32>(&five), [3, 2]);
        assert_eq!(lengths::<f64>(&[1.0, 1.5, 1.0, 3.0]), [2, 1, 1]);
        assert_eq!(Scales::<f64>::new(&five, 3.0).mean, 0.2);
    }
}

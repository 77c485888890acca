//! The loops over a block of rows of the kernel matrix, compiled for every vector level.
//!
//! Rows and columns are padded to whole lane arrays; the padding of the kernel is 0. Potentials
//! are in units of epsilon: `phi = f / eps`, `h = g / eps`.

use crate::lanes::{max_lanes, sum_lanes};
use crate::product::{add_row_times, times_column};
use crate::real::{LANES, Real};
use crate::simd::Level;
use crate::simd_dispatch;

/// Rows that are multiplied together, so that each vector is loaded once for all of them.
const TOGETHER: usize = 4;

/// Scalings up to `MAX` to this power (and down to its inverse) are used further.
pub const SETTLED: f64 = 0.22;

/// Numbers in a sweep may reach `MAX` to this power: products of three of them stay in range.
const USABLE: f64 = 0.3;

/// Bytes of a block's kernel that the first-level cache holds: nothing has to be fetched ahead.
const NEAR: usize = 1 << 15;

/// A block's constants in a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Rule<T> {
    /// Vector instructions of the products.
    pub level: Level,
    /// `1 / eps`.
    pub inverse: T,
    /// Damping `rho_x / (rho_x + eps)` of the row update; 1: strict.
    pub tau: T,
    /// `eps / rho_x`; 0: strict.
    pub rate: T,
    /// Accumulate the column sums (not in a self-term).
    pub columns: bool,
    /// The kernel is used again after a log sweep.
    pub keep: bool,
}

impl<T: Real> Rule<T> {
    /// A scaling sweep with column sums needs no row potentials: it leaves them to [`potentials`].
    pub fn without_potentials(&self) -> bool {
        self.columns && self.rate == T::ZERO
    }
}

/// The rows' own vectors: read and written by the sweeps.
#[derive(Debug)]
pub struct Rows<'a, T> {
    /// Masses `a`.
    pub weight: &'a [T],
    /// Row potentials absorbed in the kernel.
    pub base: &'a mut [T],
    /// Row potentials.
    pub phi: &'a mut [T],
    /// `exp(phi - base)`.
    pub ratio: &'a mut [T],
    /// `sum_j K_ij v_j`.
    pub total: &'a mut [T],
    /// `sum_i a_i ratio_i K_ij`, added to.
    pub column: &'a mut [T],
}

/// What a sweep has to say about its block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// All row sums are positive, finite and far from the ends of the number range.
    pub usable: bool,
    /// All `exp(phi - base)` are within [`SETTLED`]: no need to absorb the potentials.
    pub settled: bool,
    /// `ln sum_i a_i exp(-f_i / rho_x)`; -inf if strict.
    pub log_relaxed: f64,
}

/// Number of rows of this length that stay in the first-level cache between two passes.
fn group<T>(stride: usize) -> usize {
    let rows = 16384 / (stride * size_of::<T>()).max(1);
    rows.clamp(TOGETHER, 64) / TOGETHER * TOGETHER
}

#[inline(always)]
pub(super) fn rows_of<T>(matrix: &[T], stride: usize, i: usize) -> &[[T; LANES]] {
    matrix[i * stride..(i + 1) * stride].as_chunks::<LANES>().0
}

/// Finishes a group of rows: `c_i = a_i ratio_i` into `scratch`, then the column sums. With
/// `ahead`, calls the next group into the cache meanwhile.
#[inline(always)]
fn close_group<T: Real, const FMA: bool>(
    level: Level,
    ahead: bool,
    kernel: &[T],
    weight: &[T],
    ratio: &[T],
    column: &mut [T],
) {
    let mut scratch = [T::ZERO; 64];
    let scratch = &mut scratch[..weight.len()];
    for ((s, &a), &u) in scratch.iter_mut().zip(weight).zip(ratio) {
        *s = a * u;
    }
    add_row_times::<T, FMA>(level, ahead, scratch, kernel, column);
}

#[inline(always)]
fn report_body<T: Real, const FMA: bool>(rule: &Rule<T>, rows: &Rows<T>, out: &mut Report) {
    let within = |x: &[T], exponent: f64| {
        let high = T::from_f64(T::MAX.to_f64().powf(exponent));
        let low = T::ONE / high;
        let mut all = true;
        for &v in x {
            all &= (v > low) & (v < high);
        }
        all
    };
    let mut log_relaxed = f64::NEG_INFINITY;
    if rule.rate > T::ZERO {
        // Both ends of the range occur: a cheap transport, or none at all.
        let massive = || {
            rows.weight
                .iter()
                .zip(rows.phi.iter())
                .filter(|(a, _)| **a > T::ZERO)
        };
        let top = massive()
            .map(|(_, &p)| -rule.rate * p)
            .fold(-T::INFINITY, T::max);
        if top.is_finite() {
            let mut sum = T::ZERO;
            for (&a, &p) in rows.weight.iter().zip(rows.phi.iter()) {
                let term = a * (-rule.rate * p - top).exp_fast::<FMA>();
                sum += if a > T::ZERO { term } else { T::ZERO };
            }
            log_relaxed = top.to_f64() + sum.to_f64().ln();
        } else if top > T::ZERO || top.to_f64().is_nan() {
            log_relaxed = top.to_f64();
        }
    }
    // Field by field: a whole one that is copied waits for the stores of its parts.
    out.usable = within(rows.total, USABLE) & within(rows.ratio, USABLE);
    out.settled = within(rows.ratio, SETTLED);
    out.log_relaxed = log_relaxed;
}

simd_dispatch! {
    /// What the last sweep says about all rows of a block.
    pub fn report[T: Real](rule: &Rule<T>, rows: &Rows<'_, T>, out: &mut Report) = report_body;
}

/// `k_j = exp(h_j - c_j / eps - top)` with `top` the largest exponent; returns it and the sum.
/// Without `cost` it stands in `kernel`.
#[inline(always)]
fn log_row<T: Real, const FMA: bool>(
    minus: T,
    cost: Option<&[[T; LANES]]>,
    h: &[[T; LANES]],
    kernel: &mut [[T; LANES]],
) -> (T, T) {
    let mut top = [T::NEG_INFINITY; LANES];
    for (p, q) in cost.unwrap_or(kernel).iter().zip(h) {
        for l in 0..LANES {
            top[l] = p[l].fma::<FMA>(minus, q[l]).max(top[l]);
        }
    }
    let top = max_lanes(top);
    let mut sum = [T::ZERO; LANES];
    if let Some(cost) = cost {
        for ((e, p), q) in kernel.iter_mut().zip(cost).zip(h) {
            for l in 0..LANES {
                e[l] = (p[l].fma::<FMA>(minus, q[l]) - top).exp_small::<FMA>();
                sum[l] += e[l];
            }
        }
    } else {
        for (e, q) in kernel.iter_mut().zip(h) {
            for l in 0..LANES {
                e[l] = (e[l].fma::<FMA>(minus, q[l]) - top).exp_small::<FMA>();
                sum[l] += e[l];
            }
        }
    }
    (top, sum_lanes(sum))
}

/// One full iteration of some rows from the potentials `h` (with `ln b` added).
#[inline(always)]
fn log_body<T: Real, const FMA: bool>(
    rule: Rule<T>,
    cost: Option<&[T]>,
    h: &[T],
    kernel: &mut [T],
    rows: &mut Rows<T>,
) {
    let stride = h.len();
    let count = rows.weight.len();
    let minus = -rule.inverse;
    let h = h.as_chunks::<LANES>().0;
    let step = group::<T>(stride);
    for start in (0..count).step_by(step) {
        let end = count.min(start + step);
        for i in start..end {
            let c = cost.map(|cost| rows_of(cost, stride, i));
            let k = &mut kernel[i * stride..(i + 1) * stride];
            let (top, sum) = log_row::<T, FMA>(minus, c, h, k.as_chunks_mut().0);
            rows.base[i] = top;
            rows.total[i] = sum;
        }
        for i in start..end {
            // The row's log-sum-exp is top + ln sum.
            let (top, sum) = (rows.base[i], rows.total[i]);
            let phi = -rule.tau * (top + sum.ln_fast::<FMA>());
            let scale = if rule.tau == T::ONE {
                T::ONE / sum
            } else {
                (phi + top).exp_fast::<FMA>()
            };
            rows.phi[i] = phi;
            rows.base[i] = phi;
            rows.ratio[i] = T::ONE;
            rows.total[i] = scale;
        }
        if rule.keep {
            for i in start..end {
                let scale = rows.total[i];
                for v in &mut kernel[i * stride..(i + 1) * stride] {
                    *v *= scale;
                }
            }
        }
        if rule.columns {
            close_group::<T, FMA>(
                rule.level,
                false,
                &kernel[start * stride..end * stride],
                &rows.weight[start..end],
                if rule.keep {
                    &rows.ratio[start..end]
                } else {
                    &rows.total[start..end]
                },
                rows.column,
            );
        } else {
            rows.total[start..end].fill(T::ONE);
        }
    }
}

simd_dispatch! {
    /// One full iteration of some rows from the potentials `h` (with `ln b` added): new row
    /// potentials, column sums, and, where it is kept, the kernel
    /// `b_j exp(phi_i + h_j - c_ij / eps)`. Without `cost` it stands in `kernel`.
    pub fn log[T: Real](
        rule: Rule<T>, cost: Option<&[T]>, h: &[T], kernel: &mut [T], rows: &mut Rows<'_, T>
    ) = log_body;
}

/// One full iteration of a block by the kernel and `v = exp(h - absorbed h)`.
#[inline(always)]
fn scale_body<T: Real, const FMA: bool>(rule: &Rule<T>, kernel: &[T], v: &[T], rows: &mut Rows<T>) {
    let stride = v.len();
    let count = rows.weight.len();
    let step = group::<T>(stride);
    let far = size_of_val(kernel) > NEAR;
    let mut done = 0;
    if far && rule.columns && rule.tau == T::ONE {
        let (total, ratio) = (&mut *rows.total, &mut *rows.ratio);
        done = T::balance(
            rule.level,
            kernel,
            rows.weight,
            v,
            (total, ratio),
            rows.column,
        );
    }
    for start in (done..count).step_by(step) {
        let end = count.min(start + step);
        let part = &kernel[start * stride..end * stride];
        times_column::<T, FMA>(rule.level, part, v, &mut rows.total[start..end]);
        if !rule.columns {
            continue;
        }
        let (total, ratio) = (&rows.total[start..end], &mut rows.ratio[start..end]);
        if rule.tau == T::ONE {
            for (u, &t) in ratio.iter_mut().zip(total) {
                *u = T::ONE / t;
            }
        } else {
            let (base, phi) = (&rows.base[start..end], &mut rows.phi[start..end]);
            row_potentials::<T, FMA>(rule.tau, total, base, phi);
            for ((u, &p), &b) in ratio.iter_mut().zip(phi.iter()).zip(base) {
                *u = (p - b).exp_fast::<FMA>();
            }
        }
        let (weight, column) = (&rows.weight[start..end], &mut *rows.column);
        let ratio = &rows.ratio[start..end];
        close_group::<T, FMA>(rule.level, far, part, weight, ratio, column);
    }
    if rule.columns && rule.tau == T::ONE && rule.rate > T::ZERO {
        // All rows at once: the logarithms of a group would be waited for.
        row_potentials::<T, FMA>(rule.tau, rows.total, rows.base, rows.phi);
    }
}

/// `phi = tau (base - ln total)`.
#[inline(always)]
fn row_potentials<T: Real, const FMA: bool>(tau: T, total: &[T], base: &[T], phi: &mut [T]) {
    for ((p, &t), &b) in phi.iter_mut().zip(total).zip(base) {
        *p = tau * (b - t.ln_fast::<FMA>());
    }
}

simd_dispatch! {
    /// `phi = tau (base - ln total)`.
    pub fn potentials[T: Real](tau: T, total: &[T], base: &[T], phi: &mut [T]) = row_potentials;
}

simd_dispatch! {
    /// One full iteration of a block by the kernel and `v = exp(h - absorbed h)`.
    pub fn scale[T: Real](
        rule: &Rule<T>, kernel: &[T], v: &[T], rows: &mut Rows<'_, T>
    ) = scale_body;
}

//! The loops over the columns: their logarithms, update and residual.

use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath;

use super::sweep::SETTLED;

/// Largest exponent that a scaling may reach before the potentials are absorbed again.
pub fn limit<T: Real>() -> f64 {
    T::MAX.to_f64().ln() * SETTLED
}

/// Largest `|x_i|`; infinite if any is NaN.
#[inline(always)]
fn largest_body<T: Real, const FMA: bool>(x: &[T]) -> T {
    let mut top = [T::ZERO; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            let v = chunk[l].abs();
            let v = if v <= T::MAX { v } else { T::INFINITY };
            top[l] = v.max(top[l]);
        }
    }
    vmath::max_lanes(top)
}

simd_dispatch! {
    /// Largest `|x_i|`; infinite if any is NaN.
    pub fn largest[T: Real](x: &[T]) -> T = largest_body;
}

/// Marks what is not within [`limit`], a NaN too.
#[inline(always)]
fn mark<T: Real>(x: T, limit: T, outside: &mut T) {
    *outside = if x.abs() <= limit { *outside } else { T::ONE };
}

#[inline(always)]
fn unmarked<T: Real>(outside: [T; LANES]) -> bool {
    outside.iter().all(|&v| v == T::ZERO)
}

/// Whether all `x` are within [`limit`].
#[inline(always)]
fn small_body<T: Real, const FMA: bool>(x: &[T]) -> bool {
    let limit = T::from_f64(limit::<T>());
    let mut outside = [T::ZERO; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        for l in 0..LANES {
            mark(chunk[l], limit, &mut outside[l]);
        }
    }
    unmarked(outside)
}

simd_dispatch! {
    /// Whether all `x` are within [`limit`], and numbers.
    pub fn small[T: Real](x: &[T]) -> bool = small_body;
}

/// Constants of the column update.
#[derive(Clone, Copy, Debug)]
pub struct Update<T> {
    /// `rho_y / (rho_y + eps)`.
    pub tau: T,
    /// `1 - tau`, without cancellation.
    pub rest: T,
    /// `eps / rho_y`.
    pub rate: T,
}

/// The largest exponent that stays finite with room for a weight: what lies above is far from a
/// solution, and only its being large matters.
#[inline(always)]
pub fn capped<T: Real>(exponent: T) -> T {
    let most = T::from_f64(T::MAX.to_f64().ln() * 0.9);
    // Not min(), which would hide a NaN.
    if exponent > most { most } else { exponent }
}

/// `ln sum_j w_j exp(-rate (p_j + q_j + r_j))` over positive weights, free of overflow.
pub fn log_relaxed_mass<T: Real>(rate: T, w: &[T], parts: [&[T]; 3]) -> f64 {
    let exponent = |j: usize| -rate.to_f64() * parts.iter().map(|p| p[j].to_f64()).sum::<f64>();
    let massive = || (0..w.len()).filter(|&j| w[j] > T::ZERO);
    let top = massive().map(exponent).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = massive()
        .map(|j| w[j].to_f64() * (exponent(j) - top).exp())
        .sum();
    top + sum.ln()
}

/// The plain step of lane `l` of a column from `q = ln sum_i a_i exp(phi_i - c_ij / eps) +
/// absorbed` and the mass of the column, and its violation of the marginal.
#[inline(always)]
fn step_lane<T: Real, const FMA: bool>(
    update: Update<T>,
    (q, mass): (T, T),
    b: T,
    (absorbed, shift): (T, T),
) -> (T, T) {
    let (move_by, wanted) = if update.rate > T::ZERO {
        let s = -update.rest * absorbed - update.tau * q - shift;
        let old = absorbed + shift;
        (s, b * capped(-update.rate * old).exp_fast::<FMA>())
    } else {
        (-q - shift, b)
    };
    if b > T::ZERO {
        (move_by, (mass - wanted).abs())
    } else {
        (T::ZERO, T::ZERO)
    }
}

/// The sums of a sweep.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a, T> {
    /// `sum_i a_i K_ij u_i`, in which the kernel contains `b_j` and the absorbed potentials.
    pub sum: &'a [T],
    /// `exp(shift)`.
    pub v: &'a [T],
    /// `ln b`.
    pub ln_b: &'a [T],
}

/// The plain step of each column; the L1 violation of the column marginal; and whether all sums of
/// columns with mass are safely positive and finite, without which neither means anything.
#[inline(always)]
fn step_body<T: Real, const FMA: bool>(
    update: Update<T>,
    sums: Sums<T>,
    b: &[T],
    (absorbed, shift): (&[T], &[T]),
    step: &mut [T],
) -> (bool, T) {
    let high = T::from_f64(T::MAX.to_f64().powf(0.7));
    let low = T::ONE / high;
    let mut residual = [T::ZERO; LANES];
    let mut outside = [T::ZERO; LANES];
    let step = step.as_chunks_mut::<LANES>().0;
    let (w, v) = (
        sums.sum.as_chunks::<LANES>().0,
        sums.v.as_chunks::<LANES>().0,
    );
    let (b, ln_b) = (b.as_chunks::<LANES>().0, sums.ln_b.as_chunks::<LANES>().0);
    let (absorbed, shift) = (
        absorbed.as_chunks::<LANES>().0,
        shift.as_chunks::<LANES>().0,
    );
    let columns = w.iter().zip(v).zip(b).zip(ln_b).zip(absorbed).zip(shift);
    for (f, (((((w, v), b), ln_b), h), d)) in step.iter_mut().zip(columns) {
        for l in 0..LANES {
            let q = w[l].ln_fast::<FMA>() - ln_b[l];
            let (s, r) = step_lane::<T, FMA>(update, (q, w[l] * v[l]), b[l], (h[l], d[l]));
            f[l] = s;
            residual[l] += r;
            let within = (w[l] > low) & (w[l] < high);
            let good = within | (b[l] <= T::ZERO);
            outside[l] = if good { outside[l] } else { T::ONE };
        }
    }
    (unmarked(outside), vmath::sum_lanes(residual))
}

simd_dispatch! {
    /// The plain step of each column; the L1 violation of the column marginal; and whether all sums
    /// of columns with mass are safely positive and finite, without which neither means anything.
    pub fn step[T: Real](
        update: Update<T>, sums: Sums<'_, T>, b: &[T], state: (&[T], &[T]), step: &mut [T]
    ) -> (bool, T) = step_body;
}

/// The same from `q = ln sum_i a_i exp(phi_i - c_ij / eps) + absorbed`.
#[inline(always)]
fn step_from_body<T: Real, const FMA: bool>(
    update: Update<T>,
    q: &[T],
    b: &[T],
    (absorbed, shift): (&[T], &[T]),
    step: &mut [T],
) -> T {
    let mut residual = T::ZERO;
    let columns = q.iter().zip(b).zip(absorbed).zip(shift);
    for (f, (((&q, &b), &h), &d)) in step.iter_mut().zip(columns) {
        let mass = b * capped(q + d).exp_fast::<FMA>();
        let (s, r) = step_lane::<T, FMA>(update, (q, mass), b, (h, d));
        *f = s;
        residual += r;
    }
    residual
}

simd_dispatch! {
    /// The plain step and the L1 residual from `q = ln sum_i a_i exp(phi_i - c_ij / eps) +
    /// absorbed`, where the sums themselves would leave the number range.
    pub fn step_from[T: Real](
        update: Update<T>, q: &[T], b: &[T], state: (&[T], &[T]), step: &mut [T]
    ) -> T = step_from_body;
}

/// `shift += step - translation`, without the translation where there is no mass, and `v =
/// exp(shift)`; says whether all of `shift` is within [`limit`].
#[inline(always)]
fn advance_body<T: Real, const FMA: bool>(
    step: &[T],
    translation: T,
    b: &[T],
    (shift, v): (&mut [T], &mut [T]),
) -> bool {
    let limit = T::from_f64(limit::<T>());
    let mut outside = [T::ZERO; LANES];
    let (step, b) = (step.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    let (shift, v) = (
        shift.as_chunks_mut::<LANES>().0,
        v.as_chunks_mut::<LANES>().0,
    );
    for (((d, e), s), w) in shift.iter_mut().zip(v).zip(step).zip(b) {
        for l in 0..LANES {
            let by = if w[l] > T::ZERO {
                s[l] - translation
            } else {
                s[l]
            };
            let moved = d[l] + by;
            d[l] = moved;
            e[l] = moved.exp_fast::<FMA>();
            mark(moved, limit, &mut outside[l]);
        }
    }
    unmarked(outside)
}

simd_dispatch! {
    /// `shift += step - translation`, without the translation where there is no mass, and `v =
    /// exp(shift)`; says whether all of `shift` is within [`limit`].
    pub fn advance[T: Real](
        step: &[T], translation: T, b: &[T], state: (&mut [T], &mut [T])
    ) -> bool = advance_body;
}

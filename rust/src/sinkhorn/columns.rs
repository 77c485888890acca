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
            top[l] = if v <= top[l] { top[l] } else { v };
        }
    }
    let nan = top.iter().any(|v| !v.is_finite());
    if nan {
        T::INFINITY
    } else {
        vmath::max_lanes(top)
    }
}

simd_dispatch! {
    /// Largest `|x_i|`; infinite if any is NaN.
    pub fn largest[T: Real](x: &[T]) -> T = largest_body;
}

/// `q = ln w - ln b` where `b > 0`; says whether all those `w` are safely positive and finite.
#[inline(always)]
fn logarithms_body<T: Real, const FMA: bool>(w: &[T], b: &[T], ln_b: &[T], q: &mut [T]) -> bool {
    let high = T::from_f64(T::MAX.to_f64().powf(0.7));
    let low = T::ONE / high;
    let mut usable = true;
    for (((q, &w), &b), &l) in q.iter_mut().zip(w).zip(b).zip(ln_b) {
        let massive = b > T::ZERO;
        usable &= !massive | (w > low && w < high);
        *q = if massive {
            w.ln_fast::<FMA>() - l
        } else {
            T::ZERO
        };
    }
    usable
}

simd_dispatch! {
    /// `q = ln w - ln b` where `b > 0`; says whether all those `w` are safely positive and finite.
    pub fn logarithms[T: Real](w: &[T], b: &[T], ln_b: &[T], q: &mut [T]) -> bool = logarithms_body;
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

/// The plain step `F` of each column from `q = ln sum_i a_i exp(phi_i - c_ij / eps) + absorbed`.
///
/// Returns the L1 violation of the column marginal.
#[inline(always)]
fn update_body<T: Real, const FMA: bool>(
    update: Update<T>,
    q: &[T],
    b: &[T],
    absorbed: &[T],
    shift: &[T],
    step: &mut [T],
) -> T {
    let mut residual = [T::ZERO; LANES];
    let step = step.as_chunks_mut::<LANES>().0;
    let (q, b) = (q.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    let (absorbed, shift) = (
        absorbed.as_chunks::<LANES>().0,
        shift.as_chunks::<LANES>().0,
    );
    for ((((f, q), b), h), d) in step.iter_mut().zip(q).zip(b).zip(absorbed).zip(shift) {
        for l in 0..LANES {
            let mass = b[l] * capped(q[l] + d[l]).exp_fast::<FMA>();
            let (move_by, wanted) = if update.rate > T::ZERO {
                let s = -update.rest * h[l] - update.tau * q[l] - d[l];
                let old = h[l] + d[l];
                (s, b[l] * capped(-update.rate * old).exp_fast::<FMA>())
            } else {
                (-q[l] - d[l], b[l])
            };
            let massive = b[l] > T::ZERO;
            f[l] = if massive { move_by } else { T::ZERO };
            residual[l] += if massive {
                (mass - wanted).abs()
            } else {
                T::ZERO
            };
        }
    }
    vmath::sum_lanes(residual)
}

simd_dispatch! {
    /// The plain step of each column; returns the L1 residual.
    pub fn update[T: Real](
        update: Update<T>, q: &[T], b: &[T], absorbed: &[T], shift: &[T], step: &mut [T]
    ) -> T = update_body;
}

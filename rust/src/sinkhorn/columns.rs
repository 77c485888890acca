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

/// The plain step `F` of each column from `q = ln sum_i a_i exp(phi_i - c_ij / eps) + absorbed`.
///
/// Returns the L1 violation of the column marginal and the relaxed mass after the step.
#[inline(always)]
fn update_body<T: Real, const FMA: bool>(
    update: Update<T>,
    q: &[T],
    b: &[T],
    absorbed: &[T],
    shift: &[T],
    step: &mut [T],
) -> (T, T) {
    let mut residual = [T::ZERO; LANES];
    let mut relaxed = [T::ZERO; LANES];
    let step = step.as_chunks_mut::<LANES>().0;
    let (q, b) = (q.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
    let (absorbed, shift) = (
        absorbed.as_chunks::<LANES>().0,
        shift.as_chunks::<LANES>().0,
    );
    for ((((f, q), b), h), d) in step.iter_mut().zip(q).zip(b).zip(absorbed).zip(shift) {
        for l in 0..LANES {
            let mass = b[l] * (q[l] + d[l]).exp_fast::<FMA>();
            let (move_by, wanted, after) = if update.rate > T::ZERO {
                let s = -update.rest * h[l] - update.tau * q[l] - d[l];
                let old = h[l] + d[l];
                (
                    s,
                    b[l] * (-update.rate * old).exp_fast::<FMA>(),
                    b[l] * (-update.rate * (old + s)).exp_fast::<FMA>(),
                )
            } else {
                (-q[l] - d[l], b[l], b[l])
            };
            let massive = b[l] > T::ZERO;
            f[l] = if massive { move_by } else { T::ZERO };
            residual[l] += if massive {
                (mass - wanted).abs()
            } else {
                T::ZERO
            };
            relaxed[l] += if massive { after } else { T::ZERO };
        }
    }
    (vmath::sum_lanes(residual), vmath::sum_lanes(relaxed))
}

simd_dispatch! {
    /// The plain step of each column; returns the L1 residual and the relaxed mass after it.
    pub fn update[T: Real](
        update: Update<T>, q: &[T], b: &[T], absorbed: &[T], shift: &[T], step: &mut [T]
    ) -> (T, T) = update_body;
}

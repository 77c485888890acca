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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::available;

    const COUNT: usize = 3 * LANES;

    fn number(i: usize) -> f64 {
        ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0
    }

    /// Columns of which every fifth has no mass.
    fn columns() -> [Vec<f64>; 5] {
        let b = |j: usize| {
            if j % 5 == 4 {
                0.0
            } else {
                0.1 + number(j).abs()
            }
        };
        let b: Vec<f64> = (0..COUNT).map(b).collect();
        let ln_b = b.iter().map(|b| b.ln()).collect();
        let rest = [3, 7, 11].map(|k| (0..COUNT).map(|j| number(k * j + k)).collect());
        let [absorbed, shift, sum]: [Vec<f64>; 3] = rest;
        [b, ln_b, absorbed, shift, sum]
    }

    #[test]
    fn steps_from_sums_and_from_their_logarithms_agree() {
        let [b, ln_b, absorbed, shift, sum] = columns();
        let sum: Vec<f64> = sum.iter().map(|s| 0.2 + s.abs()).collect();
        let v: Vec<f64> = shift.iter().map(|d| d.exp()).collect();
        let q: Vec<f64> = sum.iter().zip(&ln_b).map(|(w, l)| w.ln() - l).collect();
        let strict = Update {
            tau: 1.0,
            rest: 0.0,
            rate: 0.0,
        };
        let relaxed = Update {
            tau: 0.75,
            rest: 0.25,
            rate: 1.0 / 3.0,
        };
        for level in available() {
            for update in [strict, relaxed] {
                let sums = Sums {
                    sum: &sum,
                    v: &v,
                    ln_b: &ln_b,
                };
                let state = (&absorbed[..], &shift[..]);
                let [mut one, mut other] = [vec![f64::NAN; COUNT], vec![f64::NAN; COUNT]];
                let (usable, residual) = step(level, update, sums, &b, state, &mut one);
                let wanted = step_from(level, update, &q, &b, state, &mut other);
                assert!(usable && (residual - wanted).abs() < 1e-13 * wanted);
                for j in 0..COUNT {
                    assert!((one[j] - other[j]).abs() < 1e-13, "{level:?} {j}");
                    assert!(b[j] > 0.0 || one[j] == 0.0);
                }
            }
        }
    }

    #[test]
    fn sums_out_of_range_are_told_unless_they_have_no_mass() {
        let [b, ln_b, absorbed, shift, _] = columns();
        let strict = Update {
            tau: 1.0,
            rest: 0.0,
            rate: 0.0,
        };
        for level in available() {
            for (place, bad) in [(2, 0.0), (0, f64::NAN), (20, f64::INFINITY), (33, 1e-300)] {
                for (place, expected) in [(place, false), (place / 5 * 5 + 4, true)] {
                    let mut sum = vec![1.0; COUNT];
                    sum[place] = bad;
                    let sums = Sums {
                        sum: &sum,
                        v: &sum,
                        ln_b: &ln_b,
                    };
                    let state = (&absorbed[..], &shift[..]);
                    let mut out = vec![0.0; COUNT];
                    let (usable, _) = step(level, strict, sums, &b, state, &mut out);
                    assert_eq!(usable, expected, "{level:?} {place} {bad}");
                }
            }
        }
    }

    #[test]
    fn a_move_is_scaled_and_its_size_is_seen() {
        let [b, _, absorbed, shift, _] = columns();
        for level in available() {
            let (mut moved, mut v) = (shift.clone(), vec![f64::NAN; COUNT]);
            assert!(advance(level, &absorbed, 0.5, &b, (&mut moved, &mut v)));
            for j in 0..COUNT {
                let by = absorbed[j] - if b[j] > 0.0 { 0.5 } else { 0.0 };
                assert!((moved[j] - shift[j] - by).abs() < 1e-15);
                assert!((v[j] / moved[j].exp() - 1.0).abs() < 1e-15);
            }
            let edge = limit::<f64>();
            for (place, value) in [(0, f64::NAN), (17, 1.01 * edge), (40, -1.01 * edge)] {
                let mut far = vec![0.0; COUNT];
                assert!(small(level, &far));
                far[place] = value;
                assert!(!small(level, &far), "{level:?} {value}");
                let mut at = vec![0.0; COUNT];
                assert!(!advance(level, &far, 0.0, &b, (&mut at, &mut v)));
                let size = if value.is_nan() {
                    f64::INFINITY
                } else {
                    value.abs()
                };
                assert_eq!(largest(level, &far), size);
            }
        }
    }
}

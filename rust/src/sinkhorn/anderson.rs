//! Anderson mixing with a safeguard.
//!
//! For a fixed-point map `x -> x + F(x)` the next point is `x + F - (dX + dF) c`, where `c`
//! minimises `|F - dF c|` and the columns of `dX`, `dF` are the last differences of `x` and `F`
//! (Walker and Ni 2011). The norm is weighted by the masses. A mixed point is kept only if the
//! residual there is below [`TOLERATED`] times the smallest one so far; else the iteration resumes
//! with the plain step from the point it came from, and the history is dropped. To insist on a
//! fall at every step costs up to twice the iterations at small epsilon (measured).

use crate::real::{LANES, Real};
use crate::simd::Level;
use crate::simd_dispatch;
use crate::vmath::sum_lanes;

use super::columns::largest;

/// Number of differences kept.
const WINDOW: usize = 5;

/// Largest sum of coefficients of a mixed step. Few degrees of freedom (duplicate points, few
/// columns) make the differences linearly dependent and the coefficients huge; the potentials
/// would then grow until the residual is rounding error.
const MODERATE: f64 = 1e5;

/// Longest mixed move at first, in units of epsilon, and of the plain move if longer than that.
const LEAP: f64 = 3.0;

/// A mixed point may have this many times the smallest residual so far.
const TOLERATED: f64 = 2.0;

/// `sum_i w_i x_i y_i`, over lane arrays only.
#[inline(always)]
fn weighted_dot_body<T: Real, const FMA: bool>(w: &[T], x: &[T], y: &[T]) -> T {
    let mut sum = [T::ZERO; LANES];
    let (w, x, y) = (
        w.as_chunks::<LANES>().0,
        x.as_chunks::<LANES>().0,
        y.as_chunks::<LANES>().0,
    );
    for ((w, x), y) in w.iter().zip(x).zip(y) {
        for l in 0..LANES {
            sum[l] = (w[l] * x[l]).fma::<FMA>(y[l], sum[l]);
        }
    }
    sum_lanes(sum)
}

simd_dispatch! {
    fn weighted_dot[T: Real](w: &[T], x: &[T], y: &[T]) -> T = weighted_dot_body;
}

/// One remembered difference.
#[derive(Debug)]
struct Difference<T> {
    /// Of the points and of the steps `F`, added.
    both: Vec<T>,
    /// Of the steps `F`.
    step: Vec<T>,
}

/// The state of the mixing.
#[derive(Debug)]
pub struct Anderson<T> {
    level: Level,
    history: Vec<Difference<T>>,
    /// Inner products of the `step` differences.
    gram: [[f64; WINDOW]; WINDOW],
    /// Place of the next difference.
    next: usize,
    /// `F` at the last kept point.
    kept: Vec<T>,
    /// Smallest residual so far.
    best: f64,
    /// The move from there to the present point; empty at the start.
    moved: Vec<T>,
    /// That move was a mixed one.
    mixed: bool,
    /// Any move was.
    used: bool,
    /// The present longest mixed move, as [`LEAP`].
    radius: f64,
    /// The last mixed move was cut to it.
    shortened: bool,
}

impl<T: Real> Anderson<T> {
    /// Nothing remembered.
    pub fn new(level: Level) -> Self {
        Self {
            level,
            history: Vec::new(),
            gram: [[0.0; WINDOW]; WINDOW],
            next: 0,
            kept: Vec::new(),
            best: f64::INFINITY,
            moved: Vec::new(),
            mixed: false,
            used: false,
            radius: LEAP,
            shortened: false,
        }
    }

    /// The present point was reached by mixing, and may still be refused.
    pub fn on_trial(&self) -> bool {
        self.mixed
    }

    /// Some move was a mixed one since the start.
    pub fn used(&self) -> bool {
        self.used
    }

    /// Replaces `step`, which is `F` at the present point, by the move to make.
    ///
    /// `plain` forbids a mixed move.
    pub fn advance(&mut self, weight: &[T], step: &mut [T], residual: f64, plain: bool) {
        // Written so that a NaN residual is refused.
        let kept = residual < TOLERATED * self.best;
        if self.mixed && !kept {
            for ((s, &f), &m) in step.iter_mut().zip(&self.kept).zip(&self.moved) {
                *s = f - m;
            }
            self.history.clear();
            self.next = 0;
            self.mixed = false;
            self.radius = (self.radius / 2.0).max(LEAP);
            // The point it came from is left by its plain step, which is worth remembering.
            self.moved.clear();
            self.moved.extend_from_slice(&self.kept);
            return;
        }
        if self.mixed && self.shortened {
            self.radius *= 2.0;
        }
        if !self.moved.is_empty() {
            self.remember(weight, step);
        }
        self.kept.clear();
        self.kept.extend_from_slice(step);
        self.best = self.best.min(residual);
        self.mixed = !plain && !self.history.is_empty();
        self.used |= self.mixed;
        if self.mixed {
            let c = self.coefficients(weight, step);
            for (difference, c) in self.history.iter().zip(c) {
                let c = T::from_f64(-c);
                crate::vmath::axpy(self.level, c, &difference.both, step);
            }
            self.shorten(step);
        }
        self.moved.clear();
        self.moved.extend_from_slice(step);
    }

    /// Brings a mixed move back to the radius: a long leap is seldom right at first, and always
    /// dear, for the kernel must be rebuilt. Each one that proves right doubles the radius.
    fn shorten(&mut self, step: &mut [T]) {
        let plain = largest(self.level, &self.kept).to_f64();
        let length = largest(self.level, step).to_f64();
        let most = self.radius * plain.max(1.0);
        self.shortened = length > most;
        if self.shortened {
            let part = T::from_f64(most / length);
            for (s, &f) in step.iter_mut().zip(&self.kept) {
                *s = f + part * (*s - f);
            }
        }
    }

    fn remember(&mut self, weight: &[T], step: &[T]) {
        if self.history.len() == self.next {
            self.history.push(Difference {
                both: Vec::new(),
                step: Vec::new(),
            });
        }
        let slot = &mut self.history[self.next];
        slot.step.clear();
        slot.step
            .extend(step.iter().zip(&self.kept).map(|(&s, &k)| s - k));
        slot.both.clear();
        slot.both
            .extend(slot.step.iter().zip(&self.moved).map(|(&s, &m)| s + m));
        for k in 0..self.history.len() {
            let (p, q) = (&self.history[self.next].step, &self.history[k].step);
            let dot = weighted_dot(self.level, weight, p, q).to_f64();
            self.gram[self.next][k] = dot;
            self.gram[k][self.next] = dot;
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// Least squares by the normal equations with a small ridge; 0 beyond the history.
    #[allow(clippy::needless_range_loop)]
    fn coefficients(&self, weight: &[T], step: &[T]) -> [f64; WINDOW] {
        let n = self.history.len();
        let mut right = [0.0; WINDOW];
        for (r, d) in right.iter_mut().zip(&self.history) {
            *r = weighted_dot(self.level, weight, &d.step, step).to_f64();
        }
        // The identity beyond the history: loops of known length stay in registers.
        let mut matrix = [[0.0; WINDOW]; WINDOW];
        for i in 0..WINDOW {
            for j in 0..WINDOW {
                let known = i < n && j < n;
                matrix[i][j] = if known { self.gram[i][j] } else { 0.0 };
            }
            // In proportion to each difference's own size: old differences are far larger than
            // new ones, and one ridge for all would drown the new.
            let own = matrix[i][i];
            let ridge = own * T::EPSILON.to_f64() * 4.0 + f64::MIN_POSITIVE;
            matrix[i][i] = if i < n { own + ridge } else { 1.0 };
        }
        // Positive definite up to rounding: elimination without pivoting.
        let mut inverse = [0.0; WINDOW];
        for k in 0..WINDOW {
            inverse[k] = 1.0 / matrix[k][k];
            for i in k + 1..WINDOW {
                let factor = matrix[i][k] * inverse[k];
                for j in k + 1..WINDOW {
                    matrix[i][j] -= factor * matrix[k][j];
                }
                right[i] -= factor * right[k];
            }
        }
        for k in (0..WINDOW).rev() {
            let mut rest = right[k];
            for j in k + 1..WINDOW {
                rest -= matrix[k][j] * right[j];
            }
            right[k] = rest * inverse[k];
        }
        let moderate = |c: &[f64]| c.iter().map(|c| c.abs()).sum::<f64>() <= MODERATE;
        if moderate(&right) {
            return right;
        }
        // The last difference alone.
        let last = (self.next + WINDOW - 1) % WINDOW;
        let mut single = [0.0; WINDOW];
        single[last] = weighted_dot(self.level, weight, &self.history[last].step, step).to_f64()
            / (self.gram[last][last] + f64::MIN_POSITIVE);
        if moderate(&single) {
            single
        } else {
            [0.0; WINDOW]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::padded;

    /// A linear map with slowly decaying modes converges in about as many steps as it has modes.
    #[test]
    fn solves_a_linear_problem_quickly() {
        let n = padded(4);
        let rates = [0.999, 0.9, -0.5, 0.3];
        let weight: Vec<f64> = (0..n).map(|i| if i < 4 { 1.0 } else { 0.0 }).collect();
        let mut x = vec![0.0; n];
        let mut mixer = Anderson::new(crate::simd::level());
        let mut residual = f64::INFINITY;
        let mut count = 0;
        while residual > 1e-10 {
            let mut step: Vec<f64> = (0..n)
                .map(|i| {
                    if i < 4 {
                        rates[i] * x[i] + 1.0 - x[i]
                    } else {
                        0.0
                    }
                })
                .collect();
            residual = step.iter().map(|v| v.abs()).sum();
            mixer.advance(&weight, &mut step, residual, false);
            x.iter_mut().zip(&step).for_each(|(v, s)| *v += s);
            count += 1;
            assert!(count < 40, "{residual}");
        }
        assert!((x[0] - 1000.0).abs() < 1e-6);
    }

    /// After a refused point the next one is the plain step from the last kept point.
    #[test]
    fn a_worse_point_is_refused() {
        let weight = vec![1.0; LANES];
        let mut mixer = Anderson::new(crate::simd::level());
        let mut x = vec![0.0; LANES];
        let mut take = |x: &mut Vec<f64>, f: f64, residual: f64| {
            let mut step = vec![f; LANES];
            mixer.advance(&weight, &mut step, residual, false);
            x.iter_mut().zip(&step).for_each(|(v, s)| *v += s);
            mixer.on_trial()
        };
        assert!(!take(&mut x, 1.0, 1.0));
        assert!(take(&mut x, 0.9, 0.9));
        assert!(x[0] > 1.9 + 1.0, "extrapolated: {}", x[0]);
        assert!(!take(&mut x, 5.0, 2.0));
        assert!((x[0] - 1.9).abs() < 1e-12, "{}", x[0]);
    }
}

//! The iteration between two clouds.
//!
//! Its state is the column potential `h = absorbed + shift` in units of epsilon, where `absorbed`
//! is contained in the kernel matrix.

use std::sync::PoisonError;

use crate::buffer::Aligned;
use crate::real::Real;

mod conclude;

use super::anderson::Anderson;
use super::block::{Block, Round};
use super::columns::{Sums, Update, advance, log_relaxed_mass, step, step_from};
use super::problem::{Options, Problem};
use super::solver::{Engine, Numbers, Outcome, damping};
use super::source::Keep;
use super::sweep::Rule;

/// Iterations without a smaller residual after which mixing pauses, for as many at first and
/// twice as many each time: whatever happens, plain iterations make up half of all.
const PATIENCE: usize = 40;

/// The vectors of the columns.
struct Columns<'e, 'f, 'a, T> {
    engine: &'e Engine<'f, 'a, T>,
    options: &'e Options,
    numbers: Numbers,
    update: Update<T>,
    b: Aligned<T>,
    ln_b: Aligned<T>,
    /// Part of `h` that the kernel contains.
    absorbed: Aligned<T>,
    /// The rest of `h`.
    shift: Aligned<T>,
    /// `exp(shift)`.
    v: Aligned<T>,
    /// The shift is within the range of a scaling sweep.
    small: bool,
    /// `F`, without the translation.
    step: Aligned<T>,
    sums: Aligned<T>,
    /// L1 violation of the column marginal before the step.
    residual: T,
    /// The translation of the last iteration in units of epsilon.
    translation: f64,
    /// Mass of the plan after the last update of the columns.
    mass: f64,
    /// The kernel may be used for a scaling sweep.
    valid: bool,
    /// The last sums come from a log sweep.
    fresh: bool,
}

impl<T: Real> Columns<'_, '_, '_, T> {
    /// One full iteration from `absorbed + shift`; leaves `step`, returns the relative residual.
    fn evaluate(&mut self) -> f64 {
        if !(self.valid && self.small && self.scale()) {
            self.absorb();
        }
        self.finish()
    }

    /// Scaling sweep; false if the numbers left the safe range, so that it has to be repeated.
    fn scale(&mut self) -> bool {
        self.engine.scale(&mut self.v);
        let sweep = self.engine.column_sums(&mut self.sums);
        self.valid &= sweep.settled;
        self.fresh = false;
        sweep.usable && self.step()
    }

    /// The step from the column sums; false if it takes a log-sum-exp of each column.
    fn step(&mut self) -> bool {
        let sums = Sums {
            sum: &self.sums,
            v: &self.v,
            ln_b: &self.ln_b,
        };
        let (state, level) = ((&self.absorbed[..], &self.shift[..]), self.options.level);
        let (usable, residual) = step(level, self.update, sums, &self.b, state, &mut self.step);
        self.residual = residual;
        usable
    }

    /// Log sweep, which absorbs the potentials.
    fn absorb(&mut self) {
        for (h, d) in self.absorbed.iter_mut().zip(self.shift.iter_mut()) {
            *h += *d;
            *d = T::ZERO;
        }
        self.v.fill(T::ONE);
        self.small = true;
        let (absorbed, ln_b) = (&self.absorbed, &self.ln_b);
        self.engine.round(Round::Log, |shared| {
            for ((h, &p), &l) in shared.h.iter_mut().zip(absorbed.iter()).zip(ln_b.iter()) {
                *h = p + l;
            }
        });
        self.fresh = true;
        let sweep = self.engine.column_sums(&mut self.sums);
        self.valid = self.engine.resident() && sweep.usable;
        if !self.step() {
            // Some column sums underflow in the kernel: they need their own log-sum-exp.
            self.valid = false;
            let all = self
                .column_transform()
                .into_iter()
                .zip(self.absorbed.iter());
            let q: Vec<T> = all.map(|(l, h)| T::from_f64(l + h.to_f64())).collect();
            let (state, level) = ((&self.absorbed[..], &self.shift[..]), self.options.level);
            self.residual = step_from(level, self.update, &q, &self.b, state, &mut self.step);
        }
    }

    /// `ln sum_i a_i exp(phi_i - c_ij / eps)` for every column.
    fn column_transform(&mut self) -> Vec<f64> {
        self.engine.round(Round::Columns, |_| {});
        // Only kept costs leave the kernel as it was.
        self.valid &= self.engine.keep == Keep::Both;
        let mut tops = vec![f64::NEG_INFINITY; self.b.len()];
        self.engine.each(|block| {
            for (top, t) in tops.iter_mut().zip(block.top.iter()) {
                *top = top.max(t.to_f64());
            }
        });
        let mut sums = vec![0.0; tops.len()];
        self.engine.each(|block| {
            let parts = block.top.iter().zip(block.column.iter());
            for ((sum, top), (&t, s)) in sums.iter_mut().zip(&tops).zip(parts) {
                // A block without mass has a maximum of -inf and a sum that means nothing.
                if t > T::NEG_INFINITY {
                    *sum += s.to_f64() * (t.to_f64() - top).exp();
                }
            }
        });
        tops.iter().zip(sums).map(|(t, s)| t + s.ln()).collect()
    }

    fn finish(&mut self) -> f64 {
        let Numbers {
            epsilon,
            reach_x,
            reach_y,
            mass_a,
            mass_b,
        } = self.numbers;
        let stiffness = epsilon / reach_x + epsilon / reach_y;
        let log_mass = if reach_y.is_infinite() {
            mass_b.ln()
        } else {
            let after: [&[T]; 3] = [&self.absorbed, &self.shift, &self.step];
            log_relaxed_mass(self.update.rate, &self.b, after)
        };
        self.mass = log_mass.exp();
        self.translation = 0.0;
        if stiffness > 0.0 {
            // The best common translation (f + k, g - k); Sejourne, Vialard, Peyre 2022.
            let log_rows = if reach_x.is_infinite() {
                mass_a.ln()
            } else {
                let mut parts = Vec::new();
                let add = |block: &mut Block<T>| parts.push(block.report.log_relaxed);
                self.engine.each(add);
                let top = parts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + parts.iter().map(|p| (p - top).exp()).sum::<f64>().ln()
            };
            self.translation = (log_rows - log_mass) / stiffness;
        }
        self.residual.to_f64() / mass_b
    }

    /// Drops a start that would drown the cost in rounding error, and takes out its gauge.
    fn sanitise_start(&mut self) {
        let massive = || {
            self.absorbed
                .iter()
                .zip(self.b.iter())
                .filter(|(_, b)| **b > T::ZERO)
        };
        let mean = if self.numbers.reach_x.is_infinite() && self.numbers.reach_y.is_infinite() {
            massive().map(|(h, b)| h.to_f64() * b.to_f64()).sum::<f64>() / self.numbers.mass_b
        } else {
            0.0
        };
        let far = massive()
            .map(|(h, _)| (h.to_f64() - mean).abs())
            .fold(0.0, f64::max);
        let usable = far * T::EPSILON.to_f64() < 0.01;
        for h in self.absorbed.iter_mut() {
            *h = if usable {
                T::from_f64(h.to_f64() - mean)
            } else {
                T::ZERO
            };
        }
    }

    /// Moves by `step - translation`, without the translation where there is no mass.
    fn advance(&mut self, step: &[T], translation: T) {
        let (level, state) = (self.options.level, (&mut self.shift[..], &mut self.v[..]));
        self.small = advance(level, step, translation, &self.b, state);
    }
}

/// Iterates to the tolerance; afterwards kernel, `ratio` and `v` give the plan.
pub fn iterate<T: Real>(
    engine: &Engine<T>,
    problem: &Problem<T>,
    numbers: Numbers,
    options: &Options,
) -> Outcome {
    let (epsilon, m) = (numbers.epsilon, problem.b.len());
    let clean = |p: &T| {
        let h = p.to_f64() / epsilon;
        if h.is_finite() { h } else { 0.0 }
    };
    let b = Aligned::padded_from(problem.b, T::ZERO);
    let stride = b.len();
    let mut ln_b = Aligned::filled(stride, T::NEG_INFINITY);
    for (l, &w) in ln_b.iter_mut().zip(b.iter()) {
        *l = w.ln();
    }
    let mut columns = Columns {
        engine,
        options,
        numbers,
        update: Update {
            tau: T::from_f64(damping(epsilon, numbers.reach_y)),
            rest: T::from_f64(epsilon / (numbers.reach_y + epsilon)),
            rate: T::from_f64(epsilon / numbers.reach_y),
        },
        b,
        ln_b,
        absorbed: Aligned::zeros(stride),
        shift: Aligned::zeros(stride),
        v: Aligned::filled(stride, T::ONE),
        small: true,
        step: Aligned::zeros(stride),
        sums: Aligned::zeros(stride),
        residual: T::NAN,
        translation: 0.0,
        mass: numbers.mass_b,
        valid: false,
        fresh: false,
    };
    {
        let mut shared = engine
            .shared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shared.rule = Rule {
            level: options.level,
            inverse: T::from_f64(1.0 / epsilon),
            tau: T::from_f64(damping(epsilon, numbers.reach_x)),
            rate: T::from_f64(epsilon / numbers.reach_x),
            columns: true,
            keep: engine.resident(),
        };
    }
    if let Some(g0) = problem.g0 {
        for (h, g) in columns.absorbed.iter_mut().zip(g0) {
            *h = T::from_f64(clean(g));
        }
    } else if let Some(f0) = problem.f0 {
        engine.each(|block| {
            let rows = block.rows.clone();
            let start = f0[rows].iter().map(|f| T::from_f64(clean(f)));
            block.phi = start.collect();
        });
        let tau = damping(epsilon, numbers.reach_y);
        let lse = columns.column_transform();
        for (h, l) in columns.absorbed[..m].iter_mut().zip(lse) {
            *h = T::from_f64(-tau * l);
        }
    }
    columns.sanitise_start();
    let accelerate = options.accelerate && options.tol > 0.0;
    let mut mixer = accelerate.then(|| Anderson::new(options.level));
    let (mut resume_at, mut pause) = (0, PATIENCE);
    let mut mixed = Vec::new();
    let mut iterations = 0;
    let (mut best, mut best_at) = (f64::INFINITY, 0);
    let residual = loop {
        let residual = columns.evaluate();
        iterations += 1;
        let trial = mixer.as_ref().is_some_and(Anderson::on_trial);
        let mut done = options.tol > 0.0 && residual <= options.tol;
        let (mut residual, mut failed) = (residual, false);
        if done && !columns.fresh && mixer.as_ref().is_some_and(Anderson::used) {
            // Mixing may have left the range where the residual can be told from rounding: what
            // converged must also do so when the kernel is computed anew.
            columns.absorb();
            residual = columns.finish();
            done = residual <= options.tol;
            failed = !done;
        }
        if residual < best {
            (best, best_at) = (residual, iterations);
        }
        if mixer.is_some() && !residual.is_nan() && (failed || iterations - best_at > PATIENCE) {
            mixer = None;
            resume_at = iterations + pause;
            pause *= 2;
        } else if mixer.is_none() && accelerate && iterations >= resume_at {
            mixer = Some(Anderson::new(options.level));
            (best, best_at) = (residual, iterations);
        }
        let ended = done || (residual.is_nan() && !trial) || iterations >= options.max_iter;
        if ended || engine.interrupt.raised() {
            break residual;
        }
        let translation = T::from_f64(columns.translation);
        let step = std::mem::take(&mut columns.step);
        if let Some(mixer) = &mut mixer {
            // The last iteration starts from a point that no longer may be refused.
            let plain = iterations + 1 >= options.max_iter;
            let pairs = step.iter().zip(columns.b.iter());
            let moved = |(&f, &w): (&T, &T)| if w > T::ZERO { f - translation } else { f };
            mixed.clear();
            mixed.extend(pairs.map(moved));
            mixer.advance(&columns.b, &mut mixed, residual, plain);
            columns.advance(&mixed, T::ZERO);
        } else {
            columns.advance(&step, translation);
        }
        columns.step = step;
    };
    conclude::conclude(&mut columns, problem, iterations, residual)
}

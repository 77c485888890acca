//! The iteration between two clouds.
//!
//! Its state is the column potential `h = absorbed + shift` in units of epsilon, where `absorbed`
//! is contained in the kernel matrix.

use std::sync::PoisonError;

use crate::buffer::Aligned;
use crate::parallel::lock;
use crate::real::Real;

mod conclude;

use super::anderson::Anderson;
use super::block::Round;
use super::columns::{Update, largest, limit, log_relaxed_mass, logarithms, update};
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
    /// `F`, without the translation.
    step: Aligned<T>,
    q: Aligned<T>,
    sums: Aligned<T>,
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
        let small = largest(self.options.level, &self.shift).to_f64() <= limit::<T>();
        if !(self.valid && small && self.scale()) {
            self.absorb();
        }
        self.finish()
    }

    /// Scaling sweep; false if the numbers left the safe range, so that it has to be repeated.
    fn scale(&mut self) -> bool {
        self.engine.scale(self.options.level, &self.shift);
        let sweep = self.engine.column_sums(&mut self.sums);
        self.valid &= sweep.settled;
        self.fresh = false;
        sweep.usable && self.logarithms()
    }

    /// `q` from the column sums; false if it takes a log-sum-exp of each column.
    fn logarithms(&mut self) -> bool {
        logarithms(
            self.options.level,
            &self.sums,
            &self.b,
            &self.ln_b,
            &mut self.q,
        )
    }

    /// Log sweep, which absorbs the potentials.
    fn absorb(&mut self) {
        for (h, d) in self.absorbed.iter_mut().zip(self.shift.iter_mut()) {
            *h += *d;
            *d = T::ZERO;
        }
        let (absorbed, ln_b) = (&self.absorbed, &self.ln_b);
        self.engine.round(Round::Log, |shared| {
            for ((h, &p), &l) in shared.h.iter_mut().zip(absorbed.iter()).zip(ln_b.iter()) {
                *h = p + l;
            }
        });
        self.fresh = true;
        let sweep = self.engine.column_sums(&mut self.sums);
        self.valid = self.engine.resident() && sweep.usable;
        if !self.logarithms() {
            // Some column sums underflow in the kernel: they need their own log-sum-exp.
            self.valid = false;
            for (j, lse) in self.column_transform().into_iter().enumerate() {
                if self.b[j] > T::ZERO {
                    self.q[j] = T::from_f64(lse + self.absorbed[j].to_f64());
                }
            }
        }
    }

    /// `ln sum_i a_i exp(phi_i - c_ij / eps)` for every column.
    fn column_transform(&mut self) -> Vec<f64> {
        self.engine.round(Round::Columns, |_| {});
        // Only kept costs leave the kernel as it was.
        self.valid &= self.engine.keep == Keep::Both;
        let blocks: Vec<_> = self.engine.blocks.iter().map(lock).collect();
        (0..self.b.len())
            .map(|j| {
                let parts = || blocks.iter().map(|block| (block.top[j], block.column[j]));
                let top = parts()
                    .map(|(t, _)| t.to_f64())
                    .fold(f64::NEG_INFINITY, f64::max);
                // A block without mass has a maximum of -inf and a sum that means nothing.
                let sum: f64 = parts()
                    .filter(|(t, _)| *t > T::NEG_INFINITY)
                    .map(|(t, s)| s.to_f64() * (t.to_f64() - top).exp())
                    .sum();
                top + sum.ln()
            })
            .collect()
    }

    fn finish(&mut self) -> f64 {
        let residual = update(
            self.options.level,
            self.update,
            &self.q,
            &self.b,
            &self.absorbed,
            &self.shift,
            &mut self.step,
        );
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
            let reports = self.engine.blocks.iter().map(|b| lock(b).report);
            let log_rows = if reach_x.is_infinite() {
                mass_a.ln()
            } else {
                let parts: Vec<f64> = reports.map(|report| report.log_relaxed).collect();
                let top = parts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + parts.iter().map(|p| (p - top).exp()).sum::<f64>().ln()
            };
            self.translation = (log_rows - log_mass) / stiffness;
        }
        residual.to_f64() / mass_b
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

    /// Makes the move `step`.
    fn advance(&mut self, step: &[T]) {
        for (d, &s) in self.shift.iter_mut().zip(step) {
            *d += s;
        }
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
        step: Aligned::zeros(stride),
        q: Aligned::zeros(stride),
        sums: Aligned::zeros(stride),
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
        for block in engine.blocks {
            let mut block = lock(block);
            let rows = block.rows.clone();
            let start = f0[rows].iter().map(|f| T::from_f64(clean(f)));
            block.phi = start.collect();
        }
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
    let mut move_by = vec![T::ZERO; stride];
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
        for ((s, &f), &w) in move_by
            .iter_mut()
            .zip(columns.step.iter())
            .zip(columns.b.iter())
        {
            *s = if w > T::ZERO { f - translation } else { f };
        }
        if let Some(mixer) = &mut mixer {
            // The last iteration starts from a point that no longer may be refused.
            let plain = iterations + 1 >= options.max_iter;
            mixer.advance(&columns.b, &mut move_by, residual, plain);
        }
        columns.advance(&move_by);
    };
    conclude::conclude(&mut columns, problem, iterations, residual)
}

//! The self-term: one potential, averaged updates `f <- (f + T f) / 2`.
//!
//! The state is `h = absorbed + shift` in units of epsilon. Rows of the kernel are normalised at
//! the time of absorption, so that a row's transform is `base - ln sum_j K_ij exp(shift_j)`.

use std::sync::PoisonError;

use crate::buffer::Aligned;
use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath;

use super::block::Round;
use super::columns::{capped, limit, small};
use super::problem::{Options, Problem};
use super::solver::{Engine, Numbers, Outcome, damping};
use super::sweep::Rule;

/// `step = tau best - h` with `best = base - ln total`; returns `sum a |r - wanted|` and `sum a r`
/// for the row masses `r = exp(h - best)`.
#[inline(always)]
fn update_body<T: Real, const FMA: bool>(
    (tau, rate): (T, T),
    a: &[T],
    (base, total): (&[T], &[T]),
    (absorbed, shift): (&[T], &[T]),
    step: &mut [T],
) -> (T, T) {
    let mut residual = [T::ZERO; LANES];
    let mut mass = [T::ZERO; LANES];
    let step = step.as_chunks_mut::<LANES>().0;
    let a = a.as_chunks::<LANES>().0;
    let (base, total) = (base.as_chunks::<LANES>().0, total.as_chunks::<LANES>().0);
    let (absorbed, shift) = (
        absorbed.as_chunks::<LANES>().0,
        shift.as_chunks::<LANES>().0,
    );
    for (((((f, a), p), t), h), d) in step
        .iter_mut()
        .zip(a)
        .zip(base)
        .zip(total)
        .zip(absorbed)
        .zip(shift)
    {
        for l in 0..LANES {
            // Grouped so that the small numbers are not lost in the large ones.
            let gap = (p[l] - h[l]) - (t[l].ln_fast::<FMA>() + d[l]);
            let old = h[l] + d[l];
            f[l] = gap - (T::ONE - tau) * (old + gap);
            let r = capped(-gap).exp_fast::<FMA>();
            let wanted = capped(-rate * old).exp_fast::<FMA>();
            let massive = a[l] > T::ZERO;
            residual[l] += if massive {
                a[l] * (r - wanted).abs()
            } else {
                T::ZERO
            };
            mass[l] += if massive { a[l] * r } else { T::ZERO };
        }
    }
    (vmath::sum_lanes(residual), vmath::sum_lanes(mass))
}

simd_dispatch! {
    fn update[T: Real](
        rule: (T, T), a: &[T], rows: (&[T], &[T]), state: (&[T], &[T]), step: &mut [T]
    ) -> (T, T) = update_body;
}

/// Iterates to the tolerance; afterwards kernel, `ratio` and `v` give the plan.
pub fn iterate<T: Real>(
    engine: &Engine<T>,
    problem: &Problem<T>,
    numbers: Numbers,
    options: &Options,
) -> Outcome {
    let Numbers {
        epsilon, reach_x, ..
    } = numbers;
    let n = problem.a.len();
    let a = Aligned::padded_from(problem.a, T::ZERO);
    let stride = a.len();
    let mut absorbed = Aligned::zeros(stride);
    let mut shift: Aligned<T> = Aligned::zeros(stride);
    let mut step = Aligned::zeros(stride);
    let mut v = Aligned::filled(stride, T::ONE);
    let mut base = Aligned::zeros(stride);
    let mut total = Aligned::filled(stride, T::ONE);
    if let Some(start) = problem.g0.or(problem.f0) {
        for (h, p) in absorbed.iter_mut().zip(start) {
            let scaled = T::from_f64(p.to_f64() / epsilon);
            *h = if scaled.is_finite() { scaled } else { T::ZERO };
        }
    }
    let tau = T::from_f64(damping(epsilon, reach_x));
    let rate = T::from_f64(epsilon / reach_x);
    engine
        .shared
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .rule = Rule {
        level: options.level,
        inverse: T::from_f64(1.0 / epsilon),
        tau: T::ONE,
        rate: T::ZERO,
        columns: false,
        keep: engine.resident(),
    };
    let usable = || {
        let mut all = true;
        engine.each(|block| all &= block.report.usable);
        all
    };
    let half = T::from_f64(0.5);
    let (mut valid, mut iterations) = (false, 0);
    let (residual, mass) = loop {
        let near = small(options.level, &shift);
        let mut scaled = false;
        if valid && near {
            v.copy_from_slice(&shift);
            vmath::exp(options.level, &mut v);
            engine.scale(&mut v);
            scaled = usable();
        }
        if !scaled {
            for (h, d) in absorbed.iter_mut().zip(shift.iter_mut()) {
                *h += *d;
                *d = T::ZERO;
            }
            engine.round(Round::Log, |shared| {
                for (j, h) in shared.h[..n].iter_mut().enumerate() {
                    *h = absorbed[j] + a[j].ln();
                }
            });
            valid = engine.resident() && usable();
            engine.gather(|block| &block.base, &mut base[..n]);
        }
        engine.gather(|block| &block.total, &mut total[..n]);
        let (residual, mass) = update(
            options.level,
            (tau, rate),
            &a,
            (&base, &total),
            (&absorbed, &shift),
            &mut step,
        );
        iterations += 1;
        let residual = residual.to_f64() / numbers.mass_a;
        let done = options.tol > 0.0 && residual <= options.tol;
        let ended = done || residual.is_nan() || iterations >= options.max_iter;
        if ended || engine.interrupt.raised() {
            break (residual, mass.to_f64());
        }
        for (d, &s) in shift[..n].iter_mut().zip(step.iter()) {
            *d += half * s;
        }
    };
    // A point without mass has the exact transform; it changes nothing for the others.
    for ((d, &s), &w) in shift[..n].iter_mut().zip(step.iter()).zip(problem.a) {
        if w == T::ZERO {
            *d += s;
        }
    }
    let f: Vec<f64> = (0..n)
        .map(|i| epsilon * (absorbed[i].to_f64() + shift[i].to_f64()))
        .collect();
    let apart = |i: usize| (absorbed[i] - base[i]) + shift[i];
    let spread = (0..n).map(|i| apart(i).abs().to_f64()).fold(0.0, f64::max);
    let near = valid && small(options.level, &shift) && spread <= limit::<T>();
    engine.each(|block| {
        for (k, i) in block.rows.clone().enumerate() {
            block.phi[k] = absorbed[i] + shift[i];
            block.ratio[k] = apart(i).exp();
        }
    });
    if near {
        let mut shared = engine
            .shared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shared.v.copy_from_slice(&shift);
        vmath::exp(options.level, &mut shared.v);
    } else {
        engine.round(Round::Rebuild, |shared| {
            shared.v.fill(T::ONE);
            for (j, h) in shared.h[..n].iter_mut().enumerate() {
                *h = absorbed[j] + shift[j] + a[j].ln();
            }
        });
    }
    Outcome {
        g: f.clone(),
        f,
        offset: 0.0,
        mass,
        iterations,
        residual,
    }
}

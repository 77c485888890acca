//! What the iteration between two clouds leaves.

use std::sync::PoisonError;

use crate::buffer::brief;
use crate::real::Real;

use super::super::block::Round;
use super::super::problem::Problem;
use super::super::solver::{Outcome, damping};
use super::Columns;

/// Potentials from the last iteration, and the kernel made ready for the gradient round.
pub fn conclude<T: Real>(
    columns: &mut Columns<T>,
    problem: &Problem<T>,
    iterations: usize,
    residual: f64,
) -> Outcome {
    let (engine, numbers) = (columns.engine, columns.numbers);
    let (epsilon, m) = (numbers.epsilon, problem.b.len());
    let translation = columns.translation;
    let mut offset = epsilon * translation;
    let mut phi = brief(problem.a.len(), T::ZERO);
    engine.gather(|block| block.potentials(), &mut phi);
    let mut f: Vec<f64> = phi
        .iter()
        .map(|p| epsilon * (p.to_f64() + translation))
        .collect();
    let mut g: Vec<f64> = (0..m)
        .map(|j| {
            let h = columns.absorbed[j].to_f64() + columns.shift[j].to_f64();
            epsilon * (h + columns.step[j].to_f64() - translation)
        })
        .collect();
    if problem.b.contains(&T::ZERO) {
        let tau = damping(epsilon, numbers.reach_y);
        for (j, lse) in columns.column_transform().into_iter().take(m).enumerate() {
            if problem.b[j] == T::ZERO {
                g[j] = -epsilon * tau * (lse + translation);
            }
        }
    }
    if numbers.reach_x.is_infinite() && numbers.reach_y.is_infinite() {
        let mean = |w: &[T], p: &[f64], mass: f64| {
            let terms = w.iter().zip(p).filter(|(w, _)| **w != T::ZERO);
            terms.map(|(w, p)| w.to_f64() * p).sum::<f64>() / mass
        };
        let share =
            (mean(problem.b, &g, numbers.mass_b) - mean(problem.a, &f, numbers.mass_a)) / 2.0;
        offset += share;
        f.iter_mut().for_each(|p| *p += share);
        g.iter_mut().for_each(|p| *p -= share);
    }
    // The plan belongs to the updated columns; the translation does not change it.
    let step = std::mem::take(&mut columns.step);
    columns.advance(&step, T::ZERO);
    if columns.valid && columns.small {
        let mut shared = engine
            .shared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut shared.v, &mut columns.v);
    } else {
        engine.round(Round::Rebuild, |shared| {
            shared.v.fill(T::ONE);
            for (j, h) in shared.h.iter_mut().enumerate() {
                *h = columns.absorbed[j] + columns.shift[j] + columns.ln_b[j];
            }
        });
    }
    Outcome {
        f,
        g,
        offset,
        mass: columns.mass,
        iterations,
        residual,
    }
}

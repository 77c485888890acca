//! The solution from the results of all blocks.

use std::sync::PoisonError;

use crate::buffer::{Aligned, brief};
use crate::cost::Mismatch;
use crate::real::Real;

use super::problem::{Options, Solution};
use super::solver::{Engine, Numbers, Outcome, damping};

/// The density of the marginal at a point whose potential is the transform of the other one.
fn wanted(potential: f64, reach: f64) -> f64 {
    if reach.is_infinite() {
        1.0
    } else {
        (-potential / reach).exp()
    }
}

/// Puts the blocks' results together.
pub fn collect<T: Real>(
    engine: &Engine<T>,
    b: &[T],
    outcome: &Outcome,
    numbers: Numbers,
    options: &Options,
    solution: &mut Solution<T>,
) {
    let mut column = brief(b.len(), 0.0);
    let mut moved = Mismatch::default();
    let mut masked = Vec::new();
    engine.each(|block| {
        let (sums, rows) = (std::mem::take(&mut block.sums), block.rows.clone());
        solution.row.extend_from_slice(&sums.row);
        masked.extend(sums.masked);
        for (s, c) in column.iter_mut().zip(sums.column.iter()) {
            *s += c.to_f64();
        }
        solution.transport += sums.transport;
        moved.total += sums.moved.total;
        let classes = sums.moved.by_class;
        moved
            .by_class
            .resize(classes.len().max(moved.by_class.len()), 0.0);
        let pairs = moved.by_class.iter_mut().zip(&classes);
        pairs.for_each(|(s, p)| *s += p);
        if options.want_x {
            let dim = sums.grad_x.len() / rows.len().max(1);
            if rows.len() == solution.f.len() {
                solution.grad_x = sums.grad_x;
            } else {
                if solution.grad_x.is_empty() {
                    solution.grad_x = Aligned::arbitrary(solution.f.len() * dim);
                }
                solution.grad_x[rows.start * dim..rows.end * dim].copy_from_slice(&sums.grad_x);
            }
        }
        if options.want_y {
            if solution.grad_y.is_empty() {
                solution.grad_y = sums.grad_y;
            } else {
                let all = solution.grad_y.iter_mut().zip(sums.grad_y.iter());
                all.for_each(|(s, &p)| *s += p);
            }
        }
        solution.plan.extend_from_slice(&sums.plan);
    });
    // A row without mass has no plan; its potential is the exact transform of the other one.
    let tau = damping(numbers.epsilon, numbers.reach_x);
    for (i, phi) in masked {
        let f = tau * (numbers.epsilon * phi + outcome.offset);
        solution.f[i] = T::from_f64(f);
        solution.row[i] = T::from_f64(wanted(f, numbers.reach_x));
    }
    let shared = engine.shared.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(ground) = shared.source.ground() {
        ground.columns().chain(0, &mut solution.grad_y);
        if let Some(labels) = &ground.labels {
            solution.mismatch = labels.mismatch(&moved);
        }
        solution.class_mass = moved.by_class.iter().map(|&v| T::from_f64(v)).collect();
    }
    if shared.source.symmetric() {
        solution.column = solution.row.clone();
        return;
    }
    // So does a column without mass.
    solution.column = column
        .iter()
        .zip(b)
        .zip(&outcome.g)
        .map(|((&s, &w), &g)| {
            T::from_f64(if w != T::ZERO {
                s / w.to_f64()
            } else {
                wanted(g, numbers.reach_y)
            })
        })
        .collect();
}

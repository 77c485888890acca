//! One problem from its inputs to its solution.

use std::sync::{Mutex, PoisonError, RwLock};

use crate::buffer::{Aligned, padded};
use crate::cost::{Cloud, Side};
use crate::parallel::{lock, team};
use crate::real::Real;

use super::block::{Block, Ground, Round, Shared};
use super::problem::{Costs, Options, Problem, Solution};
use super::sweep::Rule;
use super::{symmetric, two_sided};

/// The constants of a problem, scaled.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Regularisation.
    pub epsilon: f64,
    /// Row penalty.
    pub reach_x: f64,
    /// Column penalty.
    pub reach_y: f64,
    /// Mass of the rows.
    pub mass_a: f64,
    /// Mass of the columns.
    pub mass_b: f64,
}

/// `rho / (rho + eps)`.
pub fn damping(epsilon: f64, reach: f64) -> f64 {
    if reach.is_infinite() {
        1.0
    } else {
        reach / (reach + epsilon)
    }
}

/// `<a, phi(f)>` with `phi(f) = rho (1 - exp(-f / rho))`, or `f` if strict.
pub fn dual_term<T: Real>(weight: &[T], potential: &[f64], reach: f64) -> f64 {
    let terms = weight.iter().zip(potential).filter(|(w, _)| **w != T::ZERO);
    if reach.is_infinite() {
        terms.map(|(w, p)| w.to_f64() * p).sum()
    } else {
        terms
            .map(|(w, p)| -reach * w.to_f64() * (-p / reach).exp_m1())
            .sum()
    }
}

/// What the iteration leaves.
#[derive(Debug)]
pub struct Outcome {
    /// Row potential.
    pub f: Vec<f64>,
    /// Column potential.
    pub g: Vec<f64>,
    /// Mass of the plan at the point of the value.
    pub mass: f64,
    /// Sweeps.
    pub iterations: usize,
    /// Last residual.
    pub residual: f64,
}

/// The leader's view of the team.
pub struct Engine<'e, 'a, T> {
    /// Runs a round.
    pub run: &'e dyn Fn(),
    /// The rows.
    pub blocks: &'e [Mutex<Block<T>>],
    /// What the rounds read.
    pub shared: &'e RwLock<Shared<'a, T>>,
}

impl<'a, T: Real> Engine<'_, 'a, T> {
    /// Writes the shared state, then runs a round.
    pub fn round(&self, round: Round, edit: impl FnOnce(&mut Shared<'a, T>)) {
        {
            let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
            shared.round = round;
            edit(&mut shared);
        }
        (self.run)();
    }

    /// Sum of the blocks' column sums, in the order of the blocks.
    pub fn column_sums(&self, into: &mut [T]) {
        for (k, block) in self.blocks.iter().enumerate() {
            let block = lock(block);
            if k == 0 {
                into.copy_from_slice(&block.column);
            } else {
                into.iter_mut()
                    .zip(block.column.iter())
                    .for_each(|(s, &c)| *s += c);
            }
        }
    }

    /// Copies a vector of the blocks into one of all rows.
    pub fn gather(&self, pick: impl Fn(&Block<T>) -> &[T], into: &mut [T]) {
        for block in self.blocks {
            let block = lock(block);
            into[block.rows.clone()].copy_from_slice(pick(&block));
        }
    }
}

/// Labels as small integers, the same for both sides.
fn codes<T: Real>(x: &[i64], y: &[i64]) -> (Vec<T>, Aligned<T>) {
    let mut known: Vec<i64> = x.iter().chain(y).copied().collect();
    known.sort_unstable();
    known.dedup();
    let code = |l: &i64| T::from_usize(known.binary_search(l).unwrap_or(usize::MAX));
    let side = |labels: &[i64]| labels.iter().map(code).collect::<Vec<_>>();
    (side(x), Aligned::padded_from(&side(y), -T::ONE))
}

fn ground<T: Real>(problem: &Problem<T>, b: &[T], options: &Options) -> Option<Ground<T>> {
    let Costs::Points {
        cost,
        dim,
        x,
        y,
        x_label,
        y_label,
    } = problem.costs
    else {
        return None;
    };
    let side = |points, weight| Side { points, weight };
    let other = y.map(|y| side(y, b));
    let (left, right) = Cloud::pair(options.level, cost, side(x, problem.a), other, dim);
    let y_label = if y.is_some() { y_label } else { x_label };
    Some(Ground {
        cost,
        x: left,
        y: right,
        labels: x_label.zip(y_label).map(|(p, q)| codes(p, q)),
    })
}

fn total<T: Real>(weight: &[T]) -> f64 {
    weight.iter().map(|w| w.to_f64()).sum()
}

/// Solves one problem with a team of `threads` threads.
pub fn solve<T: Real>(problem: &Problem<T>, options: &Options, threads: usize) -> Solution<T> {
    let b = if problem.symmetric() {
        problem.a
    } else {
        problem.b
    };
    let (n, m) = (problem.a.len(), b.len());
    let stride = padded(m);
    let threads = threads.clamp(1, n.max(1));
    let share = n.div_ceil(threads);
    let blocks: Vec<_> = (0..threads)
        .map(|k| (k * share).min(n)..((k + 1) * share).min(n))
        .filter(|rows| !rows.is_empty())
        .map(|rows| Mutex::new(Block::new(rows, problem.a, stride)))
        .collect();
    let shared = RwLock::new(Shared {
        level: options.level,
        round: Round::Costs,
        ground: ground(problem, b, options),
        matrix: match problem.costs {
            Costs::Matrix(matrix) => matrix,
            Costs::Points { .. } => &[],
        },
        width: m,
        rule: Rule {
            inverse: T::ONE,
            tau: T::ONE,
            rate: T::ZERO,
            columns: true,
        },
        price: T::ZERO,
        b: Aligned::padded_from(b, T::ZERO),
        h: Aligned::filled(stride, T::NEG_INFINITY),
        v: Aligned::filled(stride, T::ONE),
        want: (options.want_x, options.want_y, options.want_plan),
    });
    team(&blocks, &shared, Block::work, |run| {
        let engine = Engine {
            run,
            blocks: &blocks,
            shared: &shared,
        };
        lead(&engine, problem, b, options)
    })
}

fn lead<T: Real>(
    engine: &Engine<T>,
    problem: &Problem<T>,
    b: &[T],
    options: &Options,
) -> Solution<T> {
    let (n, m) = (problem.a.len(), b.len());
    let (mass_a, mass_b) = (total(problem.a), total(b));
    engine.round(Round::Costs, |_| {});
    let sum: f64 = engine.blocks.iter().map(|block| lock(block).mean).sum();
    let mut scale = 1.0;
    if options.relative {
        // Where all points coincide there is no scale, and 1 keeps everything finite.
        let floor = T::MIN_POSITIVE.to_f64().sqrt();
        let mean = sum / (mass_a * mass_b);
        scale = if mean < floor { 1.0 } else { mean };
    }
    let numbers = Numbers {
        epsilon: problem.epsilon * scale,
        reach_x: problem.reach_x * scale,
        reach_y: if problem.symmetric() {
            problem.reach_x * scale
        } else {
            problem.reach_y * scale
        },
        mass_a,
        mass_b,
    };
    let price = problem.label_cost * scale;
    let labelled = price != 0.0 && matches!(problem.costs, Costs::Points { .. });
    if labelled {
        engine.round(Round::Labels, |s| s.price = T::from_f64(price));
    }
    let outcome = if !(sum.is_finite() && numbers.epsilon.is_finite() && price.is_finite()) {
        // NaN or overflow in the costs or in epsilon: say so by NaN at once.
        Outcome {
            f: vec![f64::NAN; n],
            g: vec![f64::NAN; m],
            mass: f64::NAN,
            iterations: 0,
            residual: f64::NAN,
        }
    } else if problem.symmetric() {
        symmetric::iterate(engine, problem, numbers, options)
    } else {
        two_sided::iterate(engine, problem, numbers, options)
    };
    let nothing = outcome.iterations == 0;
    engine.round(Round::Gradient, |s| {
        if nothing {
            s.v.fill(T::NAN);
        }
    });
    let value = dual_term(problem.a, &outcome.f, numbers.reach_x)
        + dual_term(b, &outcome.g, numbers.reach_y)
        - numbers.epsilon * (outcome.mass - mass_a * mass_b);
    let cast = |p: &[f64]| p.iter().map(|&v| T::from_f64(v)).collect::<Vec<_>>();
    let mut solution = Solution {
        value,
        f: cast(&outcome.f),
        g: cast(&outcome.g),
        iterations: outcome.iterations,
        residual: outcome.residual,
        converged: outcome.residual <= options.tol,
        scale,
        ..Solution::default()
    };
    collect(engine, b, &outcome.g, numbers, options, &mut solution);
    solution
}

/// Puts the blocks' results together.
fn collect<T: Real>(
    engine: &Engine<T>,
    b: &[T],
    g: &[f64],
    numbers: Numbers,
    options: &Options,
    solution: &mut Solution<T>,
) {
    let mut column = vec![0.0; b.len()];
    for block in engine.blocks {
        let sums = std::mem::take(&mut lock(block).sums);
        solution.row.extend_from_slice(&sums.row);
        for (s, c) in column.iter_mut().zip(sums.column.iter()) {
            *s += c.to_f64();
        }
        solution.transport += sums.transport;
        solution.mismatch += sums.mismatch;
        if options.want_x {
            solution.grad_x.extend_from_slice(&sums.grad_x);
        }
        if options.want_y {
            if solution.grad_y.is_empty() {
                solution.grad_y = sums.grad_y;
            } else {
                let all = solution.grad_y.iter_mut().zip(&sums.grad_y);
                all.for_each(|(s, &p)| *s += p);
            }
        }
        solution.plan.extend_from_slice(&sums.plan);
    }
    let shared = engine.shared.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(ground) = &shared.ground {
        ground.columns().chain(0, &mut solution.grad_y);
    }
    if shared.symmetric() {
        solution.column = solution.row.clone();
        return;
    }
    // A column without mass has no plan; its potential is the exact transform of the other one.
    solution.column = column
        .iter()
        .zip(b)
        .zip(g)
        .map(|((&s, &w), &g)| {
            T::from_f64(if w != T::ZERO {
                s / w.to_f64()
            } else if numbers.reach_y.is_infinite() {
                1.0
            } else {
                (-g / numbers.reach_y).exp()
            })
        })
        .collect();
}

//! Problems whose epsilon is lost in the rounding of the costs, or the other way round, solved in
//! double precision.
//!
//! The exponents `(f_i + g_j - c_ij) / eps` need the potentials, which are as large as the costs,
//! to a fraction of epsilon. Where a float32 cannot hold them to that (two clouds 1000 apart, or an
//! epsilon of a millionth of the cost), no plan is left: neither marginal nor gradient mean
//! anything, and densities may overflow.

use crate::cost::ClassDistance;
use crate::interrupt::Interrupt;
use crate::real::Real;

use super::problem::{Costs, Options, Problem, Solution};
use super::solver;

/// Rounding of the costs in units of epsilon, above which the number type does not do.
const COARSE: f64 = 1.0 / 64.0;

/// Epsilon in units of the costs, above which the number type does not do.
const WIDE: f64 = 16.0;

/// This type is too coarse for costs of about this size and this epsilon, and a finer one is there.
pub fn needed<T: Real>(size: f64, epsilon: f64) -> bool {
    let (own, finest) = (T::EPSILON.to_f64(), f64::EPSILON);
    let wide = epsilon.is_finite() && epsilon > WIDE * size;
    let coarse = epsilon > 0.0 && size * own > COARSE * epsilon;
    own > finest && size.is_finite() && (coarse || wide)
}

fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

fn narrowed<T: Real>(values: &[f64]) -> Vec<T> {
    values.iter().map(|&v| T::from_f64(v)).collect()
}

/// Solves one problem in double precision.
pub fn solve<T: Real>(
    problem: &Problem<T>,
    options: &Options,
    threads: usize,
    interrupt: &Interrupt,
) -> Solution<T> {
    let (a, b) = (widened(problem.a), widened(problem.b));
    let (f0, g0) = (problem.f0.map(widened), problem.g0.map(widened));
    let (first, second, between);
    let costs = match problem.costs {
        Costs::Matrix(matrix) => {
            first = widened(matrix);
            Costs::Matrix(&first)
        }
        Costs::Points {
            cost,
            dim,
            x,
            y,
            x_label,
            y_label,
            distance,
        } => {
            (first, second) = (widened(x), y.map(widened));
            between = distance.map(|d| (widened(d.values), d.width));
            let distance = between.as_ref().map(|(values, width)| ClassDistance {
                values,
                width: *width,
            });
            Costs::Points {
                cost,
                dim,
                x: &first,
                y: second.as_deref(),
                x_label,
                y_label,
                distance,
            }
        }
    };
    let wide = Problem {
        costs,
        a: &a,
        b: &b,
        f0: f0.as_deref(),
        g0: g0.as_deref(),
        epsilon: problem.epsilon,
        reach_x: problem.reach_x,
        reach_y: problem.reach_y,
        label_cost: problem.label_cost,
    };
    let solution = solver::solve(&wide, options, threads, interrupt);
    Solution {
        value: solution.value,
        f: narrowed(&solution.f),
        g: narrowed(&solution.g),
        iterations: solution.iterations,
        residual: solution.residual,
        converged: solution.converged,
        scale: solution.scale,
        row: narrowed(&solution.row),
        column: narrowed(&solution.column),
        transport: solution.transport,
        mismatch: solution.mismatch,
        class_mass: narrowed(&solution.class_mass),
        grad_x: narrowed(&solution.grad_x).into(),
        grad_y: narrowed(&solution.grad_y).into(),
        plan: narrowed(&solution.plan),
    }
}

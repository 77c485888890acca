//! Batches: threads over the problems, or a team for each large one.

use crate::parallel::map;
use crate::real::Real;

use super::problem::{Options, Problem, Solution};
use super::solver;

/// Entries of the cost matrix from which a problem is worth a team.
const LARGE: usize = 1 << 14;

/// Solves one problem; several threads if it is large.
#[must_use]
pub fn solve<T: Real>(problem: &Problem<T>, options: &Options) -> Solution<T> {
    let columns = if problem.symmetric() {
        problem.a.len()
    } else {
        problem.b.len()
    };
    let large = problem.a.len() * columns >= LARGE;
    let threads = if large { options.threads } else { 1 };
    solver::solve(problem, options, threads)
}

/// Solves all problems; solutions in their order.
#[must_use]
pub fn solve_all<T: Real>(problems: &[Problem<T>], options: &Options) -> Vec<Solution<T>> {
    if problems.len() >= options.threads {
        map(problems.len(), options.threads, |k| {
            solver::solve(&problems[k], options, 1)
        })
    } else {
        problems.iter().map(|p| solve(p, options)).collect()
    }
}

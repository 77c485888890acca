//! Batches: threads over the problems, or a team for each large one.

use crate::interrupt::Interrupt;
use crate::parallel::map;
use crate::real::Real;

use super::problem::{Options, Problem, Solution};
use super::solver;

/// Entries of the cost matrix from which a problem is worth a team.
pub(super) const LARGE: usize = 1 << 14;

/// Entries from which the problems of a batch are solved one after the other.
pub(super) const HUGE: usize = 1 << 20;

/// Entries of the cost matrix.
pub(super) fn entries<T>(problem: &Problem<T>) -> usize {
    let columns = if problem.symmetric() {
        problem.a.len()
    } else {
        problem.b.len()
    };
    problem.a.len() * columns
}

/// Solves one problem; several threads if it is large.
#[must_use]
pub fn solve<T: Real>(problem: &Problem<T>, options: &Options) -> Solution<T> {
    alone(problem, options, &Interrupt::never())
}

fn alone<T: Real>(problem: &Problem<T>, options: &Options, interrupt: &Interrupt) -> Solution<T> {
    let threads = if entries(problem) >= LARGE {
        options.threads
    } else {
        1
    };
    solver::solve(problem, options, threads, interrupt)
}

/// Solves all problems; solutions in their order.
#[must_use]
pub fn solve_all<T: Real>(problems: &[Problem<T>], options: &Options) -> Vec<Solution<T>> {
    let all = solve_until(problems, options, &Interrupt::never());
    all.expect("nothing interrupts it")
}

/// Solves all problems, or returns None once `interrupt` is raised.
#[must_use]
pub fn solve_until<T: Real>(
    problems: &[Problem<T>],
    options: &Options,
    interrupt: &Interrupt,
) -> Option<Vec<Solution<T>>> {
    let huge = |p| entries(p) >= HUGE;
    // Large problems one after the other: a team is as fast, holds the matrices of one problem
    // only, and all of it answers to the interrupt until the end.
    let apart = problems.len() >= options.threads && !problems.iter().all(huge);
    let solutions = if apart {
        let each = Options {
            budget: options.budget / options.threads.max(1),
            ..*options
        };
        map(problems.len(), options.threads, false, |k| {
            if interrupt.poll() {
                return Solution::default();
            }
            solver::solve(&problems[k], &each, 1, interrupt)
        })
    } else {
        problems
            .iter()
            .take_while(|_| !interrupt.poll())
            .map(|p| alone(p, options, interrupt))
            .collect()
    };
    (!interrupt.raised()).then_some(solutions)
}

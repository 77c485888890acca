//! The terms of a divergence, `OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`, solved together.
//!
//! Small problems are too short for a team of threads: the terms go to one thread each.

use std::sync::Mutex;

use crate::buffer::Aligned;
use crate::interrupt::Interrupt;
use crate::parallel::{lock, map};
use crate::real::Real;
use crate::vmath::axpy;

use super::batch::{HUGE, LARGE, entries};
use super::problem::{Costs, Options, Problem, Solution};
use super::solver::{self, total};
use super::source::{Ground, Keep};

/// Entries from which a team for each term is faster than a thread for each.
const TEAMS: usize = 1 << 18;

/// A cross term and the self-terms that go with it.
#[derive(Clone, Copy, Debug)]
pub struct Divergence<'a, T> {
    /// The cross term, or a self-term without others.
    pub cross: Problem<'a, T>,
    /// Which self-terms to subtract half of: of x, of y.
    pub own: [bool; 2],
    /// Starts of the self-terms' potentials.
    pub own_start: [Option<&'a [T]>; 2],
}

/// Solutions of the cross term and of the self-terms, without the gradients of the points.
pub type Terms<T> = [Option<Solution<T>>; 3];

/// One value and the gradient of its points.
#[derive(Debug, Default)]
pub struct Summed<T> {
    /// `cross - own_x / 2 - own_y / 2`.
    pub value: f64,
    /// What there is to it.
    pub terms: Terms<T>,
}

impl<'a, T: Real> Divergence<'a, T> {
    /// The self-term of a side, in the unit of the cross term.
    fn own(&self, side: usize, unit: f64) -> Problem<'a, T> {
        let p = self.cross;
        let mut costs = p.costs;
        if let Costs::Points {
            x,
            y,
            x_label,
            y_label,
            ..
        } = &mut costs
        {
            let other = y.take();
            let label = y_label.take();
            if side == 1 {
                *x = other.unwrap_or_default();
                *x_label = label;
            }
        }
        let (weight, reach) = [(p.a, p.reach_x), (p.b, p.reach_y)][side];
        Problem {
            costs,
            a: weight,
            b: weight,
            f0: None,
            g0: self.own_start[side],
            epsilon: p.epsilon * unit,
            reach_x: reach * unit,
            reach_y: reach * unit,
            label_cost: p.label_cost * unit,
        }
    }

    /// The unit that `relative` means, where it needs no cost matrix.
    fn unit(&self, ground: &Ground<T>, options: &Options) -> Option<f64> {
        if !options.relative {
            return Some(1.0);
        }
        let (a, b) = (self.cross.a, self.cross.b);
        let sum = ground.quick_total(options.level, a, b)?;
        Some(solver::unit::<T>(sum / (total(a) * total(b))))
    }
}

/// Options of one of the terms.
fn of_term(options: &Options, term: usize) -> Options {
    match term {
        0 => *options,
        _ => Options {
            relative: false,
            want_x: [options.want_x, options.want_y][term - 1],
            want_y: false,
            want_plan: false,
            ..*options
        },
    }
}

fn one_by_one<T: Real>(
    divergence: &Divergence<T>,
    ground: Option<Ground<T>>,
    options: &Options,
    threads: usize,
    interrupt: &Interrupt,
) -> Terms<T> {
    let solve = |term: usize, problem: &Problem<T>, ground: Option<Ground<T>>| {
        let threads = if entries(problem) >= LARGE {
            threads
        } else {
            1
        };
        solver::solve_on(problem, ground, &of_term(options, term), threads, interrupt)
    };
    let cross = solve(0, &divergence.cross, ground);
    let unit = if options.relative { cross.scale } else { 1.0 };
    let own = |side: usize| {
        let wanted = divergence.own[side] && !interrupt.poll();
        wanted.then(|| solve(side + 1, &divergence.own(side, unit), None))
    };
    let (x, y) = (own(0), own(1));
    [Some(cross), x, y]
}

/// The terms side by side, one thread each.
fn side_by_side<T: Real>(
    divergence: &Divergence<T>,
    ground: Ground<T>,
    unit: f64,
    options: &Options,
    interrupt: &Interrupt,
) -> Terms<T> {
    let cross = Problem {
        epsilon: divergence.cross.epsilon * unit,
        reach_x: divergence.cross.reach_x * unit,
        reach_y: divergence.cross.reach_y * unit,
        label_cost: divergence.cross.label_cost * unit,
        ..divergence.cross
    };
    let mut problems = vec![(0, cross)];
    for side in [0, 1] {
        if divergence.own[side] {
            problems.push((side + 1, divergence.own(side, unit)));
        }
    }
    let ground = Mutex::new(Some(ground));
    let solved = map(problems.len(), options.threads, true, |k| {
        let (term, problem) = &problems[k];
        let ground = lock(&ground).take_if(|_| *term == 0);
        let options = Options {
            relative: false,
            ..of_term(options, *term)
        };
        solver::solve_on(problem, ground, &options, 1, interrupt)
    });
    let mut terms = Terms::default();
    for ((term, _), mut solution) in problems.iter().zip(solved) {
        if *term == 0 {
            solution.scale = unit;
        }
        terms[*term] = Some(solution);
    }
    terms
}

/// The sum of the terms; their gradients are added up in the memory of the first.
fn summed<T: Real>(options: &Options, mut terms: Terms<T>) -> (Summed<T>, [Aligned<T>; 2]) {
    let mut gradients: [Aligned<T>; 2] = Default::default();
    let mut value = 0.0;
    for (k, term) in terms.iter_mut().enumerate() {
        let Some(solution) = term else { continue };
        let x = std::mem::take(&mut solution.grad_x);
        if k == 0 {
            value = solution.value;
            gradients = [x, std::mem::take(&mut solution.grad_y)];
        } else {
            value -= 0.5 * solution.value;
            let total = &mut gradients[k - 1];
            if !total.is_empty() {
                axpy(options.level, T::from_f64(-0.5), &x, total);
            }
        }
    }
    (Summed { value, terms }, gradients)
}

/// The sums of all problems, and the gradients of x and of y, one problem after the other.
pub type Sums<T> = (Vec<Summed<T>>, [Aligned<T>; 2]);

/// Solves all divergences, or returns None once `interrupt` is raised.
#[must_use]
pub fn solve_sums<T: Real>(
    divergences: &[Divergence<T>],
    options: &Options,
    interrupt: &Interrupt,
) -> Option<Sums<T>> {
    let threads = options.threads.max(1);
    let huge = |d: &Divergence<T>| entries(&d.cross) >= HUGE;
    if let [divergence] = divergences {
        let few = threads > 1
            && (divergence.own[0] || divergence.own[1])
            && entries(&divergence.cross) < TEAMS;
        let mut terms = None;
        let mut ground = None;
        if few {
            let p = &divergence.cross;
            ground = Ground::new(&p.costs, (p.a, p.b), options.level, Keep::Both);
            if let Some(given) = ground.take() {
                match divergence.unit(&given, options) {
                    Some(unit) => {
                        terms = Some(side_by_side(divergence, given, unit, options, interrupt));
                    }
                    None => ground = Some(given),
                }
            }
        }
        let terms =
            terms.unwrap_or_else(|| one_by_one(divergence, ground, options, threads, interrupt));
        let (sum, gradients) = summed(options, terms);
        return (!interrupt.raised()).then(|| (vec![sum], gradients));
    }
    // Large problems one after the other: a team is as fast, holds the matrices of one problem
    // only, and all of it answers to the interrupt until the end.
    let apart = divergences.len() >= threads && !divergences.iter().all(huge);
    let (each, team) = if apart { (threads, 1) } else { (1, threads) };
    let options = Options {
        budget: options.budget / each,
        ..*options
    };
    let lengths = divergences.first().map_or([0, 0], |d| match d.cross.costs {
        Costs::Points { x, y, .. } => {
            let y = y.filter(|_| options.want_y).map_or(0, <[T]>::len);
            [if options.want_x { x.len() } else { 0 }, y]
        }
        Costs::Matrix(_) => [0, 0],
    });
    let mut all = lengths.map(|len| Aligned::arbitrary(len * divergences.len()));
    let [x, y] = &mut all;
    let places: Vec<_> = parts(x, lengths[0], divergences.len())
        .zip(parts(y, lengths[1], divergences.len()))
        .map(Mutex::new)
        .collect();
    let solved = map(divergences.len(), each, false, |k| {
        if interrupt.poll() {
            return Summed::default();
        }
        let terms = one_by_one(&divergences[k], None, &options, team, interrupt);
        let (sum, gradients) = summed(&options, terms);
        let place = &mut *lock(&places[k]);
        for (to, from) in [&mut place.0, &mut place.1].into_iter().zip(&gradients) {
            if to.len() == from.len() {
                to.copy_from_slice(from);
            } else {
                to.fill(T::ZERO);
            }
        }
        sum
    });
    drop(places);
    (!interrupt.raised()).then_some((solved, all))
}

/// `count` parts of that length, which may be 0.
fn parts<T>(all: &mut [T], len: usize, count: usize) -> impl Iterator<Item = &mut [T]> {
    let mut rest = all;
    (0..count).map(move |_| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        part
    })
}

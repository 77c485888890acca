//! One problem from its inputs to its solution.

use std::cell::{Cell, RefCell};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::buffer::{Aligned, padded};
use crate::cost::Cost;
use crate::interrupt::Interrupt;
use crate::parallel::{lock, team};
use crate::real::Real;

use super::block::{Block, Round, Shared};
use super::collect::collect;
use super::precise;
use super::problem::{Costs, Options, Problem, Solution};
use super::source::{Ground, Keep, Source};
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
    /// What was taken from the column potential in the end; `epsilon h - g`.
    pub offset: f64,
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
    /// The rows of the calling thread. No lock: what the locked instructions of a lock wait for
    /// would take longer than the sums of a small problem.
    pub first: &'e RefCell<Block<T>>,
    /// The rows of the other threads, after those.
    pub others: &'e [Mutex<Block<T>>],
    /// Entries of a matrix, padding included.
    pub entries: usize,
    /// What the rounds read.
    pub shared: &'e RwLock<Shared<'a, T>>,
    /// Which matrices are kept.
    pub keep: Keep,
    /// Whether to go on.
    pub interrupt: &'a Interrupt<'a>,
    /// Entries worked through since it was asked.
    pub worked: Cell<usize>,
}

/// What the reports of all blocks say together.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Every row sum may be used.
    pub usable: bool,
    /// No potential has to be absorbed.
    pub settled: bool,
}

/// Entries between two questions whether to go on: about a millisecond.
const BETWEEN: usize = 1 << 22;

impl<'a, T: Real> Engine<'_, 'a, T> {
    /// Writes the shared state, then runs a round other than a scaling sweep.
    pub fn round(&self, round: Round, edit: impl FnOnce(&mut Shared<'a, T>)) {
        edit(&mut self.shared.write().unwrap_or_else(PoisonError::into_inner));
        self.each(|block| block.round = round);
        self.run();
    }

    /// Visits every block, in the order of the rows.
    pub fn each(&self, mut visit: impl FnMut(&mut Block<T>)) {
        visit(&mut self.first.borrow_mut());
        for block in self.others {
            visit(&mut lock(block));
        }
    }

    /// Runs a scaling sweep by `v = exp(shift)`.
    pub fn scale(&self, v: &mut Aligned<T>) {
        for block in self.others {
            let mut block = lock(block);
            block.v.copy_from_slice(v);
            block.round = Round::Scale;
        }
        let lend = |v: &mut Aligned<T>| {
            let mut first = self.first.borrow_mut();
            first.round = Round::Scale;
            std::mem::swap(&mut first.v, v);
        };
        lend(v);
        self.run();
        lend(v);
    }

    fn run(&self) {
        (self.run)();
        self.worked.update(|w| w + self.entries);
        if self.worked.get() >= BETWEEN {
            self.worked.set(0);
            self.interrupt.poll();
        }
    }

    /// Scaling sweeps are possible.
    pub fn resident(&self) -> bool {
        self.keep != Keep::Nothing
    }

    /// Takes the sum of the blocks' column sums, in the order of the blocks; and the reports of the
    /// sweep. What the blocks are left with means nothing.
    pub fn column_sums(&self, into: &mut Aligned<T>) -> Sweep {
        let mut all = {
            let mut first = self.first.borrow_mut();
            std::mem::swap(&mut first.column, into);
            Sweep {
                usable: first.report.usable,
                settled: first.report.settled,
            }
        };
        for block in self.others {
            let block = lock(block);
            all.usable &= block.report.usable;
            all.settled &= block.report.settled;
            let pairs = into.iter_mut().zip(block.column.iter());
            pairs.for_each(|(s, &c)| *s += c);
        }
        all
    }

    /// Copies a vector of the blocks into one of all rows.
    pub fn gather(&self, pick: impl Fn(&mut Block<T>) -> &[T], into: &mut [T]) {
        self.each(|block| into[block.rows.clone()].copy_from_slice(pick(block)));
    }
}

/// Sum of the masses.
pub fn total<T: Real>(weight: &[T]) -> f64 {
    weight.iter().map(|w| w.to_f64()).sum()
}

/// The unit that a mean cost gives: where all points coincide there is no scale, and 1 keeps
/// everything finite.
pub fn unit<T: Real>(mean: f64) -> f64 {
    if mean < T::MIN_POSITIVE.to_f64().sqrt() {
        1.0
    } else {
        mean
    }
}

/// Solves one problem with a team of `threads` threads; without meaning after an interrupt.
pub fn solve<T: Real>(
    problem: &Problem<T>,
    options: &Options,
    threads: usize,
    interrupt: &Interrupt,
) -> Solution<T> {
    solve_on(problem, None, options, threads, interrupt)
}

/// [`solve`] on points that were made ready before, all of whose matrices are kept then.
pub fn solve_on<T: Real>(
    problem: &Problem<T>,
    ready: Option<Ground<T>>,
    options: &Options,
    threads: usize,
    interrupt: &Interrupt,
) -> Solution<T> {
    let b = if problem.symmetric() {
        problem.a
    } else {
        problem.b
    };
    let (n, m) = (problem.a.len(), b.len());
    let stride = padded(m);
    let keep = Keep::new(&problem.costs, n, m, options.budget);
    let strip = keep.strip(m, options);
    let threads = threads.clamp(1, n.max(1));
    let share = n.div_ceil(threads);
    let mut blocks = (0..threads)
        .map(|k| (k * share).min(n)..((k + 1) * share).min(n))
        .filter(|rows| rows.start == 0 || !rows.is_empty())
        .map(|rows| Block::new(rows, problem.a, m, keep, strip));
    let first = blocks.next().expect("a block");
    let others: Vec<_> = blocks.map(Mutex::new).collect();
    let source = match problem.costs {
        Costs::Matrix(matrix) => Source::Matrix(matrix, m),
        Costs::Points { .. } => {
            let weights = (problem.a, b);
            let ready = ready.filter(|_| keep == Keep::Both);
            let ground =
                ready.or_else(|| Ground::new(&problem.costs, weights, options.level, keep));
            Source::Points(ground.expect("points"))
        }
    };
    let shared = RwLock::new(Shared {
        level: options.level,
        source,
        keep,
        strip,
        rule: Rule {
            level: options.level,
            inverse: T::ONE,
            tau: T::ONE,
            rate: T::ZERO,
            columns: true,
            keep: keep != Keep::Nothing,
        },
        b: Aligned::padded_from(b, T::ZERO),
        h: Aligned::filled(stride, T::NEG_INFINITY),
        v: Aligned::filled(stride, T::ONE),
        want: (options.want_x, options.want_y, options.want_plan),
        interrupt,
    });
    let brief = n * m < 1 << 20;
    let solution = team(
        first,
        &others,
        brief,
        |block| block.work(&shared),
        |first, run| {
            let engine = Engine {
                run,
                first,
                others: &others,
                entries: n * stride,
                shared: &shared,
                keep,
                interrupt,
                worked: Cell::new(0),
            };
            lead(&engine, problem, b, options)
        },
    );
    solution.unwrap_or_else(|| precise::solve(problem, options, threads, interrupt))
}

/// The mean cost without labels: by a pass over the costs where these are kept or nothing else
/// gives it. Where only its size matters, and whether it is a number, a cheap bound stands for it.
fn mean_cost<T: Real>(engine: &Engine<T>, a: &[T], b: &[T], relative: bool) -> f64 {
    let (mass_a, mass_b) = (total(a), total(b));
    if engine.keep != Keep::Both {
        let shared = engine.shared.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(ground) = shared.source.ground()
            && !(relative && (ground.cost.rooted() || ground.cost == Cost::L1))
        {
            let mean = ground.total(shared.level, a, b) / mass_a / mass_b;
            return match ground.cost {
                Cost::L1 => (mean * ground.x.dim as f64).sqrt(),
                cost if cost.rooted() => mean.sqrt(),
                _ => mean,
            };
        }
    }
    engine.round(Round::Costs, |_| {});
    let mut total = 0.0;
    engine.each(|block| total += block.mean);
    total / mass_a / mass_b
}

/// The solution; None if it takes a finer number type.
fn lead<T: Real>(
    engine: &Engine<T>,
    problem: &Problem<T>,
    b: &[T],
    options: &Options,
) -> Option<Solution<T>> {
    let (n, m) = (problem.a.len(), b.len());
    let (mass_a, mass_b) = (total(problem.a), total(b));
    let mean = mean_cost(engine, problem.a, b, options.relative);
    let mut scale = 1.0;
    if options.relative {
        scale = unit::<T>(mean);
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
    let size = mean.abs() + price * problem.costs.largest_distance();
    if precise::needed::<T>(size, numbers.epsilon) {
        return None;
    }
    let labelled = {
        let mut shared = engine
            .shared
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match &mut shared.source {
            Source::Points(ground) if ground.labels.is_some() => {
                ground.price = T::from_f64(price);
                price != 0.0
            }
            _ => false,
        }
    };
    if labelled && engine.keep == Keep::Both {
        engine.round(Round::Labels, |_| {});
    }
    let outcome = if !(mean.is_finite() && numbers.epsilon.is_finite() && price.is_finite()) {
        // NaN or overflow in the costs or in epsilon: say so by NaN at once.
        Outcome {
            f: vec![f64::NAN; n],
            g: vec![f64::NAN; m],
            offset: f64::NAN,
            mass: f64::NAN,
            iterations: 0,
            residual: f64::NAN,
        }
    } else if problem.symmetric() {
        symmetric::iterate(engine, problem, numbers, options)
    } else {
        two_sided::iterate(engine, problem, numbers, options)
    };
    if engine.interrupt.raised() {
        return Some(Solution::default());
    }
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
    collect(engine, b, &outcome, numbers, options, &mut solution);
    Some(solution)
}

//! The rows of one problem that one thread owns, and the rounds it works.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use crate::buffer::{Aligned, brief, padded};
use crate::interrupt::Interrupt;
use crate::product::column_times;
use crate::real::Real;
use crate::simd::Level;

use super::gradient;
use super::potentials;
use super::source::{Keep, Source};
use super::sweep::{self, Report, Rows, Rule};

pub use super::gradient::Sums;

/// What the next round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Mean cost; fill the cost matrix where it is kept.
    Costs,
    /// Add the label cost where the cost matrix is kept.
    Labels,
    /// Log sweep.
    Log,
    /// Scaling sweep.
    Scale,
    /// Column log-sum-exp from the row potentials.
    Columns,
    /// Kernel at the given potentials.
    Rebuild,
    /// Plan in place of the kernel, its sums and the gradients.
    Gradient,
}

/// What all threads read during a round other than a scaling sweep, and the leader writes between
/// rounds.
#[derive(Debug)]
pub struct Shared<'a, T> {
    /// Vector instructions.
    pub level: Level,
    /// Where the costs come from.
    pub source: Source<'a, T>,
    /// Which matrices are kept.
    pub keep: Keep,
    /// Rows worked on together.
    pub strip: usize,
    /// Constants of the sweep.
    pub rule: Rule<T>,
    /// Masses of the columns, padded with 0.
    pub b: Aligned<T>,
    /// Log sweep and rebuild: `h + ln b`, `-inf` where `b = 0`.
    pub h: Aligned<T>,
    /// Gradient: `exp(h - absorbed h)`, 0 in the padding.
    pub v: Aligned<T>,
    /// Wanted: gradient of x, gradient of y, plan.
    pub want: (bool, bool, bool),
    /// Asked after every strip.
    pub interrupt: &'a Interrupt<'a>,
}

/// Some rows of one problem.
#[derive(Debug)]
pub struct Block<T> {
    /// Which rows.
    pub rows: Range<usize>,
    /// The next round.
    pub round: Round,
    /// Constants of the last log sweep.
    pub rule: Option<Rule<T>>,
    /// Scaling sweep: `exp(h - absorbed h)`, the block's own copy (lent to the calling thread's
    /// block). Such a sweep takes microseconds, a good part of which a lock that all threads share
    /// would cost.
    pub v: Aligned<T>,
    /// Cost matrix, or empty if it is not kept.
    pub cost: Aligned<T>,
    /// Kernel matrix, or one strip of it.
    pub kernel: Aligned<T>,
    /// Masses.
    pub weight: Vec<T>,
    /// Row potentials absorbed in the kernel, in units of epsilon.
    pub base: Vec<T>,
    /// Row potentials, in units of epsilon, unless they are [`late`](Self::late).
    pub phi: Vec<T>,
    /// The row potentials are still to be computed from the row sums: only the last ones of an
    /// iteration by scalings are read.
    late: bool,
    /// `exp(phi - base)`.
    pub ratio: Vec<T>,
    /// Row sums of the last sweep.
    pub total: Vec<T>,
    /// Column sums of the last sweep, or of the column log-sum-exp.
    pub column: Aligned<T>,
    /// Column maxima of the column log-sum-exp.
    pub top: Aligned<T>,
    /// Report of the last sweep.
    pub report: Report,
    /// `sum a_i b_j c_ij` over the block.
    pub mean: f64,
    /// Results of the gradient round.
    pub sums: Sums<T>,
}

impl<T: Real> Block<T> {
    /// A block of these rows.
    pub fn new(rows: Range<usize>, weight: &[T], width: usize, keep: Keep, strip: usize) -> Self {
        let (n, stride) = (rows.len(), padded(width));
        let (costs, kernels) = match keep {
            Keep::Both => (n, n),
            Keep::Kernel => (0, n),
            Keep::Nothing => (0, n.min(strip)),
        };
        Self {
            round: Round::Costs,
            rule: None,
            v: Aligned::zeros(if keep == Keep::Nothing || rows.start == 0 {
                0
            } else {
                stride
            }),
            cost: Aligned::arbitrary_beside(costs * stride, false),
            kernel: Aligned::arbitrary_beside(kernels * stride, true),
            weight: weight[rows.clone()].to_vec(),
            base: brief(n, T::ZERO),
            phi: brief(n, T::ZERO),
            late: false,
            ratio: vec![T::ONE; n],
            total: vec![T::ONE; n],
            column: Aligned::zeros(stride),
            top: Aligned::zeros(0),
            report: Report::default(),
            mean: 0.0,
            sums: Sums::default(),
            rows,
        }
    }

    /// Works one round.
    pub fn work(&mut self, shared: &RwLock<Shared<T>>) {
        if self.round == Round::Scale {
            return self.scale();
        }
        let shared = &*shared.read().unwrap_or_else(PoisonError::into_inner);
        match self.round {
            Round::Costs => self.costs(shared),
            Round::Labels => {
                for (first, cost) in strips(self.rows.start, &mut self.cost, shared) {
                    shared.source.add_labels(shared.level, first, cost);
                }
            }
            Round::Log => self.log(shared),
            Round::Scale => unreachable!("worked above"),
            Round::Columns => self.columns(shared),
            Round::Rebuild => self.rebuild(shared),
            Round::Gradient => {
                self.potentials();
                gradient::work(self, shared);
            }
        }
    }

    /// The row potentials.
    pub fn potentials(&mut self) -> &[T] {
        if std::mem::take(&mut self.late) {
            let rule = self.rule.expect("a sweep has made the sums");
            sweep::potentials(rule.level, rule.tau, &self.total, &self.base, &mut self.phi);
        }
        &self.phi
    }

    /// The strips of the block, as far as the interrupt lets them.
    pub fn parts<'s>(
        &self,
        shared: &'s Shared<T>,
    ) -> impl Iterator<Item = Range<usize>> + use<'s, T> {
        let (n, strip) = (self.rows.len(), shared.strip);
        (0..n)
            .step_by(strip)
            .map(move |start| start..n.min(start + strip))
            .take_while(|_| !shared.interrupt.poll())
    }

    fn costs(&mut self, shared: &Shared<T>) {
        self.mean = 0.0;
        let stride = shared.b.len();
        for part in self.parts(shared) {
            let out = match shared.keep {
                Keep::Both => &mut self.cost[part.start * stride..part.end * stride],
                Keep::Kernel | Keep::Nothing => &mut self.kernel[..part.len() * stride],
            };
            shared
                .source
                .features(shared.level, self.rows.start + part.start, out);
            let sums = &mut self.total[part.clone()];
            column_times(shared.level, out, &shared.b, sums);
            for (sum, &a) in sums.iter().zip(&self.weight[part]) {
                if a != T::ZERO {
                    self.mean += a.to_f64() * sum.to_f64();
                }
            }
        }
    }

    /// The place of some rows in the kernel, or in the strip.
    pub fn place(part: &Range<usize>, shared: &Shared<T>) -> Range<usize> {
        let stride = shared.b.len();
        match shared.keep {
            Keep::Both | Keep::Kernel => part.start * stride..part.end * stride,
            Keep::Nothing => 0..part.len() * stride,
        }
    }

    fn log(&mut self, shared: &Shared<T>) {
        self.column.fill(T::ZERO);
        self.rule = Some(shared.rule);
        self.late = false;
        let stride = shared.b.len();
        for part in self.parts(shared) {
            let kernel = &mut self.kernel[Self::place(&part, shared)];
            let cost = if shared.keep == Keep::Both {
                Some(&self.cost[part.start * stride..part.end * stride])
            } else {
                let first = self.rows.start + part.start;
                shared.source.costs(shared.level, first, kernel);
                None
            };
            let mut rows = Rows {
                weight: &self.weight[part.clone()],
                base: &mut self.base[part.clone()],
                phi: &mut self.phi[part.clone()],
                ratio: &mut self.ratio[part.clone()],
                total: &mut self.total[part],
                column: &mut self.column,
            };
            sweep::log(
                shared.level,
                shared.rule,
                cost,
                &shared.h,
                kernel,
                &mut rows,
            );
        }
        let mut report = Report::default();
        sweep::report(shared.level, &shared.rule, &self.vectors(), &mut report);
        self.report = report;
    }

    fn scale(&mut self) {
        let rule = self.rule.as_ref().expect("a log sweep has made the kernel");
        self.column.fill(T::ZERO);
        // Borrowed apart: to take a vector out and put it back takes longer than a few sums.
        let mut rows = Rows {
            weight: &self.weight,
            base: &mut self.base,
            phi: &mut self.phi,
            ratio: &mut self.ratio,
            total: &mut self.total,
            column: &mut self.column,
        };
        sweep::scale(rule.level, rule, &self.kernel, &self.v, &mut rows);
        sweep::report(rule.level, rule, &rows, &mut self.report);
        self.late = rule.without_potentials();
    }

    fn vectors(&mut self) -> Rows<'_, T> {
        Rows {
            weight: &self.weight,
            base: &mut self.base,
            phi: &mut self.phi,
            ratio: &mut self.ratio,
            total: &mut self.total,
            column: &mut self.column,
        }
    }

    fn columns(&mut self, shared: &Shared<T>) {
        self.potentials();
        let stride = shared.b.len();
        let mut sum = Aligned::zeros(stride);
        let mut top = Aligned::zeros(stride);
        self.top = Aligned::filled(stride, T::NEG_INFINITY);
        self.column.fill(T::ZERO);
        for part in self.parts(shared) {
            // `phi + ln a`, -inf for rows without mass.
            let pairs = self.phi[part.clone()]
                .iter()
                .zip(&self.weight[part.clone()]);
            let row: Vec<T> = pairs.map(|(&p, &a)| p + a.ln()).collect();
            let cost = if shared.keep == Keep::Both {
                &self.cost[part.start * stride..part.end * stride]
            } else {
                let strip = &mut self.kernel[..part.len() * stride];
                let first = self.rows.start + part.start;
                shared.source.costs(shared.level, first, strip);
                strip
            };
            let inverse = shared.rule.inverse;
            potentials::columns(shared.level, inverse, cost, &row, &mut top, &mut sum);
            let all = (&mut self.top, &mut self.column);
            potentials::merge(shared.level, (&top, &sum), all.0, all.1);
        }
    }

    fn rebuild(&mut self, shared: &Shared<T>) {
        self.potentials();
        self.base.copy_from_slice(&self.phi);
        self.ratio.fill(T::ONE);
        if shared.keep == Keep::Nothing {
            return;
        }
        let stride = shared.b.len();
        for part in self.parts(shared) {
            let entries = part.start * stride..part.end * stride;
            let kernel = &mut self.kernel[entries.clone()];
            let cost = if shared.keep == Keep::Both {
                Some(&self.cost[entries])
            } else {
                let first = self.rows.start + part.start;
                shared.source.costs(shared.level, first, kernel);
                None
            };
            potentials::rebuild(
                shared.level,
                shared.rule.inverse,
                cost,
                &shared.h,
                &self.phi[part],
                kernel,
            );
        }
    }
}

/// The strips of a matrix whose first row has the number `first`, with their first rows.
fn strips<'m, T>(
    first: usize,
    matrix: &'m mut [T],
    shared: &Shared<T>,
) -> impl Iterator<Item = (usize, &'m mut [T])> {
    let strip = shared.strip;
    matrix
        .chunks_mut(strip * shared.b.len())
        .enumerate()
        .map(move |(k, part)| (first + k * strip, part))
}

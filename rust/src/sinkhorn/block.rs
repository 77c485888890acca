//! The rows of one problem that one thread owns, and the rounds it works.

use std::ops::Range;

use crate::buffer::Aligned;
use crate::cost::{Cloud, Cost, fill_rows, label_row};
use crate::real::Real;
use crate::simd::Level;

use super::gradient;
use super::potentials;
use super::sweep::{self, Report, Rows, Rule};

/// What the next round does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Fill the cost matrix.
    Costs,
    /// Add the label cost.
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

/// Points of a problem.
#[derive(Debug)]
pub struct Ground<T> {
    /// Ground cost.
    pub cost: Cost,
    /// Rows.
    pub x: Cloud<T>,
    /// Columns; None in a self-term.
    pub y: Option<Cloud<T>>,
    /// Labels of rows and columns as small integers; the second is padded.
    pub labels: Option<(Vec<T>, Aligned<T>)>,
}

impl<T> Ground<T> {
    /// Points of the columns.
    pub fn columns(&self) -> &Cloud<T> {
        self.y.as_ref().unwrap_or(&self.x)
    }
}

/// What all threads read during a round, and the leader writes between rounds.
#[derive(Debug)]
pub struct Shared<'a, T> {
    /// Vector instructions.
    pub level: Level,
    /// The next round.
    pub round: Round,
    /// Points; None for a given matrix.
    pub ground: Option<Ground<T>>,
    /// The given matrix, row-major without padding.
    pub matrix: &'a [T],
    /// Number of columns.
    pub width: usize,
    /// Constants of the sweep.
    pub rule: Rule<T>,
    /// Price of a label mismatch.
    pub price: T,
    /// Masses of the columns, padded with 0.
    pub b: Aligned<T>,
    /// Log sweep and rebuild: `h + ln b`, `-inf` where `b = 0`.
    pub h: Aligned<T>,
    /// Scaling sweep and gradient: `exp(h - absorbed h)`, 0 in the padding.
    pub v: Aligned<T>,
    /// Wanted: gradient of x, gradient of y, plan.
    pub want: (bool, bool, bool),
}

impl<T> Shared<'_, T> {
    /// Only one cloud.
    pub fn symmetric(&self) -> bool {
        self.ground.as_ref().is_some_and(|g| g.y.is_none())
    }
}

/// Results of the gradient round.
#[derive(Debug, Default)]
pub struct Sums<T> {
    /// `sum_j P_ij / a_i`.
    pub row: Vec<T>,
    /// `sum_i P_ij` over the block.
    pub column: Aligned<T>,
    /// `<P, C>`.
    pub transport: f64,
    /// Mass between different labels.
    pub mismatch: f64,
    /// Gradient of the block's rows.
    pub grad_x: Vec<T>,
    /// The block's share of the gradient of the columns, with respect to `Cloud::coords`.
    pub grad_y: Vec<T>,
    /// The block's plan.
    pub plan: Vec<T>,
}

/// Some rows of one problem.
#[derive(Debug)]
pub struct Block<T> {
    /// Which rows.
    pub rows: Range<usize>,
    /// Cost matrix.
    pub cost: Aligned<T>,
    /// Kernel matrix.
    pub kernel: Aligned<T>,
    /// Masses.
    pub weight: Vec<T>,
    /// Row potentials absorbed in the kernel, in units of epsilon.
    pub base: Vec<T>,
    /// Row potentials, in units of epsilon.
    pub phi: Vec<T>,
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
    /// A block of these rows; `stride` is the padded number of columns.
    pub fn new(rows: Range<usize>, weight: &[T], stride: usize) -> Self {
        let n = rows.len();
        Self {
            cost: Aligned::zeros(n * stride),
            kernel: Aligned::zeros(n * stride),
            weight: weight[rows.clone()].to_vec(),
            base: vec![T::ZERO; n],
            phi: vec![T::ZERO; n],
            ratio: vec![T::ONE; n],
            total: vec![T::ONE; n],
            column: Aligned::zeros(stride),
            top: Aligned::zeros(stride),
            report: Report::default(),
            mean: 0.0,
            sums: Sums::default(),
            rows,
        }
    }

    /// `phi + ln a`, `-inf` for rows without mass.
    fn weighted_phi(&self) -> Vec<T> {
        let pairs = self.phi.iter().zip(&self.weight);
        pairs.map(|(&p, &a)| p + a.ln()).collect()
    }

    /// Works one round.
    pub fn work(&mut self, shared: &Shared<T>) {
        match shared.round {
            Round::Costs => self.fill_costs(shared),
            Round::Labels => self.add_labels(shared),
            Round::Log | Round::Scale => self.sweep(shared),
            Round::Columns => {
                let row = self.weighted_phi();
                potentials::columns(
                    shared.level,
                    shared.rule.inverse,
                    &self.cost,
                    &row,
                    &mut self.top,
                    &mut self.column,
                );
            }
            Round::Rebuild => {
                potentials::rebuild(
                    shared.level,
                    shared.rule.inverse,
                    &self.cost,
                    &shared.h,
                    &self.phi,
                    &mut self.kernel,
                );
                self.base.copy_from_slice(&self.phi);
                self.ratio.fill(T::ONE);
            }
            Round::Gradient => gradient::work(self, shared),
        }
    }

    fn fill_costs(&mut self, shared: &Shared<T>) {
        let stride = shared.b.len();
        if let Some(ground) = &shared.ground {
            self.mean = fill_rows(
                shared.level,
                ground.cost,
                (&ground.x, ground.columns()),
                shared.symmetric(),
                self.rows.start,
                (&self.weight, &shared.b),
                &mut self.cost,
            );
            return;
        }
        let given = shared.matrix[self.rows.start * shared.width..].chunks_exact(shared.width);
        self.mean = 0.0;
        for ((row, from), &a) in self
            .cost
            .chunks_exact_mut(stride)
            .zip(given)
            .zip(&self.weight)
        {
            row[..shared.width].copy_from_slice(from);
            if a != T::ZERO {
                self.mean += a.to_f64() * crate::vmath::dot(shared.level, row, &shared.b).to_f64();
            }
        }
    }

    fn add_labels(&mut self, shared: &Shared<T>) {
        let Some((row_labels, labels)) = shared.ground.as_ref().and_then(|g| g.labels.as_ref())
        else {
            return;
        };
        let stride = shared.b.len();
        let rows = self.cost.chunks_exact_mut(stride);
        for (row, &label) in rows.zip(&row_labels[self.rows.clone()]) {
            let width = shared.width;
            label_row(
                shared.level,
                &mut row[..width],
                label,
                &labels[..width],
                shared.price,
            );
        }
    }

    fn sweep(&mut self, shared: &Shared<T>) {
        self.column.fill(T::ZERO);
        let mut rows = Rows {
            weight: &self.weight,
            base: &mut self.base,
            phi: &mut self.phi,
            ratio: &mut self.ratio,
            total: &mut self.total,
            column: &mut self.column,
        };
        let (level, rule) = (shared.level, shared.rule);
        self.report = if shared.round == Round::Log {
            sweep::log(
                level,
                rule,
                &self.cost,
                &shared.h,
                &mut self.kernel,
                &mut rows,
            )
        } else {
            sweep::scale(level, rule, &self.kernel, &shared.v, &mut rows)
        };
    }
}

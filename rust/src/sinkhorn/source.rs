//! Where the rows of the cost matrix come from.

use crate::buffer::padded;
use crate::cost::{Cloud, Cost, Labels, Side, fill_rows};
use crate::real::Real;
use crate::simd::Level;

use super::problem::{Costs, Options};

/// Which `n x m` matrices a problem keeps; the rest is computed anew when it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Costs and kernel.
    Both,
    /// The kernel: few cost passes, for each log sweep one.
    Kernel,
    /// Neither: every sweep is a log sweep over recomputed costs.
    Nothing,
}

/// Entries of a strip of rows: 8 MiB of f32, which a shared last-level cache holds.
const WORKSPACE: usize = 1 << 21;

/// Fewest rows of a strip, so that packing the columns for each matrix product pays.
const FEWEST: usize = 16;

/// Most rows of a strip.
const MOST: usize = 256;

impl Keep {
    /// What fits into the budget.
    pub fn new<T>(costs: &Costs<T>, n: usize, m: usize, budget: usize) -> Self {
        let bytes = n * padded(m) * size_of::<T>();
        if bytes > budget {
            Keep::Nothing
        } else if matches!(costs, Costs::Matrix(_)) || bytes > budget / 2 {
            // A matrix is given in memory already: its rows are copied when they are needed.
            Keep::Kernel
        } else {
            Keep::Both
        }
    }

    /// Rows that are worked on together.
    pub fn strip(self, m: usize, options: &Options) -> usize {
        if options.strip > 0 {
            options.strip
        } else if self == Keep::Both {
            MOST
        } else {
            (WORKSPACE / padded(m).max(1)).clamp(FEWEST, MOST)
        }
    }
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
    /// Labels of rows and columns.
    pub labels: Option<Labels<T>>,
    /// Times the class distance: added to the cost.
    pub price: T,
}

impl<T: Real> Ground<T> {
    /// Points made ready; for `keep` other than [`Keep::Both`] for many passes.
    pub fn new(costs: &Costs<T>, (a, b): (&[T], &[T]), level: Level, keep: Keep) -> Option<Self> {
        let Costs::Points {
            cost,
            dim,
            x,
            y,
            x_label,
            y_label,
            distance,
        } = *costs
        else {
            return None;
        };
        let side = |points, weight| Side { points, weight };
        let other = y.map(|y| side(y, b));
        let (mut left, mut right) = Cloud::pair(level, cost, side(x, a), other, dim);
        let columns = right.as_mut().unwrap_or(&mut left);
        if keep == Keep::Both {
            columns.spread(level);
        } else {
            columns.transpose();
        }
        let y_label = if y.is_some() { y_label } else { x_label };
        Some(Self {
            cost,
            x: left,
            y: right,
            labels: x_label
                .zip(y_label)
                .map(|(p, q)| Labels::new(p, q, distance)),
            price: T::ZERO,
        })
    }

    /// Points of the columns.
    pub fn columns(&self) -> &Cloud<T> {
        self.y.as_ref().unwrap_or(&self.x)
    }

    /// Total cost of the independent coupling in the precision of the points, for the squared
    /// distances whose sum has no cancellation; None for others.
    pub fn quick_total(&self, level: Level, a: &[T], b: &[T]) -> Option<f64> {
        if self.cost.rooted() || self.cost == Cost::L1 {
            return None;
        }
        let (x, square_x) = self.x.sums(level, a);
        let (y, square_y) = self.columns().sums(level, b);
        let mass = |w: &[T]| w.iter().map(|w| w.to_f64()).sum::<f64>();
        let squares = mass(b) * square_x + mass(a) * square_y;
        let products: f64 = x.iter().zip(&y).map(|(p, q)| p * q).sum();
        let sum = squares - 2.0 * products;
        let factor: T = self.cost.factor();
        // A NaN is for the pass over the costs to find, too.
        (sum > 0.1 * squares).then_some(factor.to_f64() * sum)
    }

    /// Total cost of the independent coupling, where it needs no matrix.
    pub fn total(&self, level: Level, a: &[T], b: &[T]) -> f64 {
        let factor: T = self.cost.factor();
        factor.to_f64() * self.x.total_square(level, a, self.columns(), b)
    }
}

/// Where the rows of the cost matrix come from.
#[derive(Debug)]
// One for each problem: its size does not matter, an allocation would.
#[allow(clippy::large_enum_variant)]
pub enum Source<'a, T> {
    /// Points.
    Points(Ground<T>),
    /// A matrix without padding, and its number of columns.
    Matrix(&'a [T], usize),
}

impl<T: Real> Source<'_, T> {
    /// The points, if there are any.
    pub fn ground(&self) -> Option<&Ground<T>> {
        match self {
            Source::Points(ground) => Some(ground),
            Source::Matrix(..) => None,
        }
    }

    /// Only one cloud.
    pub fn symmetric(&self) -> bool {
        self.ground().is_some_and(|g| g.y.is_none())
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        match self {
            Source::Points(ground) => ground.columns().count,
            Source::Matrix(_, width) => *width,
        }
    }

    /// Writes rows `first..` of the cost matrix, without labels.
    pub fn features(&self, level: Level, first: usize, out: &mut [T]) {
        match self {
            Source::Points(ground) => {
                let clouds = (&ground.x, ground.columns());
                let symmetric = ground.y.is_none();
                fill_rows(level, ground.cost, clouds, symmetric, first, out);
            }
            Source::Matrix(matrix, width) => {
                let given = matrix[first * width..].chunks_exact(*width);
                for (row, from) in out.chunks_exact_mut(padded(*width)).zip(given) {
                    row[..*width].copy_from_slice(from);
                    row[*width..].fill(T::ZERO);
                }
            }
        }
    }

    /// Adds the label cost to rows `first..`.
    pub fn add_labels(&self, level: Level, first: usize, out: &mut [T]) {
        if let Source::Points(ground) = self
            && let Some(labels) = &ground.labels
            && ground.price != T::ZERO
        {
            let stride = padded(ground.columns().count);
            labels.add(level, first, ground.price, out, stride);
        }
    }

    /// Takes the label cost out again.
    pub fn remove_labels(&self, level: Level, first: usize, out: &mut [T]) {
        if let Source::Points(ground) = self
            && let Some(labels) = &ground.labels
            && ground.price != T::ZERO
        {
            let stride = padded(ground.columns().count);
            labels.add(level, first, -ground.price, out, stride);
        }
    }

    /// Writes rows `first..` of the cost matrix.
    pub fn costs(&self, level: Level, first: usize, out: &mut [T]) {
        self.features(level, first, out);
        self.add_labels(level, first, out);
    }
}

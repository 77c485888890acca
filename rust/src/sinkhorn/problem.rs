//! What a Sinkhorn problem is given and what it returns.

use crate::buffer::Aligned;
use crate::cost::{ClassDistance, Cost};
use crate::real::Real;
use crate::simd::Level;

/// Where the costs come from.
#[derive(Clone, Copy, Debug)]
pub enum Costs<'a, T> {
    /// A ground cost between points of dimension `dim`; without `y` the problem is the self-term
    /// of `x`.
    Points {
        /// The ground cost.
        cost: Cost,
        /// Dimension.
        dim: usize,
        /// `n x dim`, row-major.
        x: &'a [T],
        /// `m x dim`, row-major.
        y: Option<&'a [T]>,
        /// One label for each `x`; used only together with `y_label` (or in a self-term).
        x_label: Option<&'a [i64]>,
        /// One label for each `y`.
        y_label: Option<&'a [i64]>,
        /// Distance between the classes of `x` and `y`, symmetric in a self-term; labels are then
        /// its indices. None: 1 where the labels differ.
        distance: Option<ClassDistance<'a, T>>,
    },
    /// A matrix `n x m`, row-major.
    Matrix(&'a [T]),
}

impl<T: Real> Costs<'_, T> {
    /// The largest class distance, 1 without a matrix of them, 0 without labels.
    pub(super) fn largest_distance(&self) -> f64 {
        match self {
            Costs::Points {
                x_label: Some(_),
                distance,
                ..
            } => distance.map_or(1.0, |d| {
                let sizes = d.values.iter().map(|v| v.to_f64().abs());
                sizes.fold(0.0, f64::max)
            }),
            _ => 0.0,
        }
    }
}

/// One problem.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a, T> {
    /// The costs.
    pub costs: Costs<'a, T>,
    /// Masses of the rows, length n.
    pub a: &'a [T],
    /// Masses of the columns, length m (ignored in a self-term).
    pub b: &'a [T],
    /// Start of the row potential: used where `g0` is missing.
    pub f0: Option<&'a [T]>,
    /// Start of the column potential.
    pub g0: Option<&'a [T]>,
    /// Regularisation, positive.
    pub epsilon: f64,
    /// Weight of the row penalty; infinite: strict.
    pub reach_x: f64,
    /// Weight of the column penalty; infinite: strict.
    pub reach_y: f64,
    /// Times the class distance: added to the cost.
    pub label_cost: f64,
}

impl<T> Problem<'_, T> {
    /// Only one cloud is given.
    #[must_use]
    pub fn symmetric(&self) -> bool {
        matches!(self.costs, Costs::Points { y: None, .. })
    }

    /// The coordinates of each side.
    pub fn points(&self) -> impl Iterator<Item = &[T]> {
        let sides = match self.costs {
            Costs::Points { x, y, .. } => [Some(x), y],
            Costs::Matrix(_) => [None, None],
        };
        sides.into_iter().flatten()
    }
}

/// How to solve, the same for all problems of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `epsilon`, the reaches and the label cost are in units of the mean cost
    /// `sum a_i b_j c(x_i, y_j) / (m_a m_b)` (without labels).
    pub relative: bool,
    /// Stop when the L1 residual relative to the mass of `b` is at most this; 0 runs `max_iter`
    /// iterations.
    pub tol: f64,
    /// Most iterations (sweeps over the matrix); at least one is made.
    pub max_iter: usize,
    /// Anderson acceleration (never with `tol = 0`, where iterations are counted, not saved).
    pub accelerate: bool,
    /// Return the gradient with respect to the `x` (in a self-term the total one).
    pub want_x: bool,
    /// Return the gradient with respect to the `y`.
    pub want_y: bool,
    /// Return the plan.
    pub want_plan: bool,
    /// Most bytes of `n x m` matrices held at a time by all threads; what exceeds them is computed
    /// anew in every iteration (points), in a workspace of about 8 MiB for each thread.
    pub budget: usize,
    /// Rows that are worked on together where the matrix is not held; 0: as many as fit into the
    /// workspace.
    pub strip: usize,
    /// Number of threads, at least 1.
    pub threads: usize,
    /// Vector instructions.
    pub level: Level,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            relative: false,
            tol: 1e-6,
            max_iter: 1000,
            accelerate: true,
            want_x: false,
            want_y: false,
            want_plan: false,
            budget: usize::MAX,
            strip: 0,
            threads: 1,
            level: crate::simd::level(),
        }
    }
}

/// The solution of one problem.
#[derive(Clone, Debug, Default)]
pub struct Solution<T> {
    /// The dual value at the returned potentials.
    pub value: f64,
    /// Row potential; balanced problems share the free constant, `<a,f>/m_a = <b,g>/m_b`.
    pub f: Vec<T>,
    /// Column potential.
    pub g: Vec<T>,
    /// Sweeps made.
    pub iterations: usize,
    /// L1 violation of the column marginal before the last update, relative to the mass of `b`
    /// (rows hold exactly then); in a self-term of the row marginal.
    pub residual: f64,
    /// `residual <= tol`.
    pub converged: bool,
    /// Unit of `epsilon`, reaches and label cost: the mean cost, or 1.
    pub scale: f64,
    /// `sum_j b_j exp((f_i + g_j - C_ij) / eps)`.
    pub row: Vec<T>,
    /// `sum_i a_i exp((f_i + g_j - C_ij) / eps)`.
    pub column: Vec<T>,
    /// `<P, C>`, label cost included.
    pub transport: f64,
    /// Mass that moves between different labels, weighted by the class distance if there is one.
    pub mismatch: f64,
    /// Mass that moves between the classes, `K x L`; empty without a class distance.
    pub class_mass: Vec<T>,
    /// Gradient with respect to the `x`, `n x dim`, or empty.
    pub grad_x: Aligned<T>,
    /// Gradient with respect to the `y`, `m x dim`, or empty.
    pub grad_y: Aligned<T>,
    /// Plan `n x m`, or empty.
    pub plan: Vec<T>,
}

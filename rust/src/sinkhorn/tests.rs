//! Closed forms, properties, and a dense float64 reference.

use crate::cost::Cost;
use crate::real::Real;
use crate::simd::available;

use super::{Costs, Options, Problem, Solution, solve, solve_all, solve_until, solver};

mod closed_forms;
mod dense;
mod hard_inputs;
mod properties;
mod reference;
mod sums;
mod tiers;

/// A deterministic sequence of numbers in (-1, 1).
pub(crate) struct Stream(pub u64);

impl Stream {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// About normal.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.next()).sum::<f64>() / 2f64.sqrt()
    }

    pub(crate) fn points<T: Real>(&mut self, n: usize, dim: usize) -> Vec<T> {
        (0..n * dim).map(|_| T::from_f64(self.normal())).collect()
    }

    /// Positive, of sum `mass`.
    pub(crate) fn weights<T: Real>(&mut self, n: usize, mass: f64) -> Vec<T> {
        let raw: Vec<f64> = (0..n).map(|_| self.next() + 1.2).collect();
        let sum: f64 = raw.iter().sum();
        raw.iter().map(|r| T::from_f64(r * mass / sum)).collect()
    }
}

pub(crate) fn uniform<T: Real>(n: usize) -> Vec<T> {
    vec![T::from_f64(1.0 / n as f64); n]
}

pub(crate) fn tight() -> Options {
    Options {
        tol: 1e-12,
        max_iter: 50_000,
        want_x: true,
        want_y: true,
        ..Options::default()
    }
}

/// A strict problem between points, to be changed by the caller.
pub(crate) fn between<'a, T: Real>(
    cost: Cost,
    dim: usize,
    (x, a): (&'a [T], &'a [T]),
    (y, b): (Option<&'a [T]>, &'a [T]),
    epsilon: f64,
) -> Problem<'a, T> {
    Problem {
        costs: Costs::Points {
            cost,
            dim,
            x,
            y,
            x_label: None,
            y_label: None,
            distance: None,
        },
        a,
        b,
        f0: None,
        g0: None,
        epsilon,
        reach_x: f64::INFINITY,
        reach_y: f64::INFINITY,
        label_cost: 0.0,
    }
}

pub(crate) fn with_matrix<'a, T>(
    matrix: &'a [T],
    a: &'a [T],
    b: &'a [T],
    epsilon: f64,
) -> Problem<'a, T> {
    Problem {
        costs: Costs::Matrix(matrix),
        a,
        b,
        f0: None,
        g0: None,
        epsilon,
        reach_x: f64::INFINITY,
        reach_y: f64::INFINITY,
        label_cost: 0.0,
    }
}

#[track_caller]
pub(crate) fn close(got: f64, want: f64, tolerance: f64) {
    assert!(
        (got - want).abs() <= tolerance,
        "{got} instead of {want}: off by {:e}",
        (got - want).abs()
    );
}

#[track_caller]
pub(crate) fn all_close<T: Real>(got: &[T], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g.to_f64() - w).abs())
        .fold(0.0, |m: f64, e| if e <= m { m } else { e });
    assert!(worst <= tolerance, "largest difference {worst:e}");
}

/// Uniform weights, squared distance.
pub(crate) fn solve_points<T: Real>(
    x: &[T],
    y: &[T],
    dim: usize,
    epsilon: f64,
    options: &Options,
) -> Solution<T> {
    let (a, b) = (uniform(x.len() / dim), uniform(y.len() / dim));
    solve(
        &between(Cost::SqEuclidean, dim, (x, &a), (Some(y), &b), epsilon),
        options,
    )
}

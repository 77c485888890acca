//! Squared maximum mean discrepancy with a Gaussian kernel, its value and gradient in one pass.
//!
//! Gretton et al., "A kernel two-sample test", JMLR 13 (2012). With
//! `k(x, y) = 1/S sum_s exp(-|x - y|^2 / (2 (s sigma)^2))` and masses `a`, `b`
//!
//! * V: `MMD^2 = a^T K_xx a + b^T K_yy b - 2 a^T K_xy b`;
//! * U: the two within sums leave out their diagonal and are multiplied by `m^2 / (m^2 - sum a^2)`,
//!   `m = sum a`; a single point has the within term 0.
//!
//! The kernel matrix is never stored: the pooled points are cut into tiles, the scalar products of
//! a tile come from a matrix product, the sums and the gradient are taken while it is in cache,
//! and the pairs of one set are visited once for both of their points.

mod pool;
mod sweep;
#[cfg(test)]
mod tests;
mod tile;

pub use pool::Pool;
pub use tile::{Scales, Tile, tile};

use crate::real::Real;
use crate::simd::Level;
use sweep::{Plan, Sums};

/// One pair of weighted point sets.
#[derive(Clone, Copy)]
pub struct Problem<'a, T> {
    /// First set, `(n, width)`.
    pub x: &'a [T],
    /// Second set, `(m, width)`.
    pub y: &'a [T],
    /// `(n, m)`.
    pub sizes: (usize, usize),
    /// Coordinates of a point.
    pub width: usize,
    /// Masses of the first set, `1/n` if `None`.
    pub a: Option<&'a [T]>,
    /// Masses of the second set, `1/m` if `None`.
    pub b: Option<&'a [T]>,
    /// Bandwidth `sigma`.
    pub bandwidth: f64,
}

/// What to compute, the same for a whole batch.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Multiples of the bandwidth whose kernels are averaged.
    pub scales: &'a [f64],
    /// U instead of V.
    pub unbiased: bool,
    /// Gradient with respect to the first set.
    pub want_x: bool,
    /// Gradient with respect to the second set.
    pub want_y: bool,
    /// Instruction set.
    pub level: Level,
}

/// Value and gradients of one problem.
#[derive(Clone, Debug, Default)]
pub struct Output<T> {
    /// `MMD^2`.
    pub value: f64,
    /// `(n, width)`, empty if not wanted.
    pub grad_x: Vec<T>,
    /// `(m, width)`, empty if not wanted.
    pub grad_y: Vec<T>,
    /// Gradient with respect to the masses `a`.
    pub grad_a: Vec<T>,
    /// Gradient with respect to the masses `b`.
    pub grad_b: Vec<T>,
    /// Derivative with respect to the bandwidth.
    pub grad_bandwidth: f64,
}

/// Multiplier of a within sum, and its derivative with respect to the masses.
struct Within {
    factor: f64,
    mass: f64,
    squares: f64,
    unbiased: bool,
}

impl Within {
    fn new<T: Real>(weights: &[T], unbiased: bool) -> Self {
        let mass = weights.iter().map(|w| w.to_f64().abs()).sum::<f64>();
        let squares = weights.iter().map(|w| w.to_f64() * w.to_f64()).sum::<f64>();
        let rest = mass * mass - squares;
        let factor = match unbiased {
            false => 1.0,
            // One point, up to the rounding of the two sums.
            true if rest <= 1e-14 * mass * mass => 0.0,
            true => mass * mass / rest,
        };
        Within {
            factor,
            mass,
            squares,
            unbiased,
        }
    }

    /// Derivative of the factor with respect to a mass `w`.
    fn slope(&self, w: f64) -> f64 {
        if !self.unbiased || self.factor == 0.0 {
            return 0.0;
        }
        let rest = self.mass * self.mass - self.squares;
        2.0 * self.mass * (self.mass * w - self.squares) / (rest * rest)
    }
}

/// Solves one problem on up to `threads` threads.
///
/// The result depends on the number of threads only by rounding, and not from run to run.
#[must_use]
pub fn mmd<T: Real>(problem: &Problem<'_, T>, options: &Options<'_>, threads: usize) -> Output<T> {
    let (n, m) = problem.sizes;
    let width = problem.width;
    let Problem { x, y, a, b, .. } = *problem;
    let pool = Pool::new(options.level, x, y, (n, m), width, a, b);
    if T::EPSILON.to_f64() > f64::EPSILON && loses_digits(&pool, options.scales, problem.bandwidth)
    {
        return in_double(problem, options, threads);
    }
    let sides = [
        Within::new(&pool.weights[..n], options.unbiased),
        Within::new(&pool.weights[n..], options.unbiased),
    ];
    let gradient = options.want_x || options.want_y;
    let mut weighted = Vec::new();
    if gradient && width > 0 {
        weighted.reserve_exact(pool.points.len());
        for (point, &w) in pool.points.chunks_exact(width).zip(&pool.weights) {
            weighted.extend(point.iter().map(|&v| v * w));
        }
    }
    let plan = Plan {
        pool: &pool,
        weighted,
        scales: Scales::new(options.scales, problem.bandwidth),
        factors: [sides[0].factor, sides[1].factor],
        options: *options,
    };
    let sums = plan.run(threads);
    finish(&plan, &sums, &sides, problem.bandwidth)
}

/// Largest error of an exponent that single precision may make.
const EXPONENT_ERROR: f64 = 2e-3;

/// Distances come from norms and products: a cloud that is wide against the narrowest kernel (an
/// outlier, two clouds far apart) leaves too few digits of its small distances.
fn loses_digits<T: Real>(pool: &Pool<T>, scales: &[f64], bandwidth: f64) -> bool {
    let massive = pool.norms.iter().zip(&pool.weights);
    let widest = massive
        .filter(|(_, w)| **w != T::ZERO)
        .map(|(norm, _)| norm.to_f64())
        .fold(0.0, f64::max);
    let narrowest = scales.iter().copied().fold(f64::INFINITY, f64::min) * bandwidth;
    widest * T::EPSILON.to_f64() > EXPONENT_ERROR * narrowest * narrowest
}

/// The same problem in double precision.
fn in_double<T: Real>(
    problem: &Problem<'_, T>,
    options: &Options<'_>,
    threads: usize,
) -> Output<T> {
    let widen = |v: &[T]| v.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
    let narrow = |v: Vec<f64>| v.into_iter().map(T::from_f64).collect::<Vec<T>>();
    let (x, y) = (widen(problem.x), widen(problem.y));
    let (a, b) = (problem.a.map(widen), problem.b.map(widen));
    let wide = Problem {
        x: &x,
        y: &y,
        sizes: problem.sizes,
        width: problem.width,
        a: a.as_deref(),
        b: b.as_deref(),
        bandwidth: problem.bandwidth,
    };
    let output = mmd::<f64>(&wide, options, threads);
    Output {
        value: output.value,
        grad_x: narrow(output.grad_x),
        grad_y: narrow(output.grad_y),
        grad_a: narrow(output.grad_a),
        grad_b: narrow(output.grad_b),
        grad_bandwidth: output.grad_bandwidth,
    }
}

/// Value and gradients from the sums.
fn finish<T: Real>(
    plan: &Plan<'_, T>,
    sums: &Sums<T>,
    sides: &[Within; 2],
    sigma: f64,
) -> Output<T> {
    let pool = plan.pool;
    let (n, total, width) = (pool.split, pool.len(), pool.width);
    let weight = |i: usize| pool.weights[i].to_f64();
    let quadratic =
        |range: std::ops::Range<usize>| -> f64 { range.map(|i| weight(i) * sums.within[i]).sum() };
    let own = [quadratic(0..n), quadratic(n..total)];
    let cross: f64 = (0..n).map(|i| weight(i) * sums.cross[i]).sum();
    let value = sides[0].factor * own[0] + sides[1].factor * own[1] + 2.0 * cross;

    let masses = |range: std::ops::Range<usize>, side: usize, sign: f64| -> Vec<T> {
        range
            .map(|i| {
                let linear = sides[side].factor * sums.within[i] + sums.cross[i];
                T::from_f64(2.0 * sign * linear + own[side] * sides[side].slope(sign * weight(i)))
            })
            .collect()
    };
    let positions = |range: std::ops::Range<usize>, wanted: bool| -> Vec<T> {
        if !wanted || width == 0 {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(range.len() * width);
        for i in range {
            let scale = T::from_f64(-2.0 * weight(i));
            let coefficient = T::from_f64(sums.coefficient[i]);
            let line = i * width..(i + 1) * width;
            let terms = pool.points[line.clone()].iter().zip(&sums.moved[line]);
            out.extend(terms.map(|(&z, &moved)| scale * (coefficient * z - moved)));
        }
        out
    };
    Output {
        value,
        grad_x: positions(0..n, plan.options.want_x),
        grad_y: positions(n..total, plan.options.want_y),
        grad_a: masses(0..n, 0, 1.0),
        grad_b: masses(n..total, 1, -1.0),
        grad_bandwidth: sums.moment / sigma,
    }
}

/// Solves independent problems: many of them in parallel, few of them each in parallel.
#[must_use]
pub fn mmd_batch<T: Real>(
    problems: &[Problem<'_, T>],
    options: &Options<'_>,
    threads: usize,
) -> Vec<Output<T>> {
    if threads <= 1 || problems.len() < threads {
        return problems.iter().map(|p| mmd(p, options, threads)).collect();
    }
    let mut outputs: Vec<Output<T>> = vec![Output::default(); problems.len()];
    let share = problems.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for (problems, outputs) in problems.chunks(share).zip(outputs.chunks_mut(share)) {
            scope.spawn(move || {
                for (problem, output) in problems.iter().zip(outputs) {
                    *output = mmd(problem, options, 1);
                }
            });
        }
    });
    outputs
}

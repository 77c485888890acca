//! Squared maximum mean discrepancy, its value and gradient in one pass.
//!
//! Gretton et al., "A kernel two-sample test", JMLR 13 (2012). With masses `a`, `b`
//!
//! * V: `MMD^2 = a^T K_xx a + b^T K_yy b - 2 a^T K_xy b`;
//! * U: the two within sums leave out their diagonal and are multiplied by `m^2 / (m^2 - sum a^2)`,
//!   `m = sum a`; a single point has the within term 0.
//!
//! A point may have several masses, one for each class: the result is then the sum of the
//! discrepancies of the classes, for which each kernel value is computed once.
//!
//! The kernel matrix is never stored: the pooled points are cut into tiles, the scalar products of
//! a tile come from a matrix product, the sums and the gradient are taken while it is in cache,
//! and the pairs of one set are visited once for both of their points.

mod finish;
mod kernel;
mod pool;
mod schedule;
mod sweep;
#[cfg(test)]
mod tests;
mod tile;

pub use kernel::Kernel;
pub use pool::Pool;

use crate::parallel;
use crate::real::Real;
use crate::simd::Level;
use kernel::Shape;
use sweep::Plan;

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
    /// Masses of the first set `(n, classes)`, `1/n` if `None`.
    pub a: Option<&'a [T]>,
    /// Masses of the second set `(m, classes)`, `1/m` if `None`.
    pub b: Option<&'a [T]>,
    /// Masses of a point.
    pub classes: usize,
    /// Bandwidth `sigma`.
    pub bandwidth: f64,
}

/// What to compute, the same for a whole batch.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The kernel.
    pub kernel: Kernel,
    /// Multiples of the bandwidth whose kernels are averaged (exponents if rational quadratic).
    pub scales: &'a [f64],
    /// U instead of V.
    pub unbiased: bool,
    /// Gradient with respect to the first set.
    pub want_x: bool,
    /// Gradient with respect to the second set.
    pub want_y: bool,
    /// Gradient with respect to the masses.
    pub want_masses: bool,
    /// Derivative with respect to the bandwidth.
    pub want_bandwidth: bool,
    /// Instruction set.
    pub level: Level,
}

impl Options<'_> {
    /// Something is wanted that needs the derivative of the kernel.
    fn slopes(&self) -> bool {
        self.want_x || self.want_y || self.want_bandwidth
    }
}

/// Value and gradients of one problem; empty or 0 what is not wanted.
#[derive(Clone, Debug, Default)]
pub struct Output<T> {
    /// `MMD^2`.
    pub value: f64,
    /// `(n, width)`.
    pub grad_x: Vec<T>,
    /// `(m, width)`.
    pub grad_y: Vec<T>,
    /// Gradient with respect to the masses `a`.
    pub grad_a: Vec<T>,
    /// Gradient with respect to the masses `b`.
    pub grad_b: Vec<T>,
    /// Derivative with respect to the bandwidth.
    pub grad_bandwidth: f64,
}

/// Multiplier of a within sum, and its derivative with respect to the masses.
#[derive(Clone, Copy)]
struct Within {
    factor: f64,
    mass: f64,
    squares: f64,
    unbiased: bool,
}

impl Within {
    /// For each of the `classes` masses of some points.
    fn of<T: Real>(weights: &[T], classes: usize, unbiased: bool) -> Vec<Self> {
        let mut sums = vec![(0.0, 0.0); classes];
        for point in weights.chunks_exact(classes) {
            for (sum, w) in sums.iter_mut().zip(point) {
                let w = w.to_f64();
                sum.0 += w.abs();
                sum.1 += w * w;
            }
        }
        let within = |(mass, squares): (f64, f64)| {
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
        };
        sums.into_iter().map(within).collect()
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

/// The smallest bandwidth: the inverse of its square, times a scale or two, is still finite.
fn floor<T: Real>() -> f64 {
    if T::EPSILON.to_f64() > 1e-10 {
        1e-15
    } else {
        1e-140
    }
}

/// Solves one problem on up to `threads` threads.
///
/// The result depends on the number of threads only by rounding, and not from run to run.
#[must_use]
pub fn mmd<T: Real>(problem: &Problem<'_, T>, options: &Options<'_>, threads: usize) -> Output<T> {
    let (n, _) = problem.sizes;
    let Problem {
        x,
        y,
        a,
        b,
        width,
        classes,
        ..
    } = *problem;
    let invariant = !matches!(options.kernel, Kernel::Polynomial { .. });
    let level = options.level;
    let pool = Pool::new(level, x, y, problem.sizes, width, a, b, classes, invariant);
    let bandwidth = problem.bandwidth.max(floor::<T>());
    let finite = pool.norms.iter().all(|v| v.is_finite());
    let single = T::EPSILON.to_f64() > f64::EPSILON;
    if single && (!finite || loses_digits(&pool, options, bandwidth)) {
        return in_double(problem, options, threads);
    }
    if !finite || problem.bandwidth.is_nan() {
        return finish::undefined(problem, options);
    }
    let split = n * classes;
    let sides = [
        Within::of(&pool.weights[..split], classes, options.unbiased),
        Within::of(&pool.weights[split..], classes, options.unbiased),
    ];
    let mut scaled = Vec::new();
    if classes > 1 && options.slopes() {
        scaled.reserve_exact(pool.weights.len());
        for (i, point) in pool.weights.chunks_exact(classes).enumerate() {
            let side = &sides[usize::from(i >= n)];
            let factors = side.iter().map(|s| T::from_f64(s.factor));
            scaled.extend(point.iter().zip(factors).map(|(&w, f)| w * f));
        }
    }
    let plan = Plan {
        pool: &pool,
        shape: Shape::new(options.kernel, options.scales, bandwidth),
        sides,
        scaled,
        options: *options,
    };
    let parts = plan.run(threads);
    finish::finish(&plan, parts, bandwidth, threads)
}

/// Largest error of an exponent that single precision may make.
const EXPONENT_ERROR: f64 = 2e-3;

/// Distances come from norms and products: a cloud that is wide against the narrowest kernel (an
/// outlier, two clouds far apart) leaves too few digits of its small distances.
fn loses_digits<T: Real>(pool: &Pool<T>, options: &Options<'_>, bandwidth: f64) -> bool {
    let narrowest = match options.kernel {
        Kernel::Gaussian => {
            options.scales.iter().copied().fold(f64::INFINITY, f64::min) * bandwidth
        }
        Kernel::RationalQuadratic => bandwidth,
        // These take the small distances again, from differences.
        Kernel::Laplace | Kernel::Energy | Kernel::Polynomial { .. } => return false,
    };
    let norms = pool.norms.iter().enumerate();
    let widest = norms
        .filter(|(i, _)| pool.massive(*i))
        .map(|(_, norm)| norm.to_f64())
        .fold(0.0, f64::max);
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
        classes: problem.classes,
        bandwidth: problem.bandwidth.max(floor::<T>()),
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
    // A share each, so that a thread is asked for once.
    let share = problems.len().div_ceil(threads);
    let shares: Vec<_> = problems.chunks(share).collect();
    let solve =
        |k: usize| -> Vec<Output<T>> { shares[k].iter().map(|p| mmd(p, options, 1)).collect() };
    let parts = parallel::map(shares.len(), threads, false, solve);
    parts.into_iter().flatten().collect()
}

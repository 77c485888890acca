//! Value and gradients from the sums of the threads.

use std::ops::Range;
use std::sync::Mutex;

use super::sweep::{Plan, Sums};
use super::{Options, Output, Problem};
use crate::parallel::{self, lock};
use crate::real::Real;
use crate::simd::Level;
use crate::simd_dispatch;

/// Coordinates below which the last pass is left to one thread.
const SHARED: usize = 1 << 18;

#[inline(always)]
fn point_body<T: Real, const FMA: bool>(out: &mut [T], others: &[&[T]], z: &[T], factor: T) {
    for part in others {
        for (v, &p) in out.iter_mut().zip(*part) {
            *v += p;
        }
    }
    for (v, &z) in out.iter_mut().zip(z) {
        *v = factor.fma::<FMA>(z, *v);
    }
}

simd_dispatch! {
    /// Adds the parts of the other threads, then `factor` times the point itself.
    fn point[T: Real](out: &mut [T], others: &[&[T]], z: &[T], factor: T) = point_body;
}

/// The wanted gradients to the points, `-2 (sum_j g_ij z_i - sum_j g_ij z_j)`.
fn positions<T: Real>(
    plan: &Plan<'_, T>,
    moved: Vec<T>,
    others: &[Sums<T>],
    coefficient: &[f64],
    threads: usize,
) -> Vec<T> {
    let (width, first) = (plan.pool.width, plan.span().start);
    let level: Level = plan.options.level;
    let invariant = plan.shape.invariant();
    let mut moved = moved;
    if moved.is_empty() {
        return moved;
    }
    let threads = if moved.len() * (others.len() + 1) < SHARED {
        1
    } else {
        threads
    };
    let rows = (moved.len() / width).div_ceil(threads);
    let chunks: Vec<_> = moved.chunks_mut(rows * width).map(Mutex::new).collect();
    parallel::map(chunks.len(), threads, true, |k| {
        let mut chunk = lock(&chunks[k]);
        let mut parts: Vec<&[T]> = Vec::with_capacity(others.len());
        for (r, out) in chunk.chunks_exact_mut(width).enumerate() {
            let i = k * rows + r;
            let line = i * width..(i + 1) * width;
            parts.clear();
            parts.extend(others.iter().map(|o| &o.moved[line.clone()]));
            let z = &plan.pool.points[(first + i) * width..(first + i + 1) * width];
            // A polynomial of the scalar product has no term in the point itself.
            let own = if invariant {
                coefficient[first + i]
            } else {
                0.0
            };
            point(level, out, &parts, z, T::from_f64(-2.0 * own));
        }
    });
    drop(chunks);
    let dim = plan.pool.dim;
    if dim < width {
        let points = moved.chunks_exact(width);
        return points.flat_map(|point| &point[..dim]).copied().collect();
    }
    moved
}

/// Adds up what the threads have summed.
pub(super) fn finish<T: Real>(
    plan: &Plan<'_, T>,
    mut parts: Vec<Sums<T>>,
    sigma: f64,
    threads: usize,
) -> Output<T> {
    let (pool, options) = (plan.pool, &plan.options);
    let (n, total, classes) = (pool.split, pool.len(), pool.classes);
    let mut sums = parts.remove(0);
    for part in &parts {
        let add = |to: &mut [f64], from: &[f64]| {
            to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
        };
        add(&mut sums.within, &part.within);
        add(&mut sums.cross, &part.cross);
        add(&mut sums.coefficient, &part.coefficient);
        sums.moment += part.moment;
    }
    let mut own = [vec![0.0; classes], vec![0.0; classes]];
    let mut value = 0.0;
    for i in 0..total {
        let side = usize::from(i >= n);
        for (c, own) in own[side].iter_mut().enumerate() {
            let at = i * classes + c;
            let weight = pool.weights[at].to_f64();
            let within = weight * sums.within[at];
            *own += within;
            value += plan.sides[side][c].factor * within + weight * sums.cross[at];
        }
    }
    let masses = |range: Range<usize>, side: usize, sign: f64| -> Vec<T> {
        if !options.want_masses {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(range.len() * classes);
        for i in range {
            for (c, (own, within)) in own[side].iter().zip(&plan.sides[side]).enumerate() {
                let at = i * classes + c;
                let linear = within.factor * sums.within[at] + sums.cross[at];
                let slope = within.slope(sign * pool.weights[at].to_f64());
                out.push(T::from_f64(2.0 * sign * linear + own * slope));
            }
        }
        out
    };
    let (grad_a, grad_b) = (masses(0..n, 0, 1.0), masses(n..total, 1, -1.0));
    let mut grad_x = positions(plan, sums.moved, &parts, &sums.coefficient, threads);
    let grad_y = match (options.want_x, options.want_y) {
        (true, true) => grad_x.split_off(n * pool.dim),
        (false, _) => std::mem::take(&mut grad_x),
        (true, false) => Vec::new(),
    };
    Output {
        value,
        grad_x,
        grad_y,
        grad_a,
        grad_b,
        grad_bandwidth: if options.want_bandwidth && plan.shape.has_bandwidth() {
            sums.moment / sigma
        } else {
            0.0
        },
    }
}

/// The answer to points that are not a number.
pub(super) fn undefined<T: Real>(problem: &Problem<'_, T>, options: &Options<'_>) -> Output<T> {
    let (n, m) = problem.sizes;
    let fill = |wanted: bool, count: usize| vec![T::NAN; if wanted { count } else { 0 }];
    let masses = |count: usize| fill(options.want_masses, count * problem.classes);
    Output {
        value: f64::NAN,
        grad_x: fill(options.want_x, n * problem.width),
        grad_y: fill(options.want_y, m * problem.width),
        grad_a: masses(n),
        grad_b: masses(m),
        grad_bandwidth: f64::NAN,
    }
}

//! The median rule for the bandwidth of a kernel.

mod select;

use std::sync::Mutex;

use crate::buffer::{Aligned, padded};
use crate::gemm::gemm;
use crate::mmd::{Pool, Problem};
use crate::parallel::{self, lock};
use crate::product::Panels;
use crate::real::Real;
use crate::simd::Level;
use crate::simd_dispatch;
use select::median;

/// Rows whose distances are taken at once.
const ROWS: usize = 64;
/// Smallest squared bandwidth: what coincident points get, far from the range's ends in `f32`.
const FLOOR: f64 = 1e-12;

/// Distances of one row from scalar products; true if one of them lost its digits.
#[inline(always)]
fn distances_body<T: Real, const FMA: bool>(row: &mut [T], norm: T, norms: &[T], doubt: T) -> bool {
    let mut least = T::MAX;
    let minus_two = -(T::ONE + T::ONE);
    for (v, &other) in row.iter_mut().zip(norms) {
        let sum = norm + other;
        let d2 = minus_two.fma::<FMA>(*v, sum);
        least = (d2 - doubt * sum).min(least);
        *v = d2.max(T::ZERO);
    }
    least <= T::ZERO
}

simd_dispatch! {
    /// Squared distances in the place of scalar products; true if one is below `doubt` times the
    /// sum of the norms, where rounding is felt.
    fn distances[T: Real](row: &mut [T], norm: T, norms: &[T], doubt: T) -> bool = distances_body;
}

/// Squared distances of the points `start..end` to all later ones, row by row.
fn upper_rows<T: Real>(
    level: Level,
    pool: &Pool<T>,
    panels: Option<&Panels<T>>,
    start: usize,
    out: &mut [T],
) {
    let (n, width) = (pool.len(), pool.width);
    let end = (start + ROWS).min(n);
    let stride = padded(n);
    let mut products = Aligned::arbitrary((end - start) * stride);
    let points = &pool.points[start * width..end * width];
    if let Some(panels) = panels {
        panels.times_from(level, points, start, &mut products);
    } else {
        gemm(
            end - start,
            width,
            n - start,
            T::ONE,
            points,
            (width, 1),
            &pool.points[start * width..],
            (1, width),
            T::ZERO,
            &mut products[start..],
            (stride, 1),
        );
    }
    let doubt = T::from_f64(1e3) * T::EPSILON;
    let point = |i: usize| &pool.points[i * width..(i + 1) * width];
    let mut out = out;
    for (r, row) in products.chunks_exact_mut(stride).enumerate() {
        let i = start + r;
        let row = &mut row[i + 1..n];
        let (norm, norms) = (pool.norms[i], &pool.norms[i + 1..]);
        if distances(level, row, norm, norms, doubt) {
            for (k, v) in row.iter_mut().enumerate() {
                if *v <= doubt * (norm + norms[k]) {
                    *v = T::ZERO;
                    for (&p, &q) in point(i).iter().zip(point(i + 1 + k)) {
                        *v += (p - q) * (p - q);
                    }
                }
            }
        }
        let (head, tail) = out.split_at_mut(row.len());
        head.copy_from_slice(row);
        out = tail;
    }
}

/// Squared distances of all pairs of different points.
fn pairs<T: Real>(level: Level, pool: &Pool<T>, threads: usize) -> Vec<T> {
    let n = pool.len();
    let mut all = vec![T::ZERO; n * n.saturating_sub(1) / 2];
    let threads = threads.min(n * n * (pool.width + 10) / 2_000_000).max(1);
    let mut strips: Vec<Mutex<&mut [T]>> = Vec::new();
    let mut rest = all.as_mut_slice();
    for start in (0..n).step_by(ROWS) {
        let end = (start + ROWS).min(n);
        let length = (start..end).map(|i| n - 1 - i).sum();
        let (head, tail) = rest.split_at_mut(length);
        rest = tail;
        strips.push(Mutex::new(head));
    }
    let panels = Panels::new(level, &pool.points, pool.width);
    parallel::map(strips.len(), threads, true, |k| {
        upper_rows(
            level,
            pool,
            panels.as_ref(),
            k * ROWS,
            &mut lock(&strips[k]),
        );
    });
    drop(strips);
    all
}

/// Keeps the points with a weight, and of those at most `limit`, evenly spaced.
fn subsample<T: Real>(problem: &Problem<'_, T>, limit: usize) -> Vec<T> {
    let (n, m) = problem.sizes;
    let weight = |i: usize| {
        let w = if i < n {
            problem.a.map(|a| a[i])
        } else {
            problem.b.map(|b| b[i - n])
        };
        w.unwrap_or(T::ONE)
    };
    debug_assert_eq!(problem.classes, 1);
    let kept: Vec<usize> = (0..n + m).filter(|&i| weight(i) != T::ZERO).collect();
    let count = kept.len().min(limit);
    let mut points = Vec::with_capacity(count * problem.width);
    for k in 0..count {
        let i = kept[k * kept.len() / count];
        let (from, i) = if i < n {
            (problem.x, i)
        } else {
            (problem.y, i - n)
        };
        points.extend_from_slice(&from[i * problem.width..(i + 1) * problem.width]);
    }
    points
}

/// Bandwidth `sigma`: the root of the median squared distance between the pooled points.
///
/// Only pairs of different points count, and points of zero weight are left out. Of more than
/// `limit` pooled points an evenly spaced subsample of that many is used. If the median is 0, more
/// than half of the pairs coincide and the mean squared distance takes its place; points that all
/// coincide get `1e-6`. The bandwidth and the weights of `problem` are not used otherwise.
/// Not-a-number among the coordinates gives NaN.
#[must_use]
pub fn median_bandwidth<T: Real>(
    level: Level,
    problem: &Problem<'_, T>,
    limit: usize,
    threads: usize,
) -> f64 {
    let points = subsample(problem, limit);
    let count = points.len().checked_div(problem.width).unwrap_or(0);
    let (sizes, width) = ((count, 0), problem.width);
    let pool = Pool::new(level, &points, &[], sizes, width, None, None, 1, true);
    if pool.norms.iter().any(|v| !v.is_finite()) {
        return f64::NAN;
    }
    let squares = pairs(level, &pool, threads);
    let mut square = median(&squares);
    if square == 0.0 && !squares.is_empty() {
        square = squares.iter().map(|v| v.to_f64()).sum::<f64>() / squares.len() as f64;
    }
    square.max(FLOOR).sqrt()
}

/// [`median_bandwidth`] of independent problems, several at a time if there are enough.
#[must_use]
pub fn median_bandwidth_batch<T: Real>(
    level: Level,
    problems: &[Problem<'_, T>],
    limit: usize,
    threads: usize,
) -> Vec<f64> {
    if threads <= 1 || problems.len() < threads {
        return problems
            .iter()
            .map(|p| median_bandwidth(level, p, limit, threads))
            .collect();
    }
    parallel::map(problems.len(), threads, false, |i| {
        median_bandwidth(level, &problems[i], limit, 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{available, detect};

    fn points(count: usize, seed: usize) -> Vec<f64> {
        (0..count)
            .map(|i| (((i + seed) * 7919 % 10_007) as f64 / 1000.0).sin() + 100.0)
            .collect()
    }

    fn problem<'a, T>(x: &'a [T], y: &'a [T], width: usize) -> Problem<'a, T> {
        let sizes = (x.len() / width, y.len() / width);
        Problem {
            x,
            y,
            sizes,
            width,
            a: None,
            b: None,
            classes: 1,
            bandwidth: 0.0,
        }
    }

    fn direct(points: &[f64], width: usize) -> f64 {
        let rows: Vec<&[f64]> = points.chunks_exact(width).collect();
        let mut all = Vec::new();
        for (i, p) in rows.iter().enumerate() {
            for q in &rows[i + 1..] {
                all.push(
                    p.iter()
                        .zip(*q)
                        .map(|(u, v)| (u - v) * (u - v))
                        .sum::<f64>(),
                );
            }
        }
        all.sort_by(f64::total_cmp);
        ((all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0).sqrt()
    }

    #[test]
    fn agrees_with_the_sorted_distances() {
        for (n, m, width) in [(1, 1, 1), (2, 1, 3), (5, 4, 2), (70, 63, 5), (200, 301, 17)] {
            let (x, y) = (points(n * width, 1), points(m * width, 5000));
            let want = direct(&[x.clone(), y.clone()].concat(), width);
            for level in available() {
                for threads in 1..=3 {
                    let got = median_bandwidth(level, &problem(&x, &y, width), 1024, threads);
                    assert!(
                        (got - want).abs() < 1e-12 * want,
                        "{n} {m} {level:?} {got} {want}"
                    );
                }
                let single = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
                let (x, y) = (single(&x), single(&y));
                let got = median_bandwidth(level, &problem(&x, &y, width), 1024, 1);
                assert!(
                    (got - want).abs() < 2e-5 * want + 1e-5,
                    "{n} {m} {level:?} {got} {want}"
                );
            }
        }
    }

    #[test]
    fn known_value() {
        let x = [0.0, 0.0, 1.0, 0.0, 0.0, 2.0];
        let y = [1.0, 1.0, 2.0, 0.0, 0.0, -1.0, 3.0, 1.0];
        assert_eq!(
            median_bandwidth(detect(), &problem(&x, &y, 2), 1024, 1),
            2.0
        );
        // x and its first point once more: 0 1 1 4 4 5.
        let batch = [
            problem(&x, &y, 2),
            problem(&x, &x[..2], 2),
            problem(&x, &y, 2),
        ];
        let all = median_bandwidth_batch(detect(), &batch, 1024, 2);
        assert_eq!(all, [2.0, 2.5f64.sqrt(), 2.0]);
    }

    #[test]
    fn coincident_points() {
        for value in [0.0f32, 2.7, 1e4] {
            let x = vec![value; 30];
            assert!(
                (median_bandwidth(detect(), &problem(&x, &x, 3), 1024, 2) - 1e-6).abs() < 1e-18
            );
        }
        // 28 pairs, 12 of them at squared distance 9: the median is 0, the mean 108/28.
        let (x, y) = ([0.1f32; 6], [3.1f32, 3.1]);
        let got = median_bandwidth(detect(), &problem(&x, &y, 1), 1024, 1);
        assert!((got - (108.0f64 / 28.0).sqrt()).abs() < 1e-6, "{got}");
        assert!(median_bandwidth(detect(), &problem(&[f32::NAN], &y, 1), 1024, 1).is_nan());
    }

    #[test]
    fn zero_weights_and_the_limit() {
        let x = points(50 * 3, 1);
        let y = points(70 * 3, 2000);
        let mut with = problem(&x, &y, 3);
        let mut a = vec![1.0; 50];
        a[7] = 0.0;
        with.a = Some(&a);
        let mut kept = [x.clone(), y.clone()].concat();
        kept.drain(21..24);
        let got = median_bandwidth(detect(), &with, 1024, 1);
        assert!((got - direct(&kept, 3)).abs() < 1e-12);
        let evenly: Vec<f64> = (0..40)
            .flat_map(|k| kept[(k * 119 / 40) * 3..][..3].to_vec())
            .collect();
        let got = median_bandwidth(detect(), &with, 40, 1);
        assert!((got - direct(&evenly, 3)).abs() < 1e-12);
    }
}

//! Element-wise and reducing loops over slices.
//!
//! Each operation comes twice: `*_body` for use inside other kernel bodies, and a dispatched form
//! that takes a [`Level`](crate::simd::Level) first. Sums run over [`LANES`] partial sums, because
//! a single floating point sum may not be reordered by the compiler.

pub use crate::lanes::{max_lanes, sum_lanes};
use crate::real::{LANES, Real};
use crate::simd_dispatch;

/// `sum_i x[i]`.
#[inline(always)]
pub fn sum_body<T: Real, const FMA: bool>(x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += chunk[l];
        }
    }
    let mut total = sum_lanes(lanes);
    for &v in rest {
        total += v;
    }
    total
}

/// `max_i x[i]`, `-inf` for an empty slice; NaN entries are skipped.
#[inline(always)]
pub fn max_body<T: Real, const FMA: bool>(x: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = chunk[l].max(lanes[l]);
        }
    }
    let mut largest = max_lanes(lanes);
    for &v in rest {
        largest = v.max(largest);
    }
    largest
}

/// `sum_i x[i] y[i]`.
#[inline(always)]
pub fn dot_body<T: Real, const FMA: bool>(x: &[T], y: &[T]) -> T {
    assert_eq!(x.len(), y.len());
    // Two independent accumulators hide the latency of the multiply-add.
    let (mut lanes, mut other) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    let (x_pairs, x_last) = x_chunks.as_chunks::<2>();
    let (y_pairs, y_last) = y_chunks.as_chunks::<2>();
    for ([p, r], [q, s]) in x_pairs.iter().zip(y_pairs) {
        for l in 0..LANES {
            lanes[l] = p[l].fma::<FMA>(q[l], lanes[l]);
        }
        for l in 0..LANES {
            other[l] = r[l].fma::<FMA>(s[l], other[l]);
        }
    }
    for (p, q) in x_last.iter().zip(y_last) {
        for l in 0..LANES {
            lanes[l] = p[l].fma::<FMA>(q[l], lanes[l]);
        }
    }
    for l in 0..LANES {
        lanes[l] += other[l];
    }
    let mut total = sum_lanes(lanes);
    for (&p, &q) in x_rest.iter().zip(y_rest) {
        total = p.fma::<FMA>(q, total);
    }
    total
}

/// `x[i] == y[i]` for all `i`: false where either is NaN.
#[inline(always)]
pub fn equal_body<T: Real, const FMA: bool>(x: &[T], y: &[T]) -> bool {
    const TOGETHER: usize = 1024;
    x.len() == y.len()
        && x.chunks(TOGETHER).zip(y.chunks(TOGETHER)).all(|(p, q)| {
            // No early exit within a chunk, so that it can be vectorised.
            let mut all = true;
            for (p, q) in p.iter().zip(q) {
                all &= p == q;
            }
            all
        })
}

/// `sum_i (x[i] - y[i])^2`.
#[inline(always)]
pub fn squared_distance_body<T: Real, const FMA: bool>(x: &[T], y: &[T]) -> T {
    assert_eq!(x.len(), y.len());
    let mut lanes = [T::ZERO; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for (p, q) in x_chunks.iter().zip(y_chunks) {
        for l in 0..LANES {
            let d = p[l] - q[l];
            lanes[l] = d.fma::<FMA>(d, lanes[l]);
        }
    }
    let mut total = sum_lanes(lanes);
    for (&p, &q) in x_rest.iter().zip(y_rest) {
        total = (p - q).fma::<FMA>(p - q, total);
    }
    total
}

/// `y[i] += c x[i]`.
#[inline(always)]
pub fn axpy_body<T: Real, const FMA: bool>(c: T, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    for (q, &p) in y.iter_mut().zip(x) {
        *q = c.fma::<FMA>(p, *q);
    }
}

/// `y[i] = c x[i]`.
#[inline(always)]
pub fn scaled_body<T: Real, const FMA: bool>(c: T, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len());
    for (q, &p) in y.iter_mut().zip(x) {
        *q = c * p;
    }
}

/// `x[i] = exp(x[i])`.
#[inline(always)]
pub fn exp_body<T: Real, const FMA: bool>(x: &mut [T]) {
    for v in x {
        *v = v.exp_fast::<FMA>();
    }
}

/// `x[i] = ln(x[i])` for positive, normal, finite entries.
#[inline(always)]
pub fn ln_body<T: Real, const FMA: bool>(x: &mut [T]) {
    for v in x {
        *v = v.ln_fast::<FMA>();
    }
}

/// Squared Euclidean norm of each row of `width` elements.
#[inline(always)]
pub fn squared_norms_body<T: Real, const FMA: bool>(points: &[T], width: usize, out: &mut [T]) {
    assert_eq!(points.len(), width * out.len());
    if width == 0 {
        out.fill(T::ZERO);
        return;
    }
    for (row, norm) in points.chunks_exact(width).zip(out) {
        *norm = dot_body::<T, FMA>(row, row);
    }
}

/// `x_i -= shift` for each row `x_i`.
#[inline(always)]
pub fn take_off_body<T: Real, const FMA: bool>(shift: &[T], rows: &mut [T]) {
    for row in rows.chunks_exact_mut(shift.len().max(1)) {
        for (v, &s) in row.iter_mut().zip(shift) {
            *v -= s;
        }
    }
}

simd_dispatch! {
    /// Takes `shift` off each row of as many elements.
    pub fn take_off[T: Real](shift: &[T], rows: &mut [T]) = take_off_body;
}

/// `out_i = x_i - shift` for each row `x_i`.
#[inline(always)]
pub fn less_body<T: Real, const FMA: bool>(shift: &[T], rows: &[T], out: &mut [T]) {
    assert_eq!(rows.len(), out.len());
    let width = shift.len().max(1);
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        for ((o, &v), &s) in out.iter_mut().zip(row).zip(shift) {
            *o = v - s;
        }
    }
}

simd_dispatch! {
    /// Rows of as many elements as `shift`, less that.
    pub fn less[T: Real](shift: &[T], rows: &[T], out: &mut [T]) = less_body;
}
simd_dispatch! {
    /// `sum_i x[i]`.
    pub fn sum[T: Real](x: &[T]) -> T = sum_body;
}
simd_dispatch! {
    /// `max_i x[i]`, `-inf` for an empty slice; NaN entries are skipped.
    pub fn max[T: Real](x: &[T]) -> T = max_body;
}
simd_dispatch! {
    /// `sum_i x[i] y[i]`.
    pub fn dot[T: Real](x: &[T], y: &[T]) -> T = dot_body;
}
simd_dispatch! {
    /// `x[i] == y[i]` for all `i`: false where either is NaN.
    pub fn equal[T: Real](x: &[T], y: &[T]) -> bool = equal_body;
}
simd_dispatch! {
    /// `sum_i (x[i] - y[i])^2`.
    pub fn squared_distance[T: Real](x: &[T], y: &[T]) -> T = squared_distance_body;
}
simd_dispatch! {
    /// `y[i] += c x[i]`.
    pub fn axpy[T: Real](c: T, x: &[T], y: &mut [T]) = axpy_body;
}
simd_dispatch! {
    /// `y[i] = c x[i]`.
    pub fn scaled[T: Real](c: T, x: &[T], y: &mut [T]) = scaled_body;
}
simd_dispatch! {
    /// `x[i] = exp(x[i])`.
    pub fn exp[T: Real](x: &mut [T]) = exp_body;
}
simd_dispatch! {
    /// `x[i] = ln(x[i])` for positive, normal, finite entries.
    pub fn ln[T: Real](x: &mut [T]) = ln_body;
}
simd_dispatch! {
    /// Squared Euclidean norm of each row of `width` elements.
    pub fn squared_norms[T: Real](points: &[T], width: usize, out: &mut [T]) = squared_norms_body;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::available;

    fn grid(low: f64, high: f64, n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(move |i| low + (high - low) * i as f64 / (n - 1) as f64)
    }

    fn worst<T: Real>(arguments: &[T], values: &[T], truth: impl Fn(f64) -> f64) -> f64 {
        let error = |(x, v): (&T, &T)| {
            let want = truth(x.to_f64());
            let got = v.to_f64();
            if got == want {
                0.0
            } else {
                (got - want).abs() / want.abs()
            }
        };
        let errors: Vec<f64> = arguments.iter().zip(values).map(error).collect();
        assert!(errors.iter().all(|e| e.is_finite()));
        errors.into_iter().fold(0.0, f64::max)
    }

    fn exp_is_accurate<T: Real>(low: f64, high: f64) {
        for level in available() {
            let x: Vec<T> = grid(low, high, 400_003)
                .chain(grid(-1e-3, 1e-3, 1001))
                .map(T::from_f64)
                .collect();
            let mut y = x.clone();
            exp(level, &mut y);
            let error = worst(&x, &y, f64::exp);
            assert!(error < 1.5 * T::EPSILON.to_f64(), "{level:?} {error:e}");
            let mut ends = [
                low - 1.0,
                -1e30,
                f64::NEG_INFINITY,
                high + 1.0,
                1e30,
                f64::INFINITY,
                f64::NAN,
            ]
            .map(T::from_f64);
            exp(level, &mut ends);
            assert!(
                ends[..3].iter().all(|&v| v == T::ZERO),
                "{level:?} {ends:?}"
            );
            assert!(
                ends[3..6].iter().all(|&v| v == T::INFINITY),
                "{level:?} {ends:?}"
            );
            assert!(
                !ends[6].is_finite() && ends[6] != T::INFINITY,
                "{level:?} {ends:?}"
            );
        }
    }

    #[test]
    fn exp_f32() {
        exp_is_accurate::<f32>(-87.3365, 88.7228);
    }

    #[test]
    fn exp_f64() {
        exp_is_accurate::<f64>(-708.396, 709.782);
    }

    fn ln_is_accurate<T: Real>(exponent: f64) {
        for level in available() {
            let x: Vec<T> = grid(-exponent, exponent, 200_003)
                .map(f64::exp2)
                .chain(grid(0.4, 3.0, 100_001))
                .chain([1.0, T::MIN_POSITIVE.to_f64(), T::MAX.to_f64()])
                .map(T::from_f64)
                .collect();
            let mut y = x.clone();
            ln(level, &mut y);
            let error = worst(&x, &y, f64::ln);
            assert!(error < 2.0 * T::EPSILON.to_f64(), "{level:?} {error:e}");
        }
    }

    #[test]
    fn ln_f32() {
        ln_is_accurate::<f32>(125.9);
    }

    #[test]
    fn ln_f64() {
        ln_is_accurate::<f64>(1021.9);
    }

    #[test]
    fn reductions_agree_with_the_definition() {
        for level in available() {
            for n in [0, 1, 15, 16, 17, 100, 1000] {
                let x: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin()).collect();
                let y: Vec<f64> = (0..n).map(|i| (i as f64 * 0.3).cos()).collect();
                let want: f64 = x.iter().sum();
                assert!((sum(level, &x) - want).abs() < 1e-11);
                let want: f64 = x.iter().zip(&y).map(|(p, q)| p * q).sum();
                assert!((dot(level, &x, &y) - want).abs() < 1e-11);
                assert!(equal(level, &x, &x) && equal(level, &y, &y));
                assert!(n == 0 || !equal(level, &x, &y) && !equal(level, &x, &x[1..]));
                let want: f64 = x.iter().zip(&y).map(|(p, q)| (p - q) * (p - q)).sum();
                assert!((squared_distance(level, &x, &y) - want).abs() < 1e-11);
                let want = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert_eq!(max(level, &x), want);
                let mut z = y.clone();
                axpy(level, 2.0, &x, &mut z);
                assert!((0..n).all(|i| (z[i] - (y[i] + 2.0 * x[i])).abs() < 1e-15));
                scaled(level, 2.0, &x, &mut z);
                assert!((0..n).all(|i| z[i] == 2.0 * x[i]));
            }
            let mut norms = [0.0; 3];
            squared_norms(level, &[3.0, 4.0, 0.0, 0.0, 1.0, 2.0], 2, &mut norms);
            assert_eq!(norms, [25.0, 0.0, 5.0]);
        }
    }
}

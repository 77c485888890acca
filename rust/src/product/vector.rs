//! A matrix times a column and a row times a matrix, with as many sums as it takes to keep the
//! multipliers busy.
//!
//! The sweeps of an iteration are little else. Sums across registers stay in registers: the same
//! through memory took longer than the products of a row of 64.

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::lanes::{sum_four, sum_lanes};
use crate::real::{LANES, Real};
use crate::simd::Level;
use crate::simd_dispatch;

/// A number type with such products.
pub trait Vectors: Sized {
    /// `out = A v` for rows as long as `v`, a whole number of lane arrays. False where this level
    /// has no such products.
    ///
    /// # Panics
    /// If A has less rows than `out` elements.
    #[must_use]
    fn times_column(level: Level, a: &[Self], v: &[Self], out: &mut [Self]) -> bool;

    /// `t = A v`, `u = 1 / t` and `out += (w u) A` in one pass over A, whose rows are as long as
    /// `v` and `out`, a whole number of lane arrays; `rows` are t and u. Returns how many of the
    /// first rows are done: 0 where this level has no such products.
    ///
    /// While the columns take in some rows, which the cache still holds, the next ones are read
    /// for their sums: memory never waits for arithmetic, nor that for the division.
    ///
    /// # Panics
    /// If A has less rows than t elements, or u or w is shorter.
    #[must_use]
    fn balance(
        level: Level,
        a: &[Self],
        weight: &[Self],
        v: &[Self],
        rows: (&mut [Self], &mut [Self]),
        out: &mut [Self],
    ) -> usize;

    /// `out += c A` for rows as long as `out`, a whole number of lane arrays. With `ahead`, what
    /// follows A in memory is called into the cache. False where this level has no such products.
    ///
    /// # Panics
    /// If A has less rows than `c` elements.
    #[must_use]
    fn add_row_times(level: Level, ahead: bool, c: &[Self], a: &[Self], out: &mut [Self]) -> bool;
}

#[cfg(not(target_arch = "x86_64"))]
macro_rules! none {
    ($t:ty) => {
        impl Vectors for $t {
            fn times_column(_: Level, _: &[Self], _: &[Self], _: &mut [Self]) -> bool {
                false
            }
            fn add_row_times(_: Level, _: bool, _: &[Self], _: &[Self], _: &mut [Self]) -> bool {
                false
            }
            fn balance(
                _: Level,
                _: &[Self],
                _: &[Self],
                _: &[Self],
                _: (&mut [Self], &mut [Self]),
                _: &mut [Self],
            ) -> usize {
                0
            }
        }
    };
}

#[cfg(not(target_arch = "x86_64"))]
none!(f32);
#[cfg(not(target_arch = "x86_64"))]
none!(f64);

/// `out = A v` at any level, in the loops of which this becomes a part.
#[inline(always)]
pub fn times_column<T: Real, const FMA: bool>(level: Level, a: &[T], v: &[T], out: &mut [T]) {
    if T::times_column(level, a, v, out) {
        return;
    }
    let (stride, v) = (v.len(), v.as_chunks::<LANES>().0);
    let (groups, rest) = out.as_chunks_mut::<4>();
    for (out, a) in groups.iter_mut().zip(a.chunks_exact(4 * stride.max(1))) {
        *out = sum_four(if FMA && size_of::<T>() == 4 {
            lanes::<T, FMA, 4>(a, v)
        } else {
            // More sums than there are registers would be kept in memory.
            let (low, high) = a.split_at(2 * stride);
            let [p, q] = lanes::<T, FMA, 2>(low, v);
            let [r, s] = lanes::<T, FMA, 2>(high, v);
            [p, q, r, s]
        });
    }
    let done = 4 * groups.len() * stride;
    for (out, a) in rest.iter_mut().zip(a[done..].chunks_exact(stride.max(1))) {
        let [sum] = lanes::<T, FMA, 1>(a, v);
        *out = sum_lanes(sum);
    }
}

/// The lanes of the products of `v` with the rows of `a`.
#[inline(always)]
fn lanes<T: Real, const FMA: bool, const ROWS: usize>(
    a: &[T],
    v: &[[T; LANES]],
) -> [[T; LANES]; ROWS] {
    let a = a.as_chunks::<LANES>().0;
    let rows: [&[[T; LANES]]; ROWS] = std::array::from_fn(|r| &a[r * v.len()..][..v.len()]);
    let mut sums = [[T::ZERO; LANES]; ROWS];
    for (j, q) in v.iter().enumerate() {
        for r in 0..ROWS {
            for l in 0..LANES {
                sums[r][l] = rows[r][j][l].fma::<FMA>(q[l], sums[r][l]);
            }
        }
    }
    sums
}

/// `out += c A` at any level, in the loops of which this becomes a part.
#[inline(always)]
pub fn add_row_times<T: Real, const FMA: bool>(
    level: Level,
    ahead: bool,
    c: &[T],
    a: &[T],
    out: &mut [T],
) {
    if T::add_row_times(level, ahead, c, a, out) {
        return;
    }
    let (a, out) = (a.as_chunks::<LANES>().0, out.as_chunks_mut::<LANES>().0);
    let width = out.len();
    let (groups, rest) = out.as_chunks_mut::<4>();
    for (g, out) in groups.iter_mut().enumerate() {
        add_columns::<T, FMA, 4>(c, a, (width, 4 * g), out);
    }
    let first = width - rest.len();
    for (j, out) in rest.iter_mut().enumerate() {
        add_columns::<T, FMA, 1>(c, a, (width, first + j), std::array::from_mut(out));
    }
}

/// The sums of `COLUMNS` lane arrays of columns from `first`, which stay in registers.
#[inline(always)]
fn add_columns<T: Real, const FMA: bool, const COLUMNS: usize>(
    c: &[T],
    a: &[[T; LANES]],
    (width, first): (usize, usize),
    out: &mut [[T; LANES]; COLUMNS],
) {
    let mut sums = *out;
    for (row, &c) in a.chunks_exact(width).zip(c) {
        for (sum, p) in sums.iter_mut().zip(&row[first..first + COLUMNS]) {
            for l in 0..LANES {
                sum[l] = p[l].fma::<FMA>(c, sum[l]);
            }
        }
    }
    *out = sums;
}

simd_dispatch! {
    fn column_times_at[T: Real](products: Level, a: &[T], v: &[T], out: &mut [T]) = times_column;
}

/// `out = A v` for rows as long as `v`, a whole number of lane arrays.
pub fn column_times<T: Real>(level: Level, a: &[T], v: &[T], out: &mut [T]) {
    column_times_at(level, level, a, v, out);
}

/// `out += c A`. False where this level has no such products, or a row is no whole number of lane
/// arrays.
#[must_use]
pub fn row_times<T: Real>(level: Level, c: &[T], a: &[T], out: &mut [T]) -> bool {
    out.len().is_multiple_of(LANES) && T::add_row_times(level, false, c, a, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::available;

    fn number<T: Real>(i: usize) -> T {
        T::from_f64(((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0)
    }

    simd_dispatch! {
        fn row[T: Real](products: Level, ahead: bool, c: &[T], a: &[T], out: &mut [T])
            = add_row_times;
    }

    fn agrees_with_the_definition<T: Real>(tolerance: f64) {
        for level in available() {
            for (n, width) in [
                (0, 16),
                (1, 16),
                (3, 48),
                (4, 32),
                (11, 112),
                (13, 240),
                (64, 64),
            ] {
                assert_eq!(width % LANES, 0);
                // More rows than are asked for.
                let a: Vec<T> = (0..(n + 1) * width).map(number).collect();
                let (v, c): (Vec<T>, Vec<T>) = (
                    (0..width).map(|j| number(j + 5)).collect(),
                    (0..n).map(|i| number(i + 9)).collect(),
                );
                let entry = |i: usize, j: usize| a[i * width + j].to_f64();
                let check = |got: T, want: f64| {
                    let off = (got.to_f64() - want).abs();
                    assert!(
                        off <= tolerance * (1.0 + want.abs()),
                        "{level:?} {n} {width}"
                    );
                };
                let mut out = vec![T::NAN; n];
                column_times(level, &a, &v, &mut out);
                for (i, &got) in out.iter().enumerate() {
                    check(got, (0..width).map(|j| entry(i, j) * v[j].to_f64()).sum());
                }
                for ahead in [false, true] {
                    let mut out: Vec<T> = (0..width).map(|j| number(j + 7)).collect();
                    row(level, level, ahead, &c, &a, &mut out);
                    for (j, &got) in out.iter().enumerate() {
                        let sum: f64 = (0..n).map(|i| c[i].to_f64() * entry(i, j)).sum();
                        check(got, number::<T>(j + 7).to_f64() + sum);
                    }
                }
            }
        }
    }

    #[test]
    fn of_both_types() {
        agrees_with_the_definition::<f32>(4e-6);
        agrees_with_the_definition::<f64>(1e-14);
    }

    fn balances_as_the_definition<T: Real>(tolerance: f64) {
        for level in available() {
            for (n, width) in [(0, 16), (3, 16), (4, 48), (13, 240), (40, 64), (9, 4096)] {
                let a: Vec<T> = (0..n * width).map(|i| number::<T>(i).abs()).collect();
                let v: Vec<T> = (0..width).map(|j| number::<T>(j + 5).abs()).collect();
                let weight: Vec<T> = (0..n).map(|i| number(i + 9)).collect();
                let entry = |i: usize, j: usize| a[i * width + j].to_f64();
                let before: Vec<T> = (0..width).map(|j| number(j + 7)).collect();
                let mut out = before.clone();
                let (mut total, mut ratio) = (vec![T::NAN; n], vec![T::NAN; n]);
                let done = T::balance(level, &a, &weight, &v, (&mut total, &mut ratio), &mut out);
                assert!(
                    done == 0 || done + 8 > n && done <= n,
                    "{level:?} {n} {width}"
                );
                let close = |got: T, want: f64| {
                    let off = (got.to_f64() - want).abs();
                    assert!(
                        off <= tolerance * (1.0 + want.abs()),
                        "{level:?} {n} {width}"
                    );
                };
                let mut columns: Vec<f64> = before.iter().map(|b| b.to_f64()).collect();
                for i in 0..done {
                    let sum: f64 = (0..width).map(|j| entry(i, j) * v[j].to_f64()).sum();
                    close(total[i], sum);
                    close(ratio[i], 1.0 / sum);
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column += weight[i].to_f64() / sum * entry(i, j);
                    }
                }
                for (&got, want) in out.iter().zip(columns) {
                    close(got, want);
                }
            }
        }
    }

    #[test]
    fn balances_of_both_types() {
        balances_as_the_definition::<f32>(1e-5);
        balances_as_the_definition::<f64>(1e-13);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    #[cfg(target_arch = "x86_64")]
    fn a_short_matrix_is_refused() {
        let level = crate::simd::detect();
        let done = f32::times_column(level, &[0.0; 31], &[0.0; 16], &mut [0.0; 2]);
        assert!(done, "assertion failed: not at {level:?}, which has none");
    }
}

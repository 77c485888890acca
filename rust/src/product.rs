//! `C = A B` for a row-major A whose elements are broadcast straight from memory and a B whose
//! rows lie side by side: nothing of A is packed, and nothing of B that has this form already.
//!
//! For the small products of small problems packing costs as much as multiplying.

mod tile;
mod vector;

pub use tile::{Left, Tiles};
pub use vector::{Vectors, add_row_times, column_times, row_times, times_column};

use crate::buffer::{Aligned, padded};
use crate::real::{LANES, Real};
use crate::simd::Level;
use crate::simd_dispatch;

/// The transpose of some points in panels as wide as a tile of the product, the last one maybe
/// narrower.
#[derive(Debug)]
pub struct Panels<T> {
    data: Aligned<T>,
    depth: usize,
    /// Columns of a whole panel.
    wide: usize,
}

impl<T: Real> Panels<T> {
    /// Of `points.len() / depth` points; columns are padded with zeros. None where this level has
    /// no such products.
    #[must_use]
    pub fn new(level: Level, points: &[T], depth: usize) -> Option<Self> {
        let wide = T::wide(level).filter(|_| depth > 0)?;
        let count = points.len() / depth;
        let len = padded(count) * depth;
        let mut data = if padded(count) == count {
            Aligned::arbitrary(len)
        } else {
            Aligned::zeros(len)
        };
        let panels = data.chunks_mut(wide * depth);
        for (points, panel) in points.chunks(wide * depth).zip(panels) {
            let stride = panel.len() / depth;
            for (j, group) in points.chunks(LANES * depth).enumerate() {
                transpose(level, group, depth, stride, &mut panel[j * LANES..]);
            }
        }
        Some(Self { data, depth, wide })
    }

    /// `out = A P` for the rows of A; those of `out` are padded.
    pub fn times(&self, level: Level, a: &[T], out: &mut [T]) {
        self.times_from(level, a, 0, out);
    }

    /// The same for the column `first` and all later ones; of those before it some may be written.
    pub fn times_from(&self, level: Level, a: &[T], first: usize, out: &mut [T]) {
        let depth = self.depth;
        let stride = self.data.len() / depth;
        let skipped = first / self.wide;
        let mut first = skipped * self.wide;
        for panel in self.data.chunks(self.wide * depth).skip(skipped) {
            let width = panel.len() / depth;
            T::strip(
                level,
                Left::rows(a, depth),
                (panel, width, 0),
                width,
                (out, stride, first),
                None,
            );
            first += width;
        }
    }

    /// The same for the points themselves, whose products are symmetric: half of the work.
    pub fn square(&self, level: Level, points: &[T], out: &mut [T]) {
        let depth = self.depth;
        let (rows, stride) = (points.len() / depth, self.data.len() / depth);
        let mut first = 0;
        for panel in self.data.chunks(self.wide * depth) {
            let width = panel.len() / depth;
            let last = rows.min(first + width);
            let upper = &mut out[..last * stride];
            T::strip(
                level,
                Left::rows(points, depth),
                (panel, width, 0),
                width,
                (upper, stride, first),
                None,
            );
            for j in 0..first {
                for i in first..last {
                    out[i * stride + j] = out[j * stride + i];
                }
            }
            first += width;
        }
    }
}

/// `out = A B` for a B with rows of `width` elements, and an A with rows of as many as B has rows,
/// of `stride` with what follows them. False where this level has no such products, or B is too
/// narrow.
#[must_use]
pub fn times<T: Real>(
    level: Level,
    (a, stride): (&[T], usize),
    (b, width): (&[T], usize),
    out: &mut [T],
) -> bool {
    let Some(wide) = T::wide(level).filter(|_| width >= LANES) else {
        return false;
    };
    let mut first = 0;
    while first < width {
        let columns = if first + wide <= width { wide } else { LANES };
        // The last columns may be written once more.
        let place = first.min(width - columns);
        T::strip(
            level,
            Left::rows(a, stride),
            (b, width, place),
            columns,
            (out, width, place),
            None,
        );
        first = place + columns;
    }
    true
}

/// `out += factor A B` for a B with rows of `width` elements, a whole number of lane arrays. False
/// where this level has no such products.
#[must_use]
pub fn add_times<T: Real>(
    level: Level,
    factor: T,
    a: Left<'_, T>,
    (b, width): (&[T], usize),
    out: &mut [T],
) -> bool {
    let Some(wide) = T::wide(level) else {
        return false;
    };
    let mut first = 0;
    while first < width {
        let columns = if first + wide <= width { wide } else { LANES };
        T::strip(
            level,
            a,
            (b, width, first),
            columns,
            (out, width, first),
            Some(factor),
        );
        first += columns;
    }
    true
}

/// Writes a group of up to [`LANES`] points as columns of rows of `stride` elements.
#[inline(always)]
fn transpose_body<T: Real, const FMA: bool>(
    points: &[T],
    depth: usize,
    stride: usize,
    out: &mut [T],
) {
    let whole = depth / 4 * 4;
    for (j, group) in points.chunks(4 * depth).enumerate() {
        let mut first = 0;
        if group.len() == 4 * depth {
            let (low, high) = group.split_at(2 * depth);
            let ((p, q), (r, s)) = (low.split_at(depth), high.split_at(depth));
            let rows = [p, q, r, s].map(|row| row.as_chunks::<4>().0);
            for k in 0..whole / 4 {
                let columns = T::turned([&rows[0][k], &rows[1][k], &rows[2][k], &rows[3][k]]);
                for (i, column) in columns.iter().enumerate() {
                    out[(4 * k + i) * stride + 4 * j..][..4].copy_from_slice(column);
                }
            }
            first = whole;
        }
        for (i, row) in group.chunks_exact(depth).enumerate() {
            for (k, &v) in row.iter().enumerate().skip(first) {
                out[k * stride + 4 * j + i] = v;
            }
        }
    }
}

simd_dispatch! {
    fn transpose[T: Real](points: &[T], depth: usize, stride: usize, out: &mut [T])
        = transpose_body;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::available;

    fn number<T: Real>(i: usize) -> T {
        T::from_f64(((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0)
    }

    fn agrees_with_the_definition<T: Real>(tolerance: f64) {
        for level in available() {
            for (n, m, depth) in [
                (1, 1, 1),
                (5, 17, 3),
                (8, 32, 16),
                (13, 50, 31),
                (33, 100, 257),
                (3, 16, 600),
                (20, 49, 1024),
            ] {
                let a: Vec<T> = (0..n * depth).map(number).collect();
                let b: Vec<T> = (0..m * depth).map(|i| number(i + 5)).collect();
                let check = |out: &[T], stride: usize, b: &dyn Fn(usize, usize) -> T| {
                    for i in 0..n {
                        for j in 0..m {
                            let terms =
                                (0..depth).map(|k| a[i * depth + k].to_f64() * b(k, j).to_f64());
                            let want: f64 = terms.sum();
                            let got = out[i * stride + j].to_f64();
                            let off = (got - want).abs();
                            let most = tolerance * (1.0 + want.abs());
                            assert!(off <= most, "{level:?} {n} {m} {depth}: {got} {want}");
                        }
                    }
                };
                let mut out = vec![T::NAN; n * padded(m)];
                let Some(panels) = Panels::new(level, &b, depth) else {
                    continue;
                };
                panels.times(level, &a, &mut out);
                let mut square = vec![T::NAN; m * padded(m)];
                panels.times(level, &b, &mut square);
                let mut half = vec![T::NAN; m * padded(m)];
                panels.square(level, &b, &mut half);
                for (p, q) in square.chunks(padded(m)).zip(half.chunks(padded(m))) {
                    assert_eq!(p[..m], q[..m], "{level:?} {m} {depth}");
                }
                check(&out, padded(m), &|k, j| b[j * depth + k]);
                let mut later = vec![T::NAN; n * padded(m)];
                panels.times_from(level, &a, m / 2, &mut later);
                for (p, q) in later.chunks(padded(m)).zip(out.chunks(padded(m))) {
                    assert_eq!(p[m / 2..m], q[m / 2..m], "{level:?} {m} {depth}");
                }
                if m >= LANES {
                    let mut out = vec![T::NAN; n * m];
                    assert!(times(level, (&a, depth), (&b, m), &mut out));
                    check(&out, m, &|k, j| b[k * m + j]);
                }
            }
        }
    }

    /// `out += factor A B`, and the same with A given by its columns.
    fn adds_to_what_is_there<T: Real>(tolerance: f64) {
        for level in available() {
            for (n, depth, width) in [(1, 1, 16), (7, 5, 32), (8, 300, 48), (21, 64, 16)] {
                let rows: Vec<T> = (0..n * depth).map(number).collect();
                let b: Vec<T> = (0..depth * width).map(|i| number(i + 3)).collect();
                let before: Vec<T> = (0..n * width).map(|i| number(i + 7)).collect();
                let stride = n + 2;
                let mut columns = vec![T::NAN; depth * stride];
                for i in 0..n {
                    for k in 0..depth {
                        columns[k * stride + i] = rows[i * depth + k];
                    }
                }
                for a in [Left::rows(&rows, depth), Left::columns(&columns, stride)] {
                    let mut out = before.clone();
                    if !add_times(level, T::from_f64(-0.5), a, (&b, width), &mut out) {
                        continue;
                    }
                    for (at, (got, before)) in out.iter().zip(&before).enumerate() {
                        let (i, j) = (at / width, at % width);
                        let terms = (0..depth)
                            .map(|k| rows[i * depth + k].to_f64() * b[k * width + j].to_f64());
                        let want = before.to_f64() - 0.5 * terms.sum::<f64>();
                        let off = (got.to_f64() - want).abs();
                        assert!(
                            off <= tolerance * (1.0 + want.abs()),
                            "{level:?} {n} {depth}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn adds_of_both_types() {
        adds_to_what_is_there::<f32>(4e-6);
        adds_to_what_is_there::<f64>(1e-14);
    }

    #[test]
    fn of_both_types() {
        agrees_with_the_definition::<f32>(4e-6);
        agrees_with_the_definition::<f64>(1e-14);
    }
}

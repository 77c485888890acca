//! Ground costs between two clouds of points, as rows of a cost matrix.

use crate::buffer::{Aligned, padded};
use crate::gemm::gemm;
use crate::real::Real;
use crate::simd::Level;
use crate::vmath::squared_norms;

mod rows;

pub use rows::{barycentre_rows, l1_gradient, label_row, mismatch};
use rows::{l1_rows, root_row, square_row};

/// Rows that go through one matrix product: enough to pay for packing the other operand.
const STRIP: usize = 256;

/// The cost `c(x, y)` of moving a unit of mass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// `|x - y|^2`.
    SqEuclidean,
    /// `|x - y|`, gradient 0 where the points coincide.
    Euclidean,
    /// `1 - cos(x, y)`, as half the squared distance of the normalised points.
    Cosine,
    /// `sum_k |x_k - y_k|`.
    L1,
    /// `|x/|x| - y/|y||`.
    Chordal,
}

impl Cost {
    /// All of them.
    pub const ALL: [Cost; 5] = [
        Cost::SqEuclidean,
        Cost::Euclidean,
        Cost::Cosine,
        Cost::L1,
        Cost::Chordal,
    ];

    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cost::SqEuclidean => "sqeuclidean",
            Cost::Euclidean => "euclidean",
            Cost::Cosine => "cosine",
            Cost::L1 => "l1",
            Cost::Chordal => "chordal",
        }
    }

    /// The cost of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The cost looks at directions only.
    #[must_use]
    pub fn normalised(self) -> bool {
        matches!(self, Cost::Cosine | Cost::Chordal)
    }

    /// The cost is a distance, the root of a squared one.
    #[must_use]
    pub fn rooted(self) -> bool {
        matches!(self, Cost::Euclidean | Cost::Chordal)
    }

    /// Factor of the squared distance.
    fn factor<T: Real>(self) -> T {
        T::from_f64(if self == Cost::Cosine { 0.5 } else { 1.0 })
    }
}

/// Points made ready for a cost: centred or normalised.
#[derive(Debug)]
pub struct Cloud<T> {
    /// Number of points.
    pub count: usize,
    /// Dimension.
    pub dim: usize,
    /// Coordinates, row-major.
    pub coords: Vec<T>,
    /// Squared norms of `coords`, padded.
    pub square: Aligned<T>,
    /// Lengths before normalisation; empty if the cost does not normalise.
    pub length: Vec<T>,
    /// Coordinates of the L1 cost, column-major with padded columns; else empty.
    pub columns: Aligned<T>,
}

/// Points and masses of one side.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a, T> {
    /// Coordinates, `count x dim`.
    pub points: &'a [T],
    /// Masses, one for each point.
    pub weight: &'a [T],
}

/// Mean of the points, weighted; zero-weight points are left out.
fn centre<T: Real>(side: Side<T>, dim: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dim];
    let mut mass = 0.0;
    for (row, &w) in side.points.chunks_exact(dim.max(1)).zip(side.weight) {
        let w = w.to_f64();
        if w > 0.0 {
            mass += w;
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += w * v.to_f64();
            }
        }
    }
    mean.iter_mut().for_each(|m| *m /= mass);
    mean
}

impl<T: Real> Cloud<T> {
    fn new(level: Level, cost: Cost, side: Side<T>, dim: usize, shift: Option<&[T]>) -> Self {
        let count = side.weight.len();
        let mut coords = side.points.to_vec();
        if let Some(shift) = shift {
            for row in coords.chunks_exact_mut(dim.max(1)) {
                for (v, &s) in row.iter_mut().zip(shift) {
                    *v -= s;
                }
            }
        }
        let mut square = Aligned::zeros(padded(count));
        squared_norms(level, &coords, dim, &mut square[..count]);
        let mut length = Vec::new();
        if cost.normalised() {
            length = square[..count].iter().map(|s| s.sqrt()).collect();
            for (row, &r) in coords.chunks_exact_mut(dim.max(1)).zip(&length) {
                // A zero vector stays zero.
                let inverse = if r == T::ZERO { T::ONE } else { T::ONE / r };
                row.iter_mut().for_each(|v| *v *= inverse);
            }
            squared_norms(level, &coords, dim, &mut square[..count]);
        }
        let mut columns = Aligned::zeros(0);
        if cost == Cost::L1 {
            let stride = padded(count);
            columns = Aligned::zeros(stride * dim);
            for (j, row) in coords.chunks_exact(dim.max(1)).enumerate() {
                for (k, &v) in row.iter().enumerate() {
                    columns[k * stride + j] = v;
                }
            }
        }
        Self {
            count,
            dim,
            coords,
            square,
            length,
            columns,
        }
    }

    /// The two clouds of a problem (one, if it is symmetric), moved together so that a common
    /// shift of all points costs no accuracy.
    #[must_use]
    pub fn pair(
        level: Level,
        cost: Cost,
        x: Side<T>,
        y: Option<Side<T>>,
        dim: usize,
    ) -> (Self, Option<Self>) {
        let shift = (!cost.normalised() && cost != Cost::L1).then(|| {
            let mut mean = centre(x, dim);
            if let Some(y) = y {
                for (m, other) in mean.iter_mut().zip(centre(y, dim)) {
                    *m = (*m + other) / 2.0;
                }
            }
            mean.into_iter().map(T::from_f64).collect::<Vec<_>>()
        });
        let make = |side| Self::new(level, cost, side, dim, shift.as_deref());
        (make(x), y.map(make))
    }

    /// Turns gradients with respect to `coords` into gradients with respect to the points, which
    /// matters for normalised points only: `(I - u u') g / |x|`, and 0 at the zero vector.
    pub fn chain(&self, first: usize, gradient: &mut [T]) {
        if self.length.is_empty() {
            return;
        }
        let dim = self.dim.max(1);
        let rows = self.coords[first * self.dim..].chunks_exact(dim);
        for ((g, u), &r) in gradient
            .chunks_exact_mut(dim)
            .zip(rows)
            .zip(&self.length[first..])
        {
            if r == T::ZERO {
                g.fill(T::ZERO);
                continue;
            }
            let mut along = T::ZERO;
            for (&gk, &uk) in g.iter().zip(u) {
                along += gk * uk;
            }
            for (gk, &uk) in g.iter_mut().zip(u) {
                *gk = (*gk - along * uk) / r;
            }
        }
    }
}

/// Below this share of `|x|^2 + |y|^2` a squared distance is recomputed from the differences
/// before the root is taken, because the root magnifies its cancellation error.
fn close<T: Real>() -> T {
    T::from_f64(T::EPSILON.to_f64().powf(0.45))
}

/// Fills rows `first..first + rows` of the cost matrix; the rows of `out` have the padded length.
///
/// Returns `sum_ij a_i b_j c_ij` over these rows, with `a` their weights and `b` padded with 0.
pub fn fill_rows<T: Real>(
    level: Level,
    cost: Cost,
    (x, y): (&Cloud<T>, &Cloud<T>),
    symmetric: bool,
    first: usize,
    (a, b): (&[T], &[T]),
    out: &mut [T],
) -> f64 {
    let (rows, stride, dim) = (a.len(), padded(y.count), x.dim);
    debug_assert_eq!(out.len(), rows * stride);
    let mut total = 0.0;
    for start in (0..rows).step_by(STRIP) {
        let end = rows.min(start + STRIP);
        let strip = &mut out[start * stride..end * stride];
        if cost == Cost::L1 {
            l1_rows(
                level,
                &x.coords[(first + start) * dim..(first + end) * dim],
                &y.columns,
                dim,
                strip,
            );
        } else {
            gemm(
                end - start,
                dim,
                y.count,
                T::from_f64(-2.0),
                &x.coords[(first + start) * dim..(first + end) * dim],
                (dim, 1),
                &y.coords,
                (1, dim),
                T::ZERO,
                strip,
                (stride, 1),
            );
        }
        for (r, row) in strip.chunks_exact_mut(stride).enumerate() {
            let i = first + start + r;
            row[y.count..].fill(T::ZERO);
            if cost != Cost::L1 {
                if symmetric {
                    // Far apart for now, so that it is not taken for a close pair.
                    row[i] = T::ONE + T::ONE;
                }
                let close = if cost.rooted() { close() } else { -T::ONE };
                let found = square_row(level, row, x.square[i], &y.square, close, cost.factor());
                if found {
                    recompute(row, x, i, y, close);
                }
                if cost.rooted() {
                    root_row(level, row);
                }
                row[y.count..].fill(T::ZERO);
            }
            if symmetric {
                row[i] = T::ZERO;
            }
            let mean = crate::vmath::dot(level, row, b).to_f64();
            if a[start + r] != T::ZERO {
                total += a[start + r].to_f64() * mean;
            }
        }
    }
    total
}

/// Squared distances of close pairs, from the differences.
fn recompute<T: Real>(row: &mut [T], x: &Cloud<T>, i: usize, y: &Cloud<T>, close: T) {
    let dim = x.dim;
    let p = &x.coords[i * dim..(i + 1) * dim];
    for (j, c) in row[..y.count].iter_mut().enumerate() {
        if *c < close * (x.square[i] + y.square[j]) {
            let mut sum = T::ZERO;
            for (&u, &v) in p.iter().zip(&y.coords[j * dim..(j + 1) * dim]) {
                sum += (u - v) * (u - v);
            }
            *c = sum;
        }
    }
}

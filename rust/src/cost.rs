//! Ground costs between two clouds of points, as rows of a cost matrix.

use crate::buffer::padded;
use crate::gemm::gemm;
use crate::real::Real;
use crate::simd::Level;

mod cloud;
mod label;
mod rows;

pub use cloud::{Cloud, Side};
pub use label::{ClassDistance, Labels, Mismatch};
pub use rows::{barycentre_rows, l1_gradient};
use rows::{l1_rows, root_row, square_row};

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
    #[must_use]
    pub fn factor<T: Real>(self) -> T {
        T::from_f64(if self == Cost::Cosine { 0.5 } else { 1.0 })
    }
}

/// Below this share of `|x|^2 + |y|^2` a squared distance is recomputed from the differences
/// before the root is taken, because the root magnifies its cancellation error.
fn close<T: Real>() -> T {
    T::from_f64(T::EPSILON.to_f64().powf(0.45))
}

/// Fills rows `first..` of the cost matrix, as many as fit into `out`; its rows have the padded
/// length. One matrix product: callers work in strips.
pub fn fill_rows<T: Real>(
    level: Level,
    cost: Cost,
    (x, y): (&Cloud<T>, &Cloud<T>),
    symmetric: bool,
    first: usize,
    out: &mut [T],
) {
    let (stride, dim) = (padded(y.count), x.dim);
    let rows = out.len() / stride;
    let points = &x.coords[first * dim..(first + rows) * dim];
    if cost == Cost::L1 {
        l1_rows(level, points, &y.columns, dim, out);
    } else if let Some(panels) = &y.panels {
        if symmetric && rows == y.count {
            panels.square(level, points, out);
        } else {
            panels.times(level, points, out);
        }
    } else {
        let (other, strides) = if y.columns.is_empty() {
            (&y.coords[..], (1, dim))
        } else {
            (&y.columns[..], (stride, 1))
        };
        gemm(
            rows,
            dim,
            y.count,
            T::ONE,
            points,
            (dim, 1),
            other,
            strides,
            T::ZERO,
            out,
            (stride, 1),
        );
    }
    for (r, row) in out.chunks_exact_mut(stride).enumerate() {
        let i = first + r;
        row[y.count..].fill(T::ZERO);
        if cost != Cost::L1 {
            if symmetric {
                // Far apart for now, so that it is not taken for a close pair.
                row[i] = -T::ONE;
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
    }
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

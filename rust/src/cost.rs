//! Ground costs between two clouds of points, as rows of a cost matrix.

use crate::buffer::{Aligned, padded};
use crate::gemm::gemm;
use crate::real::{LANES, Real};
use crate::simd::Level;
use crate::simd_dispatch;
use crate::vmath::{axpy_body, squared_norms, sum_lanes};

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
                let close = if cost.rooted() {
                    close()
                } else {
                    -T::ONE
                };
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

/// `row = factor * max(row + x + y, 0)`; says whether any entry is below `close * (x + y)`.
#[inline(always)]
fn square_row_body<T: Real, const FMA: bool>(
    row: &mut [T],
    x: T,
    y: &[T],
    close: T,
    factor: T,
) -> bool {
    let mut least = [T::ZERO; LANES];
    let (row, _) = row.as_chunks_mut::<LANES>();
    let (y, _) = y.as_chunks::<LANES>();
    for (c, q) in row.iter_mut().zip(y) {
        for l in 0..LANES {
            let norms = x + q[l];
            let d = c[l] + norms;
            least[l] = least[l].min(d - close * norms);
            // Written so that NaN stays.
            let d = if d < T::ZERO { T::ZERO } else { d };
            c[l] = factor * d;
        }
    }
    least.iter().any(|&v| v < T::ZERO)
}

simd_dispatch! {
    fn square_row[T: Real](row: &mut [T], x: T, y: &[T], close: T, factor: T) -> bool
        = square_row_body;
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

#[inline(always)]
fn root_row_body<T: Real, const FMA: bool>(row: &mut [T]) {
    for c in row {
        *c = c.sqrt();
    }
}

simd_dispatch! {
    fn root_row[T: Real](row: &mut [T]) = root_row_body;
}

/// Columns held in registers at a time.
const BLOCK: usize = 4 * LANES;

/// `out_ij = sum_k |x_ik - y_jk|`, with `y` column-major and padded like the rows of `out`.
#[inline(always)]
fn l1_rows_body<T: Real, const FMA: bool>(x: &[T], y: &[T], dim: usize, out: &mut [T]) {
    if dim == 0 {
        out.fill(T::ZERO);
        return;
    }
    let stride = y.len() / dim;
    for (p, row) in x.chunks_exact(dim).zip(out.chunks_exact_mut(stride)) {
        let mut j = 0;
        while j + BLOCK <= stride {
            let mut sum = [T::ZERO; BLOCK];
            for (&v, column) in p.iter().zip(y.chunks_exact(stride)) {
                let column: &[T; BLOCK] = column[j..j + BLOCK].try_into().expect("length");
                for l in 0..BLOCK {
                    sum[l] += (v - column[l]).abs();
                }
            }
            row[j..j + BLOCK].copy_from_slice(&sum);
            j += BLOCK;
        }
        while j < stride {
            let mut sum = [T::ZERO; LANES];
            for (&v, column) in p.iter().zip(y.chunks_exact(stride)) {
                let column: &[T; LANES] = column[j..j + LANES].try_into().expect("length");
                for l in 0..LANES {
                    sum[l] += (v - column[l]).abs();
                }
            }
            row[j..j + LANES].copy_from_slice(&sum);
            j += LANES;
        }
    }
}

simd_dispatch! {
    fn l1_rows[T: Real](x: &[T], y: &[T], dim: usize, out: &mut [T]) = l1_rows_body;
}

/// Gradient of `sum_j q_j |x - y_j|_1` with respect to one point `x`, and `-a` times the signs
/// added to `y_columns` (column-major, may be empty).
#[inline(always)]
fn l1_gradient_body<T: Real, const FMA: bool>(
    x: &[T],
    y: &[T],
    q: &[T],
    a: T,
    x_gradient: &mut [T],
    y_gradient: &mut [T],
) {
    let stride = q.len();
    let (q, _) = q.as_chunks::<LANES>();
    for k in 0..x.len() {
        let (column, _) = y[k * stride..(k + 1) * stride].as_chunks::<LANES>();
        let mut sum = [T::ZERO; LANES];
        for (c, p) in column.iter().zip(q) {
            for l in 0..LANES {
                let signed = if x[k] > c[l] { p[l] } else { -p[l] };
                sum[l] += if x[k] == c[l] { T::ZERO } else { signed };
            }
        }
        x_gradient[k] = a * sum_lanes(sum);
        if !y_gradient.is_empty() {
            let (out, _) = y_gradient[k * stride..(k + 1) * stride].as_chunks_mut::<LANES>();
            for ((c, p), o) in column.iter().zip(q).zip(out) {
                for l in 0..LANES {
                    let signed = if x[k] > c[l] { p[l] } else { -p[l] };
                    let signed = if x[k] == c[l] { T::ZERO } else { signed };
                    o[l] = (-a).fma::<FMA>(signed, o[l]);
                }
            }
        }
    }
}

simd_dispatch! {
    /// Gradient of `a sum_j q_j |x - y_j|_1` with respect to one point `x`; that with respect to
    /// the `y_j` is added to `y_gradient` (column-major like `y`; empty: not wanted).
    pub fn l1_gradient[T: Real](
        x: &[T], y: &[T], q: &[T], a: T, x_gradient: &mut [T], y_gradient: &mut [T]
    ) = l1_gradient_body;
}

/// `row_j += price [label != labels_j]`.
#[inline(always)]
fn label_row_body<T: Real, const FMA: bool>(row: &mut [T], label: T, labels: &[T], price: T) {
    for (c, &l) in row.iter_mut().zip(labels) {
        *c += if l == label { T::ZERO } else { price };
    }
}

simd_dispatch! {
    /// `row_j += price [label != labels_j]`.
    pub fn label_row[T: Real](row: &mut [T], label: T, labels: &[T], price: T) = label_row_body;
}

/// `sum_j q_j [label != labels_j]`.
#[inline(always)]
fn mismatch_body<T: Real, const FMA: bool>(q: &[T], label: T, labels: &[T]) -> T {
    let mut sum = [T::ZERO; LANES];
    let (q, _) = q.as_chunks::<LANES>();
    let (labels, _) = labels.as_chunks::<LANES>();
    for (p, other) in q.iter().zip(labels) {
        for l in 0..LANES {
            sum[l] += if other[l] == label { T::ZERO } else { p[l] };
        }
    }
    sum_lanes(sum)
}

simd_dispatch! {
    /// `sum_j q_j [label != labels_j]`.
    pub fn mismatch[T: Real](q: &[T], label: T, labels: &[T]) -> T = mismatch_body;
}

/// `gradient_i = scale_i (mass_i x_i - gradient_i)`, row by row.
#[inline(always)]
fn barycentre_rows_body<T: Real, const FMA: bool>(
    x: &[T],
    mass: &[T],
    scale: &[T],
    gradient: &mut [T],
) {
    let dim = gradient.len() / mass.len().max(1);
    for (i, g) in gradient.chunks_exact_mut(dim.max(1)).enumerate() {
        let s = scale[i];
        g.iter_mut().for_each(|v| *v = -s * *v);
        axpy_body::<T, FMA>(s * mass[i], &x[i * dim..(i + 1) * dim], g);
    }
}

simd_dispatch! {
    /// `gradient_i = scale_i (mass_i x_i - gradient_i)` for each row of `gradient`.
    pub fn barycentre_rows[T: Real](x: &[T], mass: &[T], scale: &[T], gradient: &mut [T])
        = barycentre_rows_body;
}

//! Points made ready for a cost.

use crate::buffer::{Aligned, brief, padded};
use crate::product::{Panels, row_times};
use crate::real::Real;
use crate::simd::Level;
use crate::simd_dispatch;
use crate::vmath::{less, squared_norms, take_off};

use super::Cost;

/// Points made ready for a cost: normalised if it wants that, and centred.
#[derive(Debug)]
pub struct Cloud<T> {
    /// Number of points.
    pub count: usize,
    /// Dimension.
    pub dim: usize,
    /// Coordinates, row-major.
    pub coords: Aligned<T>,
    /// Squared norms of `coords`, padded.
    pub square: Aligned<T>,
    /// Lengths before normalisation; empty if the cost does not normalise.
    pub length: Vec<T>,
    /// What was taken off the normalised points; empty if the cost does not normalise.
    origin: Vec<T>,
    /// Coordinates column-major with padded columns, where the cost or the caller needs them;
    /// else empty.
    pub columns: Aligned<T>,
    /// Coordinates made ready for products with the rows of another cloud, where these are few.
    pub panels: Option<Panels<T>>,
}

/// Points and masses of one side.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a, T> {
    /// Coordinates, `count x dim`.
    pub points: &'a [T],
    /// Masses, one for each point.
    pub weight: &'a [T],
}

/// `sum_i w_i x_i` over the points of positive mass, in double precision.
#[inline(always)]
fn weighted_sum_body<T: Real, const FMA: bool>(points: &[T], weight: &[T], sum: &mut [f64]) {
    for (row, &w) in points.chunks_exact(sum.len().max(1)).zip(weight) {
        if w > T::ZERO {
            for (s, &v) in sum.iter_mut().zip(row) {
                *s = v.to_f64().fma::<FMA>(w.to_f64(), *s);
            }
        }
    }
}

simd_dispatch! {
    fn weighted_sum[T: Real](points: &[T], weight: &[T], sum: &mut [f64]) = weighted_sum_body;
}

/// Mean of the points, weighted; zero-weight points are left out.
fn centre<T: Real>(level: Level, side: Side<T>, dim: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dim];
    weighted_sum(level, side.points, side.weight, &mut mean);
    let massive = side.weight.iter().filter(|w| **w > T::ZERO);
    let mass: f64 = massive.map(|w| w.to_f64()).sum();
    mean.iter_mut().for_each(|m| *m /= mass);
    mean
}

/// The same in the precision of the points; None where a number leaves its range, or a point
/// without mass has coordinates that are none.
fn rough_centre<T: Real>(level: Level, side: Side<T>, dim: usize) -> Option<Vec<T>> {
    let mut mean = brief(dim, T::ZERO);
    if !row_times(level, side.weight, side.points, &mut mean) {
        return None;
    }
    let mass: f64 = side.weight.iter().map(|w| w.to_f64()).sum();
    let inverse = T::from_f64(1.0 / mass);
    let mut finite = true;
    for m in &mut mean {
        *m *= inverse;
        finite &= m.is_finite();
    }
    finite.then_some(mean)
}

/// About half way between the means of the two sides, or the mean of the only one.
fn middle<T: Real>(level: Level, x: Side<T>, y: Option<Side<T>>, dim: usize) -> Vec<T> {
    let mean = |side| {
        rough_centre(level, side, dim).unwrap_or_else(|| {
            let mean = centre(level, side, dim).into_iter();
            mean.map(T::from_f64).collect()
        })
    };
    let half = T::from_f64(0.5);
    let mut middle = mean(x);
    if let Some(y) = y {
        for (m, other) in middle.iter_mut().zip(mean(y)) {
            *m = half * *m + half * other;
        }
    }
    middle
}

impl<T: Real> Cloud<T> {
    fn new(level: Level, cost: Cost, side: Side<T>, dim: usize, shift: Option<&[T]>) -> Self {
        let count = side.weight.len();
        let mut coords = Aligned::arbitrary(side.points.len());
        match shift {
            Some(shift) => less(level, shift, side.points, &mut coords),
            None => coords.copy_from_slice(side.points),
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
        let mut cloud = Self {
            count,
            dim,
            coords,
            square,
            length,
            origin: Vec::new(),
            columns: Aligned::zeros(0),
            panels: None,
        };
        if cost == Cost::L1 {
            cloud.transpose();
        }
        cloud
    }

    /// Fills `panels`, for a cost that is a matrix product.
    pub fn spread(&mut self, level: Level) {
        if self.columns.is_empty() {
            self.panels = Panels::new(level, &self.coords, self.dim);
        }
    }

    /// Fills `columns`: many matrix products with few rows each pack this layout far faster.
    pub fn transpose(&mut self) {
        /// Columns written together, so that each cache line is completed while it is near.
        const TOGETHER: usize = 16;
        if !self.columns.is_empty() || self.dim == 0 {
            return;
        }
        let stride = padded(self.count);
        self.columns = Aligned::zeros(stride * self.dim);
        for first in (0..self.count).step_by(TOGETHER) {
            let last = self.count.min(first + TOGETHER);
            let rows = &self.coords[first * self.dim..last * self.dim];
            for k in 0..self.dim {
                let column = &mut self.columns[k * stride + first..k * stride + last];
                for (v, row) in column.iter_mut().zip(rows.chunks_exact(self.dim)) {
                    *v = row[k];
                }
            }
        }
    }

    /// `sum_i w_i x_i` and `sum_i w_i |x_i|^2`; points without mass are left out.
    #[must_use]
    pub fn sums(&self, level: Level, weight: &[T]) -> (Vec<f64>, f64) {
        let mut sum = vec![0.0; self.dim];
        weighted_sum(level, &self.coords, weight, &mut sum);
        let terms = weight.iter().zip(self.square.iter());
        let square = terms
            .filter(|(w, _)| **w > T::ZERO)
            .map(|(w, s)| w.to_f64() * s.to_f64())
            .sum();
        (sum, square)
    }

    /// Centre, total mass, and weighted sum of squared distances from the centre.
    fn moments(&self, level: Level, weight: &[T]) -> (Vec<f64>, f64, f64) {
        let points = &self.coords;
        let mean = centre(level, Side { points, weight }, self.dim);
        let mut spread = 0.0;
        for (row, w) in points.chunks_exact(self.dim.max(1)).zip(weight) {
            let w = w.to_f64();
            if w != 0.0 {
                let terms = row.iter().zip(&mean).map(|(v, m)| v.to_f64() - m);
                spread += w * terms.map(|t| t * t).sum::<f64>();
            }
        }
        (mean, weight.iter().map(|w| w.to_f64()).sum(), spread)
    }

    /// `sum_ij a_i b_j |x_i - y_j|^2` without the matrix. Also a test whether all coordinates
    /// of positive mass are finite.
    #[must_use]
    pub fn total_square(&self, level: Level, a: &[T], other: &Self, b: &[T]) -> f64 {
        let (x, mass_a, spread_a) = self.moments(level, a);
        let (y, mass_b, spread_b) = other.moments(level, b);
        let apart: f64 = x.iter().zip(&y).map(|(p, q)| (p - q) * (p - q)).sum();
        mass_b * spread_a + mass_a * spread_b + mass_a * mass_b * apart
    }

    /// The two clouds of a problem (one, if it is symmetric), moved together so that a common
    /// shift of all points, or directions that are nearly the same, cost no accuracy.
    #[must_use]
    pub fn pair(
        level: Level,
        cost: Cost,
        x: Side<T>,
        y: Option<Side<T>>,
        dim: usize,
    ) -> (Self, Option<Self>) {
        let make = |side, shift: Option<&[T]>| Self::new(level, cost, side, dim, shift);
        if cost == Cost::L1 {
            return (make(x, None), y.map(|y| make(y, None)));
        }
        if !cost.normalised() {
            let shift = middle(level, x, y, dim);
            let shift = Some(&shift[..]);
            return (make(x, shift), y.map(|y| make(y, shift)));
        }
        let (mut first, mut second) = (make(x, None), y.map(|y| make(y, None)));
        let shift = {
            let others = second.as_ref().zip(y);
            let other = others.map(|(cloud, y)| cloud.side(y.weight));
            middle(level, first.side(x.weight), other, dim)
        };
        first.take_off(level, &shift);
        if let Some(second) = &mut second {
            second.take_off(level, &shift);
        }
        (first, second)
    }

    fn side<'a>(&'a self, weight: &'a [T]) -> Side<'a, T> {
        Side {
            points: &self.coords,
            weight,
        }
    }

    /// Moves the normalised points.
    fn take_off(&mut self, level: Level, shift: &[T]) {
        take_off(level, shift, &mut self.coords);
        let square = &mut self.square[..self.count];
        squared_norms(level, &self.coords, self.dim, square);
        self.origin = shift.to_vec();
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
            let unit = u.iter().zip(&self.origin).map(|(&u, &s)| u + s);
            let mut along = T::ZERO;
            for (&gk, uk) in g.iter().zip(unit.clone()) {
                along += gk * uk;
            }
            for (gk, uk) in g.iter_mut().zip(unit) {
                *gk = (*gk - along * uk) / r;
            }
        }
    }
}

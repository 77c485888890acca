//! The two point sets of a problem, pooled and centred.

use crate::buffer::{Aligned, padded};
use crate::product::add_row_times;
use crate::real::Real;
use crate::simd::Level;
use crate::simd_dispatch;
use crate::vmath::{squared_norms, take_off};

/// Points of both sets, one after the other, moved so that their mean is near the origin.
///
/// Squared distances come from norms and scalar products, which lose digits when the points lie
/// far from the origin; a common shift changes no distance.
pub struct Pool<T> {
    /// `(n + m, width)`, zeros behind the coordinates of a point.
    pub points: Aligned<T>,
    /// Squared norms of the moved points.
    pub norms: Vec<T>,
    /// Masses of the points `(n + m, classes)`, negative for the second set.
    pub weights: Vec<T>,
    /// Number of points of the first set.
    pub split: usize,
    /// Coordinates of a point.
    pub dim: usize,
    /// The same, padded to whole lane arrays: zeros change neither norm nor product.
    pub width: usize,
    /// Masses of a point.
    pub classes: usize,
}

/// Points whose sum is taken in the type of the points.
const BLOCK: usize = 128;

simd_dispatch! {
    /// `out += sum_i factor_i row_i`.
    fn add_rows[T: Real](
        products: Level, ahead: bool, factor: &[T], rows: &[T], out: &mut [T]
    ) = add_row_times;
}

impl<T: Real> Pool<T> {
    /// Pools `x` and `y`; weights of `None` are `1/n`. `centred` moves the points.
    ///
    /// Points without mass do not count for the mean, so that they move nothing; if they are not
    /// finite they are put at the origin.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        level: Level,
        x: &[T],
        y: &[T],
        sizes: (usize, usize),
        dim: usize,
        a: Option<&[T]>,
        b: Option<&[T]>,
        classes: usize,
        centred: bool,
    ) -> Self {
        let (n, m) = sizes;
        assert!(x.len() == n * dim && y.len() == m * dim && classes > 0);
        assert!(a.is_none_or(|a| a.len() == n * classes));
        assert!(b.is_none_or(|b| b.len() == m * classes));
        let mut weights = Vec::with_capacity((n + m) * classes);
        let uniform = |n| T::from_f64(1.0 / n as f64);
        match a {
            Some(a) => weights.extend_from_slice(a),
            None => weights.extend(std::iter::repeat_n(uniform(n), n * classes)),
        }
        match b {
            Some(b) => weights.extend(b.iter().map(|&w| -w)),
            None => weights.extend(std::iter::repeat_n(-uniform(m), m * classes)),
        }
        let width = padded(dim);
        let mut points = Aligned::arbitrary((n + m) * width);
        if width == dim {
            points[..x.len()].copy_from_slice(x);
            points[x.len()..].copy_from_slice(y);
        } else {
            let given = x.chunks_exact(dim).chain(y.chunks_exact(dim));
            for (point, given) in points.chunks_exact_mut(width).zip(given) {
                point[..dim].copy_from_slice(given);
                point[dim..].fill(T::ZERO);
            }
        }
        let mut pool = Pool {
            norms: vec![T::ZERO; n + m],
            points,
            weights,
            split: n,
            dim,
            width,
            classes,
        };
        if (a.is_some() || b.is_some()) && width > 0 {
            pool.hide_masked(level);
        }
        if centred && width > 0 {
            pool.centre(level);
        }
        squared_norms(level, &pool.points, width, &mut pool.norms);
        pool
    }

    /// The point has a mass.
    pub fn massive(&self, i: usize) -> bool {
        let masses = &self.weights[i * self.classes..(i + 1) * self.classes];
        masses.iter().any(|&w| w != T::ZERO)
    }

    /// Puts points without mass that are not finite at the origin.
    fn hide_masked(&mut self, level: Level) {
        for i in 0..self.norms.len() {
            if !self.massive(i) {
                let point = &mut self.points[i * self.width..(i + 1) * self.width];
                let mut norm = [T::ZERO];
                squared_norms(level, point, self.width, &mut norm);
                if !norm[0].is_finite() {
                    point.fill(T::ZERO);
                }
            }
        }
    }

    /// Any centre will do, as long as the points lie about it.
    fn centre(&mut self, level: Level) {
        let width = self.width;
        let mut mean = vec![0.0; width];
        let mut partial = vec![T::ZERO; width];
        let mut count = 0usize;
        let mut ones = [T::ZERO; BLOCK];
        for (block, points) in self.points.chunks(BLOCK * width).enumerate() {
            partial.fill(T::ZERO);
            let ones = &mut ones[..points.len() / width];
            for (i, one) in ones.iter_mut().enumerate() {
                let massive = self.massive(block * BLOCK + i);
                *one = if massive { T::ONE } else { T::ZERO };
                count += usize::from(massive);
            }
            add_rows(level, level, false, ones, points, &mut partial);
            for (sum, &v) in mean.iter_mut().zip(&partial) {
                *sum += v.to_f64();
            }
        }
        let count = count.max(1) as f64;
        for (out, sum) in partial.iter_mut().zip(&mean) {
            *out = T::from_f64(sum / count);
        }
        take_off(level, &partial, &mut self.points);
    }

    /// Number of points of both sets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Neither set has a point.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.norms.is_empty()
    }
}

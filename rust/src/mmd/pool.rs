//! The two point sets of a problem, pooled and centred.

use crate::real::Real;
use crate::simd::Level;
use crate::vmath::squared_norms;

/// Points of both sets, one after the other, moved so that their weighted mean is the origin.
///
/// Squared distances come from norms and scalar products, which lose digits when the points lie
/// far from the origin; a common shift changes no distance.
pub struct Pool<T> {
    /// `(n + m, width)`.
    pub points: Vec<T>,
    /// Squared norms of the moved points.
    pub norms: Vec<T>,
    /// Masses of the points, negative for the second set.
    pub weights: Vec<T>,
    /// Number of points of the first set.
    pub split: usize,
    /// Coordinates of a point.
    pub width: usize,
}

impl<T: Real> Pool<T> {
    /// Pools `x` and `y`; weights of `None` are `1/n`.
    ///
    /// The mean is weighted, so that a point of weight zero moves nothing.
    pub fn new(
        level: Level,
        x: &[T],
        y: &[T],
        sizes: (usize, usize),
        width: usize,
        a: Option<&[T]>,
        b: Option<&[T]>,
    ) -> Self {
        let (n, m) = sizes;
        assert!(x.len() == n * width && y.len() == m * width);
        assert!(a.is_none_or(|a| a.len() == n) && b.is_none_or(|b| b.len() == m));
        let mut weights = Vec::with_capacity(n + m);
        let uniform = |n| T::from_f64(1.0 / n as f64);
        match a {
            Some(a) => weights.extend_from_slice(a),
            None => weights.extend(std::iter::repeat_n(uniform(n), n)),
        }
        match b {
            Some(b) => weights.extend(b.iter().map(|&w| -w)),
            None => weights.extend(std::iter::repeat_n(-uniform(m), m)),
        }
        let mut points = Vec::with_capacity((n + m) * width);
        points.extend_from_slice(x);
        points.extend_from_slice(y);

        let mut mean = vec![0.0; width];
        let mut mass = 0.0;
        if width > 0 {
            for (point, w) in points.chunks_exact(width).zip(&weights) {
                let w = w.to_f64().abs();
                if w > 0.0 {
                    mass += w;
                    for (sum, v) in mean.iter_mut().zip(point) {
                        *sum += w * v.to_f64();
                    }
                }
            }
            if mass > 0.0 {
                let mean: Vec<T> = mean.iter().map(|v| T::from_f64(v / mass)).collect();
                for point in points.chunks_exact_mut(width) {
                    for (v, &c) in point.iter_mut().zip(&mean) {
                        *v -= c;
                    }
                }
            }
        }
        let mut norms = vec![T::ZERO; n + m];
        squared_norms(level, &points, width, &mut norms);
        Pool {
            points,
            norms,
            weights,
            split: n,
            width,
        }
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

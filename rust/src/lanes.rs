//! Sums, maxima and moves across the lanes of a register.
//!
//! The black boxes make the compiler hand the lanes over in memory. Without them the shape of the
//! sum spreads into the loop before it, which then runs on pairs of lanes, four times as slow.

use std::hint::black_box;

use crate::real::{LANES, Real};

/// Lanes combined side by side.
const QUARTER: usize = LANES / 4;

/// The combinations across lanes, all of them pairwise in the same order on every machine.
pub trait Lanes: Sized {
    /// Sum of the lanes.
    fn sum(lanes: &[Self; LANES]) -> Self;
    /// Largest of the lanes.
    fn largest(lanes: &[Self; LANES]) -> Self;
    /// The sums of the lanes of four registers.
    fn sum_each(rows: &[[Self; LANES]; 4]) -> [Self; 4];
    /// The transpose of four rows of four.
    fn turned(rows: [&[Self; 4]; 4]) -> [[Self; 4]; 4];
}

/// Sum of the lanes, pairwise.
#[inline(always)]
pub fn sum_lanes<T: Real>(lanes: [T; LANES]) -> T {
    T::sum(&black_box(lanes))
}

/// Largest of the lanes.
#[inline(always)]
pub fn max_lanes<T: Real>(lanes: [T; LANES]) -> T {
    T::largest(&black_box(lanes))
}

/// The sums of the lanes of four registers, which take little longer together than one alone.
#[inline(always)]
pub fn sum_four<T: Real>(rows: [[T; LANES]; 4]) -> [T; 4] {
    T::sum_each(&black_box(rows))
}

#[inline(always)]
fn across<T: Real>(lanes: &[T; LANES], join: impl Fn(T, T) -> T) -> T {
    let mut all = [T::ZERO; QUARTER];
    for (i, v) in all.iter_mut().enumerate() {
        let even = join(lanes[i], lanes[i + 2 * QUARTER]);
        let odd = join(lanes[i + QUARTER], lanes[i + 3 * QUARTER]);
        *v = join(even, odd);
    }
    let [p, q, r, s] = all;
    join(join(p, r), join(q, s))
}

macro_rules! portable {
    ($t:ty) => {
        impl Lanes for $t {
            #[inline(always)]
            fn sum(lanes: &[Self; LANES]) -> Self {
                across(lanes, |p, q| p + q)
            }
            #[inline(always)]
            fn largest(lanes: &[Self; LANES]) -> Self {
                across(lanes, Real::max)
            }
            #[inline(always)]
            fn sum_each(rows: &[[Self; LANES]; 4]) -> [Self; 4] {
                [0, 1, 2, 3].map(|k| Lanes::sum(&rows[k]))
            }
            #[inline(always)]
            fn turned(rows: [&[Self; 4]; 4]) -> [[Self; 4]; 4] {
                [0, 1, 2, 3].map(|k| rows.map(|row| row[k]))
            }
        }
    };
}

portable!(f64);
#[cfg(not(target_arch = "x86_64"))]
portable!(f32);

/// With registers of four, which every x86-64 has: left to itself, the compiler reads the lanes
/// back in pieces that overlap two former writes, and has to wait for both of them.
#[cfg(target_arch = "x86_64")]
mod quarters {
    use std::arch::x86_64::{
        __m128, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_ps, _mm_max_ps, _mm_max_ss,
        _mm_movehl_ps, _mm_movelh_ps, _mm_shuffle_ps, _mm_storeu_ps, _mm_unpackhi_ps,
        _mm_unpacklo_ps,
    };

    use super::{LANES, Lanes};

    #[inline]
    #[target_feature(enable = "sse")]
    fn quarters(lanes: &[f32; LANES]) -> [__m128; 4] {
        let (parts, _) = lanes.as_chunks::<4>();
        // SAFETY: each part has the four elements that are read; the load needs no alignment.
        [0, 1, 2, 3].map(|k| unsafe { _mm_loadu_ps(parts[k].as_ptr()) })
    }

    #[inline]
    #[target_feature(enable = "sse")]
    fn added(lanes: &[f32; LANES]) -> __m128 {
        let [p, q, r, s] = quarters(lanes);
        _mm_add_ps(_mm_add_ps(p, r), _mm_add_ps(q, s))
    }

    #[inline]
    #[target_feature(enable = "sse")]
    fn sum(lanes: &[f32; LANES]) -> f32 {
        let all = added(lanes);
        let pair = _mm_add_ps(all, _mm_movehl_ps(all, all));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    }

    /// As `Real::max`, this takes the second one where the first is NaN.
    #[inline]
    #[target_feature(enable = "sse")]
    fn largest(lanes: &[f32; LANES]) -> f32 {
        let [p, q, r, s] = quarters(lanes);
        let all = _mm_max_ps(_mm_max_ps(p, r), _mm_max_ps(q, s));
        let pair = _mm_max_ps(all, _mm_movehl_ps(all, all));
        _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    }

    /// The columns of four rows.
    #[inline]
    #[target_feature(enable = "sse")]
    fn columns([p, q, r, s]: [__m128; 4]) -> [__m128; 4] {
        let (low, high) = (_mm_unpacklo_ps(p, q), _mm_unpacklo_ps(r, s));
        let (first, second) = (_mm_movelh_ps(low, high), _mm_movehl_ps(high, low));
        let (low, high) = (_mm_unpackhi_ps(p, q), _mm_unpackhi_ps(r, s));
        let (third, fourth) = (_mm_movelh_ps(low, high), _mm_movehl_ps(high, low));
        [first, second, third, fourth]
    }

    #[inline]
    #[target_feature(enable = "sse")]
    fn stored(values: __m128) -> [f32; 4] {
        let mut out = [0.0; 4];
        // SAFETY: the array has the four elements that are written; the store needs no alignment.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), values) };
        out
    }

    #[inline]
    #[target_feature(enable = "sse")]
    fn sum_each(rows: &[[f32; LANES]; 4]) -> [f32; 4] {
        let [p, q, r, s] = columns([
            added(&rows[0]),
            added(&rows[1]),
            added(&rows[2]),
            added(&rows[3]),
        ]);
        stored(_mm_add_ps(_mm_add_ps(p, r), _mm_add_ps(q, s)))
    }

    #[inline]
    #[target_feature(enable = "sse")]
    fn turned(rows: [&[f32; 4]; 4]) -> [[f32; 4]; 4] {
        // SAFETY: each row has the four elements that are read; the load needs no alignment.
        let [p, q, r, s] = columns(rows.map(|row| unsafe { _mm_loadu_ps(row.as_ptr()) }));
        [stored(p), stored(q), stored(r), stored(s)]
    }

    impl Lanes for f32 {
        #[inline(always)]
        fn sum(lanes: &[Self; LANES]) -> Self {
            // SAFETY: every x86-64 has SSE.
            unsafe { sum(lanes) }
        }
        #[inline(always)]
        fn largest(lanes: &[Self; LANES]) -> Self {
            // SAFETY: as above.
            unsafe { largest(lanes) }
        }
        #[inline(always)]
        fn sum_each(rows: &[[Self; LANES]; 4]) -> [Self; 4] {
            // SAFETY: as above.
            unsafe { sum_each(rows) }
        }
        #[inline(always)]
        fn turned(rows: [&[Self; 4]; 4]) -> [[Self; 4]; 4] {
            // SAFETY: as above.
            unsafe { turned(rows) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_lanes_count_once<T: Real>() {
        let row = |k: usize| -> [T; LANES] {
            std::array::from_fn(|i| T::from_usize((i * 7 + k * 3) % LANES + k))
        };
        let want = |k: usize| T::from_usize(LANES * (LANES - 1) / 2 + k * LANES);
        assert_eq!(sum_lanes(row(0)), want(0));
        assert_eq!(max_lanes(row(5)), T::from_usize(LANES + 4));
        assert_eq!(sum_four([0, 1, 2, 3].map(row)), [0, 1, 2, 3].map(want));
        let rows: [[T; 4]; 4] = [0, 1, 2, 3].map(|k| row(k).as_chunks::<4>().0[k]);
        let columns = T::turned([0, 1, 2, 3].map(|k| &rows[k]));
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(*row, columns.map(|column| column[i]));
        }
        let mut lanes = row(1);
        for l in 0..LANES / 2 {
            lanes[l] = T::NAN;
            assert!(!sum_lanes(lanes).is_finite());
        }
    }

    #[test]
    fn of_both_types() {
        all_lanes_count_once::<f32>();
        all_lanes_count_once::<f64>();
    }
}

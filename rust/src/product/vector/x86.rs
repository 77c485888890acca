//! The products with the registers of x86-64.

mod across;

use std::arch::x86_64 as arch;

use super::Vectors;
use crate::real::LANES;
use crate::simd::{Level, fetch};

/// Bytes of the rows that go together, which the first-level cache holds twice.
const GROUP: usize = 1 << 14;

macro_rules! products {
    ($name:ident, $t:ty, $feature:literal, $reg:ident, $len:literal, $rows:literal,
     $wide:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $add:ident,
     $store:ident) => {
        mod $name {
            use super::{LANES, across, arch, fetch};

            /// The lanes of the products of `v` with `ROWS` rows that follow each other.
            ///
            /// # Safety
            /// There must be so many rows of `stride` elements from `a`, and as many elements
            /// from `v`; `stride` must be a multiple of the lanes.
            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn rows<const ROWS: usize>(
                a: *const $t,
                v: *const $t,
                stride: usize,
            ) -> [arch::$reg; ROWS] {
                let mut sums = [[arch::$zero(); $wide]; ROWS];
                let mut j = 0;
                while j < stride {
                    for w in 0..$wide {
                        let at = j + w * $len;
                        // SAFETY: `at` and what a register holds lie in every row.
                        let q = unsafe { arch::$load(v.add(at)) };
                        for r in 0..ROWS {
                            // SAFETY: as above.
                            let p = unsafe { arch::$load(a.add(r * stride + at)) };
                            sums[r][w] = arch::$fma(p, q, sums[r][w]);
                        }
                    }
                    j += $wide * $len;
                }
                let mut out = [arch::$zero(); ROWS];
                for r in 0..ROWS {
                    out[r] = sums[r][0];
                    for sum in &sums[r][1..] {
                        out[r] = arch::$add(out[r], *sum);
                    }
                }
                out
            }

            #[target_feature(enable = $feature)]
            pub(super) fn times_column(a: &[$t], v: &[$t], out: &mut [$t]) {
                let (stride, count) = (v.len(), out.len());
                assert!(stride.is_multiple_of(LANES) && a.len() / stride.max(1) >= count);
                let (a, v) = (a.as_ptr(), v.as_ptr());
                let mut i = 0;
                while i + $rows <= count {
                    // SAFETY: a has the rows up to `count`, all as long as v.
                    let sums = unsafe { rows::<$rows>(a.add(i * stride), v, stride) };
                    for (k, four) in sums.as_chunks::<4>().0.iter().enumerate() {
                        out[i + 4 * k..][..4].copy_from_slice(&across::$name(*four));
                    }
                    i += $rows;
                }
                if count >= 4 {
                    while i < count {
                        // The last rows together with some that are done once more.
                        let first = i.min(count - 4);
                        // SAFETY: as above.
                        let sums = unsafe { rows::<4>(a.add(first * stride), v, stride) };
                        out[first..first + 4].copy_from_slice(&across::$name(sums));
                        i = first + 4;
                    }
                }
                while i < count {
                    // SAFETY: as above.
                    let [sum] = unsafe { rows::<1>(a.add(i * stride), v, stride) };
                    let nothing = arch::$zero();
                    [out[i], ..] = across::$name([sum, nothing, nothing, nothing]);
                    i += 1;
                }
            }

            /// `ROWS` rows from `done` times their factors, added to `out`; and, if `NEXT`, the
            /// lanes of the products of `v` with the rows that follow them.
            ///
            /// # Safety
            /// There must be so many rows of `stride` elements from `done`, and as many elements
            /// from `v` and `out`; `stride` must be a multiple of the lanes.
            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn behind<const ROWS: usize, const NEXT: bool>(
                factors: [$t; ROWS],
                done: *const $t,
                v: *const $t,
                stride: usize,
                out: *mut $t,
            ) -> [arch::$reg; ROWS] {
                let factors = factors.map(|c| arch::$splat(c));
                let mut sums = [arch::$zero(); ROWS];
                let mut j = 0;
                while j < stride {
                    // SAFETY: j and what a register holds lie in v, in `out` and in every row.
                    unsafe {
                        let mut parts = [arch::$load(out.add(j)), arch::$zero()];
                        for r in 0..ROWS {
                            let p = arch::$load(done.add(r * stride + j));
                            parts[r % 2] = arch::$fma(p, factors[r], parts[r % 2]);
                        }
                        if NEXT {
                            let q = arch::$load(v.add(j));
                            for r in 0..ROWS {
                                let p = arch::$load(done.add((ROWS + r) * stride + j));
                                sums[r] = arch::$fma(p, q, sums[r]);
                            }
                        }
                        arch::$store(out.add(j), arch::$add(parts[0], parts[1]));
                    }
                    j += $len;
                }
                sums
            }

            /// See [`Vectors::balance`](super::Vectors::balance); all groups of `ROWS` rows.
            #[inline]
            #[target_feature(enable = $feature)]
            fn groups<const ROWS: usize>(
                a: &[$t],
                weight: &[$t],
                v: &[$t],
                (total, ratio): (&mut [$t], &mut [$t]),
                out: &mut [$t],
            ) -> usize {
                let (stride, count) = (v.len(), total.len() / ROWS * ROWS);
                assert!(stride.is_multiple_of(LANES) && out.len() == stride);
                assert!(a.len() / stride.max(1) >= count && ratio.len() >= count);
                if count == 0 {
                    return 0;
                }
                let (a, v, out) = (a.as_ptr(), v.as_ptr(), out.as_mut_ptr());
                // SAFETY: a has the rows up to `count`, all as long as v.
                let mut sums = unsafe { rows::<ROWS>(a, v, stride) };
                let mut i = 0;
                loop {
                    for (k, four) in sums.as_chunks::<4>().0.iter().enumerate() {
                        total[i + 4 * k..][..4].copy_from_slice(&across::$name(*four));
                    }
                    let mut factors = [0.0; ROWS];
                    for r in 0..ROWS {
                        let u = 1.0 / total[i + r];
                        ratio[i + r] = u;
                        factors[r] = weight[i + r] * u;
                    }
                    // SAFETY: as above.
                    unsafe {
                        let done = a.add(i * stride);
                        i += ROWS;
                        if i == count {
                            behind::<ROWS, false>(factors, done, v, stride, out);
                            return count;
                        }
                        sums = behind::<ROWS, true>(factors, done, v, stride, out);
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub(super) fn balance(
                a: &[$t],
                weight: &[$t],
                v: &[$t],
                rows: (&mut [$t], &mut [$t]),
                out: &mut [$t],
            ) -> usize {
                if $rows * size_of_val(v) <= super::GROUP {
                    groups::<$rows>(a, weight, v, rows, out)
                } else if 4 * size_of_val(v) <= super::GROUP {
                    groups::<4>(a, weight, v, rows, out)
                } else {
                    0
                }
            }

            /// `out += c A` for `COLUMNS` registers of columns, with `PARTS` sums of every
            /// `PARTS`-th row.
            ///
            /// # Safety
            /// There must be a row of `stride` elements from `a` for each of `c`, and so many
            /// registers of columns from `a` on in every row and from `out`.
            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn columns<const COLUMNS: usize, const PARTS: usize, const AHEAD: bool>(
                c: &[$t],
                a: *const $t,
                stride: usize,
                out: *mut $t,
            ) {
                let mut sums = [[arch::$zero(); COLUMNS]; PARTS];
                let ahead = c.len() * stride;
                let mut add = |i: usize, factor: $t, part: usize| {
                    let factor = arch::$splat(factor);
                    for k in 0..COLUMNS {
                        // SAFETY: row i has this register of columns.
                        let p = unsafe { a.add(i * stride + k * $len) };
                        if AHEAD && (k * $len * size_of::<$t>()).is_multiple_of(64) {
                            fetch(p.wrapping_add(ahead));
                        }
                        // SAFETY: as above.
                        let p = unsafe { arch::$load(p) };
                        sums[part][k] = arch::$fma(p, factor, sums[part][k]);
                    }
                };
                let (whole, rest) = c.as_chunks::<PARTS>();
                for (g, group) in whole.iter().enumerate() {
                    for part in 0..PARTS {
                        add(g * PARTS + part, group[part], part);
                    }
                }
                for (i, &factor) in rest.iter().enumerate() {
                    add(whole.len() * PARTS + i, factor, 0);
                }
                for k in 0..COLUMNS {
                    let mut sum = sums[0][k];
                    for part in 1..PARTS {
                        sum = arch::$add(sum, sums[part][k]);
                    }
                    // SAFETY: out has so many registers.
                    unsafe {
                        let place = out.add(k * $len);
                        arch::$store(place, arch::$add(arch::$load(place), sum));
                    }
                }
            }

            #[target_feature(enable = $feature)]
            pub(super) fn add_row_times<const AHEAD: bool>(c: &[$t], a: &[$t], out: &mut [$t]) {
                let stride = out.len();
                assert!(stride.is_multiple_of(LANES) && a.len() / stride.max(1) >= c.len());
                let (a, out) = (a.as_ptr(), out.as_mut_ptr());
                let mut j = 0;
                // SAFETY: a has a row of `stride` elements for each of c, and the columns from
                // j on that are asked for lie below `stride`.
                unsafe {
                    while j + 8 * $len <= stride {
                        columns::<8, 1, AHEAD>(c, a.add(j), stride, out.add(j));
                        j += 8 * $len;
                    }
                    if j + 4 * $len <= stride {
                        columns::<4, 2, AHEAD>(c, a.add(j), stride, out.add(j));
                        j += 4 * $len;
                    }
                    if j + 2 * $len <= stride {
                        columns::<2, 4, AHEAD>(c, a.add(j), stride, out.add(j));
                        j += 2 * $len;
                    }
                    if j < stride {
                        columns::<1, 8, AHEAD>(c, a.add(j), stride, out.add(j));
                    }
                }
            }
        }
    };
}

products!(
    f32_512,
    f32,
    "avx512f",
    __m512,
    16,
    8,
    1,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
products!(
    f64_512,
    f64,
    "avx512f",
    __m512d,
    8,
    8,
    1,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    _mm512_storeu_pd
);
products!(
    f32_256,
    f32,
    "avx2,fma",
    __m256,
    8,
    4,
    2,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);
products!(
    f64_256,
    f64,
    "avx2,fma",
    __m256d,
    4,
    4,
    2,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    _mm256_storeu_pd
);

macro_rules! on_levels {
    ($t:ty, $wide:ident, $narrow:ident) => {
        impl Vectors for $t {
            #[inline]
            fn times_column(level: Level, a: &[Self], v: &[Self], out: &mut [Self]) -> bool {
                match level.on_host() {
                    // SAFETY: `on_host` names only levels whose features were detected.
                    Level::Avx512 => unsafe { $wide::times_column(a, v, out) },
                    // SAFETY: as above.
                    Level::Avx2 => unsafe { $narrow::times_column(a, v, out) },
                    _ => return false,
                }
                true
            }

            #[inline]
            fn balance(
                level: Level,
                a: &[Self],
                weight: &[Self],
                v: &[Self],
                rows: (&mut [Self], &mut [Self]),
                out: &mut [Self],
            ) -> usize {
                match level.on_host() {
                    // SAFETY: as above.
                    Level::Avx512 => unsafe { $wide::balance(a, weight, v, rows, out) },
                    // SAFETY: as above.
                    Level::Avx2 => unsafe { $narrow::balance(a, weight, v, rows, out) },
                    _ => 0,
                }
            }

            #[inline]
            fn add_row_times(
                level: Level,
                ahead: bool,
                c: &[Self],
                a: &[Self],
                out: &mut [Self],
            ) -> bool {
                match (level.on_host(), ahead) {
                    // SAFETY: as above.
                    (Level::Avx512, true) => unsafe { $wide::add_row_times::<true>(c, a, out) },
                    // SAFETY: as above.
                    (Level::Avx512, false) => unsafe {
                        $wide::add_row_times::<false>(c, a, out);
                    },
                    // SAFETY: as above.
                    (Level::Avx2, true) => unsafe { $narrow::add_row_times::<true>(c, a, out) },
                    // SAFETY: as above.
                    (Level::Avx2, false) => unsafe {
                        $narrow::add_row_times::<false>(c, a, out);
                    },
                    _ => return false,
                }
                true
            }
        }
    };
}

on_levels!(f32, f32_512, f32_256);
on_levels!(f64, f64_512, f64_256);

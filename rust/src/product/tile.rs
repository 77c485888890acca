//! The tiles of a product, as many sums as the registers hold.

use crate::simd::Level;

/// The left operand: an element, and the steps to the same column of the next row and to the next
/// column of the same row. One of the steps is 1.
#[derive(Clone, Copy)]
pub struct Left<'a, T> {
    /// The first element and all that follow.
    pub data: &'a [T],
    /// To the next row.
    pub row: usize,
    /// To the next column.
    pub column: usize,
}

impl<'a, T> Left<'a, T> {
    /// Rows of `stride` elements.
    pub fn rows(data: &'a [T], stride: usize) -> Self {
        Left {
            data,
            row: stride,
            column: 1,
        }
    }

    /// The transpose of [`Self::rows`].
    pub fn columns(data: &'a [T], stride: usize) -> Self {
        Left {
            data,
            row: 1,
            column: stride,
        }
    }
}

/// A number type whose products are made in tiles.
pub trait Tiles: Sized {
    /// Columns of the widest tile, a multiple of the lanes; None where the level has no tiles.
    fn wide(level: Level) -> Option<usize>;

    /// `columns` columns of `out = A B`, [`Tiles::wide`] of them or as many as there are lanes;
    /// with `add`, of `out += add A B`.
    ///
    /// `B` and `out` are given with the length of their rows and the first column to be used; B has
    /// as many rows as A has columns, or less.
    ///
    /// # Panics
    /// If an operand leaves its slice, or the level has no tiles.
    fn strip(
        level: Level,
        a: Left<'_, Self>,
        b: (&[Self], usize, usize),
        columns: usize,
        out: (&mut [Self], usize, usize),
        add: Option<Self>,
    );
}

#[cfg(not(target_arch = "x86_64"))]
macro_rules! none {
    ($t:ty) => {
        impl Tiles for $t {
            fn wide(_: Level) -> Option<usize> {
                None
            }
            fn strip(
                level: Level,
                _: Left<'_, Self>,
                _: (&[Self], usize, usize),
                _: usize,
                _: (&mut [Self], usize, usize),
                _: Option<Self>,
            ) {
                panic!("no tiles at level {level:?}");
            }
        }
    };
}

#[cfg(not(target_arch = "x86_64"))]
none!(f32);
#[cfg(not(target_arch = "x86_64"))]
none!(f64);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64 as arch;

    use super::{Left, Tiles};
    use crate::real::LANES;
    use crate::simd::Level;

    /// Longest sum that is kept in one register: longer ones are cut, or they would lose digits.
    const DEPTH: usize = 256;

    macro_rules! strips {
        ($name:ident, $t:ty, $feature:literal, $len:literal, $zero:ident, $load:ident,
         $splat:ident, $fma:ident, $add:ident, $store:ident) => {
            mod $name {
                use super::{DEPTH, Left, arch};

                /// One tile of the product.
                ///
                /// # Safety
                /// `ROWS` rows of `depth` elements of `a`, `depth` rows of `WIDE` vectors of `b`
                /// and `ROWS` rows of as many of `out` must be in bounds, and `out` not overlap
                /// the others. The rows of `a` are `lda` apart, with `TURNED` its columns are.
                #[inline]
                #[target_feature(enable = $feature)]
                unsafe fn tile<const ROWS: usize, const WIDE: usize, const TURNED: bool>(
                    (a, lda): (*const $t, usize),
                    (b, ldb): (*const $t, usize),
                    (out, ldo): (*mut $t, usize),
                    depth: usize,
                    add: Option<$t>,
                ) {
                    let mut start = 0;
                    while start < depth {
                        let end = depth.min(start + DEPTH);
                        let mut sums = [[arch::$zero(); WIDE]; ROWS];
                        for k in start..end {
                            let mut row = [arch::$zero(); WIDE];
                            for w in 0..WIDE {
                                // SAFETY: row k of b has WIDE vectors.
                                row[w] = unsafe { arch::$load(b.add(k * ldb + w * $len)) };
                            }
                            for r in 0..ROWS {
                                let at = if TURNED { k * lda + r } else { r * lda + k };
                                // SAFETY: row r of a has the element k.
                                let factor = arch::$splat(unsafe { *a.add(at) });
                                for w in 0..WIDE {
                                    sums[r][w] = arch::$fma(factor, row[w], sums[r][w]);
                                }
                            }
                        }
                        for r in 0..ROWS {
                            for w in 0..WIDE {
                                // SAFETY: row r of out has WIDE vectors.
                                unsafe {
                                    let place = out.add(r * ldo + w * $len);
                                    let mut sum = sums[r][w];
                                    if let Some(factor) = add {
                                        let factor = arch::$splat(factor);
                                        sum = arch::$fma(factor, sum, arch::$load(place));
                                    } else if start > 0 {
                                        sum = arch::$add(arch::$load(place), sum);
                                    }
                                    arch::$store(place, sum);
                                }
                            }
                        }
                        start = end;
                    }
                }

                /// All rows of some columns, as [`super::Tiles::strip`].
                #[target_feature(enable = $feature)]
                pub(super) fn strip<const ROWS: usize, const WIDE: usize>(
                    a: Left<'_, $t>,
                    b: (&[$t], usize, usize),
                    out: (&mut [$t], usize, usize),
                    add: Option<$t>,
                ) {
                    assert!(a.column == 1 || a.row == 1);
                    if a.column == 1 {
                        rows_of::<ROWS, WIDE, false>(a, b, out, add);
                    } else {
                        rows_of::<ROWS, WIDE, true>(a, b, out, add);
                    }
                }

                #[inline]
                #[target_feature(enable = $feature)]
                fn rows_of<const ROWS: usize, const WIDE: usize, const TURNED: bool>(
                    a: Left<'_, $t>,
                    (b, ldb, from): (&[$t], usize, usize),
                    (out, ldo, to): (&mut [$t], usize, usize),
                    add: Option<$t>,
                ) {
                    let (rows, depth) = (out.len() / ldo, b.len() / ldb);
                    if rows == 0 || depth == 0 {
                        return;
                    }
                    let (lda, along, across) = if TURNED {
                        (a.column, depth, rows)
                    } else {
                        (a.row, rows, depth)
                    };
                    assert!(a.data.len() >= (along - 1) * lda + across);
                    assert!(TURNED || lda >= depth);
                    assert!(ldb >= from + WIDE * $len && ldo >= to + WIDE * $len);
                    // SAFETY: the assertions keep all rows and columns in their slices, which are
                    // as long as whole rows; `out` is exclusive.
                    unsafe {
                        let (step, a) = (if TURNED { 1 } else { lda }, a.data.as_ptr());
                        let b = (b.as_ptr().add(from), ldb);
                        let out = out.as_mut_ptr().add(to);
                        let place = |i: usize| ((a.add(i * step), lda), (out.add(i * ldo), ldo));
                        let mut i = 0;
                        while i + ROWS <= rows {
                            let (a, out) = place(i);
                            tile::<ROWS, WIDE, TURNED>(a, b, out, depth, add);
                            i += ROWS;
                        }
                        if i < rows && rows >= ROWS && add.is_none() {
                            // The last rows together with some that are written once more.
                            let (a, out) = place(rows - ROWS);
                            tile::<ROWS, WIDE, TURNED>(a, b, out, depth, add);
                            return;
                        }
                        for i in i..rows {
                            let (a, out) = place(i);
                            tile::<1, WIDE, TURNED>(a, b, out, depth, add);
                        }
                    }
                }
            }
        };
    }

    strips!(
        f32_512,
        f32,
        "avx512f",
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_storeu_ps
    );
    strips!(
        f64_512,
        f64,
        "avx512f",
        8,
        _mm512_setzero_pd,
        _mm512_loadu_pd,
        _mm512_set1_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd,
        _mm512_storeu_pd
    );
    strips!(
        f32_256,
        f32,
        "avx2,fma",
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_storeu_ps
    );
    strips!(
        f64_256,
        f64,
        "avx2,fma",
        4,
        _mm256_setzero_pd,
        _mm256_loadu_pd,
        _mm256_set1_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd,
        _mm256_storeu_pd
    );

    impl Tiles for f32 {
        fn wide(level: Level) -> Option<usize> {
            match level.on_host() {
                Level::Avx512 => Some(2 * LANES),
                Level::Avx2 => Some(LANES),
                _ => None,
            }
        }

        fn strip(
            level: Level,
            a: Left<'_, Self>,
            b: (&[Self], usize, usize),
            columns: usize,
            out: (&mut [Self], usize, usize),
            add: Option<Self>,
        ) {
            match (level.on_host(), columns) {
                // SAFETY: `on_host` names only levels whose features were detected.
                (Level::Avx512, 32) => unsafe { f32_512::strip::<8, 2>(a, b, out, add) },
                // SAFETY: as above.
                (Level::Avx512, 16) => unsafe { f32_512::strip::<8, 1>(a, b, out, add) },
                // SAFETY: as above.
                (Level::Avx2, 16) => unsafe { f32_256::strip::<6, 2>(a, b, out, add) },
                _ => panic!("no tiles of {columns} columns at level {level:?}"),
            }
        }
    }

    impl Tiles for f64 {
        fn wide(level: Level) -> Option<usize> {
            matches!(level.on_host(), Level::Avx512 | Level::Avx2).then_some(LANES)
        }

        fn strip(
            level: Level,
            a: Left<'_, Self>,
            b: (&[Self], usize, usize),
            columns: usize,
            out: (&mut [Self], usize, usize),
            add: Option<Self>,
        ) {
            match (level.on_host(), columns) {
                // SAFETY: `on_host` names only levels whose features were detected.
                (Level::Avx512, 16) => unsafe { f64_512::strip::<8, 2>(a, b, out, add) },
                // SAFETY: as above.
                (Level::Avx2, 16) => unsafe { f64_256::strip::<3, 4>(a, b, out, add) },
                _ => panic!("no tiles of {columns} columns at level {level:?}"),
            }
        }
    }
}

//! The sums of the lanes of four registers.

use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn f32_512([p, q, r, s]: [__m512; 4]) -> [f32; 4] {
    let low = _mm512_add_ps(_mm512_unpacklo_ps(p, q), _mm512_unpackhi_ps(p, q));
    let high = _mm512_add_ps(_mm512_unpacklo_ps(r, s), _mm512_unpackhi_ps(r, s));
    // Each quarter: a part of the sum of p, q, r and s.
    let even = _mm512_shuffle_ps::<0x44>(low, high);
    let all = _mm512_add_ps(even, _mm512_shuffle_ps::<0xee>(low, high));
    let half = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(all));
    let all = _mm256_add_ps(_mm512_castps512_ps256(all), _mm256_castpd_ps(half));
    quarters(all)
}

#[inline]
#[target_feature(enable = "avx")]
fn quarters(all: __m256) -> [f32; 4] {
    let sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps::<1>(all));
    let mut out = [0.0; 4];
    // SAFETY: the array has the four elements that are written, at any alignment.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}

#[inline]
#[target_feature(enable = "avx")]
pub(super) fn f32_256([p, q, r, s]: [__m256; 4]) -> [f32; 4] {
    let low = _mm256_add_ps(_mm256_unpacklo_ps(p, q), _mm256_unpackhi_ps(p, q));
    let high = _mm256_add_ps(_mm256_unpacklo_ps(r, s), _mm256_unpackhi_ps(r, s));
    let even = _mm256_shuffle_ps::<0x44>(low, high);
    quarters(_mm256_add_ps(even, _mm256_shuffle_ps::<0xee>(low, high)))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn f64_512([p, q, r, s]: [__m512d; 4]) -> [f64; 4] {
    let low = _mm512_add_pd(_mm512_unpacklo_pd(p, q), _mm512_unpackhi_pd(p, q));
    let high = _mm512_add_pd(_mm512_unpacklo_pd(r, s), _mm512_unpackhi_pd(r, s));
    let [low, high] = [low, high].map(|pair| {
        _mm256_add_pd(
            _mm512_castpd512_pd256(pair),
            _mm512_extractf64x4_pd::<1>(pair),
        )
    });
    halves([low, high])
}

#[inline]
#[target_feature(enable = "avx")]
fn halves(pairs: [__m256d; 2]) -> [f64; 4] {
    let mut out = [0.0; 4];
    for (out, pair) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
        let sums = _mm_add_pd(
            _mm256_castpd256_pd128(pair),
            _mm256_extractf128_pd::<1>(pair),
        );
        // SAFETY: the array has the two elements that are written, at any alignment.
        unsafe { _mm_storeu_pd(out.as_mut_ptr(), sums) };
    }
    out
}

#[inline]
#[target_feature(enable = "avx")]
pub(super) fn f64_256([p, q, r, s]: [__m256d; 4]) -> [f64; 4] {
    let low = _mm256_add_pd(_mm256_unpacklo_pd(p, q), _mm256_unpackhi_pd(p, q));
    let high = _mm256_add_pd(_mm256_unpacklo_pd(r, s), _mm256_unpackhi_pd(r, s));
    halves([low, high])
}

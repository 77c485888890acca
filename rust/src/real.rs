//! The two floating point types the kernels are generic over, and branch-free `exp` and `ln`.

use crate::buffer::Spare;
use crate::lanes::Lanes;
use crate::product::{Tiles, Vectors};
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// Length of the lane arrays in hand-blocked loops: one 512-bit register of `f32`, two of `f64`.
pub const LANES: usize = 16;

/// `f32` or `f64`.
///
/// Methods with the parameter `FMA` fuse multiply and add only where the caller was compiled for
/// it; without the hardware feature `mul_add` would be a library call per element.
pub trait Real:
    Copy
    + Default
    + Send
    + Sync
    + Debug
    + Display
    + PartialEq
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Lanes
    + Tiles
    + Vectors
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Distance from 1 to the next larger number.
    const EPSILON: Self;
    /// Largest finite number.
    const MAX: Self;
    /// Smallest finite number, `-MAX`.
    const MIN: Self;
    /// Smallest positive normal number.
    const MIN_POSITIVE: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// Not a number.
    const NAN: Self;

    /// The spare buffers of this type.
    fn spare() -> &'static Spare<Self>;
    /// Nearest number to `x`.
    fn from_f64(x: f64) -> Self;
    /// Exact for both types.
    fn to_f64(self) -> f64;
    /// Nearest number to the count `n`.
    fn from_usize(n: usize) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Natural exponential of the standard library (accurate, does not vectorise).
    fn exp(self) -> Self;
    /// Natural logarithm of the standard library (accurate, does not vectorise).
    fn ln(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// `self * b + c`, fused if `FMA`.
    fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self;
    /// Branch-free `exp`, correct to about one unit in the last place.
    ///
    /// Below the smallest normal result the value is 0 (also for `-inf`), above the largest it is
    /// infinite; NaN stays NaN.
    fn exp_fast<const FMA: bool>(self) -> Self;
    /// [`Real::exp_fast`] without the overflow test: for arguments that are at most 88, or NaN.
    fn exp_small<const FMA: bool>(self) -> Self;
    /// Branch-free `ln` of a positive, normal, finite number, correct to about two units in the
    /// last place. Any other argument gives an unspecified value.
    fn ln_fast<const FMA: bool>(self) -> Self;

    /// The larger one; `other` if `self` is NaN. One instruction, unlike `f32::max`.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// The smaller one; `other` if `self` is NaN.
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        if self < other { self } else { other }
    }

    /// `C = alpha A B + beta C` on raw pointers; [`crate::gemm::gemm`] is the checked form.
    ///
    /// # Safety
    /// For every `i < m`, `p < k`, `j < n` the elements `a[i*rsa + p*csa]`, `b[p*rsb + j*csb]` must
    /// be readable, `c[i*rsc + j*csc]` must be writable, distinct for distinct `(i, j)`, and
    /// initialised; `c` must not overlap `a` or `b`.
    #[allow(clippy::too_many_arguments)]
    unsafe fn gemm_raw(
        m: usize,
        k: usize,
        n: usize,
        alpha: Self,
        a: *const Self,
        rsa: isize,
        csa: isize,
        b: *const Self,
        rsb: isize,
        csb: isize,
        beta: Self,
        c: *mut Self,
        rsc: isize,
        csc: isize,
    );
}

/// `c[0] + r*(c[1] + r*(c[2] + ...))`.
#[inline(always)]
fn horner<T: Real, const FMA: bool, const N: usize>(r: T, c: [T; N]) -> T {
    let mut p = c[N - 1];
    for i in (0..N - 1).rev() {
        p = p.fma::<FMA>(r, c[i]);
    }
    p
}

// exp: x = n ln2 + r with |r| <= ln2/2; exp(r) = 1 + r + r^2 q(r), q interpolated at Chebyshev
// nodes. Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves it in the low bits, from
// where a shift moves it into the exponent. ln2 is split so that n * LN2_HIGH is exact without FMA.
//
// ln: x = 2^e m with m in [sqrt(1/2), sqrt(2)), s = (m-1)/(m+1), ln m = 2s + s^3 p(s^2).
macro_rules! real {
    ($t:ident, $bits:ident, $gemm:path, mantissa: $mantissa:literal, bias: $bias:literal,
     ln2: [$ln2_high:expr, $ln2_low:literal], range: [$low:literal, $high:literal],
     half: $half:literal, q: $q:expr, p: $p:expr) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const EPSILON: Self = $t::EPSILON;
            const MAX: Self = $t::MAX;
            const MIN: Self = $t::MIN;
            const MIN_POSITIVE: Self = $t::MIN_POSITIVE;
            const INFINITY: Self = $t::INFINITY;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            const NAN: Self = $t::NAN;

            fn spare() -> &'static Spare<Self> {
                static SPARE: Spare<$t> = Spare::new();
                &SPARE
            }

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn from_usize(n: usize) -> Self {
                n as $t
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $t::exp(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $t::ln(self)
            }
            #[inline(always)]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
            #[inline(always)]
            fn fma<const FMA: bool>(self, b: Self, c: Self) -> Self {
                if FMA {
                    self.mul_add(b, c)
                } else {
                    self * b + c
                }
            }
            #[inline(always)]
            fn exp_small<const FMA: bool>(self) -> Self {
                const MAGIC: $t = 1.5 * (1u64 << $mantissa) as $t;
                let shifted = Real::fma::<FMA>(self, std::$t::consts::LOG2_E, MAGIC);
                let n = shifted - MAGIC;
                let r = Real::fma::<FMA>(n, -($ln2_high), self);
                let r = Real::fma::<FMA>(n, -$ln2_low, r);
                let q = horner::<$t, FMA, _>(r, $q);
                let e = Real::fma::<FMA>(Real::fma::<FMA>(r, q, 1.0), r, 1.0);
                let scaled =
                    $t::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << $mantissa));
                if self < $low { 0.0 } else { scaled }
            }
            #[inline(always)]
            fn exp_fast<const FMA: bool>(self) -> Self {
                let e = Real::exp_small::<FMA>(self);
                if self > $high { $t::INFINITY } else { e }
            }
            #[inline(always)]
            fn ln_fast<const FMA: bool>(self) -> Self {
                const MAGIC: $t = (1u64 << $mantissa) as $t;
                // Exponent counted from sqrt(1/2), kept non-negative: AVX2 has no 64-bit signed shift.
                let offset = self.to_bits().wrapping_add(($bias << $mantissa) - $half);
                let biased = offset >> $mantissa;
                let m = $t::from_bits(
                    self.to_bits()
                        .wrapping_sub((biased << $mantissa).wrapping_sub($bias << $mantissa)),
                );
                let e = $t::from_bits(biased | MAGIC.to_bits()) - MAGIC - $bias as $t;
                let s = (m - 1.0) / (m + 1.0);
                let z = s * s;
                let p = horner::<$t, FMA, _>(z, $p);
                let tail = Real::fma::<FMA>(e, $ln2_low, s * z * p);
                Real::fma::<FMA>(e, $ln2_high, Real::fma::<FMA>(2.0, s, tail))
            }
            #[inline(always)]
            unsafe fn gemm_raw(
                m: usize,
                k: usize,
                n: usize,
                alpha: Self,
                a: *const Self,
                rsa: isize,
                csa: isize,
                b: *const Self,
                rsb: isize,
                csb: isize,
                beta: Self,
                c: *mut Self,
                rsc: isize,
                csc: isize,
            ) {
                // SAFETY: the caller vouches for the three operands.
                unsafe { $gemm(m, k, n, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc, csc) }
            }
        }
    };
}

real!(
    f32, u32, matrixmultiply::sgemm, mantissa: 23, bias: 127u32,
    ln2: [355.0 / 512.0, -2.121_944_4e-4], range: [-87.336_54, 88.722_84], half: 0x3f35_04f3u32,
    q: [0.5, 0.166_665_73, 0.041_666_55, 0.008_363_774, 0.001_392_692_7],
    p: [0.666_666_87, 0.399_885_5, 0.295_903_18]
);
real!(
    f64, u64, matrixmultiply::dgemm, mantissa: 52, bias: 1023u64,
    ln2: [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10],
    range: [-708.396_418_532_264_1, 709.782_712_893_384], half: 0x3fe6_a09e_667f_3bcdu64,
    q: [
        0.5,
        0.166_666_666_666_666_69,
        0.041_666_666_666_620_64,
        0.008_333_333_333_329_793,
        0.001_388_888_891_893_916_8,
        0.000_198_412_698_643_805_13,
        2.480_151_864_139_599_3e-5,
        2.755_726_641_861_23e-6,
        2.762_133_866_914_292_5e-7,
        2.510_134_692_835_034e-8,
    ],
    p: [
        0.666_666_666_666_667,
        0.399_999_999_998_932_2,
        0.285_714_286_288_109_96,
        0.222_222_106_742_385_13,
        0.181_829_225_135_161_06,
        0.153_306_173_067_389_06,
        0.146_300_313_641_684_05,
    ]
);

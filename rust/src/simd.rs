//! Run-time choice of the vector instruction set.
//!
//! A kernel is written once as an `#[inline(always)]` function, generic over [`Real`] and over
//! `const FMA: bool`; [`simd_dispatch!`](crate::simd_dispatch) compiles it once for each level and
//! picks one by the [`Level`] that it is called with.
//!
//! [`Real`]: crate::real::Real

use std::sync::OnceLock;

/// A vector instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What the target's baseline has (SSE2 on x86-64), without fused multiply-add.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, DQ, VL and BW.
    Avx512,
    /// The baseline of 64-bit Arm.
    Neon,
}

impl Level {
    /// Lower-case name, as `UCMKD_SIMD` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
        }
    }

    /// This level if the host has it, else the best one of the host below it.
    #[must_use]
    #[inline]
    pub fn on_host(self) -> Level {
        match (self, detect()) {
            (Level::Avx512, Level::Avx512) => Level::Avx512,
            (Level::Avx2 | Level::Avx512, Level::Avx2 | Level::Avx512) => Level::Avx2,
            (Level::Neon, Level::Neon) => Level::Neon,
            _ => Level::Scalar,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn probe() -> Level {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        Level::Scalar
    } else if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
    {
        Level::Avx512
    } else {
        Level::Avx2
    }
}

#[cfg(target_arch = "aarch64")]
fn probe() -> Level {
    Level::Neon
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn probe() -> Level {
    Level::Scalar
}

/// The best level of the host.
#[must_use]
#[inline]
pub fn detect() -> Level {
    static BEST: OnceLock<Level> = OnceLock::new();
    *BEST.get_or_init(probe)
}

/// The level in use: `UCMKD_SIMD` (read once) or the best of the host.
///
/// A level that the host lacks falls to the best available one below it; an unknown name counts
/// as not set.
#[must_use]
pub fn level() -> Level {
    static CHOSEN: OnceLock<Level> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("UCMKD_SIMD").unwrap_or_default();
        [Level::Scalar, Level::Avx2, Level::Avx512, Level::Neon]
            .into_iter()
            .find(|l| l.name().eq_ignore_ascii_case(wanted.trim()))
            .map_or_else(detect, Level::on_host)
    })
}

/// Every level that the host has, slowest first.
#[must_use]
pub fn available() -> Vec<Level> {
    [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512]
        .into_iter()
        .filter(|&l| l.on_host() == l)
        .collect()
}

/// Calls the cache line of an element into the first-level cache, where the target can.
///
/// Nothing is read: any address will do.
#[inline(always)]
pub fn fetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch neither faults nor changes anything that a program can see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Compiles one function body for every level.
///
/// ```text
/// simd_dispatch! { /// Doc.
///     pub fn name[T: Real](x: &mut [T], c: T) -> T = body; }
/// simd_dispatch! { pub fn name[T: Real, const N: usize](x: &mut [T]) = body; }
/// ```
///
/// makes `name(level, x, c)`, which calls `body::<T, FMA>(x, c)` (with constants:
/// `body::<T, FMA, N>`). The body, and everything that should vectorise with it, must be
/// `#[inline(always)]`. A level that the host lacks is lowered, never executed.
#[macro_export]
macro_rules! simd_dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident
        [$t:ident : $bound:path $(, const $c:ident : $ct:ty)*]
        ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident ;) => {
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$t: $bound $(, const $c: $ct)*>(
            level: $crate::simd::Level, $($arg: $ty),*
        ) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$t: $bound $(, const $c: $ct)*>($($arg: $ty),*) $(-> $ret)? {
                    $body::<$t, true $(, $c)*>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512<$t: $bound $(, const $c: $ct)*>($($arg: $ty),*) $(-> $ret)? {
                    $body::<$t, true $(, $c)*>($($arg),*)
                }
                match level.on_host() {
                    // SAFETY: `on_host` names only levels whose features were detected.
                    $crate::simd::Level::Avx512 => return unsafe { avx512::<$t $(, $c)*>($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => return unsafe { avx2::<$t $(, $c)*>($($arg),*) },
                    _ => {}
                }
            }
            // On 64-bit Arm the baseline has NEON and fused multiply-add.
            if cfg!(target_arch = "aarch64") && level == $crate::simd::Level::Neon {
                return $body::<$t, true $(, $c)*>($($arg),*);
            }
            $body::<$t, false $(, $c)*>($($arg),*)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_consistent() {
        let all = available();
        assert_eq!(all[0], Level::Scalar);
        assert!(all.contains(&detect()));
        assert!(all.contains(&level()));
        for l in [Level::Scalar, Level::Avx2, Level::Avx512, Level::Neon] {
            assert!(all.contains(&l.on_host()), "{l:?}");
        }
    }
}

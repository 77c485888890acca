//! The kernels, as functions of a row of squared distances (or of scalar products).
//!
//! With `k(x, y)` a function of the distance `d`, `c = -2 dk/d(d^2)`, so that the derivative with
//! respect to `x` is `-c (x - y)`. All that have a bandwidth depend on `d / sigma` alone, so that
//! the derivative with respect to `sigma` is `c d^2 / sigma` for each of them.

use crate::real::Real;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// `mean_s exp(-d^2 / (2 (s sigma)^2))`.
    Gaussian,
    /// `mean_s exp(-d / (s sigma))`.
    Laplace,
    /// `-d`: the squared discrepancy is the energy distance.
    Energy,
    /// `mean_s (1 + d^2 / (2 s sigma^2))^-s`.
    RationalQuadratic,
    /// `(gamma <x, y> + offset)^degree`.
    Polynomial {
        /// At least 1.
        degree: u32,
        /// Factor of the scalar product.
        gamma: f64,
        /// What is added to it.
        offset: f64,
    },
}

/// Longest run of scales that share an exponential.
const LONGEST: usize = 5;

/// Scales that each are half of the one before: one exponential, then powers of it.
#[derive(Clone, Debug, PartialEq)]
struct Run<T> {
    /// Factor of `d^2` (Gaussian) or `d` (Laplace) in the exponent of the widest scale.
    exponent: T,
    /// The weight of each scale in the coefficient `c`, the `1/S` of the mean included.
    coefficients: Vec<T>,
}

/// One scale of the rational quadratic kernel.
#[derive(Clone, Copy, Debug)]
struct Rational<T> {
    alpha: T,
    /// `1 / (2 alpha sigma^2)`.
    rate: T,
}

#[derive(Clone, Debug)]
enum Form<T> {
    Gaussian(Vec<Run<T>>),
    Laplace(Vec<Run<T>>),
    Energy,
    Rational {
        terms: Vec<Rational<T>>,
        /// `1 / (S sigma^2)`.
        coefficient: T,
    },
    Polynomial {
        degree: u32,
        gamma: T,
        offset: T,
    },
}

/// A kernel with its numbers worked out.
#[derive(Clone, Debug)]
pub struct Shape<T> {
    form: Form<T>,
    /// `1/S`: the sums are over `S k`.
    pub mean: f64,
}

/// The scales, widest first, in runs.
///
/// The Gaussian of half the width is the fourth power, the Laplacian the square. That multiplies
/// the relative error, so a run ends where it would pass 16 units in the last place in `f32` (256
/// in `f64`).
fn runs<T: Real>(scales: &[f64], sigma: f64, gaussian: bool) -> Vec<Run<T>> {
    let single = T::EPSILON.to_f64() > 1e-10;
    let longest = if single && gaussian { 3 } else { LONGEST };
    let mean = 1.0 / scales.len() as f64;
    let mut sorted = scales.to_vec();
    sorted.sort_by(|p, q| q.total_cmp(p));
    let mut runs: Vec<Run<T>> = Vec::new();
    for (i, &s) in sorted.iter().enumerate() {
        let inverse = if gaussian {
            1.0 / ((s * sigma) * (s * sigma))
        } else {
            1.0 / (s * sigma)
        };
        let coefficient = T::from_f64(inverse * mean);
        let halved = i > 0 && sorted[i - 1] == 2.0 * s;
        match runs.last_mut() {
            Some(run) if halved && run.coefficients.len() < longest => {
                run.coefficients.push(coefficient);
            }
            _ => runs.push(Run {
                exponent: T::from_f64(if gaussian { -0.5 * inverse } else { -inverse }),
                coefficients: vec![coefficient],
            }),
        }
    }
    runs
}

impl<T: Real> Shape<T> {
    /// The kernel at the given scales, in any order, times the bandwidth `sigma`.
    #[must_use]
    pub fn new(kernel: Kernel, scales: &[f64], sigma: f64) -> Self {
        let mean = 1.0 / scales.len() as f64;
        let form = match kernel {
            Kernel::Gaussian => Form::Gaussian(runs(scales, sigma, true)),
            Kernel::Laplace => Form::Laplace(runs(scales, sigma, false)),
            Kernel::Energy => Form::Energy,
            Kernel::RationalQuadratic => Form::Rational {
                terms: scales
                    .iter()
                    .map(|&alpha| Rational {
                        alpha: T::from_f64(alpha),
                        rate: T::from_f64(0.5 / (alpha * sigma * sigma)),
                    })
                    .collect(),
                coefficient: T::from_f64(mean / (sigma * sigma)),
            },
            Kernel::Polynomial {
                degree,
                gamma,
                offset,
            } => Form::Polynomial {
                degree,
                gamma: T::from_f64(gamma),
                offset: T::from_f64(offset),
            },
        };
        let several = !matches!(kernel, Kernel::Energy | Kernel::Polynomial { .. });
        Shape {
            form,
            mean: if several { mean } else { 1.0 },
        }
    }

    /// A root is taken of the squared distance: small ones need all their digits.
    #[inline(always)]
    pub fn rooted(&self) -> bool {
        matches!(self.form, Form::Laplace(_) | Form::Energy)
    }

    /// A function of the distance, not of the scalar product.
    #[inline(always)]
    pub fn invariant(&self) -> bool {
        !matches!(self.form, Form::Polynomial { .. })
    }

    /// A function of `d / sigma`.
    pub fn has_bandwidth(&self) -> bool {
        !matches!(self.form, Form::Energy | Form::Polynomial { .. })
    }

    /// `S k` and `c` of a row of squared distances (scalar products if not [`Self::invariant`]).
    #[inline(always)]
    pub fn evaluate<const FMA: bool>(&self, row: &[T], k: &mut [T], c: &mut [T]) {
        match &self.form {
            Form::Gaussian(runs) => sum_runs::<T, FMA, true>(row, runs, k, c),
            Form::Laplace(runs) => laplace::<T, FMA>(row, runs, k, c),
            Form::Energy => {
                for ((k, c), &d2) in k.iter_mut().zip(c).zip(row) {
                    let d = d2.sqrt();
                    *k = -d;
                    *c = if d > T::ZERO { T::ONE / d } else { T::ZERO };
                }
            }
            Form::Rational { terms, coefficient } => {
                k.fill(T::ZERO);
                c.fill(T::ZERO);
                for term in terms {
                    for ((k, c), &d2) in k.iter_mut().zip(&mut *c).zip(row) {
                        let base = d2.fma::<FMA>(term.rate, T::ONE);
                        let power = (-term.alpha * base.ln_fast::<FMA>()).exp_small::<FMA>();
                        *k += power;
                        *c = (power / base).fma::<FMA>(*coefficient, *c);
                    }
                }
            }
            Form::Polynomial {
                degree,
                gamma,
                offset,
            } => {
                let slope = T::from_f64(f64::from(*degree)) * *gamma;
                for (k, &product) in k.iter_mut().zip(row) {
                    *k = gamma.fma::<FMA>(product, *offset);
                }
                c.fill(T::ONE);
                for _ in 1..*degree {
                    for (c, &base) in c.iter_mut().zip(&*k) {
                        *c *= base;
                    }
                }
                for (k, c) in k.iter_mut().zip(c) {
                    *k *= *c;
                    *c = slope * *c;
                }
            }
        }
    }
}

/// `S k` and `c` of the Laplacian; `k` holds the distances in between.
#[inline(always)]
fn laplace<T: Real, const FMA: bool>(row: &[T], runs: &[Run<T>], k: &mut [T], c: &mut [T]) {
    const CHUNK: usize = 64;
    let mut distance = [T::ZERO; CHUNK];
    let chunks = k.chunks_mut(CHUNK).zip(c.chunks_mut(CHUNK));
    for ((k, c), row) in chunks.zip(row.chunks(CHUNK)) {
        let d = &mut distance[..row.len()];
        for (d, d2) in d.iter_mut().zip(row) {
            *d = d2.sqrt();
        }
        sum_runs::<T, FMA, false>(d, runs, k, c);
        for (c, &d) in c.iter_mut().zip(&*d) {
            *c = if d > T::ZERO { *c / d } else { T::ZERO };
        }
    }
}

/// `S k` and `c` of one run of `N` scales, added to what is there unless it is the `FIRST`;
/// `QUARTIC` for the Gaussian.
#[inline(always)]
fn add_run<T: Real, const FMA: bool, const QUARTIC: bool, const FIRST: bool, const N: usize>(
    row: &[T],
    run: &Run<T>,
    k: &mut [T],
    c: &mut [T],
) {
    // A fourth power of less than this would not be a normal number, which is slow on many
    // machines. It is also nothing beside the wider scales.
    let small = T::from_f64(if T::EPSILON.to_f64() > 1e-10 {
        4.7e-10
    } else {
        1e-76
    });
    let exponent = run.exponent;
    let mut coefficients = [T::ZERO; N];
    coefficients.copy_from_slice(&run.coefficients);
    for ((k, c), &argument) in k.iter_mut().zip(c).zip(row) {
        let mut power = (argument * exponent).exp_small::<FMA>();
        let (mut sum_k, mut sum_c) = if FIRST {
            (power, power * coefficients[0])
        } else {
            (*k + power, power.fma::<FMA>(coefficients[0], *c))
        };
        for &coefficient in &coefficients[1..] {
            let square = power * power;
            let next = if QUARTIC { square * square } else { square };
            power = if power < small { T::ZERO } else { next };
            sum_k += power;
            sum_c = power.fma::<FMA>(coefficient, sum_c);
        }
        *k = sum_k;
        *c = sum_c;
    }
}

/// `S k` and `c` of all runs.
#[inline(always)]
fn sum_runs<T: Real, const FMA: bool, const QUARTIC: bool>(
    row: &[T],
    runs: &[Run<T>],
    k: &mut [T],
    c: &mut [T],
) {
    let (first, others) = runs.split_first().expect("a scale");
    by_length::<T, FMA, QUARTIC, true>(row, first, k, c);
    for run in others {
        by_length::<T, FMA, QUARTIC, false>(row, run, k, c);
    }
}

#[inline(always)]
fn by_length<T: Real, const FMA: bool, const QUARTIC: bool, const FIRST: bool>(
    row: &[T],
    run: &Run<T>,
    k: &mut [T],
    c: &mut [T],
) {
    match run.coefficients.len() {
        1 => add_run::<T, FMA, QUARTIC, FIRST, 1>(row, run, k, c),
        2 => add_run::<T, FMA, QUARTIC, FIRST, 2>(row, run, k, c),
        3 => add_run::<T, FMA, QUARTIC, FIRST, 3>(row, run, k, c),
        4 => add_run::<T, FMA, QUARTIC, FIRST, 4>(row, run, k, c),
        _ => add_run::<T, FMA, QUARTIC, FIRST, LONGEST>(row, run, k, c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halved_scales_share_an_exponential() {
        fn lengths<T: Real>(scales: &[f64], gaussian: bool) -> Vec<usize> {
            let runs = runs::<T>(scales, 3.0, gaussian);
            runs.iter().map(|r| r.coefficients.len()).collect()
        }
        let five = [0.25, 4.0, 1.0, 2.0, 0.5];
        assert_eq!(lengths::<f64>(&five, true), [5]);
        assert_eq!(lengths::<f32>(&five, true), [3, 2]);
        assert_eq!(lengths::<f32>(&five, false), [5]);
        assert_eq!(lengths::<f64>(&[1.0, 1.5, 1.0, 3.0], true), [2, 1, 1]);
        assert_eq!(Shape::<f64>::new(Kernel::Gaussian, &five, 3.0).mean, 0.2);
        assert_eq!(Shape::<f64>::new(Kernel::Energy, &five, 3.0).mean, 1.0);
    }
}

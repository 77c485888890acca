//! Potentials and plans applied, without the matrix.

use std::ops::Range;

use crate::buffer::Aligned;
use crate::gemm::gemm;
use crate::interrupt::Interrupt;
use crate::parallel::map;
use crate::real::Real;
use crate::simd::Level;

use super::batch::LARGE;
use super::potentials;
use super::problem::{Costs, Options};
use super::source::{Ground, Keep, Source};
use super::sweep::{self, Rows, Rule};

/// Points with their costs, and the potentials to apply.
#[derive(Clone, Copy, Debug)]
pub struct Transform<'a, T> {
    /// Points; see [`Costs`]. The results belong to the rows.
    pub costs: Costs<'a, T>,
    /// Masses of the rows.
    pub a: &'a [T],
    /// Masses of the columns.
    pub b: &'a [T],
    /// Row potential. Without it the rows of the plan are normalised: each is a mean over the
    /// columns, whatever its mass and its weight.
    pub f: Option<&'a [T]>,
    /// Column potential.
    pub g: &'a [T],
    /// Regularisation.
    pub epsilon: f64,
    /// Times the class distance: added to the cost.
    pub label_cost: f64,
}

/// A transform made ready.
struct Ready<'a, T> {
    source: Source<'a, T>,
    level: Level,
    rows: usize,
    strip: usize,
    inverse: T,
    /// `g / eps + ln b`, padded with `-inf`.
    h: Aligned<T>,
}

impl<'a, T: Real> Ready<'a, T> {
    fn new(transform: &Transform<'a, T>, options: &Options) -> Self {
        let (a, b) = (transform.a, transform.b);
        let keep = Keep::Nothing;
        let source = match transform.costs {
            Costs::Matrix(matrix) => Source::Matrix(matrix, b.len()),
            Costs::Points { .. } => {
                let ground = Ground::new(&transform.costs, (a, b), options.level, keep);
                let mut ground = ground.expect("points");
                ground.price = T::from_f64(transform.label_cost);
                Source::Points(ground)
            }
        };
        let mut h = Aligned::padded_from(b, T::ZERO);
        for (h, g) in h.iter_mut().zip(transform.g) {
            let exponent = g.to_f64() / transform.epsilon + h.to_f64().ln();
            *h = T::from_f64(exponent);
        }
        h[b.len()..].fill(T::NEG_INFINITY);
        Self {
            source,
            level: options.level,
            rows: a.len(),
            strip: keep.strip(b.len(), options),
            inverse: T::from_f64(1.0 / transform.epsilon),
            h,
        }
    }

    /// `work` on every strip of the rows, which finds its costs in the workspace, on `threads`
    /// threads; None if interrupted. The results are put together in order.
    fn strips(
        &self,
        threads: usize,
        interrupt: &Interrupt,
        work: impl Fn(Range<usize>, &mut [T], &mut Vec<T>) + Sync,
    ) -> Vec<T> {
        let stride = self.h.len();
        // Whole strips, a few blocks of them for each thread.
        let blocks = if threads == 1 { 1 } else { 4 * threads };
        let share = self.rows.div_ceil(blocks).next_multiple_of(self.strip);
        let parts = map(self.rows.div_ceil(share), threads, false, |k| {
            let rows = k * share..self.rows.min((k + 1) * share);
            let mut workspace = Aligned::zeros(self.strip.min(rows.len()) * stride);
            let mut out = Vec::new();
            for start in rows.clone().step_by(self.strip) {
                if interrupt.poll() {
                    break;
                }
                let part = start..rows.end.min(start + self.strip);
                let costs = &mut workspace[..part.len() * stride];
                self.source.costs(self.level, start, costs);
                work(part, costs, &mut out);
            }
            out
        });
        parts.concat()
    }

    /// The row potentials (in units of epsilon) of some rows with these costs; with `keep` the
    /// costs become the rows of the plan over their sums.
    fn transform(&self, costs: &mut [T], keep: bool) -> Vec<T> {
        let rule = Rule {
            level: self.level,
            inverse: self.inverse,
            tau: T::ONE,
            rate: T::ZERO,
            columns: false,
            keep,
        };
        let n = costs.len() / self.h.len();
        let mut vectors = [(); 4].map(|()| vec![T::ONE; n]);
        let [base, phi, ratio, total] = &mut vectors;
        let mut rows = Rows {
            weight: &vec![T::ONE; n],
            base,
            phi,
            ratio,
            total,
            column: &mut [],
        };
        sweep::log(self.level, rule, None, &self.h, costs, &mut rows);
        std::mem::take(phi)
    }

    fn softmin(&self, epsilon: f64, threads: usize, interrupt: &Interrupt) -> Vec<T> {
        self.strips(threads, interrupt, |_, costs, out| {
            let phi = self.transform(costs, false);
            out.extend(phi.iter().map(|p| T::from_f64(epsilon * p.to_f64())));
        })
    }

    fn plan_apply(
        &self,
        transform: &Transform<T>,
        (values, width): (&[T], usize),
        threads: usize,
        interrupt: &Interrupt,
    ) -> Vec<T> {
        let (a, f) = (transform.a, transform.f);
        let (m, stride) = (transform.b.len(), self.h.len());
        self.strips(threads, interrupt, |part, costs, out| {
            if let Some(f) = f {
                let scaled = f[part.clone()].iter();
                let phi: Vec<T> = scaled
                    .map(|f| T::from_f64(f.to_f64() / transform.epsilon))
                    .collect();
                potentials::rebuild(self.level, self.inverse, None, &self.h, &phi, costs);
            } else {
                self.transform(costs, true);
            }
            let before = out.len();
            out.resize(before + part.len() * width, T::ZERO);
            gemm(
                part.len(),
                m,
                width,
                T::ONE,
                costs,
                (stride, 1),
                values,
                (width, 1),
                T::ZERO,
                &mut out[before..],
                (width, 1),
            );
            if f.is_some() {
                let rows = out[before..].chunks_exact_mut(width.max(1));
                for (row, &a) in rows.zip(&a[part]) {
                    // Without mass there is no plan, and no bound on the density.
                    let scale = |v: &mut T| *v = if a == T::ZERO { a } else { a * *v };
                    row.iter_mut().for_each(scale);
                }
            }
        })
    }
}

/// Threads over small transforms, or for each large one.
fn each<T: Real>(
    transforms: &[Transform<T>],
    options: &Options,
    interrupt: &Interrupt,
    work: impl Fn(usize, &Ready<T>, usize) -> Vec<T> + Sync,
) -> Option<Vec<Vec<T>>> {
    let large = |t: &Transform<T>| t.a.len() * t.b.len() >= LARGE;
    let one = |k: usize, threads: usize| {
        if interrupt.poll() {
            return Vec::new();
        }
        work(k, &Ready::new(&transforms[k], options), threads)
    };
    let count = transforms.len();
    let results = if transforms.iter().any(large) {
        (0..count).map(|k| one(k, options.threads)).collect()
    } else {
        map(count, options.threads, false, |k| one(k, 1))
    };
    (!interrupt.raised()).then_some(results)
}

/// `-eps ln sum_j b_j exp((g_j - c_ij) / eps)` for the rows of each transform: the row potential
/// that belongs to `g` (strict marginals). `a` counts the rows, `f` is not read.
#[must_use]
pub fn softmin<T: Real>(
    transforms: &[Transform<T>],
    options: &Options,
    interrupt: &Interrupt,
) -> Option<Vec<Vec<T>>> {
    each(transforms, options, interrupt, |k, ready, threads| {
        ready.softmin(transforms[k].epsilon, threads, interrupt)
    })
}

/// `sum_j P_ij values_j` with `P_ij = a_i b_j exp((f_i + g_j - c_ij) / eps)`, for the rows of each
/// transform; the values of each are `m x width`. Without `f`, `sum_j P_ij values_j / sum_j P_ij`.
#[must_use]
pub fn plan_apply<T: Real>(
    transforms: &[Transform<T>],
    values: &[&[T]],
    width: usize,
    options: &Options,
    interrupt: &Interrupt,
) -> Option<Vec<Vec<T>>> {
    each(transforms, options, interrupt, |k, ready, threads| {
        ready.plan_apply(&transforms[k], (values[k], width), threads, interrupt)
    })
}

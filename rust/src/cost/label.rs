//! What the labels of the points add to the cost.

use crate::buffer::Aligned;
use crate::real::Real;
use crate::simd::Level;
use crate::vmath::axpy;

use super::rows::{label_row, mismatch};

/// A distance `D_kl` between the classes of the rows and those of the columns.
#[derive(Clone, Copy, Debug)]
pub struct ClassDistance<'a, T> {
    /// `K x L`, row-major.
    pub values: &'a [T],
    /// `L`.
    pub width: usize,
}

/// Labels of both sides, and what a pair of them costs (before the price).
#[derive(Debug)]
pub enum Labels<T> {
    /// 1 where the labels differ. The labels are small integers; those of the columns are padded.
    Indicator(Vec<T>, Aligned<T>),
    /// A class distance.
    Distance {
        /// Classes of the rows.
        rows: Vec<usize>,
        /// Classes of the columns.
        columns: Vec<usize>,
        /// `K x L`, row-major.
        values: Vec<T>,
        /// `L`.
        width: usize,
    },
}

/// Mass between different labels: `sum_ij P_ij D[k_i, l_j]`, by classes where there is a `D`.
#[derive(Debug, Default)]
pub struct Mismatch {
    /// Of the indicator.
    pub total: f64,
    /// Plan mass between the classes, `K x L`.
    pub by_class: Vec<f64>,
}

impl<T: Real> Labels<T> {
    /// Labels as given.
    ///
    /// # Panics
    /// If a label is no class of the distance.
    #[must_use]
    pub fn new(x: &[i64], y: &[i64], distance: Option<ClassDistance<T>>) -> Self {
        if let Some(ClassDistance { values, width }) = distance {
            let classes = |labels: &[i64], count: usize| {
                let index = |&l: &i64| usize::try_from(l).ok().filter(|&k| k < count);
                let all: Option<Vec<usize>> = labels.iter().map(index).collect();
                all.expect("labels are classes of the distance")
            };
            return Labels::Distance {
                rows: classes(x, values.len() / width.max(1)),
                columns: classes(y, width),
                values: values.to_vec(),
                width,
            };
        }
        let mut known: Vec<i64> = x.iter().chain(y).copied().collect();
        known.sort_unstable();
        known.dedup();
        let code = |l: &i64| T::from_usize(known.binary_search(l).unwrap_or(usize::MAX));
        let side = |labels: &[i64]| labels.iter().map(code).collect::<Vec<_>>();
        Labels::Indicator(side(x), Aligned::padded_from(&side(y), -T::ONE))
    }

    /// Adds `price` times the distance to rows `first..` of the cost matrix.
    pub fn add(&self, level: Level, first: usize, price: T, strip: &mut [T], stride: usize) {
        match self {
            Labels::Indicator(rows, columns) => {
                let strip = strip.chunks_exact_mut(stride);
                // The padding takes part: it has a label of its own, and nothing reads its cost.
                for (row, &label) in strip.zip(&rows[first..]) {
                    label_row(level, row, label, columns, price);
                }
            }
            Labels::Distance {
                rows,
                columns,
                values,
                width,
            } => {
                let rows = &rows[first..first + strip.len() / stride];
                let mut spread = Aligned::zeros(stride);
                each_class(rows, |class, members| {
                    let distance = &values[class * width..(class + 1) * width];
                    for (s, &l) in spread.iter_mut().zip(columns) {
                        // Rounded here, so that the negative price takes it out exactly.
                        *s = price * distance[l];
                    }
                    for &i in members {
                        let row = &mut strip[i * stride..(i + 1) * stride];
                        axpy(level, T::ONE, &spread, row);
                    }
                });
            }
        }
    }

    /// Adds the mass of the plan in rows `first..` (`strip` times the masses `weight` of the
    /// rows) to `moved`.
    pub fn count(
        &self,
        level: Level,
        first: usize,
        (strip, weight): (&[T], &[T]),
        stride: usize,
        moved: &mut Mismatch,
    ) {
        match self {
            Labels::Indicator(rows, columns) => {
                let strip = strip.chunks_exact(stride);
                for ((row, &a), &label) in strip.zip(weight).zip(&rows[first..]) {
                    if a != T::ZERO {
                        moved.total += a.to_f64() * mismatch(level, row, label, columns).to_f64();
                    }
                }
            }
            Labels::Distance {
                rows,
                columns,
                values,
                width,
            } => {
                moved.by_class.resize(values.len(), 0.0);
                let rows = &rows[first..first + weight.len()];
                let mut mass = Aligned::zeros(stride);
                each_class(rows, |class, members| {
                    mass.fill(T::ZERO);
                    for &i in members {
                        if weight[i] != T::ZERO {
                            let row = &strip[i * stride..(i + 1) * stride];
                            axpy(level, weight[i], row, &mut mass);
                        }
                    }
                    let by_class = &mut moved.by_class[class * width..(class + 1) * width];
                    for (&p, &l) in mass.iter().zip(columns) {
                        by_class[l] += p.to_f64();
                    }
                });
            }
        }
    }

    /// `sum P D` from the mass of all rows.
    #[must_use]
    pub fn mismatch(&self, moved: &Mismatch) -> f64 {
        match self {
            Labels::Indicator(..) => moved.total,
            Labels::Distance { values, .. } => {
                let terms = values.iter().zip(&moved.by_class);
                terms.map(|(d, mass)| d.to_f64() * mass).sum()
            }
        }
    }
}

/// Calls `work` for each class among `rows` with the places where it stands: what depends on the
/// class alone is then made once for all of them.
fn each_class(rows: &[usize], mut work: impl FnMut(usize, &[usize])) {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| rows[i]);
    for members in order.chunk_by(|&i, &k| rows[i] == rows[k]) {
        work(rows[members[0]], members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::available;

    #[test]
    fn distance_and_mass_by_their_definitions() {
        let (x, y) = ([1i64, 0, 1], [2i64, 0, 1, 1]);
        let d = [0.5f64, 1.0, 2.0, 3.0, 4.0, 5.0];
        let labels = Labels::new(
            &x,
            &y,
            Some(ClassDistance {
                values: &d,
                width: 3,
            }),
        );
        let stride = crate::buffer::padded(4);
        let weight = [0.25, 0.5, 0.125];
        for level in available() {
            let mut strip = vec![1.0; 2 * stride];
            labels.add(level, 1, 10.0, &mut strip, stride);
            for (r, &k) in x[1..].iter().enumerate() {
                for (j, &l) in y.iter().enumerate() {
                    let want = 1.0 + 10.0 * d[k as usize * 3 + l as usize];
                    assert_eq!(strip[r * stride + j], want);
                }
            }
            let plan: Vec<f64> = (0..3 * stride)
                .map(|i| {
                    if i % stride < 4 {
                        (i % stride + i / stride) as f64
                    } else {
                        0.0
                    }
                })
                .collect();
            let mut moved = Mismatch::default();
            labels.count(level, 0, (&plan, &weight), stride, &mut moved);
            let mut want = [0.0; 6];
            for (i, &k) in x.iter().enumerate() {
                for (j, &l) in y.iter().enumerate() {
                    want[k as usize * 3 + l as usize] += weight[i] * (i + j) as f64;
                }
            }
            assert_eq!(moved.by_class, want);
            let total: f64 = want.iter().zip(&d).map(|(p, d)| p * d).sum();
            assert!((labels.mismatch(&moved) - total).abs() < 1e-12);
        }
    }
}

//! A dense float64 log-domain loop written from the formulas.

use super::*;

/// The ground cost by its definition.
pub(crate) fn cost(cost: Cost, x: &[f64], y: &[f64]) -> f64 {
    let unit = |v: &[f64]| {
        let r = v.iter().map(|t| t * t).sum::<f64>().sqrt();
        v.iter()
            .map(|t| if r > 0.0 { t / r } else { 0.0 })
            .collect::<Vec<_>>()
    };
    let square = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| (p - q).powi(2)).sum::<f64>();
    match cost {
        Cost::SqEuclidean => square(x, y),
        Cost::Euclidean => square(x, y).sqrt(),
        Cost::Cosine => square(&unit(x), &unit(y)) / 2.0,
        Cost::Chordal => square(&unit(x), &unit(y)).sqrt(),
        Cost::L1 => x.iter().zip(y).map(|(p, q)| (p - q).abs()).sum(),
    }
}

/// A dense problem.
#[derive(Clone)]
pub(crate) struct Dense {
    pub c: Vec<Vec<f64>>,
    pub a: Vec<f64>,
    pub b: Vec<f64>,
    pub epsilon: f64,
    pub reach: (f64, f64),
    /// A self-term: the two-sided loop would converge slowly.
    pub symmetric: bool,
}

/// Its solution.
pub(crate) struct Solved {
    pub value: f64,
    pub f: Vec<f64>,
    pub g: Vec<f64>,
    pub plan: Vec<Vec<f64>>,
}

impl Dense {
    pub(crate) fn new(problem: &Problem<f64>) -> Self {
        let (n, m) = (problem.a.len(), problem.b.len());
        let c = match problem.costs {
            Costs::Matrix(c) => c.chunks(m).map(<[f64]>::to_vec).collect(),
            Costs::Points {
                cost: kind,
                dim,
                x,
                y,
                x_label,
                y_label,
                distance,
            } => {
                let (y, y_label) = match y {
                    Some(y) => (y, y_label),
                    None => (x, x_label),
                };
                let entry = |i: usize, j: usize| {
                    let apart = x_label.zip(y_label).map_or(0.0, |(p, q)| match distance {
                        Some(d) => d.values[p[i] as usize * d.width + q[j] as usize],
                        None => f64::from(p[i] != q[j]),
                    });
                    cost(kind, &x[i * dim..(i + 1) * dim], &y[j * dim..(j + 1) * dim])
                        + problem.label_cost * apart
                };
                (0..n)
                    .map(|i| (0..m).map(|j| entry(i, j)).collect())
                    .collect()
            }
        };
        Self {
            c,
            a: problem.a.to_vec(),
            b: problem.b.to_vec(),
            epsilon: problem.epsilon,
            reach: (problem.reach_x, problem.reach_y),
            symmetric: problem.symmetric(),
        }
    }

    pub(crate) fn solve(&self, iterations: usize) -> Solved {
        let (n, m, e) = (self.a.len(), self.b.len(), self.epsilon);
        let tau = |r: f64| if r.is_infinite() { 1.0 } else { r / (r + e) };
        let (mut f, mut g) = (vec![0.0; n], vec![0.0; m]);
        let lse = |terms: &mut dyn Iterator<Item = f64>| {
            let z: Vec<f64> = terms.collect();
            let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            top + z.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
        };
        for _ in 0..iterations {
            for (i, f) in f.iter_mut().enumerate() {
                let mut z = (0..m).map(|j| (g[j] - self.c[i][j]) / e + self.b[j].ln());
                *f = -tau(self.reach.0) * e * lse(&mut z);
            }
            if self.symmetric {
                for (g, f) in g.iter_mut().zip(&mut f) {
                    *g = (*g + *f) / 2.0;
                    *f = *g;
                }
                continue;
            }
            for (j, g) in g.iter_mut().enumerate() {
                let mut z = (0..n).map(|i| (f[i] - self.c[i][j]) / e + self.a[i].ln());
                *g = -tau(self.reach.1) * e * lse(&mut z);
            }
        }
        let plan: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                (0..m)
                    .map(|j| self.a[i] * self.b[j] * ((f[i] + g[j] - self.c[i][j]) / e).exp())
                    .collect()
            })
            .collect();
        let phi = |w: &[f64], p: &[f64], r: f64| -> f64 {
            w.iter()
                .zip(p)
                .map(|(w, p)| {
                    if r.is_infinite() {
                        w * p
                    } else {
                        w * r * (1.0 - (-p / r).exp())
                    }
                })
                .sum()
        };
        let mass = |w: &[f64]| w.iter().sum::<f64>();
        let value = phi(&self.a, &f, self.reach.0) + phi(&self.b, &g, self.reach.1)
            - e * (plan.iter().map(|r| mass(r)).sum::<f64>() - mass(&self.a) * mass(&self.b));
        Solved { value, f, g, plan }
    }

    pub(crate) fn transport(&self, plan: &[Vec<f64>]) -> f64 {
        let rows = plan.iter().zip(&self.c);
        rows.map(|(p, c)| p.iter().zip(c).map(|(p, c)| p * c).sum::<f64>())
            .sum()
    }
}

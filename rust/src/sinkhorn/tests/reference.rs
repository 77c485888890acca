//! Comparisons with the dense reference.

use crate::cost::ClassDistance;

use super::dense::{Dense, Solved, cost};
use super::*;

struct Data {
    x: Vec<f64>,
    y: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    x_label: Vec<i64>,
    y_label: Vec<i64>,
    /// Between three classes.
    distance: Option<Vec<f64>>,
    dim: usize,
}

impl Data {
    /// The same with a class distance, symmetric and with costs inside a class.
    fn with_distance(mut self) -> Self {
        let labels = self.x_label.iter_mut().chain(self.y_label.iter_mut());
        labels.for_each(|l| *l += 1);
        self.distance = Some(vec![0.1, 0.9, 0.4, 0.9, 0.0, 0.6, 0.4, 0.6, -0.3]);
        self
    }
}

/// Everything in memory; the kernel alone; nothing, in strips of an odd number of rows.
fn tiers<T>(options: &Options, n: usize, m: usize) -> [Options; 3] {
    let kernel = Options {
        budget: n * crate::buffer::padded(m) * size_of::<T>(),
        strip: 5,
        ..*options
    };
    let nothing = Options {
        budget: 0,
        strip: 7,
        ..*options
    };
    [*options, kernel, nothing]
}

fn data(seed: u64, n: usize, m: usize, dim: usize) -> Data {
    let mut stream = Stream(seed);
    let x: Vec<f64> = stream.points(n, dim);
    let y: Vec<f64> = stream
        .points::<f64>(m, dim)
        .iter()
        .map(|v| v + 0.5)
        .collect();
    Data {
        a: stream.weights(n, 1.0),
        b: stream.weights(m, 1.0),
        x_label: (0..n as i64).map(|i| i % 3 - 1).collect(),
        y_label: (0..m as i64).map(|j| j * j % 3 - 1).collect(),
        x,
        y,
        distance: None,
        dim,
    }
}

fn cast<T: Real>(v: &[f64]) -> Vec<T> {
    v.iter().map(|&t| T::from_f64(t)).collect()
}

/// Everything a solution says, against the dense loop and against finite differences of the plan's
/// cost (the envelope gradient).
fn compare<T: Real>(
    d: &Data,
    kind: Cost,
    symmetric: bool,
    reach: (f64, f64),
    labels: bool,
    options: &Options,
    tolerance: f64,
) {
    fn distance<T>(values: Option<&[T]>) -> Option<ClassDistance<'_, T>> {
        values.map(|values| ClassDistance { values, width: 3 })
    }
    let problem = Problem {
        costs: Costs::Points {
            cost: kind,
            dim: d.dim,
            x: &d.x,
            y: (!symmetric).then_some(&d.y),
            x_label: labels.then_some(&d.x_label),
            y_label: labels.then_some(&d.y_label),
            distance: distance(d.distance.as_deref()),
        },
        a: &d.a,
        b: if symmetric { &d.a } else { &d.b },
        f0: None,
        g0: None,
        epsilon: 0.5,
        reach_x: reach.0,
        reach_y: if symmetric { reach.0 } else { reach.1 },
        label_cost: 0.8,
    };
    let dense = Dense::new(&problem);
    let want = dense.solve(3000);
    let (x, y, a, b) = (
        cast::<T>(&d.x),
        cast::<T>(&d.y),
        cast::<T>(&d.a),
        cast::<T>(problem.b),
    );
    let given = d.distance.as_deref().map(cast::<T>);
    let solved = Problem {
        costs: Costs::Points {
            cost: kind,
            dim: d.dim,
            x: &x,
            y: (!symmetric).then_some(&y),
            x_label: labels.then_some(&d.x_label),
            y_label: labels.then_some(&d.y_label),
            distance: distance(given.as_deref()),
        },
        a: &a,
        b: &b,
        f0: None,
        g0: None,
        epsilon: problem.epsilon,
        reach_x: problem.reach_x,
        reach_y: problem.reach_y,
        label_cost: problem.label_cost,
    };
    for options in tiers::<T>(options, a.len(), b.len()) {
        let s = solve(&solved, &options);
        check(d, &problem, (&dense, &want), &s, tolerance);
    }
}

/// One solution against the dense one.
fn check<T: Real>(
    d: &Data,
    problem: &Problem<f64>,
    (dense, want): (&Dense, &Solved),
    s: &Solution<T>,
    tolerance: f64,
) {
    let reach = (problem.reach_x, problem.reach_y);
    let symmetric = problem.symmetric();
    let Costs::Points {
        cost: kind,
        x_label,
        ..
    } = problem.costs
    else {
        unreachable!("points")
    };
    assert!(
        s.converged,
        "{kind:?} {reach:?}: {} sweeps, residual {:e}",
        s.iterations, s.residual
    );
    close(s.value, want.value, tolerance);
    close(s.transport, dense.transport(&want.plan), tolerance);
    let gauge = if reach.0.is_infinite() && reach.1.is_infinite() {
        want.f[0] - s.f[0].to_f64()
    } else {
        0.0
    };
    let shifted: Vec<f64> = want.f.iter().map(|f| f - gauge).collect();
    all_close(&s.f, &shifted, 20.0 * tolerance);
    let shifted: Vec<f64> = want.g.iter().map(|g| g + gauge).collect();
    all_close(&s.g, &shifted, 20.0 * tolerance);
    let rows: Vec<f64> = want.plan.iter().map(|r| r.iter().sum()).collect();
    for (i, r) in rows.iter().enumerate() {
        close(s.row[i].to_f64() * d.a[i], *r, tolerance);
        let relaxed = d.a[i] * (-want.f[i] / problem.reach_x).exp();
        close(*r, relaxed, 1e-9);
    }
    for j in 0..problem.b.len() {
        let sum: f64 = want.plan.iter().map(|r| r[j]).sum();
        close(s.column[j].to_f64() * problem.b[j], sum, tolerance);
    }
    if let Some(x_label) = x_label {
        let other = if symmetric { &d.x_label } else { &d.y_label };
        let mut moved = 0.0;
        let mut mass = [0.0; 9];
        for (i, row) in want.plan.iter().enumerate() {
            for (j, p) in row.iter().enumerate() {
                let (k, l) = (x_label[i], other[j]);
                moved += match &d.distance {
                    None => f64::from(k != l) * p,
                    Some(distance) => {
                        let place = 3 * k as usize + l as usize;
                        mass[place] += p;
                        distance[place] * p
                    }
                };
            }
        }
        close(s.mismatch, moved, tolerance);
        if d.distance.is_some() {
            all_close(&s.class_mass, &mass, tolerance);
        }
    }
    check_gradients(d, kind, symmetric, &want.plan, s, tolerance);
}

fn check_gradients<T: Real>(
    d: &Data,
    kind: Cost,
    symmetric: bool,
    plan: &[Vec<f64>],
    s: &Solution<T>,
    tolerance: f64,
) {
    let dim = d.dim;
    let step = 1e-6;
    let moved = |points: &[f64], place: usize, by: f64| {
        let mut p = points.to_vec();
        p[place] += by;
        p
    };
    let total = |x: &[f64], y: &[f64]| {
        let mut sum = 0.0;
        for (p, row) in x.chunks(dim).zip(plan) {
            for (q, mass) in y.chunks(dim).zip(row) {
                sum += mass * cost(kind, p, q);
            }
        }
        sum
    };
    let slope = |f: &dyn Fn(f64) -> f64| (f(step) - f(-step)) / (2.0 * step);
    for place in [0, 1, d.x.len() / 2, d.x.len() - 1] {
        let got = s.grad_x[place].to_f64();
        let want = slope(&|t| {
            let x = moved(&d.x, place, t);
            if symmetric {
                total(&x, &x)
            } else {
                total(&x, &d.y)
            }
        });
        close(got, want, tolerance.max(1e-8));
    }
    if symmetric {
        assert!(s.grad_y.is_empty());
        return;
    }
    for place in [0, d.y.len() / 2, d.y.len() - 1] {
        let want = slope(&|t| total(&d.x, &moved(&d.y, place, t)));
        close(s.grad_y[place].to_f64(), want, tolerance.max(1e-8));
    }
}

const STRICT: f64 = f64::INFINITY;

#[test]
fn agrees_in_every_mode() {
    let d = data(1, 23, 37, 3);
    for kind in Cost::ALL {
        for reach in [
            (STRICT, STRICT),
            (0.7, 0.7),
            (STRICT, 2.0),
            (0.3, STRICT),
            (5.0, 0.2),
        ] {
            for labels in [false, true] {
                compare::<f64>(&d, kind, false, reach, labels, &tight(), 1e-9);
            }
        }
        for reach in [STRICT, 0.7] {
            for labels in [false, true] {
                compare::<f64>(&d, kind, true, (reach, reach), labels, &tight(), 1e-9);
            }
        }
    }
}

#[test]
fn agrees_with_a_class_distance() {
    let d = data(12, 21, 34, 4).with_distance();
    for kind in Cost::ALL {
        for reach in [(STRICT, STRICT), (0.7, STRICT)] {
            compare::<f64>(&d, kind, false, reach, true, &tight(), 1e-9);
        }
        compare::<f64>(&d, kind, true, (STRICT, STRICT), true, &tight(), 1e-9);
    }
    for level in available() {
        let options = Options {
            tol: 2e-6,
            level,
            ..tight()
        };
        compare::<f32>(
            &d,
            Cost::Euclidean,
            false,
            (STRICT, STRICT),
            true,
            &options,
            3e-5,
        );
    }
}

#[test]
fn agrees_in_single_precision_and_on_every_level() {
    let d = data(2, 40, 33, 5);
    for level in available() {
        let options = Options {
            tol: 2e-6,
            level,
            ..tight()
        };
        for kind in Cost::ALL {
            for reach in [(STRICT, STRICT), (0.7, 0.7), (STRICT, 2.0)] {
                compare::<f32>(&d, kind, false, reach, true, &options, 3e-5);
            }
            compare::<f32>(&d, kind, true, (STRICT, STRICT), true, &options, 3e-5);
        }
        compare::<f64>(
            &d,
            Cost::Euclidean,
            false,
            (STRICT, STRICT),
            true,
            &Options { level, ..tight() },
            1e-9,
        );
    }
}

#[test]
fn small_epsilon_in_single_precision() {
    let d = data(3, 60, 50, 8);
    let (a, b) = (uniform::<f64>(60), uniform::<f64>(50));
    let problem = between(Cost::SqEuclidean, 8, (&d.x, &a), (Some(&d.y), &b), 0.016);
    let dense = Dense::new(&problem);
    let want = dense.solve(15_000);
    let (x, y) = (cast::<f32>(&d.x), cast::<f32>(&d.y));
    let (a, b) = (uniform::<f32>(60), uniform::<f32>(50));
    for accelerate in [false, true] {
        let s = solve(
            &between(Cost::SqEuclidean, 8, (&x, &a), (Some(&y), &b), 0.016),
            &Options {
                tol: 1e-4,
                accelerate,
                ..tight()
            },
        );
        assert!(s.converged, "{} {:e}", s.iterations, s.residual);
        close(s.value, want.value, 1e-4 * want.value);
        close(s.transport, dense.transport(&want.plan), 2e-3);
    }
}

#[test]
fn a_given_matrix() {
    let d = data(4, 12, 19, 2);
    let problem = between(Cost::L1, 2, (&d.x, &d.a), (Some(&d.y), &d.b), 0.4);
    let dense = Dense::new(&problem);
    let matrix: Vec<f64> = dense.c.concat();
    for reach in [STRICT, 0.6] {
        let mut given = with_matrix(&matrix, &d.a, &d.b, 0.4);
        (given.reach_x, given.reach_y) = (reach, reach);
        let want = Dense::new(&given).solve(3000);
        let s = solve(
            &given,
            &Options {
                want_plan: true,
                ..tight()
            },
        );
        close(s.value, want.value, 1e-10);
        all_close(&s.plan, &want.plan.concat(), 1e-10);
    }
}

//! Invariances and options.

use super::*;

#[test]
fn translation() {
    let mut stream = Stream(11);
    let (x, y) = (stream.points::<f64>(20, 2), stream.points::<f64>(30, 2));
    let t = [0.7, -1.3];
    let moved: Vec<f64> = y
        .chunks(2)
        .flat_map(|p| [p[0] + t[0], p[1] + t[1]])
        .collect();
    let mean = |v: &[f64], k: usize| v.chunks(2).map(|p| p[k]).sum::<f64>() / (v.len() / 2) as f64;
    let before = solve_points(&x, &y, 2, 0.5, &tight()).value;
    let after = solve_points(&x, &moved, 2, 0.5, &tight()).value;
    let change: f64 = (0..2)
        .map(|k| t[k] * t[k] - 2.0 * t[k] * (mean(&x, k) - mean(&y, k)))
        .sum();
    close(after, before + change, 1e-10);
}

#[test]
fn scale() {
    let mut stream = Stream(12);
    let (x, y) = (stream.points::<f64>(20, 2), stream.points::<f64>(30, 2));
    let big = |v: &[f64]| v.iter().map(|t| 3.0 * t).collect::<Vec<_>>();
    let small = solve_points(&x, &y, 2, 0.5, &tight()).value;
    let large = solve_points(&big(&x), &big(&y), 2, 4.5, &tight()).value;
    close(large, 9.0 * small, 1e-9);
    // Units of the mean cost: the same problem whatever the scale.
    let relative = Options {
        relative: true,
        ..tight()
    };
    let one = solve_points(&x, &y, 2, 0.1, &relative);
    let three = solve_points(&big(&x), &big(&y), 2, 0.1, &relative);
    close(three.value, 9.0 * one.value, 1e-9);
    close(three.scale, 9.0 * one.scale, 1e-9);
}

#[test]
fn product_measures_add_up() {
    let mut stream = Stream(13);
    let (u, v) = (stream.points::<f64>(5, 1), stream.points::<f64>(4, 1));
    let (p, q) = (stream.points::<f64>(3, 1), stream.points::<f64>(6, 1));
    let product = |s: &[f64], t: &[f64]| {
        s.iter()
            .flat_map(|&a| t.iter().flat_map(move |&b| [a, b]))
            .collect::<Vec<_>>()
    };
    let whole = solve_points(&product(&u, &p), &product(&v, &q), 2, 0.3, &tight()).value;
    let parts =
        solve_points(&u, &v, 1, 0.3, &tight()).value + solve_points(&p, &q, 1, 0.3, &tight()).value;
    close(whole, parts, 1e-10);
}

#[test]
fn split_points_and_points_without_mass() {
    let mut stream = Stream(14);
    let (x, y) = (stream.points::<f64>(9, 2), stream.points::<f64>(7, 2));
    let (a, b) = (stream.weights::<f64>(9, 1.0), stream.weights::<f64>(7, 1.0));
    for reach in [f64::INFINITY, 0.5] {
        for symmetric in [false, true] {
            let run = |x: &[f64], a: &[f64], y: &[f64], b: &[f64]| {
                let right = if symmetric { (None, a) } else { (Some(y), b) };
                let mut p = between(Cost::SqEuclidean, 2, (x, a), right, 0.4);
                (p.reach_x, p.reach_y) = (reach, reach);
                solve(&p, &tight())
            };
            let plain = run(&x, &a, &y, &b);
            let mut split = (x.clone(), a.clone());
            split.0.extend_from_slice(&x[..2]);
            split.1.push(0.7 * a[0]);
            split.1[0] *= 0.3;
            close(run(&split.0, &split.1, &y, &b).value, plain.value, 1e-10);
            // Far away, or exactly on a point of the other cloud.
            let padded = |v: &[f64]| [v, &[1e3, -1e3, y[0], y[1]]].concat();
            let weights = |w: &[f64]| [w, &[0.0, 0.0]].concat();
            let s = run(&padded(&x), &weights(&a), &padded(&y), &weights(&b));
            close(s.value, plain.value, 1e-9);
            all_close(&s.f[..9], &plain.f, 1e-9);
            all_close(&s.grad_x[..18], &plain.grad_x, 1e-9);
            all_close(&s.grad_x[18..], &[0.0; 4], 1e-12);
            // The potential there is the transform: the derivative of the value in that weight.
            if !symmetric {
                let n = 9;
                let lse: f64 = (0..7)
                    .map(|j| {
                        let c = (0..2).map(|k| (y[k] - y[2 * j + k]).powi(2)).sum::<f64>();
                        b[j] * ((plain.g[j] - c) / 0.4).exp()
                    })
                    .sum();
                let tau = if reach.is_infinite() {
                    1.0
                } else {
                    reach / (reach + 0.4)
                };
                close(s.f[n + 1], -tau * 0.4 * lse.ln(), 1e-9);
                let lse: f64 = (0..9)
                    .map(|i| {
                        let c = (0..2).map(|k| (y[k] - x[2 * i + k]).powi(2)).sum::<f64>();
                        a[i] * ((plain.f[i] - c) / 0.4).exp()
                    })
                    .sum();
                close(s.g[7 + 1], -tau * 0.4 * lse.ln(), 1e-9);
            }
        }
    }
}

#[test]
fn restart_from_the_solution() {
    let mut stream = Stream(16);
    let (x, y) = (stream.points::<f64>(50, 3), stream.points::<f64>(40, 3));
    let (a, b) = (uniform(50), uniform(40));
    for reach in [f64::INFINITY, 3.0] {
        let mut p = between(Cost::SqEuclidean, 3, (&x, &a), (Some(&y), &b), 0.1);
        (p.reach_x, p.reach_y) = (reach, reach);
        let options = Options {
            tol: 1e-8,
            ..tight()
        };
        let first = solve(&p, &options);
        assert!(first.converged && first.iterations > 5);
        let (f, g) = (first.f.clone(), first.g.clone());
        p.g0 = Some(&g);
        assert_eq!(solve(&p, &options).iterations, 1);
        p.g0 = None;
        p.f0 = Some(&f);
        assert!(solve(&p, &options).iterations <= 2);
    }
}

#[test]
fn zero_tolerance_runs_every_iteration() {
    let mut stream = Stream(17);
    let (x, y) = (stream.points::<f32>(8, 3), stream.points::<f32>(9, 3));
    for max_iter in [1, 2, 7, 500] {
        let options = Options {
            tol: 0.0,
            max_iter,
            ..Options::default()
        };
        assert_eq!(solve_points(&x, &y, 3, 0.5, &options).iterations, max_iter);
    }
}

#[test]
fn acceleration_saves_iterations_and_changes_nothing_else() {
    let mut stream = Stream(18);
    let (x, y) = (stream.points::<f64>(100, 8), stream.points::<f64>(90, 8));
    let options = Options {
        relative: true,
        tol: 1e-8,
        ..tight()
    };
    let plain = solve_points(
        &x,
        &y,
        8,
        0.02,
        &Options {
            accelerate: false,
            ..options
        },
    );
    let fast = solve_points(&x, &y, 8, 0.02, &options);
    assert!(plain.converged && fast.converged);
    assert!(
        2 * fast.iterations < plain.iterations,
        "{} {}",
        fast.iterations,
        plain.iterations
    );
    close(fast.value, plain.value, 1e-7);
}

#[test]
fn threads_and_batches_agree() {
    let mut stream = Stream(19);
    let clouds: Vec<_> = (0..3)
        .map(|_| (stream.points::<f64>(300, 4), stream.points::<f64>(257, 4)))
        .collect();
    let (a, b) = (uniform(300), uniform(257));
    for cost in [Cost::SqEuclidean, Cost::Euclidean, Cost::L1, Cost::Cosine] {
        for symmetric in [false, true] {
            let problems: Vec<_> = clouds
                .iter()
                .map(|(x, y)| {
                    let right = if symmetric {
                        (None, &a[..])
                    } else {
                        (Some(&y[..]), &b[..])
                    };
                    between(cost, 4, (x, &a), right, 0.3)
                })
                .collect();
            let run = |threads, count: usize| {
                let options = Options {
                    threads,
                    tol: 1e-9,
                    ..tight()
                };
                let first = solve_all(&problems[..count], &options);
                let again = solve_all(&problems[..count], &options);
                for (p, q) in first.iter().zip(&again) {
                    assert!(
                        p.f == q.f && p.grad_x[..] == q.grad_x[..],
                        "not deterministic"
                    );
                }
                first
            };
            let one = run(1, 3);
            for threads in [2, 3] {
                for count in [1, 3] {
                    for (p, q) in one.iter().zip(run(threads, count)) {
                        close(q.value, p.value, 1e-9);
                        all_close(&q.grad_x, &p.grad_x, 1e-9);
                        all_close(&q.grad_y, &p.grad_y, 1e-9);
                        all_close(&q.row, &p.row, 1e-7);
                        all_close(&q.column, &p.column, 1e-7);
                    }
                }
            }
        }
    }
}

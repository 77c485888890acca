//! Matrices kept or computed anew: the same solution; and what rests on the same strips.

use crate::interrupt::Interrupt;
use crate::sinkhorn::{Transform, plan_apply, softmin};

use super::*;

/// Everything in memory against strips, at sizes around those of lane arrays and strips.
#[allow(clippy::float_cmp)]
fn agree<T: Real>(n: usize, m: usize, dim: usize, options: &Options, tolerance: f64) {
    let mut stream = Stream((n * 1000 + m * 10 + dim) as u64);
    let (x, y) = (stream.points::<T>(n, dim), stream.points::<T>(m, dim));
    let (mut a, b) = (stream.weights::<T>(n, 1.0), stream.weights::<T>(m, 1.0));
    if n > 2 {
        a[1] = T::ZERO;
        let sum: f64 = a.iter().map(|w| w.to_f64()).sum();
        a.iter_mut().for_each(|w| *w /= T::from_f64(sum));
    }
    for kind in Cost::ALL {
        for y in [Some(&y[..]), None] {
            let b = if y.is_some() { &b } else { &a };
            let p = between(kind, dim, (&x, &a), (y, b), 0.2);
            let want = solve(&p, options);
            for (budget, strip) in [(0, 0), (0, 5), (n * crate::buffer::padded(m) * 8, 0)] {
                let streaming = Options {
                    budget,
                    strip,
                    threads: 2,
                    ..*options
                };
                let s = solver::solve(&p, &streaming, 2, &Interrupt::never());
                let scale = want.scale.max(1.0);
                close(s.scale, want.scale, tolerance * scale);
                close(s.value, want.value, tolerance * scale);
                close(s.transport, want.transport, tolerance * scale);
                let pairs = [
                    (&s.f[..], &want.f[..]),
                    (&s.g[..], &want.g[..]),
                    (&s.row[..], &want.row[..]),
                    (&s.column[..], &want.column[..]),
                    (&s.grad_x[..], &want.grad_x[..]),
                    (&s.grad_y[..], &want.grad_y[..]),
                ];
                for (got, want) in pairs {
                    let want: Vec<f64> = want.iter().map(|v| v.to_f64()).collect();
                    all_close(got, &want, 30.0 * tolerance * scale);
                }
            }
        }
    }
}

#[test]
fn strips_give_the_same_solution() {
    for (n, m, dim) in [
        (1, 1, 1),
        (2, 17, 3),
        (17, 2, 3),
        (129, 33, 1),
        (40, 127, 100),
    ] {
        let options = Options {
            relative: true,
            tol: 1e-11,
            ..tight()
        };
        agree::<f64>(n, m, dim, &options, 1e-9);
    }
    for level in available() {
        let options = Options {
            relative: true,
            level,
            tol: 1e-5,
            ..tight()
        };
        agree::<f32>(31, 45, 3, &options, 2e-4);
        let tol = 1e-11;
        agree::<f64>(17, 40, 5, &Options { tol, ..options }, 1e-9);
    }
}

#[test]
fn a_matrix_beyond_the_budget() {
    let mut stream = Stream(5);
    let matrix: Vec<f64> = (0..13 * 21).map(|_| stream.next() + 1.0).collect();
    let (a, b) = (stream.weights(13, 1.0), stream.weights(21, 1.0));
    let p = with_matrix(&matrix, &a, &b, 0.1);
    let options = Options {
        want_plan: true,
        ..tight()
    };
    let want = solve(&p, &options);
    let s = solve(
        &p,
        &Options {
            budget: 0,
            strip: 4,
            ..options
        },
    );
    close(s.value, want.value, 1e-10);
    all_close(&s.plan, &want.plan, 1e-10);
}

#[test]
fn transforms_by_their_definitions() {
    fn check<T: Real>(tolerance: f64, level: crate::simd::Level) {
        let (n, m, dim, width) = (19, 35, 3, 2);
        let mut stream = Stream(77);
        let (x, y) = (stream.points::<T>(n, dim), stream.points::<T>(m, dim));
        let (a, mut b) = (stream.weights::<T>(n, 1.0), stream.weights::<T>(m, 1.0));
        b[3] = T::ZERO;
        let (f, g) = (stream.points::<T>(n, 1), stream.points::<T>(m, 1));
        let values = stream.points::<T>(m, width);
        let in_double = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
        let (x64, y64) = (in_double(&x), in_double(&y));
        for kind in Cost::ALL {
            let t = Transform {
                costs: between(kind, dim, (&x, &a), (Some(&y), &b), 0.3).costs,
                a: &a,
                b: &b,
                f: Some(&f),
                g: &g,
                epsilon: 0.3,
                label_cost: 0.0,
            };
            let c = |i: usize, j: usize| {
                let (p, q) = (&x64[i * dim..(i + 1) * dim], &y64[j * dim..(j + 1) * dim]);
                dense::cost(kind, p, q)
            };
            let term = |i, j: usize| b[j].to_f64() * ((g[j].to_f64() - c(i, j)) / 0.3).exp();
            let mut soft = vec![0.0; n];
            let mut applied = vec![0.0; n * width];
            let mut means = vec![0.0; n * width];
            for i in 0..n {
                let sum: f64 = (0..m).map(|j| term(i, j)).sum();
                soft[i] = -0.3 * sum.ln();
                for j in 0..m {
                    let p = a[i].to_f64() * (f[i].to_f64() / 0.3).exp() * term(i, j);
                    for k in 0..width {
                        applied[i * width + k] += p * values[j * width + k].to_f64();
                        means[i * width + k] += term(i, j) / sum * values[j * width + k].to_f64();
                    }
                }
            }
            let most = applied.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
            for (strip, threads) in [(0, 1), (4, 3)] {
                let options = Options {
                    strip,
                    threads,
                    level,
                    ..Options::default()
                };
                let never = Interrupt::never();
                let got = softmin(&[t, t], &options, &never).expect("not interrupted");
                got.iter().for_each(|g| all_close(g, &soft, tolerance));
                let got = plan_apply(&[t], &[&values], width, &options, &never);
                all_close(
                    &got.expect("not interrupted")[0],
                    &applied,
                    tolerance * most,
                );
                let conditional = Transform { f: None, ..t };
                let got = plan_apply(&[conditional], &[&values], width, &options, &never);
                all_close(&got.expect("not interrupted")[0], &means, 10.0 * tolerance);
            }
        }
    }
    for level in available() {
        check::<f64>(1e-11, level);
        check::<f32>(2e-5, level);
    }
}

#[test]
fn an_interrupt_ends_a_solve_soon() {
    let mut stream = Stream(3);
    let n = 1100;
    let x = stream.points::<f32>(n, 3);
    let w = uniform::<f32>(n);
    let p = between(Cost::Euclidean, 3, (&x, &w), (Some(&x), &w), 0.01);
    let options = Options {
        tol: 0.0,
        max_iter: usize::MAX,
        threads: 2,
        ..Options::default()
    };
    for (budget, count) in [(usize::MAX, 1), (0, 1), (usize::MAX, 3)] {
        let options = Options { budget, ..options };
        let start = std::time::Instant::now();
        let ask = || true;
        let problems = vec![p; count];
        let result = solve_until(&problems, &options, &Interrupt::new(&ask));
        assert!(result.is_none());
        assert!(start.elapsed().as_secs_f64() < 1.0);
    }
}

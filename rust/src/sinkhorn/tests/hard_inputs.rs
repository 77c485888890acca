//! Inputs that are legal but hard, and NaN.

use super::*;

#[test]
fn shift_of_all_points_in_single_precision() {
    let mut stream = Stream(15);
    let (x, y) = (stream.points::<f32>(40, 4), stream.points::<f32>(30, 4));
    // Rounded to multiples of 2^-12, so that the shift itself is exact.
    let rounded = |v: &[f32]| {
        v.iter()
            .map(|t| (t * 4096.0).round() / 4096.0)
            .collect::<Vec<_>>()
    };
    let shifted = |v: &[f32]| v.iter().map(|t| t + 100.0).collect::<Vec<_>>();
    let (x, y) = (rounded(&x), rounded(&y));
    let options = Options {
        tol: 1e-6,
        ..tight()
    };
    let here = solve_points(&x, &y, 4, 0.5, &options);
    let there = solve_points(&shifted(&x), &shifted(&y), 4, 0.5, &options);
    close(there.value, here.value, 1e-5 * here.value);
    let want: Vec<f64> = here.grad_x.iter().map(|g| f64::from(*g)).collect();
    all_close(&there.grad_x, &want, 1e-5);
}

#[test]
fn hard_but_legal_inputs_stay_finite() {
    let options = Options {
        relative: true,
        tol: 1e-4,
        max_iter: 100,
        want_x: true,
        want_y: true,
        ..Options::default()
    };
    let equal = vec![1.5f32; 12];
    let zero = vec![0.0f32; 12];
    let w = uniform::<f32>(6);
    for cost in Cost::ALL {
        for points in [&equal, &zero] {
            for y in [Some(&points[..]), None] {
                let p = between(cost, 2, (&points[..], &w[..]), (y, &w[..]), 0.05);
                let s = solve(&p, &options);
                let numbers = [&s.f[..], &s.g, &s.row, &s.column, &s.grad_x, &s.grad_y];
                assert!(
                    numbers.iter().all(|v| v.iter().all(|t| t.is_finite())),
                    "{cost:?}"
                );
                assert!(
                    s.value.is_finite() && s.converged,
                    "{cost:?} {}",
                    s.residual
                );
            }
        }
    }
}

#[test]
fn nan_ends_at_once_and_is_reported() {
    let w = uniform::<f32>(3);
    let x = [1.0, 2.0, f32::NAN];
    for y in [Some(&[0.0f32, 1.0, 2.0][..]), None] {
        for relative in [false, true] {
            let options = Options {
                relative,
                ..tight()
            };
            let p = between(Cost::SqEuclidean, 1, (&x, &w), (y, &w), 0.1);
            let s = solve(&p, &options);
            assert!(s.value.is_nan() && s.residual.is_nan() && !s.converged);
            assert!(s.grad_x.iter().all(|g| g.is_nan()) && s.transport.is_nan());
        }
    }
    let mut p = between(
        Cost::SqEuclidean,
        1,
        (&w, &w),
        (Some(&[0.0f32, 1.0, 2.0]), &w),
        f64::NAN,
    );
    assert!(solve(&p, &tight()).value.is_nan());
    (p.epsilon, p.reach_x) = (0.1, f64::NAN);
    let s = solve(&p, &tight());
    assert!(s.residual.is_nan() && s.iterations <= 2);
    // A bad warm start is ignored where it is bad.
    let x = [1.0f32, 2.0, 4.0];
    let mut p = between(
        Cost::SqEuclidean,
        1,
        (&x, &w),
        (Some(&[0.0, 1.0, 2.0]), &w),
        0.1,
    );
    let start = [f32::NAN, f32::INFINITY, 0.0];
    p.g0 = Some(&start);
    assert!(
        solve(
            &p,
            &Options {
                tol: 1e-5,
                ..tight()
            }
        )
        .converged
    );
}

#[test]
fn unequal_masses_and_stiff_relaxation() {
    let mut stream = Stream(20);
    let (x, y) = (stream.points::<f64>(15, 2), stream.points::<f64>(12, 2));
    let (a, b) = (
        stream.weights::<f64>(15, 1.7),
        stream.weights::<f64>(12, 0.6),
    );
    for reach in [
        (50.0, 50.0),
        (f64::INFINITY, 20.0),
        (200.0, f64::INFINITY),
        (0.01, 0.01),
    ] {
        let mut p = between(Cost::SqEuclidean, 2, (&x, &a), (Some(&y), &b), 0.2);
        (p.reach_x, p.reach_y) = reach;
        let s = solve(&p, &tight());
        assert!(
            s.converged && s.iterations < 300,
            "{reach:?} {}",
            s.iterations
        );
        let want = dense::Dense::new(&p).solve(25_000);
        close(s.value, want.value, 1e-8);
        // KKT: the marginals are the relaxed ones.
        for i in 0..15 {
            let wanted = if reach.0.is_infinite() {
                1.0
            } else {
                (-s.f[i] / reach.0).exp()
            };
            close(s.row[i], wanted, 1e-7);
        }
        for j in 0..12 {
            let wanted = if reach.1.is_infinite() {
                1.0
            } else {
                (-s.g[j] / reach.1).exp()
            };
            close(s.column[j], wanted, 1e-7);
        }
    }
}

#[test]
fn costs_that_drown_epsilon_are_solved_in_double_precision() {
    // Costs of 1e6 round to 0.06 in f32: of an epsilon of 0.1 too little is left.
    let mut stream = Stream(16);
    let (n, m, dim) = (7, 9, 3);
    let (x, y) = (stream.points::<f32>(n, dim), stream.points::<f32>(m, dim));
    let x: Vec<f32> = x.iter().map(|t| t + 600.0).collect();
    let (a, b) = (uniform::<f32>(n), uniform::<f32>(m));
    let wide = |v: &[f32]| v.iter().map(|&t| f64::from(t)).collect::<Vec<_>>();
    let (x_wide, y_wide, a_wide, b_wide) = (wide(&x), wide(&y), wide(&a), wide(&b));
    let options = Options {
        tol: 1e-6,
        want_x: true,
        want_plan: true,
        max_iter: 10_000,
        ..Options::default()
    };
    for cost in [Cost::SqEuclidean, Cost::Euclidean, Cost::L1] {
        let epsilon = if cost == Cost::SqEuclidean { 0.1 } else { 1e-4 };
        let problem = between(cost, dim, (&x, &a), (Some(&y), &b), epsilon);
        let solution = solve(&problem, &options);
        let exact = between(
            cost,
            dim,
            (&x_wide, &a_wide),
            (Some(&y_wide), &b_wide),
            epsilon,
        );
        let exact = solve(&exact, &options);
        assert_eq!(solution.iterations, exact.iterations);
        all_close(&solution.plan, &exact.plan, 1e-6);
        for (row, &wanted) in solution.plan.chunks_exact(m).zip(&a) {
            let mass: f32 = row.iter().sum();
            assert!((mass - wanted).abs() < 1e-5, "{cost:?}: {mass}");
        }
    }
}

#[test]
fn an_epsilon_that_drowns_the_costs_leaves_a_divergence() {
    // In the limit the terms of the divergence differ by the costs, and are as large as epsilon.
    let mut stream = Stream(17);
    let (n, m, dim) = (31, 29, 5);
    let (x, y) = (stream.points::<f32>(n, dim), stream.points::<f32>(m, dim));
    let (a, b) = (uniform::<f32>(n), uniform::<f32>(m));
    let mean = |points: &[f32], k: usize| {
        let coordinates = points.iter().skip(k).step_by(dim);
        coordinates.map(|&t| f64::from(t)).sum::<f64>() / (points.len() / dim) as f64
    };
    let limit: f64 = (0..dim).map(|k| (mean(&x, k) - mean(&y, k)).powi(2)).sum();
    for epsilon in [1e5, 1e7, 1e9] {
        let value = |first: (&[f32], &[f32]), second: (Option<&[f32]>, &[f32])| {
            let problem = between(Cost::SqEuclidean, dim, first, second, epsilon);
            solve(&problem, &Options::default()).value
        };
        let own = value((&x, &a), (None, &a)) + value((&y, &b), (None, &b));
        let divergence = value((&x, &a), (Some(&y), &b)) - own / 2.0;
        assert!(
            (divergence - limit).abs() < 1e-3 * limit,
            "{epsilon}: {divergence} for {limit}"
        );
    }
}

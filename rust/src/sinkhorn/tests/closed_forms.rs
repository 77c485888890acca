//! Problems with a known solution.

use super::*;

#[test]
fn two_points_each() {
    let half = [0.5, 0.5];
    let matrix = [0.0, 1.0, 1.0, 0.0];
    let options = Options {
        want_plan: true,
        ..tight()
    };
    let s = solve(&with_matrix(&matrix, &half, &half, 1.0), &options);
    assert!(s.converged);
    close(s.value, 0.379_885_493, 1e-9);
    close(s.plan[0], 0.365_529_29, 1e-8);
    close(s.plan[1], 0.134_470_71, 1e-8);
    // Envelope: the derivative in epsilon is the relative entropy, (value - <P, C>) / eps.
    close(s.value - s.transport, 0.110_944_071_7, 1e-9);
    let s = solve(&with_matrix(&matrix, &half, &half, 0.1), &options);
    close(s.value, 0.069_310_178_2, 1e-9);
}

#[test]
fn one_point_each() {
    let (x, y) = ([1.0, 2.0], [0.5, -1.0]);
    let one = [1.0];
    for cost in Cost::ALL {
        let s = solve(
            &between(cost, 2, (&x, &one), (Some(&y), &one), 0.3),
            &tight(),
        );
        let want = dense::cost(cost, &x, &y);
        close(s.value, want, 1e-12);
        close(s.f[0] + s.g[0], want, 1e-12);
        close(s.transport, want, 1e-12);
        if cost == Cost::SqEuclidean {
            all_close(&s.grad_x, &[1.0, 6.0], 1e-12);
            all_close(&s.grad_y, &[-1.0, -6.0], 1e-12);
        }
    }
}

#[test]
fn one_point_each_relaxed() {
    let one = [1.0];
    let (c, epsilon, reach): (f64, f64, f64) = (1.0, 0.1, 1.0);
    let mut p = between(
        Cost::SqEuclidean,
        1,
        (&[0.0], &one),
        (Some(&[1.0]), &one),
        epsilon,
    );
    (p.reach_x, p.reach_y) = (reach, reach);
    let s = solve(&p, &tight());
    close(s.value, 0.795_595_169_0, 1e-9);
    close(s.row[0], (-c / (epsilon + 2.0 * reach)).exp(), 1e-10);
}

/// Janati, Muzellec, Peyre, Cuturi 2020: N(0,1) and N(1,1) with eps = 2, by quadrature.
#[test]
fn gaussians() {
    let n = 400;
    let grid: Vec<f64> = (0..n)
        .map(|i| -8.0 + 16.0 * (f64::from(i) + 0.5) / f64::from(n))
        .collect();
    let density = |x: f64, mean: f64| (-(x - mean).powi(2) / 2.0).exp();
    let normalise = |w: Vec<f64>| {
        let sum: f64 = w.iter().sum();
        w.into_iter().map(|v| v / sum).collect::<Vec<_>>()
    };
    let a = normalise(grid.iter().map(|&x| density(x, 0.0)).collect());
    let y: Vec<f64> = grid.iter().map(|x| x + 1.0).collect();
    let b = normalise(y.iter().map(|&x| density(x, 1.0)).collect());
    let p = between(Cost::SqEuclidean, 1, (&grid, &a), (Some(&y), &b), 2.0);
    let s = solve(&p, &tight());
    close(s.value, 2.245_143_847_6, 1e-8);
    // x - grad / 2a is the barycentric map, linear of this slope.
    let image = |i: usize| grid[i] - s.grad_x[i] / (2.0 * a[i]);
    let slope = (image(220) - image(180)) / (grid[220] - grid[180]);
    close(slope, 0.618_033_988_7, 1e-8);
    let own = |w: &[f64], x: &[f64]| {
        solve(
            &between(Cost::SqEuclidean, 1, (x, w), (None, w), 2.0),
            &tight(),
        )
        .value
    };
    close(s.value - (own(&a, &grid) + own(&b, &y)) / 2.0, 1.0, 1e-8);
}

#[test]
fn small_epsilon_sorts_on_the_line() {
    let mut stream = Stream(5);
    let n = 40;
    let (x, y) = (stream.points::<f64>(n, 1), stream.points::<f64>(n, 1));
    let w = uniform(n);
    let mut p = between(Cost::SqEuclidean, 1, (&x, &w), (Some(&y), &w), 1e-3);
    p.reach_x = f64::INFINITY;
    let options = Options {
        tol: 1e-6,
        max_iter: 200_000,
        ..tight()
    };
    let s = solve(&p, &options);
    assert!(s.converged, "{} {}", s.iterations, s.residual);
    let sorted = |v: &[f64]| {
        let mut v = v.to_vec();
        v.sort_by(f64::total_cmp);
        v
    };
    let matched = sorted(&x).into_iter().zip(sorted(&y));
    let want: f64 = matched.map(|(p, q)| (p - q).powi(2)).sum::<f64>() / n as f64;
    close(s.transport, want, 2e-3);
}

#[test]
fn large_epsilon_is_the_mean_discrepancy() {
    let mut stream = Stream(7);
    let (n, m, dim) = (30, 20, 3);
    let (x, y) = (stream.points::<f64>(n, dim), stream.points::<f64>(m, dim));
    let (a, b) = (uniform(n), uniform(m));
    for cost in [Cost::SqEuclidean, Cost::Euclidean] {
        let value = |left, right| solve(&between(cost, dim, left, right, 1e6), &tight()).value;
        let s = value((&x, &a), (Some(&y), &b))
            - value((&x, &a), (None, &a)) / 2.0
            - value((&y, &b), (None, &b)) / 2.0;
        let mean = |u: &[f64], v: &[f64]| {
            let mut sum = 0.0;
            for p in u.chunks(dim) {
                for q in v.chunks(dim) {
                    sum += dense::cost(cost, p, q);
                }
            }
            sum / (u.len() * v.len() / dim / dim) as f64
        };
        let want = mean(&x, &y) - mean(&x, &x) / 2.0 - mean(&y, &y) / 2.0;
        close(s, want, 1e-4);
    }
}

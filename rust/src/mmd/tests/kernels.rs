//! Every kernel, with one and with several masses per point, and points that coincide.

use super::*;

const KERNELS: [Kernel; 5] = [
    Kernel::Gaussian,
    Kernel::Laplace,
    Kernel::Energy,
    Kernel::RationalQuadratic,
    Kernel::Polynomial {
        degree: 3,
        gamma: 0.4,
        offset: 1.0,
    },
];

/// The kernel by its definition.
fn plain(kernel: Kernel, s: &[f64], t: &[f64], sigma: f64) -> f64 {
    let d2: f64 = s.iter().zip(t).map(|(u, v)| (u - v) * (u - v)).sum();
    let product: f64 = s.iter().zip(t).map(|(u, v)| u * v).sum();
    let mean = |each: &dyn Fn(f64) -> f64| FIVE.iter().map(|&s| each(s)).sum::<f64>() / 5.0;
    match kernel {
        Kernel::Gaussian => mean(&|s| (-d2 / (2.0 * (s * sigma).powi(2))).exp()),
        Kernel::Laplace => mean(&|s| (-d2.sqrt() / (s * sigma)).exp()),
        Kernel::Energy => -d2.sqrt(),
        Kernel::RationalQuadratic => mean(&|s| (1.0 + d2 / (2.0 * s * sigma * sigma)).powf(-s)),
        Kernel::Polynomial {
            degree,
            gamma,
            offset,
        } => (gamma * product + offset).powi(degree as i32),
    }
}

/// Sum over the classes of the discrepancies, by a double loop over the signed pooled points.
fn plain_classes(
    kernel: Kernel,
    points: &[f64],
    masses: &[f64],
    n: usize,
    width: usize,
    sigma: f64,
) -> f64 {
    let classes = masses.len() * width / points.len();
    let sign = |i: usize| if i < n { 1.0 } else { -1.0 };
    let mut total = 0.0;
    for (i, s) in points.chunks_exact(width).enumerate() {
        for (j, t) in points.chunks_exact(width).enumerate() {
            let (p, q) = (&masses[i * classes..], &masses[j * classes..]);
            let weight: f64 = (0..classes).map(|c| p[c] * q[c]).sum();
            total += sign(i) * sign(j) * weight * plain(kernel, s, t, sigma);
        }
    }
    total
}

#[test]
fn every_kernel_with_one_and_with_several_classes() {
    let (n, m, width) = (70, 75, 3);
    for classes in [1, 4] {
        let mut case = Case::new(n, m, width);
        let masses = |count: usize, seed| -> Vec<f64> {
            let all = (0..count * classes).map(|i| number(i, seed) / count as f64);
            all.collect()
        };
        (case.a, case.b) = (masses(n, 5), masses(m, 6));
        let pooled = [case.x.clone(), case.y.clone()].concat();
        let weights = [case.a.clone(), case.b.clone()].concat();
        for kernel in KERNELS {
            let direct = |points: &[f64], weights: &[f64], sigma: f64| {
                plain_classes(kernel, points, weights, n, width, sigma)
            };
            let moved = |values: &[f64], at: usize, step: f64| {
                let mut values = values.to_vec();
                values[at] += step;
                values
            };
            let want = direct(&pooled, &weights, case.sigma);
            let (h, at) = (1e-5, n * width - 1);
            let slope = |up: f64, down: f64| (up - down) / (2.0 * h);
            let want_x = slope(
                direct(&moved(&pooled, at, h), &weights, case.sigma),
                direct(&moved(&pooled, at, -h), &weights, case.sigma),
            );
            let want_a = slope(
                direct(&pooled, &moved(&weights, 3, h), case.sigma),
                direct(&pooled, &moved(&weights, 3, -h), case.sigma),
            );
            let want_sigma = slope(
                direct(&pooled, &weights, case.sigma + h),
                direct(&pooled, &weights, case.sigma - h),
            );
            for level in available() {
                let mut options = options(&FIVE, false, level);
                options.kernel = kernel;
                let out = case.fused::<f64>(&options, 2);
                let single = case.fused::<f32>(&options, 2);
                let pairs = [
                    ("value", want, out.value, single.value),
                    ("x", want_x, out.grad_x[at], single.grad_x[at].into()),
                    ("a", want_a, out.grad_a[3], single.grad_a[3].into()),
                    (
                        "sigma",
                        want_sigma,
                        out.grad_bandwidth,
                        single.grad_bandwidth,
                    ),
                ];
                for (name, want, double, single) in pairs {
                    if name == "sigma" && matches!(kernel, Kernel::Energy) {
                        continue; // it has none
                    }
                    let what = format!("{name} {kernel:?} {classes} {level:?}");
                    assert!((double - want).abs() < 2e-9, "{what} {double} {want}");
                    assert!((single - want).abs() < 1e-4, "{what} {single} {want}");
                }
            }
        }
    }
}

#[test]
fn coincident_points_have_no_slope() {
    let x: Vec<f32> = (0..40).map(|i| number(i, 9) as f32 + 50.0).collect();
    let problem = Problem {
        x: &x,
        y: &x,
        sizes: (10, 10),
        width: 4,
        a: None,
        b: None,
        classes: 1,
        bandwidth: 1.0,
    };
    for level in available() {
        for kernel in [Kernel::Laplace, Kernel::Energy] {
            let mut options = options(&[1.0], false, level);
            options.kernel = kernel;
            let out = mmd(&problem, &options, 1);
            assert!(out.value.abs() < 1e-6, "{kernel:?} {level:?} {}", out.value);
            assert!(out.grad_x.iter().all(|g| g.abs() < 1e-6), "{kernel:?}");
        }
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    let mut x = vec![0.5f32; 12];
    x[5] = f32::NAN;
    let y = vec![0.25f32; 12];
    let mut problem = Problem {
        x: &x,
        y: &y,
        sizes: (4, 4),
        width: 3,
        a: None,
        b: None,
        classes: 1,
        bandwidth: 1.0,
    };
    let options = options(&FIVE, false, crate::simd::detect());
    assert!(mmd(&problem, &options, 1).value.is_nan());
    // Masked, it changes nothing.
    let a = [0.5, 0.0, 0.25, 0.25];
    problem.a = Some(&a);
    let out = mmd(&problem, &options, 1);
    assert!(out.value.is_finite() && out.grad_x.iter().all(|g| g.is_finite()));
}

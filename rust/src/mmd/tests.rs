//! The fused pass against a direct double loop, and known values.

mod kernels;

use super::*;
use crate::simd::available;

const FIVE: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

struct Case {
    x: Vec<f64>,
    y: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
    width: usize,
    sigma: f64,
}

fn number(i: usize, seed: usize) -> f64 {
    let bits = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (seed as u64) << 32;
    let bits = (bits ^ bits >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

impl Case {
    fn new(n: usize, m: usize, width: usize) -> Self {
        let points = |len, seed, shift| (0..len).map(|i| 2.0 * number(i, seed) + shift).collect();
        let masses = |len: usize, seed| -> Vec<f64> {
            let raw: Vec<f64> = (0..len).map(|i| 0.1 + number(i, seed)).collect();
            let total: f64 = raw.iter().sum();
            raw.iter().map(|w| w / total).collect()
        };
        Case {
            x: points(n * width, 1, 0.0),
            y: points(m * width, 2, 0.3),
            a: masses(n, 3),
            b: masses(m, 4).iter().map(|w| 1.2 * w).collect(),
            width,
            sigma: 0.7 * (width as f64).sqrt(),
        }
    }

    fn direct(&self, scales: &[f64], unbiased: bool) -> f64 {
        let sum = |p: &[f64], q: &[f64], v: &[f64], w: &[f64], inner: bool| {
            let mut total = 0.0;
            for (i, s) in p.chunks_exact(self.width).enumerate() {
                for (j, t) in q.chunks_exact(self.width).enumerate() {
                    if inner && unbiased && i == j {
                        continue;
                    }
                    let d2: f64 = s.iter().zip(t).map(|(u, v)| (u - v) * (u - v)).sum();
                    let k = |s: &f64| (-d2 / (2.0 * (s * self.sigma).powi(2))).exp();
                    total += v[i] * w[j] * scales.iter().map(k).sum::<f64>() / scales.len() as f64;
                }
            }
            total
        };
        let factor = |w: &[f64]| {
            let mass: f64 = w.iter().sum();
            let rest = mass * mass - w.iter().map(|v| v * v).sum::<f64>();
            if !unbiased {
                1.0
            } else if w.len() == 1 {
                0.0
            } else {
                mass * mass / rest
            }
        };
        factor(&self.a) * sum(&self.x, &self.x, &self.a, &self.a, true)
            + factor(&self.b) * sum(&self.y, &self.y, &self.b, &self.b, true)
            - 2.0 * sum(&self.x, &self.y, &self.a, &self.b, false)
    }

    fn fused<T: Real>(&self, options: &Options<'_>, threads: usize) -> Output<T> {
        let cast = |v: &[f64]| v.iter().map(|&v| T::from_f64(v)).collect::<Vec<T>>();
        let (x, y, a, b) = (cast(&self.x), cast(&self.y), cast(&self.a), cast(&self.b));
        let problem = Problem {
            x: &x,
            y: &y,
            sizes: (x.len() / self.width, y.len() / self.width),
            width: self.width,
            a: Some(&a),
            b: Some(&b),
            classes: a.len() * self.width / x.len(),
            bandwidth: self.sigma,
        };
        mmd(&problem, options, threads)
    }
}

fn options(scales: &[f64], unbiased: bool, level: Level) -> Options<'_> {
    Options {
        kernel: Kernel::Gaussian,
        scales,
        unbiased,
        want_x: true,
        want_y: true,
        want_masses: true,
        want_bandwidth: true,
        level,
    }
}

#[test]
fn value_agrees_with_the_double_loop() {
    for (n, m, width) in [
        (1, 1, 1),
        (2, 1, 3),
        (127, 129, 3),
        (129, 2, 64),
        (300, 517, 5),
    ] {
        let case = Case::new(n, m, width);
        for scales in [&FIVE[..], &[1.0], &[0.3, 1.0, 1.7, 2.0]] {
            for unbiased in [false, true] {
                let want = case.direct(scales, unbiased);
                for level in available() {
                    for threads in 1..=3 {
                        let options = options(scales, unbiased, level);
                        let got = case.fused::<f64>(&options, threads).value;
                        assert!(
                            (got - want).abs() < 1e-12,
                            "{n} {m} {width} {level:?} {got} {want}"
                        );
                        let got = case.fused::<f32>(&options, threads).value;
                        assert!(
                            (got - want).abs() < 3e-6,
                            "{n} {m} {width} {level:?} {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Compares an analytic derivative with a central difference of the double loop.
fn difference(
    case: &mut Case,
    at: fn(&mut Case) -> &mut f64,
    scales: &[f64],
    unbiased: bool,
) -> f64 {
    let step = 1e-5;
    let start = *at(case);
    *at(case) = start + step;
    let up = case.direct(scales, unbiased);
    *at(case) = start - step;
    let down = case.direct(scales, unbiased);
    *at(case) = start;
    (up - down) / (2.0 * step)
}

#[test]
fn gradients_agree_with_differences() {
    for (n, m, width) in [(2, 3, 1), (9, 4, 3), (130, 270, 3)] {
        let mut case = Case::new(n, m, width);
        for unbiased in [false, true] {
            for level in available() {
                let out = case.fused::<f64>(&options(&FIVE, unbiased, level), 2);
                let single = case.fused::<f32>(&options(&FIVE, unbiased, level), 2);
                let last = |v: &[f64]| v[v.len() - 1];
                let last_single = |v: &[f32]| f64::from(v[v.len() - 1]);
                type At = fn(&mut Case) -> &mut f64;
                let checks: [(&str, At, f64, f64); 7] = [
                    (
                        "x0",
                        |c| &mut c.x[0],
                        out.grad_x[0],
                        single.grad_x[0].into(),
                    ),
                    (
                        "x",
                        |c| c.x.last_mut().unwrap(),
                        last(&out.grad_x),
                        last_single(&single.grad_x),
                    ),
                    (
                        "y",
                        |c| c.y.last_mut().unwrap(),
                        last(&out.grad_y),
                        last_single(&single.grad_y),
                    ),
                    (
                        "a0",
                        |c| &mut c.a[0],
                        out.grad_a[0],
                        single.grad_a[0].into(),
                    ),
                    (
                        "a",
                        |c| c.a.last_mut().unwrap(),
                        last(&out.grad_a),
                        last_single(&single.grad_a),
                    ),
                    (
                        "b",
                        |c| c.b.last_mut().unwrap(),
                        last(&out.grad_b),
                        last_single(&single.grad_b),
                    ),
                    (
                        "sigma",
                        |c| &mut c.sigma,
                        out.grad_bandwidth,
                        single.grad_bandwidth,
                    ),
                ];
                for (name, at, got, got_single) in checks {
                    let want = difference(&mut case, at, &FIVE, unbiased);
                    assert!(
                        (got - want).abs() < 1e-9,
                        "{name} {n} {unbiased} {level:?} {got} {want}"
                    );
                    assert!(
                        (got_single - want).abs() < 1e-5,
                        "{name} {n} f32 {got_single} {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn known_values() {
    let x = [0.0, 0.0, 1.0, 0.0, 0.0, 2.0];
    let y = [1.0, 1.0, 2.0, 0.0, 0.0, -1.0, 3.0, 1.0];
    let problem = Problem {
        x: &x,
        y: &y,
        sizes: (3, 4),
        width: 2,
        a: None,
        b: None,
        classes: 1,
        bandwidth: 1.0,
    };
    for level in available() {
        for (unbiased, want) in [
            (false, 0.365_437_640_501_362_96),
            (true, -0.083_146_938_128_554),
        ] {
            let got = mmd(&problem, &options(&[1.0], unbiased, level), 1).value;
            assert!((got - want).abs() < 1e-14, "{level:?} {got} {want}");
        }
    }
}

#[test]
fn shift_and_empty_weights_change_nothing() {
    let mut case = Case::new(40, 50, 7);
    let options = options(&FIVE, true, crate::simd::detect());
    let plain = case.fused::<f32>(&options, 1);
    for v in case.x.iter_mut().chain(&mut case.y) {
        *v += 100.0;
    }
    // Adding 100 rounds the points themselves to about 1e-5.
    let shifted = case.fused::<f32>(&options, 1);
    assert!((plain.value - shifted.value).abs() < 2e-6);

    let before = case.fused::<f64>(&options, 1);
    case.x.extend([1e3; 7]);
    case.a.push(0.0);
    case.y.extend([-1e3; 7]);
    case.b.push(0.0);
    let after = case.fused::<f64>(&options, 1);
    assert!((before.value - after.value).abs() < 1e-13);
    assert!(
        before
            .grad_x
            .iter()
            .zip(&after.grad_x)
            .all(|(p, q)| (p - q).abs() < 1e-13)
    );
    assert!(after.grad_x[40 * 7..].iter().all(|&v| v == 0.0));
    assert!(
        before
            .grad_b
            .iter()
            .zip(&after.grad_b)
            .all(|(p, q)| (p - q).abs() < 1e-13)
    );
}

#[test]
fn degenerate_sets_are_finite() {
    for unbiased in [false, true] {
        let options = options(&FIVE, unbiased, crate::simd::detect());
        for (n, m) in [(1, 1), (1, 5), (6, 6)] {
            let (x, y) = (vec![2.0f32; 3 * n], vec![2.0f32; 3 * m]);
            let problem = Problem {
                x: &x,
                y: &y,
                sizes: (n, m),
                width: 3,
                a: None,
                b: None,
                classes: 1,
                bandwidth: 1e-6,
            };
            let out = mmd(&problem, &options, 2);
            // All kernels are one: only the U statistic of a single point loses its within term.
            let lost = f64::from(u8::from(n == 1)) + f64::from(u8::from(m == 1));
            let want = if unbiased { -lost } else { 0.0 };
            assert!((out.value - want).abs() < 1e-6, "{} {want}", out.value);
            assert!(out.grad_x.iter().chain(&out.grad_y).all(|v| v.abs() < 1e-6));
            assert!(out.grad_bandwidth.abs() < 1e-6);
        }
    }
}

#[test]
fn only_what_is_wanted_and_any_thread_count() {
    let case = Case::new(300, 260, 4);
    let mut options = options(&FIVE, false, crate::simd::detect());
    let full = case.fused::<f64>(&options, 1);
    options.want_y = false;
    let one = case.fused::<f64>(&options, 3);
    assert!(one.grad_y.is_empty());
    assert!(
        full.grad_x
            .iter()
            .zip(&one.grad_x)
            .all(|(p, q)| (p - q).abs() < 1e-14)
    );
    assert_eq!(one.grad_x, case.fused::<f64>(&options, 3).grad_x);
    options.want_x = false;
    assert!(case.fused::<f64>(&options, 1).grad_x.is_empty());

    let problem = Problem {
        x: &case.x,
        y: &case.y,
        sizes: (300, 260),
        width: 4,
        a: Some(&case.a),
        b: None,
        classes: 1,
        bandwidth: 1.0,
    };
    let alone = mmd(&problem, &options, 1);
    for output in mmd_batch(&[problem; 5], &options, 2) {
        assert_eq!(output.value, alone.value);
    }
}

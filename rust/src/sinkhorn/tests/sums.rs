//! The terms of a divergence, together and one by one.

use super::super::sum::{Divergence, solve_sums};
use super::*;
use crate::interrupt::Interrupt;

/// The sum from separate solves; gradients of x and y.
fn apart<T: Real>(d: &Divergence<T>, options: &Options) -> (f64, Vec<f64>, Vec<f64>) {
    let p = d.cross;
    let cross = solve(&p, options);
    let unit = if options.relative { cross.scale } else { 1.0 };
    let wide = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    let mut value = cross.value;
    let mut gradients = [wide(&cross.grad_x), wide(&cross.grad_y)];
    let Costs::Points {
        cost,
        dim,
        x,
        y: Some(y),
        x_label,
        y_label,
        distance,
    } = p.costs
    else {
        panic!("two clouds of points")
    };
    let sides = [(x, x_label, p.a, p.reach_x), (y, y_label, p.b, p.reach_y)];
    for (side, (points, label, weight, reach)) in sides.into_iter().enumerate() {
        if !d.own[side] {
            continue;
        }
        let own = Problem {
            costs: Costs::Points {
                cost,
                dim,
                x: points,
                y: None,
                x_label: label,
                y_label: None,
                distance,
            },
            a: weight,
            b: weight,
            f0: None,
            g0: None,
            epsilon: p.epsilon * unit,
            reach_x: reach * unit,
            reach_y: reach * unit,
            label_cost: p.label_cost * unit,
        };
        let options = Options {
            relative: false,
            want_x: true,
            ..*options
        };
        let solution = solve(&own, &options);
        value -= solution.value / 2.0;
        for (g, own) in gradients[side].iter_mut().zip(solution.grad_x.iter()) {
            *g -= own.to_f64() / 2.0;
        }
    }
    let [x, y] = gradients;
    (value, x, y)
}

fn check<T: Real>(bound: f64) {
    let mut stream = Stream(77);
    let (n, m, dim) = (33, 21, 3);
    let x: Vec<Vec<T>> = (0..4).map(|_| stream.points(n, dim)).collect();
    let y: Vec<Vec<T>> = (0..4).map(|_| stream.points(m, dim)).collect();
    let (a, b) = (stream.weights::<T>(n, 1.0), stream.weights::<T>(m, 1.0));
    let k: Vec<i64> = (0..n as i64).map(|i| i % 3).collect();
    let l: Vec<i64> = (0..m as i64).map(|i| i % 2).collect();
    for cost in Cost::ALL {
        for (own, reach, relative, threads) in [
            ([true, true], f64::INFINITY, true, 2),
            ([true, false], 0.7, false, 2),
            ([true, true], 0.4, true, 1),
            ([false, false], f64::INFINITY, true, 3),
        ] {
            let options = Options {
                relative,
                threads,
                tol: if bound < 1e-8 { 1e-12 } else { 1e-5 },
                ..tight()
            };
            let all: Vec<_> = x
                .iter()
                .zip(&y)
                .map(|(x, y)| {
                    let mut cross = between(cost, dim, (x, &a), (Some(y), &b), 0.3);
                    (cross.reach_x, cross.reach_y) = (2.0 * reach, reach);
                    cross.label_cost = 0.5;
                    if let Costs::Points {
                        x_label, y_label, ..
                    } = &mut cross.costs
                    {
                        (*x_label, *y_label) = (Some(&k[..]), Some(&l[..]));
                    }
                    Divergence {
                        cross,
                        own,
                        own_start: [None, None],
                    }
                })
                .collect();
            // One problem by its terms, several by problems.
            for count in [1, 4] {
                let found = solve_sums(&all[..count], &options, &Interrupt::never());
                let (sums, [grad_x, grad_y]) = found.expect("nothing interrupts it");
                assert_eq!((sums.len(), grad_x.len()), (count, count * n * dim));
                for (i, (d, sum)) in all.iter().zip(&sums).enumerate() {
                    let (value, x, y) = apart(d, &options);
                    close(sum.value, value, bound);
                    for (got, want) in grad_x[i * n * dim..].iter().zip(&x) {
                        close(got.to_f64(), *want, bound);
                    }
                    for (got, want) in grad_y[i * m * dim..].iter().zip(&y) {
                        close(got.to_f64(), *want, bound);
                    }
                    let present = sum.terms.each_ref().map(Option::is_some);
                    assert_eq!(present, [true, own[0], own[1]]);
                }
            }
        }
    }
}

#[test]
fn together_as_apart() {
    check::<f64>(1e-9);
    check::<f32>(3e-4);
}

#[test]
fn points_that_are_not_finite_end_in_nan() {
    let (mut x, y) = (vec![0.5; 12], vec![1.5; 12]);
    x[3] = f64::NAN;
    let weight = uniform::<f64>(4);
    let divergence = Divergence {
        cross: between(
            Cost::SqEuclidean,
            3,
            (&x, &weight),
            (Some(&y), &weight),
            0.1,
        ),
        own: [true, true],
        own_start: [None, None],
    };
    for relative in [false, true] {
        let options = Options {
            relative,
            threads: 2,
            ..tight()
        };
        let found = solve_sums(&[divergence], &options, &Interrupt::never());
        let (sums, _) = found.expect("nothing interrupts it");
        assert!(sums[0].value.is_nan());
    }
}

//! The last round: plan, marginals, transport cost and envelope gradients.

use std::ops::Range;

use crate::buffer::{Aligned, brief};
use crate::cost::{Cost, Mismatch, barycentre_rows, l1_gradient};
use crate::gemm::gemm;
use crate::product;
use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath::sum_lanes;

use super::block::{Block, Shared};
use super::potentials;
use super::source::{Ground, Keep};
use super::sweep::{self, Rows, Rule};

/// Results of the gradient round.
#[derive(Debug, Default)]
pub struct Sums<T> {
    /// `sum_j P_ij / a_i`, 0 where `a_i` is.
    pub row: Vec<T>,
    /// Rows without mass, with the transform of the column potentials over epsilon.
    pub masked: Vec<(usize, f64)>,
    /// `sum_i P_ij` over the block.
    pub column: Aligned<T>,
    /// `<P, C>`.
    pub transport: f64,
    /// Mass between different labels.
    pub moved: Mismatch,
    /// Gradient of the block's rows.
    pub grad_x: Aligned<T>,
    /// The block's share of the gradient of the columns, with respect to `Cloud::coords`.
    pub grad_y: Aligned<T>,
    /// The block's plan.
    pub plan: Vec<T>,
}

/// `k_j <- u k_j v_j`; returns `sum_j k_j` and `sum_j k_j c_j`, and adds `a k` to `column`.
#[inline(always)]
fn plan_row_body<T: Real, const FMA: bool>(
    kernel: &mut [T],
    cost: &[T],
    v: &[T],
    u: T,
    a: T,
    column: &mut [T],
) -> (T, T) {
    let mut mass = [T::ZERO; LANES];
    let mut transport = [T::ZERO; LANES];
    let kernel = kernel.as_chunks_mut::<LANES>().0;
    let (cost, v) = (cost.as_chunks::<LANES>().0, v.as_chunks::<LANES>().0);
    let column = column.as_chunks_mut::<LANES>().0;
    for (((k, c), q), w) in kernel.iter_mut().zip(cost).zip(v).zip(column) {
        for l in 0..LANES {
            let p = k[l] * (u * q[l]);
            k[l] = p;
            mass[l] += p;
            transport[l] = p.fma::<FMA>(c[l], transport[l]);
            w[l] = a.fma::<FMA>(p, w[l]);
        }
    }
    (sum_lanes(mass), sum_lanes(transport))
}

simd_dispatch! {
    fn plan_row[T: Real](
        kernel: &mut [T], cost: &[T], v: &[T], u: T, a: T, column: &mut [T]
    ) -> (T, T) = plan_row_body;
}

/// The potential of a point without mass, the exact transform of the columns' last ones `h`: its
/// own is older, with a density that may have no bound. The row becomes 0, for that is its plan.
fn masked_row<T: Real>(shared: &Shared<T>, h: &[T], cost: &[T], kernel: &mut [T]) -> T {
    let rule = Rule {
        tau: T::ONE,
        rate: T::ZERO,
        columns: false,
        keep: false,
        ..shared.rule
    };
    let [mut base, mut phi, mut ratio, mut total] = [[T::ONE]; 4];
    let mut rows = Rows {
        weight: &[T::ZERO],
        base: &mut base,
        phi: &mut phi,
        ratio: &mut ratio,
        total: &mut total,
        column: &mut [],
    };
    sweep::log(shared.level, rule, Some(cost), h, kernel, &mut rows);
    kernel.fill(T::ZERO);
    phi[0]
}

/// The potentials of the columns in units of epsilon with `ln b`, if any row of the block needs
/// them.
fn last_columns<T: Real>(block: &Block<T>, shared: &Shared<T>) -> Aligned<T> {
    if !block.weight.contains(&T::ZERO) {
        return Aligned::zeros(0);
    }
    let mut h = Aligned::zeros(shared.h.len());
    for ((out, &h), &v) in h.iter_mut().zip(shared.h.iter()).zip(shared.v.iter()) {
        *out = h + v.ln();
    }
    h
}

/// `k_j <- k_j / c_j`, 0 where `c_j = 0`; returns the sum, and adds `a k` to `column`.
#[inline(always)]
fn divide_row_body<T: Real, const FMA: bool>(
    kernel: &mut [T],
    distance: &[T],
    a: T,
    column: &mut [T],
) -> T {
    let mut mass = [T::ZERO; LANES];
    let kernel = kernel.as_chunks_mut::<LANES>().0;
    let distance = distance.as_chunks::<LANES>().0;
    let column = column.as_chunks_mut::<LANES>().0;
    for ((k, c), w) in kernel.iter_mut().zip(distance).zip(column) {
        for l in 0..LANES {
            let p = if c[l] == T::ZERO {
                T::ZERO
            } else {
                k[l] / c[l]
            };
            k[l] = p;
            mass[l] += p;
            w[l] = a.fma::<FMA>(p, w[l]);
        }
    }
    sum_lanes(mass)
}

simd_dispatch! {
    fn divide_row[T: Real](kernel: &mut [T], distance: &[T], a: T, column: &mut [T]) -> T
        = divide_row_body;
}

/// Turns the kernel of the block into its plan (without the row masses), strip by strip, and sums
/// up.
pub fn work<T: Real>(block: &mut Block<T>, shared: &Shared<T>) {
    let stride = shared.b.len();
    let n = block.rows.len();
    let mut sums = Sums {
        row: brief(n, T::ZERO),
        column: Aligned::zeros(stride),
        ..Sums::default()
    };
    let mut points = shared
        .source
        .ground()
        .filter(|_| shared.want.0 || shared.want.1)
        .map(|ground| Points::new(ground, block, shared));
    let kept = shared.keep == Keep::Both;
    let mut costs = std::mem::take(&mut block.cost);
    if !kept {
        costs = Aligned::zeros(n.min(shared.strip) * stride);
    }
    let mut kernels = std::mem::take(&mut block.kernel);
    let h = last_columns(block, shared);
    for part in block.parts(shared) {
        let first = block.rows.start + part.start;
        let cost = if kept {
            &mut costs[part.start * stride..part.end * stride]
        } else {
            let strip = &mut costs[..part.len() * stride];
            shared.source.costs(shared.level, first, strip);
            strip
        };
        let kernel = &mut kernels[Block::place(&part, shared)];
        if shared.keep == Keep::Nothing {
            let (inverse, phi) = (shared.rule.inverse, &block.phi[part.clone()]);
            potentials::rebuild(shared.level, inverse, Some(cost), &shared.h, phi, kernel);
        }
        plan(block, shared, &part, &h, (cost, kernel), &mut sums);
        if let Some(points) = &mut points {
            let mass = &mut sums.row[part.clone()].to_vec();
            points.strip(block, shared, &part, (cost, kernel), mass);
        }
    }
    block.kernel = kernels;
    if let Some(points) = points {
        (sums.grad_x, sums.grad_y) = points.finish(shared, &sums.column);
    }
    block.sums = sums;
}

/// Makes the plan of one strip, and its sums.
fn plan<T: Real>(
    block: &Block<T>,
    shared: &Shared<T>,
    part: &Range<usize>,
    h: &[T],
    (cost, kernel): (&[T], &mut [T]),
    sums: &mut Sums<T>,
) {
    let stride = shared.b.len();
    let rows = kernel
        .chunks_exact_mut(stride)
        .zip(cost.chunks_exact(stride));
    for ((kernel, cost), i) in rows.zip(part.clone()) {
        let a = block.weight[i];
        if a == T::ZERO {
            let phi = masked_row(shared, h, cost, kernel);
            sums.masked.push((block.rows.start + i, phi.to_f64()));
            continue;
        }
        let (mass, transport) = plan_row(
            shared.level,
            kernel,
            cost,
            &shared.v,
            block.ratio[i],
            a,
            &mut sums.column,
        );
        sums.row[i] = mass;
        sums.transport += a.to_f64() * transport.to_f64();
    }
    let weight = &block.weight[part.clone()];
    if let Some(labels) = shared.source.ground().and_then(|g| g.labels.as_ref()) {
        let first = block.rows.start + part.start;
        labels.count(
            shared.level,
            first,
            (kernel, weight),
            stride,
            &mut sums.moved,
        );
    }
    if shared.want.2 {
        let width = shared.source.width();
        for (row, &a) in kernel.chunks_exact(stride).zip(weight) {
            sums.plan.extend(row[..width].iter().map(|&p| a * p));
        }
    }
}

/// Gradients of the points: `sum_j W_ij (x_i - y_j)`, with `W` a factor times the plan, or the
/// plan divided by the distance.
struct Points<'g, T> {
    ground: &'g Ground<T>,
    want: (bool, bool),
    factor: T,
    /// Column sums of `W`, where it is not the plan.
    weighted: Aligned<T>,
    x: Aligned<T>,
    /// Column-major and padded for the L1 cost.
    y: Aligned<T>,
}

impl<'g, T: Real> Points<'g, T> {
    fn new(ground: &'g Ground<T>, block: &Block<T>, shared: &Shared<T>) -> Self {
        let want = (shared.want.0, shared.want.1 && ground.y.is_some());
        let (dim, stride) = (ground.x.dim, shared.b.len());
        let l1 = ground.cost == Cost::L1;
        let columns = if l1 { stride } else { ground.columns().count };
        // The L1 loop makes both.
        let rows = if want.0 || l1 { block.rows.len() } else { 0 };
        let weighted = if ground.cost.rooted() { stride } else { 0 };
        Self {
            ground,
            want,
            factor: T::from_f64(if ground.cost == Cost::SqEuclidean {
                2.0
            } else {
                1.0
            }),
            weighted: Aligned::zeros(weighted),
            x: Aligned::arbitrary(rows * dim),
            y: Aligned::zeros(if want.1 { columns * dim } else { 0 }),
        }
    }

    /// Adds one strip of the plan; `mass` are its row sums.
    fn strip(
        &mut self,
        block: &Block<T>,
        shared: &Shared<T>,
        part: &Range<usize>,
        (cost, kernel): (&mut [T], &mut [T]),
        mass: &mut [T],
    ) {
        let (ground, level) = (self.ground, shared.level);
        let (dim, stride) = (ground.x.dim, shared.b.len());
        let y = ground.columns();
        let first = block.rows.start + part.start;
        let rows = part.len();
        let points = &ground.x.coords[first * dim..(first + rows) * dim];
        let weight = &block.weight[part.clone()];
        if ground.cost == Cost::L1 {
            for (r, (row, &a)) in kernel.chunks_exact(stride).zip(weight).enumerate() {
                let i = part.start + r;
                l1_gradient(
                    level,
                    &points[r * dim..(r + 1) * dim],
                    &y.columns,
                    row,
                    a,
                    &mut self.x[i * dim..(i + 1) * dim],
                    &mut self.y,
                );
            }
            return;
        }
        if ground.cost.rooted() {
            shared.source.remove_labels(level, first, cost);
            let entries = kernel
                .chunks_exact_mut(stride)
                .zip(cost.chunks_exact(stride));
            for (((k, c), &a), m) in entries.zip(weight).zip(mass.iter_mut()) {
                *m = divide_row(level, k, c, a, &mut self.weighted);
            }
        }
        if self.want.0 {
            let scale: Vec<T> = weight.iter().map(|&a| self.factor * a).collect();
            let out = &mut self.x[part.start * dim..part.end * dim];
            let small = y.panels.is_some();
            if !(small && product::times(level, (kernel, stride), (&y.coords, dim), out)) {
                gemm(
                    rows,
                    y.count,
                    dim,
                    T::ONE,
                    kernel,
                    (stride, 1),
                    &y.coords,
                    (dim, 1),
                    T::ZERO,
                    out,
                    (dim, 1),
                );
            }
            barycentre_rows(level, points, mass, &scale, out);
            ground.x.chain(first, out);
        }
        if self.want.1 {
            let mut scaled = points.to_vec();
            for (row, &a) in scaled.chunks_exact_mut(dim.max(1)).zip(weight) {
                row.iter_mut().for_each(|v| *v *= a);
            }
            gemm(
                y.count,
                rows,
                dim,
                T::ONE,
                kernel,
                (1, stride),
                &scaled,
                (dim, 1),
                T::ONE,
                &mut self.y,
                (dim, 1),
            );
        }
    }

    /// Gradients of the rows, and of the columns without the chain through their normalisation.
    fn finish(mut self, shared: &Shared<T>, plan: &[T]) -> (Aligned<T>, Aligned<T>) {
        let y = self.ground.columns();
        if self.ground.y.is_none() {
            // The plan of a self-term is symmetric: both sides contribute the same.
            self.x.iter_mut().for_each(|v| *v += *v);
        }
        if self.want.1 && self.ground.cost == Cost::L1 {
            let (stride, dim) = (shared.b.len(), y.dim);
            let transposed = (0..y.count)
                .flat_map(|j| (0..dim).map(move |k| (j, k)))
                .map(|(j, k)| self.y[k * stride + j])
                .collect::<Vec<T>>();
            self.y = transposed.into();
        } else if self.want.1 {
            let mass = if self.ground.cost.rooted() {
                &self.weighted
            } else {
                plan
            };
            barycentre_rows(
                shared.level,
                &y.coords,
                &mass[..y.count],
                &vec![self.factor; y.count],
                &mut self.y,
            );
        }
        (self.x, self.y)
    }
}

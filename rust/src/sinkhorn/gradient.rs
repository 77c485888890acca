//! The last round: plan, marginals, transport cost and envelope gradients.

use crate::buffer::Aligned;
use crate::cost::{Cost, barycentre_rows, l1_gradient, label_row, mismatch};
use crate::gemm::gemm;
use crate::real::{LANES, Real};
use crate::simd_dispatch;
use crate::vmath::sum_lanes;

use super::block::{Block, Ground, Shared, Sums};

/// Rows between two matrix products.
const STRIP: usize = 256;

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

/// Turns the kernel of the block into its plan (without the row masses) and sums up.
pub fn work<T: Real>(block: &mut Block<T>, shared: &Shared<T>) {
    let stride = shared.b.len();
    let n = block.rows.len();
    let mut sums = Sums {
        row: vec![T::ZERO; n],
        column: Aligned::zeros(stride),
        ..Sums::default()
    };
    let labels = shared.ground.as_ref().and_then(|g| g.labels.as_ref());
    for i in 0..n {
        let a = block.weight[i];
        let kernel = &mut block.kernel[i * stride..(i + 1) * stride];
        let cost = &block.cost[i * stride..(i + 1) * stride];
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
        if a != T::ZERO {
            sums.transport += a.to_f64() * transport.to_f64();
            if let Some((rows, columns)) = labels {
                let moved = mismatch(shared.level, kernel, rows[block.rows.start + i], columns);
                sums.mismatch += a.to_f64() * moved.to_f64();
            }
        }
    }
    if shared.want.2 {
        sums.plan.reserve_exact(n * shared.width);
        for (row, &a) in block.kernel.chunks_exact(stride).zip(&block.weight) {
            sums.plan.extend(row[..shared.width].iter().map(|&p| a * p));
        }
    }
    if let Some(ground) = &shared.ground
        && (shared.want.0 || shared.want.1)
    {
        point_gradients(block, shared, ground, &mut sums);
    }
    block.sums = sums;
}

fn point_gradients<T: Real>(
    block: &mut Block<T>,
    shared: &Shared<T>,
    ground: &Ground<T>,
    sums: &mut Sums<T>,
) {
    let want_x = shared.want.0;
    let want_y = shared.want.1 && !shared.symmetric();
    let (x, y) = (&ground.x, ground.columns());
    let (n, dim, stride) = (block.rows.len(), x.dim, shared.b.len());
    let first = block.rows.start;
    sums.grad_x = vec![T::ZERO; n * dim];
    if ground.cost == Cost::L1 {
        let mut y_columns = vec![T::ZERO; if want_y { stride * dim } else { 0 }];
        for i in 0..n {
            l1_gradient(
                shared.level,
                &x.coords[(first + i) * dim..(first + i + 1) * dim],
                &y.columns,
                &block.kernel[i * stride..(i + 1) * stride],
                block.weight[i],
                &mut sums.grad_x[i * dim..(i + 1) * dim],
                &mut y_columns,
            );
        }
        if want_y {
            sums.grad_y = (0..y.count)
                .flat_map(|j| (0..dim).map(move |k| (j, k)))
                .map(|(j, k)| y_columns[k * stride + j])
                .collect();
        }
        scale_symmetric(shared, &mut sums.grad_x);
        return;
    }
    // Gradient = sum_j W_ij (x_i - y_j) with W the plan times this factor, or the plan divided by
    // the distance.
    let factor = T::from_f64(if ground.cost == Cost::SqEuclidean {
        2.0
    } else {
        1.0
    });
    let mut weighted = Aligned::zeros(0);
    let mut mass = sums.row.clone();
    if ground.cost.rooted() {
        remove_labels(block, shared, ground);
        weighted = Aligned::zeros(stride);
        for (i, m) in mass.iter_mut().enumerate() {
            *m = divide_row(
                shared.level,
                &mut block.kernel[i * stride..(i + 1) * stride],
                &block.cost[i * stride..(i + 1) * stride],
                block.weight[i],
                &mut weighted,
            );
        }
    }
    if want_x {
        let scale: Vec<T> = block.weight.iter().map(|&a| factor * a).collect();
        for start in (0..n).step_by(STRIP) {
            let end = n.min(start + STRIP);
            let out = &mut sums.grad_x[start * dim..end * dim];
            gemm(
                end - start,
                y.count,
                dim,
                T::ONE,
                &block.kernel[start * stride..end * stride],
                (stride, 1),
                &y.coords,
                (dim, 1),
                T::ZERO,
                out,
                (dim, 1),
            );
        }
        barycentre_rows(
            shared.level,
            &x.coords[first * dim..(first + n) * dim],
            &mass,
            &scale,
            &mut sums.grad_x,
        );
        scale_symmetric(shared, &mut sums.grad_x);
        x.chain(first, &mut sums.grad_x);
    }
    if want_y {
        let mut scaled = x.coords[first * dim..(first + n) * dim].to_vec();
        for (row, &a) in scaled.chunks_exact_mut(dim.max(1)).zip(&block.weight) {
            row.iter_mut().for_each(|v| *v *= a);
        }
        sums.grad_y = vec![T::ZERO; y.count * dim];
        gemm(
            y.count,
            n,
            dim,
            T::ONE,
            &block.kernel,
            (1, stride),
            &scaled,
            (dim, 1),
            T::ZERO,
            &mut sums.grad_y,
            (dim, 1),
        );
        let mass = if ground.cost.rooted() {
            &weighted
        } else {
            &sums.column
        };
        barycentre_rows(
            shared.level,
            &y.coords,
            &mass[..y.count],
            &vec![factor; y.count],
            &mut sums.grad_y,
        );
    }
}

/// Takes the label cost out of the block's cost matrix, which leaves the distances.
fn remove_labels<T: Real>(block: &mut Block<T>, shared: &Shared<T>, ground: &Ground<T>) {
    if let Some((rows, columns)) = &ground.labels {
        let width = shared.width;
        let cost = block.cost.chunks_exact_mut(shared.b.len());
        for (row, &label) in cost.zip(&rows[block.rows.clone()]) {
            let price = -shared.price;
            label_row(
                shared.level,
                &mut row[..width],
                label,
                &columns[..width],
                price,
            );
        }
    }
}

/// The plan of a self-term is symmetric: both sides contribute the same.
fn scale_symmetric<T: Real>(shared: &Shared<T>, gradient: &mut [T]) {
    if shared.symmetric() {
        gradient.iter_mut().for_each(|v| *v += *v);
    }
}

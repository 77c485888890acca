//! The pass over the tiles of a problem, on one or several threads.

use super::{Options, Pool, Scales, Tile, tile};
use crate::gemm::gemm;
use crate::real::{LANES, Real};

/// Side of a tile: two of them fit the second-level cache, and the matrix products repay packing.
const EDGE: usize = 256;

/// Below this many multiply-adds a thread costs more than it saves.
const WORK_PER_THREAD: f64 = 2e6;

/// A range of pooled points of one set.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    end: usize,
    second: bool,
}

/// Two blocks; the same one twice on the diagonal.
#[derive(Clone, Copy)]
struct Pair {
    row: Block,
    column: Block,
}

/// Sums over the pairs of points, with weights that are negative in the second set.
pub(super) struct Sums<T> {
    /// `sum_j k_ij w_j` over the own set.
    pub(super) within: Vec<f64>,
    /// `sum_j k_ij w_j` over the other set.
    pub(super) cross: Vec<f64>,
    /// `sum_j c_ij w_j`, within sums times their factor.
    pub(super) coefficient: Vec<f64>,
    /// `sum_j c_ij w_j z_j`, likewise; only the wanted points.
    pub(super) moved: Vec<T>,
    /// `sum_ij w_i w_j c_ij d_ij^2`, likewise.
    pub(super) moment: f64,
}

/// Everything that the tiles read.
pub(super) struct Plan<'a, T> {
    pub(super) pool: &'a Pool<T>,
    /// Points times weights.
    pub(super) weighted: Vec<T>,
    pub(super) scales: Scales<T>,
    pub(super) factors: [f64; 2],
    pub(super) options: Options<'a>,
}

impl<T: Real> Plan<'_, T> {
    fn wanted(&self, block: Block) -> bool {
        if block.second {
            self.options.want_y
        } else {
            self.options.want_x
        }
    }

    /// Multiply-adds of a tile, roughly.
    fn work(&self, pair: Pair) -> f64 {
        let products = 1
            + usize::from(self.wanted(pair.row))
            + usize::from(self.wanted(pair.column) && pair.row.start != pair.column.start);
        let pairs = (pair.row.end - pair.row.start) * (pair.column.end - pair.column.start);
        (pairs * (products * self.pool.width + 40)) as f64
    }

    fn accumulate(&self, pairs: &[Pair]) -> Sums<T> {
        let (pool, width) = (self.pool, self.pool.width);
        let n = pool.len();
        let gradient = self.options.want_x || self.options.want_y;
        let mut sums = Sums {
            within: vec![0.0; n],
            cross: vec![0.0; n],
            coefficient: vec![0.0; n],
            moved: vec![T::ZERO; if gradient { n * width } else { 0 }],
            moment: 0.0,
        };
        let side = pairs
            .iter()
            .map(|p| (p.row.end - p.row.start).max(p.column.end - p.column.start));
        let side = side.max().unwrap_or(0).next_multiple_of(LANES);
        let mut entries = vec![T::ZERO; side * side];
        let mut buffers = vec![T::ZERO; 8 * side];
        for &Pair { row, column } in pairs {
            let (rows, columns) = (row.end - row.start, column.end - column.start);
            let stride = columns.next_multiple_of(LANES);
            let diagonal = row.start == column.start;
            let inner = row.second == column.second;
            let entries = &mut entries[..rows * stride];
            let points = |block: Block| &pool.points[block.start * width..block.end * width];
            for line in entries.chunks_exact_mut(stride) {
                line[columns..].fill(T::ZERO);
            }
            gemm(
                rows,
                width,
                columns,
                T::ONE,
                points(row),
                (width, 1),
                points(column),
                (1, width),
                T::ZERO,
                entries,
                (stride, 1),
            );
            if diagonal {
                for i in 0..rows {
                    // A distance of exactly zero, or, left out, a distance without a kernel.
                    let far = -T::MAX / T::from_f64(8.0);
                    entries[i * stride + i] = if self.options.unbiased {
                        far
                    } else {
                        pool.norms[row.start + i]
                    };
                }
            }
            let (scratch, buffers) = buffers.split_at_mut(2 * side);
            let mut parts = buffers.chunks_exact_mut(side);
            let mut part = |len: usize| &mut parts.next().expect("six buffers")[..len];
            let (column_norm, column_weight) = (part(stride), part(stride));
            column_norm.fill(T::ZERO);
            column_weight.fill(T::ZERO);
            column_norm[..columns].copy_from_slice(&pool.norms[column.start..column.end]);
            column_weight[..columns].copy_from_slice(&pool.weights[column.start..column.end]);
            let mut view = Tile {
                entries,
                stride,
                row_norm: &pool.norms[row.start..row.end],
                row_weight: &pool.weights[row.start..row.end],
                column_norm,
                column_weight,
                row_kernel: part(rows),
                row_coefficient: part(rows),
                column_kernel: part(stride),
                column_coefficient: part(stride),
                scratch,
            };
            let level = self.options.level;
            let moment = if diagonal {
                tile::<T, false>(level, &mut view, &self.scales)
            } else {
                2.0 * tile::<T, true>(level, &mut view, &self.scales)
            };
            let factor = if inner {
                self.factors[usize::from(row.second)]
            } else {
                1.0
            };
            sums.moment += factor * moment;

            let kernel_sums = if inner {
                &mut sums.within
            } else {
                &mut sums.cross
            };
            let add = |to: &mut [f64], from: &[T], factor: f64| {
                for (t, f) in to.iter_mut().zip(from) {
                    *t += factor * f.to_f64();
                }
            };
            let (r, c) = (row.start..row.end, column.start..column.end);
            add(
                &mut kernel_sums[r.clone()],
                view.row_kernel,
                self.scales.mean,
            );
            add(&mut sums.coefficient[r], view.row_coefficient, factor);
            if !diagonal {
                add(
                    &mut kernel_sums[c.clone()],
                    view.column_kernel,
                    self.scales.mean,
                );
                add(&mut sums.coefficient[c], view.column_coefficient, factor);
            }
            // Both sides of the gradient: C (w z) and C^T (w z).
            let mut product = |to: Block, from: Block, strides: (usize, usize)| {
                gemm(
                    to.end - to.start,
                    from.end - from.start,
                    width,
                    T::from_f64(factor),
                    view.entries,
                    strides,
                    &self.weighted[from.start * width..from.end * width],
                    (width, 1),
                    T::ONE,
                    &mut sums.moved[to.start * width..to.end * width],
                    (width, 1),
                );
            };
            if self.wanted(row) {
                product(row, column, (stride, 1));
            }
            if self.wanted(column) && !diagonal {
                product(column, row, (1, stride));
            }
        }
        sums
    }
}

/// Cuts a range into blocks of nearly equal length.
fn blocks(start: usize, end: usize, edge: usize, second: bool) -> impl Iterator<Item = Block> {
    let count = (end - start).div_ceil(edge);
    let cut = move |i: usize| start + (end - start) * i / count.max(1);
    (0..count).map(move |i| Block {
        start: cut(i),
        end: cut(i + 1),
        second,
    })
}

impl<T: Real> Plan<'_, T> {
    /// Shares the tiles between threads and adds their sums in a fixed order.
    pub(super) fn run(&self, threads: usize) -> Sums<T> {
        let (n, total) = (self.pool.split, self.pool.len());
        // Smaller tiles for a few points: less of the tiles on the diagonal is done twice, and the
        // threads get equal shares.
        let whole = self.work(Pair {
            row: Block {
                start: 0,
                end: total,
                second: false,
            },
            column: Block {
                start: 0,
                end: total,
                second: false,
            },
        });
        let threads = threads.min((whole / WORK_PER_THREAD) as usize).max(1);
        let edge = if total < 4 * EDGE * threads {
            EDGE / 2
        } else {
            EDGE
        };
        let all: Vec<Block> = blocks(0, n, edge, false)
            .chain(blocks(n, total, edge, true))
            .collect();
        let mut pairs: Vec<Pair> = Vec::with_capacity(all.len() * (all.len() + 1) / 2);
        for (i, &row) in all.iter().enumerate() {
            pairs.extend(all[i..].iter().map(|&column| Pair { row, column }));
        }
        if threads == 1 {
            return self.accumulate(&pairs);
        }
        // Largest first, each to the thread with the least work so far.
        pairs.sort_by(|p, q| self.work(*q).total_cmp(&self.work(*p)));
        let mut shares: Vec<(f64, Vec<Pair>)> = vec![(0.0, Vec::new()); threads];
        for pair in pairs {
            let least = (0..threads).min_by(|&s, &t| shares[s].0.total_cmp(&shares[t].0));
            let share = &mut shares[least.unwrap_or(0)];
            share.0 += self.work(pair);
            share.1.push(pair);
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = shares[1..]
                .iter()
                .map(|(_, pairs)| scope.spawn(move || self.accumulate(pairs)))
                .collect();
            let mut sums = self.accumulate(&shares[0].1);
            for worker in workers {
                let part = match worker.join() {
                    Ok(part) => part,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                let add = |to: &mut [f64], from: &[f64]| {
                    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                };
                add(&mut sums.within, &part.within);
                add(&mut sums.cross, &part.cross);
                add(&mut sums.coefficient, &part.coefficient);
                sums.moved
                    .iter_mut()
                    .zip(&part.moved)
                    .for_each(|(t, &f)| *t += f);
                sums.moment += part.moment;
            }
            sums
        })
    }
}

//! The pass over the tiles of a problem.

use super::kernel::Shape;
use super::schedule::{Block, Pair};
use super::tile::{Points, Tile, combine, kernels, tile};
use super::{Options, Pool, Within};
use crate::buffer::Aligned;
use crate::gemm::gemm;
use crate::product::{Left, Panels, add_times};
use crate::real::{LANES, Real};

/// Sums over the pairs of points, with weights that are negative in the second set.
pub(super) struct Sums<T> {
    /// `sum_j k_ij s_jc` over the own set, for each class `c`.
    pub(super) within: Vec<f64>,
    /// `sum_j k_ij s_jc` over the other set.
    pub(super) cross: Vec<f64>,
    /// `sum_j g_ij`, the factors of the within sums included.
    pub(super) coefficient: Vec<f64>,
    /// `2 sum_j g_ij z_j`, likewise; only the points of `Plan::span`.
    pub(super) moved: Vec<T>,
    /// `sum_ij g_ij d_ij^2`, likewise.
    pub(super) moment: f64,
}

/// Everything that the tiles read.
pub(super) struct Plan<'a, T> {
    pub(super) pool: &'a Pool<T>,
    pub(super) shape: Shape<T>,
    /// Multipliers of the within sums, for each set and class.
    pub(super) sides: [Vec<Within>; 2],
    /// With several classes: the masses times these multipliers.
    pub(super) scaled: Vec<T>,
    pub(super) options: Options<'a>,
}

/// Buffers of one thread.
struct Workspace<T> {
    entries: Aligned<T>,
    /// With several classes: distances, kernels and pair weights of a tile.
    tiles: [Vec<T>; 3],
    vectors: Vec<T>,
    /// Kernel times masses of a tile.
    products: Vec<T>,
}

impl<T: Real> Plan<'_, T> {
    /// The points whose gradient is wanted.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        let (n, total) = (self.pool.split, self.pool.len());
        match (self.options.want_x, self.options.want_y) {
            (false, false) => 0..0,
            (x, y) => (if x { 0 } else { n })..(if y { total } else { n }),
        }
    }

    fn workspace(&self, pairs: &[Pair]) -> Workspace<T> {
        let side = pairs
            .iter()
            .map(|p| p.row.len().max(p.column.len()))
            .max()
            .unwrap_or(0)
            .next_multiple_of(LANES);
        let several = self.pool.classes > 1;
        let tile = || vec![T::ZERO; if several { side * side } else { 0 }];
        Workspace {
            entries: Aligned::arbitrary(side * side),
            tiles: [tile(), tile(), tile()],
            vectors: vec![T::ZERO; 8 * side],
            products: vec![T::ZERO; if several { side * self.pool.classes } else { 0 }],
        }
    }

    /// The sums over some of the tiles.
    ///
    /// `panels`: the points of each block, where this level has products of such.
    pub(super) fn accumulate(&self, panels: &[Panels<T>], pairs: &[Pair]) -> Sums<T> {
        let (pool, n) = (self.pool, self.pool.len());
        let mut sums = Sums {
            within: vec![0.0; n * pool.classes],
            cross: vec![0.0; n * pool.classes],
            coefficient: vec![0.0; n],
            moved: vec![T::ZERO; self.span().len() * pool.width],
            moment: 0.0,
        };
        let mut workspace = self.workspace(pairs);
        for &pair in pairs {
            self.products(pair, panels.get(pair.column.place), &mut workspace.entries);
            if pool.classes == 1 {
                self.one_mass(pair, &mut workspace, &mut sums);
            } else {
                self.many_masses(pair, &mut workspace, &mut sums);
            }
            self.gradient(pair, &workspace.entries, &mut sums);
        }
        sums
    }

    /// Scalar products of the points of a tile.
    fn products(&self, pair: Pair, panels: Option<&Panels<T>>, entries: &mut [T]) {
        let Pair { row, column } = pair;
        let (pool, width, level) = (self.pool, self.pool.width, self.options.level);
        let stride = column.len().next_multiple_of(LANES);
        let entries = &mut entries[..row.len() * stride];
        let (rows, columns) = (row.of(&pool.points, width), column.of(&pool.points, width));
        match panels {
            Some(panels) if row.start == column.start => panels.square(level, rows, entries),
            Some(panels) => panels.times(level, rows, entries),
            None => {
                if stride > column.len() {
                    for line in entries.chunks_exact_mut(stride) {
                        line[column.len()..].fill(T::ZERO);
                    }
                }
                gemm(
                    row.len(),
                    width,
                    column.len(),
                    T::ONE,
                    rows,
                    (width, 1),
                    columns,
                    (1, width),
                    T::ZERO,
                    entries,
                    (stride, 1),
                );
            }
        }
        if row.start == column.start && self.shape.invariant() {
            for (i, &norm) in row.of(&pool.norms, 1).iter().enumerate() {
                entries[i * stride + i] = norm; // a distance of exactly zero
            }
        }
    }

    fn view<'a>(&'a self, Pair { row, column }: Pair, column_norm: &'a mut [T]) -> Points<'a, T> {
        let (pool, width) = (self.pool, self.pool.width);
        let (head, tail) = column_norm.split_at_mut(column.len());
        head.copy_from_slice(column.of(&pool.norms, 1));
        tail.fill(T::ZERO);
        Points {
            width,
            row: row.of(&pool.points, width),
            column: column.of(&pool.points, width),
            row_norm: row.of(&pool.norms, 1),
            stride: column_norm.len(),
            column_norm,
            skip: row.start == column.start && self.options.unbiased,
        }
    }

    fn one_mass(&self, pair: Pair, workspace: &mut Workspace<T>, sums: &mut Sums<T>) {
        let Pair { row, column } = pair;
        let (pool, level) = (self.pool, self.options.level);
        let (rows, stride) = (row.len(), column.len().next_multiple_of(LANES));
        let (diagonal, inner) = (row.start == column.start, row.second == column.second);
        let side = workspace.vectors.len() / 8;
        let (scratch, vectors) = workspace.vectors.split_at_mut(2 * side);
        let mut parts = vectors.chunks_exact_mut(side);
        let mut part = |len: usize| &mut parts.next().expect("six vectors")[..len];
        let column_weight = part(stride);
        column_weight[..column.len()].copy_from_slice(column.of(&pool.weights, 1));
        column_weight[column.len()..].fill(T::ZERO);
        let points = self.view(pair, part(stride));
        let mut view = Tile {
            row_weight: row.of(&pool.weights, 1),
            column_weight,
            entries: &mut workspace.entries[..rows * stride],
            row_kernel: part(rows),
            row_coefficient: part(rows),
            column_kernel: part(stride),
            column_coefficient: part(stride),
            scratch,
        };
        let moment = if diagonal {
            tile::<T, false>(level, &points, &mut view, &self.shape)
        } else {
            2.0 * tile::<T, true>(level, &points, &mut view, &self.shape)
        };
        let factor = self.factor(pair);
        sums.moment += factor * moment;
        let kernel = if inner {
            &mut sums.within
        } else {
            &mut sums.cross
        };
        let mean = self.shape.mean;
        add(&mut kernel[row.start..row.end], view.row_kernel, mean);
        add(
            &mut sums.coefficient[row.start..row.end],
            view.row_coefficient,
            factor,
        );
        if !diagonal {
            add(
                &mut kernel[column.start..column.end],
                view.column_kernel,
                mean,
            );
            add(
                &mut sums.coefficient[column.start..column.end],
                view.column_coefficient,
                factor,
            );
        }
    }

    /// As [`Self::one_mass`], with the pair weights `sum_c f_c s_ic s_jc`, a product of rank `K`.
    fn many_masses(&self, pair: Pair, workspace: &mut Workspace<T>, sums: &mut Sums<T>) {
        let Pair { row, column } = pair;
        let (pool, level, classes) = (self.pool, self.options.level, self.pool.classes);
        let (rows, columns) = (row.len(), column.len());
        let stride = columns.next_multiple_of(LANES);
        let (diagonal, inner) = (row.start == column.start, row.second == column.second);
        let side = workspace.vectors.len() / 8;
        let mut parts = workspace.vectors.chunks_exact_mut(side);
        let mut part = |len: usize| &mut parts.next().expect("eight vectors")[..len];
        let points = self.view(pair, part(stride));
        let entries = &mut workspace.entries[..rows * stride];
        let [d2, k, weights] = workspace
            .tiles
            .each_mut()
            .map(|tile| &mut tile[..rows * stride]);
        kernels(level, &points, &self.shape, entries, d2, k);

        let masses = if inner {
            &mut sums.within
        } else {
            &mut sums.cross
        };
        let mut sum = |to: Block, from: Block, strides: (usize, usize)| {
            let products = &mut workspace.products[..to.len() * classes];
            gemm(
                to.len(),
                from.len(),
                classes,
                T::ONE,
                k,
                strides,
                from.of(&pool.weights, classes),
                (classes, 1),
                T::ZERO,
                products,
                (classes, 1),
            );
            let masses = &mut masses[to.start * classes..to.end * classes];
            add(masses, products, self.shape.mean);
        };
        sum(row, column, (stride, 1));
        if !diagonal {
            sum(column, row, (1, stride));
        }
        if !self.options.slopes() {
            return;
        }
        let scaled = if inner { &self.scaled } else { &pool.weights };
        if stride > columns {
            weights.fill(T::ZERO);
        }
        gemm(
            rows,
            classes,
            columns,
            T::ONE,
            row.of(scaled, classes),
            (classes, 1),
            column.of(&pool.weights, classes),
            (1, classes),
            T::ZERO,
            weights,
            (stride, 1),
        );
        let (row_sum, column_sum) = (part(rows), part(stride));
        let moment = combine(level, weights, d2, entries, row_sum, column_sum);
        sums.moment += if diagonal { moment } else { 2.0 * moment };
        add(&mut sums.coefficient[row.start..row.end], row_sum, 1.0);
        if !diagonal {
            let coefficient = &mut sums.coefficient[column.start..column.end];
            add(coefficient, column_sum, 1.0);
        }
    }

    /// What the entries of a tile have still to be multiplied by.
    fn factor(&self, Pair { row, column }: Pair) -> f64 {
        if self.pool.classes == 1 && row.second == column.second {
            self.sides[usize::from(row.second)][0].factor
        } else {
            1.0
        }
    }

    /// Both sides of the gradient: `G z` and `G^T z`.
    fn gradient(&self, pair: Pair, entries: &[T], sums: &mut Sums<T>) {
        let Pair { row, column } = pair;
        let stride = column.len().next_multiple_of(LANES);
        let entries = &entries[..row.len() * stride];
        if self.wanted(row) {
            self.moved(pair, (row, column), Left::rows(entries, stride), sums);
        }
        // A tile on the diagonal is symmetric.
        if self.wanted(column) && row.start != column.start {
            self.moved(pair, (column, row), Left::columns(entries, stride), sums);
        }
    }

    /// Adds the products of entries with the points `from` to those of `to`.
    fn moved(
        &self,
        pair: Pair,
        (to, from): (Block, Block),
        entries: Left<'_, T>,
        sums: &mut Sums<T>,
    ) {
        let (width, start) = (self.pool.width, self.span().start);
        let points = from.of(&self.pool.points, width);
        let out = &mut sums.moved[(to.start - start) * width..(to.end - start) * width];
        let factor = T::from_f64(2.0 * self.factor(pair));
        if add_times(self.options.level, factor, entries, (points, width), out) {
            return;
        }
        gemm(
            to.len(),
            from.len(),
            width,
            factor,
            entries.data,
            (entries.row, entries.column),
            points,
            (width, 1),
            T::ONE,
            out,
            (width, 1),
        );
    }
}

fn add<T: Real>(to: &mut [f64], from: &[T], factor: f64) {
    for (t, f) in to.iter_mut().zip(from) {
        *t += factor * f.to_f64();
    }
}

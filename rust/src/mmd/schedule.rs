//! Which tiles there are, and which thread does which.

use super::sweep::{Plan, Sums};
use crate::parallel;
use crate::product::Panels;
use crate::real::{LANES, Real};

/// Side of a tile: two of them fit the second-level cache, and the matrix products repay packing.
const EDGE: usize = 256;

/// Below this many multiply-adds a thread costs more than it saves.
const WORK_PER_THREAD: f64 = 1e6;

/// Coordinates from which the threads share the packing.
const SHARED: usize = 1 << 18;

/// Multiply-adds of a few milliseconds.
const BRIEF: f64 = 3e8;

/// A range of pooled points of one set.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) second: bool,
    /// Which of all blocks it is.
    pub(super) place: usize,
}

impl Block {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The block's part of an array with `width` entries per point.
    pub(super) fn of<'a, T>(&self, all: &'a [T], width: usize) -> &'a [T] {
        &all[self.start * width..self.end * width]
    }
}

/// Two blocks; the same one twice on the diagonal.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) row: Block,
    pub(super) column: Block,
}

/// Cuts a range into blocks of nearly equal length.
fn blocks(
    start: usize,
    end: usize,
    edge: usize,
    second: bool,
    place: usize,
) -> impl Iterator<Item = Block> {
    let count = (end - start).div_ceil(edge);
    // Whole lane arrays, where that is possible.
    let cut = move |i: usize| match (end - start) * i / count.max(1) {
        at if i < count => start + at / LANES * LANES,
        at => start + at,
    };
    (0..count).map(move |i| Block {
        start: cut(i),
        end: cut(i + 1),
        second,
        place: place + i,
    })
}

impl<T: Real> Plan<'_, T> {
    /// The gradient to these points is asked for.
    pub(super) fn wanted(&self, block: Block) -> bool {
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
        let classes = match self.pool.classes {
            1 => 0,
            classes => 3 * classes,
        };
        let pairs = pair.row.len() * pair.column.len();
        (pairs * (products * self.pool.width + classes + 40)) as f64
    }

    /// Shares the tiles between threads; the sums of each, in a fixed order.
    pub(super) fn run(&self, threads: usize) -> Vec<Sums<T>> {
        let (n, total) = (self.pool.split, self.pool.len());
        let whole = Block {
            start: 0,
            end: total,
            second: false,
            place: 0,
        };
        let work = self.work(Pair {
            row: whole,
            column: whole,
        });
        let threads = threads.min((work / WORK_PER_THREAD) as usize).max(1);
        // Smaller tiles for a few points: less of the tiles on the diagonal is done twice, and the
        // threads get equal shares.
        let edge = if total < 4 * EDGE * threads {
            EDGE / 2
        } else {
            EDGE
        };
        let mut all: Vec<Block> = blocks(0, n, edge, false, 0).collect();
        all.extend(blocks(n, total, edge, true, all.len()));
        let (level, width) = (self.options.level, self.pool.width);
        let spread = |k: usize| Panels::new(level, all[k].of(&self.pool.points, width), width);
        let packers = if total * width < SHARED { 1 } else { threads };
        let panels: Vec<_> = parallel::map(all.len(), packers, true, spread);
        let panels: Vec<_> = panels.into_iter().flatten().collect();
        let mut pairs: Vec<Pair> = Vec::with_capacity(all.len() * (all.len() + 1) / 2);
        for (i, &row) in all.iter().enumerate() {
            // The product with the tile is faster than with its transpose: the points whose gradient
            // is wanted stand in the rows.
            pairs.extend(all[i..].iter().map(|&column| {
                if self.wanted(column) && !self.wanted(row) {
                    Pair {
                        row: column,
                        column: row,
                    }
                } else {
                    Pair { row, column }
                }
            }));
        }
        if threads == 1 {
            return vec![self.accumulate(&panels, &pairs)];
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
        parallel::map(threads, threads, work < BRIEF, |k| {
            self.accumulate(&panels, &shares[k].1)
        })
    }
}

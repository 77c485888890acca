//! Large buffers kept from one call to the next.
//!
//! Fresh memory costs a page fault for every 4 KiB, which is a third of the time of a problem of
//! 512 points; a training loop asks for the same buffers at every step.

use std::sync::{Mutex, PoisonError};

use super::Aligned;
use crate::real::Real;

/// Bytes that are kept for each of the two number types.
const KEEP: usize = 64 << 20;

/// The allocator keeps smaller buffers itself.
const LEAST: usize = 64 << 10;

/// Buffers that nobody uses at the moment.
#[derive(Debug)]
pub struct Spare<T>(Mutex<Vec<Aligned<T>>>);

impl<T: Real> Spare<T> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A buffer of that length whose contents mean nothing: the caller writes before it reads.
    #[must_use]
    pub fn take(&self, len: usize) -> Aligned<T> {
        if len * size_of::<T>() < LEAST {
            return Aligned::zeros(len);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter().position(|buffer| buffer.len() == len) {
            Some(place) => kept.swap_remove(place),
            None => {
                drop(kept);
                Aligned::zeros(len)
            }
        }
    }

    /// Keeps a buffer, and lets older ones go where there would be too many.
    pub fn give(&self, buffer: Aligned<T>) {
        if size_of_val(&*buffer) < LEAST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(buffer);
        let bytes = |kept: &[Aligned<T>]| kept.iter().map(|b| size_of_val(&**b)).sum::<usize>();
        while bytes(&kept) > KEEP {
            kept.remove(0);
        }
    }
}

impl<T: Real> Default for Spare<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_until_there_are_too_many() {
        let spare = Spare::<f32>::new();
        let len = LEAST / 4;
        let mut first = spare.take(len);
        first[0] = 7.0;
        spare.give(first);
        assert!((spare.take(len)[0] - 7.0).abs() < f32::EPSILON);
        assert!(spare.take(len)[0].abs() < f32::EPSILON);
        spare.give(Aligned::zeros(32));
        assert!(spare.0.lock().unwrap().is_empty());
        for _ in 0..5 {
            spare.give(Aligned::zeros(KEEP / 16));
        }
        assert_eq!(spare.0.lock().unwrap().len(), 4);
        spare.give(Aligned::zeros(KEEP));
        assert!(spare.0.lock().unwrap().is_empty());
    }
}

//! Large buffers kept from one call to the next.
//!
//! Fresh memory costs a page fault for every 4 KiB, which is a third of the time of a problem of
//! 512 points; a training loop asks for the same buffers at every step.

use std::sync::{Mutex, PoisonError};

/// Bytes that are kept for each of the two number types.
const KEEP: usize = 64 << 20;

/// Vectors that are kept for each of them, which are looked through for one of the wanted length.
const MOST: usize = 256;

/// The allocator keeps smaller buffers itself, but clears them.
const LEAST: usize = 8 << 10;

/// Memory that nobody uses at the moment.
#[derive(Debug)]
pub struct Spare<T>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    /// Oldest first.
    all: Vec<Vec<T>>,
    bytes: usize,
}

impl<T> Kept<T> {
    fn remove(&mut self, place: usize) -> Vec<T> {
        let data = self.all.remove(place);
        self.bytes -= size_of_val(&*data);
        data
    }
}

impl<T> Spare<T> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Kept {
            all: Vec::new(),
            bytes: 0,
        }))
    }

    /// A vector of that length whose contents mean nothing, the last one that was given.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<Vec<T>> {
        if len * size_of::<T>() < LEAST {
            return None;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.all.iter().rposition(|data| data.len() == len)?;
        Some(kept.remove(place))
    }

    /// Keeps a vector, and lets older ones go where there would be too many; one that is too large
    /// by itself displaces nobody.
    pub fn give(&self, data: Vec<T>) {
        if !(LEAST..=KEEP).contains(&size_of_val(&*data)) {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size_of_val(&*data);
        kept.all.push(data);
        while kept.bytes > KEEP || kept.all.len() > MOST {
            kept.remove(0);
        }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_until_there_are_too_many() {
        let spare = Spare::<f32>::new();
        let len = LEAST / 4;
        assert!(spare.take(len).is_none());
        spare.give(vec![7.0; len]);
        assert!(spare.take(len + 1).is_none());
        assert_eq!(spare.take(len), Some(vec![7.0; len]));
        assert!(spare.take(len).is_none());
        spare.give(vec![0.0; 32]);
        assert!(spare.0.lock().unwrap().all.is_empty());
        for _ in 0..5 {
            spare.give(vec![0.0; KEEP / 16]);
        }
        assert_eq!(spare.0.lock().unwrap().all.len(), 4);
        spare.give(vec![0.0; KEEP]);
        assert_eq!(spare.0.lock().unwrap().all.len(), 4);
        let spare = Spare::<f32>::new();
        for _ in 0..MOST + 3 {
            spare.give(vec![0.0; len]);
        }
        let kept = spare.0.lock().unwrap();
        assert_eq!((kept.all.len(), kept.bytes), (MOST, MOST * LEAST));
    }
}

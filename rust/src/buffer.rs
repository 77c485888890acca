//! Vectors that start on a cache line.

mod spare;

pub use spare::Spare;

use std::ops::{Deref, DerefMut};

use crate::real::{LANES, Real};

const LINE: usize = 64;

/// Addresses that differ by a multiple of this look the same to a processor that asks whether a
/// load has to wait for a store.
const PAGE: usize = 4096;

/// `n` rounded up to whole lane arrays.
#[must_use]
pub fn padded(n: usize) -> usize {
    n.div_ceil(LANES) * LANES
}

/// Bytes below which an allocator has a quick path for memory that need not be zero.
const BRIEF: usize = 1 << 10;

/// `len` times `value`, also where that is 0: for few elements `calloc` takes longer than to write
/// them.
#[must_use]
pub fn brief<T: Clone>(len: usize, value: T) -> Vec<T> {
    let mut all = Vec::with_capacity(len);
    all.resize(len, value);
    all
}

/// A fixed-length vector whose first element lies on a 64-byte boundary.
///
/// Vector loads of rows that are padded to [`LANES`] then never straddle two cache lines. Large
/// ones take their memory from [`Spare`], and leave it there.
#[derive(Debug)]
pub struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
    /// Where the memory goes in the end.
    leave: fn(Vec<T>),
}

impl<T: Real> Aligned<T> {
    /// `len` times `value`.
    #[must_use]
    pub fn filled(len: usize, value: T) -> Self {
        match T::spare().take(Self::room(len)) {
            Some(mut data) => {
                data.fill(value);
                Self::within(data, len)
            }
            None => Self::fresh(len, value),
        }
    }

    /// `len` elements that mean nothing: the caller writes before it reads.
    #[must_use]
    pub fn arbitrary(len: usize) -> Self {
        match T::spare().take(Self::room(len)) {
            Some(data) => Self::within(data, len),
            None => Self::fresh(len, T::ZERO),
        }
    }

    /// The same on one of two kinds of `side`: what is read from one kind while the other is
    /// written does not wait for that.
    #[must_use]
    pub fn arbitrary_beside(len: usize, side: bool) -> Self {
        let mut all = Self::arbitrary(len + PAGE / size_of::<T>());
        let address = all.as_ptr() as usize;
        let place = if side { PAGE / 2 } else { 0 };
        // Both are multiples of a line, and thus of an element.
        all.start += (place + PAGE - address % PAGE) % PAGE / size_of::<T>();
        all.len = len;
        all
    }

    /// Elements that hold `len` of them wherever the first line starts.
    fn room(len: usize) -> usize {
        len + LINE / size_of::<T>()
    }

    fn fresh(len: usize, value: T) -> Self {
        let room = Self::room(len);
        let data = if room * size_of::<T>() < BRIEF {
            brief(room, value)
        } else {
            vec![value; room]
        };
        pages::advise(&data);
        Self::within(data, len)
    }

    fn within(data: Vec<T>, len: usize) -> Self {
        // `align_offset` may decline (it answers usize::MAX); alignment is only a matter of speed.
        let start = match data.as_ptr().align_offset(LINE) {
            offset if offset <= data.len() - len => offset,
            _ => 0,
        };
        Self {
            data,
            start,
            len,
            leave: |data| T::spare().give(data),
        }
    }

    /// `len` zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        Self::filled(len, T::ZERO)
    }

    /// `values`, followed by `fill` up to a whole number of lane arrays.
    #[must_use]
    pub fn padded_from(values: &[T], fill: T) -> Self {
        let mut all = Self::filled(padded(values.len()), fill);
        all[..values.len()].copy_from_slice(values);
        all
    }
}

impl<T> Drop for Aligned<T> {
    fn drop(&mut self) {
        (self.leave)(std::mem::take(&mut self.data));
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T: Clone> Clone for Aligned<T> {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T> From<Vec<T>> for Aligned<T> {
    /// The vector itself, wherever it starts.
    fn from(data: Vec<T>) -> Self {
        let len = data.len();
        Self {
            data,
            start: 0,
            len,
            leave: drop,
        }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(target_os = "linux")]
mod pages {
    use std::ffi::{c_int, c_void};

    /// A large page.
    const PAGE: usize = 2 << 20;
    const MADV_HUGEPAGE: c_int = 14;

    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }

    /// Asks for large pages under a large vector that nobody has written to yet: one page fault
    /// in place of 512.
    pub(super) fn advise<T>(data: &[T]) {
        let range = data.as_ptr_range();
        let first = (range.start as usize).next_multiple_of(PAGE);
        let last = (range.end as usize) / PAGE * PAGE;
        if last < first + PAGE {
            return;
        }
        // SAFETY: whole pages within one allocation; the advice changes no content, and a refusal
        // costs nothing but speed.
        unsafe { madvise(first as *mut c_void, last - first, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
mod pages {
    pub(super) fn advise<T>(_: &[T]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_half_a_page_apart() {
        for len in [0, 1, 100, 5000] {
            let sides = [false, true].map(|side| Aligned::<f64>::arbitrary_beside(len, side));
            let [p, q] = sides.each_ref().map(|all| all.as_ptr() as usize % PAGE);
            assert_eq!((p, q), (0, PAGE / 2));
            assert!(sides.iter().all(|all| all.len() == len));
        }
    }

    #[test]
    fn starts_on_a_line_and_keeps_its_values() {
        for n in [0, 1, 16, 100] {
            let x = Aligned::<f32>::padded_from(&vec![2.0; n], -1.0);
            assert_eq!(x.len(), padded(n));
            assert_eq!(x.as_ptr().align_offset(LINE), 0);
            assert!(x[..n].iter().all(|&v| v == 2.0) && x[n..].iter().all(|&v| v == -1.0));
        }
    }
}

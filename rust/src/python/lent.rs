//! Large results in memory that comes back when Python lets go of them.
//!
//! Fresh memory for the gradients of a batch costs a page fault for every 4 KiB at every step.

use std::any::Any;

use numpy::ndarray::{ArrayView, IxDyn};
use numpy::{Element, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::sides::refuse;
use crate::buffer::Aligned;
use crate::real::Real;
use crate::simd;
use crate::vmath;

/// Owns the memory of an array; the base object of the array.
#[pyclass(frozen, module = "ucmkd._rust")]
pub struct Lender {
    _buffer: Box<dyn Any + Send + Sync>,
}

/// An array of that shape in the memory of the buffer.
pub(super) fn lent<'py, T: Real + Element>(
    py: Python<'py>,
    buffer: Aligned<T>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let (data, len) = (buffer.as_ptr(), buffer.len());
    let lender = Bound::new(
        py,
        Lender {
            _buffer: Box::new(buffer),
        },
    )?;
    // SAFETY: the elements are on the heap, where they stay until `lender` is dropped, and nobody
    // else reads or writes them in the meantime.
    let elements = unsafe { std::slice::from_raw_parts(data, len) };
    // SAFETY: as above.
    unsafe { lent_by(lender.into_any(), elements, shape) }
}

/// An array of that shape in the memory of `elements`.
///
/// # Safety
/// The elements must stay where they are until `lender` is dropped.
pub(super) unsafe fn lent_by<'py, T: Real + Element>(
    lender: Bound<'py, PyAny>,
    elements: &[T],
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let Ok(view) = ArrayView::from_shape(IxDyn(shape), elements) else {
        let len = elements.len();
        return refuse(format!("{len} numbers have no shape {shape:?}"));
    };
    // SAFETY: the array keeps `lender` alive, and with it the elements.
    Ok(unsafe { PyArrayDyn::borrow_from_array(&view, lender) }.into_any())
}

/// `factor` times `x`: one number (maybe no array), or one for each `x[k]`.
#[pyfunction]
pub fn scaled<'py>(
    x: &Bound<'py, PyAny>,
    factor: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    fn of<'py, T: Real + Element>(
        x: &Bound<'py, PyArrayDyn<T>>,
        factor: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let factor: Vec<T> = if let Ok(factor) = factor.cast::<PyArrayDyn<T>>() {
            factor.readonly().as_array().iter().copied().collect()
        } else if let Ok(factor) = factor.extract::<f64>() {
            vec![T::from_f64(factor)]
        } else {
            return refuse("factor must be a number or an array of the dtype of x".into());
        };
        let x = x.readonly();
        let shape = x.shape().to_vec();
        let x_all = x.as_slice()?;
        if factor.len() != 1 && Some(&factor.len()) != shape.first() {
            return refuse(format!(
                "factor must hold 1 number or one for each row of x {shape:?}; got {}",
                factor.len()
            ));
        }
        let mut all = Aligned::arbitrary(x_all.len());
        let each = (x_all.len() / factor.len().max(1)).max(1);
        let parts = x_all.chunks_exact(each).zip(all.chunks_exact_mut(each));
        for ((from, to), &factor) in parts.zip(&factor) {
            vmath::scaled(simd::level(), factor, from, to);
        }
        lent(x.py(), all, &shape)
    }
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        of(x, factor)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        of(x, factor)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

//! One pass over an array where NumPy or PyTorch would take several, or start their threads.

use numpy::{Element, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::sides::refuse;
use crate::real::Real;
use crate::simd;
use crate::vmath;

/// Applies a function to two arrays of one type and shape.
fn pair<'py, R, T: Element>(
    x: &Bound<'py, PyArrayDyn<T>>,
    y: &Bound<'py, PyAny>,
    apply: impl FnOnce(&[T], &[T]) -> R,
) -> PyResult<R> {
    let Ok(y) = y.cast::<PyArrayDyn<T>>() else {
        return refuse("y must be an array of the dtype of x".into());
    };
    if x.shape() != y.shape() {
        return refuse(format!(
            "x and y must have one shape; got {:?} and {:?}",
            x.shape(),
            y.shape()
        ));
    }
    let (x, y) = (x.readonly(), y.readonly());
    Ok(apply(x.as_slice()?, y.as_slice()?))
}

/// Whether the sum of squares is finite: no NaN, no infinity, no overflow of the squares.
#[pyfunction]
pub fn is_finite(x: &Bound<'_, PyAny>) -> PyResult<bool> {
    fn of<T: Real + Element>(x: &Bound<'_, PyArrayDyn<T>>) -> PyResult<bool> {
        let x = x.readonly();
        let x = x.as_slice()?;
        Ok(vmath::dot(simd::level(), x, x).is_finite())
    }
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        of(x)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        of(x)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

/// Whether two arrays of one type and shape are equal entry by entry; NaN equals nothing.
#[pyfunction]
pub fn equal(x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<bool> {
    fn of<T: Real>(x: &[T], y: &[T]) -> bool {
        vmath::equal(simd::level(), x, y)
    }
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        pair(x, y, of)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        pair(x, y, of)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

/// The Euclidean distance of two arrays; NaN if either holds one.
#[pyfunction]
pub fn distance(x: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<f64> {
    fn of<T: Real>(x: &[T], y: &[T]) -> f64 {
        vmath::squared_distance(simd::level(), x, y).to_f64().sqrt()
    }
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        pair(x, y, of)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        pair(x, y, of)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

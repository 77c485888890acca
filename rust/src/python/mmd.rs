//! Maximum mean discrepancy and the median bandwidth, on NumPy arrays.

use numpy::ndarray::{Array1, Array2, Array3};
use numpy::{Element, IntoPyArray, PyArray1, PyArray2, PyArray3, PyReadonlyArray1};
use numpy::{PyArrayMethods, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::mmd::{Options, Problem, mmd_batch};
use crate::real::Real;
use crate::simd;

/// The two batched point sets with their weights, checked.
struct Sets<'py, T: Element> {
    x: PyReadonlyArray3<'py, T>,
    y: PyReadonlyArray3<'py, T>,
    a: Option<PyReadonlyArray2<'py, T>>,
    b: Option<PyReadonlyArray2<'py, T>>,
}

fn weights<'py, T: Element>(
    name: &str,
    array: Option<&Bound<'py, PyAny>>,
    shape: [usize; 2],
) -> PyResult<Option<PyReadonlyArray2<'py, T>>> {
    let Some(array) = array else { return Ok(None) };
    let array = array.cast::<PyArray2<T>>().map_err(|_| {
        PyValueError::new_err(format!(
            "{name} must be a 2-d array of the dtype of x, or None"
        ))
    })?;
    if array.shape() != shape || !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!(
            "{name} has shape {:?}, expected C-contiguous {shape:?}",
            array.shape()
        )));
    }
    Ok(Some(array.readonly()))
}

impl<'py, T: Element> Sets<'py, T> {
    fn new(
        x: &Bound<'py, PyArray3<T>>,
        y: &Bound<'py, PyAny>,
        a: Option<&Bound<'py, PyAny>>,
        b: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        let y = y
            .cast::<PyArray3<T>>()
            .map_err(|_| PyValueError::new_err("y must be a 3-d array of the dtype of x"))?;
        let (&[batch, n, width], &[other, m, depth]) = (x.shape(), y.shape()) else {
            unreachable!("both are 3-d")
        };
        if batch != other || width != depth || n == 0 || m == 0 || width == 0 {
            return Err(PyValueError::new_err(format!(
                "x and y have shapes {:?} and {:?}, expected (B, n, d) and (B, m, d), not empty",
                x.shape(),
                y.shape()
            )));
        }
        if !(x.is_c_contiguous() && y.is_c_contiguous()) {
            return Err(PyValueError::new_err("x and y must be C-contiguous"));
        }
        Ok(Sets {
            a: weights("a", a, [batch, n])?,
            b: weights("b", b, [batch, m])?,
            x: x.readonly(),
            y: y.readonly(),
        })
    }

    /// Batch size, sizes of the sets, width.
    fn sizes(&self) -> (usize, usize, usize, usize) {
        let shape = self.x.shape();
        (shape[0], shape[1], self.y.shape()[1], shape[2])
    }

    fn problems(&self, bandwidth: impl Fn(usize) -> f64) -> PyResult<Vec<Problem<'_, T>>> {
        let (batch, n, m, width) = self.sizes();
        let (x, y) = (self.x.as_slice()?, self.y.as_slice()?);
        let a = self.a.as_ref().map(|a| a.as_slice()).transpose()?;
        let b = self.b.as_ref().map(|b| b.as_slice()).transpose()?;
        let problem = |i: usize| Problem {
            x: &x[i * n * width..(i + 1) * n * width],
            y: &y[i * m * width..(i + 1) * m * width],
            sizes: (n, m),
            width,
            a: a.map(|a| &a[i * n..(i + 1) * n]),
            b: b.map(|b| &b[i * m..(i + 1) * m]),
            bandwidth: bandwidth(i),
        };
        Ok((0..batch).map(problem).collect())
    }
}

/// Joins the parts; the only part is not copied.
fn joined<T: Copy>(mut parts: impl ExactSizeIterator<Item = Vec<T>>) -> Vec<T> {
    if parts.len() == 1 {
        parts.next().unwrap_or_default()
    } else {
        parts.flatten().collect()
    }
}

fn array2<T>(shape: (usize, usize), values: Vec<T>) -> PyResult<Array2<T>> {
    Array2::from_shape_vec(shape, values).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// `(B, n, d)`, or an empty vector for a gradient that nobody wants.
fn points<'py, T: Real + Element>(
    py: Python<'py>,
    shape: (usize, usize, usize),
    wanted: bool,
    values: Vec<T>,
) -> PyResult<Bound<'py, PyAny>> {
    if !wanted {
        return Ok(PyArray1::<T>::zeros(py, [0], false).into_any());
    }
    let array = Array3::from_shape_vec(shape, values);
    Ok(array
        .map_err(|e| PyValueError::new_err(e.to_string()))?
        .into_pyarray(py)
        .into_any())
}

fn solve<'py, T: Real + Element>(
    py: Python<'py>,
    sets: &Sets<'py, T>,
    bandwidth: &[f64],
    options: &Options<'_>,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let (batch, n, m, width) = sets.sizes();
    if bandwidth.len() != batch {
        return Err(PyValueError::new_err(format!(
            "bandwidth has {} entries, expected {batch}",
            bandwidth.len()
        )));
    }
    let problems = sets.problems(|i| bandwidth[i])?;
    let outputs = py.detach(|| mmd_batch(&problems, options, threads));
    let value: Array1<f64> = outputs.iter().map(|o| o.value).collect();
    let slope: Array1<f64> = outputs.iter().map(|o| o.grad_bandwidth).collect();
    let (mut gx, mut gy, mut ga, mut gb) = (vec![], vec![], vec![], vec![]);
    for output in outputs {
        gx.push(output.grad_x);
        gy.push(output.grad_y);
        ga.push(output.grad_a);
        gb.push(output.grad_b);
    }
    let result = (
        value.into_pyarray(py),
        points(
            py,
            (batch, n, width),
            options.want_x,
            joined(gx.into_iter()),
        )?,
        points(
            py,
            (batch, m, width),
            options.want_y,
            joined(gy.into_iter()),
        )?,
        array2((batch, n), joined(ga.into_iter()))?.into_pyarray(py),
        array2((batch, m), joined(gb.into_iter()))?.into_pyarray(py),
        slope.into_pyarray(py),
    );
    Ok(result.into_pyobject(py)?.into_any())
}

/// Squared maximum mean discrepancy of each pair of point sets, with its gradients.
///
/// Returns the values, the gradients with respect to x, y (empty unless wanted), a and b, and the
/// derivatives with respect to the bandwidths.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, bandwidth, scales, unbiased, want_x, want_y, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
pub fn mmd<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<&Bound<'py, PyAny>>,
    b: Option<&Bound<'py, PyAny>>,
    bandwidth: PyReadonlyArray1<'py, f64>,
    scales: Vec<f64>,
    unbiased: bool,
    want_x: bool,
    want_y: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let positive = |v: &f64| *v > 0.0 && v.is_finite();
    if scales.is_empty() || !scales.iter().all(positive) {
        return Err(PyValueError::new_err(format!(
            "scales is {scales:?}, expected at least one positive number"
        )));
    }
    let bandwidth = bandwidth.as_slice()?;
    let options = Options {
        scales: &scales,
        unbiased,
        want_x,
        want_y,
        level: simd::level(),
    };
    if let Ok(x) = x.cast::<PyArray3<f32>>() {
        solve(py, &Sets::new(x, y, a, b)?, bandwidth, &options, threads)
    } else if let Ok(x) = x.cast::<PyArray3<f64>>() {
        solve(py, &Sets::new(x, y, a, b)?, bandwidth, &options, threads)
    } else {
        Err(PyValueError::new_err(
            "x must be a 3-d array of float32 or float64",
        ))
    }
}

fn bandwidths<'py, T: Real + Element>(
    py: Python<'py>,
    sets: &Sets<'py, T>,
    limit: usize,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let problems = sets.problems(|_| 0.0)?;
    let all = py
        .detach(|| crate::median::median_bandwidth_batch(simd::level(), &problems, limit, threads));
    Ok(all.into_pyarray(py))
}

/// Bandwidth of each pair of point sets by the median rule.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, limit=1024, threads=1))]
pub fn median_bandwidth<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<&Bound<'py, PyAny>>,
    b: Option<&Bound<'py, PyAny>>,
    limit: usize,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    if limit < 2 {
        return Err(PyValueError::new_err(format!(
            "limit is {limit}, expected at least 2"
        )));
    }
    if let Ok(x) = x.cast::<PyArray3<f32>>() {
        bandwidths(py, &Sets::new(x, y, a, b)?, limit, threads)
    } else if let Ok(x) = x.cast::<PyArray3<f64>>() {
        bandwidths(py, &Sets::new(x, y, a, b)?, limit, threads)
    } else {
        Err(PyValueError::new_err(
            "x must be a 3-d array of float32 or float64",
        ))
    }
}

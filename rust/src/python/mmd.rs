//! Maximum mean discrepancy and the median bandwidth, on NumPy arrays.

use numpy::ndarray::{Array1, Array3};
use numpy::{Element, IntoPyArray, PyArray1, PyArray3, PyReadonlyArray1};
use numpy::{PyArrayMethods, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::mmd::{Kernel, Options, Problem, mmd_batch};
use crate::real::Real;
use crate::simd;

/// The two batched point sets with their weights, checked.
struct Sets<'py, T: Element> {
    x: PyReadonlyArray3<'py, T>,
    y: PyReadonlyArray3<'py, T>,
    a: Option<PyReadonlyArray3<'py, T>>,
    b: Option<PyReadonlyArray3<'py, T>>,
    classes: usize,
}

/// Masses `(B, n, classes)`; how many classes there are is read off the first array given.
fn masses<'py, T: Element>(
    name: &str,
    array: Option<&Bound<'py, PyAny>>,
    (batch, count): (usize, usize),
    classes: &mut Option<usize>,
) -> PyResult<Option<PyReadonlyArray3<'py, T>>> {
    let Some(array) = array else { return Ok(None) };
    let array = array.cast::<PyArray3<T>>().map_err(|_| {
        PyValueError::new_err(format!(
            "{name} must be a 3-d array of the dtype of x, or None"
        ))
    })?;
    let given = array.shape();
    let shape = [batch, count, classes.unwrap_or(given[2])];
    if given != shape || given[2] == 0 || !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!(
            "{name} has shape {given:?}, expected C-contiguous {shape:?}, not empty"
        )));
    }
    *classes = Some(given[2]);
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
        let mut classes = None;
        let a = masses("a", a, (batch, n), &mut classes)?;
        let b = masses("b", b, (batch, m), &mut classes)?;
        let classes = classes.unwrap_or(1);
        if classes > 1 && (a.is_none() || b.is_none()) {
            return Err(PyValueError::new_err(
                "a and b must both be given if there are several classes",
            ));
        }
        Ok(Sets {
            a,
            b,
            classes,
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
        let classes = self.classes;
        let problem = |i: usize| Problem {
            x: &x[i * n * width..(i + 1) * n * width],
            y: &y[i * m * width..(i + 1) * m * width],
            sizes: (n, m),
            width,
            a: a.map(|a| &a[i * n * classes..(i + 1) * n * classes]),
            b: b.map(|b| &b[i * m * classes..(i + 1) * m * classes]),
            classes,
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

/// An array, or `None` for a gradient that nobody wants.
fn array<'py, T: Real + Element>(
    py: Python<'py>,
    shape: (usize, usize, usize),
    wanted: bool,
    values: Vec<T>,
) -> PyResult<Option<Bound<'py, PyArray3<T>>>> {
    if !wanted {
        return Ok(None);
    }
    let array = Array3::from_shape_vec(shape, values);
    let array = array.map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(Some(array.into_pyarray(py)))
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
    let value: Array1<T> = outputs.iter().map(|o| T::from_f64(o.value)).collect();
    let slope: Option<Array1<f64>> = options
        .want_bandwidth
        .then(|| outputs.iter().map(|o| o.grad_bandwidth).collect());
    let (mut gx, mut gy, mut ga, mut gb) = (vec![], vec![], vec![], vec![]);
    for output in outputs {
        gx.push(output.grad_x);
        gy.push(output.grad_y);
        ga.push(output.grad_a);
        gb.push(output.grad_b);
    }
    let classes = sets.classes;
    let result = (
        value.into_pyarray(py),
        array(
            py,
            (batch, n, width),
            options.want_x,
            joined(gx.into_iter()),
        )?,
        array(
            py,
            (batch, m, width),
            options.want_y,
            joined(gy.into_iter()),
        )?,
        array(
            py,
            (batch, n, classes),
            options.want_masses,
            joined(ga.into_iter()),
        )?,
        array(
            py,
            (batch, m, classes),
            options.want_masses,
            joined(gb.into_iter()),
        )?,
        slope.map(|slope| slope.into_pyarray(py)),
    );
    Ok(result.into_pyobject(py)?.into_any())
}

/// The kernel of a name; `polynomial` is its degree, factor and offset.
fn kernel_of(name: &str, (degree, gamma, offset): (u32, f64, f64)) -> PyResult<Kernel> {
    match name {
        "gaussian" => Ok(Kernel::Gaussian),
        "laplace" => Ok(Kernel::Laplace),
        "energy" => Ok(Kernel::Energy),
        "rational_quadratic" => Ok(Kernel::RationalQuadratic),
        "polynomial" if degree > 0 && gamma.is_finite() && offset.is_finite() => {
            Ok(Kernel::Polynomial {
                degree,
                gamma,
                offset,
            })
        }
        _ => Err(PyValueError::new_err(format!(
            "kernel is {name:?} with degree {degree}, gamma {gamma}, offset {offset}"
        ))),
    }
}

/// Squared maximum mean discrepancy of each pair of point sets, with its gradients.
///
/// Returns the values, then the gradients with respect to x, y, a, b and the bandwidths, `None`
/// where the bits 2, 4, 8 (both masses) and 16 of `flags` do not ask for one. Bit 1 is the
/// U-statistic. `a` and `b` are `(B, n, classes)`.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, bandwidth, kernel, scales, polynomial, flags, threads))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value)]
pub fn mmd<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Option<&Bound<'py, PyAny>>,
    b: Option<&Bound<'py, PyAny>>,
    bandwidth: PyReadonlyArray1<'py, f64>,
    kernel: &str,
    scales: Vec<f64>,
    polynomial: (u32, f64, f64),
    flags: u32,
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
        kernel: kernel_of(kernel, polynomial)?,
        scales: &scales,
        unbiased: flags & 1 != 0,
        want_x: flags & 2 != 0,
        want_y: flags & 4 != 0,
        want_masses: flags & 8 != 0,
        want_bandwidth: flags & 16 != 0,
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
    if sets.classes != 1 {
        return Err(PyValueError::new_err(
            "a and b must have one mass per point",
        ));
    }
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

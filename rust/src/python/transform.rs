//! Potentials and plans applied to NumPy arrays, without the matrix.

use numpy::{Element, PyArray3, PyReadonlyArray1, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use super::interrupt::interruptible;
use super::sides::stacked;
use super::sides::{Classes, Matrix, Optional, cube, matrix, optional_cube, part, refuse, slice};
use crate::cost::Cost;
use crate::real::Real;
use crate::sinkhorn::{self, Costs, Options, Transform};

/// Arguments that do not depend on the number type.
struct Arguments<'a, 'py> {
    y: Optional<'a, 'py>,
    weights: (Optional<'a, 'py>, Optional<'a, 'py>),
    labels: (Optional<'a, 'py>, Optional<'a, 'py>),
    distance: Optional<'a, 'py>,
    potentials: (Optional<'a, 'py>, Optional<'a, 'py>),
    epsilon: PyReadonlyArray1<'py, f64>,
    label_cost: PyReadonlyArray1<'py, f64>,
    cost: &'a str,
    threads: usize,
    /// The caller's names of the sides are the other way round.
    swapped: bool,
}

impl Arguments<'_, '_> {
    /// The caller's name of an argument.
    fn name(&self, ours: &'static str) -> &'static str {
        const PAIRS: [[&str; 2]; 4] = [["x", "y"], ["a", "b"], ["f", "g"], ["x_label", "y_label"]];
        let other = |[p, q]: [&'static str; 2]| match ours {
            name if name == p => Some(q),
            name if name == q => Some(p),
            _ => None,
        };
        let swapped = PAIRS.into_iter().find_map(other).filter(|_| self.swapped);
        swapped.unwrap_or(ours)
    }
}

fn numbers<'a>(
    name: &str,
    array: &'a PyReadonlyArray1<'_, f64>,
    batch: usize,
    positive: bool,
) -> PyResult<&'a [f64]> {
    let values = array.as_slice()?;
    if values.len() != batch || (positive && values.iter().any(|v| *v <= 0.0)) {
        let kind = if positive { "positive " } else { "" };
        return refuse(format!(
            "{name} must hold {batch} {kind}numbers; got {values:?}"
        ));
    }
    Ok(values)
}

/// Checks everything; the plan applied to `values`, or without them the softmin.
fn transformed<'py, T: Real + Element>(
    py: Python<'py>,
    x: &Bound<'py, PyArray3<T>>,
    arguments: &Arguments<'_, 'py>,
    values: Optional<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let Some(cost) = Cost::from_name(arguments.cost) else {
        return refuse(format!(
            "cost must be one of {}; got {:?}",
            Cost::ALL.map(Cost::name).join(", "),
            arguments.cost
        ));
    };
    let x = cube(arguments.name("x"), x)?;
    let (batch, n, dim) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let y = optional_cube(arguments.name("y"), arguments.y)?;
    if let Some(y) = &y
        && (y.shape()[0] != batch || y.shape()[2] != dim)
    {
        return refuse(format!(
            "x and y must agree in batch and dimension; got {} {:?} and {} {:?}",
            arguments.name("x"),
            x.shape(),
            arguments.name("y"),
            y.shape()
        ));
    }
    let m = y.as_ref().map_or(n, |y| y.shape()[1]);
    let a: Matrix<T> = matrix(arguments.name("a"), arguments.weights.0, [batch, n])?;
    let b = if y.is_some() {
        matrix(arguments.name("b"), arguments.weights.1, [batch, m])?
    } else {
        matrix("a", arguments.weights.0, [batch, n])?
    };
    let f: Matrix<T> = matrix(arguments.name("f"), arguments.potentials.0, [batch, n])?;
    let g: Matrix<T> = matrix(arguments.name("g"), arguments.potentials.1, [batch, m])?;
    let names = [arguments.name("x_label"), arguments.name("y_label")];
    let (labels, distance) = (arguments.labels, arguments.distance);
    let classes = Classes::<T>::new(names, [batch, n, m], labels, distance, y.is_none())?;
    let epsilon = numbers("epsilon", &arguments.epsilon, batch, true)?;
    let label_cost = numbers("label_cost", &arguments.label_cost, batch, false)?;
    let values = optional_cube::<T>("values", values)?;
    if let Some(v) = &values
        && v.shape()[..2] != [batch, m]
    {
        return refuse(format!(
            "values must have shape ({batch}, {m}, k); got {:?}",
            v.shape()
        ));
    }
    let x_all = x.as_slice()?;
    let y_all = y.as_ref().map(|y| y.as_slice()).transpose()?;
    let uniform = |n: usize| vec![T::from_f64(1.0 / n as f64); n];
    let (rows, columns, zero) = (uniform(n), uniform(m), vec![T::ZERO; m]);
    let mut transforms = Vec::with_capacity(batch);
    for k in 0..batch {
        transforms.push(Transform {
            costs: Costs::Points {
                cost,
                dim,
                x: &x_all[k * n * dim..(k + 1) * n * dim],
                y: part(y_all, k, m * dim),
                x_label: classes.x(k)?,
                y_label: classes.y(k)?,
                distance: classes.distance()?,
            },
            a: part(slice(&a)?, k, n).unwrap_or(&rows),
            b: part(slice(&b)?, k, m).unwrap_or(&columns),
            f: part(slice(&f)?, k, n),
            g: part(slice(&g)?, k, m).unwrap_or(&zero),
            epsilon: epsilon[k],
            label_cost: label_cost[k],
        });
    }
    let options = Options {
        threads: arguments.threads.max(1),
        ..Options::default()
    };
    let Some(values) = values else {
        let parts = interruptible(py, |stop| sinkhorn::softmin(&transforms, &options, stop))?;
        return stacked(py, parts, &[batch, n]);
    };
    let width = values.shape()[2];
    let all = values.as_slice()?;
    let each: Vec<&[T]> = all.chunks_exact(m * width).collect();
    let parts = interruptible(py, |stop| {
        sinkhorn::plan_apply(&transforms, &each, width, &options, stop)
    })?;
    stacked(py, parts, &[batch, n, width])
}

fn dispatch<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    arguments: &Arguments<'_, 'py>,
    values: Optional<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(x) = x.cast::<PyArray3<f32>>() {
        transformed(py, x, arguments, values)
    } else if let Ok(x) = x.cast::<PyArray3<f64>>() {
        transformed(py, x, arguments, values)
    } else {
        refuse("x must be a 3-d array of float32 or float64".into())
    }
}

/// The y-potential `-eps ln sum_i a_i exp((f_i - C_ij) / eps)`, shape `(B, m)`, in strips.
///
/// With `distance` of shape (K, L) the cost of a pair is `c(x_i, y_j) + label_cost D[k_i, l_j]`.
#[pyfunction]
#[pyo3(signature = (x, y, f, a, x_label, y_label, distance, epsilon, label_cost, cost, threads))]
#[allow(clippy::too_many_arguments)]
pub fn softmin<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    f: &Bound<'py, PyAny>,
    a: Optional<'_, 'py>,
    x_label: Optional<'_, 'py>,
    y_label: Optional<'_, 'py>,
    distance: Optional<'_, 'py>,
    epsilon: PyReadonlyArray1<'py, f64>,
    label_cost: PyReadonlyArray1<'py, f64>,
    cost: &str,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    // The rows of the sweep are the points whose potential is wanted.
    let transposed = match distance {
        Some(d) if d.cast::<PyUntypedArray>().is_ok() => {
            let numpy = py.import("numpy")?;
            Some(numpy.call_method1("ascontiguousarray", (d.getattr("T")?,))?)
        }
        other => other.cloned(),
    };
    let arguments = Arguments {
        y: Some(x),
        weights: (None, a),
        labels: (y_label, x_label),
        distance: transposed.as_ref(),
        potentials: (None, Some(f)),
        epsilon,
        label_cost,
        cost,
        threads,
        swapped: true,
    };
    dispatch(py, y, &arguments, None)
}

/// `sum_j P_ij values_j` with `P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`, shape `(B, n, k)`, in
/// strips; without `y` the plan of the self-term, without `f` the plan with its rows normalised.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, x_label, y_label, distance, f, g, epsilon, label_cost, cost, values,
    threads))]
#[allow(clippy::too_many_arguments)]
pub fn plan_apply<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Optional<'_, 'py>,
    a: Optional<'_, 'py>,
    b: Optional<'_, 'py>,
    x_label: Optional<'_, 'py>,
    y_label: Optional<'_, 'py>,
    distance: Optional<'_, 'py>,
    f: Optional<'_, 'py>,
    g: &Bound<'py, PyAny>,
    epsilon: PyReadonlyArray1<'py, f64>,
    label_cost: PyReadonlyArray1<'py, f64>,
    cost: &str,
    values: &Bound<'py, PyAny>,
    threads: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = Arguments {
        y,
        weights: (a, b),
        labels: (x_label, y_label),
        distance,
        potentials: (f, Some(g)),
        epsilon,
        label_cost,
        cost,
        threads,
        swapped: false,
    };
    dispatch(py, x, &arguments, Some(values))
}

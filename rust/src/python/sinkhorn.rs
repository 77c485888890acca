//! Entropic optimal transport on NumPy arrays.

use numpy::{
    Element, PyArray1, PyArray3, PyArrayDyn, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::interrupt::interruptible;
use super::lent::lent;
use super::sides::{Classes, Numbers, Optional, Points, Sides, cube, part, refuse, stacked};
use crate::buffer::Aligned;
use crate::cost::Cost;
use crate::real::Real;
use crate::sinkhorn::{Costs, Options, Problem, Solution, solve_until};

/// The ten results that both functions share.
pub(super) fn shared_results<'py, T: Real + Element>(
    py: Python<'py>,
    solutions: &mut [Solution<T>],
    [batch, n, m]: [usize; 3],
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    fn each<'py, T, V: Element + Copy>(
        py: Python<'py>,
        solutions: &[Solution<T>],
        pick: impl Fn(&Solution<T>) -> V,
    ) -> Bound<'py, PyAny> {
        let values: Vec<V> = solutions.iter().map(pick).collect();
        PyArray1::from_vec(py, values).into_any()
    }
    let mut take = |pick: fn(&mut Solution<T>) -> &mut Vec<T>, len: usize| {
        let parts = solutions.iter_mut().map(|s| std::mem::take(pick(s)));
        stacked(py, parts.collect(), &[batch, len])
    };
    let f = take(|s| &mut s.f, n)?;
    let g = take(|s| &mut s.g, m)?;
    let row = take(|s| &mut s.row, n)?;
    let column = take(|s| &mut s.column, m)?;
    Ok(vec![
        each(py, solutions, |s| s.value),
        f,
        g,
        each(py, solutions, |s| s.iterations as i64),
        each(py, solutions, |s| s.residual),
        each(py, solutions, |s| s.converged),
        each(py, solutions, |s| s.scale),
        row,
        column,
        each(py, solutions, |s| s.transport),
    ])
}

/// Results of all problems as one array, or the empty one.
pub(super) fn wanted<'py, T: Real + Element>(
    py: Python<'py>,
    want: bool,
    solutions: &mut [Solution<T>],
    pick: fn(&mut Solution<T>) -> &mut Vec<T>,
    shape: [usize; 3],
) -> PyResult<Bound<'py, PyAny>> {
    if !want {
        return Ok(PyArray1::<T>::zeros(py, [0], false).into_any());
    }
    let parts = solutions.iter_mut().map(|s| std::mem::take(pick(s)));
    stacked(py, parts.collect(), &shape)
}

/// Gradients of all problems as one array, or the empty one; the only one is not copied.
fn gradients<'py, T: Real + Element>(
    py: Python<'py>,
    want: bool,
    mut parts: Vec<Aligned<T>>,
    shape: [usize; 3],
) -> PyResult<Bound<'py, PyAny>> {
    if !want {
        return Ok(PyArray1::<T>::zeros(py, [0], false).into_any());
    }
    if parts.len() == 1 {
        return lent(py, parts.swap_remove(0), &shape);
    }
    // Memory that is used again holds old numbers: every part must be there.
    let (len, found): (usize, usize) = (
        shape.iter().product(),
        parts.iter().map(|part| part.len()).sum(),
    );
    if found != len {
        return refuse(format!("{found} numbers have no shape {shape:?}"));
    }
    let mut all = Aligned::arbitrary(len);
    let mut rest = &mut all[..];
    for part in &parts {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    lent(py, all, &shape)
}

/// Arguments of [`sinkhorn`] that do not depend on the number type.
pub(super) struct Arguments<'a, 'py> {
    pub(super) y: Optional<'a, 'py>,
    pub(super) weights: (Optional<'a, 'py>, Optional<'a, 'py>),
    pub(super) labels: (Optional<'a, 'py>, Optional<'a, 'py>),
    pub(super) distance: Optional<'a, 'py>,
    pub(super) want_distance: bool,
    pub(super) starts: (Optional<'a, 'py>, Optional<'a, 'py>),
    /// `(4, B)`, see [`Numbers`].
    pub(super) parameters: PyReadonlyArray2<'py, f64>,
    pub(super) cost: Cost,
    pub(super) options: Options,
}

/// Sizes of a batch.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) dim: usize,
    /// Those of the class distance.
    pub(super) classes: [usize; 2],
}

/// Checks the arguments and hands the problems over.
pub(super) fn with_problems<'py, T: Real + Element, R>(
    x: &Bound<'py, PyArrayDyn<T>>,
    arguments: &Arguments<'_, 'py>,
    then: impl FnOnce(&[Problem<T>], Shape) -> PyResult<R>,
) -> PyResult<R> {
    let x = Points::new("x", x)?;
    let [batch, n, dim] = x.shape;
    let y = Points::optional("y", arguments.y)?;
    if let Some(y) = &y
        && (y.shape[0] != batch || y.shape[2] != dim)
    {
        return refuse(format!(
            "y must have shape ({batch}, m, {dim}) to go with x; got {:?}",
            y.shape
        ));
    }
    let m = y.as_ref().map_or(n, |y| y.shape[1]);
    let (weights, starts) = (arguments.weights, arguments.starts);
    let b = if y.is_some() { weights.1 } else { weights.0 };
    let sides = Sides::<T>::new([batch, n, m], weights.0, b, starts.0, starts.1)?;
    let names = ["x_label", "y_label"];
    let (labels, distance) = (arguments.labels, arguments.distance);
    let classes = Classes::<T>::new(names, [batch, n, m], labels, distance, y.is_none())?;
    let numbers = Numbers::rows(&arguments.parameters, batch)?;
    let (x_all, y_all) = (
        x.as_slice()?,
        match &y {
            Some(y) => Some(y.as_slice()?),
            None => None,
        },
    );
    let mut problems = Vec::with_capacity(batch);
    for k in 0..batch {
        let costs = Costs::Points {
            cost: arguments.cost,
            dim,
            x: &x_all[k * n * dim..(k + 1) * n * dim],
            y: part(y_all, k, m * dim),
            x_label: classes.x(k)?,
            y_label: classes.y(k)?,
            distance: classes.distance()?,
        };
        problems.push(sides.problem(k, costs, &numbers)?);
    }
    let classes = classes.count();
    then(
        &problems,
        Shape {
            batch,
            n,
            m,
            dim,
            classes,
        },
    )
}

fn points<'py, T: Real + Element>(
    py: Python<'py>,
    x: &Bound<'py, PyArrayDyn<T>>,
    arguments: &Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyTuple>> {
    with_problems(x, arguments, |problems, shape| {
        let options = arguments.options;
        let Shape {
            batch, n, m, dim, ..
        } = shape;
        let mut solutions = interruptible(py, |stop| solve_until(problems, &options, stop))?;
        let mut results = shared_results(py, &mut solutions, [batch, n, m])?;
        let mismatch: Vec<f64> = solutions.iter().map(|s| s.mismatch).collect();
        results.push(PyArray1::from_vec(py, mismatch).into_any());
        let want_y = options.want_y && arguments.y.is_some();
        let [mut x, mut y] = [(); 2].map(|()| Vec::with_capacity(batch));
        for solution in &mut solutions {
            x.push(std::mem::take(&mut solution.grad_x));
            y.push(std::mem::take(&mut solution.grad_y));
        }
        results.push(gradients(py, options.want_x, x, [batch, n, dim])?);
        results.push(gradients(py, want_y, y, [batch, m, dim])?);
        let mut push = |want, pick: fn(&mut Solution<T>) -> &mut Vec<T>, shape| {
            wanted(py, want, &mut solutions, pick, shape).map(|array| results.push(array))
        };
        let [rows, columns] = shape.classes;
        let want = arguments.want_distance && rows > 0;
        push(want, |s| &mut s.class_mass, [batch, rows, columns])?;
        PyTuple::new(py, results)
    })
}

/// The cost of that name.
pub(super) fn cost_named(name: &str) -> PyResult<Cost> {
    match Cost::from_name(name) {
        Some(cost) => Ok(cost),
        None => refuse(format!(
            "cost must be one of {}; got {name:?}",
            Cost::ALL.map(Cost::name).join(", ")
        )),
    }
}

/// Sinkhorn between point clouds, with the envelope gradients.
///
/// Returns value, f, g, iterations, residual, converged, scale, row, column, transport, mismatch,
/// grad_x, grad_y, class_mass; see `crate::sinkhorn::Solution`.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, x_label, y_label, distance, f0, g0, parameters, cost, relative, tol, max_iter, want_x, want_y, want_distance, accelerate, budget,
    threads))]
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
pub fn sinkhorn<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Optional<'_, 'py>,
    a: Optional<'_, 'py>,
    b: Optional<'_, 'py>,
    x_label: Optional<'_, 'py>,
    y_label: Optional<'_, 'py>,
    distance: Optional<'_, 'py>,
    f0: Optional<'_, 'py>,
    g0: Optional<'_, 'py>,
    parameters: PyReadonlyArray2<'py, f64>,
    cost: &str,
    relative: bool,
    tol: f64,
    max_iter: usize,
    want_x: bool,
    want_y: bool,
    want_distance: bool,
    accelerate: bool,
    budget: usize,
    threads: usize,
) -> PyResult<Bound<'py, PyTuple>> {
    let cost = cost_named(cost)?;
    let arguments = Arguments {
        y,
        weights: (a, b),
        labels: (x_label, y_label),
        distance,
        want_distance,
        starts: (f0, g0),
        parameters,
        cost,
        options: Options {
            relative,
            tol,
            max_iter,
            accelerate,
            want_x,
            want_y,
            budget,
            threads: threads.max(1),
            ..Options::default()
        },
    };
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        points(py, x, &arguments)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        points(py, x, &arguments)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

fn given<'py, T: Real + Element>(
    py: Python<'py>,
    cost: &Bound<'py, PyArray3<T>>,
    weights: (Optional<'_, 'py>, Optional<'_, 'py>),
    starts: (Optional<'_, 'py>, Optional<'_, 'py>),
    numbers: [&PyReadonlyArray1<'py, f64>; 3],
    options: &Options,
) -> PyResult<Bound<'py, PyTuple>> {
    let cost = cube("cost", cost)?;
    let shape = [cost.shape()[0], cost.shape()[1], cost.shape()[2]];
    let [batch, n, m] = shape;
    let sides = Sides::<T>::new(shape, weights.0, weights.1, starts.0, starts.1)?;
    let numbers = Numbers::columns(numbers, batch)?;
    let all = cost.as_slice()?;
    let mut problems = Vec::with_capacity(batch);
    for k in 0..batch {
        let costs = Costs::Matrix(&all[k * n * m..(k + 1) * n * m]);
        problems.push(sides.problem(k, costs, &numbers)?);
    }
    let mut solutions = interruptible(py, |stop| solve_until(&problems, options, stop))?;
    let mut results = shared_results(py, &mut solutions, shape)?;
    let want = options.want_plan;
    results.push(wanted(py, want, &mut solutions, |s| &mut s.plan, shape)?);
    PyTuple::new(py, results)
}

/// Sinkhorn for given cost matrices.
///
/// Returns value, f, g, iterations, residual, converged, scale, row, column, transport, plan; the
/// plan is the gradient with respect to the matrix.
#[pyfunction]
#[pyo3(signature = (cost, a, b, f0, g0, epsilon, reach_x, reach_y, tol, max_iter, want_plan,
    accelerate, threads))]
#[allow(clippy::too_many_arguments)]
pub fn sinkhorn_cost<'py>(
    py: Python<'py>,
    cost: &Bound<'py, PyAny>,
    a: Optional<'_, 'py>,
    b: Optional<'_, 'py>,
    f0: Optional<'_, 'py>,
    g0: Optional<'_, 'py>,
    epsilon: PyReadonlyArray1<'py, f64>,
    reach_x: PyReadonlyArray1<'py, f64>,
    reach_y: PyReadonlyArray1<'py, f64>,
    tol: f64,
    max_iter: usize,
    want_plan: bool,
    accelerate: bool,
    threads: usize,
) -> PyResult<Bound<'py, PyTuple>> {
    let numbers = [&epsilon, &reach_x, &reach_y];
    let options = Options {
        tol,
        max_iter,
        accelerate,
        want_plan,
        threads: threads.max(1),
        ..Options::default()
    };
    if let Ok(cost) = cost.cast::<PyArray3<f32>>() {
        given(py, cost, (a, b), (f0, g0), numbers, &options)
    } else if let Ok(cost) = cost.cast::<PyArray3<f64>>() {
        given(py, cost, (a, b), (f0, g0), numbers, &options)
    } else {
        refuse("cost must be a 3-d array of float32 or float64".into())
    }
}

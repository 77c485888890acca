//! The terms of a Sinkhorn divergence in one call, with what is rarely asked for left in Rust.

use numpy::PyUntypedArrayMethods;
use numpy::{Element, PyArray1, PyArrayDyn, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::interrupt::interruptible;
use super::lent::{lent, lent_by};
use super::sides::{Optional, matrix, part, refuse, slice, stacked};
use super::sinkhorn::{Arguments, Shape, cost_named, shared_results, wanted, with_problems};
use crate::buffer::Aligned;
use crate::real::Real;
use crate::simd;
use crate::sinkhorn::{Divergence, Options, Problem, Solution, Summed, solve_sums};
use crate::vmath::{dot, scaled};

/// What the solver has left.
struct Left<T> {
    /// Solutions of the terms, one for each problem.
    terms: [Vec<Solution<T>>; 3],
    /// Gradients of the sum with respect to x and y, or empty.
    gradients: [Aligned<T>; 2],
}

/// The same of either type.
enum Held {
    F32(Left<f32>),
    F64(Left<f64>),
}

/// A number type of which solutions are held.
trait Hold: Real + Element {
    fn hold(left: Left<Self>) -> Held;
}

impl Hold for f32 {
    fn hold(left: Left<f32>) -> Held {
        Held::F32(left)
    }
}

impl Hold for f64 {
    fn hold(left: Left<f64>) -> Held {
        Held::F64(left)
    }
}

/// What [`divergence`] found.
#[pyclass(frozen, module = "ucmkd._rust")]
pub struct Solved {
    held: Held,
    shape: Shape,
    single: bool,
    sums: Vec<f64>,
    want_distance: bool,
    /// The sum in the type of the points, ``(B,)``, or 0-d for a single problem.
    #[pyo3(get)]
    value: Py<PyAny>,
}

#[pymethods]
impl Solved {
    /// Unit of epsilon, the reaches and the label cost of the cross term, ``(B,)``.
    #[getter]
    fn scale<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let all: Vec<f64> = match &self.held {
            Held::F32(left) => left.terms[0].iter().map(|s| s.scale).collect(),
            Held::F64(left) => left.terms[0].iter().map(|s| s.scale).collect(),
        };
        PyArray1::from_vec(py, all).into_any()
    }

    /// Gradient of the sum with respect to x (0) or y (1), or None where it was not wanted.
    fn gradient<'py>(slf: &Bound<'py, Self>, side: usize) -> PyResult<Option<Bound<'py, PyAny>>> {
        fn of<'py, T: Hold>(
            slf: &Bound<'py, Solved>,
            left: &Left<T>,
            side: usize,
        ) -> PyResult<Option<Bound<'py, PyAny>>> {
            let Some(all) = left.gradients.get(side).filter(|all| !all.is_empty()) else {
                return Ok(None);
            };
            let shape = slf.get().gradient_shape(side);
            // SAFETY: the numbers are on the heap, in what is frozen: they stay there until `slf`
            // is dropped, and only readers are handed out beside the array.
            unsafe { lent_by(slf.clone().into_any(), all, &shape) }.map(Some)
        }
        match &slf.get().held {
            Held::F32(left) => of(slf, left, side),
            Held::F64(left) => of(slf, left, side),
        }
    }

    /// That gradient times a number.
    fn gradient_times<'py>(
        &self,
        py: Python<'py>,
        side: usize,
        factor: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.held {
            Held::F32(left) => self.times(py, left, side, factor),
            Held::F64(left) => self.times(py, left, side, factor),
        }
    }

    /// `value - other / 2` for numbers `(B,)`, subtracted before it is rounded.
    fn less_half<'py>(
        &self,
        py: Python<'py>,
        other: PyReadonlyArray1<'py, f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let other = other.as_slice()?;
        if other.len() != self.sums.len() {
            return refuse(format!(
                "other must hold {} numbers; got {}",
                self.sums.len(),
                other.len()
            ));
        }
        let pairs = self.sums.iter().zip(other);
        let all: Vec<f64> = pairs.map(|(sum, half)| sum - 0.5 * half).collect();
        match self.held {
            Held::F32(_) => values::<f32>(py, &all, self.single),
            Held::F64(_) => values::<f64>(py, &all, self.single),
        }
    }

    /// Potentials of x and y, iterations, residual and convergence of the cross term, in the type
    /// of the points; without the batch dimension for a single problem.
    fn report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match &self.held {
            Held::F32(left) => self.reported(py, &left.terms[0]),
            Held::F64(left) => self.reported(py, &left.terms[0]),
        }
    }

    /// Solution of a term (0: cross, 1: of x, 2: of y), as `sinkhorn` returns it; its gradients are
    /// empty.
    fn term<'py>(&self, py: Python<'py>, k: usize) -> PyResult<Bound<'py, PyTuple>> {
        match &self.held {
            Held::F32(left) => self.results(py, left.terms.get(k), k),
            Held::F64(left) => self.results(py, left.terms.get(k), k),
        }
    }
}

impl Solved {
    fn gradient_shape(&self, side: usize) -> Vec<usize> {
        let Shape {
            batch, n, m, dim, ..
        } = self.shape;
        let shape = [batch, [n, m][side], dim];
        shape[usize::from(self.single)..].to_vec()
    }

    fn times<'py, T: Hold>(
        &self,
        py: Python<'py>,
        left: &Left<T>,
        side: usize,
        factor: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let Some(all) = left.gradients.get(side).filter(|all| !all.is_empty()) else {
            return refuse(format!("there is no gradient {side}"));
        };
        let mut product = Aligned::arbitrary(all.len());
        scaled(simd::level(), T::from_f64(factor), all, &mut product);
        lent(py, product, &self.gradient_shape(side))
    }

    fn reported<'py, T: Real + Element>(
        &self,
        py: Python<'py>,
        solutions: &[Solution<T>],
    ) -> PyResult<Bound<'py, PyTuple>> {
        let Shape { batch, n, m, .. } = self.shape;
        let first = usize::from(self.single);
        let potential = |pick: fn(&Solution<T>) -> &Vec<T>, len: usize| {
            let all = solutions.iter().flat_map(|s| pick(s).iter().copied());
            stacked(py, vec![all.collect()], &[batch, len][first..])
        };
        let shape = &[batch][first..];
        let iterations = solutions.iter().map(|s| s.iterations as i64).collect();
        let converged = solutions.iter().map(|s| s.converged).collect();
        let residual: Vec<f64> = solutions.iter().map(|s| s.residual).collect();
        PyTuple::new(
            py,
            [
                potential(|s| &s.f, n)?,
                potential(|s| &s.g, m)?,
                stacked::<i64>(py, vec![iterations], shape)?,
                values::<T>(py, &residual, self.single)?,
                stacked::<bool>(py, vec![converged], shape)?,
            ],
        )
    }

    fn results<'py, T: Real + Element>(
        &self,
        py: Python<'py>,
        solutions: Option<&Vec<Solution<T>>>,
        k: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let Some(solutions) = solutions.filter(|s| !s.is_empty()) else {
            return refuse(format!("there is no term {k}"));
        };
        let Shape { batch, n, m, .. } = self.shape;
        let sizes = [[n, m], [n, n], [m, m]][k];
        let mut copy = solutions.clone();
        let mut results = shared_results(py, &mut copy, [batch, sizes[0], sizes[1]])?;
        let mismatch: Vec<f64> = copy.iter().map(|s| s.mismatch).collect();
        results.push(PyArray1::from_vec(py, mismatch).into_any());
        for _ in 0..2 {
            results.push(PyArray1::<T>::zeros(py, [0], false).into_any());
        }
        let [rows, columns] = self.shape.classes;
        let want = self.want_distance && rows > 0;
        let shape = [batch, rows, columns];
        results.push(wanted(py, want, &mut copy, |s| &mut s.class_mass, shape)?);
        PyTuple::new(py, results)
    }
}

/// Numbers in the type of the points, 0-d for a single problem.
fn values<'py, T: Real + Element>(
    py: Python<'py>,
    all: &[f64],
    single: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let shape: &[usize] = if single { &[] } else { &[all.len()] };
    let all = all.iter().map(|&v| T::from_f64(v)).collect();
    stacked(py, vec![all], shape)
}

/// What only [`divergence`] has.
#[derive(Clone, Copy)]
struct Extra<'a, 'py> {
    own: [bool; 2],
    own_start: [Optional<'a, 'py>; 2],
    check: bool,
}

fn solve<'py, T: Hold>(
    py: Python<'py>,
    x: &Bound<'py, PyArrayDyn<T>>,
    arguments: &Arguments<'_, 'py>,
    extra: Extra<'_, 'py>,
) -> PyResult<Option<Solved>> {
    let options = arguments.options;
    let single = x.ndim() == 2;
    with_problems(x, arguments, |problems: &[Problem<T>], shape| {
        let Shape { batch, n, m, .. } = shape;
        if extra.check {
            let finite = |points: &[T]| dot(simd::level(), points, points).is_finite();
            let all = problems.iter().all(|p| p.points().all(finite));
            if !all {
                return Ok(None);
            }
        }
        let starts = [
            matrix::<T>("own_x_start", extra.own_start[0], [batch, n])?,
            matrix::<T>("own_y_start", extra.own_start[1], [batch, m])?,
        ];
        let [from_x, from_y] = [slice(&starts[0])?, slice(&starts[1])?];
        let divergences: Vec<_> = problems
            .iter()
            .enumerate()
            .map(|(k, &cross)| Divergence {
                cross,
                own: extra.own,
                own_start: [part(from_x, k, n), part(from_y, k, m)],
            })
            .collect();
        let (sums, gradients) = interruptible(py, |stop| solve_sums(&divergences, &options, stop))?;
        let all: Vec<f64> = sums.iter().map(|s| s.value).collect();
        let value = values::<T>(py, &all, single)?;
        let mut terms: [Vec<Solution<T>>; 3] = Default::default();
        for Summed { terms: found, .. } in sums {
            for (all, one) in terms.iter_mut().zip(found) {
                all.extend(one);
            }
        }
        Ok(Some(Solved {
            held: T::hold(Left { terms, gradients }),
            shape,
            single,
            sums: all,
            want_distance: arguments.want_distance,
            value: value.unbind(),
        }))
    })
}

/// `OT(x, y)`, less half of `OT(x, x)` if `own_x` and of `OT(y, y)` if `own_y`, with its gradients.
///
/// Points are `(B, n, d)`, or `(n, d)` for a single problem, whose value is 0-d. `parameters` holds
/// epsilon, the reaches and the label cost in its rows `(4, B)`. Returns None if `check_finite`
/// finds points that are not.
#[pyfunction]
#[pyo3(signature = (x, y, a, b, x_label, y_label, distance, g0, own_x_start, own_y_start,
    parameters, cost, relative, tol, max_iter, want_x, want_y, want_distance, accelerate, own_x,
    own_y, check_finite, budget, threads))]
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
pub fn divergence<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: &Bound<'py, PyAny>,
    a: Optional<'_, 'py>,
    b: Optional<'_, 'py>,
    x_label: Optional<'_, 'py>,
    y_label: Optional<'_, 'py>,
    distance: Optional<'_, 'py>,
    g0: Optional<'_, 'py>,
    own_x_start: Optional<'_, 'py>,
    own_y_start: Optional<'_, 'py>,
    parameters: PyReadonlyArray2<'py, f64>,
    cost: &str,
    relative: bool,
    tol: f64,
    max_iter: usize,
    want_x: bool,
    want_y: bool,
    want_distance: bool,
    accelerate: bool,
    own_x: bool,
    own_y: bool,
    check_finite: bool,
    budget: usize,
    threads: usize,
) -> PyResult<Option<Solved>> {
    let options = Options {
        relative,
        tol,
        max_iter,
        accelerate,
        want_x,
        want_y,
        budget,
        threads: threads.max(1),
        ..Options::default()
    };
    let arguments = Arguments {
        y: Some(y),
        weights: (a, b),
        labels: (x_label, y_label),
        distance,
        want_distance,
        starts: (None, g0),
        parameters,
        cost: cost_named(cost)?,
        options,
    };
    let extra = Extra {
        own: [own_x, own_y],
        own_start: [own_x_start, own_y_start],
        check: check_finite,
    };
    if let Ok(x) = x.cast::<PyArrayDyn<f32>>() {
        solve(py, x, &arguments, extra)
    } else if let Ok(x) = x.cast::<PyArrayDyn<f64>>() {
        solve(py, x, &arguments, extra)
    } else {
        refuse("x must be an array of float32 or float64".into())
    }
}

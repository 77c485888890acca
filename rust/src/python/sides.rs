//! NumPy arrays checked and cut into the parts of each problem.

use numpy::ndarray::{ArrayD, IxDyn};
use numpy::{
    Element, IntoPyArray, PyArray2, PyArray3, PyArrayDyn, PyReadonlyArray, PyReadonlyArrayDyn,
};
use numpy::{PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::cost::ClassDistance;
use crate::real::Real;
use crate::sinkhorn::{Costs, Problem};

pub(super) type Optional<'a, 'py> = Option<&'a Bound<'py, PyAny>>;
pub(super) type Matrix<'py, T> = Option<PyReadonlyArray2<'py, T>>;

pub(super) fn refuse<R>(message: String) -> PyResult<R> {
    Err(PyValueError::new_err(message))
}

/// A `(B, n)` array of the wanted type, or None.
pub(super) fn matrix<'py, T: Element>(
    name: &str,
    array: Optional<'_, 'py>,
    shape: [usize; 2],
) -> PyResult<Matrix<'py, T>> {
    let Some(array) = array else { return Ok(None) };
    let Ok(array) = array.cast::<PyArray2<T>>() else {
        return refuse(format!(
            "{name} must be None or a 2-d array (labels int64, all else of the dtype of the points)"
        ));
    };
    if array.shape() != shape || !array.is_c_contiguous() {
        return refuse(format!(
            "{name} must be C-contiguous of shape {shape:?}; got {:?}",
            array.shape()
        ));
    }
    Ok(Some(array.readonly()))
}

pub(super) fn cube<'py, T: Element>(
    name: &str,
    array: &Bound<'py, PyArray3<T>>,
) -> PyResult<PyReadonlyArray<'py, T, numpy::Ix3>> {
    if array.shape().contains(&0) || !array.is_c_contiguous() {
        return refuse(format!(
            "{name} must be C-contiguous and not empty; got shape {:?}",
            array.shape()
        ));
    }
    Ok(array.readonly())
}

/// A cube or None.
pub(super) fn optional_cube<'py, T: Element>(
    name: &str,
    array: Optional<'_, 'py>,
) -> PyResult<Option<PyReadonlyArray<'py, T, numpy::Ix3>>> {
    let Some(array) = array else { return Ok(None) };
    match array.cast::<PyArray3<T>>() {
        Ok(array) => Ok(Some(cube(name, array)?)),
        Err(_) => refuse(format!(
            "{name} must be None or a 3-d array of the dtype of x"
        )),
    }
}

/// The points of one side.
pub(super) struct Points<'py, T: Element> {
    array: PyReadonlyArrayDyn<'py, T>,
    /// `[B, n, d]`.
    pub(super) shape: [usize; 3],
}

impl<'py, T: Element> Points<'py, T> {
    /// From an array `(B, n, d)`, or `(n, d)` of a single problem.
    pub(super) fn new(name: &str, array: &Bound<'py, PyArrayDyn<T>>) -> PyResult<Self> {
        let shape = match *array.shape() {
            [n, dim] => [1, n, dim],
            [batch, n, dim] => [batch, n, dim],
            _ => {
                return refuse(format!(
                    "{name} must be a 2-d or 3-d array; got shape {:?}",
                    array.shape()
                ));
            }
        };
        if shape.contains(&0) || !array.is_c_contiguous() {
            return refuse(format!(
                "{name} must be C-contiguous and not empty; got shape {:?}",
                array.shape()
            ));
        }
        let array = array.readonly();
        Ok(Self { array, shape })
    }

    /// The same for points that may be missing.
    pub(super) fn optional(name: &str, array: Optional<'_, 'py>) -> PyResult<Option<Self>> {
        let Some(array) = array else { return Ok(None) };
        match array.cast::<PyArrayDyn<T>>() {
            Ok(array) => Ok(Some(Self::new(name, array)?)),
            Err(_) => refuse(format!("{name} must be None or an array of the dtype of x")),
        }
    }

    pub(super) fn as_slice(&self) -> PyResult<&[T]> {
        Ok(self.array.as_slice()?)
    }
}

pub(super) fn slice<'a, T: Element>(array: &'a Matrix<'_, T>) -> PyResult<Option<&'a [T]>> {
    Ok(match array {
        Some(array) => Some(array.as_slice()?),
        None => None,
    })
}

pub(super) fn part<T>(all: Option<&[T]>, k: usize, len: usize) -> Option<&[T]> {
    all.map(|v| &v[k * len..(k + 1) * len])
}

/// Labels of both sides and the distance between their classes.
pub(super) struct Classes<'py, T: Element> {
    names: [&'static str; 2],
    points: [usize; 2],
    x: Matrix<'py, i64>,
    y: Matrix<'py, i64>,
    distance: Matrix<'py, T>,
}

impl<'py, T: Real + Element> Classes<'py, T> {
    pub(super) fn new(
        names: [&'static str; 2],
        [batch, n, m]: [usize; 3],
        (x_label, y_label): (Optional<'_, 'py>, Optional<'_, 'py>),
        distance: Optional<'_, 'py>,
        symmetric: bool,
    ) -> PyResult<Self> {
        let x: Matrix<i64> = matrix(names[0], x_label, [batch, n])?;
        let y: Matrix<i64> = matrix(names[1], y_label, [batch, m])?;
        let distance = match distance {
            None => None,
            Some(array) => match array.cast::<PyArray2<T>>() {
                Ok(array) if array.is_c_contiguous() => Some(array.readonly()),
                _ => {
                    return refuse(
                        "distance must be None or a C-contiguous 2-d array of the dtype of x"
                            .into(),
                    );
                }
            },
        };
        let classes = Self {
            names,
            points: [n, m],
            x,
            y,
            distance,
        };
        classes.check(symmetric)?;
        Ok(classes)
    }

    fn check(&self, symmetric: bool) -> PyResult<()> {
        let Some(distance) = &self.distance else {
            return Ok(());
        };
        let [rows, columns] = self.count();
        let y = if symmetric { &self.x } else { &self.y };
        let [x_name, y_name] = self.names;
        for (name, labels, count) in [(x_name, &self.x, rows), (y_name, y, columns)] {
            let Some(labels) = slice(labels)? else {
                return refuse(format!("distance needs {name}; got None"));
            };
            let inside = |l: &i64| usize::try_from(*l).is_ok_and(|l| l < count);
            if let Some(label) = labels.iter().find(|l| !inside(l)) {
                return refuse(format!(
                    "{name} must be in 0..{count} to go with distance; got {label}"
                ));
            }
        }
        let values = distance.as_slice()?;
        if let Some(v) = values.iter().find(|v| !v.is_finite()) {
            return refuse(format!("distance must be finite; got {v}"));
        }
        if symmetric {
            let top = values.iter().map(|v| v.to_f64().abs()).fold(0.0, f64::max);
            let near = |i: usize, j: usize| {
                let gap = values[i * columns + j].to_f64() - values[j * columns + i].to_f64();
                gap.abs() <= 100.0 * T::EPSILON.to_f64() * top
            };
            if rows != columns || !(0..rows).all(|i| (0..i).all(|j| near(i, j))) {
                return refuse(format!(
                    "distance must be symmetric in a self-term; got shape ({rows}, {columns})"
                ));
            }
        }
        Ok(())
    }

    /// Shape of the distance; zeros if there is none.
    pub(super) fn count(&self) -> [usize; 2] {
        self.distance
            .as_ref()
            .map_or([0, 0], |d| [d.shape()[0], d.shape()[1]])
    }

    pub(super) fn x(&self, k: usize) -> PyResult<Option<&[i64]>> {
        Ok(part(slice(&self.x)?, k, self.points[0]))
    }

    pub(super) fn y(&self, k: usize) -> PyResult<Option<&[i64]>> {
        Ok(part(slice(&self.y)?, k, self.points[1]))
    }

    pub(super) fn distance(&self) -> PyResult<Option<ClassDistance<'_, T>>> {
        let width = self.count()[1];
        Ok(slice(&self.distance)?.map(|values| ClassDistance { values, width }))
    }
}

/// Epsilon, the two reaches and the label cost of each problem.
pub(super) struct Numbers {
    /// The four rows one after the other.
    all: Vec<f64>,
    batch: usize,
}

impl Numbers {
    /// From an array `(4, B)`.
    pub(super) fn rows(parameters: &PyReadonlyArray2<'_, f64>, batch: usize) -> PyResult<Self> {
        if parameters.shape() != [4, batch] {
            return refuse(format!(
                "parameters must have shape (4, {batch}); got {:?}",
                parameters.shape()
            ));
        }
        let all = parameters.as_array().iter().copied().collect();
        Self { all, batch }.checked()
    }

    /// From epsilon and the reaches, without a label cost.
    pub(super) fn columns(arrays: [&PyReadonlyArray1<'_, f64>; 3], batch: usize) -> PyResult<Self> {
        let mut all = Vec::with_capacity(4 * batch);
        for (name, array) in NAMES.into_iter().zip(arrays) {
            let values = array.as_slice()?;
            if values.len() != batch {
                return refuse(format!("{name} must hold {batch} numbers; got {values:?}"));
            }
            all.extend_from_slice(values);
        }
        all.resize(4 * batch, 0.0);
        Self { all, batch }.checked()
    }

    fn checked(self) -> PyResult<Self> {
        for (name, values) in NAMES.into_iter().zip(self.all.chunks_exact(self.batch)) {
            // NaN passes: NaN features make a NaN mean cost, and the answer to both is NaN.
            if values.iter().any(|v| *v <= 0.0) {
                return refuse(format!(
                    "{name} must hold {} positive numbers; got {values:?}",
                    self.batch
                ));
            }
        }
        Ok(self)
    }

    /// Epsilon, reaches and label cost of one problem.
    fn of(&self, k: usize) -> [f64; 4] {
        [0, 1, 2, 3].map(|row| self.all[row * self.batch + k])
    }
}

const NAMES: [&str; 3] = ["epsilon", "reach_x", "reach_y"];

/// Masses and warm starts of both sides.
pub(super) struct Sides<'py, T: Element> {
    shape: [usize; 3],
    a: Matrix<'py, T>,
    b: Matrix<'py, T>,
    f0: Matrix<'py, T>,
    g0: Matrix<'py, T>,
    uniform: (Vec<T>, Vec<T>),
}

impl<'py, T: Real + Element> Sides<'py, T> {
    pub(super) fn new(
        [batch, n, m]: [usize; 3],
        a: Optional<'_, 'py>,
        b: Optional<'_, 'py>,
        f0: Optional<'_, 'py>,
        g0: Optional<'_, 'py>,
    ) -> PyResult<Self> {
        let uniform = |n: usize| vec![T::from_f64(1.0 / n as f64); n];
        Ok(Self {
            shape: [batch, n, m],
            a: matrix("a", a, [batch, n])?,
            b: matrix("b", b, [batch, m])?,
            f0: matrix("f0", f0, [batch, n])?,
            g0: matrix("g0", g0, [batch, m])?,
            uniform: (uniform(n), uniform(m)),
        })
    }

    pub(super) fn problem<'s>(
        &'s self,
        k: usize,
        costs: Costs<'s, T>,
        numbers: &Numbers,
    ) -> PyResult<Problem<'s, T>> {
        let [epsilon, reach_x, reach_y, label_cost] = numbers.of(k);
        let [_, n, m] = self.shape;
        Ok(Problem {
            costs,
            a: part(slice(&self.a)?, k, n).unwrap_or(&self.uniform.0),
            b: part(slice(&self.b)?, k, m).unwrap_or(&self.uniform.1),
            f0: part(slice(&self.f0)?, k, n),
            g0: part(slice(&self.g0)?, k, m),
            epsilon,
            reach_x,
            reach_y,
            label_cost,
        })
    }
}

/// An array of that shape from the parts of all problems; the only part is not copied.
pub(super) fn stacked<'py, T: Element + Copy>(
    py: Python<'py>,
    mut parts: Vec<Vec<T>>,
    shape: &[usize],
) -> PyResult<Bound<'py, PyAny>> {
    let all = if parts.len() == 1 {
        parts.swap_remove(0)
    } else {
        parts.concat()
    };
    match ArrayD::from_shape_vec(IxDyn(shape), all) {
        Ok(array) => Ok(array.into_pyarray(py).into_any()),
        Err(error) => refuse(error.to_string()),
    }
}

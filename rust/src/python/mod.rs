//! The Python module `ucmkd._rust`: the only place that knows PyO3.

use pyo3::prelude::*;

mod arrays;
mod divergence;
mod interrupt;
mod lent;
mod mmd;
mod sides;
mod sinkhorn;
mod transform;

use crate::simd;

/// The vector instruction set in use.
#[pyfunction]
fn simd_level() -> &'static str {
    simd::level().name()
}

/// The vector instruction sets of this machine, slowest first.
#[pyfunction]
fn simd_levels() -> Vec<&'static str> {
    simd::available()
        .into_iter()
        .map(simd::Level::name)
        .collect()
}

/// An environment variable, or None where it is not set.
///
/// `os.environ` takes ten times as long to say that one is not set.
#[pyfunction]
fn environment(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Numerical kernels; see the functions of `ucmkd.ops`, which check and document the arguments.
#[pymodule(gil_used = false)]
mod _rust {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::arrays::{distance, equal, is_finite};
    #[pymodule_export]
    use super::divergence::{Solved, divergence};
    #[pymodule_export]
    use super::lent::{Lender, scaled};
    #[pymodule_export]
    use super::mmd::{median_bandwidth, mmd};
    #[pymodule_export]
    use super::sinkhorn::{sinkhorn, sinkhorn_cost};
    #[pymodule_export]
    use super::transform::{plan_apply, softmin};
    #[pymodule_export]
    use super::{environment, simd_level, simd_levels};

    #[pymodule_init]
    fn init(_: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::parallel::remember_process();
        Ok(())
    }
}

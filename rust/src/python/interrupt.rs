//! Ctrl-C during a computation that runs without the interpreter.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::interrupt::Interrupt;

/// Runs `work` without the interpreter, and has pending signals handled about every 100 ms (by the
/// main thread; elsewhere nothing happens). What a handler raises is the result.
pub(super) fn interruptible<R: Send>(
    py: Python<'_>,
    work: impl FnOnce(&Interrupt) -> Option<R> + Send,
) -> PyResult<R> {
    let raised = Mutex::new(None);
    let result = py.detach(|| {
        let ask = || {
            Python::attach(|py| match py.check_signals() {
                Ok(()) => false,
                Err(error) => {
                    *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    true
                }
            })
        };
        work(&Interrupt::new(&ask))
    });
    match (
        raised.into_inner().unwrap_or_else(PoisonError::into_inner),
        result,
    ) {
        (None, Some(result)) => Ok(result),
        (Some(error), _) => Err(error),
        (None, None) => Err(PyKeyboardInterrupt::new_err(())),
    }
}

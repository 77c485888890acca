//! Numerical kernels of the Python package `ucmkd`: entropic optimal transport (Sinkhorn) and the
//! maximum mean discrepancy, for `f32` and `f64`, on any number of threads.
//!
//! Everything except [`python`] is plain Rust: `cargo test --no-default-features` needs no Python.

pub mod buffer;
pub mod cost;
pub mod gemm;
pub mod interrupt;
pub mod lanes;
pub mod median;
pub mod mmd;
pub mod parallel;
pub mod product;
pub mod real;
pub mod simd;
pub mod sinkhorn;
pub mod vmath;

#[cfg(feature = "python")]
mod python;

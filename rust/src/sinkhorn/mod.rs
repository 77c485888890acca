//! Entropic optimal transport by Sinkhorn iterations.
//!
//! ```text
//! OT(a, b) = min_P <P, C> + eps KL(P | a b') [+ rho_x KL(P 1 | a) + rho_y KL(P' 1 | b)]
//! P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps),    KL(p | q) = sum p log(p/q) - p + q
//! ```
//!
//! One problem keeps its cost matrix and a kernel matrix in memory, or only the kernel, or neither,
//! as a budget says: what is not kept is computed anew by matrix products, in strips of rows and
//! `O((n + m) dim)` memory. A *log sweep* builds the
//! kernel from the current potentials, which it absorbs (one exponential per entry); *scaling
//! sweeps* then multiply it by vectors only, each entry read once per full iteration, until the
//! vectors leave a safe range and the potentials are absorbed again (Schmitzer 2019). The
//! iteration is accelerated by Anderson mixing with a safeguard. Self-terms use averaged updates
//! of one potential (Knight, Ruiz, Ucar 2014).

mod anderson;
mod batch;
mod block;
mod collect;
mod columns;
mod gradient;
mod potentials;
mod precise;
mod problem;
mod solver;
mod source;
mod sum;
mod sweep;
mod symmetric;
mod transform;
mod two_sided;

#[cfg(test)]
mod tests;

pub use batch::{solve, solve_all, solve_until};
pub use problem::{Costs, Options, Problem, Solution};
pub use sum::{Divergence, Summed, solve_sums};
pub use transform::{Transform, plan_apply, softmin};

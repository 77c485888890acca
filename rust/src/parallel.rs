//! Threads for one call: a team that works in rounds, and a loop over independent tasks.
//!
//! The threads are those of PyTorch where they can be borrowed (see `crew`), else they live as
//! long as the call. The result depends on the number of parts only, never on timing.

mod crew;

pub use crew::remember_process;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

const SPINS: usize = 2000;

/// Locks; a poisoned lock is opened, because a panic ends the whole call anyway.
pub fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A barrier that spins for some microseconds before it yields.
#[derive(Default)]
struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
}

impl Barrier {
    /// Waits until all `count` have come.
    ///
    /// # Panics
    /// If another thread of the team has panicked.
    fn wait(&self, count: usize) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == count {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0;
        while self.round.load(Ordering::Acquire) == round {
            assert!(
                !self.broken.load(Ordering::Relaxed),
                "another thread panicked"
            );
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Breaks the barrier when its thread panics, so that the others do not wait for ever.
struct Alarm<'a>(&'a Barrier);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs `lead` on the calling thread with a team of up to `states.len()` threads.
///
/// Each call of the function that `lead` receives is one round: `work(&mut state, &shared)` for
/// every state, each by the same thread in all rounds, and the call returns when all have
/// finished. Between rounds `lead` may lock any state and write `shared`. `lead` must not hold a
/// lock during a round.
///
/// # Panics
/// If `lead` or `work` does.
pub fn team<S: Send, C: Send + Sync, R: Send>(
    states: &[Mutex<S>],
    shared: &RwLock<C>,
    work: impl Fn(&mut S, &C) + Sync,
    lead: impl FnOnce(&dyn Fn()) -> R + Send,
) -> R {
    let share = |thread: usize, threads: usize| {
        let shared = shared.read().unwrap_or_else(PoisonError::into_inner);
        for state in states.iter().skip(thread).step_by(threads) {
            work(&mut lock(state), &shared);
        }
    };
    if states.len() == 1 {
        return lead(&|| share(0, 1));
    }
    let barrier = Barrier::default();
    let stop = AtomicBool::new(false);
    let (lead, result) = (Mutex::new(Some(lead)), Mutex::new(None));
    crew::together(states.len(), &|thread, threads| {
        let _alarm = Alarm(&barrier);
        if thread == 0 {
            let lead = lock(&lead).take().expect("there is one thread 0");
            let outcome = lead(&|| {
                barrier.wait(threads);
                share(0, threads);
                barrier.wait(threads);
            });
            *lock(&result) = Some(outcome);
            stop.store(true, Ordering::Release);
            barrier.wait(threads);
            return;
        }
        loop {
            barrier.wait(threads);
            if stop.load(Ordering::Acquire) {
                break;
            }
            share(thread, threads);
            barrier.wait(threads);
        }
    });
    let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.expect("the lead has returned")
}

/// `task(0), …, task(count - 1)` on up to `threads` threads; results in order.
///
/// # Panics
/// If a task does.
pub fn map<R: Send>(count: usize, threads: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let threads = threads.clamp(1, count.max(1));
    if threads == 1 {
        return (0..count).map(task).collect();
    }
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<R>>> = (0..count).map(|_| Mutex::new(None)).collect();
    crew::together(threads, &|_, _| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let result = task(i);
            *lock(&slots[i]) = Some(result);
        }
    });
    slots
        .into_iter()
        .map(|slot| {
            slot.into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .expect("every task has run")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn team_works_in_rounds() {
        for threads in 1..4 {
            let states: Vec<_> = (0..threads).map(|k| Mutex::new(k as u64)).collect();
            let shared = RwLock::new(1u64);
            let total = team(
                &states,
                &shared,
                |s, c| *s = *s * 3 + *c,
                |run| {
                    for round in 0..100 {
                        *shared.write().unwrap() = round;
                        run();
                        for s in &states {
                            *lock(s) %= 1_000_003;
                        }
                    }
                    states.iter().map(|s| *lock(s)).collect::<Vec<_>>()
                },
            );
            let expected: Vec<u64> = (0..threads as u64)
                .map(|k| (0..100).fold(k, |s, c| (s * 3 + c) % 1_000_003))
                .collect();
            assert_eq!(total, expected);
        }
    }

    #[test]
    fn map_keeps_the_order() {
        for threads in [1, 2, 3, 50] {
            assert_eq!(
                map(20, threads, |i| i * i),
                (0..20).map(|i| i * i).collect::<Vec<_>>()
            );
        }
        assert!(map(0, 2, |i| i).is_empty());
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let states = [Mutex::new(0), Mutex::new(1)];
        let shared = RwLock::new(());
        let outcome = std::panic::catch_unwind(|| {
            team(
                &states,
                &shared,
                |s, ()| assert!(*s == 0, "state 1 fails"),
                |run| run(),
            );
        });
        assert!(outcome.is_err());
    }
}

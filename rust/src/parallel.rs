//! Threads for one call: a team that works in rounds, and a loop over independent tasks.
//!
//! Threads are scoped: nothing outlives the call, there is no pool and no global state, so that
//! forking is safe and the result depends on the number of threads only, never on timing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

const SPINS: usize = 2000;

/// Locks; a poisoned lock is opened, because a panic ends the whole call anyway.
pub fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A barrier that spins for some microseconds before it yields.
struct Barrier {
    count: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    broken: AtomicBool,
}

impl Barrier {
    fn new(count: usize) -> Self {
        Self {
            count,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Waits until all have come.
    ///
    /// # Panics
    /// If another thread of the team has panicked.
    fn wait(&self) {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
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

/// Runs `lead` with a team of `states.len()` threads, the calling one among them.
///
/// Each call of the function that `lead` receives is one round: thread `k` runs
/// `work(&mut states[k], &shared)`, and the call returns when all have finished. Between rounds
/// `lead` may lock any state and write `shared`. `lead` must not hold a lock during a round.
pub fn team<S: Send, C: Send + Sync, R>(
    states: &[Mutex<S>],
    shared: &RwLock<C>,
    work: impl Fn(&mut S, &C) + Sync,
    lead: impl FnOnce(&dyn Fn()) -> R,
) -> R {
    let part = |k: usize| {
        let shared = shared.read().unwrap_or_else(PoisonError::into_inner);
        work(&mut lock(&states[k]), &shared);
    };
    if states.len() == 1 {
        return lead(&|| part(0));
    }
    let barrier = Barrier::new(states.len());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for k in 1..states.len() {
            let (part, barrier, stop) = (&part, &barrier, &stop);
            scope.spawn(move || {
                let _alarm = Alarm(barrier);
                loop {
                    barrier.wait();
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    part(k);
                    barrier.wait();
                }
            });
        }
        let _alarm = Alarm(&barrier);
        let result = lead(&|| {
            barrier.wait();
            part(0);
            barrier.wait();
        });
        stop.store(true, Ordering::Release);
        barrier.wait();
        result
    })
}

/// `task(0), …, task(count - 1)` on up to `threads` threads; results in order.
pub fn map<R: Send>(count: usize, threads: usize, task: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let threads = threads.clamp(1, count.max(1));
    if threads == 1 {
        return (0..count).map(task).collect();
    }
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<R>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            let result = task(i);
            *lock(&slots[i]) = Some(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
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

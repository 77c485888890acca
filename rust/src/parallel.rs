//! Threads for one call: a team that works in rounds, and a loop over independent tasks.
//!
//! The threads are those of PyTorch where they can be borrowed (see `crew`), else they live as
//! long as the call. The result depends on the number of parts only, never on timing.

mod crew;

pub use crew::remember_process;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SPINS: usize = 2000;

/// Locks; a poisoned lock is opened, because a panic ends the whole call anyway.
pub fn lock<S>(mutex: &Mutex<S>) -> MutexGuard<'_, S> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A state's place in the rounds, alone in its cache lines: who waits for one state does not slow
/// down who works on another.
///
/// Four times the number of the round (from 1) it was last offered in, and how far it is there.
#[derive(Default)]
#[repr(align(128))]
struct Slot(AtomicUsize);

/// Nobody has taken the state yet.
const READY: usize = 0;
/// Somebody works on it.
const TAKEN: usize = 1;
/// It is finished.
const DONE: usize = 2;

impl Slot {
    fn offer(&self, round: usize) {
        self.0.store(4 * round + READY, Ordering::Release);
    }

    /// The round that the state is offered in.
    fn offered(&self) -> Option<usize> {
        let value = self.0.load(Ordering::Acquire);
        (value % 4 == READY && value > 0).then_some(value / 4)
    }

    /// Takes the state, unless somebody has or a later round has begun.
    fn take(&self, round: usize) -> bool {
        let (old, new) = (4 * round + READY, 4 * round + TAKEN);
        // Looked at first: to write a word is to take it away from all others.
        self.0.load(Ordering::Relaxed) == old
            && self
                .0
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    fn finish(&self, round: usize) {
        self.0.store(4 * round + DONE, Ordering::Release);
    }

    fn finished(&self, round: usize) -> bool {
        self.0.load(Ordering::Acquire) == 4 * round + DONE
    }
}

/// What the threads of a team know of the rounds.
///
/// A thread first takes the states that are its own, whose data its cache holds, and then whatever
/// nobody has taken: one that the system has put to sleep delays nobody.
struct Rounds {
    slots: Vec<Slot>,
    stop: AtomicBool,
    broken: AtomicBool,
}

impl Rounds {
    fn new(states: usize) -> Self {
        Self {
            slots: (0..states).map(|_| Slot::default()).collect(),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }
    }

    /// A thread's own states; the calling thread, number 0, has none among these.
    fn own(&self, thread: usize, threads: usize) -> impl Iterator<Item = usize> + use<> {
        let first = if thread == 0 {
            self.slots.len()
        } else {
            thread - 1
        };
        (first..self.slots.len()).step_by((threads - 1).max(1))
    }

    /// Waits for a condition: spins for some microseconds, then yields.
    ///
    /// # Panics
    /// If another thread of the team has panicked.
    fn wait(&self, until: impl Fn() -> bool) {
        let mut spins = 0;
        while !until() {
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

    /// Does what is left of a round, the thread's own states first.
    fn help(&self, round: usize, thread: usize, threads: usize, work: impl Fn(usize)) {
        // Those that are its own twice: who has them is seen at once.
        for i in self.own(thread, threads).chain(0..self.slots.len()) {
            let slot = &self.slots[i];
            if slot.take(round) {
                work(i);
                slot.finish(round);
            }
        }
    }
}

/// Tells the others when its thread panics, so that they do not wait for ever.
struct Alarm<'a>(&'a Rounds);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs `lead` on the calling thread with a team of up to one thread for `first`, which is the
/// calling thread's, and each of `others`.
///
/// `lead` receives the cell of `first` and a function, each call of which is one round:
/// `work(&mut state)` for every state, and the call returns when all have finished. Between rounds
/// `lead` may borrow or lock any state, and must not hold on to it during a round. `brief`: the
/// whole takes a few milliseconds at most.
///
/// # Panics
/// If `lead` or `work` does.
pub fn team<S: Send, R: Send>(
    first: S,
    others: &[Mutex<S>],
    brief: bool,
    work: impl Fn(&mut S) + Sync,
    lead: impl FnOnce(&RefCell<S>, &dyn Fn()) -> R + Send,
) -> R {
    if others.is_empty() {
        let first = RefCell::new(first);
        return lead(&first, &|| work(&mut first.borrow_mut()));
    }
    let part = |i: usize| work(&mut lock(&others[i]));
    let rounds = Rounds::new(others.len());
    let (start, result) = (Mutex::new(Some((first, lead))), Mutex::new(None));
    crew::together(others.len() + 1, brief, &|thread, threads| {
        let _alarm = Alarm(&rounds);
        if thread == 0 {
            let (first, lead) = lock(&start).take().expect("there is one thread 0");
            let (first, last) = (RefCell::new(first), Cell::new(0));
            let outcome = lead(&first, &|| {
                let round = last.get() + 1;
                last.set(round);
                rounds.slots.iter().for_each(|slot| slot.offer(round));
                work(&mut first.borrow_mut());
                rounds.help(round, 0, threads, part);
                rounds.wait(|| rounds.slots.iter().all(|slot| slot.finished(round)));
            });
            *lock(&result) = Some(outcome);
            rounds.stop.store(true, Ordering::Release);
            return;
        }
        let offered = Cell::new(None);
        let next = || {
            let mut own = rounds.own(thread, threads);
            offered.set(own.find_map(|i| rounds.slots[i].offered()));
            offered.get().is_some()
        };
        loop {
            rounds.wait(|| next() || rounds.stop.load(Ordering::Acquire));
            let Some(round) = offered.get() else {
                break;
            };
            rounds.help(round, thread, threads, part);
        }
    });
    let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    result.expect("the lead has returned")
}

/// `task(0), …, task(count - 1)` on up to `threads` threads; results in order. `brief`: the whole
/// takes a few milliseconds at most.
///
/// # Panics
/// If a task does.
pub fn map<R: Send>(
    count: usize,
    threads: usize,
    brief: bool,
    task: impl Fn(usize) -> R + Sync,
) -> Vec<R> {
    let threads = threads.clamp(1, count.max(1));
    if threads == 1 {
        return (0..count).map(task).collect();
    }
    let next = AtomicUsize::new(0);
    let slots: Vec<Mutex<Option<R>>> = (0..count).map(|_| Mutex::new(None)).collect();
    crew::together(threads, brief, &|_, _| {
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
            let others: Vec<_> = (1..threads).map(|k| Mutex::new(k as u64)).collect();
            let shared = AtomicUsize::new(0);
            let total = team(
                0,
                &others,
                false,
                |s| *s = *s * 3 + shared.load(Ordering::Relaxed) as u64,
                |first, run| {
                    for round in 0..100 {
                        shared.store(round, Ordering::Relaxed);
                        run();
                        *first.borrow_mut() %= 1_000_003;
                        for s in &others {
                            *lock(s) %= 1_000_003;
                        }
                    }
                    let rest = others.iter().map(|s| *lock(s));
                    std::iter::once(*first.borrow())
                        .chain(rest)
                        .collect::<Vec<_>>()
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
                map(20, threads, false, |i| i * i),
                (0..20).map(|i| i * i).collect::<Vec<_>>()
            );
        }
        assert!(map(0, 2, false, |i| i).is_empty());
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for fails in 0..2 {
            let other = [Mutex::new(1)];
            let outcome = std::panic::catch_unwind(|| {
                team(
                    0,
                    &other,
                    false,
                    |s| assert!(*s != fails, "state {fails} fails"),
                    |_, run| run(),
                );
            });
            assert!(outcome.is_err());
        }
    }
}

//! A question that a long computation asks now and then: should it go on?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ThreadId};
use std::time::Instant;

/// Least time between two questions.
const PAUSE_MS: u64 = 100;

/// Stops a computation on all its threads.
///
/// Only the thread that made it asks (a Python signal handler runs on the main thread only); the
/// others see the answer.
pub struct Interrupt<'a> {
    ask: Option<&'a (dyn Fn() -> bool + Sync)>,
    owner: ThreadId,
    start: Instant,
    /// Milliseconds from the start to the last question.
    asked: AtomicU64,
    raised: AtomicBool,
}

impl std::fmt::Debug for Interrupt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt")
            .field("raised", &self.raised())
            .finish_non_exhaustive()
    }
}

impl<'a> Interrupt<'a> {
    /// `ask` returns true to stop.
    #[must_use]
    pub fn new(ask: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self {
            ask: Some(ask),
            ..Interrupt::never()
        }
    }

    /// Never stops.
    #[must_use]
    pub fn never() -> Self {
        Self {
            ask: None,
            owner: thread::current().id(),
            start: Instant::now(),
            asked: AtomicU64::new(0),
            raised: AtomicBool::new(false),
        }
    }

    /// Whether to stop, by the last answer.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Whether to stop; asks if the last question is long ago. Takes some tens of nanoseconds.
    pub fn poll(&self) -> bool {
        if self.raised() {
            return true;
        }
        let Some(ask) = self.ask else { return false };
        if thread::current().id() != self.owner {
            return false;
        }
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if now < self.asked.load(Ordering::Relaxed) + PAUSE_MS {
            return false;
        }
        self.asked.store(now, Ordering::Relaxed);
        let stop = ask();
        self.raised.store(stop, Ordering::Relaxed);
        stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn asks_rarely_and_only_on_its_own_thread() {
        let count = AtomicU64::new(0);
        let ask = || count.fetch_add(1, Ordering::Relaxed) == 1;
        let interrupt = Interrupt::new(&ask);
        assert!(!interrupt.poll());
        assert_eq!(count.load(Ordering::Relaxed), 0);
        thread::sleep(Duration::from_millis(PAUSE_MS + 5));
        thread::scope(|scope| {
            scope.spawn(|| assert!(!interrupt.poll()));
        });
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert!(!interrupt.poll() && !interrupt.poll());
        assert_eq!(count.load(Ordering::Relaxed), 1);
        thread::sleep(Duration::from_millis(PAUSE_MS + 5));
        assert!(interrupt.poll() && interrupt.raised() && interrupt.poll());
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert!(!Interrupt::never().poll());
    }
}

//! Who runs in parallel: the threads of the OpenMP runtime that PyTorch has already started, or
//! threads of our own.
//!
//! PyTorch's workers spin for some milliseconds after each of its parallel operations. Threads of
//! our own would compete with them for the same processors; the workers themselves start within a
//! microsecond instead of thirty.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Runs `part(k, count)` for every `k < count` at the same time, `count` being `threads` or, where
/// the runtime has fewer to give, less. The calling thread is number 0.
///
/// `brief` work, of a few milliseconds at most, is done by the calling thread alone while the
/// processors are taken by others: see [`Crowd`].
///
/// # Panics
/// If any of the parts has panicked, after all have ended.
pub fn together(threads: usize, brief: bool, part: &(dyn Fn(usize, usize) + Sync)) {
    static CROWD: Crowd = Crowd::new();
    if threads <= 1 || (brief && CROWD.avoid()) {
        part(0, 1);
        return;
    }
    if !brief {
        return start(threads, part);
    }
    let begin = Instant::now();
    let done = Mutex::new(begin);
    start(threads, &|k, count| {
        part(k, count);
        if k == 0 {
            *super::lock(&done) = Instant::now();
        }
    });
    let done = done.into_inner();
    let done = done.unwrap_or_else(std::sync::PoisonError::into_inner);
    CROWD.learn(done - begin, done.elapsed());
}

/// Whether other processes want the processors, too.
///
/// A thread that waits for a processor gets one after milliseconds only, and the region cannot end
/// without it: ten times the time of a small problem. When that has happened, the next brief
/// regions are left to the calling thread, the more the oftener it happens. Only speed depends on
/// it: who computes a part changes nothing in the result.
///
/// The first region after such a pause proves nothing: its threads have gone to sleep meanwhile,
/// and waking one can take as long. The next one counts.
struct Crowd {
    /// Regions that are still to be avoided.
    skip: AtomicU32,
    /// How many were avoided after the last late thread.
    penalty: AtomicU32,
    /// The threads have not been asked for yet, or not since a pause.
    asleep: AtomicBool,
}

impl Crowd {
    const LEAST: u32 = 4;
    const MOST: u32 = 512;

    const fn new() -> Self {
        Self {
            skip: AtomicU32::new(0),
            penalty: AtomicU32::new(0),
            asleep: AtomicBool::new(true),
        }
    }

    fn avoid(&self) -> bool {
        let less = |skip: u32| skip.checked_sub(1);
        self.skip
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// Takes note of the time that the calling thread was busy, and then waited for the others.
    fn learn(&self, busy: Duration, waited: Duration) {
        let penalty = self.penalty.load(Ordering::Relaxed);
        let late = waited > Duration::from_micros(300) && waited > busy / 2;
        if self.asleep.swap(false, Ordering::Relaxed) && late {
            return;
        }
        let penalty = if late {
            (2 * penalty).clamp(Self::LEAST, Self::MOST)
        } else {
            penalty / 2
        };
        self.penalty.store(penalty, Ordering::Relaxed);
        if late {
            self.skip.store(penalty, Ordering::Relaxed);
            self.asleep.store(true, Ordering::Relaxed);
        }
    }
}

fn start(threads: usize, part: &(dyn Fn(usize, usize) + Sync)) {
    if let Some(runtime) = openmp::runtime() {
        openmp::together(runtime, threads, part);
    } else {
        std::thread::scope(|scope| {
            for k in 1..threads {
                scope.spawn(move || part(k, threads));
            }
            part(0, threads);
        });
    }
}

/// Remembers this process; to be called when the library is loaded. A forked child cannot use the
/// threads that PyTorch started before the fork, even if the child is the first to ask for them.
pub fn remember_process() {
    openmp::at_home();
}

/// Keeps the first panic of several threads.
#[derive(Default)]
struct Panic(Mutex<Option<Box<dyn std::any::Any + Send>>>);

impl Panic {
    fn watch(&self, work: impl FnOnce()) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        if let Err(payload) = outcome {
            super::lock(&self.0).get_or_insert(payload);
        }
    }

    fn resume(self) {
        let payload = self.0.into_inner();
        if let Some(payload) = payload.unwrap_or_else(std::sync::PoisonError::into_inner) {
            std::panic::resume_unwind(payload);
        }
    }
}

#[cfg(target_os = "linux")]
mod openmp {
    use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
    use std::sync::OnceLock;

    use super::Panic;

    type Region = extern "C" fn(*mut c_void);
    type Parallel = unsafe extern "C" fn(Region, *mut c_void, c_uint, c_uint);
    type Query = unsafe extern "C" fn() -> c_int;

    /// The entry points of libgomp, which the runtimes of LLVM and Intel have as well.
    #[derive(Clone, Copy)]
    pub(super) struct Runtime {
        parallel: Parallel,
        number: Query,
        count: Query,
    }

    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    fn symbol(name: &CStr) -> Option<*mut c_void> {
        // SAFETY: a null handle is RTLD_DEFAULT, the name ends with a zero byte.
        let address = unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    fn find() -> Option<Runtime> {
        let parallel = symbol(c"GOMP_parallel")?;
        let number = symbol(c"omp_get_thread_num")?;
        let count = symbol(c"omp_get_num_threads")?;
        // SAFETY: these are the signatures of these symbols in the binary interface of OpenMP, and
        // the libraries of a running process that PyTorch has loaded are never unloaded.
        unsafe {
            Some(Runtime {
                parallel: std::mem::transmute::<*mut c_void, Parallel>(parallel),
                number: std::mem::transmute::<*mut c_void, Query>(number),
                count: std::mem::transmute::<*mut c_void, Query>(count),
            })
        }
    }

    /// The process that this library was loaded into.
    static HOME: OnceLock<u32> = OnceLock::new();

    pub(super) fn at_home() -> bool {
        *HOME.get_or_init(std::process::id) == std::process::id()
    }

    /// The runtime of this process, if one is loaded and this is not a forked child, where its
    /// threads are missing although it does not know.
    pub(super) fn runtime() -> Option<Runtime> {
        static FOUND: OnceLock<Option<Runtime>> = OnceLock::new();
        if at_home() {
            *FOUND.get_or_init(find)
        } else {
            None
        }
    }

    struct Job<'a> {
        runtime: Runtime,
        part: &'a (dyn Fn(usize, usize) + Sync),
        panic: Panic,
    }

    extern "C" fn region(job: *mut c_void) {
        // SAFETY: `together` passes a job that outlives the region, and all access to it is shared.
        let job = unsafe { &*job.cast::<Job>() };
        // SAFETY: both only read the state of the calling thread.
        let (k, count) = unsafe { ((job.runtime.number)(), (job.runtime.count)()) };
        let (k, count) = (k.unsigned_abs() as usize, count.unsigned_abs() as usize);
        // A panic must not unwind through the runtime.
        job.panic.watch(|| (job.part)(k, count));
    }

    pub(super) fn together(runtime: Runtime, threads: usize, part: &(dyn Fn(usize, usize) + Sync)) {
        let mut job = Job {
            runtime,
            part,
            panic: Panic::default(),
        };
        let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
        // SAFETY: the runtime calls `region` with the job on each of its threads and returns when
        // all have finished; the job is `Sync`: a shared closure and a mutex.
        unsafe { (runtime.parallel)(region, (&raw mut job).cast(), threads, 0) };
        job.panic.resume();
    }
}

#[cfg(not(target_os = "linux"))]
mod openmp {
    /// Not looked for on this system.
    #[derive(Clone, Copy)]
    pub(super) enum Runtime {}

    pub(super) fn runtime() -> Option<Runtime> {
        None
    }

    pub(super) fn at_home() -> bool {
        true
    }

    pub(super) fn together(
        runtime: Runtime,
        _threads: usize,
        _part: &(dyn Fn(usize, usize) + Sync),
    ) {
        match runtime {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_part_runs_once() {
        for threads in 1..5 {
            let (ran, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
            together(threads, false, &|k, count| {
                ran.fetch_or(1 << k, Ordering::Relaxed);
                counted.store(count, Ordering::Relaxed);
            });
            let count = counted.into_inner();
            assert!((1..=threads).contains(&count));
            assert_eq!(ran.into_inner(), (1 << count) - 1);
        }
    }

    #[test]
    fn a_late_thread_is_avoided_for_a_while() {
        let crowd = Crowd::new();
        let (short, long) = (Duration::from_micros(50), Duration::from_millis(3));
        for penalty in [4, 8] {
            // Asleep, then late.
            crowd.learn(short, long);
            assert!(!crowd.avoid());
            crowd.learn(short, long);
            assert_eq!((0..100).filter(|_| crowd.avoid()).count(), penalty);
        }
        crowd.learn(long, short);
        crowd.learn(10 * long, long);
        assert!(!crowd.avoid());
    }

    #[test]
    fn the_first_panic_is_kept() {
        let panic = Panic::default();
        panic.watch(|| {});
        panic.watch(|| panic!("first"));
        panic.watch(|| panic!("second"));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| panic.resume()));
        assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"first"));
    }
}

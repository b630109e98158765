//! Where a test runs: which backend, how many workers; and how long it may take.

use std::io::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

/// What any single step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a whole test may take, of thousands of steps perhaps. What hangs is found by [`PATIENCE`].
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
pub struct Ground {
    pub backend: &'static str,
    pub workers: usize,
}

/// Runs `test` with time to spare but not for ever. With io_uring left out, `name` says so and passes.
pub fn run(name: &str, backend: &'static str, workers: usize, test: fn(Ground)) {
    if backend == "uring" && !uring_works() {
        return leave_out(name, "io_uring is not available here", "DERPRING_REQUIRE_URING");
    }
    within(LIMIT, name, move || test(Ground { backend, workers }));
}

/// Runs `test` on a thread of its own, and fails when that has not ended in time.
pub fn within(limit: Duration, name: &str, test: impl FnOnce() + Send + 'static) {
    let (ended, end) = mpsc::channel::<()>();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Dropped at the end, also by a panic.
        let _ended = ended;
        test();
    });
    let thread = thread.expect("a thread for the test");
    if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        panic!("{name}: expected to end within {limit:?}");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The relay needs multishot receive and buffer rings. The kernel that brought zero-copy send has both, and unlike
/// them it shows in the list of operations.
pub fn uring_works() -> bool {
    let Ok(ring) = IoUring::new(8) else { return false };
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::SendZc::CODE)
}

/// A test that cannot run passes, but never silently, and not where it is required.
pub fn leave_out(name: &str, reason: &str, required_by: &str) {
    assert!(std::env::var(required_by).as_deref() != Ok("1"), "{name}: {reason}, and {required_by}=1");
    // Past the test harness, which swallows what passing tests print. Nothing is lost if nobody listens.
    let _ = writeln!(std::io::stderr().lock(), "LEFT OUT: {name}: {reason}");
}

/// Makes each test one per backend, with one worker.
macro_rules! on_backends {
    ($($test:ident),* $(,)?) => {
        crate::relay_support::ground::grounds!(epoll, "epoll", 1, $($test),*);
        crate::relay_support::ground::grounds!(uring, "uring", 1, $($test),*);
    };
}

/// Makes each test one per backend and number of workers, where sessions on one worker and on several may differ.
macro_rules! on_workers {
    ($($test:ident),* $(,)?) => {
        crate::relay_support::ground::grounds!(epoll_1, "epoll", 1, $($test),*);
        crate::relay_support::ground::grounds!(epoll_3, "epoll", 3, $($test),*);
        crate::relay_support::ground::grounds!(uring_1, "uring", 1, $($test),*);
        crate::relay_support::ground::grounds!(uring_3, "uring", 3, $($test),*);
    };
}

macro_rules! grounds {
    ($module:ident, $backend:literal, $workers:literal, $($test:ident),*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    let name = concat!(module_path!(), "::", stringify!($test));
                    crate::relay_support::ground::run(name, $backend, $workers, super::$test);
                }
            )*
        }
    };
}

pub(crate) use {grounds, on_backends, on_workers};

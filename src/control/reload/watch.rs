//! Which files have changed: the kernel's notices about their directories make it quick, a look at the files now and
//! then makes it sure.
//!
//! Directories, because editors replace files and Kubernetes replaces the link to a whole directory: a watch on the
//! file would stay with the old one. A look, because a directory may itself be replaced or come back, and file systems
//! of other machines send no notices.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, io, thread};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tracing::warn;

use crate::limits;

/// Wakes the thread from elsewhere.
#[derive(Debug)]
pub struct Bell {
    wake: OwnedFd,
    asked: AtomicBool,
    over: AtomicBool,
}

impl Bell {
    /// # Errors
    /// There is no descriptor for it.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { wake, asked: AtomicBool::new(false), over: AtomicBool::new(false) })
    }

    /// Asks for a reload. One that waits stands for all that come meanwhile.
    pub fn ring(&self) {
        self.asked.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when it has been rung 2^64 times and nobody looked.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn heard(&self) -> Option<Why> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        if self.over.load(Ordering::Acquire) {
            return Some(Why::End);
        }
        self.asked.swap(false, Ordering::AcqRel).then_some(Why::Asked)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Asked,
    Changed,
    End,
}

pub(super) struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Print>,
    /// `None`: the kernel has none left for us.
    notices: Option<OwnedFd>,
}

/// Without files.
impl Default for Watch {
    fn default() -> Self {
        let notices = match inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) {
            Ok(notices) => Some(notices),
            Err(error) => {
                let every = limits::RELOAD_LOOK.as_secs();
                warn!(%error, "no notices about changed files: they are looked at every {every} s instead");
                None
            }
        };
        Self { files: Vec::new(), seen: Vec::new(), notices }
    }
}

impl Watch {
    /// Looks at these files from now on. Those that were looked at before keep what was seen of them. Returns whether
    /// there are others, which may have changed before.
    pub fn follow(&mut self, files: Vec<PathBuf>) -> bool {
        let seen = |file: &PathBuf| self.files.iter().position(|known| known == file);
        let new = files.iter().any(|file| seen(file).is_none());
        let seen = files.iter().map(|file| seen(file).map_or_else(|| print(file), |at| self.seen[at]));
        self.seen = seen.collect();
        self.files = files;
        self.watch();
        new
    }

    /// What is there now has been seen.
    pub fn look(&mut self) {
        self.seen = self.prints();
    }

    /// Returns when the bell was rung, or when a file is another than was seen, and no longer being written as far as
    /// one can tell.
    pub fn wait(&mut self, bell: &Bell) -> Why {
        loop {
            self.sleep(bell);
            if let Some(why) = bell.heard() {
                return why;
            }
            self.watch();
            let mut now = self.prints();
            for _ in 0..limits::RELOAD_SETTLE_LOOKS {
                // Also when nothing has changed: the directory may be a busy one that has nothing to do with us.
                thread::sleep(limits::RELOAD_SETTLE);
                let again = self.prints();
                if again == now {
                    break;
                }
                now = again;
            }
            if now != self.seen {
                return Why::Changed;
            }
        }
    }

    /// Until the bell, a notice, or the time for a look.
    fn sleep(&self, bell: &Bell) {
        let look = Timespec { tv_sec: limits::RELOAD_LOOK.as_secs() as i64, tv_nsec: 0 };
        let mut fds = vec![PollFd::new(&bell.wake, PollFlags::IN)];
        fds.extend(self.notices.as_ref().map(|notices| PollFd::new(notices, PollFlags::IN)));
        // A signal ends it early, and that costs a look.
        let _ = poll(&mut fds, Some(&look));
        // What notices say does not matter: the files are looked at anyway.
        if let Some(notices) = &self.notices {
            let mut bytes = [0; 4096];
            while rustix::io::read(notices, &mut bytes).is_ok_and(|len| len > 0) {}
        }
    }

    fn prints(&self) -> Vec<Print> {
        self.files.iter().map(|file| print(file)).collect()
    }

    /// Asks for notices. A directory that has one already keeps it; one that is not there has none until it is.
    fn watch(&self) {
        let Some(notices) = &self.notices else { return };
        let what = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ATTRIB;
        for dir in directories(&self.files) {
            // What cannot be watched is looked at.
            let _ = inotify::add_watch(notices, &dir, what);
        }
    }
}

/// Where a notice would come from: the directory that the name is in, and the one that it leads to.
fn directories(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for file in files {
        out.extend(parent(file));
        if let Ok(real) = fs::canonicalize(file) {
            out.extend(parent(&real));
        }
    }
    out
}

fn parent(file: &Path) -> Option<PathBuf> {
    match file.parent() {
        Some(dir) if dir == Path::new("") => Some(PathBuf::from(".")),
        dir => dir.map(Path::to_owned),
    }
}

/// What tells one state of a file from another: which it is, how long, and when its content, name or rights changed.
/// `None`: there is none, or we may not look.
type Print = Option<[i64; 5]>;

fn print(file: &Path) -> Print {
    let file = fs::metadata(file).ok()?;
    Some([file.dev() as i64, file.ino() as i64, file.size() as i64, file.ctime(), file.ctime_nsec()])
}

#[cfg(test)]
mod tests;

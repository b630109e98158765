//! A new key on its way to the disk, which may take a tenth of a second to have it: a thread waits for it.
//!
//! The file comes to its place whole or not at all, and only where there is none: a crash leaves no half-written key, a
//! second relay that starts at the same time overwrites nothing. The disk is waited for once, for the file, and not for
//! the directory: if the power goes in the next seconds the relay begins again with another key, which no client keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::KeyError;
use crate::proto::key::to_hex;

/// Ends with the file in its place, or without a trace of it, also when it is dropped.
#[derive(Debug)]
pub struct Saving {
    path: PathBuf,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Saving {
    /// Writes beside `path` what is to be there.
    ///
    /// # Errors
    /// What a folder says that cannot be written. What only the disk knows is told by [`Self::wait`].
    pub(super) fn start(path: &Path, content: &[u8]) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Write { path: path.to_owned(), source };
        let draft = Draft::write(path, content).map_err(failed)?;
        let thread = thread::Builder::new().name("key".into()).spawn(move || draft.keep()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), thread: Some(thread) })
    }

    /// Until the disk has the file.
    ///
    /// # Errors
    /// The disk does not take it, or somebody was faster, and theirs is the relay's key now.
    pub fn wait(mut self) -> Result<(), KeyError> {
        match self.join() {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(KeyError::Raced { path: self.path.clone() }),
            Err(source) => Err(KeyError::Write { path: self.path.clone(), source }),
            Ok(()) => Ok(()),
        }
    }

    fn join(&mut self) -> io::Result<()> {
        let ended = self.thread.take().map(JoinHandle::join);
        ended.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(io::Error::other("the thread that writes it panicked")))
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        // Who does not wait has a worse error to tell.
        let _ = self.join();
    }
}

/// A file beside its place; removed unless it is kept.
struct Draft {
    file: File,
    at: PathBuf,
    place: PathBuf,
}

impl Draft {
    fn write(place: &Path, content: &[u8]) -> io::Result<Self> {
        let dir = match place.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir)?;
        let mut tag = [0; 8];
        getrandom::fill(&mut tag).map_err(io::Error::other)?;
        let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let at = dir.join(format!(".{name}.{}.tmp", to_hex(&tag)));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        let mut draft = Self { file, at, place: place.to_owned() };
        draft.file.write_all(content)?;
        Ok(draft)
    }

    fn keep(self) -> io::Result<()> {
        self.file.sync_all()?;
        rename_new(&self.at, &self.place)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing there; what went wrong before matters more than a left-over.
        let _ = fs::remove_file(&self.at);
    }
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag: the check before is the best there is.
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => fs::rename(from, to),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn files(dir: &TempDir) -> Vec<String> {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn who_is_later_is_told_so_and_overwrites_nothing() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        let first = Saving::start(&path, b"first").unwrap();
        let second = Saving::start(&path, b"second").unwrap();
        let (first, second) = (first.wait(), second.wait());
        let kept = fs::read(&path).unwrap();
        let (kept_first, lost) = if first.is_ok() { (true, second) } else { (false, first) };
        assert_eq!(kept, if kept_first { b"first".to_vec() } else { b"second".to_vec() });
        let text = lost.unwrap_err().to_string();
        assert!(text.contains("start this one again"), "{text}");
        assert_eq!(files(&dir), ["key"]);
    }

    #[test]
    fn who_does_not_wait_leaves_the_file_and_nothing_else() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        drop(Saving::start(&path, b"content").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(files(&dir), ["key"]);
    }

    #[test]
    fn a_folder_that_cannot_be_is_told_at_once() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let text = Saving::start(&dir.path().join("file/key"), b"content").unwrap_err().to_string();
        assert!(text.contains("cannot write the key file"), "{text}");
        assert_eq!(files(&dir), ["file"]);
    }
}

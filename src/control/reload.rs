//! Reading the configuration again while the relay runs: at SIGHUP, and when a file of it changes.
//!
//! A thread of its own, because files may lie where reading takes long. What it reads either counts as a whole or not
//! at all; no connection notices either way.

mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{debug, info, warn};

use crate::config::Loaded;
use crate::config::changes::Changes;
use crate::edge::be_nice;
use crate::stats::Cell;
pub use watch::Bell;
use watch::{Watch, Why};

/// Reads everything that the configuration was read from once more; or says what is wrong with it.
pub type Source = Arc<dyn Fn() -> Result<Loaded, String> + Send + Sync>;

/// What of a running relay a reload can change.
pub trait Reins: Send {
    /// Whether the relay can run with this, as far as its configuration alone does not tell.
    ///
    /// # Errors
    /// What is in the way.
    fn check(&self, loaded: &Loaded) -> Result<(), String>;

    /// Whoever watches over the process is told when it begins, and that it serves as before when it has ended.
    fn tell(&self, reloading: bool);

    /// Takes over what can change: [`LIVE`](crate::config::changes::LIVE). `before` is what counted so far.
    fn take_over(&mut self, before: &Loaded, now: &Loaded);

    /// Reads certificates again. Says which names have a new one.
    ///
    /// # Errors
    /// What is wrong with the files; what was good in them counts, and the rest stays.
    fn certificates(&mut self) -> Result<Vec<String>, String>;

    /// The files that they were read from.
    fn certificate_files(&self) -> Vec<PathBuf>;
}

/// How it went so far; written by the thread alone.
#[derive(Debug, Default)]
pub struct Counts {
    pub taken_over: Cell,
    pub refused: Cell,
    /// When the configuration was last read with success, in seconds since 1970; zero: only at the start.
    pub last: Cell,
}

/// The running thread. It ends with this, or when what it reads answers again.
pub struct Reloader {
    bell: Arc<Bell>,
}

impl Reloader {
    /// Reloads whenever `bell` is rung, and when a file changes.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(
        loaded: Loaded,
        source: Source,
        reins: Box<dyn Reins>,
        counts: Arc<Counts>,
        bell: Arc<Bell>,
    ) -> io::Result<Self> {
        let state = State { started: loaded.clone(), current: loaded, source, reins, counts };
        let rung = Arc::clone(&bell);
        std::thread::Builder::new().name("reload".to_owned()).spawn(move || serve(state, &rung))?;
        Ok(Self { bell })
    }
}

/// Nobody waits for it: what it reads may lie on a file system that does not answer.
impl Drop for Reloader {
    fn drop(&mut self) {
        self.bell.end();
    }
}

fn serve(mut state: State, bell: &Bell) {
    be_nice();
    let mut watch = Watch::default();
    loop {
        // What has changed between the reading of a file and the first look at it would never be seen.
        if watch.follow(state.files()) {
            state.reload(CHANGED, Said::IfChanged);
        }
        let why = match watch.wait(bell) {
            Why::Asked => "SIGHUP",
            Why::Changed => CHANGED,
            Why::End => return,
        };
        // Whatever changes from here on is seen by the next look.
        watch.look();
        state.reins.tell(true);
        state.reload(why, Said::Always);
        state.reins.tell(false);
    }
}

const CHANGED: &str = "a file has changed";

/// Whether a reload that changes nothing is worth a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Always,
    IfChanged,
}

struct State {
    /// What cannot change is as it was then.
    started: Loaded,
    /// What can change is as it is here.
    current: Loaded,
    source: Source,
    reins: Box<dyn Reins>,
    counts: Arc<Counts>,
}

impl State {
    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.current.files();
        files.extend(self.reins.certificate_files());
        files
    }

    fn reload(&mut self, why: &str, said: Said) {
        debug!(why, "reading the configuration again");
        let read = (self.source)().and_then(|loaded| self.reins.check(&loaded).map(|()| loaded));
        let loaded = match read {
            Ok(loaded) => loaded,
            Err(problem) => {
                self.counts.refused.add(1);
                return warn!(why, "reload refused, all stays as it was: {problem}");
            }
        };
        for warning in loaded.warnings.iter().filter(|warning| !self.current.warnings.contains(warning)) {
            warn!("{warning}");
        }
        let changed = Changes::between(&self.current, &loaded).live;
        let before = Changes::between(&self.started, &self.current).later;
        let later = Changes::between(&self.started, &loaded).later;
        self.reins.take_over(&self.current, &loaded);
        self.current = loaded;
        let certificates = self.reins.certificates();
        if said == Said::IfChanged && changed.is_empty() && later == before && certificates == Ok(Vec::new()) {
            return;
        }
        let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        if !later.is_empty() {
            warn!("needs a restart: {}", later.join(", "));
        }
        match certificates {
            Ok(names) => {
                self.counts.taken_over.add(1);
                self.counts.last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
                info!(why, changed = list(&changed), certificates = list(&names), "reloaded");
            }
            Err(problem) => {
                self.counts.refused.add(1);
                warn!(why, changed = list(&changed), "reloaded but for certificates, which stay: {problem}");
            }
        }
    }
}

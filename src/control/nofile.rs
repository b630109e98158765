//! File descriptors: every client costs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

use crate::limits;

/// Raises this process's own limit as far as it may, and says how many clients it is good for: `wanted` where that
/// fits, and without a wish as many as fit.
///
/// # Errors
/// When the limit is too low.
pub fn prepare(wanted: Option<usize>, workers: usize, edges: usize) -> Result<usize, NofileError> {
    max_clients(wanted, raise(), workers, edges)
}

/// The operator's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NofileError {
    #[error(
        "--max-clients {wanted} needs {needed} file descriptors and the limit is {limit}: {HOW_TO_RAISE}, \
         or give --max-clients {possible}"
    )]
    TooMany { wanted: usize, needed: usize, limit: usize, possible: usize },
    #[error("a relay needs at least {needed} file descriptors and the limit is {limit}: {HOW_TO_RAISE}")]
    TooFew { needed: usize, limit: usize },
}

const HOW_TO_RAISE: &str =
    "raise it (LimitNOFILE= in systemd, --ulimit nofile= for a container, ulimit -Hn in a shell)";

/// Listeners, log, signals, files being read, and who looks at the admin pages.
const RESERVE: usize = 64 + limits::ADMIN_CONNECTIONS;
/// Rings or epoll, wake-ups, timers of one thread.
const RESERVE_PER_THREAD: usize = 8;
/// Connections that are not logged in, so that a full relay still answers.
const RESERVE_LOGINS: usize = 256;
/// Where descriptors are unlimited: more than one address can serve, and a bound for tables.
const MOST_CLIENTS: usize = 1 << 20;

fn max_clients(wanted: Option<usize>, limit: usize, workers: usize, edges: usize) -> Result<usize, NofileError> {
    let reserve = RESERVE + RESERVE_LOGINS + RESERVE_PER_THREAD * (workers + edges);
    let possible = limit.saturating_sub(reserve);
    if possible == 0 {
        return Err(NofileError::TooFew { needed: reserve + 1, limit });
    }
    match wanted {
        Some(wanted) if wanted > possible => {
            let needed = wanted.saturating_add(reserve);
            Err(NofileError::TooMany { wanted, needed, limit, possible })
        }
        Some(wanted) => Ok(wanted),
        None => Ok(possible.min(MOST_CLIENTS)),
    }
}

/// Descriptors that this process may open.
pub fn limit() -> u64 {
    known(getrlimit(Resource::Nofile).current) as u64
}

/// The limit after raising it.
fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return known(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => known(maximum),
        Err(error) => {
            debug!("the limit on file descriptors stays at {current:?}: {error}");
            known(current)
        }
    }
}

/// No limit is a large one.
fn known(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_kept_or_refused_with_numbers() {
        assert_eq!(max_clients(Some(1000), 4096, 2, 1), Ok(1000));
        let refused = max_clients(Some(4000), 4096, 2, 1).unwrap_err();
        assert_eq!(refused, NofileError::TooMany { wanted: 4000, needed: 4408, limit: 4096, possible: 3688 });
        let text = refused.to_string();
        assert!(text.contains("needs 4408") && text.contains("LimitNOFILE") && text.contains("--max-clients 3688"));
        assert!(max_clients(Some(usize::MAX), 4096, 2, 1).is_err());
        assert_eq!(max_clients(Some(3688), 4096, 2, 1), Ok(3688), "what the message offers is taken");
    }

    #[test]
    fn without_a_wish_the_limit_decides() {
        assert_eq!(max_clients(None, 1024, 1, 1), Ok(624));
        assert_eq!(max_clients(None, usize::MAX, 1, 1), Ok(MOST_CLIENTS));
        assert_eq!(max_clients(None, 400, 1, 1), Err(NofileError::TooFew { needed: 401, limit: 400 }));
    }

    #[test]
    fn this_process_may_raise_its_limit() {
        let clients = prepare(None, 1, 1).unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert!(clients <= known(current));
    }
}

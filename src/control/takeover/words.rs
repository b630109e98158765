//! The messages of a takeover, and how they go over their socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::control::sockets::Role;
use crate::limits;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum Word {
    Hello {
        protocol: u32,
        version: String,
    },
    Offer {
        protocol: u32,
        version: String,
        public_key: String,
        sockets: usize,
    },
    /// With its descriptor.
    Socket {
        role: Role,
    },
    Ready,
    Yours,
    Open,
    /// In place of anything, by either side: the takeover is off.
    Refused {
        why: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TalkError {
    #[error("it did not answer in time")]
    Late,
    #[error("it hung up")]
    Gone,
    #[error("this relay is stopping")]
    Interrupted,
    #[error("{0}")]
    Refused(String),
    #[error("it said {0:?}, which does not belong here")]
    Nonsense(String),
    #[error("it gave more than one descriptor, or one that there is no room for here (LimitNOFILE=)")]
    Descriptors,
    #[error("{0}")]
    Io(#[from] Errno),
}

pub(super) fn say(to: &impl AsFd, word: &Word, with: Option<BorrowedFd<'_>>) -> Result<(), TalkError> {
    let text = serde_json::to_vec(word).map_err(|error| TalkError::Nonsense(error.to_string()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = &with {
        // There is room for one.
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
    }
    match sendmsg(to, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(TalkError::Gone),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the next message. `interrupt`: ends the wait when it can be read or is closed.
pub(super) fn hear(
    from: &impl AsFd,
    patience: Duration,
    interrupt: Option<BorrowedFd<'_>>,
) -> Result<(Word, Option<OwnedFd>), TalkError> {
    wait(from.as_fd(), patience, interrupt)?;
    let mut text = [0; limits::TAKEOVER_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match recvmsg(from, &mut [IoSliceMut::new(&mut text)], &mut control, flags) {
        Ok(got) => got,
        Err(Errno::CONNRESET) => return Err(TalkError::Gone),
        Err(error) => return Err(error.into()),
    };
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Err(TalkError::Gone);
    }
    if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return Err(TalkError::Descriptors);
    }
    let text = &text[..got.bytes];
    let word = serde_json::from_slice(text);
    let word = word.ok().filter(|_| !got.flags.contains(ReturnFlags::TRUNC));
    let word = word.ok_or_else(|| TalkError::Nonsense(String::from_utf8_lossy(text).chars().take(80).collect()))?;
    Ok((word, descriptors.pop()))
}

/// Until there is something to read.
pub(super) fn wait(on: BorrowedFd<'_>, patience: Duration, interrupt: Option<BorrowedFd<'_>>) -> Result<(), TalkError> {
    let end = Instant::now() + patience;
    loop {
        let mut both = [PollFd::from_borrowed_fd(on, PollFlags::IN), PollFd::from_borrowed_fd(on, PollFlags::empty())];
        if let Some(interrupt) = interrupt {
            both[1] = PollFd::from_borrowed_fd(interrupt, PollFlags::IN);
        }
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        match poll(&mut both, left.as_ref()) {
            Ok(0) => return Err(TalkError::Late),
            Ok(_) if interrupt.is_some() && !both[1].revents().is_empty() => return Err(TalkError::Interrupted),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl TalkError {
    /// What to tell somebody who said something else than was expected.
    pub fn unexpected(word: Word) -> Self {
        match serde_json::to_string(&word) {
            Ok(text) => Self::Nonsense(text),
            Err(error) => Self::Nonsense(error.to_string()),
        }
    }
}

impl From<TalkError> for io::Error {
    fn from(error: TalkError) -> Self {
        Self::other(error.to_string())
    }
}

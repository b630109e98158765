//! The new relay against old ones that do not do as they should.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use tempfile::TempDir;

use super::words::{TalkError, Word, hear, say};
use super::*;
use crate::control::sockets::{Role, Sockets};
use crate::limits;

/// An old relay that says `words` one by one: the first when it is greeted, those behind `ready` when it hears that.
fn takeover(before: Vec<Word>, after: Vec<Word>) -> Result<(), String> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("takeover");
    let (listener, _file) = Sockets::default().unix(Role::Takeover, &path, &KIND).unwrap();
    listener.set_nonblocking(false).unwrap();
    let old = thread::spawn(move || play(&listener, &before, &after));
    let taken = ask(Some(&path)).and_then(|taking| taking.ready().map(|()| taking.open()));
    old.join().unwrap();
    taken.map_err(|error| error.to_string())
}

fn play(listener: &UnixListener, before: &[Word], after: &[Word]) {
    let (peer, _) = listener.accept().unwrap();
    let heard = |peer: &UnixStream| hear(peer, limits::TAKEOVER_REPLY, None).map(|(word, _)| word);
    assert!(matches!(heard(&peer), Ok(Word::Hello { protocol: PROTOCOL, .. })));
    for word in before {
        let with = matches!(word, Word::Socket { .. }).then(|| listener.as_fd());
        say(&peer, word, with).unwrap();
    }
    if after.is_empty() {
        return;
    }
    assert!(matches!(heard(&peer), Ok(Word::Ready)));
    for word in after {
        say(&peer, word, None).unwrap();
    }
    assert!(matches!(heard(&peer), Ok(Word::Open) | Err(TalkError::Gone)));
}

fn offer(protocol: u32, sockets: usize) -> Word {
    Word::Offer { protocol, version: "0".into(), public_key: "k".into(), sockets }
}

const MAIN: Word = Word::Socket { role: Role::Main };

#[test]
fn the_order_of_things() {
    assert_eq!(takeover(vec![offer(PROTOCOL, 2), MAIN, MAIN], vec![Word::Yours]), Ok(()));
}

/// It has not said no, and the sockets are here: somebody has to serve.
#[test]
fn an_old_relay_that_dies_is_succeeded() {
    assert_eq!(takeover(vec![offer(PROTOCOL, 1), MAIN], vec![]), Ok(()));
}

#[test]
fn whatever_else_it_says_the_takeover_is_off() {
    let refused = || Word::Refused { why: "not now".into() };
    for (before, after, text) in [
        (vec![refused()], vec![], "does not give its sockets away: not now"),
        (vec![offer(PROTOCOL + 1, 0)], vec![], "speaks takeover protocol 2"),
        (vec![], vec![], "it hung up; it goes on"),
        (vec![offer(PROTOCOL, 2), MAIN], vec![], "it hung up; it goes on"),
        (vec![offer(PROTOCOL, 2), MAIN, refused()], vec![], "not now"),
        (vec![MAIN], vec![], "which does not belong here"),
        (vec![offer(PROTOCOL, 1), Word::Yours], vec![], "which does not belong here"),
        (vec![offer(PROTOCOL, 1), MAIN], vec![refused()], "not now"),
        (vec![offer(PROTOCOL, 1), MAIN], vec![Word::Ready], "which does not belong here"),
    ] {
        let error = takeover(before, after).unwrap_err();
        assert!(error.contains(text), "{error:?} and not {text:?}");
    }
}

//! The sockets that edges accept from.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use socket2::SockRef;
use tokio::sync::watch;

/// A socket, and what is served there.
pub(super) struct Entrance {
    pub socket: Listening,
    /// Plain HTTP beside TLS, and not the main listener.
    pub beside: bool,
}

pub(super) enum Listening {
    Tcp(TcpListener),
    /// With the word that it is closed.
    Unix(UnixListener, Arc<watch::Sender<bool>>),
}

impl Entrance {
    pub fn all(main: Vec<TcpListener>, unix: Vec<UnixListener>, http: Vec<TcpListener>) -> Vec<Self> {
        let main = main.into_iter().map(|socket| (Listening::Tcp(socket), false));
        let unix = unix.into_iter().map(|socket| (Listening::Unix(socket, Arc::default()), false));
        let http = http.into_iter().map(|socket| (Listening::Tcp(socket), true));
        main.chain(unix).chain(http).map(|(socket, beside)| Self { socket, beside }).collect()
    }

    /// For another edge.
    pub fn share(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Listening::Tcp(socket) => Listening::Tcp(socket.try_clone()?),
            Listening::Unix(socket, closed) => Listening::Unix(socket.try_clone()?, closed.clone()),
        };
        Ok(Self { socket, ..*self })
    }

    /// One shutdown ends it for every duplicate, and wakes all who wait in accept.
    pub fn close(&self) {
        let socket = match &self.socket {
            Listening::Tcp(socket) => SockRef::from(socket),
            Listening::Unix(socket, closed) => {
                closed.send_replace(true);
                SockRef::from(socket)
            }
        };
        let _ = socket.shutdown(Shutdown::Both);
    }
}

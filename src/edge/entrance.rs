//! The sockets that edges accept from.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

/// A socket, and what is served there.
pub(super) struct Entrance {
    pub socket: Listening,
    /// Plain HTTP beside TLS, and not the main listener.
    pub beside: bool,
}

pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Entrance {
    pub fn all(main: Vec<TcpListener>, unix: Vec<UnixListener>, http: Vec<TcpListener>) -> Vec<Self> {
        let main = main.into_iter().map(|socket| (Listening::Tcp(socket), false));
        let unix = unix.into_iter().map(|socket| (Listening::Unix(socket), false));
        let http = http.into_iter().map(|socket| (Listening::Tcp(socket), true));
        main.chain(unix).chain(http).map(|(socket, beside)| Self { socket, beside }).collect()
    }

    /// For another edge.
    pub fn share(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Listening::Tcp(socket) => Listening::Tcp(socket.try_clone()?),
            Listening::Unix(socket) => Listening::Unix(socket.try_clone()?),
        };
        Ok(Self { socket, ..*self })
    }
}

//! The sockets of the STUN server.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::SockRef;

use crate::control::sockets::{Role, Sockets};
use crate::limits::STUN_RECEIVE_BUFFER;

/// Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for STUN (UDP): {error}{}", hint(.error))]
pub struct OpenError {
    address: SocketAddr,
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has this port, another STUN server perhaps: stop it, or give another --stun-listen \
             address (derper: -stun-port), or turn STUN off with --stun-listen= (derper: -stun=false)"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd), or give --stun-listen \
             (derper: -stun-port) a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => "; this host has no IPv6: write 0.0.0.0:PORT",
        _ => "",
    }
}

/// A socket for one address. `[::]` is every address of both families, and those of IPv4 on a host without IPv6.
///
/// # Errors
/// The address cannot be had.
pub fn open(sockets: &mut Sockets, address: SocketAddr) -> Result<UdpSocket, OpenError> {
    // What the kernel does not allow it makes smaller, and a smaller one serves as well outside of a storm.
    let prepare = |socket: SockRef<'_>| {
        let _ = socket.set_recv_buffer_size(STUN_RECEIVE_BUFFER);
        Ok(())
    };
    // No SO_REUSEADDR: with UDP it would let another process take the port away.
    sockets.udp(Role::Stun, address, prepare).map_err(|error| OpenError { address, error })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_cannot_be_had_says_what_to_do() {
        let taken = open(&mut Sockets::default(), "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        for clash in [address, (Ipv4Addr::UNSPECIFIED, address.port()).into()] {
            let text = open(&mut Sockets::default(), clash).unwrap_err().to_string();
            assert!(text.starts_with(&format!("cannot listen on {clash} for STUN")), "{text}");
            assert!(text.contains("--stun-listen") && text.contains("-stun=false"), "{text}");
        }
        let text = open(&mut Sockets::default(), "192.0.2.1:3478".parse().unwrap()).unwrap_err().to_string();
        assert!(text.contains("does not have that address"), "{text}");
    }
}

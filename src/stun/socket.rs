//! The sockets of the STUN server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

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
pub fn open(address: SocketAddr) -> Result<UdpSocket, OpenError> {
    bind(address)
        .or_else(|error| match address {
            SocketAddr::V6(v6) if v6.ip().is_unspecified() && no_ipv6(&error) => {
                bind((Ipv4Addr::UNSPECIFIED, v6.port()).into())
            }
            _ => Err(error),
        })
        .map_err(|error| OpenError { address, error })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if let SocketAddr::V6(v6) = address {
        // A wildcard takes both families; an address of its own only what it says.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // What the kernel does not allow it makes smaller, and a smaller one serves as well outside of a storm.
    let _ = socket.set_recv_buffer_size(STUN_RECEIVE_BUFFER);
    // No SO_REUSEADDR: with UDP it would let another process take the port away.
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_says_what_to_do() {
        let taken = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        for clash in [address, (Ipv4Addr::UNSPECIFIED, address.port()).into()] {
            let text = open(clash).unwrap_err().to_string();
            assert!(text.starts_with(&format!("cannot listen on {clash} for STUN")), "{text}");
            assert!(text.contains("--stun-listen") && text.contains("-stun=false"), "{text}");
        }
        let text = open("192.0.2.1:3478".parse().unwrap()).unwrap_err().to_string();
        assert!(text.contains("does not have that address"), "{text}");
    }

    #[test]
    fn only_a_host_without_ipv6_falls_back() {
        for (error, without) in
            [(libc::EAFNOSUPPORT, true), (libc::EADDRNOTAVAIL, true), (libc::EADDRINUSE, false), (libc::EACCES, false)]
        {
            assert_eq!(no_ipv6(&io::Error::from_raw_os_error(error)), without);
        }
    }
}

//! The client's side: TLS by rustls, believing one authority.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::authority::{PATIENCE, await_that};

/// The certificates that are presented, if the first is one for `name` by the authority whose root is `ca`.
pub fn presented(addr: SocketAddr, name: &str, ca: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let (conn, _) = connect(addr, name, ca, b"http/1.1")?;
    Ok(conn.peer_certificates().expect("the handshake is done").to_vec())
}

/// The body of the answer to a GET.
pub fn fetch(addr: SocketAddr, name: &str, ca: &[u8], path: &str) -> Vec<u8> {
    // Whoever says that it listens may be a moment from it.
    let mut connected = None;
    await_that("a server that answers", || {
        connected = connect(addr, name, ca, b"http/1.1").ok();
        connected.is_some()
    });
    let (mut conn, mut socket) = connected.expect("it was waited for");
    let mut stream = rustls::Stream::new(&mut conn, &mut socket);
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {name}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Go ends HTTP/1.0 without a close_notify now and then.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8(answer).unwrap();
    text.split_once("\r\n\r\n").expect("an answer").1.as_bytes().to_vec()
}

pub fn connect(addr: SocketAddr, name: &str, ca: &[u8], alpn: &[u8]) -> io::Result<(ClientConnection, TcpStream)> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca).map(Result::unwrap));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut conn = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    while conn.is_handshaking() {
        conn.complete_io(&mut socket)?;
    }
    Ok((conn, socket))
}

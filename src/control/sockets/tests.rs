use std::net::TcpStream;

use tempfile::TempDir;

use super::*;

fn tcp(sockets: &mut Sockets, role: Role, address: &str) -> io::Result<TcpListener> {
    sockets.tcp(role, address.parse().unwrap(), |_| Ok(()))
}

/// What an earlier relay has open, as it gives it away.
fn open(role: Role, address: &str) -> (TcpListener, Sockets) {
    let listener = tcp(&mut Sockets::default(), role, address).unwrap();
    let mut sockets = Sockets::default();
    sockets.give(role, listener.try_clone().unwrap().into()).unwrap();
    (listener, sockets)
}

fn inherit(sockets: &mut Sockets, origin: Origin, name: &str, listener: &TcpListener) {
    let fd = OwnedFd::from(listener.try_clone().unwrap());
    let address = Address::of(&fd).unwrap();
    sockets.found.push(Found { fd, origin, role: Role::named(name), name: name.into(), address });
}

#[test]
fn what_was_given_is_used_before_anything_is_opened() {
    for (here, wanted) in [("127.0.0.1:0", "same"), ("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:0", "[::]:0")] {
        let (old, mut sockets) = open(Role::Main, here);
        let at = old.local_addr().unwrap();
        let wanted = if wanted == "same" { at.to_string() } else { wanted.to_owned() };
        let new = tcp(&mut sockets, Role::Main, &wanted).unwrap();
        assert_eq!(new.local_addr().unwrap(), at, "{here}, {wanted}");
        // The same socket: what waits in one is accepted by the other.
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, at.port())).unwrap();
        drop(old);
        assert_eq!(new.accept().unwrap().1, client.local_addr().unwrap());
    }
}

#[test]
fn another_role_or_address_is_another_socket() {
    let (old, mut sockets) = open(Role::Http, "127.0.0.1:0");
    let at = old.local_addr().unwrap();
    assert_eq!(tcp(&mut sockets, Role::Main, &at.to_string()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    let new = tcp(&mut sockets, Role::Http, "127.0.0.2:0").unwrap();
    assert_ne!(new.local_addr().unwrap(), at);
    let udp = sockets.udp(Role::Http, at, |_| Ok(())).unwrap();
    assert_eq!(udp.local_addr().unwrap(), at, "a port of UDP is none of TCP");
    let open = sockets.finish().unwrap();
    assert_eq!(open.len(), 2);
    drop(old);
    TcpStream::connect(at).unwrap();
    open.own();
    assert!(TcpStream::connect(at).is_err(), "what nobody has a use for is closed");
}

#[test]
fn who_leaves_late_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("main");
    let (unix, _file) = Sockets::default().unix(Role::Main, &path, &STREAM).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let udp = Sockets::default().udp(Role::Stun, any, |_| Ok(())).unwrap();
    let tcp = Sockets::default().tcp(Role::Main, any, |_| Ok(())).unwrap();
    let (datagrams, streams) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(tcp);
        thread::sleep(Duration::from_millis(100));
        drop(udp);
        thread::sleep(Duration::from_millis(100));
        drop(unix);
    });
    let mut sockets = Sockets::default();
    sockets.tcp(Role::Main, streams, |_| Ok(())).unwrap();
    sockets.udp(Role::Stun, datagrams, |_| Ok(())).unwrap();
    sockets.unix(Role::Main, &path, &STREAM).unwrap();
    late.join().unwrap();
}

#[test]
fn sockets_of_udp_and_unix_are_inherited_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("admin");
    let mut old = Sockets::default();
    let udp = old.udp(Role::Stun, "127.0.0.1:0".parse().unwrap(), |_| Ok(())).unwrap();
    let (unix, file) = old.unix(Role::Admin, &path, &STREAM).unwrap();
    let old = old.finish().unwrap();
    let mut new = Sockets::default();
    old.each(|role, fd, _| new.give(role, fd.try_clone_to_owned()?)).unwrap();
    let same = new.udp(Role::Stun, "127.0.0.1:0".parse().unwrap(), |_| Ok(())).unwrap();
    assert_eq!(same.local_addr().unwrap(), udp.local_addr().unwrap());
    let (taken, taken_file) = new.unix(Role::Admin, &path, &STREAM).unwrap();
    let new = new.finish().unwrap();

    // A start that fails here leaves the name to who has it.
    let mut failed = Sockets::default();
    old.each(|role, fd, _| failed.give(role, fd.try_clone_to_owned()?)).unwrap();
    drop(failed.unix(Role::Admin, &path, &STREAM).unwrap());
    assert!(path.exists());

    new.own();
    old.share();
    drop((unix, file, old));
    let _client = UnixStream::connect(&path).unwrap();
    taken.accept().unwrap();
    drop(taken_file);
    assert!(!path.exists(), "it was the new one's by then");
}

#[test]
fn names_of_unix_sockets_that_nobody_wants_go_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("admin");
    let mut old = Sockets::default();
    let (_unix, file) = old.unix(Role::Admin, &path, &STREAM).unwrap();
    let old = old.finish().unwrap();
    let mut new = Sockets::default();
    old.each(|role, fd, _| new.give(role, fd.try_clone_to_owned()?)).unwrap();
    old.share();
    drop(file);
    assert!(path.exists());
    new.finish().unwrap().own();
    assert!(!path.exists());
}

/// Sockets that systemd names are the listener, whatever is configured; one without a name of ours goes by its address.
#[test]
fn systemd_says_where() {
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second, nameless) = (bind(), bind(), bind());
    let mut sockets = Sockets::default();
    inherit(&mut sockets, Origin::Passed, "main", &first);
    inherit(&mut sockets, Origin::Passed, "main", &second);
    inherit(&mut sockets, Origin::Passed, "relay.socket", &nameless);
    let configured = [ListenAddr::Tcp("[::]:443".parse().unwrap())];
    let addresses = sockets.addresses(Role::Main, &configured);
    let expected = [&first, &second].map(|l| Address::Tcp(l.local_addr().unwrap()));
    assert_eq!(addresses, expected);
    let http = [ListenAddr::Tcp(nameless.local_addr().unwrap())];
    assert_eq!(sockets.addresses(Role::Http, &http), [Address::from(&http[0])]);
    for address in expected {
        let Address::Tcp(address) = address else { panic!("{address}") };
        tcp(&mut sockets, Role::Main, &address.to_string()).unwrap();
    }
    let at = nameless.local_addr().unwrap().to_string();
    assert_eq!(tcp(&mut sockets, Role::Http, &at).unwrap().local_addr().unwrap(), nameless.local_addr().unwrap());
    sockets.finish().unwrap();
}

#[test]
fn what_systemd_passes_in_vain_is_an_error_and_what_it_stored_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut sockets = Sockets::default();
    inherit(&mut sockets, Origin::Passed, "web", &listener);
    let error = sockets.finish().unwrap_err().to_string();
    assert!(error.contains(&format!("TCP {at}, named \"web\"")) && error.contains("FileDescriptorName="), "{error}");

    let mut sockets = Sockets::default();
    inherit(&mut sockets, Origin::Stored, "http", &listener);
    assert_eq!(sockets.finish().unwrap().own(), [Role::Http], "the unit may have changed since");
}

#[test]
fn only_what_listens_can_be_given() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut sockets = Sockets::default();
    assert!(sockets.give(Role::Main, client.into()).is_err());
    assert!(sockets.give(Role::Main, UnixStream::pair().unwrap().0.into()).is_err());
    assert!(sockets.give(Role::Main, tempfile::tempfile().unwrap().into()).is_err());
}

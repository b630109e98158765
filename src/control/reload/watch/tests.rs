use std::os::unix::fs::symlink;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Tells each change of a file until it is dropped.
struct Watched {
    bell: Arc<Bell>,
    changes: mpsc::Receiver<Why>,
}

impl Watched {
    fn new(file: &Path) -> Self {
        let bell = Arc::new(Bell::new().unwrap());
        let (inner, file) = (Arc::clone(&bell), file.to_owned());
        let (tell, changes) = mpsc::channel();
        thread::spawn(move || {
            let mut watch = Watch::default();
            assert!(watch.follow(vec![file.clone()]));
            tell.send(Why::Asked).unwrap();
            loop {
                let why = watch.wait(&inner);
                watch.look();
                assert!(!watch.follow(vec![file.clone()]), "no other");
                if why == Why::End || tell.send(why).is_err() {
                    return;
                }
            }
        });
        changes.recv_timeout(PATIENCE).expect("it watches");
        Self { bell, changes }
    }

    #[track_caller]
    fn expect(&self, why: Why) {
        assert_eq!(self.changes.recv_timeout(PATIENCE), Ok(why));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.bell.end();
    }
}

#[test]
fn every_way_to_change_a_file_is_seen() {
    let dir = TempDir::new().unwrap();
    let (file, new) = (dir.path().join("file"), dir.path().join("new"));
    fs::write(&file, "1").unwrap();
    let watched = Watched::new(&file);
    fs::write(&file, "2").unwrap();
    watched.expect(Why::Changed);
    // As editors do.
    fs::write(&new, "2").unwrap();
    fs::rename(&new, &file).unwrap();
    watched.expect(Why::Changed);
    fs::remove_file(&file).unwrap();
    watched.expect(Why::Changed);
    fs::write(&file, "3").unwrap();
    watched.expect(Why::Changed);
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    watched.expect(Why::Changed);
    watched.bell.ring();
    watched.expect(Why::Asked);
}

/// Kubernetes: the name is a link through a link to a directory, and the second link is replaced.
#[test]
fn the_link_to_a_directory_may_be_replaced() {
    let dir = TempDir::new().unwrap();
    for version in ["..1", "..2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("tls.crt"), version).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/tls.crt", dir.path().join("tls.crt")).unwrap();
    let watched = Watched::new(&dir.path().join("tls.crt"));
    symlink("..2", dir.path().join("..tmp")).unwrap();
    fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
    watched.expect(Why::Changed);
    // And in the directory that it leads to.
    fs::write(dir.path().join("..2/tls.crt"), "changed").unwrap();
    watched.expect(Why::Changed);
}

/// certbot: live/NAME/fullchain.pem leads to archive/NAME/fullchainN.pem.
#[test]
fn a_link_may_lead_to_another_directory() {
    let dir = TempDir::new().unwrap();
    let (live, archive) = (dir.path().join("live"), dir.path().join("archive"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("1.pem"), "1").unwrap();
    symlink("../archive/1.pem", live.join("cert.pem")).unwrap();
    let watched = Watched::new(&live.join("cert.pem"));
    fs::write(archive.join("2.pem"), "2").unwrap();
    symlink("../archive/2.pem", live.join("new")).unwrap();
    fs::rename(live.join("new"), live.join("cert.pem")).unwrap();
    watched.expect(Why::Changed);
    fs::write(archive.join("2.pem"), "again").unwrap();
    watched.expect(Why::Changed);
}

#[test]
fn many_rings_are_one_while_nobody_listens() {
    let bell = Bell::new().unwrap();
    assert_eq!(bell.heard(), None);
    for _ in 0..1000 {
        bell.ring();
    }
    assert_eq!((bell.heard(), bell.heard()), (Some(Why::Asked), None));
    bell.ring();
    bell.end();
    assert_eq!(bell.heard(), Some(Why::End));
}

#[test]
fn what_is_seen_elsewhere_in_the_directory_is_not_ours() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "1").unwrap();
    let watched = Watched::new(&file);
    for n in 0..100 {
        fs::write(dir.path().join(format!("other-{n}")), "x").unwrap();
    }
    // The next thing that is told is the change of the file, and it is told once.
    watched.bell.ring();
    watched.expect(Why::Asked);
    assert_eq!(watched.changes.try_recv(), Err(mpsc::TryRecvError::Empty));
}

//! TLS connections that we open: whom we believe. It is whom Go programs believe on the same machine, so that a relay
//! in derper's place needs no other preparation of its host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs, io};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::limits;

/// The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM form", path.display())]
    Empty { path: PathBuf },
    #[error(
        "no certificate authority is trusted here: install ca-certificates, or name a PEM file in SSL_CERT_FILE or \
         directories of them in SSL_CERT_DIR"
    )]
    NoRoots,
    /// Ours.
    #[error("the TLS configuration failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// Trusts the system's roots, and with them those of one more file.
///
/// # Errors
/// There is nobody to trust, or that file cannot be used.
pub fn client_config(extra: Option<&Path>) -> Result<ClientConfig, OutgoingError> {
    let mut trusted = Places::of_this_process(|name| env::var_os(name)).read();
    if let Some(path) = extra {
        let pem = read(path).map_err(|source| OutgoingError::Read { path: path.to_owned(), source })?;
        let found = certificates(&pem);
        if found.is_empty() {
            return Err(OutgoingError::Empty { path: path.to_owned() });
        }
        trusted.extend(found);
    }
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that are past use; they are no reason to trust nobody.
    roots.add_parsable_certificates(trusted.into_iter().map(CertificateDer::from));
    if roots.is_empty() {
        return Err(OutgoingError::NoRoots);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Where roots are looked for.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    /// The first that can be read counts.
    files: Vec<PathBuf>,
    /// All of them count, beside the file.
    dirs: Vec<PathBuf>,
}

impl Places {
    /// Each variable replaces its own half only, and an empty one counts as absent.
    fn of_this_process(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        const FILES: [&str; 6] = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/pki/tls/cacert.pem",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
            "/etc/ssl/cert.pem",
        ];
        const DIRS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];
        let given = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            files: match given("SSL_CERT_FILE") {
                Some(file) => vec![file.into()],
                None => FILES.iter().map(PathBuf::from).collect(),
            },
            dirs: match given("SSL_CERT_DIR") {
                Some(dirs) => env::split_paths(&dirs).collect(),
                None => DIRS.iter().map(PathBuf::from).collect(),
            },
        }
    }

    /// Each certificate once, though most stand in the file and in a directory. What cannot be read is passed over.
    fn read(&self) -> BTreeSet<Vec<u8>> {
        let file = self.files.iter().find_map(|file| read(file).ok());
        let mut out: BTreeSet<_> = file.iter().flat_map(|pem| certificates(pem)).collect();
        for dir in &self.dirs {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for entry in entries.flatten().filter(|entry| !is_alias(entry)) {
                out.extend(read(&entry.path()).iter().flat_map(|pem| certificates(pem)));
            }
        }
        out
    }
}

/// Names by hash are links to files of the same directory.
fn is_alias(entry: &fs::DirEntry) -> bool {
    let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
    link && fs::read_link(entry.path()).is_ok_and(|target| !target.as_os_str().as_bytes().contains(&b'/'))
}

/// A file and no pipe, of a size that makes sense.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.len() > limits::ROOTS_FILE_MAX {
        return Err(io::Error::other(format!("it is not a file of at most {} bytes", limits::ROOTS_FILE_MAX)));
    }
    fs::read(path)
}

/// What is no certificate is passed over.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem).filter_map(|found| found.ok().map(|der| der.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn each_variable_replaces_its_own_half() {
        let places = |file: &str, dir: &str| {
            let (file, dir) = (file.to_owned(), dir.to_owned());
            Places::of_this_process(move |name| match name {
                "SSL_CERT_FILE" => Some(file.clone().into()),
                "SSL_CERT_DIR" => Some(dir.clone().into()),
                _ => None,
            })
        };
        let usual = Places::of_this_process(|_| None);
        assert_eq!((usual.files.len(), usual.dirs.len()), (6, 2));
        assert_eq!(places("", ""), usual);
        assert_eq!(places("/f", ""), Places { files: vec!["/f".into()], dirs: Places::of_this_process(|_| None).dirs });
        let dirs = vec!["/a".into(), "/b".into()];
        assert_eq!(places("", "/a:/b"), Places { files: usual.files, dirs });
    }

    #[test]
    fn the_first_file_counts_and_every_directory() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        let pem = |names: &[&str]| names.iter().map(|name| made(name)).collect::<String>();
        fs::write(at("first.pem"), pem(&["a", "b"])).unwrap();
        fs::write(at("second.pem"), pem(&["c"])).unwrap();
        for name in ["one", "two"] {
            fs::create_dir(at(name)).unwrap();
        }
        // A directory is read whatever its files are called. What is not PEM, or not a file, is passed over.
        fs::write(at("one/anything"), pem(&["d"]) + "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
            .unwrap();
        fs::write(at("one/noise"), [0xff; 100]).unwrap();
        fs::create_dir(at("one/deeper")).unwrap();
        symlink("anything", at("one/0123abcd.0")).unwrap();
        symlink("/nowhere", at("one/dangling")).unwrap();
        symlink(at("second.pem"), at("two/elsewhere.pem")).unwrap();
        let found = |files: &[&str], dirs: &[&str]| {
            let places = |names: &[&str]| names.iter().map(|name| at(name)).collect();
            Places { files: places(files), dirs: places(dirs) }.read().len()
        };
        assert_eq!(found(&["absent.pem", "first.pem", "second.pem"], &[]), 2);
        assert_eq!(found(&[], &["one", "two", "absent"]), 2);
        assert_eq!(found(&["first.pem"], &["one", "two"]), 4);
        assert_eq!(found(&["one"], &[]), 0);
    }

    #[test]
    fn a_file_that_is_named_must_be_of_use() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ca.pem");
        let error = || client_config(Some(&path)).unwrap_err().to_string();
        assert!(error().starts_with("cannot read ") && error().contains("ca.pem"), "{}", error());
        fs::write(&path, "nothing").unwrap();
        assert!(error().ends_with("ca.pem holds no certificate in PEM form"), "{}", error());
        fs::write(&path, made("authority.example")).unwrap();
        client_config(Some(&path)).unwrap();
    }

    /// A new certificate each time.
    fn made(name: &str) -> String {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap().cert.pem()
    }
}

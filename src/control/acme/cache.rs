//! The cache folder, in derper's layout: a relay can take over from derper, and derper from a relay, without a new
//! certificate or account. For names that is autocert's: `<name>` holds the key and the chain behind it,
//! `acme_account+key` the account's key. For addresses `<ip>.crt` and `.key`, with dots for colons.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pace::Life;
use super::subject::Name;
use crate::config::AcmeConfig;
use crate::limits;
use crate::tls::identity::{P256, is_for};

/// The operator's to mend; the relay goes on without the folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is of no use: {problem}", path.display())]
    Useless { path: PathBuf, problem: String },
}

/// A certificate that can be presented.
#[derive(Debug)]
pub(super) struct Pair {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub life: Life,
}

impl Pair {
    /// # Errors
    /// Why it cannot be presented for `name` at this time. That the key fits is checked where it is put to use.
    pub fn parse(key: &[u8], chain: &[u8], name: &Name, now: SystemTime) -> Result<Self, String> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("it holds no private key: {e}"))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|e| format!("it holds no certificate: {e}"))?;
        let leaf = chain.first().ok_or("it holds no certificate")?;
        is_for(leaf, &name.to_string()).map_err(|why| format!("its certificate is not one for {name}: {why}"))?;
        let life = life(leaf)?;
        if now < life.begin {
            return Err("its certificate is not valid yet".to_owned());
        }
        if now > life.end {
            return Err("its certificate has expired".to_owned());
        }
        Ok(Self { chain, key, life })
    }
}

fn life(leaf: &CertificateDer<'_>) -> Result<Life, String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| format!("its certificate cannot be read: {e}"))?;
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    Ok(Life { begin: at(validity.not_before.timestamp()), end: at(validity.not_after.timestamp()) })
}

pub(super) struct Cache {
    dir: PathBuf,
    /// Where a new account's key goes: derper has one for names and one for addresses.
    account: &'static str,
}

/// Looked for in this order: the second is what old releases of autocert wrote.
const ACCOUNTS: [&str; 3] = ["acme_account+key", "acme_account.key", "acme-account.key"];

impl Cache {
    pub fn new(config: &AcmeConfig) -> Self {
        Self { dir: config.dir.clone(), account: if config.hostnames.is_empty() { ACCOUNTS[2] } else { ACCOUNTS[0] } }
    }

    /// `None`: there is none.
    pub fn load(&self, name: &Name, now: SystemTime) -> Result<Option<Pair>, CacheError> {
        let (key_path, chain_path) = self.paths(name);
        let Some(key) = read(&key_path)? else { return Ok(None) };
        let Some(chain) = read(&chain_path)? else { return Ok(None) };
        match Pair::parse(&key, &chain, name, now) {
            Ok(pair) => Ok(Some(pair)),
            Err(problem) => Err(CacheError::Useless { path: chain_path, problem }),
        }
    }

    pub fn store(&self, name: &Name, key: &str, chain: &str) -> Result<(), CacheError> {
        let (key_path, chain_path) = self.paths(name);
        if key_path == chain_path {
            return self.write(&key_path, &[key, chain].concat(), 0o600);
        }
        self.write(&key_path, key, 0o600)?;
        self.write(&chain_path, chain, 0o644)
    }

    /// `None`: there is no account yet.
    pub fn account(&self) -> Result<Option<P256>, CacheError> {
        for name in ACCOUNTS {
            let path = self.dir.join(name);
            let Some(pem) = read(&path)? else { continue };
            let useless = |problem: String| CacheError::Useless { path: path.clone(), problem };
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| useless(e.to_string()))?;
            let key = P256::parse(key.secret_der());
            return key.map(Some).ok_or_else(|| useless("the account's key must be an ECDSA key on P-256".to_owned()));
        }
        Ok(None)
    }

    /// The key that was there is kept beside it: another authority may know it.
    pub fn store_account(&self, key: &P256) -> Result<(), CacheError> {
        let path = self.dir.join(self.account);
        if path.exists() {
            let aside = path.with_file_name(format!("{}.old", self.account));
            fs::rename(&path, &aside).map_err(|source| CacheError::Write { path: aside, source })?;
        }
        let failed = |e: crate::tls::identity::IdentityError| CacheError::Write {
            path: path.clone(),
            source: io::Error::other(e.to_string()),
        };
        self.write(&path, &key.pem().map_err(failed)?, 0o600)
    }

    fn paths(&self, name: &Name) -> (PathBuf, PathBuf) {
        match name {
            Name::Dns(name) => (self.dir.join(name), self.dir.join(name)),
            Name::Address(ip) => {
                let base = ip.to_string().replace(':', ".");
                (self.dir.join(format!("{base}.key")), self.dir.join(format!("{base}.crt")))
            }
        }
    }

    /// All of it or nothing: whoever reads, or starts after a crash, finds the old content or the new one.
    fn write(&self, path: &Path, content: &str, mode: u32) -> Result<(), CacheError> {
        let mut number = [0; 8];
        // Even without randomness, `create_new` keeps two writers apart.
        let _ = getrandom::fill(&mut number);
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{:016x}.tmp", u64::from_ne_bytes(number)));
        let written = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            fs::rename(&unfinished, path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(|source| {
            let _ = fs::remove_file(&unfinished);
            CacheError::Write { path: path.to_owned(), source }
        })
    }
}

/// `None`: it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, CacheError> {
    let failed = |source| CacheError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() || meta.len() > limits::CERTIFICATE_FILE_MAX => {
            Err(failed(io::Error::other(format!("it is not a file of at most {} bytes", limits::CERTIFICATE_FILE_MAX))))
        }
        Ok(_) => fs::read(path).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn what_was_stored_is_found_again_and_only_while_it_is_of_use() {
        let dir = TempDir::new().unwrap();
        let at = dir.path().join("deeper/certs");
        let cache = cache(&at);
        let now = SystemTime::now();
        for (name, files) in [
            (Name::Dns("relay.example".into()), &["relay.example"][..]),
            (Name::Address("2001:db8::1".parse().unwrap()), &["2001.db8..1.key", "2001.db8..1.crt"]),
        ] {
            assert!(cache.load(&name, now).unwrap().is_none());
            let (key, chain) = made(&name.to_string());
            cache.store(&name, &key, &chain).unwrap();
            let mode = |file| fs::metadata(at.join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(files[0]), 0o600, "the key");
            let pair = cache.load(&name, now).unwrap().unwrap();
            assert!(pair.life.begin <= now && now <= pair.life.end);

            let text = cache.load(&name, pair.life.end + Duration::from_secs(1)).unwrap_err().to_string();
            assert!(text.ends_with("its certificate has expired"), "{text}");
            let text = cache.load(&name, pair.life.begin - Duration::from_secs(1)).unwrap_err().to_string();
            assert!(text.ends_with("its certificate is not valid yet"), "{text}");
        }
        let left = fs::read_dir(&at).unwrap().count();
        assert_eq!(left, 3, "no unfinished files stay");
    }

    #[test]
    fn what_is_of_no_use_is_named() {
        let dir = TempDir::new().unwrap();
        let cache = cache(dir.path());
        let name = Name::Dns("relay.example".into());
        let text = || cache.load(&name, SystemTime::now()).unwrap_err().to_string();
        fs::write(dir.path().join("relay.example"), "noise").unwrap();
        assert!(text().contains("relay.example is of no use: it holds no private key"), "{}", text());
        let (key, chain) = made("other.example");
        fs::write(dir.path().join("relay.example"), &key).unwrap();
        assert!(text().ends_with("it holds no certificate"), "{}", text());
        fs::write(dir.path().join("relay.example"), key + &chain).unwrap();
        assert!(text().contains("its certificate is not one for relay.example"), "{}", text());
        fs::remove_file(dir.path().join("relay.example")).unwrap();
        fs::create_dir(dir.path().join("relay.example")).unwrap();
        assert!(text().contains("it is not a file"), "{}", text());
    }

    #[test]
    fn accounts_are_found_under_all_their_names_and_never_lost() {
        let dir = TempDir::new().unwrap();
        let cache = cache(dir.path());
        assert!(cache.account().unwrap().is_none());
        let pems: Vec<_> = (0..4).map(|_| P256::generate().unwrap().pem().unwrap()).collect();
        let found = || cache.account().unwrap().unwrap().pem().unwrap();
        fs::write(dir.path().join("acme-account.key"), &pems[0]).unwrap();
        assert_eq!(found(), pems[0]);
        fs::write(dir.path().join("acme_account.key"), &pems[1]).unwrap();
        assert_eq!(found(), pems[1]);
        fs::write(dir.path().join("acme_account+key"), &pems[2]).unwrap();
        assert_eq!(found(), pems[2]);
        let new = P256::generate().unwrap();
        cache.store_account(&new).unwrap();
        assert_eq!(found(), new.pem().unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("acme_account+key.old")).unwrap(), pems[2]);
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        fs::write(dir.path().join("acme_account+key"), other).unwrap();
        let text = cache.account().err().unwrap().to_string();
        assert!(text.ends_with("the account's key must be an ECDSA key on P-256"), "{text}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_and_nothing_else() {
        // Not even for root: a file stands where the folder should be, and the kernel's own folder takes no files.
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for at in [dir.path().join("file"), "/proc/self/fd".into()] {
            let text = cache(&at).store(&Name::Dns("a.example".into()), "", "").unwrap_err().to_string();
            assert!(text.starts_with("cannot write ") && text.contains("a.example: "), "{text}");
            assert!(cache(&at).store_account(&P256::generate().unwrap()).is_err());
        }
    }

    fn cache(dir: &Path) -> Cache {
        Cache { dir: dir.to_owned(), account: ACCOUNTS[0] }
    }

    fn made(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.signing_key.serialize_pem(), made.cert.pem())
    }
}

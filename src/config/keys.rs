//! Secrets on disk: the relay's key in derper's JSON form, and the mesh key.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::MeshKey;
use crate::proto::key::{NodeKey, parse_hex32, to_hex};

/// Reads the key in `path`, and makes it when there is no such file.
///
/// # Errors
/// A file that is there and cannot be used is never overwritten: whoever lost a relay's key must decide that.
pub fn load_or_create(path: &Path) -> Result<PrivateKey, KeyError> {
    match load(path) {
        Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => create(path),
        other => other,
    }
}

/// Reads the key in `path`.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn load(path: &Path) -> Result<PrivateKey, KeyError> {
    parse(path, &read(path)?)
}

/// A new key from the system's randomness.
///
/// # Errors
/// When the system has none.
pub fn generate() -> Result<PrivateKey, KeyError> {
    let mut key = random()?;
    key[0] &= 248;
    key[31] = (key[31] & 127) | 64;
    Ok(PrivateKey(key))
}

/// Reads a mesh key: 64 hex characters, white space around them ignored.
///
/// # Errors
/// When the file cannot be read or holds anything else.
pub fn load_mesh_key(path: &Path) -> Result<MeshKey, KeyError> {
    parse_mesh_key(&read(path)?).ok_or_else(|| KeyError::MeshKey { path: path.to_owned() })
}

/// A new mesh key.
///
/// # Errors
/// When the system has no randomness.
pub fn generate_mesh_key() -> Result<MeshKey, KeyError> {
    random().map(MeshKey)
}

/// The text form of a mesh key.
pub(super) fn parse_mesh_key(text: &str) -> Option<MeshKey> {
    parse_hex32(text.trim()).map(MeshKey)
}

/// The relay's private key (X25519, clamped).
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// For sealing and opening boxes.
    pub fn to_secret(&self) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from_bytes(self.0)
    }

    /// The key that clients know the relay by.
    pub fn public(&self) -> NodeKey {
        NodeKey(*self.to_secret().public_key().as_bytes())
    }
}

/// Never prints the secret.
impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// What can go wrong with a key: the operator's to mend, unless the system has no randomness.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read the key file {}: {source}; give one that this user may read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the key file {}: {source}; give a path that this user may write", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Says where, never what: the file holds a secret.
    #[error(
        "the key file {} is not usable: {problem}; restore it from a backup, or move it away and a new key is made",
        path.display()
    )]
    Content { path: PathBuf, problem: String },
    #[error(
        "the mesh key file {} must hold exactly 64 hex characters; `derpring key mesh` prints a new mesh key",
        path.display()
    )]
    MeshKey { path: PathBuf },
    #[error("the system gives no randomness: {0}")]
    Randomness(getrandom::Error),
}

/// derper's file. Other members are ignored.
#[derive(serde::Deserialize)]
struct KeyFile {
    #[serde(rename = "PrivateKey")]
    private_key: Option<String>,
}

fn parse(path: &Path, text: &str) -> Result<PrivateKey, KeyError> {
    let refuse = |problem: String| KeyError::Content { path: path.to_owned(), problem };
    // The parser's own words may quote the secret.
    let file: KeyFile = serde_json::from_str(text)
        .map_err(|e| refuse(format!("not a JSON object with a string PrivateKey (line {})", e.line())))?;
    let text = file.private_key.ok_or_else(|| refuse("the member PrivateKey is missing".into()))?;
    let key = text.strip_prefix("privkey:").and_then(parse_hex32);
    let key = key.ok_or_else(|| refuse("PrivateKey is not `privkey:` and 64 hex characters".into()))?;
    if key == [0; 32] {
        return Err(refuse("PrivateKey is zero".into()));
    }
    Ok(PrivateKey(key))
}

fn create(path: &Path) -> Result<PrivateKey, KeyError> {
    let key = generate()?;
    let text = format!("{{\n\t\"PrivateKey\": \"privkey:{}\"\n}}", to_hex(&key.0));
    match write_new(path, text.as_bytes()) {
        Ok(()) => Ok(key),
        // Somebody was faster, and theirs is the relay's key now.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(source) => Err(KeyError::Write { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<String, KeyError> {
    fs::read_to_string(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

/// Puts a file in its place whole or not at all, and only where there is none: a crash leaves no half-written key, a
/// second relay that starts at the same time overwrites nothing. The disk is waited for once, for the file, and not for
/// the directory: if the power goes in the next seconds the relay begins again with another key, which no client keeps.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir)?;
    let mut tag = [0; 8];
    getrandom::fill(&mut tag).map_err(io::Error::other)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temp = dir.join(format!(".{name}.{}.tmp", to_hex(&tag)));
    let written = write_temp(&temp, content).and_then(|()| rename_new(&temp, path));
    if written.is_err() {
        // What went wrong before matters more than a left-over.
        let _ = fs::remove_file(&temp);
    }
    written
}

fn write_temp(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag: the check before is the best there is.
        Err(Errno::INVAL | Errno::NOSYS) if !to.exists() => fs::rename(from, to),
        other => Ok(other?),
    }
}

fn random() -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(KeyError::Randomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn an_absent_file_is_made_and_then_read_back() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a/b/derper.key");
        let made = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap(), made);
        assert_eq!(made.as_bytes()[0] & 7, 0);
        assert_eq!(made.as_bytes()[31] & 0xc0, 0x40);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{{\n\t\"PrivateKey\": \"privkey:{}\"\n}}", to_hex(made.as_bytes())));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn the_public_key_is_that_of_the_known_answer() {
        // RFC 7748, 6.1.
        let private = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, format!("{{\"Other\": [1], \"PrivateKey\": \"privkey:{private}\"}}")).unwrap();
        assert_eq!(load(&path).unwrap().public().to_hex(), public);
    }

    #[test]
    fn a_bad_file_is_named_kept_and_never_quoted() {
        let dir = TempDir::new().unwrap();
        let secret = "5".repeat(63);
        for (content, problem) in [
            (String::new(), "not a JSON object"),
            (format!("\"privkey:{secret}\""), "not a JSON object"),
            ("{}".into(), "PrivateKey is missing"),
            ("{\"PrivateKey\": 5}".into(), "not a JSON object"),
            (format!("{{\"PrivateKey\": \"privkey:{secret}\"}}"), "64 hex"),
            (format!("{{\"PrivateKey\": \"nodekey:5{secret}\"}}"), "64 hex"),
            (format!("{{\"PrivateKey\": \"privkey:{}\"}}", "0".repeat(64)), "zero"),
        ] {
            let path = dir.path().join("bad.key");
            fs::write(&path, &content).unwrap();
            let text = load_or_create(&path).unwrap_err().to_string();
            assert!(text.contains(problem) && text.contains("bad.key") && text.contains("move it away"), "{text}");
            assert!(!text.contains(&secret), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let text = load_or_create(&dir.path().join("")).unwrap_err().to_string();
        assert!(text.contains("cannot read"), "{text}");
    }

    #[test]
    fn a_mesh_key_is_trimmed_and_must_be_whole() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("mesh");
        fs::write(&path, format!("\n {} \n", "Ab".repeat(32))).unwrap();
        assert_eq!(load_mesh_key(&path).unwrap(), MeshKey([0xab; 32]));
        for wrong in ["", "ab", &"ab".repeat(33), &"zz".repeat(32)] {
            fs::write(&path, wrong).unwrap();
            assert!(load_mesh_key(&path).unwrap_err().to_string().contains("64 hex"));
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let key = generate().unwrap();
        assert!(!format!("{key:?}").contains(&to_hex(key.as_bytes())));
        assert_eq!(format!("{:?}", MeshKey([7; 32])), "MeshKey(..)");
    }
}

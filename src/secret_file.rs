//! Files that only we may read: keys.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::call::Fault;

/// Reads a secret, or makes and keeps one (mode 0600, durable before it is used).
///
/// # Errors
/// [`Fault`] when it cannot be read or kept, or others may read it.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> Result<Vec<u8>, Fault>) -> Result<Vec<u8>, Fault> {
    match read(path)? {
        Some(secret) => Ok(secret),
        None => {
            write_new(path, &make()?)?;
            // another process may have been first: what is on disk counts
            read(path)?.ok_or_else(|| Fault(format!("`{}` vanished while it was made", path.display())))
        }
    }
}

/// Keeps a folder of our own to ourselves, also one that was made by somebody less careful.
///
/// # Errors
/// [`Fault`] when it cannot be made, or is not ours.
pub fn own_folder(path: &Path) -> Result<(), Fault> {
    private_folder(path)?;
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be kept to ourselves: {error}", path.display()));
    let mode = fs::metadata(path).map_err(fault)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(fault)
}

/// Makes a folder that only we may enter, with its parents.
///
/// # Errors
/// [`Fault`] when it cannot be made.
pub fn private_folder(path: &Path) -> Result<(), Fault> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Fault(format!("`{}` cannot be made: {error}", path.display())))
}

/// The secret, or `None` when there is none.
///
/// # Errors
/// [`Fault`] when it cannot be read, or others may read it.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    read_kept_from(path, 0o077, "600")
}

/// The same for a secret that others made and keep, such as the key of a certificate: its group may read it too.
///
/// # Errors
/// [`Fault`] when it cannot be read, or more than its group may read it.
pub fn read_beside_group(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    read_kept_from(path, 0o037, "640")
}

fn read_kept_from(path: &Path, others: u32, better: &str) -> Result<Option<Vec<u8>>, Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be read: {error}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error)),
    };
    let mode = file.metadata().map_err(fault)?.permissions().mode();
    if mode & others != 0 {
        return Err(Fault(format!("`{0}` can be read by others; run `chmod {better} {0}`", path.display())));
    }
    let mut secret = Vec::new();
    file.take(64 << 10).read_to_end(&mut secret).map_err(fault)?;
    Ok(Some(secret))
}

/// Keeps a secret (mode 0600) in place of what was there; durable when it returns, and never half of it on disk.
///
/// # Errors
/// [`Fault`] when it cannot be kept. What was there is then still there, or the new secret whole.
pub fn replace(path: &Path, secret: &[u8]) -> Result<(), Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", path.display()));
    let temporary = stage(path, secret)?;
    fs::rename(&temporary, path).map_err(fault)?;
    settle(path)
}

/// Takes a secret away; durable when it returns. That there is none is no fault.
///
/// # Errors
/// [`Fault`] when it cannot be taken away.
pub fn remove(path: &Path) -> Result<(), Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be removed: {error}", path.display()));
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(fault)?,
    }
    settle(path)
}

fn write_new(path: &Path, secret: &[u8]) -> Result<(), Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", path.display()));
    let temporary = stage(path, secret)?;
    // linking instead of renaming keeps a secret that another process made in between
    match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(fault(error)),
        _ => {}
    }
    fs::remove_file(&temporary).map_err(fault)?;
    settle(path)
}

/// Writes the secret durably beside where it belongs.
fn stage(path: &Path, secret: &[u8]) -> Result<PathBuf, Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", path.display()));
    let folder = folder_of(path);
    private_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    // what an interrupted run left may have another mode, or be a link to somewhere else: it is not written to
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(fault)?;
    file.write_all(secret).and_then(|()| file.sync_all()).map_err(fault)?;
    Ok(temporary)
}

/// Makes what changed in the folder durable.
fn settle(path: &Path) -> Result<(), Fault> {
    let fault = |error: std::io::Error| Fault(format!("`{}` is not durable: {error}", path.display()));
    File::open(folder_of(path)).and_then(|folder| folder.sync_all()).map_err(fault)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept_to_ourselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/key");
        let first = read_or_make(&path, || Ok(b"one".to_vec())).unwrap();
        let second = read_or_make(&path, || Ok(b"two".to_vec())).unwrap();
        assert_eq!((first.as_slice(), second.as_slice()), (b"one".as_slice(), b"one".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_or_make(&path, || Ok(Vec::new())).unwrap_err().0.contains("chmod 600"));
    }

    #[test]
    fn a_secret_that_others_made_may_be_its_groups_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(read_beside_group(&path).unwrap(), None);
        fs::write(&path, "k").unwrap();
        for (mode, fine) in [(0o600, true), (0o440, true), (0o640, true), (0o660, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_beside_group(&path).is_ok(), fine, "{mode:o}");
        }
    }

    #[test]
    fn a_secret_is_not_written_through_what_lies_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("key"), folder.path().join("elsewhere"));
        fs::write(&elsewhere, "theirs").unwrap();
        let temporary = folder.path().join(format!(".key.{}", std::process::id()));
        std::os::unix::fs::symlink(&elsewhere, &temporary).unwrap();
        assert_eq!(read_or_make(&path, || Ok(b"ours".to_vec())).unwrap(), b"ours");
        assert_eq!(fs::read(&elsewhere).unwrap(), b"theirs");
        assert!(!temporary.exists());
    }

    #[test]
    fn a_secret_is_replaced_whole_and_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        replace(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_of_ours_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        own_folder(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

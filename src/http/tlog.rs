//! The log as C2SP tlog-tiles has it: plain files below `<data>/tlog`, and nothing else.

use std::path::Path;

use bytes::Bytes;

/// No file of the log is larger: an entry bundle has 256 entries of at most 64 KiB.
const LARGEST: u64 = 17 << 20;

pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) content_type: &'static str,
    pub(super) cache: &'static str,
}

/// Reads one file of the log; `None` for anything that is none.
pub(super) async fn read(folder: &Path, path: &str) -> Option<Found> {
    let (content_type, cache) = kind(path)?;
    let file = folder.join(path);
    let metadata = tokio::fs::symlink_metadata(&file).await.ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    let bytes = tokio::fs::read(&file).await.ok()?.into();
    Some(Found { bytes, content_type, cache })
}

/// What a path is, if it names a file that a log has: `checkpoint`, or digits below `tile/` (C2SP tlog-tiles:
/// `tile/<L>/<N>[.p/<W>]`, `tile/entries/<N>[.p/<W>]`, `N` in groups of three as `x001/x234/067`).
fn kind(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "checkpoint" => return Some(("text/plain; charset=utf-8", "no-cache")),
        // the key that checkpoints verify with, as a signed-note verifier key
        "ledger.pub" => return Some(("text/plain; charset=utf-8", "no-cache")),
        _ => {}
    }
    let mut parts = path.strip_prefix("tile/")?.split('/');
    let level = parts.next()?;
    let digits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if level != "entries" && !digits(level, 2) {
        return None;
    }
    let mut whole = false;
    let mut partial = false;
    for part in parts.by_ref() {
        match part.strip_prefix('x') {
            Some(group) if digits(group, 3) && group.len() == 3 => continue,
            Some(_) => return None,
            None => {}
        }
        partial = part.ends_with(".p");
        whole = part.strip_suffix(".p").unwrap_or(part).len() == 3 && digits(part.trim_end_matches(".p"), 3);
        break;
    }
    let width = parts.next();
    let fits = match (partial, width) {
        (true, Some(width)) => digits(width, 3),
        (false, None) => true,
        _ => false,
    };
    // a tile never changes: a fuller one has another name
    (whole && fits && parts.next().is_none())
        .then_some(("application/octet-stream", "public, max-age=31536000, immutable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_log_has_are_files() {
        for path in [
            "checkpoint",
            "ledger.pub",
            "tile/0/000",
            "tile/0/x001/x234/067",
            "tile/entries/000.p/17",
            "tile/1/x001/067.p/255",
            "tile/63/000",
        ] {
            assert!(kind(path).is_some(), "{path}");
        }
        for path in [
            "",
            "/",
            "..",
            "../secret",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "tile/0/../../key",
            "tile/x/000",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x01/000",
            "tile/0/000/1",
            "tile/0/000.p",
            "tile/0/000.p/",
            "tile/0/000.p/1/2",
            "tile/0/%2e%2e",
            "tile//000",
            "checkpoint/",
            "tile/0/x001",
            "tile/000/000",
            "tile/entries/..",
            "ledger.key",
            "key",
            "tile/0/000\0",
            "tile/0/٠٠٠",
            "tile/0/000.p.p/1",
        ] {
            assert!(kind(path).is_none(), "{path}");
        }
    }

    #[tokio::test]
    async fn files_are_read_and_links_are_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("tile/0")).unwrap();
        std::fs::write(folder.path().join("tile/0/000"), [1, 2, 3]).unwrap();
        std::fs::write(folder.path().join("secret"), "hunter2").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("tile/0/001")).unwrap();
        let found = read(folder.path(), "tile/0/000").await.unwrap();
        assert_eq!((&found.bytes[..], found.content_type), (&[1, 2, 3][..], "application/octet-stream"));
        assert!(read(folder.path(), "tile/0/001").await.is_none());
        assert!(read(folder.path(), "tile/0/002").await.is_none());
        assert!(read(folder.path(), "checkpoint").await.is_none());
    }
}

//! Secrets that were given us, read when they are needed.

use zeroize::Zeroizing;

use crate::{call::Fault, config::Secret, secret_file};

/// The secret; of one in a file, what the file has now, but for the line's end.
///
/// # Errors
/// [`Fault`] when the file is not there, more than its group may read it, or it holds no secret.
pub(super) async fn reveal(secret: Secret) -> Result<Zeroizing<String>, Fault> {
    let path = match secret {
        Secret::Given(text) => return Ok(text),
        Secret::File(path) => path,
    };
    let read = tokio::task::spawn_blocking(move || {
        let none = |why: &str| Fault(format!("`{}` {why}", path.display()));
        let bytes =
            secret_file::read_beside_group(&path)?.ok_or_else(|| none("is not there: put the secret into it"))?;
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).map_err(|_| none("holds no text"))?.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(none("is empty, or has control characters in it"));
        }
        Ok(Zeroizing::new(text.to_owned()))
    });
    read.await.map_err(|_| Fault("reading a secret was cut short".to_owned()))?
}

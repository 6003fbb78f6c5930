//! Changing `countersign.toml` without touching what is not meant: comments, order and layout stay.

use std::{io::Write, path::Path};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, value};

use crate::contract::UpstreamName;

/// An upstream to be written into the file, as its text will stand there: `${VAR}` is left for reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Program and arguments; empty when there is a `url`.
    pub command: Vec<String>,
    /// Variables for the program.
    pub env: Vec<(String, String)>,
    /// Its working folder.
    pub cwd: Option<String>,
    /// The MCP endpoint.
    pub url: Option<String>,
    /// Headers for it.
    pub headers: Vec<(String, String)>,
    /// Plain http to another machine is meant.
    pub allow_http: bool,
}

/// Why a file cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotEdited {
    /// It is not TOML.
    NotToml(String),
    /// There is an upstream of that name.
    Exists(UpstreamName),
    /// There is none.
    Absent(UpstreamName),
}

impl std::fmt::Display for NotEdited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotToml(problem) => write!(f, "the file is not TOML: {problem}"),
            Self::Exists(name) => write!(f, "there is an upstream `{name}` already"),
            Self::Absent(name) => write!(f, "there is no upstream `{name}`"),
        }
    }
}

impl std::error::Error for NotEdited {}

/// The text with one more upstream.
///
/// # Errors
/// [`NotEdited::NotToml`], [`NotEdited::Exists`].
pub fn add(text: &str, name: &UpstreamName, entry: &Entry) -> Result<String, NotEdited> {
    let mut document = document(text)?;
    let upstreams = document.entry("upstreams").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let upstreams =
        upstreams.as_table_like_mut().ok_or_else(|| NotEdited::NotToml("`upstreams` is not a table".to_owned()))?;
    if upstreams.contains_key(name.as_str()) {
        return Err(NotEdited::Exists(name.clone()));
    }
    let mut table = Table::new();
    if !entry.command.is_empty() {
        table.insert("command", value(entry.command.iter().map(String::as_str).collect::<Array>()));
    }
    if let Some(url) = &entry.url {
        table.insert("url", value(url.as_str()));
    }
    if entry.allow_http {
        table.insert("allow_http", value(true));
    }
    if let Some(cwd) = &entry.cwd {
        table.insert("cwd", value(cwd.as_str()));
    }
    for (key, pairs) in [("env", &entry.env), ("headers", &entry.headers)] {
        if !pairs.is_empty() {
            let pairs = pairs.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            table.insert(key, value(pairs.collect::<InlineTable>()));
        }
    }
    table.decor_mut().set_prefix("\n");
    upstreams.insert(name.as_str(), Item::Table(table));
    Ok(document.to_string())
}

/// The text without that upstream.
///
/// # Errors
/// [`NotEdited::NotToml`], [`NotEdited::Absent`].
pub fn remove(text: &str, name: &UpstreamName) -> Result<String, NotEdited> {
    let mut document = document(text)?;
    let upstreams = document.get_mut("upstreams").and_then(Item::as_table_like_mut);
    match upstreams.and_then(|upstreams| upstreams.remove(name.as_str())) {
        Some(_) => Ok(document.to_string()),
        None => Err(NotEdited::Absent(name.clone())),
    }
}

/// Text in which no variable is meant, as it has to stand in the file.
pub fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// Replaces the file whole: a new one beside it, renamed over it, with the old one's permissions (0600 for a new one).
///
/// # Errors
/// The file system's.
pub fn save(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    // a link is followed, so that the file it leads to is the one that changes
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = std::fs::metadata(&path).map_or(0o600, |old| old.permissions().mode() & 0o7777);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let written =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh).and_then(|mut file| {
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        });
    if written.is_err() {
        // the error of writing is the one worth telling
        let _leftover = std::fs::remove_file(&fresh);
    }
    written
}

fn document(text: &str) -> Result<DocumentMut, NotEdited> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        NotEdited::NotToml(error.message().lines().next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# our house\n[server]\nlisten = \"127.0.0.1:7400\" # agents\n\n[upstreams.files]\n# the \
                        papers\ncommand = [\"files\"]\n\n[ledger]\nreads = \"batched\"\n";

    #[test]
    fn adding_and_removing_keeps_comments_and_order() {
        let crm = UpstreamName::new("crm").unwrap();
        let entry = Entry {
            url: Some("https://crm.example.com/mcp".to_owned()),
            headers: vec![("Authorization".to_owned(), "Bearer ${CRM}".to_owned())],
            ..Entry::default()
        };
        let added = add(FILE, &crm, &entry).unwrap();
        for line in FILE.lines() {
            assert!(added.contains(line), "{line} is gone from\n{added}");
        }
        assert!(added.contains("[upstreams.crm]\nurl = \"https://crm.example.com/mcp\"\n"), "{added}");
        assert!(added.contains("headers = { Authorization = \"Bearer ${CRM}\" }"), "{added}");
        assert_eq!(add(&added, &crm, &entry), Err(NotEdited::Exists(crm.clone())));
        assert_eq!(remove(&added, &crm).unwrap(), FILE);
        assert_eq!(remove(FILE, &crm), Err(NotEdited::Absent(crm)));
    }

    #[test]
    fn a_file_without_upstreams_gets_its_first() {
        let name = UpstreamName::new("bank").unwrap();
        let entry = Entry { command: vec!["bank".to_owned(), "it's \"so\"".to_owned()], ..Entry::default() };
        let text = add("", &name, &entry).unwrap();
        assert!(text.contains("[upstreams.bank]"), "{text}");
        assert!(!text.contains("[upstreams]"), "{text}");
        assert!(add("[", &name, &entry).is_err());
        assert!(add("upstreams = 3", &name, &entry).is_err());
    }

    #[test]
    fn saving_keeps_the_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("countersign.toml");
        save(&path, "a = 1\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        save(&path, "a = 2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a = 2\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

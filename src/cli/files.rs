//! Commands that write the operator's files: `init`, `upstream add|remove|import`.

use std::{fs, path::Path};

use serde_json::json;

use super::{
    Place,
    outcome::{Exit, Failure},
    request::nearest,
    short,
};
use crate::{
    clock::random,
    config::{
        self, Config,
        edit::{self, Entry, NotEdited},
        import::{self, Imported},
    },
    contract::UpstreamName,
    display::visible,
};

/// The file that `init` writes; `LOG` stands for the log's name.
const FRESH: &str = "\
# Countersign. Every key: docs/configuration.md. `countersign check` reads this file, the contracts and the grants.

[server]
# the agents' door: MCP at http://127.0.0.1:7400/mcp
listen = \"127.0.0.1:7400\"

[console]
# health, metrics and the published log
listen = \"127.0.0.1:7401\"

[ledger]
# the log's name in its checkpoints; it stays as it is once there are entries
origin = \"countersign.local/LOG\"
";

/// The grants that `init` writes: nothing is granted.
const NO_GRANTS: &str = "\
// Who may do what. Nothing is granted until it is written here; `countersign check` reads every file of this folder.
//
// @id(\"read-files\")
// permit (principal == Agent::\"laptop\", action in Action::\"read\", resource == Upstream::\"files\");
//
// A guardrail over everybody: destructive actions are nobody's.
@id(\"destructive\")
@reason(\"destructive actions are not granted to agents\")
forbid (principal, action in Action::\"destructive\", resource);
";

pub(super) fn init(place: &Place, dir: &Path, from: Option<&Path>) -> Result<Exit, Failure> {
    let imported = from.map(read_import).transpose()?;
    let file = dir.join(Config::FILE);
    if file.exists() {
        return Err(Failure::new(Exit::Cannot, format!("there is a `{}` already", short(&file)))
            .hint("`countersign import FILE` adds tool servers to it"));
    }
    let mut text = FRESH.replace("LOG", &log_name()?);
    let mut added = Vec::new();
    let mut notes = Vec::new();
    if let Some(imported) = imported {
        (text, added) = add_all(text, &imported)?;
        notes = imported.notes;
    }
    for folder in [dir.to_owned(), dir.join("grants"), dir.join("schemas")] {
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
    }
    write_new(&dir.join("grants/main.cedar"), NO_GRANTS)?;
    write_new(&dir.join(".gitignore"), "/data/\n")?;
    edit::save(&file, &text).map_err(|error| cannot_write(&file, &error))?;
    let answer = json!({"config": file.display().to_string(), "upstreams": added, "notes": notes});
    place.answer(&answer, |_| {
        let next = if added.is_empty() { "countersign upstream add" } else { "countersign tool register" };
        format!("{}made {}\nnext: {next}, then write grants, then countersign serve", told(&notes), short(&file))
    });
    Ok(Exit::Done)
}

pub(super) fn add_upstream(place: &Place, name: &str, entry: Entry) -> Result<Exit, Failure> {
    let upstream = UpstreamName::new(name).ok_or_else(|| {
        Failure::new(Exit::Cannot, format!("`{}` is no name for an upstream", visible(name)))
            .hint("use at most 32 lower-case letters, digits and hyphens, and no hyphen first")
    })?;
    change(place, |text| edit::add(text, &upstream, &entry))?;
    let answer = json!({"upstream": name, "config": place.file().display().to_string()});
    place.answer(&answer, |_| {
        format!("added {name} to {}\nnext: countersign tool register {name}", short(&place.file()))
    });
    Ok(Exit::Done)
}

pub(super) fn remove_upstream(place: &Place, name: &str) -> Result<Exit, Failure> {
    let upstream = UpstreamName::new(name)
        .ok_or_else(|| Failure::new(Exit::Cannot, format!("`{}` is no name for an upstream", visible(name))))?;
    change(place, |text| edit::remove(text, &upstream))?;
    let answer = json!({"upstream": name, "removed": true});
    place.answer(&answer, |_| format!("removed {name}; its contracts stay below schemas/{name}"));
    Ok(Exit::Done)
}

pub(super) fn import(place: &Place, from: &Path) -> Result<Exit, Failure> {
    let imported = read_import(from)?;
    let mut added = Vec::new();
    if !imported.upstreams.is_empty() {
        let file = place.file();
        let text = fs::read_to_string(&file).map_err(|error| no_config(&file, &error))?;
        let (text, names) = add_all(text, &imported)?;
        added = names;
        edit::save(&file, &text).map_err(|error| cannot_write(&file, &error))?;
    }
    let notes = &imported.notes;
    place.answer(&json!({"upstreams": added, "notes": notes}), |_| {
        let what = if added.is_empty() { "nothing".to_owned() } else { added.join(", ") };
        let next = if added.is_empty() { "" } else { "\nnext: countersign tool register" };
        format!("{}took over {what}{next}", told(notes))
    });
    Ok(Exit::Done)
}

fn read_import(from: &Path) -> Result<Imported, Failure> {
    let text = fs::read_to_string(from).map_err(|error| Failure {
        exit: Exit::Cannot,
        ..Failure::io(format!("`{}` cannot be read", short(from)), &error)
    })?;
    import::import(&text).map_err(|why| Failure::new(Exit::Cannot, format!("`{}`: {why}", short(from))))
}

/// Adds every imported upstream that is not there yet; one that is there is an error, and nothing is written.
fn add_all(mut text: String, imported: &Imported) -> Result<(String, Vec<String>), Failure> {
    let mut added = Vec::new();
    for (name, entry) in &imported.upstreams {
        text = edit::add(&text, name, entry).map_err(|error| not_edited(&error, &text))?;
        added.push(name.to_string());
    }
    Ok((text, added))
}

/// Reads the configuration, changes its text and writes it back, if what comes out can be read as TOML.
fn change(place: &Place, act: impl FnOnce(&str) -> Result<String, NotEdited>) -> Result<(), Failure> {
    let file = place.file();
    let before = fs::read_to_string(&file).map_err(|error| no_config(&file, &error))?;
    let after = act(&before).map_err(|error| not_edited(&error, &before))?;
    // what the change itself brings in is refused; errors that were there before are `check`'s to tell
    let environment = |name: &str| Some(std::env::var(name).unwrap_or_else(|_| "https://unset.invalid".to_owned()));
    let known = config::parse(&file, &before, &environment).err().unwrap_or_default();
    if let Err(errors) = config::parse(&file, &after, &environment)
        && errors.len() > known.len()
    {
        return Err(Failure::config(&errors));
    }
    edit::save(&file, &after).map_err(|error| cannot_write(&file, &error))
}

fn not_edited(error: &NotEdited, text: &str) -> Failure {
    let failure = Failure::new(Exit::Cannot, error.to_string());
    match error {
        NotEdited::NotToml(_) => failure.hint("`countersign check` says where"),
        NotEdited::Exists(name) => failure.hint(format!("`countersign upstream remove {name}` takes it out first")),
        NotEdited::Absent(name) => {
            let table: toml::Table = text.parse().unwrap_or_default();
            let known = table.get("upstreams").and_then(toml::Value::as_table);
            match nearest(name.as_str(), known.into_iter().flat_map(toml::Table::keys).map(String::as_str)) {
                Some(near) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("`countersign upstream list` shows what is there"),
            }
        }
    }
}

fn told(notes: &[String]) -> String {
    notes.iter().map(|note| format!("note: {}\n", visible(note))).collect()
}

fn no_config(file: &Path, error: &std::io::Error) -> Failure {
    Failure { exit: Exit::Cannot, ..Failure::io(format!("`{}` cannot be read", short(file)), error) }
        .hint("`countersign init` makes one, `-C FILE` names another")
}

pub(super) fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("`{}` cannot be written", path.display()), error)
}

/// A name that no other log has, for the checkpoints of this one.
pub(super) fn log_name() -> Result<String, Failure> {
    let bytes: [u8; 4] = random().map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that is not there yet; one that is there stays as it is.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    fs::write(path, text).map_err(|error| cannot_write(path, &error))
}

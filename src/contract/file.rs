//! `schemas/<upstream>/<tool>.json`.
//!
//! One contract a file, read strictly and written so that version control shows what changed: one member
//! a line, in a fixed order. The name of a tool is its server's choice and may be anything; a file name is
//! made of it that stays in its folder.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Impact, Quarantine, Quarantined, UpstreamName, quoted};
use crate::{
    call::cut,
    clock::{Timestamp, random},
    json::{Canonical, Digest, Limits, NotCanonical, Object, Value, parse},
};

/// A contract as a person reviews it.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The definition exactly as advertised; its `name` is the tool's.
    pub definition: Arc<Value>,
    /// SHA-256 over the definition's RFC 8785 form.
    pub digest: Digest,
    /// When it was registered or last accepted.
    pub registered: Timestamp,
    /// What it can do to the world.
    pub impact: BTreeSet<Impact>,
    /// Labels of the data it touches.
    pub labels: Vec<String>,
    /// A schema of the operator's own that narrows the advertised one.
    pub arguments: Option<Value>,
    /// Arguments that no schema declares are let through.
    pub open: bool,
    /// Calling it twice is calling it once.
    pub idempotent: bool,
}

/// The members of a contract file, in the order they are written.
const MEMBERS: [&str; 10] =
    ["upstream", "tool", "registered", "digest", "impact", "labels", "open", "idempotent", "arguments", "definition"];

impl Contract {
    /// A contract for a definition that an upstream advertises: impact as its annotations suggest,
    /// `destructive` where they say nothing or contradict each other. What a server says of itself only ever
    /// counts against it in doubt: a hint that it talks to the open world adds `egress`, a hint that it is
    /// idempotent adds nothing.
    ///
    /// # Errors
    /// Why the definition is none.
    pub fn propose(upstream: &UpstreamName, definition: &Value, now: Timestamp) -> Result<Self, String> {
        if definition.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err("the definition has no `name`".to_owned());
        }
        if definition.get("inputSchema").and_then(Value::as_object).is_none() {
            return Err("the definition has no object `inputSchema`".to_owned());
        }
        let digest = digest_of(definition)?;
        let hint = |name: &str| definition.get("annotations").and_then(|hints| hints.get(name)?.as_bool());
        let suggested = match (hint("readOnlyHint"), hint("destructiveHint")) {
            (Some(true), None | Some(false)) => Impact::Read,
            (None | Some(false), Some(false)) => Impact::Write,
            _ => Impact::Destructive,
        };
        let egress = (hint("openWorldHint") == Some(true)).then_some(Impact::Egress);
        Ok(Self {
            upstream: upstream.clone(),
            definition: Arc::new(definition.clone()),
            digest,
            registered: now,
            impact: std::iter::once(suggested).chain(egress).collect(),
            labels: Vec::new(),
            arguments: None,
            open: false,
            idempotent: false,
        })
    }

    /// The name the upstream gives the tool.
    pub fn tool(&self) -> Option<&str> {
        self.definition.get("name")?.as_str()
    }

    /// SHA-256 over the RFC 8785 form of the whole contract but for `registered`: what calls and holds are
    /// bound to.
    ///
    /// # Errors
    /// [`NotCanonical`] for a number outside I-JSON.
    pub fn canonical_digest(&self) -> Result<Digest, NotCanonical> {
        let mut whole = self.to_object();
        whole.remove("registered");
        Ok(Canonical::of(whole.into())?.digest())
    }

    /// The text of its file.
    pub fn to_text(&self) -> String {
        let mut text = Vec::new();
        pretty(&self.to_object().into(), 0, &mut text);
        text.push(b'\n');
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Reads the text of a contract file.
    ///
    /// # Errors
    /// What is wrong with it, for the one who wrote it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let whole = parse(text, &Limits::REQUEST).map_err(|error| {
            let line = text.get(..error.at).unwrap_or(text).iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line} is not JSON as it must be: {:?}", error.kind)
        })?;
        let whole = whole.as_object().ok_or("it is not an object")?;
        if let Some((unknown, _)) = whole.iter().find(|(name, _)| !MEMBERS.contains(name)) {
            let nearest = MEMBERS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, cut(unknown, 64)));
            return Err(format!(
                "{} is no member of a contract; the nearest is `{}`",
                quoted(unknown, 80),
                nearest.unwrap_or("tool")
            ));
        }
        let text_of = |name: &str| {
            whole.get(name).and_then(Value::as_str).ok_or_else(|| format!("`{name}` is missing or not a string"))
        };
        let flag = |name: &str| match whole.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("`{name}` is neither true nor false")),
        };
        let definition = Arc::new(whole.get("definition").ok_or("`definition` is missing")?.clone());
        let contract = Self {
            upstream: UpstreamName::new(text_of("upstream")?).ok_or("`upstream` is not the name of one")?,
            digest: text_of("digest")?.parse().map_err(|error| format!("`digest`: {error}"))?,
            registered: text_of("registered")?
                .parse()
                .map_err(|_| "`registered` is not a time such as `2026-01-31T12:00:00Z`".to_owned())?,
            impact: impact(whole)?,
            labels: strings(whole, "labels")?,
            arguments: whole.get("arguments").cloned(),
            open: flag("open")?,
            idempotent: flag("idempotent")?,
            definition,
        };
        if contract.tool() != Some(text_of("tool")?) {
            return Err("`tool` is not the `name` in `definition`".to_owned());
        }
        Ok(contract)
    }

    /// Whether the digest is that of the definition.
    ///
    /// # Errors
    /// Why the contract must not be offered.
    fn check(&self) -> Result<(), Quarantine> {
        let now = digest_of(&self.definition).map_err(Quarantine::Schema)?;
        if now != self.digest {
            let why = format!(
                "`digest` is not that of `definition`, which is {now}; restore the file or register the tool anew"
            );
            return Err(Quarantine::File(why));
        }
        Ok(())
    }

    fn to_object(&self) -> Object {
        let strings = |texts: &mut dyn Iterator<Item = &str>| texts.map(Value::from).collect::<Vec<_>>();
        let object = Object::new()
            .with("upstream", self.upstream.as_str())
            .with("tool", self.tool().unwrap_or_default())
            .with("registered", self.registered.to_string())
            .with("digest", self.digest.to_string())
            .with("impact", strings(&mut self.impact.iter().map(|impact| impact.word())))
            .with("labels", strings(&mut self.labels.iter().map(String::as_str)))
            .with("open", self.open)
            .with("idempotent", self.idempotent);
        let object = match &self.arguments {
            Some(arguments) => object.with("arguments", arguments.clone()),
            None => object,
        };
        object.with("definition", Value::clone(&self.definition))
    }
}

/// Reads every contract below `schemas/`; one that cannot be read quarantines its tool and no other.
/// A folder that is not there holds none. Folders that are not named like an upstream, and files that do
/// not end in `.json` or start with a dot, are passed over.
///
/// # Errors
/// Only when the folder itself cannot be listed.
pub fn read_all(schemas: &Path) -> io::Result<Vec<Result<Contract, Quarantined>>> {
    let mut contracts = Vec::new();
    for folder in names_in(schemas)? {
        let Some(upstream) = UpstreamName::new(&folder) else { continue };
        let folder = schemas.join(folder);
        if !folder.is_dir() {
            continue;
        }
        for name in names_in(&folder)? {
            let Some(stem) = name.strip_suffix(".json").filter(|stem| !stem.is_empty() && !stem.starts_with('.'))
            else {
                continue;
            };
            let read = read_one(&folder.join(&name), &upstream, stem);
            contracts.push(read.map_err(|(tool, why)| Quarantined { upstream: upstream.clone(), tool, why }));
        }
    }
    Ok(contracts)
}

/// Writes one contract: to a new file, renamed over the old one. When this returns, a crash leaves the new
/// contract; before, it leaves the old one.
///
/// # Errors
/// The file system's.
pub fn write(schemas: &Path, contract: &Contract) -> io::Result<()> {
    let folder = schemas.join(contract.upstream.as_str());
    if !folder.is_dir() {
        fs::create_dir_all(&folder)?;
        fs::File::open(schemas)?.sync_all()?;
    }
    let path = path_for(&folder, contract.tool().unwrap_or_default())?;
    let salt: [u8; 8] = random().map_err(|error| io::Error::other(error.to_string()))?;
    let new = folder.join(format!(".{}.new", hex(&salt)));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&new)?;
        file.write_all(contract.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if written.is_err() {
        // what cannot be removed is passed over when contracts are read
        let _left_behind = fs::remove_file(&new);
    }
    written?;
    fs::File::open(&folder)?.sync_all()
}

/// Where the contract of a tool is, or would be written: a name of its own also where the file system does
/// not tell letter case apart.
///
/// # Errors
/// The file system's.
pub fn path_for(folder: &Path, tool: &str) -> io::Result<PathBuf> {
    let plain = format!("{}.json", stem_of(tool));
    let there = names_in(folder)?;
    let taken = !there.contains(&plain) && there.iter().any(|name| name.eq_ignore_ascii_case(&plain));
    Ok(folder.join(if taken { format!("{}.json", marked_stem_of(tool)) } else { plain }))
}

/// The file name of a tool without its ending: the name itself where it is harmless, else with each other
/// byte as `%XX`, and shortened where that gets too long.
fn stem_of(tool: &str) -> String {
    let mut stem = String::new();
    for (place, byte) in tool.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || b"_-".contains(&byte) || (byte == b'.' && place > 0) {
            stem.push(char::from(byte));
        } else {
            stem.push('%');
            stem.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
    }
    if stem.is_empty() || stem.len() > 128 { marked_stem_of(tool) } else { stem }
}

/// A file name that no other tool has, whatever the letter case: `~` is in no other stem.
fn marked_stem_of(tool: &str) -> String {
    let start: String = tool.bytes().take(64).filter(u8::is_ascii_alphanumeric).map(char::from).collect();
    let mark = Digest::of(tool.as_bytes());
    format!("{start}~{}", hex(mark.0.get(..8).unwrap_or_default()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_one(path: &Path, upstream: &UpstreamName, stem: &str) -> Result<Contract, (String, Quarantine)> {
    let fault = |why: String| (stem.to_owned(), Quarantine::File(why));
    let most = u64::try_from(Limits::REQUEST.bytes).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| fault(format!("it cannot be read: {error}")))?;
    file.take(most + 1).read_to_end(&mut text).map_err(|error| fault(format!("it cannot be read: {error}")))?;
    let contract = Contract::read(&text).map_err(fault)?;
    let tool = contract.tool().unwrap_or_default().to_owned();
    if contract.upstream != *upstream {
        return Err((tool, Quarantine::File("`upstream` is not the name of the folder it lies in".to_owned())));
    }
    if stem != stem_of(&tool) && stem != marked_stem_of(&tool) {
        return Err((
            stem.to_owned(),
            Quarantine::File(format!("a contract for this tool belongs in `{}.json`", stem_of(&tool))),
        ));
    }
    contract.check().map_err(|why| (tool, why))?;
    Ok(contract)
}

/// Names of what lies in a folder, in order; none where there is no folder.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // a name that is not UTF-8 is none of ours
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn digest_of(definition: &Value) -> Result<Digest, String> {
    let canonical = Canonical::of(definition.clone());
    canonical.map(|canonical| canonical.digest()).map_err(|NotCanonical { pointer, problem }| {
        format!("the number at {} has no canonical form: it {problem}", quoted(&pointer, 120))
    })
}

fn impact(whole: &Object) -> Result<BTreeSet<Impact>, String> {
    let words = strings(whole, "impact")?;
    let all = || Impact::ALL.map(Impact::word).join("`, `");
    let impact: Result<BTreeSet<Impact>, String> = words
        .iter()
        .map(|word| {
            Impact::of_word(word).ok_or_else(|| format!("{} is no impact; there are `{}`", quoted(word, 40), all()))
        })
        .collect();
    impact.and_then(|impact| {
        if impact.is_empty() { Err(format!("`impact` is missing or empty; there are `{}`", all())) } else { Ok(impact) }
    })
}

fn strings(whole: &Object, name: &str) -> Result<Vec<String>, String> {
    let Some(list) = whole.get(name) else { return Ok(Vec::new()) };
    let texts = list.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| format!("`{name}` is not an array of strings"))
}

/// Appends a value with one member or item a line.
fn pretty(value: &Value, level: usize, out: &mut Vec<u8>) {
    let line = |level: usize, out: &mut Vec<u8>| {
        out.push(b'\n');
        out.resize(out.len() + 2 * level, b' ');
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                line(level + 1, out);
                pretty(item, level + 1, out);
            }
            line(level, out);
            out.push(b']');
        }
        Value::Object(members) if !members.is_empty() => {
            out.push(b'{');
            for (place, (name, member)) in members.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                line(level + 1, out);
                Value::from(name).write(out);
                out.extend_from_slice(b": ");
                pretty(member, level + 1, out);
            }
            line(level, out);
            out.push(b'}');
        }
        _ => value.write(out),
    }
}

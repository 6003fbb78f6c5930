//! The `mcpServers` of other clients (Claude, Cursor and their kin) and the `servers` of VS Code.

use serde_json::{Map, Value};

use super::{
    edit::{Entry, literal},
    read::is_variable,
};
use crate::contract::UpstreamName;

/// What a file holds, in our words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The upstreams, by the names they get here.
    pub upstreams: Vec<(UpstreamName, Entry)>,
    /// What a person should know: renamed, left out, variables to set, secrets seen. No value is in it.
    pub notes: Vec<String>,
}

/// Reads the text of such a file: JSON, comments and trailing commas allowed.
///
/// # Errors
/// Why nothing can be read from it.
pub fn import(text: &str) -> Result<Imported, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let tree: Value = serde_json::from_str(&without_comments(text))
        .map_err(|error| format!("this is not JSON: line {}, column {}", error.line(), error.column()))?;
    let servers = ["/mcpServers", "/servers", "/mcp/servers"].iter().find_map(|place| tree.pointer(place)?.as_object());
    let servers = servers.ok_or("there is no `mcpServers` (or, as VS Code has it, `servers`) in this file")?;
    let mut imported = Imported::default();
    for (name, server) in servers {
        imported.add(name, server);
    }
    Ok(imported)
}

impl Imported {
    fn add(&mut self, name: &str, server: &Value) {
        let Some(server) = server.as_object() else {
            self.notes.push(format!("`{name}` is left out: it is not an object"));
            return;
        };
        if server.get("disabled").and_then(Value::as_bool) == Some(true) {
            self.notes.push(format!("`{name}` is left out: it is disabled there"));
            return;
        }
        let mut notes = Vec::new();
        let read = match (Reading { name, server, notes: &mut notes }).entry() {
            Ok(entry) => entry,
            Err(why) => {
                self.notes.push(format!("`{name}` is left out: {why}"));
                return;
            }
        };
        let Some(slug) = self.free_name(name) else {
            self.notes.push(format!("`{name}` is left out: no name can be made of it"));
            return;
        };
        if slug.as_str() != name {
            self.notes.push(format!("`{name}` is named `{slug}` here"));
        }
        self.notes.append(&mut notes);
        self.upstreams.push((slug, read));
    }

    /// `name` as an upstream's name, with a number where it is taken.
    fn free_name(&self, name: &str) -> Option<UpstreamName> {
        let slug = slug(name);
        let taken = |name: &UpstreamName| self.upstreams.iter().any(|(other, _)| other == name);
        (1..1_000).find_map(|number: u16| {
            let suffix = if number == 1 { String::new() } else { format!("-{number}") };
            let stem = slug.get(..slug.len().min(32 - suffix.len()))?;
            UpstreamName::new(&format!("{stem}{suffix}")).filter(|name| !taken(name))
        })
    }
}

/// `My Server!` becomes `my-server`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => slug.push(letter),
            _ if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            _ => {}
        }
    }
    slug.truncate(32);
    slug.trim_end_matches('-').to_owned()
}

struct Reading<'a> {
    name: &'a str,
    server: &'a Map<String, Value>,
    notes: &'a mut Vec<String>,
}

impl Reading<'_> {
    fn entry(mut self) -> Result<Entry, String> {
        const KNOWN: [&str; 12] = [
            "type",
            "command",
            "args",
            "env",
            "cwd",
            "url",
            "serverUrl",
            "httpUrl",
            "headers",
            "disabled",
            "name",
            "description",
        ];
        let kind = self.server.get("type").and_then(Value::as_str);
        if kind == Some("sse") {
            return Err("it speaks the HTTP+SSE transport that MCP has retired; use its streamable HTTP address".into());
        }
        for key in self.server.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
            self.notes.push(format!("`{}`: `{key}` means nothing here and is not taken over", self.name));
        }
        let url = ["url", "serverUrl", "httpUrl"].iter().find_map(|key| self.server.get(*key));
        match (self.server.get("command"), url) {
            (Some(command), None) => {
                let command =
                    command.as_str().filter(|command| !command.is_empty()).ok_or("`command` is not a text")?;
                let mut parts = vec![self.text(command)];
                if let Some(args) = self.server.get("args") {
                    for arg in args.as_array().ok_or("`args` is not a list")? {
                        let arg = arg.as_str().ok_or("`args` is not a list of texts")?;
                        parts.push(self.text(arg));
                    }
                }
                let cwd = self.server.get("cwd").and_then(Value::as_str).map(|cwd| self.text(cwd));
                let env = self.pairs("env")?;
                Ok(Entry { command: parts, env, cwd, ..Entry::default() })
            }
            (None, Some(url)) => {
                let url = url.as_str().filter(|url| !url.is_empty()).ok_or("`url` is not a text")?;
                let url = self.text(url);
                let headers = self.pairs("headers")?;
                let allow_http = url.starts_with("http://");
                if allow_http {
                    self.notes.push(format!("`{}` is reached by plain http; see that the network is yours", self.name));
                }
                Ok(Entry { url: Some(url), headers, allow_http, ..Entry::default() })
            }
            (Some(_), Some(_)) => Err("it has both `command` and `url`".into()),
            (None, None) => Err("it has neither `command` nor `url`".into()),
        }
    }

    fn pairs(&mut self, key: &str) -> Result<Vec<(String, String)>, String> {
        let Some(pairs) = self.server.get(key).filter(|pairs| !pairs.is_null()) else { return Ok(Vec::new()) };
        let pairs = pairs.as_object().ok_or(format!("`{key}` is not an object"))?;
        let mut read = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let value = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(truth) => truth.to_string(),
                _ => return Err(format!("`{key}.{name}` is not a text")),
            };
            let text = self.text(&value);
            if looks_secret(name) && !text.contains("${") && !value.is_empty() {
                self.notes.push(format!(
                    "`{}`: `{key}.{name}` looks like a secret and is copied as it is; better set it in the \
                     environment and write `${{{}}}`",
                    self.name,
                    variable(name)
                ));
            }
            read.push((name.clone(), text));
        }
        Ok(read)
    }

    /// A text of theirs in our words: `${env:NAME}` and `${NAME}` are variables of the environment,
    /// `${input:id}` becomes one, anything else in `${…}` is text.
    fn text(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, from)) = rest.split_once("${") {
            out.push_str(before);
            let Some((inside, after)) = from.split_once('}') else {
                out.push_str("$${");
                rest = from;
                continue;
            };
            out.push_str(&self.reference(inside));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn reference(&mut self, inside: &str) -> String {
        if let Some(id) = inside.strip_prefix("input:") {
            let name = variable(id);
            let note = format!("`{}`: `${{{inside}}}` is asked for there; set `{name}` in the environment", self.name);
            self.note_once(note);
            return format!("${{{name}}}");
        }
        let name = inside.strip_prefix("env:").unwrap_or(inside);
        match name {
            "userHome" => return "${HOME}".to_owned(),
            "workspaceFolder" | "workspaceRoot" => {
                let note = format!("`{}`: set `WORKSPACE_FOLDER` in the environment for `${{{name}}}`", self.name);
                self.note_once(note);
                return "${WORKSPACE_FOLDER}".to_owned();
            }
            _ => {}
        }
        let plain = name.split_once(":-").map_or(name, |(name, _)| name);
        if is_variable(plain) {
            let note = format!("`{}` reads `{plain}` from the environment", self.name);
            self.note_once(note);
            return format!("${{{name}}}");
        }
        self.note_once(format!("`{}`: `${{{inside}}}` means nothing here and is kept as text", self.name));
        literal(&format!("${{{inside}}}"))
    }

    fn note_once(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// `github-token` becomes `GITHUB_TOKEN`.
fn variable(name: &str) -> String {
    let upper = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(upper).collect();
    if is_variable(&name) { name } else { format!("INPUT_{name}") }
}

fn looks_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "token", "secret", "password", "passwd", "authorization", "cookie", "credential", "dsn"]
        .iter()
        .any(|word| name.contains(word))
}

/// Blanks out comments and trailing commas, so that line and column stay what they were.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    // where the last comma that only white space and comments follow stands in `out`
    let mut comma = None;
    let mut in_string = false;
    while let Some(letter) = letters.next() {
        if in_string {
            out.push(letter);
            match letter {
                '"' => in_string = false,
                '\\' => out.extend(letters.next()),
                _ => {}
            }
            continue;
        }
        match (letter, letters.peek()) {
            ('/', Some('/')) => {
                out.push(' ');
                while letters.peek().is_some_and(|letter| *letter != '\n') {
                    letters.next();
                }
            }
            ('/', Some('*')) => {
                let mut last = ' ';
                letters.next();
                for letter in letters.by_ref() {
                    out.push(if letter == '\n' { '\n' } else { ' ' });
                    if (last, letter) == ('*', '/') {
                        break;
                    }
                    last = letter;
                }
            }
            (',', _) => {
                comma = Some(out.len());
                out.push(',');
            }
            ('}' | ']', _) => {
                if let Some(at) = comma.take() {
                    out.replace_range(at..=at, " ");
                }
                out.push(letter);
            }
            _ => {
                in_string = letter == '"';
                if !letter.is_whitespace() {
                    comma = None;
                }
                out.push(letter);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(server: &str) -> Imported {
        import(&format!("{{\"mcpServers\": {{\"It\": {server}}}}}")).unwrap()
    }

    #[test]
    fn every_kind_of_server_is_read_or_left_out_with_a_reason() {
        let command = |parts: &[&str]| Entry {
            command: parts.iter().map(|part| (*part).to_owned()).collect(),
            ..Entry::default()
        };
        let table: [(&str, Option<Entry>, &str); 13] = [
            (
                r#"{"command": "npx", "args": ["-y", "server"]}"#,
                Some(command(&["npx", "-y", "server"])),
                "`It` is named `it`",
            ),
            (r#"{"command": "a", "args": ["${HOME}/x"]}"#, Some(command(&["a", "${HOME}/x"])), "reads `HOME`"),
            (r#"{"command": "a", "args": ["${env:DIR}"]}"#, Some(command(&["a", "${DIR}"])), "reads `DIR`"),
            (r#"{"command": "a", "args": ["${DIR:-/tmp}"]}"#, Some(command(&["a", "${DIR:-/tmp}"])), "reads `DIR`"),
            (r#"{"command": "a", "args": ["${userHome}"]}"#, Some(command(&["a", "${HOME}"])), ""),
            (
                r#"{"command": "a", "args": ["${what:ever}", "${"]}"#,
                Some(command(&["a", "$${what:ever}", "$${"])),
                "kept as text",
            ),
            (
                r#"{"command": "a", "env": {"API_KEY": "${input:api-key}"}}"#,
                Some(Entry { env: vec![("API_KEY".into(), "${API_KEY}".into())], ..command(&["a"]) }),
                "set `API_KEY`",
            ),
            (
                r#"{"command": "a", "env": {"API_KEY": "hunter2"}}"#,
                Some(Entry { env: vec![("API_KEY".into(), "hunter2".into())], ..command(&["a"]) }),
                "looks like a secret",
            ),
            (
                r#"{"type": "http", "url": "https://x.example/mcp", "headers": {"X-A": "b"}}"#,
                Some(Entry {
                    url: Some("https://x.example/mcp".into()),
                    headers: vec![("X-A".into(), "b".into())],
                    ..Entry::default()
                }),
                "",
            ),
            (r#"{"type": "sse", "url": "https://x.example/sse"}"#, None, "has retired"),
            (r#"{"command": "a", "disabled": true}"#, None, "is disabled"),
            (r#"{"command": "a", "url": "https://x.example"}"#, None, "both"),
            (r#"{"args": []}"#, None, "neither"),
        ];
        for (server, entry, note) in table {
            let read = one(server);
            assert_eq!(read.upstreams.first().map(|(_, entry)| entry.clone()), entry, "{server}");
            assert!(read.notes.iter().any(|line| line.contains(note)) || note.is_empty(), "{server}: {:?}", read.notes);
            assert!(!read.notes.iter().any(|line| line.contains("hunter2")), "{:?}", read.notes);
        }
    }

    #[test]
    fn names_become_slugs_and_stay_apart() {
        let text = r#"{"servers": {
            // VS Code allows comments
            "My Server": {"command": "a"}, /* and
            these */ "my_server": {"command": "b", "args": ["// no comment", ",]"],},
            "日本": {"command": "c"},
            "a-very-long-name-that-goes-on-and-on-and-on": {"command": "d"},
        },}"#;
        let read = import(text).unwrap();
        let mut names: Vec<&str> = read.upstreams.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a-very-long-name-that-goes-on-an", "my-server", "my-server-2"]);
        let second = read.upstreams.iter().find(|(_, entry)| entry.command.first().unwrap() == "b").unwrap();
        assert_eq!(second.1.command, ["b", "// no comment", ",]"]);
        assert!(read.notes.iter().any(|note| note.contains("日本") && note.contains("left out")), "{:?}", read.notes);
    }

    #[test]
    fn what_is_no_such_file_says_so() {
        assert!(import("{").unwrap_err().contains("line 1"));
        assert!(import("{}").unwrap_err().contains("mcpServers"));
        assert!(import("[1]").unwrap_err().contains("mcpServers"));
        assert_eq!(import("\u{feff}{\"mcpServers\": {}}").unwrap(), Imported::default());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,200}", json in r#"[\{\}\[\]",:/*\\$a\n ]{0,60}"#) {
            let _ = import(&text);
            let _ = import(&json);
            let _ = import(&format!("{{\"mcpServers\": {{\"a\": {{\"command\": \"{json}\"}}}}}}"));
        }
    }
}

//! The house rules that a compiler does not know: which way dependencies point, what may not be written, and how much we depend on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The road and what it rests on.
const BELOW_THE_DOORS: &[&str] = &[
    "json",
    "clock",
    "display",
    "passkey",
    "call",
    "contract",
    "hold",
    "grant",
    "ledger",
    "identity",
    "approver",
    "upstream",
    "notify",
    "pipeline",
    "observe",
    "config",
    "listen",
    "reach",
    "jws",
    "dpop",
    "seal",
    "oidc",
    "workload",
    "lease",
    "authority",
];

/// What a house is put together from.
const EVERYTHING_BELOW: &[&str] = &[
    "json",
    "clock",
    "display",
    "passkey",
    "call",
    "contract",
    "hold",
    "grant",
    "ledger",
    "identity",
    "approver",
    "upstream",
    "pipeline",
    "observe",
    "config",
    "notify",
    "reach",
    "mcp",
    "http",
    "server",
    "listen",
    "jws",
    "dpop",
    "seal",
    "oidc",
    "authority",
    "secret_file",
    "workload",
    "lease",
];

/// What each module may use, nearest to the wire last. A module that is not here fails the test: place it first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("json", &[]),
    ("clock", &[]),
    ("display", &["json"]),
    ("passkey", &["json"]),
    // a received call carries its contract, and the stages name the next one
    ("call", &["json", "clock", "contract"]),
    ("contract", &["json", "clock", "display", "call", "upstream"]),
    ("secret_file", &["call"]),
    ("hold", &["json", "clock", "passkey", "jws"]),
    ("grant", &["json", "clock", "call", "contract", "hold"]),
    ("ledger", &["json", "clock", "passkey", "jws", "call", "contract", "hold", "grant", "upstream"]),
    ("observe", &["json", "clock"]),
    // what is wrong in a file is told the same way for configuration and grants
    ("config", &["json", "clock", "contract", "grant"]),
    ("listen", &["json", "clock", "config", "grant", "secret_file"]),
    ("approver", &["json", "clock", "passkey", "call", "hold", "ledger", "secret_file"]),
    ("lease", &["json", "clock", "display", "call", "contract", "ledger", "config", "reach", "secret_file"]),
    (
        "upstream",
        &["json", "clock", "display", "call", "contract", "hold", "grant", "ledger", "lease", "config", "observe"],
    ),
    ("pipeline", BELOW_THE_DOORS),
    ("reach", &["display", "call"]),
    ("jws", &["json"]),
    ("dpop", &["json", "clock", "jws"]),
    ("seal", &["clock", "call"]),
    ("oidc", &["json", "clock", "display", "call", "config", "jws", "reach", "seal"]),
    ("workload", &["json", "clock", "display", "call", "config", "grant", "jws", "listen", "reach"]),
    (
        "identity",
        &[
            "workload",
            "json",
            "clock",
            "display",
            "call",
            "hold",
            "ledger",
            "secret_file",
            "config",
            "listen",
            "reach",
            "jws",
            "dpop",
            "oidc",
        ],
    ),
    ("authority", &["json", "clock", "call", "config", "listen", "reach", "jws", "dpop", "oidc", "identity", "ledger"]),
    ("notify", &["json", "clock", "display", "call", "secret_file", "upstream", "config", "reach"]),
    ("mcp", BELOW_THE_DOORS),
    ("http", BELOW_THE_DOORS),
    ("server", EVERYTHING_BELOW),
    ("cli", EVERYTHING_BELOW),
];

/// Crates that the pure part of the road must not know.
const NO_IO: &[(&str, &[&str])] = &[
    ("json", &["tokio", "hyper", "axum", "reqwest", "sled", "std::fs", "std::net", "std::process", "cedar_policy"]),
    ("display", &["tokio", "hyper", "axum", "reqwest", "sled", "std::fs", "std::net", "std::process", "cedar_policy"]),
    ("grant", &["tokio", "hyper", "axum", "reqwest", "sled", "std::net", "std::process", "rmcp"]),
    ("call", &["hyper", "axum", "reqwest", "sled", "std::fs", "std::net", "std::process", "cedar_policy"]),
];

/// Packages in the lock file. Raise it in a commit of its own that says what the new ones are for.
const LOCKED_PACKAGES: usize = 471;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(under: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![under.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && !matches!(name.as_str(), "target" | ".git" | ".peers" | "node_modules" | "__pycache__") {
                folders.push(path);
            } else if !is_folder && ends.iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The top-level module that a source file belongs to.
fn module(path: &Path) -> String {
    let inner = path.strip_prefix(root().join("src")).unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The source without comments and without what is compiled for tests only.
fn shipped(text: &str) -> String {
    let mut kept = String::new();
    let mut skipping = 0;
    let mut pending = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("//") {
            continue;
        }
        if trimmed.starts_with("#[cfg(test)]") {
            pending = true;
            continue;
        }
        let (opened, closed) = (line.matches('{').count(), line.matches('}').count());
        if pending || skipping > 0 {
            skipping = (skipping + opened).saturating_sub(closed);
            pending = pending && opened == 0 && !trimmed.ends_with(';');
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Modules named after `crate::` in a source, in paths and in grouped imports.
fn uses(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names: Vec<String> = if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut names = vec![String::new()];
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => names.push(String::new()),
                    _ if depth == 1 => names.last_mut().unwrap().push(letter),
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            names
        } else {
            vec![rest.to_owned()]
        };
        for name in names {
            let name: String =
                name.trim().chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
            if !name.is_empty() {
                used.insert(name);
            }
        }
    }
    used
}

#[test]
fn dependencies_point_inward() {
    let may: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in files(&root().join("src"), &[".rs"]) {
        let module = module(&path);
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let text = shipped(&fs::read_to_string(&path).unwrap());
        let Some(allowed) = may.get(module.as_str()) else {
            wrong.push(format!("`{}`: place `{module}` in `MAY_USE`", shown(&path)));
            continue;
        };
        for used in uses(&text) {
            if used != module && may.contains_key(used.as_str()) && !allowed.contains(&used.as_str()) {
                wrong.push(format!("`{}` uses `crate::{used}`, which lies further out", shown(&path)));
            }
        }
        for (pure, banned) in NO_IO {
            for name in banned.iter().filter(|_| *pure == module) {
                if text.contains(&format!("{name}::")) {
                    wrong.push(format!("`{}` uses `{name}`", shown(&path)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_stages_are_minted_where_they_should_be() {
    let sources = files(&root().join("src"), &[".rs"]);
    let mut wrong = Vec::new();
    for (name, home) in
        [("Permitted {", "grant"), ("Recorded {", "ledger"), ("Forwarded {", "upstream"), ("Inspected {", "contract")]
    {
        for path in &sources {
            let text = shipped(&fs::read_to_string(path).unwrap());
            let minted = text.lines().any(|line| {
                let line = line.trim_start();
                line.contains(name)
                    && !line.contains("struct ")
                    && !line.contains("impl ")
                    && !line.contains("let ")
                    && !line.contains("-> ")
                    && !line.contains(" for ")
            });
            if minted && module(path) != home {
                wrong.push(format!("`{}` makes a `{}`", shown(path), name.trim_end_matches(" {")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests/it", "benches", "examples"] {
        for path in files(&root().join(folder), &[".rs"]) {
            let text = fs::read_to_string(&path).unwrap();
            if shown(&path) != "src/main.rs" && !text.starts_with("//! ") && !text.starts_with("#!") {
                wrong.push(format!("`{}` does not begin with a line of documentation", shown(&path)));
            }
            if text.contains("\t\t") && !text.contains("\\t") {
                wrong.push(format!("`{}` is indented with tabs", shown(&path)));
            }
            for (number, line) in text.lines().enumerate() {
                if line.contains("#[allow(") && !shown(&path).ends_with("tidy.rs") {
                    wrong.push(format!("`{}:{}` allows: expect it, with a reason", shown(&path), number + 1));
                }
            }
        }
    }
    for path in files(&root().join("tests"), &[".sh", ".py", ".mjs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let says = text.lines().take(3).any(|line| {
            let line = line.trim_start();
            (line.starts_with('#') && !line.starts_with("#!")) || line.starts_with("//") || line.starts_with("\"\"\"")
        });
        if !says {
            wrong.push(format!("`{}` does not say what it is in its first lines", shown(&path)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_written_that_should_not_be() {
    // put together here, so that this file does not contain them
    let banned = [
        ("/wo".to_owned() + "rk/", "a path of one machine"),
        ("/ro".to_owned() + "ot/", "a path of one machine"),
        ("/ho".to_owned() + "me/", "a path of one machine"),
        ("TO".to_owned() + "DO", "an unfinished thought: write an issue"),
        ("FIX".to_owned() + "ME", "an unfinished thought: write an issue"),
        ("XX".to_owned() + "X", "an unfinished thought: write an issue"),
        ("registry.np".to_owned() + "mjs", "a registry's host"),
        ("\"reso".to_owned() + "lved\":", "a registry's address"),
        ("--index".to_owned() + "-url", "a registry's address"),
        ("BEGIN PRIV".to_owned() + "ATE KEY", "a key"),
        ("Man".to_owned() + "ager", "a name that says nothing"),
        ("fn g".to_owned() + "et_", "`get_`: name the noun"),
    ];
    let mut wrong = Vec::new();
    let ends = [".rs", ".toml", ".md", ".sh", ".mjs", ".py", ".json", ".txt", ".cedar", ".yaml", ".yml", "run"];
    for path in files(root(), &ends) {
        let name = shown(&path);
        if name == "Cargo.lock" {
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (word, why) in &banned {
            let generated = name.ends_with("package-lock.json") && why.starts_with("an unfinished");
            let code_only = matches!(word.as_str(), "Manager") || word.starts_with("fn ");
            if generated {
                continue;
            }
            if code_only && !(name.starts_with("src/") && name.ends_with(".rs")) {
                continue;
            }
            for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains(word.as_str())) {
                wrong.push(format!("`{name}:{}` has `{word}`: {why}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_lock_file_keeps_to_its_budget() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages <= LOCKED_PACKAGES, "{packages} packages are locked, the budget is {LOCKED_PACKAGES}");
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lock.lines() {
        if let Some(name) = line.strip_prefix("name = ") {
            *versions.entry(name.trim_matches('"')).or_default() += 1;
        }
    }
    assert_eq!(versions.get("sled"), Some(&1), "sled is pinned: see docs/ledger.md");
    for source in lock.lines().filter_map(|line| line.strip_prefix("source = ")) {
        assert!(source.starts_with("\"registry+"), "a dependency comes from {source}");
    }
}

#[test]
fn every_page_is_escaped_by_construction() {
    let mut wrong = Vec::new();
    for path in files(&root().join("src"), &[".rs"]) {
        let text = shipped(&fs::read_to_string(&path).unwrap());
        // what `html!` makes is `Markup`; a text becomes that unescaped only by name
        if text.contains("PreEscaped") || text.contains("render_to") || text.contains("impl Render") {
            wrong.push(format!("`{}` writes markup past `html!`", shown(&path)));
        }
    }
    let forbidden =
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "style="];
    for path in files(&root().join("src/http/console/assets"), &[".js", ".svg"]) {
        let text = fs::read_to_string(&path).unwrap();
        for word in forbidden.iter().filter(|word| text.contains(**word)) {
            wrong.push(format!("`{}` has `{word}`", shown(&path)));
        }
        assert!(!text.contains("http://") || path.ends_with("icon.svg"), "`{}` names another host", shown(&path));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_feature_removes_a_check() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("[features]"), "a Cargo feature could remove a check");
    for path in files(&root().join("src"), &[".rs"]) {
        let text = shipped(&fs::read_to_string(&path).unwrap());
        assert!(!text.contains("cfg(feature"), "`{}` depends on a feature", shown(&path));
        assert!(!text.contains("cfg(debug_assertions"), "`{}` behaves differently when debugged", shown(&path));
    }
}

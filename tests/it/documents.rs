//! The documents say what is so: samples, codes, keys, command lines, links and names of tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use countersign::{
    cli, config,
    contract::{Catalog, UpstreamName, file},
    grant::{Grants, Source},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every document, by its path in the repository.
fn documents() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                let path = Path::new(folder).join(&name).display().to_string();
                found.insert(path.clone(), read(&path));
            }
        }
    }
    assert!(found.contains_key("README.md") && found.contains_key("docs/grants.md"));
    found
}

/// A fenced block: where it begins, what stands behind the fence, and its lines without their indentation.
struct Block {
    place: String,
    kind: String,
    text: String,
}

fn blocks(path: &str, document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (number, line) in (1..).zip(document.lines()) {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (None, Some(kind)) => {
                let place = format!("{path}:{number}");
                let kind = kind.trim().to_owned();
                open = Some((line.len() - bare.len(), Block { place, kind, text: String::new() }));
            }
            (Some(_), Some("")) => found.extend(open.take().map(|(_, block)| block)),
            (Some((indent, block)), _) => {
                block.text.push_str(line.get(*indent..).unwrap_or(bare));
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{path}: a block is not closed");
    found
}

fn all_blocks() -> Vec<Block> {
    documents().iter().flat_map(|(path, text)| blocks(path, text)).collect()
}

/// What stands in backticks in the first cell of each row of the tables below a heading, up to the next heading.
fn rows(document: &str, heading: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let below = document.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading).skip(1);
    for line in below.take_while(|line| !line.starts_with('#')) {
        let cell = line.strip_prefix("| ").and_then(|rest| rest.split(" |").next()).unwrap_or_default();
        let mut parts = cell.split('`').skip(1).step_by(2);
        found.extend(parts.next().map(str::to_owned));
    }
    assert!(!found.is_empty(), "there is no table below `{heading}`");
    found
}

/// Words in quotes behind `=>`, or in a tuple there, within one function of a source.
fn words_of(path: &str, function: &str) -> BTreeSet<String> {
    let source = read(path);
    let start = source.find(function).unwrap_or_else(|| panic!("{path} has no `{function}`"));
    let body = source[start..].split("\n    }\n").next().unwrap().split("\n}\n").next().unwrap();
    let words = body.split("=>").skip(1).filter_map(|arm| {
        let arm = arm.trim_start().trim_start_matches(['{', '(']).trim_start().trim_start_matches('(');
        arm.strip_prefix('"')?.split('"').next().map(str::to_owned)
    });
    let words: BTreeSet<String> = words.collect();
    assert!(!words.is_empty(), "{path}: `{function}` names nothing");
    words
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The part of a source that is shipped.
fn shipped(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// Every `why` that a call can end with.
fn whys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in ["src/upstream", "src/contract", "src/ledger", "src/mcp"].into_iter().flat_map(sources) {
        if path.components().any(|part| part.as_os_str() == "tests")
            || ["tests.rs", "testing.rs", "fake.rs"].iter().any(|name| path.ends_with(name))
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let text = shipped(&text);
        for mark in ["why: \"", "settle_open(\"", "Some(\"not_", "Err((\n                \"", "Err((\""] {
            for (at, _) in text.match_indices(mark) {
                let word = &text[at..][mark.find('"').unwrap() + 1..];
                found.insert(word.split('"').next().unwrap().to_owned());
            }
        }
    }
    // the ways in which waiting for an answer ends: each a why, and a detail for the operator
    let peer = read("src/upstream/peer.rs");
    let waiting = peer.split("let (why, detail) = tokio::select! {").nth(1).unwrap().split("};").next().unwrap();
    found.extend(waiting.split("=> (\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    found.retain(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    found
}

#[test]
fn every_reason_code_is_documented_and_no_other() {
    let document = read("docs/reasons.md");
    let same = |heading: &str, code: BTreeSet<String>| {
        let told = rows(&document, heading);
        let missing: Vec<_> = code.difference(&told).collect();
        let invented: Vec<_> = told.difference(&code).collect();
        assert!(missing.is_empty(), "`{heading}` lacks {missing:?}");
        assert!(invented.is_empty(), "`{heading}` has {invented:?}, which no code gives");
    };
    same("Refused on the road", words_of("src/call/refused.rs", "fn code("));
    same("What makes a hold void", words_of("src/hold/book.rs", "pub fn code(self)"));
    same("Why an approver's act is refused", words_of("src/hold/book.rs", "pub fn code(&self)"));
    let refusals = ["src/oidc/provider.rs", "src/oidc/id_token.rs", "src/jws.rs"];
    let refusals = refusals.iter().flat_map(|path| words_of(path, "fn code("));
    same("Why a provider lets nobody in", refusals.collect());
    same("Why no account is connected", words_of("src/lease/connect.rs", "fn code("));
    same("Refused at the door", words_of("src/mcp/problem.rs", "fn code("));
    let unauthenticated = ["src/identity/refused.rs", "src/dpop.rs"].iter().flat_map(|path| words_of(path, "fn code("));
    same("Unauthenticated", unauthenticated.collect());
    same("Refused at the token endpoint", words_of("src/authority/refused.rs", "fn code("));
    same("Why a tool is not offered", words_of("src/contract/catalog.rs", "pub fn told("));
    same("What became of a policy", words_of("src/grant/explain.rs", "fn code("));
    let outcomes = words_of("src/ledger/entry.rs", "fn word(");
    let told = rows(&document, "How a forwarded call ended");
    assert!(outcomes.is_subset(&told), "an outcome is missing: {outcomes:?} {told:?}");
    let whys = whys();
    for why in ["timeout", "died", "cancelled", "bad_answer", "too_large", "stopping", "crash", "ledger", "not_sent"] {
        assert!(whys.contains(why), "`{why}` was not found in the code: look at how it is written there");
    }
    let told: BTreeSet<String> = told.difference(&outcomes).cloned().collect();
    let missing: Vec<_> = whys.difference(&told).collect();
    assert!(missing.is_empty(), "`How a forwarded call ended` lacks {missing:?}");
    for word in &told {
        let quoted = format!("\"{word}\"");
        let somewhere = sources("src").iter().any(|path| fs::read_to_string(path).unwrap().contains(&quoted));
        assert!(somewhere, "`{word}` is in no source");
    }
}

#[test]
fn every_code_and_operation_of_the_api_is_documented_and_no_other() {
    let document = read("docs/api.md");
    assert_eq!(rows(&document, "Errors"), words_of("src/http/problem.rs", "fn code("));
    let description: serde_json::Value = serde_json::from_str(&read("src/http/api/openapi.json")).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert(format!("{} {}", method.to_uppercase(), path.trim_start_matches("/api/v1")));
        }
    }
    described.remove("GET /openapi.json");
    let told = rows(&document, "The approvers' API").into_iter();
    let told: BTreeSet<String> = told.map(|row| row.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(told, described);
}

#[test]
fn status_and_rpc_codes_are_those_of_the_table() {
    let document = read("docs/reasons.md");
    let source = read("src/mcp/problem.rs");
    for code in ["-32700", "-32020", "-32021", "-32022", "-32601", "-32002", "-32602", "-32603", "-32600"] {
        assert!(source.contains(code) && document.contains(code), "{code}");
    }
    let exits = cli::Exit::Done.code()..=cli::Exit::Fault.code();
    for exit in exits {
        assert!(document.contains(&format!("\n| {exit} | ")), "exit code {exit}");
    }
}

/// What the reader of the configuration knows: it says so itself where a key is like none.
fn known_keys() -> BTreeSet<String> {
    let odd = "quite-like-nothing-that-is-known-anywhere";
    let known = |text: &str| -> Vec<String> {
        let errors = config::parse(Path::new("/house/countersign.toml"), text, &|_| None).unwrap_err();
        let error = errors.iter().find(|error| error.problem.contains(odd)).unwrap_or_else(|| panic!("{errors:?}"));
        let hint = error.hint.as_deref().unwrap().strip_prefix("known here: ").unwrap();
        hint.split(", ").map(str::to_owned).collect()
    };
    let mut keys = BTreeSet::new();
    for section in known(&format!("{odd} = 1")) {
        if section == "upstreams" {
            let command = known(&format!("[upstreams.a]\ncommand = [\"x\"]\n{odd} = 1"));
            keys.extend(command.iter().map(|key| format!("upstreams.NAME.{key}")));
            let auth = format!(
                "[upstreams.a]\nurl = \"https://x/\"\nauth = {{ kind = \"bearer\", token = \"t\", {odd} = 1 }}"
            );
            keys.extend(known(&auth).iter().map(|key| format!("upstreams.NAME.auth.{key}")));
        } else if section == "notify" {
            let webhook = known(&format!("[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"slack\"\n{odd} = 1"));
            keys.extend(webhook.iter().map(|key| format!("notify.webhook.{key}")));
            keys.insert("notify.command".to_owned());
        } else {
            if ["server", "console"].contains(&section.as_str()) {
                let tls = known(&format!("[{section}.tls]\ncert = \"c\"\nkey = \"k\"\n{odd} = 1"));
                keys.extend(tls.iter().map(|key| format!("{section}.tls.{key}")));
            }
            if section == "console" {
                let provider = format!(
                    "[console.providers.a]\nissuer = \"https://x\"\nclient_id = \"c\"\nroles = {{ a = \"b\" }}\n{odd} = 1"
                );
                keys.extend(known(&provider).iter().map(|key| format!("console.providers.NAME.{key}")));
            }
            if section == "identity" {
                let issuer = format!("[identity.issuers.a]\nissuer = \"https://x\"\n{odd} = 1");
                keys.extend(known(&issuer).iter().map(|key| format!("identity.issuers.NAME.{key}")));
                let asked = format!(
                    "[identity.issuers.a]\nissuer = \"https://x\"\nintrospection = {{ client_id = \"c\", client_secret = \"s\", {odd} = 1 }}"
                );
                keys.extend(known(&asked).iter().map(|key| format!("identity.issuers.NAME.introspection.{key}")));
                let domain = format!("[identity.spiffe.\"example.org\"]\nbundle = \"b\"\n{odd} = 1");
                keys.extend(known(&domain).iter().map(|key| format!("identity.spiffe.DOMAIN.{key}")));
                let authority = format!("[identity.certificates.a]\nca = \"c\"\nname = \"dns\"\n{odd} = 1");
                keys.extend(known(&authority).iter().map(|key| format!("identity.certificates.NAME.{key}")));
            }
            if section == "identity" {
                let delegation = known(&format!("[identity.delegation]\n{odd} = 1"));
                keys.extend(delegation.iter().map(|key| format!("identity.delegation.{key}")));
                let client = known(&format!("[identity.clients.a]\njwks = \"a.json\"\n{odd} = 1"));
                keys.extend(client.iter().map(|key| format!("identity.clients.NAME.{key}")));
            }
            keys.extend(known(&format!("[{section}]\n{odd} = 1")).iter().map(|key| format!("{section}.{key}")));
        }
    }
    // read only to say that it is not available
    keys.remove("store.url");
    // tables, of which each key has its row
    let tables = [
        "console.providers",
        "identity.issuers",
        "identity.issuers.NAME.introspection",
        "identity.spiffe",
        "identity.certificates",
        "identity.delegation",
        "identity.clients",
    ];
    keys.retain(|key| !key.ends_with(".tls") && !tables.contains(&key.as_str()));
    keys
}

#[test]
fn every_key_is_documented_and_no_other() {
    let (told, known) = (rows(&read("docs/configuration.md"), "Keys"), known_keys());
    assert_eq!(told, known);
}

#[test]
fn every_metric_and_variable_is_documented() {
    let document = read("docs/configuration.md");
    let text = countersign::observe::Metrics::default().render(&countersign::observe::Snapshot::default());
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(document.contains(&format!("`{name}")), "`{name}` is not documented");
    }
    for path in sources("src") {
        for (at, _) in fs::read_to_string(&path).unwrap().match_indices("COUNTERSIGN_") {
            let source = fs::read_to_string(&path).unwrap();
            let name: String =
                source[at..].chars().take_while(|letter| letter.is_ascii_uppercase() || *letter == '_').collect();
            assert!(document.contains(&format!("`{name}`")), "`{name}` is not documented");
        }
    }
}

/// The words of a command line, as a shell reads them; enough for what stands in documents.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => (quote, any) = (Some(letter), true),
            (None, '#') if word.is_empty() && !any => break,
            (None, letter) if letter.is_whitespace() => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            _ => word.push(letter),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

#[test]
fn every_command_line_parses() {
    let mut seen = 0;
    for block in all_blocks().iter().filter(|block| block.kind == "sh") {
        for line in block.text.lines().flat_map(|line| line.split("&&")) {
            let mut words = words(line);
            while words.first().is_some_and(|word| word.contains('=') && word.starts_with("COUNTERSIGN_")) {
                words.remove(0);
            }
            let cargo = words.iter().take(4).map(String::as_str).eq(["cargo", "run", "--release", "--"]);
            if cargo {
                words.drain(1..4);
                words[0] = "countersign".to_owned();
            }
            if words.first().is_none_or(|word| word != "countersign") {
                continue;
            }
            if let Some(at) = words.iter().position(|word| [">", "|", "2>"].contains(&word.as_str())) {
                words.truncate(at);
            }
            seen += 1;
            let parsed = cli::command().try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{}: {line}\n{}", block.place, parsed.unwrap_err());
        }
    }
    assert!(seen > 30, "{seen} command lines were found");
}

/// Contracts of the repository, and of the filesystem server as the documents name its tools.
fn catalog() -> Catalog {
    let mut contracts = file::read_all(&root().join("schemas")).unwrap();
    let files = UpstreamName::new("files").unwrap();
    let text = r#"{"name":"create_directory","inputSchema":{"type":"object","properties":{"path":{"type":"string"}},
        "required":["path"]},"annotations":{"readOnlyHint":false,"destructiveHint":false}}"#;
    let definition = countersign::json::parse(text.as_bytes(), &countersign::json::Limits::REQUEST).unwrap();
    let proposed = file::Contract::propose(&files, &definition, countersign::clock::Timestamp::UNIX_EPOCH).unwrap();
    contracts.push(Ok(proposed));
    let known = contracts.iter().filter_map(|contract| contract.as_ref().ok());
    let upstreams = known.map(|contract| (contract.upstream.clone(), None)).collect();
    Catalog::new(&contracts, &upstreams)
}

#[test]
fn every_sample_is_what_it_says() {
    let catalog = catalog();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut last_cedar = String::new();
    for block in all_blocks() {
        let Block { place, kind, text } = &block;
        let cedar = text.split_once("<<'CEDAR'\n").and_then(|(_, rest)| rest.split_once("\nCEDAR"));
        let (kind, text) = match cedar {
            Some((cedar, _)) => ("cedar", cedar),
            None => (kind.as_str(), text.as_str()),
        };
        *seen.entry(kind.to_owned()).or_default() += 1;
        match kind {
            "toml" => {
                let parsed = config::parse(Path::new("/house/countersign.toml"), text, &|_| None);
                assert!(parsed.is_ok(), "{place}: {:?}", parsed.unwrap_err());
            }
            // against the shipped example, or what the last sample of grants decides
            "toml table" | "toml decides" => {
                let example = || read("grants/examples/billing.cedar");
                let grants = if kind == "toml table" { example() } else { last_cedar.clone() };
                let grants = Grants::compile(&[Source { file: "billing.cedar".into(), text: grants }], &catalog);
                let now = countersign::clock::Clock::System.now();
                let ran = countersign::grant::tables::run(&grants.unwrap(), &catalog, Path::new(place), text, now);
                for case in ran.unwrap_or_else(|errors| panic!("{place}: {errors:?}")) {
                    assert!(case.passed, "{place}: {case:?}");
                }
            }
            "cedar" => {
                let source = Source { file: PathBuf::from(place), text: text.to_owned() };
                let compiled = Grants::compile(&[source], &catalog);
                assert!(compiled.is_ok(), "{place}: {:?}", compiled.unwrap_err());
                last_cedar = text.to_owned();
            }
            "json" => {
                let parsed = serde_json::from_str::<serde_json::Value>(text);
                assert!(parsed.is_ok(), "{place}: {:?}", parsed.unwrap_err());
            }
            "sh" | "text" | "ts" | "python" | "rust" => {}
            _ => panic!("{place}: `{kind}` is no kind of sample that is looked at"),
        }
    }
    for kind in ["toml", "toml table", "toml decides", "cedar", "json"] {
        assert!(seen.contains_key(kind), "no sample of {kind} was found");
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    plain
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    for (path, document) in documents() {
        for (at, _) in document.match_indices("](") {
            let target = document[at + 2..].split(')').next().unwrap();
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let here = root().join(&path);
            let file = if file.is_empty() { here } else { here.parent().unwrap().join(file) };
            assert!(file.exists(), "{path}: `{target}` leads nowhere");
            if !fragment.is_empty() {
                let text = fs::read_to_string(&file).unwrap();
                let there = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == fragment);
                assert!(there, "{path}: `{target}` names no heading");
            }
        }
    }
}

#[test]
fn every_test_named_is_there() {
    let mut seen = 0;
    for line in read("docs/status.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [promise, state, shown] = cells[..] else { panic!("a row has not three cells: {line}") };
        if promise == "promise" {
            continue;
        }
        assert!(["working", "partly", "not yet"].contains(&state), "{promise}: `{state}`");
        let mut file: Option<String> = None;
        let mut tests = 0;
        for name in shown.split('`').skip(1).step_by(2) {
            if name.starts_with("src/") || name.starts_with("tests/") {
                assert!(root().join(name).is_file(), "{promise}: there is no `{name}`");
                tests += usize::from(!name.ends_with(".rs") || name == "src/lib.rs");
                file = Some(read(name));
            } else if name.contains('_')
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
            {
                let Some(file) =
                    file.as_ref().filter(|_| !name.starts_with("countersign_") && name.matches('_').count() > 1)
                else {
                    continue;
                };
                assert!(file.contains(&format!("fn {name}(")), "{promise}: there is no `{name}` in the file before it");
                tests += 1;
            }
        }
        assert!(state != "working" || tests > 0, "{promise}: no test is named");
        seen += tests;
    }
    assert!(seen > 60, "{seen} tests are named");
}

#[test]
fn what_quickstart_prints_works_when_it_is_pasted_elsewhere() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut server = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["quickstart", "--dir", "it's here", "--listen", "127.0.0.1:0", "--console-listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .env_remove("COUNTERSIGN_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut printed = Vec::new();
    for line in BufReader::new(server.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let last = line.starts_with("What happened: ");
        printed.push(line);
        // it serves on, so that there is no end of its output to wait for
        if last {
            break;
        }
    }
    let last = printed.pop().unwrap();
    let mut told = Vec::new();
    let lines = printed.iter().filter(|line| line.contains(" call --agent ")).map(|line| line.trim());
    // the fourth waits for a person: `approving.rs` is one
    let lines = lines.take(3);
    for line in lines.chain(last.strip_prefix("What happened: ")) {
        let done = Command::new("sh").args(["-c", line]).current_dir(elsewhere.path()).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        told.push((done.status.code().unwrap(), text));
    }
    let _ended = server.kill();
    let _reaped = server.wait();
    let codes: Vec<i32> = told.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [0, 1, 1, 0], "{told:?}");

    // and the README shows what it says, but for the ids of calls
    let readme = read("README.md");
    let shown: Vec<Block> = blocks("README.md", &readme).into_iter().filter(|block| block.kind == "text").collect();
    for ((_, told), shown) in told.iter().take(3).zip(&shown) {
        let masked: Vec<String> = told
            .lines()
            .map(|line| match line.split_once("(call_") {
                Some((before, _)) => format!("{before}(call_…)"),
                None => line.to_owned(),
            })
            .collect();
        assert_eq!(masked, shown.text.lines().collect::<Vec<_>>(), "{}", shown.place);
    }
}

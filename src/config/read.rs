//! Reading `countersign.toml`: every error at once, each with its place and what to do.

mod delegation;
mod identity;
pub(crate) use identity::is_scope;
mod provider;
mod upstream_auth;
mod workload;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml_edit::{Document, Item, TableLike};

use super::{
    Config, Console, LedgerConfig, Network, NotifyConfig, Server, TlsFiles, Transport, UpstreamAuth, UpstreamConfig,
    WebhookConfig, WebhookFormat, units,
};
use crate::{contract::UpstreamName, grant::ConfigError, json::Digest};

/// What `${VAR}` is replaced by: the environment, given as a parameter.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads the file at `path`, with variables from this process's environment.
///
/// # Errors
/// Every error in it at once; no value that may be a secret is repeated in one.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let whole_file = |problem: String, hint: &str| {
        vec![ConfigError { file: path.to_owned(), line: 0, column: 0, problem, hint: Some(hint.to_owned()) }]
    };
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            whole_file("there is no such file".to_owned(), "`countersign init` makes one, `-C FILE` names another")
        }
        _ => whole_file(format!("cannot be read: {error}"), "give the account that runs countersign access to it"),
    })?;
    let absolute = std::path::absolute(path)
        .map_err(|error| whole_file(format!("has no absolute path: {error}"), "run it from a folder that exists"))?;
    parse(&absolute, &text, &|name| std::env::var(name).ok())
}

/// Reads the text of the file that lies (or would lie) at `path`.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str, environment: Environment<'_>) -> Result<Config, Vec<ConfigError>> {
    let reader = Reader { path, text, environment, errors: RefCell::default() };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            // toml's own message may run over several lines; the first says what is wrong
            let problem = error.message().lines().next().unwrap_or("this is not TOML").to_owned();
            reader.error(error.span(), problem, Some("see https://toml.io for how TOML is written".to_owned()));
            return Err(reader.errors.into_inner());
        }
    };
    let config = reader.config(document.as_table());
    let mut errors = reader.errors.into_inner();
    if errors.is_empty() {
        return Ok(config);
    }
    errors.sort();
    errors.dedup();
    Err(errors)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    environment: Environment<'a>,
    errors: RefCell<Vec<ConfigError>>,
}

/// One table of the file, and which of its keys were asked for.
struct Section<'a> {
    reader: &'a Reader<'a>,
    name: String,
    table: Option<&'a dyn TableLike>,
    place: Option<Range<usize>>,
    known: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    fn error(&self, place: Option<Range<usize>>, problem: String, hint: Option<String>) {
        let (line, column) = place.map_or((0, 0), |place| self.line_column(place.start));
        self.errors.borrow_mut().push(ConfigError { file: self.path.to_owned(), line, column, problem, hint });
    }

    fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before.get(line_start..).unwrap_or_default().chars().count() + 1)
    }

    fn config(&self, root: &dyn TableLike) -> Config {
        let folder = self.path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut top = Section { reader: self, name: String::new(), table: Some(root), place: None, known: Vec::new() };
        let (server, server_listen) = Self::server(top.section("server"), &folder);
        let (console, console_listen) = Self::console(top.section("console"), &folder);
        if server.listen == console.listen && server.listen.port() != 0 {
            self.error(
                console_listen.or(server_listen),
                format!("`server.listen` and `console.listen` are both `{}`", server.listen),
                Some("give the console a port of its own, such as 7401".to_owned()),
            );
        }
        let mut store = top.section("store");
        let data = folder.join(store.string("path").unwrap_or_else(|| "data".to_owned()));
        if let Some((_, place)) = store.item("url") {
            let hint = "use `path`, the embedded store".to_owned();
            self.error(place, "`store.url` is not available in this version".to_owned(), Some(hint));
        }
        store.finish();
        let ledger = Self::ledger(top.section("ledger"));
        let identity = top.section("identity").identity(&folder, server.tls.is_some());
        let notify = self.notify(top.section("notify"));
        let upstreams = self.upstreams(&mut top, &folder);
        top.finish();
        Config { folder, server, console, data, ledger, identity, notify, upstreams }
    }

    fn server(mut section: Section<'_>, folder: &Path) -> (Server, Option<Range<usize>>) {
        let listen_place = section.place_of("listen");
        let server = Server {
            listen: section.address("listen", SocketAddr::from(([127, 0, 0, 1], 7400))),
            url: section.public_url("url"),
            tls: section.tls(folder),
            behind_proxy: section.boolean("behind_proxy", false),
            trusted_proxies: section.networks("trusted_proxies"),
            allowed_hosts: section.strings("allowed_hosts").unwrap_or_default(),
            allowed_origins: section.strings("allowed_origins").unwrap_or_default(),
            max_body: section.size("max_body", 4 << 20, 64 << 20),
            max_connections: section.count("max_connections", 1_024, 1_000_000),
            drain: section.duration("drain", Duration::from_secs(10)),
        };
        section.check_door(server.listen, server.tls.is_some(), server.behind_proxy);
        section.finish();
        (server, listen_place)
    }

    fn console(mut section: Section<'_>, folder: &Path) -> (Console, Option<Range<usize>>) {
        let listen_place = section.place_of("listen");
        let console = Console {
            listen: section.address("listen", SocketAddr::from(([127, 0, 0, 1], 7401))),
            url: None,
            tls: section.tls(folder),
            allowed_hosts: section.strings("allowed_hosts").unwrap_or_default(),
            behind_proxy: section.boolean("behind_proxy", false),
            trusted_proxies: section.networks("trusted_proxies"),
            providers: section.providers(),
        };
        let console = Console { url: section.console_url("url", console.secure()), ..console };
        section.check_door(console.listen, console.tls.is_some(), console.behind_proxy);
        section.finish();
        (console, listen_place)
    }

    fn ledger(mut section: Section<'_>) -> LedgerConfig {
        let batched_reads = match section.string("reads").as_deref() {
            None | Some("durable") => false,
            Some("batched") => true,
            Some(_) => {
                section.error("reads", "is neither `durable` nor `batched`", "`durable` is the default");
                false
            }
        };
        let origin = section.string("origin").unwrap_or_else(|| "countersign.local/log".to_owned());
        // C2SP tlog-checkpoint: a non-empty line without plus signs or spaces, as it names a key too
        let plain = |letter: char| letter.is_ascii_graphic() && letter != '+';
        if origin.is_empty() || origin.len() > 128 || !origin.chars().all(plain) {
            let hint = "a name such as `example.com/countersign`: no spaces, no `+`, at most 128 letters";
            section.error("origin", "is no name of a log", hint);
        }
        let keep_payloads = section.boolean("payloads", true);
        section.finish();
        LedgerConfig { batched_reads, origin, keep_payloads }
    }

    fn notify(&self, mut section: Section<'_>) -> NotifyConfig {
        let command = section.strings("command");
        if command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
            section.error(
                "command",
                "names no program",
                "write the program and its arguments: `[\"notify-send\", \"a hold\"]`",
            );
        }
        let mut webhooks: Vec<WebhookConfig> = Vec::new();
        for entry in section.tables("webhook", "write `[[notify.webhook]]` and its keys below") {
            let place = entry.place_of("name").or_else(|| entry.place.clone());
            let Some(webhook) = Self::webhook(entry) else { continue };
            if webhooks.iter().any(|known| known.name == webhook.name) {
                let hint = "give each a `name` of its own: deliveries are remembered by it".to_owned();
                self.error(place, format!("there are two webhooks `{}`", webhook.name), Some(hint));
                continue;
            }
            webhooks.push(webhook);
        }
        section.finish();
        NotifyConfig { webhooks, command: command.unwrap_or_default() }
    }

    fn webhook(mut section: Section<'_>) -> Option<WebhookConfig> {
        let url = section.string("url");
        let secret = section.string("secret");
        let format = match section.string("format").as_deref() {
            None | Some("generic") => WebhookFormat::Generic,
            Some("slack") => WebhookFormat::Slack,
            Some(_) => {
                section.error("format", "is neither `generic` nor `slack`", "`generic` is the default");
                WebhookFormat::Generic
            }
        };
        let name = section.string("name");
        let allow_private = section.boolean("allow_private", false);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name
            .as_ref()
            .is_some_and(|name| !(1..=32).contains(&name.len()) || !name.bytes().all(plain) || name == "command")
        {
            section.error("name", "is no name for a webhook", "use at most 32 lower-case letters, digits and hyphens");
        }
        match secret.as_ref().map(String::len) {
            None if format == WebhookFormat::Generic && section.place_of("secret").is_none() => {
                let hint = "write `secret = \"${NAME}\"`: the receiver checks the signature with it";
                section.error("secret", "is missing", hint);
            }
            Some(0..16) => section.error("secret", "is too short to be one", "make one up of at least 16 letters"),
            _ => {}
        }
        if url.is_none() && section.place_of("url").is_none() {
            section.error("url", "is missing", "write `url = \"https://hooks.example.com/…\"`");
        }
        let url = url.and_then(|url| section.webhook_url(&url, allow_private));
        section.finish();
        let url = url?;
        let name = name.unwrap_or_else(|| {
            // the path of a webhook's URL may be a secret, and a file's name is none
            let digest = Digest::of(url.as_str().as_bytes()).to_string();
            format!("webhook-{}", digest.get(7..19).unwrap_or_default())
        });
        Some(WebhookConfig { name, url, secret: secret.unwrap_or_default(), format, allow_private })
    }

    fn upstreams(&self, top: &mut Section<'_>, folder: &Path) -> BTreeMap<UpstreamName, UpstreamConfig> {
        let section = top.section("upstreams");
        let Some(table) = section.table else { return BTreeMap::new() };
        let mut upstreams = BTreeMap::new();
        for (name, item) in table.iter() {
            let place = table.key(name).and_then(toml_edit::Key::span);
            let Some(upstream_name) = UpstreamName::new(name) else {
                let hint = "a name has at most 32 lower-case letters, digits and hyphens, and no hyphen first";
                self.error(place, format!("`{name}` is no name for an upstream"), Some(hint.to_owned()));
                continue;
            };
            let path = format!("upstreams.{name}");
            let Some(entry) = item.as_table_like() else {
                let hint = format!("write `[{path}]` and its keys below");
                self.error(place, format!("`{path}` is not a table"), Some(hint));
                continue;
            };
            let entry = Section { reader: self, name: path, table: Some(entry), place, known: Vec::new() };
            if let Some(upstream) = Self::upstream(entry, folder) {
                upstreams.insert(upstream_name, upstream);
            }
        }
        upstreams
    }

    fn upstream(mut section: Section<'_>, folder: &Path) -> Option<UpstreamConfig> {
        let command = section.strings("command");
        let env = section.map("env");
        let cwd = section.string("cwd").map(|cwd| folder.join(cwd));
        let url = section.string("url");
        let headers = section.map("headers");
        let allow_http = section.boolean("allow_http", false);
        let auth = section.upstream_auth(folder, url.as_deref());
        let stdio_only = ["env", "cwd"].into_iter().find(|key| section.place_of(key).is_some());
        let http_only = ["headers", "auth", "allow_http"].into_iter().find(|key| section.place_of(key).is_some());
        let transport = match (command, url) {
            (Some(command), None) => {
                if let Some(key) = http_only {
                    section.error(key, "goes with `url`, and this upstream has `command`", "remove it");
                }
                if command.first().is_none_or(String::is_empty) {
                    let hint = "write the program and its arguments: `command = [\"npx\", \"-y\", \"server\"]`";
                    section.error("command", "names no program", hint);
                }
                Some(Transport::Stdio { command, env, cwd: Some(cwd.unwrap_or_else(|| folder.to_owned())) })
            }
            (None, Some(url)) => {
                if let Some(key) = stdio_only {
                    section.error(key, "goes with `command`, and this upstream has `url`", "remove it");
                }
                section.check_upstream_url(&url, allow_http);
                let shown = match &auth {
                    UpstreamAuth::None => None,
                    UpstreamAuth::Header { name, .. } => Some(name.as_str()),
                    UpstreamAuth::OAuth(_) => Some("authorization"),
                };
                if let Some(name) = shown.filter(|shown| headers.keys().any(|name| name.eq_ignore_ascii_case(shown))) {
                    section.error("auth", &format!("and `headers` both set `{name}`"), "keep one of them");
                }
                section.check_headers(&headers);
                Some(Transport::Http { url, headers })
            }
            (Some(_), Some(_)) => {
                section.error("url", "and `command` are both there", "keep the one that is meant");
                None
            }
            (None, None) => {
                let hint = "a program to start (`command = […]`) or an address (`url = \"https://…\"`)";
                // a `command` or `url` that is there but wrong has its own error already
                if section.place_of("command").is_none() && section.place_of("url").is_none() {
                    let problem = format!("`{}` has neither `command` nor `url`", section.name);
                    section.reader.error(section.place.clone(), problem, Some(hint.to_owned()));
                }
                None
            }
        };
        let stdio = matches!(transport, Some(Transport::Stdio { .. }));
        let timeout = section.duration("timeout", Duration::from_secs(30));
        let concurrency = section.count("concurrency", if stdio { 32 } else { 64 }, 10_000);
        let queue = section.count("queue", 256, 100_000);
        let refresh = section.duration("refresh", Duration::from_secs(60));
        let max_result = section.size("max_result", 16 << 20, 256 << 20);
        let labels = section.strings("labels").unwrap_or_default();
        section.finish();
        Some(UpstreamConfig { transport: transport?, auth, timeout, concurrency, queue, refresh, max_result, labels })
    }
}

impl<'a> Section<'a> {
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn place_of(&self, key: &str) -> Option<Range<usize>> {
        let (name, item) = self.table?.get_key_value(key)?;
        name.span().or_else(|| item.span())
    }

    fn error(&self, key: &str, problem: &str, hint: &str) {
        let place = self.place_of(key).or_else(|| self.place.clone());
        self.reader.error(place, format!("`{}` {problem}", self.path(key)), Some(hint.to_owned()));
    }

    fn item(&mut self, key: &'static str) -> Option<(&'a Item, Option<Range<usize>>)> {
        self.known.push(key);
        let (name, item) = self.table?.get_key_value(key)?;
        Some((item, item.span().or_else(|| name.span())))
    }

    fn section(&mut self, key: &'static str) -> Section<'a> {
        let name = self.path(key);
        let place = self.place_of(key);
        let table = self.item(key).and_then(|(item, _)| {
            let table = item.as_table_like();
            if table.is_none() {
                self.error(key, "is not a table", "write `[name]` and its keys below");
            }
            table
        });
        Section { reader: self.reader, name, table, place, known: Vec::new() }
    }

    /// The tables of `[[key]]`.
    fn tables(&mut self, key: &'static str, hint: &str) -> Vec<Section<'a>> {
        let Some((item, place)) = self.item(key) else { return Vec::new() };
        let section = |table: &'a dyn TableLike, place: Option<Range<usize>>| Section {
            reader: self.reader,
            name: self.path(key),
            table: Some(table),
            place,
            known: Vec::new(),
        };
        let inline = |value: &'a toml_edit::Value| value.as_inline_table().map(|table| section(table, value.span()));
        let found: Option<Vec<Section<'a>>> = match (item.as_array_of_tables(), item.as_array()) {
            (Some(tables), _) => Some(tables.iter().map(|table| section(table, table.span())).collect()),
            (None, Some(values)) => values.iter().map(inline).collect(),
            (None, None) => None,
        };
        found.unwrap_or_else(|| {
            self.reader.error(place, format!("`{}` is not a list of tables", self.path(key)), Some(hint.to_owned()));
            Vec::new()
        })
    }

    /// Says of every key that nobody asked for that it is unknown, and which one may be meant.
    fn finish(self) {
        let Some(table) = self.table else { return };
        for (key, _) in table.iter().filter(|(key, _)| !self.known.contains(key)) {
            let near = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, key), *known)).min();
            let hint = match near {
                Some((distance, known)) if distance <= 2.max(known.len() / 3) => format!("did you mean `{known}`?"),
                _ => format!("known here: {}", self.known.join(", ")),
            };
            let place = table.key(key).and_then(toml_edit::Key::span);
            self.reader.error(place, format!("unknown key `{}`", self.path(key)), Some(hint));
        }
    }

    fn string(&mut self, key: &'static str) -> Option<String> {
        let (item, place) = self.item(key)?;
        let path = self.path(key);
        self.text_of(item.as_value(), place, &path)
    }

    /// The string, its variables replaced.
    fn text_of(&self, value: Option<&toml_edit::Value>, place: Option<Range<usize>>, path: &str) -> Option<String> {
        let Some(text) = value.and_then(toml_edit::Value::as_str) else {
            let hint = "put it in quotes".to_owned();
            self.reader.error(place, format!("`{path}` is not a string"), Some(hint));
            return None;
        };
        match expand(text, self.reader.environment) {
            Ok(text) => Some(text),
            Err(Unexpanded::Missing(variable)) => {
                let hint = format!("set it, or give a default: `${{{variable}:-…}}`");
                let problem = format!("`{path}` needs the environment variable `{variable}`, which is not set");
                self.reader.error(place, problem, Some(hint));
                None
            }
            Err(Unexpanded::Malformed) => {
                let hint = "write `${NAME}` or `${NAME:-default}`; `$${` stands for `${` itself".to_owned();
                self.reader.error(place, format!("`{path}` has a variable that cannot be read"), Some(hint));
                None
            }
        }
    }

    fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        let (item, place) = self.item(key)?;
        let path = self.path(key);
        let Some(array) = item.as_array() else {
            let hint = "write a list: `[\"one\", \"two\"]`".to_owned();
            self.reader.error(place, format!("`{path}` is not a list of strings"), Some(hint));
            return None;
        };
        let texts = array.iter().enumerate().map(|(index, value)| {
            let place = value.span().or_else(|| place.clone());
            self.text_of(Some(value), place, &format!("{path}[{index}]"))
        });
        // every item is read, so that every error in the list is told
        let texts: Vec<Option<String>> = texts.collect();
        texts.into_iter().collect()
    }

    fn map(&mut self, key: &'static str) -> BTreeMap<String, String> {
        let Some((item, place)) = self.item(key) else { return BTreeMap::new() };
        let path = self.path(key);
        let Some(table) = item.as_table_like() else {
            let hint = "write `{ NAME = \"value\" }`".to_owned();
            self.reader.error(place, format!("`{path}` is not a table of strings"), Some(hint));
            return BTreeMap::new();
        };
        let entries = table.iter().filter_map(|(name, item)| {
            let place = item.span().or_else(|| place.clone());
            Some((name.to_owned(), self.text_of(item.as_value(), place, &format!("{path}.{name}"))?))
        });
        entries.collect()
    }

    fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some((item, _)) = self.item(key) else { return default };
        item.as_bool().unwrap_or_else(|| {
            self.error(key, "is neither `true` nor `false`", "write it without quotes");
            default
        })
    }

    fn count(&mut self, key: &'static str, default: usize, most: usize) -> usize {
        let Some((item, _)) = self.item(key) else { return default };
        let count = item.as_integer().and_then(|count| usize::try_from(count).ok());
        count.filter(|count| (1..=most).contains(count)).unwrap_or_else(|| {
            self.error(key, &format!("is no whole number from 1 to {most}"), "write it without quotes");
            default
        })
    }

    fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        if self.item(key).is_none() {
            return default;
        }
        let Some(text) = self.string(key) else { return default };
        units::duration(&text).filter(|length| !length.is_zero()).unwrap_or_else(|| {
            self.error(key, "is no length of time", "write it as `500ms`, `30s`, `1m` or `2h`");
            default
        })
    }

    fn size(&mut self, key: &'static str, default: usize, most: usize) -> usize {
        if self.item(key).is_none() {
            return default;
        }
        let Some(text) = self.string(key) else { return default };
        match units::size(&text) {
            Some(size) if (1..=most).contains(&size) => size,
            Some(_) => {
                self.error(key, &format!("is not between 1 byte and {} MiB", most >> 20), "write it as `4MiB`");
                default
            }
            None => {
                self.error(key, "is no size", "write it as `512KiB` or `4MiB`");
                default
            }
        }
    }

    fn address(&mut self, key: &'static str, default: SocketAddr) -> SocketAddr {
        let Some(text) = self.string(key) else { return default };
        parse_address(&text).unwrap_or_else(|| {
            self.error(key, "is no address with a port", "write it as `127.0.0.1:7400` or `[::1]:7400`");
            default
        })
    }

    /// `cert` and `key` of `[….tls]`, from the file's folder.
    fn tls(&mut self, folder: &Path) -> Option<TlsFiles> {
        let place = self.place_of("tls");
        let mut tls = self.section("tls");
        let (cert, key) = (tls.string("cert"), tls.string("key"));
        tls.place = Some(place?);
        for file in ["cert", "key"] {
            if tls.table.is_some() && tls.place_of(file).is_none() {
                tls.error(file, "is missing", "write `cert = \"cert.pem\"` and `key = \"key.pem\"`, both in PEM");
            }
        }
        tls.finish();
        Some(TlsFiles { cert: folder.join(cert?), key: folder.join(key?) })
    }

    /// Networks, as `10.0.0.0/8`, or single addresses.
    fn networks(&mut self, key: &'static str) -> Vec<Network> {
        let Some(texts) = self.strings(key) else { return Vec::new() };
        if texts.is_empty() {
            self.error(key, "names nobody", "write `[\"10.0.0.0/8\"]`, or leave it out");
        }
        let read = texts.iter().filter_map(|text| {
            let network = Network::read(text);
            if network.is_none() {
                let hint = "write it as `10.0.0.0/8`, `fd00::/8` or `10.1.2.3`; behind the prefix all bits are 0";
                self.error(key, &format!("has `{text}`, which is no network"), hint);
            }
            network
        });
        read.collect()
    }

    /// What is asked of a listener whatever it serves.
    fn check_door(&self, listen: SocketAddr, tls: bool, behind_proxy: bool) {
        if !listen.ip().is_loopback() && !tls && !behind_proxy && self.place_of("tls").is_none() {
            let hint = format!(
                "listen on 127.0.0.1, give it a certificate (`[{}]`), or put a proxy that ends TLS in front and set `{} = true`",
                self.path("tls"),
                self.path("behind_proxy")
            );
            self.error("listen", "can be reached from other machines without TLS", &hint);
        }
        if !behind_proxy && self.place_of("trusted_proxies").is_some() {
            let hint = format!("set `{} = true`, or remove it", self.path("behind_proxy"));
            self.error("trusted_proxies", "goes with `behind_proxy`", &hint);
        }
    }

    /// The origin that browsers reach the console by.
    fn console_url(&mut self, key: &'static str, secure: bool) -> Option<String> {
        let text = self.string(key)?;
        let url = reqwest::Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let plain = url.filter(|url| {
            let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            url.has_host() && bare && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = plain else {
            let hint = "write it as `https://countersign.example.com`: the console has the whole of its host";
            self.error(key, "is no origin", hint);
            return None;
        };
        match (url.scheme(), secure) {
            ("https", false) if self.place_of("tls").is_none() => {
                let hint = format!(
                    "give it a certificate (`[{}]`), or set `{} = true`",
                    self.path("tls"),
                    self.path("behind_proxy")
                );
                self.error(key, "says https, and nothing ends TLS", &hint);
            }
            ("http", true) => self.error(key, "says http, and it is reached by TLS", "write `https://`"),
            ("http", false) if !is_loopback(&url) => {
                let hint = "browsers on other machines need https: give it a certificate, or set `behind_proxy`";
                self.error(key, "is not encrypted and not on this machine", hint);
            }
            _ => {}
        }
        Some(url.origin().ascii_serialization())
    }

    fn public_url(&mut self, key: &'static str) -> Option<String> {
        let text = self.string(key)?;
        let url = reqwest::Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let plain = url.filter(|url| {
            url.has_host() && url.query().is_none() && url.fragment().is_none() && url.username().is_empty()
        });
        if plain.is_none() {
            self.error(key, "is no URL of `/mcp`", "write it as `https://countersign.example.com/mcp`");
        }
        plain.map(|_| text)
    }

    fn check_upstream_url(&self, text: &str, allow_http: bool) {
        let Ok(url) = reqwest::Url::parse(text) else {
            self.error("url", "is no URL", "write it as `https://tools.example.com/mcp`");
            return;
        };
        if !url.username().is_empty() || url.password().is_some() {
            let hint = "put the credential into `headers` or `auth`";
            self.error("url", "has a user or a password in it", hint);
        }
        match url.scheme() {
            "https" => {}
            "http" if allow_http || is_loopback(&url) => {}
            "http" => {
                let hint = "use https, or say `allow_http = true` when the network is yours";
                self.error("url", "is not encrypted and not on this machine", hint);
            }
            _ => self.error("url", "is neither http nor https", "write it as `https://tools.example.com/mcp`"),
        }
    }

    /// The URL of a webhook: `https`, or `http` to this machine where that is said to be meant.
    fn webhook_url(&self, text: &str, allow_private: bool) -> Option<reqwest::Url> {
        const LIKE: &str = "write it as `https://hooks.example.com/…`";
        let Some(url) = reqwest::Url::parse(text).ok().filter(reqwest::Url::has_host) else {
            self.error("url", "is no URL", LIKE);
            return None;
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.error("url", "has a user or a password in it", "the receiver knows us by the signature");
            return None;
        }
        match url.scheme() {
            "https" => Some(url),
            "http" if is_loopback(&url) && allow_private => Some(url),
            "http" if is_loopback(&url) => {
                self.error("url", "is on this machine", "say `allow_private = true` if that is meant");
                None
            }
            "http" => {
                self.error("url", "is not encrypted", "use https; http is for receivers on this machine only");
                None
            }
            _ => {
                self.error("url", "is no https URL", LIKE);
                None
            }
        }
    }

    fn check_headers(&self, headers: &BTreeMap<String, String>) {
        for (name, value) in headers {
            let named = axum::http::HeaderName::from_bytes(name.as_bytes()).is_ok();
            if !named || axum::http::HeaderValue::from_str(value).is_err() {
                let hint = "names have letters, digits and hyphens; values have no line breaks";
                self.error("headers", &format!("has an entry `{name}` that no HTTP header can be"), hint);
            }
        }
    }
}

/// An address with a port; `localhost` is 127.0.0.1.
pub(crate) fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[derive(Debug, PartialEq, Eq)]
enum Unexpanded {
    Missing(String),
    Malformed,
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` stands for `${` itself, and a lone `$` for itself.
/// What a variable holds is not looked at again. A variable that is set but empty counts as not set
/// where there is a default.
fn expand(text: &str, environment: Environment<'_>) -> Result<String, Unexpanded> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at_checked(at).ok_or(Unexpanded::Malformed)?;
        let inside = from.get(2..).ok_or(Unexpanded::Malformed)?;
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = inside;
            continue;
        }
        out.push_str(before);
        let (variable, after) = inside.split_once('}').ok_or(Unexpanded::Malformed)?;
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        if !is_variable(name) {
            return Err(Unexpanded::Malformed);
        }
        match (environment(name), default) {
            (Some(value), None) => out.push_str(&value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(&value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => return Err(Unexpanded::Missing(name.to_owned())),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether a name can be an environment variable's.
pub(super) fn is_variable(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !name.is_empty() && name.chars().all(plain) && !name.starts_with(|letter: char| letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::Secret;

    fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
        parse(Path::new("/house/countersign.toml"), text, &|name| match name {
            "SET" => Some("set".to_owned()),
            "EMPTY" => Some(String::new()),
            "SECRET" => Some("hunter2".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn an_empty_file_is_a_house_with_its_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:7400");
        assert_eq!(config.console.listen.to_string(), "127.0.0.1:7401");
        assert_eq!(config.data, Path::new("/house/data"));
        assert_eq!(config.server.max_body, 4 << 20);
        assert_eq!(config.server.max_connections, 1_024);
        assert_eq!(config.server.drain, Duration::from_secs(10));
        assert_eq!(config.identity.max_ttl, Duration::from_secs(86_400));
        assert_eq!(config.endpoint(), "http://127.0.0.1:7400/mcp");
        assert!(!config.ledger.batched_reads && config.ledger.keep_payloads);
    }

    #[test]
    fn a_door_with_tls_may_listen_anywhere_and_its_urls_say_https() {
        let config = read(
            "[server]\nlisten = \"0.0.0.0:7400\"\ntls = { cert = \"tls/cert.pem\", key = \"/etc/key.pem\" }\n\
             [console]\nlisten = \"[::]:7401\"\n[console.tls]\ncert = \"c\"\nkey = \"k\"\n",
        )
        .unwrap();
        let files = TlsFiles { cert: "/house/tls/cert.pem".into(), key: "/etc/key.pem".into() };
        assert_eq!(config.server.tls, Some(files));
        assert_eq!(config.endpoint(), "https://0.0.0.0:7400/mcp");
        assert_eq!(config.console_url(), "https://[::]:7401");
        assert!(config.console.secure());
    }

    #[test]
    fn the_console_is_linked_to_by_its_url() {
        let config = read("").unwrap();
        assert_eq!((config.console_url().as_str(), config.console.secure()), ("http://127.0.0.1:7401", false));
        let config = read("[console]\nurl = \"http://LOCALHOST:7401/\"").unwrap();
        assert_eq!((config.console_url().as_str(), config.console.secure()), ("http://localhost:7401", false));
        let config = read(
            "[console]\nbehind_proxy = true\nurl = \"https://Approve.Example:443\"\n\
             trusted_proxies = [\"10.0.0.0/8\", \"::1\"]",
        )
        .unwrap();
        assert_eq!((config.console_url().as_str(), config.console.secure()), ("https://approve.example", true));
        let trusts = |address: &str| {
            let address = address.parse().unwrap();
            config.console.trusted_proxies.iter().any(|network| network.contains(address))
        };
        assert!(trusts("10.9.8.7") && trusts("::1") && !trusts("11.0.0.1") && !trusts("::2"));
    }

    #[test]
    fn upstreams_get_their_transport_and_their_defaults() {
        let config = read(
            "[upstreams.files]\ncommand = [\"npx\", \"${SET}\"]\nenv = { A = \"${NOT:-b}\", E = \"${EMPTY:-c}\" }\n\
             [upstreams.crm]\nurl = \"https://crm.example/mcp\"\nauth = { kind = \"bearer\", token = \"${SECRET}\" }\n\
             timeout = \"1m\"\nlabels = [\"pii\"]\n",
        )
        .unwrap();
        let files = &config.upstreams[&UpstreamName::new("files").unwrap()];
        let Transport::Stdio { command, env, cwd } = &files.transport else { panic!("{files:?}") };
        assert_eq!(command, &["npx", "set"]);
        assert_eq!(env["A"], "b");
        assert_eq!(env["E"], "c");
        assert_eq!(cwd.as_deref(), Some(Path::new("/house")));
        assert_eq!((files.concurrency, files.queue, files.max_result), (32, 256, 16 << 20));
        let crm = &config.upstreams[&UpstreamName::new("crm").unwrap()];
        let secret = Secret::Given("hunter2".to_owned().into());
        let bearer = UpstreamAuth::Header { name: "authorization".to_owned(), before: "Bearer ", value: secret };
        assert_eq!((&crm.auth, &files.auth), (&bearer, &UpstreamAuth::None));
        assert_eq!((crm.concurrency, crm.timeout, crm.refresh), (64, Duration::from_secs(60), Duration::from_secs(60)));
        assert!(!format!("{config:?}").contains("hunter2"), "a secret is in the Debug form");
    }

    #[test]
    fn what_a_tool_server_is_shown_is_read_by_its_kind() {
        use crate::config::{ClientAuth, Flow, OAuthServer};
        let read = |auth: &str| {
            let text = format!("[upstreams.a]\nurl = \"https://x.example/mcp?key=1\"\nauth = {{ {auth} }}\n");
            let mut config = super::parse(Path::new("/house/countersign.toml"), &text, &|name| {
                (name == "SECRET").then(|| "hunter2".to_owned())
            });
            let read = config.as_mut().map(|config| config.upstreams.pop_first().unwrap().1.auth);
            read.map_err(|errors| errors.iter().map(ToString::to_string).collect::<String>())
        };
        let file = UpstreamAuth::Header {
            name: "x-api-key".to_owned(),
            before: "",
            value: Secret::File("/house/keys/a".into()),
        };
        assert_eq!(read("kind = \"header\", name = \"X-Api-Key\", file = \"keys/a\""), Ok(file));
        assert_eq!(read("kind = \"none\""), Ok(UpstreamAuth::None));
        let of = |kind: &str, more: &str| {
            let read = read(&format!("kind = \"{kind}\", client_id = \"c\", client_secret = \"${{SECRET}}\", {more}"));
            match read {
                Ok(UpstreamAuth::OAuth(oauth)) => *oauth,
                other => panic!("{kind} {more}: {other:?}"),
            }
        };
        let oauth = of("client_credentials", "issuer = \"https://as.example\"");
        assert_eq!(oauth.server, OAuthServer::Issuer("https://as.example".to_owned()));
        assert_eq!(oauth.resource.as_deref(), Some("https://x.example/mcp"), "a key behind `?` travels nowhere else");
        assert!(!format!("{oauth:?}").contains("hunter2"));
        let oauth =
            of("token_exchange", "token_url = \"https://as.example/t\", resource = \"\", client_auth = \"post\"");
        assert_eq!(
            (oauth.resource, oauth.client_auth, oauth.flow),
            (None, Some(ClientAuth::Post), Flow::TokenExchange)
        );
        let oauth = of("refresh_token", "issuer = \"https://as.example\", refresh_token_file = \"r\"");
        assert_eq!(oauth.flow, Flow::RefreshToken(Secret::File("/house/r".into())));
        let issuer = "issuer = \"https://as.example\"";
        for (auth, problem) in [
            ("kind = \"header\", name = \"Host\", value = \"x\"", "not for configuration"),
            ("kind = \"header\", name = \"Mcp-Method\", value = \"x\"", "not for configuration"),
            ("kind = \"header\", name = \"a b\", value = \"x\"", "no name of a header"),
            ("kind = \"header\", value = \"${SECRET}\"", "`upstreams.a.auth.name` is missing"),
            ("kind = \"header\", name = \"X-Key\"", "`upstreams.a.auth.value` is missing"),
            ("kind = \"header\", name = \"X-Key\", value = \"\"", "is empty"),
            ("kind = \"header\", name = \"X-Key\", value = \"${SECRET}\", file = \"f\"", "are both there"),
            ("kind = \"bearer\", token = \"${SECRET}\", scopes = [\"x\"]", "does not go with the kind `bearer`"),
            ("kind = \"bearer\", token = \"${SECRET}\", tokn = \"x\"", "unknown key"),
            (
                &format!("kind = \"client_credentials\", client_id = \"c\", {issuer}"),
                "`upstreams.a.auth.client_secret` is missing",
            ),
            (&format!("kind = \"authorization_code\", {issuer}"), "`upstreams.a.auth.client_id` is missing"),
            (&format!("kind = \"authorization_code\", client_id = \"a b\", {issuer}"), "is no client's id"),
            ("kind = \"authorization_code\", client_id = \"c\"", "`upstreams.a.auth.issuer` is missing"),
            (
                "kind = \"authorization_code\", client_id = \"c\", token_url = \"https://a/t\"",
                "authorization_url` is missing",
            ),
            (
                &format!("kind = \"authorization_code\", client_id = \"c\", {issuer}, token_url = \"https://a/t\""),
                "are both there",
            ),
            (
                "kind = \"authorization_code\", client_id = \"c\", token_url = \"http://a/t\", authorization_url = \"https://a/a\"",
                "is not https",
            ),
            (
                "kind = \"authorization_code\", client_id = \"c\", token_url = \"http://127.0.0.1/t\", authorization_url = \"https://a/a\"",
                "on this machine",
            ),
            (
                "kind = \"authorization_code\", client_id = \"c\", token_url = \"https://u:hunter2@a/t\", authorization_url = \"https://a/a\"",
                "is no URL",
            ),
            (
                &format!("kind = \"refresh_token\", client_id = \"c\", {issuer}"),
                "`upstreams.a.auth.refresh_token` is missing",
            ),
            (&format!("kind = \"authorization_code\", client_id = \"c\", {issuer}, scopes = [\"a b\"]"), "is no scope"),
            (
                &format!("kind = \"authorization_code\", client_id = \"c\", {issuer}, resource = \"crm\""),
                "no absolute URL",
            ),
            (
                &format!("kind = \"authorization_code\", client_id = \"c\", {issuer}, client_auth = \"jwt\""),
                "neither `basic` nor `post`",
            ),
        ] {
            let error = read(auth).expect_err(auth);
            assert!(error.contains(problem) && error.matches("countersign.toml:").count() == 1, "{auth}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let both = "[upstreams.a]\nurl = \"https://x/\"\nheaders = { AUTHORIZATION = \"x\" }\nauth = { kind = \"bearer\", token = \"y\" }";
        assert!(super::tests::read(both).unwrap_err()[0].problem.contains("both set `authorization`"));
    }

    #[test]
    fn a_provider_has_its_defaults_and_no_secret_in_its_debug_form() {
        let config = read(
            "[console.providers.corp]\nissuer = \"https://login.example.com\"\nclient_id = \"c\"\n\
             client_secret = \"${SECRET}\"\nroles = { approvers = \"finance\" }\n",
        );
        let console = config.unwrap().console;
        let corp = &console.providers["corp"];
        assert_eq!((corp.name_claim.as_str(), corp.roles_claim.as_str()), ("email", "groups"));
        assert_eq!(corp.scopes, ["openid", "profile", "email"]);
        assert_eq!((corp.max_age, corp.roles["approvers"].as_str()), (Duration::ZERO, "finance"));
        assert_eq!(corp.client_secret.as_deref(), Some("hunter2"));
        assert!(!format!("{console:?}").contains("hunter2"), "{console:?}");
    }

    #[test]
    fn webhooks_have_a_name_and_no_secret_in_their_debug_form() {
        let config = read(
            "[notify]\ncommand = [\"notify-send\"]\nwebhook = [{ url = \"https://x.example/T0/hunter2\", format = \"slack\" }]",
        );
        let notify = config.unwrap().notify;
        assert_eq!(notify.command, ["notify-send"]);
        assert!(notify.webhooks[0].name.starts_with("webhook-") && notify.webhooks[0].name.len() == 20);
        assert!(!format!("{notify:?}").contains("hunter2"), "{notify:?}");
        let config = read(
            "[[notify.webhook]]\nurl = \"http://localhost:1/\"\nallow_private = true\nname = \"here\"\n\
             secret = \"${SECRET}${SECRET}${SECRET}\"\n",
        );
        let webhook = &config.unwrap().notify.webhooks[0];
        assert_eq!((webhook.name.as_str(), webhook.secret.as_str()), ("here", "hunter2hunter2hunter2"));
        assert_eq!((webhook.format, webhook.allow_private), (WebhookFormat::Generic, true));
        assert_eq!(read("").unwrap().notify, NotifyConfig::default());
    }

    #[test]
    fn every_mistake_names_its_place_and_what_to_do() {
        let table: &[(&str, usize, usize, &str, &str)] = &[
            ("[server]\nlisetn = \"127.0.0.1:1\"", 2, 1, "unknown key `server.lisetn`", "did you mean `listen`?"),
            ("[sever]", 1, 2, "unknown key `sever`", "did you mean `server`?"),
            ("[server]\nzebra = 1", 2, 1, "unknown key `server.zebra`", "known here: listen"),
            (
                "[upstreams.a]\nurl = \"https://x/\"\ntimeot = \"1s\"",
                3,
                1,
                "unknown key `upstreams.a.timeot`",
                "`timeout`",
            ),
            ("[server]\nlisten = 7400", 2, 10, "`server.listen` is not a string", "quotes"),
            ("[server]\nlisten = \"here\"", 2, 1, "`server.listen` is no address", "127.0.0.1:7400"),
            ("[server]\nlisten = \"0.0.0.0:7400\"", 2, 1, "reached from other machines", "behind_proxy"),
            ("[console]\nlisten = \"[::]:7401\"", 2, 1, "reached from other machines", "console.behind_proxy"),
            ("[console]\nlisten = \"127.0.0.1:7400\"", 2, 1, "are both `127.0.0.1:7400`", "port of its own"),
            (
                "[server]\nlisten = \"0.0.0.0:1\"\n[server.tls]\ncert = \"c\"",
                3,
                9,
                "`server.tls.key` is missing",
                "PEM",
            ),
            ("[console]\ntls = \"c\"", 2, 1, "`console.tls` is not a table", "[name]"),
            ("[console.tls]\ncert = \"c\"\nkey = \"k\"\nkye = 1", 4, 1, "`console.tls.kye`", "`key`"),
            ("[server]\ntrusted_proxies = [\"10.0.0.0/8\"]", 2, 1, "goes with `behind_proxy`", "server.behind_proxy"),
            ("[server]\nbehind_proxy = true\ntrusted_proxies = []", 3, 1, "names nobody", "10.0.0.0/8"),
            ("[console]\nbehind_proxy = true\ntrusted_proxies = [\"10.0.0.1/8\"]", 3, 1, "no network", "all bits"),
            ("[console]\nurl = \"https://c.example\"", 2, 1, "nothing ends TLS", "console.behind_proxy"),
            ("[console]\nurl = \"http://c.example\"", 2, 1, "is not encrypted", "certificate"),
            ("[console]\nbehind_proxy = true\nurl = \"http://c.example\"", 3, 1, "reached by TLS", "https"),
            ("[console]\nbehind_proxy = true\nurl = \"https://c.example/x\"", 3, 1, "is no origin", "whole"),
            ("[console]\nbehind_proxy = true\nurl = \"https://u@c.example/\"", 3, 1, "is no origin", "whole"),
            ("[identity.issuers.Corp]\n", 1, 19, "no name for an issuer", "lower-case"),
            ("[identity.issuers.a]\n", 1, 19, "`identity.issuers.a.issuer` is missing", "https://"),
            ("[identity.issuers.a]\nissuer = \"http://x\"", 2, 1, "is not https", "this machine"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\nalgorithms = [\"HS256\"]", 3, 1, "no algorithm", "EdDSA"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\nalgorithms = [\"none\"]", 3, 1, "no algorithm", "EdDSA"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\naudience = []", 3, 1, "names nobody", "`/mcp`"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\nprefix = \"a b\"", 3, 1, "is none", "corp/"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\ncache = \"1h\"", 3, 1, "up to 300 seconds", "30s"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\nscopes = [\"a b\"]", 3, 1, "no scope", "visible"),
            (
                "[identity.issuers.a]\nissuer = \"https://x\"\njwks_url = \"ftp://x\"",
                3,
                1,
                "is not https",
                "this machine",
            ),
            (
                "[identity.issuers.a]\nissuer = \"https://x\"\nintrospection = { client_secret = \"hunter2\" }",
                3,
                1,
                "`identity.issuers.a.introspection.client_id` is missing",
                "registered",
            ),
            (
                "[identity.issuers.a]\nissuer = \"https://x\"\n[identity.issuers.b]\nissuer = \"https://x\"",
                1,
                11,
                "one issuer twice",
                "join",
            ),
            ("[identity.delegation]\nmax_ttl = \"25h\"", 2, 1, "longer than `identity.max_ttl`", "no token"),
            ("[identity.delegation]\nttl = \"2h\"", 2, 1, "longer than `max_ttl`", "asks for no other"),
            ("[identity.delegation]\nenabled = 1", 2, 1, "neither `true` nor `false`", "quotes"),
            (
                "[identity.delegation]\nmax_tl = \"1h\"",
                2,
                1,
                "unknown key `identity.delegation.max_tl`",
                "did you mean",
            ),
            ("[identity.clients.CI]\njwks = \"ci.json\"", 1, 19, "no name for a client", "lower-case"),
            ("[identity.clients.ci]\n", 1, 19, "`identity.clients.ci.jwks` is missing", "public keys"),
            ("[identity.clients.ci]\njwks = \"a\"\njwks_url = \"https://x/\"", 3, 1, "are both there", "meant"),
            ("[identity.clients.ci]\njwks_url = \"http://x/\"", 2, 1, "is not https", "this machine"),
            ("[identity.clients.ci]\njwks = \"a\"\nagent = \"a b\"", 3, 1, "is no agent's name", "letters"),
            ("[identity.clients.ci]\njwks = \"a\"\nscopes = [\"a b\"]", 3, 1, "which is no scope", "correct it"),
            (
                "[identity.issuers.ci]\nissuer = \"https://x\"\n[identity.issuers.b]\nissuer = \"https://y\"\nprefix = \"ci/x\"",
                1,
                2,
                "could name the same agents",
                "does not begin with another's",
            ),
            ("[identity.issuers.spiffe]\nissuer = \"https://x\"", 1, 2, "no name for an issuer", "otherwise"),
            ("[identity.issuers.a]\nissuer = \"https://x\"\nprefix = \"Spiffe:\"", 3, 1, "is none", "corp/"),
            ("[identity]\nclock_skew = \"1h\"", 2, 1, "up to 300 seconds", "30s"),
            ("[console.providers.Corp]\n", 1, 20, "no name for a provider", "lower-case"),
            (
                "[console]\nproviders = { a = 1 }",
                2,
                15,
                "`console.providers.a` is not a table",
                "[console.providers.a]",
            ),
            (
                "[console.providers.a]\nclient_id = \"c\"\nroles = { a = \"b\" }",
                1,
                20,
                "issuer` is missing",
                "registered",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x/\"\nclient_id = \"c\"",
                1,
                20,
                "roles` is missing",
                "roles_claim",
            ),
            (
                "[console.providers.a]\nissuer = \"http://x/\"\nclient_id = \"c\"\nroles = { a = \"b\" }",
                2,
                1,
                "is not https",
                "this machine",
            ),
            (
                "[console.providers.a]\nissuer = \"http://[::1]:1\"\nclient_id = \"c\"\nroles = { a = \"b\" }",
                2,
                1,
                "is on this machine",
                "allow_private",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x/?q\"\nclient_id = \"c\"\nroles = { a = \"b\" }",
                2,
                1,
                "is no issuer's URL",
                "https://",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x\"\nclient_id = \"c\"\nroles = { a = \"b c\" }",
                4,
                1,
                "what is no role",
                "letters",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x\"\nclient_id = \"c\"\nroles = { a = \"b\" }\nscopes = []",
                5,
                1,
                "lacks `openid`",
                "nothing",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x\"\nclient_id = \"c\"\nroles = { a = \"b\" }\nmax_age = \"1\"",
                5,
                1,
                "is no length of time",
                "0s",
            ),
            (
                "[console.providers.a]\nissuer = \"https://x\"\nclient_id = \"c\"\nroles = { a = \"b\" }\nisuer = 1",
                5,
                1,
                "unknown key `console.providers.a.isuer`",
                "`issuer`",
            ),
            ("[server]\nmax_body = \"4MB\"", 2, 1, "is no size", "4MiB"),
            ("[server]\nmax_body = \"1GiB\"", 2, 1, "is not between", "4MiB"),
            ("[server]\nmax_connections = 0", 2, 1, "is no whole number from 1", "without quotes"),
            ("[server]\ndrain = \"soon\"", 2, 1, "is no length of time", "30s"),
            ("[server]\ndrain = \"0s\"", 2, 1, "is no length of time", "30s"),
            ("[server]\nbehind_proxy = \"yes\"", 2, 1, "neither `true` nor `false`", "without quotes"),
            ("[server]\nurl = \"countersign\"", 2, 1, "is no URL of `/mcp`", "https://"),
            ("[server]\nallowed_hosts = \"a\"", 2, 17, "is not a list of strings", "[\"one\""),
            ("[store]\nurl = \"postgres://x\"", 2, 7, "`store.url` is not available", "path"),
            ("[ledger]\nreads = \"fast\"", 2, 1, "neither `durable` nor `batched`", "default"),
            ("[ledger]\norigin = \"a b\"", 2, 1, "is no name of a log", "no spaces"),
            ("[upstreams.a]\n", 1, 12, "neither `command` nor `url`", "https://"),
            ("[upstreams.A_b]\ncommand = [\"x\"]", 1, 12, "`A_b` is no name for an upstream", "lower-case"),
            ("[upstreams.a]\ncommand = []", 2, 1, "names no program", "npx"),
            ("[upstreams.a]\ncommand = [\"x\"]\nurl = \"https://x/\"", 3, 1, "are both there", "keep the one"),
            ("[upstreams.a]\nurl = \"http://x.example/\"", 2, 1, "is not encrypted", "allow_http"),
            ("[upstreams.a]\nurl = \"ftp://x.example/\"", 2, 1, "neither http nor https", "https://"),
            ("[upstreams.a]\nurl = \"https://u:hunter2@x.example/\"", 2, 1, "a user or a password", "headers"),
            ("[upstreams.a]\nurl = \"https://x/\"\nenv = { A = \"1\" }", 3, 1, "goes with `command`", "remove"),
            ("[upstreams.a]\ncommand = [\"x\"]\nheaders = { A = \"1\" }", 3, 1, "goes with `url`", "remove"),
            ("[upstreams.a]\nurl = \"https://x/\"\nheaders = { \"a b\" = \"1\" }", 3, 1, "no HTTP header", "letters"),
            (
                "[upstreams.a]\nurl = \"https://x/\"\nauth = { kind = \"basic\" }",
                3,
                10,
                "is none that is known",
                "`client_credentials`",
            ),
            ("[upstreams.a]\nurl = \"https://x/\"\nauth = { kind = \"bearer\" }", 3, 1, "is missing", "token"),
            ("[upstreams.a]\ncommand = [\"${NOPE}\"]", 2, 12, "needs the environment variable `NOPE`", ":-"),
            ("[upstreams.a]\ncommand = [\"${NO PE}\"]", 2, 12, "a variable that cannot be read", "$${"),
            ("[notify]\ncommand = []", 2, 1, "names no program", "arguments"),
            ("[notify]\nwebhook = 3", 2, 11, "`notify.webhook` is not a list of tables", "[[notify.webhook]]"),
            ("[notify]\nwebhok = []", 2, 1, "unknown key `notify.webhok`", "`webhook`"),
            (
                "[[notify.webhook]]\nsecret = \"hunter2hunter2hunter2\"",
                1,
                1,
                "`notify.webhook.url` is missing",
                "https://",
            ),
            ("[[notify.webhook]]\nurl = \"https://x/\"", 1, 1, "`notify.webhook.secret` is missing", "signature"),
            ("[[notify.webhook]]\nurl = \"https://x/\"\nsecret = \"hunter2\"", 3, 1, "too short", "16"),
            ("[[notify.webhook]]\nurl = \"http://x/\"\nformat = \"slack\"", 2, 1, "is not encrypted", "https"),
            (
                "[[notify.webhook]]\nurl = \"http://[::1]/\"\nformat = \"slack\"",
                2,
                1,
                "on this machine",
                "allow_private",
            ),
            ("[[notify.webhook]]\nurl = \"ftp://x/\"\nformat = \"slack\"", 2, 1, "no https URL", "https"),
            (
                "[[notify.webhook]]\nurl = \"https://u@x/\"\nformat = \"slack\"",
                2,
                1,
                "a user or a password",
                "signature",
            ),
            (
                "[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"mail\"\nsecret = \"hunter2hunter2hunter2\"",
                3,
                1,
                "neither `generic`",
                "default",
            ),
            (
                "[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"slack\"\nname = \"A b\"",
                4,
                1,
                "no name",
                "hyphens",
            ),
            (
                "[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"slack\"\n[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"slack\"",
                4,
                1,
                "two webhooks",
                "name",
            ),
            (
                "[[notify.webhook]]\nurl = \"https://x/\"\nformat = \"slack\"\nsecrt = 1",
                4,
                1,
                "unknown key `notify.webhook.secrt`",
                "`secret`",
            ),
            ("upstreams = 3", 1, 1, "is not a table", "[name]"),
            ("[server\n", 1, 8, "", "toml.io"),
        ];
        for (text, line, column, problem, hint) in table {
            let errors = read(text).expect_err(text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            let error = &errors[0];
            assert!(error.problem.contains(problem), "{text}: {error}");
            assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{text}: {error}");
            assert_eq!((error.line, error.column), (*line, *column), "{text}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn every_error_comes_at_once_in_order() {
        let errors = read("[server]\nlisten = 1\nfoo = 2\n[upstreams.a]\nurl = \"x\"\n[upstreams.b]\n").unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3, 5, 6]);
        assert!(errors[0].to_string().starts_with("/house/countersign.toml:2:"));
    }

    #[test]
    fn variables_are_read_once_and_escapes_are_kept() {
        let environment = |name: &str| (name == "A").then(|| "${B}".to_owned());
        for (text, expected) in [
            ("a", Ok("a")),
            ("${A}", Ok("${B}")),
            ("$$", Ok("$$")),
            ("$${A}", Ok("${A}")),
            ("x${C:-}y", Ok("xy")),
            ("${C:-a b}", Ok("a b")),
            ("5$", Ok("5$")),
            ("${C}", Err(Unexpanded::Missing("C".to_owned()))),
            ("${", Err(Unexpanded::Malformed)),
            ("${}", Err(Unexpanded::Malformed)),
            ("${1}", Err(Unexpanded::Malformed)),
        ] {
            assert_eq!(expand(text, &environment), expected.map(str::to_owned), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,200}", toml in r#"[\[\]a-z\.="\{\}$ \n0-9]{0,80}"#) {
            let _ = read(&text);
            let _ = read(&toml);
        }
    }
}

//! The tool server of the first five minutes: a small bank over stdio, its accounts in one file.
//!
//! A real MCP server, in 2025-11-25 (and the two revisions before it) and 2026-07-28, that knows nothing of
//! Countersign. Every call reads the file, and one that changes something replaces it whole before it answers.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// The name that the quickstart gives this upstream.
pub const NAME: &str = "bank";

const MODERN: &str = "2026-07-28";
const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
/// The longest line read: longer than any request for this server has reason to be.
const LINE: u64 = 1 << 20;
/// The largest amount that every JSON parser reads exactly, 2^53 - 1.
const MOST: i64 = 9_007_199_254_740_991;

/// Serves on standard input and output until the input ends.
///
/// # Errors
/// When the input or the output fails.
pub fn serve(state: PathBuf) -> io::Result<()> {
    serve_on(&Bank { state }, &mut io::stdin().lock(), &mut io::stdout().lock())
}

fn serve_on(bank: &Bank, input: &mut dyn BufRead, output: &mut dyn Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = Read::take(&mut *input, LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if !line.ends_with(b"\n") && line.len() as u64 == LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of more than 1 MiB"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Some(answer) = bank.answer(&line) {
            let mut text = answer.to_string();
            text.push('\n');
            output.write_all(text.as_bytes())?;
            output.flush()?;
        }
    }
}

/// The tools, as they are advertised.
pub fn definitions() -> Vec<Value> {
    let account = json!({"type": "string", "minLength": 1, "maxLength": 64, "description": "name of the account"});
    let amount = json!({"type": "integer", "minimum": 1, "maximum": MOST, "description": "whole euros"});
    let schema = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let balance = json!({"type": "integer"});
    vec![
        json!({
            "name": "balance",
            "title": "Balance",
            "description": "Tells how much is in an account.",
            "inputSchema": schema(json!({"account": account}), json!(["account"])),
            "outputSchema": schema(
                json!({"account": {"type": "string"}, "balance": balance}), json!(["account", "balance"])),
            "annotations": {"readOnlyHint": true, "openWorldHint": false},
        }),
        json!({
            "name": "transfer",
            "title": "Transfer",
            "description": "Moves an amount from one account to another.",
            "inputSchema": schema(
                json!({"from": account, "to": account, "amount": amount}), json!(["from", "to", "amount"])),
            "outputSchema": schema(
                json!({"from": {"type": "string"}, "to": {"type": "string"}, "amount": {"type": "integer"},
                       "balance": balance}),
                json!(["from", "to", "amount", "balance"])),
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": false,
                            "openWorldHint": false},
        }),
        json!({
            "name": "refund",
            "title": "Refund",
            "description": "Pays an amount of the bank's own money into an account.",
            "inputSchema": schema(json!({"account": account, "amount": amount}), json!(["account", "amount"])),
            "outputSchema": schema(
                json!({"account": {"type": "string"}, "amount": {"type": "integer"}, "balance": balance}),
                json!(["account", "amount", "balance"])),
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": false,
                            "openWorldHint": false},
        }),
        json!({
            "name": "close_account",
            "title": "Close account",
            "description": "Closes an account for good and pays out what is in it.",
            "inputSchema": schema(json!({"account": account}), json!(["account"])),
            "outputSchema": schema(
                json!({"account": {"type": "string"}, "paid_out": {"type": "integer"}}),
                json!(["account", "paid_out"])),
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": true,
                            "openWorldHint": false},
        }),
    ]
}

struct Bank {
    state: PathBuf,
}

/// A JSON-RPC error: code and message.
type Wrong = (i64, String);

impl Bank {
    /// The answer to one line; a notification or a response has none.
    fn answer(&self, line: &[u8]) -> Option<Value> {
        let error = |id: &Value, (code, message): Wrong| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
        let request: Value = match serde_json::from_slice(line) {
            Ok(request) => request,
            Err(_) => return Some(error(&Value::Null, (-32700, "this is not JSON".to_owned()))),
        };
        let method = request.get("method").and_then(Value::as_str);
        let id = request.get("id").filter(|id| id.is_string() || id.is_number());
        match (method, id) {
            (Some(method), Some(id)) => {
                let nothing = Map::new();
                let params = request.get("params").and_then(Value::as_object).unwrap_or(&nothing);
                Some(match self.perform(method, params) {
                    Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
                    Err(wrong) => error(id, wrong),
                })
            }
            (Some(_), None) if request.get("id").is_none() => None,
            (None, Some(_)) if request.get("result").or(request.get("error")).is_some() => None,
            _ => Some(error(&Value::Null, (-32600, "this is no JSON-RPC request".to_owned()))),
        }
    }

    fn perform(&self, method: &str, params: &Map<String, Value>) -> Result<Value, Wrong> {
        let server = json!({"name": "countersign-bank", "version": env!("CARGO_PKG_VERSION")});
        let version = params.get("_meta").and_then(|meta| meta.get(VERSION_KEY)).and_then(Value::as_str);
        if let Some(version) = version.filter(|version| *version != MODERN) {
            return Err((-32022, format!("protocol version `{}` is not spoken here", crate::call::cut(version, 32))));
        }
        let mut result = match method {
            "initialize" => {
                let asked = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
                let spoken = LEGACY.iter().find(|known| **known == asked).or(LEGACY.first());
                return Ok(json!({"protocolVersion": spoken, "capabilities": {"tools": {}}, "serverInfo": server}));
            }
            "server/discover" => json!({
                "supportedVersions": [MODERN, LEGACY[0], LEGACY[1], LEGACY[2]],
                "capabilities": {"tools": {}},
                "ttlMs": 3_600_000, "cacheScope": "public",
            }),
            "ping" => json!({}),
            "tools/list" if version.is_some() => {
                json!({"tools": definitions(), "ttlMs": 3_600_000, "cacheScope": "public"})
            }
            "tools/list" => json!({"tools": definitions()}),
            "tools/call" => self.call(params)?,
            _ => return Err((-32601, "there is no such method here".to_owned())),
        };
        if let (Some(_), Some(result)) = (version, result.as_object_mut()) {
            result.insert("resultType".to_owned(), "complete".into());
            result.insert("_meta".to_owned(), json!({"io.modelcontextprotocol/serverInfo": server}));
        }
        Ok(result)
    }

    fn call(&self, params: &Map<String, Value>) -> Result<Value, Wrong> {
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let definitions = definitions();
        let Some(tool) = definitions.iter().find(|tool| tool.get("name").and_then(Value::as_str) == Some(name)) else {
            return Err((-32602, "unknown tool".to_owned()));
        };
        let nothing = Map::new();
        let arguments = params.get("arguments").and_then(Value::as_object).unwrap_or(&nothing);
        let done = Arguments::read(tool, arguments).and_then(|arguments| self.act(name, &arguments));
        Ok(match done {
            Ok(done) => json!({"content": [{"type": "text", "text": done.to_string()}], "structuredContent": done}),
            Err(why) => json!({"content": [{"type": "text", "text": why}], "isError": true}),
        })
    }

    fn act(&self, name: &str, arguments: &Arguments<'_>) -> Result<Value, String> {
        let failed = |error: io::Error| format!("the books cannot be read or written: {error}");
        let _lock = self.lock().map_err(failed)?;
        let mut accounts = self.read().map_err(failed)?;
        let none = |account: &str| format!("there is no account `{account}`");
        let done = match name {
            "balance" => {
                let account = arguments.text("account");
                let balance = *accounts.get(account).ok_or_else(|| none(account))?;
                return Ok(json!({"account": account, "balance": balance}));
            }
            "transfer" => {
                let (from, to, amount) = (arguments.text("from"), arguments.text("to"), arguments.amount);
                if from == to {
                    return Err("`from` and `to` are the same account".to_owned());
                }
                let there = *accounts.get(to).ok_or_else(|| none(to))?;
                let here = accounts.get_mut(from).ok_or_else(|| none(from))?;
                if *here < amount {
                    return Err(format!("`{from}` has {here}, which is less than {amount}"));
                }
                *here -= amount;
                let left = *here;
                accounts.insert(to.to_owned(), credited(there, amount)?);
                json!({"from": from, "to": to, "amount": amount, "balance": left})
            }
            "refund" => {
                let (account, amount) = (arguments.text("account"), arguments.amount);
                let balance = accounts.get_mut(account).ok_or_else(|| none(account))?;
                *balance = credited(*balance, amount)?;
                json!({"account": account, "amount": amount, "balance": *balance})
            }
            _ => {
                let account = arguments.text("account");
                let paid_out = accounts.remove(account).ok_or_else(|| none(account))?;
                json!({"account": account, "paid_out": paid_out})
            }
        };
        self.write(&accounts).map_err(failed)?;
        Ok(done)
    }

    /// Keeps other processes out of the file until it is dropped.
    fn lock(&self) -> io::Result<File> {
        let lock = File::options().create(true).append(true).open(self.beside("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn read(&self) -> io::Result<BTreeMap<String, i64>> {
        match fs::read(&self.state) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok([("alice", 10_000), ("bob", 500), ("carol", 50)].map(|(name, sum)| (name.to_owned(), sum)).into())
            }
            Err(error) => Err(error),
        }
    }

    fn write(&self, accounts: &BTreeMap<String, i64>) -> io::Result<()> {
        let fresh = self.beside("new");
        let mut file = File::create(&fresh)?;
        serde_json::to_writer_pretty(&mut file, accounts)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&fresh, &self.state)
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = Path::new(&self.state).as_os_str().to_owned();
        name.push(".");
        name.push(ending);
        name.into()
    }
}

fn credited(balance: i64, amount: i64) -> Result<i64, String> {
    balance.checked_add(amount).filter(|sum| *sum <= MOST).ok_or_else(|| "the account cannot hold that much".to_owned())
}

/// Arguments that fit the tool's own schema.
struct Arguments<'a> {
    texts: BTreeMap<&'a str, &'a str>,
    amount: i64,
}

impl<'a> Arguments<'a> {
    fn read(tool: &Value, arguments: &'a Map<String, Value>) -> Result<Self, String> {
        let declared = tool.pointer("/inputSchema/properties").and_then(Value::as_object);
        let declared = declared.ok_or("this tool takes no arguments")?;
        if let Some(missing) = declared.keys().find(|name| !arguments.contains_key(*name)) {
            return Err(format!("`{missing}` is missing"));
        }
        let mut read = Self { texts: BTreeMap::new(), amount: 0 };
        for (name, value) in arguments {
            match (name.as_str(), value) {
                (name, _) if !declared.contains_key(name) => {
                    return Err(format!("`{}` is no argument of this tool", crate::call::cut(name, 64)));
                }
                ("amount", value) => {
                    let amount = value.as_i64().filter(|amount| (1..=MOST).contains(amount));
                    read.amount = amount.ok_or("`amount` is no whole number of at least 1")?;
                }
                (name, Value::String(text)) if !text.is_empty() && text.len() <= 64 => {
                    read.texts.insert(name, text);
                }
                (name, _) => return Err(format!("`{name}` is no name of an account")),
            }
        }
        Ok(read)
    }

    fn text(&self, name: &str) -> &'a str {
        self.texts.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Books {
        bank: Bank,
        _folder: tempfile::TempDir,
    }

    impl Books {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { bank: Bank { state: folder.path().join("bank.json") }, _folder: folder }
        }

        fn ask(&self, method: &str, params: Value) -> Value {
            let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
            self.bank.answer(line.as_bytes()).unwrap()
        }

        fn call(&self, tool: &str, arguments: Value) -> Value {
            self.ask("tools/call", json!({"name": tool, "arguments": arguments}))["result"].clone()
        }
    }

    #[test]
    fn money_moves_and_stays_moved() {
        let books = Books::new();
        assert_eq!(books.call("balance", json!({"account": "alice"}))["structuredContent"]["balance"], 10_000);
        let moved = books.call("transfer", json!({"from": "alice", "to": "bob", "amount": 100}));
        assert_eq!(moved["structuredContent"], json!({"from": "alice", "to": "bob", "amount": 100, "balance": 9_900}));
        assert_eq!(books.call("balance", json!({"account": "bob"}))["structuredContent"]["balance"], 600);
        assert_eq!(books.call("refund", json!({"account": "carol", "amount": 1}))["structuredContent"]["balance"], 51);
        assert_eq!(books.call("close_account", json!({"account": "bob"}))["structuredContent"]["paid_out"], 600);
        assert_eq!(books.call("balance", json!({"account": "bob"}))["isError"], true);
    }

    #[test]
    fn what_cannot_be_done_is_an_error_result_and_changes_nothing() {
        let books = Books::new();
        for (tool, arguments, why) in [
            ("transfer", json!({"from": "carol", "to": "bob", "amount": 51}), "less than 51"),
            ("transfer", json!({"from": "carol", "to": "carol", "amount": 1}), "same account"),
            ("transfer", json!({"from": "carol", "to": "dave", "amount": 1}), "no account `dave`"),
            ("transfer", json!({"from": "carol", "to": "bob", "amount": 0}), "at least 1"),
            ("transfer", json!({"from": "carol", "to": "bob", "amount": 1.5}), "at least 1"),
            ("transfer", json!({"from": "carol", "to": "bob"}), "`amount` is missing"),
            ("transfer", json!({"from": "carol", "to": "bob", "amount": 1, "note": "x"}), "`note` is no argument"),
            ("refund", json!({"account": "bob", "amount": MOST}), "cannot hold"),
            ("balance", json!({"account": 3}), "`account` is no name"),
            ("balance", json!({"account": ""}), "`account` is no name"),
        ] {
            let result = books.call(tool, arguments);
            assert_eq!(result["isError"], true, "{result}");
            assert!(result["content"][0]["text"].as_str().unwrap().contains(why), "{result}");
        }
        assert!(!books.bank.state.exists());
    }

    #[test]
    fn both_generations_of_the_protocol_are_spoken() {
        let books = Books::new();
        let hello = books.ask("initialize", json!({"protocolVersion": "2025-06-18"}));
        assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
        let hello = books.ask("initialize", json!({"protocolVersion": "1999-01-01"}));
        assert_eq!(hello["result"]["protocolVersion"], "2025-11-25");
        let meta = json!({"_meta": {VERSION_KEY: MODERN, "io.modelcontextprotocol/clientCapabilities": {}}});
        let found = books.ask("server/discover", meta.clone());
        assert_eq!(found["result"]["supportedVersions"][0], MODERN);
        assert_eq!(found["result"]["resultType"], "complete");
        assert_eq!(books.ask("tools/list", meta)["result"]["cacheScope"], "public");
        assert!(books.ask("tools/list", json!({}))["result"].get("resultType").is_none());
        let other = json!({"_meta": {VERSION_KEY: "2027-01-01"}});
        assert_eq!(books.ask("tools/list", other)["error"]["code"], -32022);
        assert_eq!(books.ask("nothing/here", json!({}))["error"]["code"], -32601);
        assert_eq!(books.ask("tools/call", json!({"name": "rob"}))["error"]["code"], -32602);
    }

    #[test]
    fn lines_that_ask_for_nothing_get_no_answer_and_bad_ones_an_error() {
        let books = Books::new();
        let text = b"\n{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n[]\n{\n\
                     {\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}\n{\"id\":1,\"result\":{}}\n";
        let mut out = Vec::new();
        serve_on(&books.bank, &mut &text[..], &mut out).unwrap();
        let answers: Vec<Value> =
            out.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let codes: Vec<&Value> = answers.iter().map(|answer| &answer["error"]["code"]).collect();
        assert_eq!(codes, [&json!(-32600), &json!(-32700), &Value::Null]);
        assert_eq!(answers[2]["id"], "a");
        let endless = vec![b'x'; 2 << 20];
        assert!(serve_on(&books.bank, &mut &endless[..], &mut out).is_err());
    }

    #[test]
    fn every_definition_has_both_schemas_and_hints() {
        for tool in definitions() {
            assert_eq!(tool["inputSchema"]["additionalProperties"], false);
            assert!(tool["outputSchema"].is_object() && tool["annotations"].is_object(), "{tool}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(line: Vec<u8>, text in r#"[\{\}\[\]",:a-z0-9]{0,60}"#) {
            let books = Books::new();
            let _ = books.bank.answer(&line);
            let _ = books.bank.answer(text.as_bytes());
        }
    }
}

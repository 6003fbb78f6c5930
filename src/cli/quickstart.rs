//! `quickstart`: the first five minutes. A folder with a small bank behind Countersign, an agent `demo`, its
//! grants, and a server that runs.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Place, bank,
    files::{cannot_write, log_name, write_new},
    holds::not_done,
    outcome::{Exit, Failure},
    serve::serve,
    show,
};
use crate::{
    clock::Clock,
    config::{
        self, Config, Transport,
        edit::{literal, save},
    },
    contract::{
        Impact, UpstreamName,
        file::{self, Contract},
    },
    identity::TokenRequest,
    json::Value,
    server::House,
};

/// The agent that the grants are for.
const AGENT: &str = "demo";
/// The newcomer, and the role that the grants hold for.
const APPROVER: &str = "you";
const ROLE: &str = "owner";

const CONFIG: &str = "\
# The quickstart's house. Every key: docs/configuration.md.

[server]
listen = \"127.0.0.1:7400\"

[console]
listen = \"127.0.0.1:7401\"

[ledger]
origin = \"countersign.local/LOG\"

# a small bank that ships in the program; its accounts are in bank.json
[upstreams.bank]
command = COMMAND
";

const GRANTS: &str = "\
// What the agent `demo` may do at the bank. `demo.table` beside this file says what that comes to, and
// `countersign check` holds one against the other.

@id(\"balance\")
permit (principal == Agent::\"demo\", action == Action::\"bank__balance\", resource);

// Small transfers: alone.
@id(\"transfer-small\")
permit (principal == Agent::\"demo\", action == Action::\"bank__transfer\", resource)
when { context.input.amount <= 100 };

// Larger ones: one countersignature of the owner. Above 10000: never.
@id(\"transfer-large\") @hold(\"owner\") @expires(\"15m\")
@reason(\"transfers above 100 are countersigned by the owner\")
permit (principal == Agent::\"demo\", action == Action::\"bank__transfer\", resource)
when { context.input.amount <= 10000 };

@id(\"close-account\")
permit (principal == Agent::\"demo\", action == Action::\"bank__close_account\", resource);

// A guardrail over everybody: destructive actions need two owners.
@id(\"destructive\") @hold(\"owner\") @approvals(\"2\")
@reason(\"what destroys is countersigned by two owners\")
forbid (principal, action in Action::\"destructive\", resource);

// `bank__refund` is granted to nobody: `demo` does not even see it.
";

const TABLE: &str = "\
# What grants/demo.cedar comes to; `countersign check` runs it.

[[case]]
agent = \"demo\"
tool = \"bank__balance\"
args = { account = \"alice\" }
expect = \"permit\"

[[case]]
agent = \"demo\"
tool = \"bank__transfer\"
args = { from = \"alice\", to = \"bob\", amount = 100 }
expect = \"permit\"

[[case]]
agent = \"demo\"
tool = \"bank__transfer\"
args = { from = \"alice\", to = \"bob\", amount = 101 }
expect = \"hold:owner\"

[[case]]
agent = \"demo\"
tool = \"bank__transfer\"
args = { from = \"alice\", to = \"bob\", amount = 10001 }
expect = \"deny\"

[[case]]
agent = \"demo\"
tool = \"bank__close_account\"
args = { account = \"carol\" }
expect = \"hold:owner\"
approvals = 2

[[case]]
agent = \"demo\"
tool = \"bank__refund\"
args = { account = \"carol\", amount = 1 }
expect = \"deny\"

[[case]]
agent = \"someone-else\"
tool = \"bank__balance\"
args = { account = \"alice\" }
expect = \"deny\"
";

/// The impact of each tool of the bank, as its contract says.
const IMPACTS: [(&str, Impact); 4] = [
    ("balance", Impact::Read),
    ("transfer", Impact::Spend),
    ("refund", Impact::Spend),
    ("close_account", Impact::Destructive),
];

/// Makes what is missing, serves, and tells how to call.
pub(super) async fn quickstart(
    place: &Place,
    dir: &Path,
    listen: Option<SocketAddr>,
    console_listen: Option<SocketAddr>,
) -> Result<Exit, Failure> {
    let program =
        std::env::current_exe().map_err(|error| Failure::io("the program's own file is not known", &error))?;
    let dir = std::path::absolute(dir).map_err(|error| Failure::io("that folder has no path", &error))?;
    make(&dir, &program)?;
    let mut config = config::load(&dir.join(Config::FILE)).map_err(|errors| Failure::config(&errors))?;
    config.server.listen = listen.unwrap_or(config.server.listen);
    config.console.listen = console_listen.unwrap_or(config.console.listen);
    keep_program(&mut config, &program);
    let ttl = config.identity.max_ttl.min(Duration::from_secs(24 * 3_600));
    let json = place.json;
    serve(config, async |house| {
        let request = TokenRequest { agent: AGENT.to_owned(), ttl, task: None, user: None };
        let token = house.pipeline.identity.issue(request).await?;
        let (mcp, console) = (house.config.endpoint(), house.config.console_url());
        let code = invited(house).await?;
        let code = code.as_deref().map(String::as_str);
        if json {
            let line = json!({"mcp": mcp, "console": console, "token": token, "enrol": code,
                              "dir": dir.display().to_string(), "pid": std::process::id()});
            show::line(&line.to_string());
        } else {
            show::text(&told(&program, &dir, &mcp, &console, &token, code));
        }
        Ok(())
    })
    .await
}

/// The code that the newcomer enrols with as an approver; `None` once somebody is enrolled.
async fn invited(house: &House) -> Result<Option<Zeroizing<String>>, Failure> {
    if house.pipeline.ledger.holds(|book| book.roster().enrolled().next().is_some()) {
        return Ok(None);
    }
    let roles = [ROLE.to_owned()].into();
    let added = house.pipeline.approvers.add(APPROVER, roles, [].into(), None).await.map_err(not_done)?;
    Ok(added.code.map(|code| code.reveal()))
}

/// Writes every file that is not there; what is there is gone on with.
fn make(dir: &Path, program: &Path) -> Result<(), Failure> {
    for folder in [dir.to_owned(), dir.join("grants"), dir.join("schemas").join(bank::NAME)] {
        fs::create_dir_all(&folder).map_err(|error| cannot_write(&folder, &error))?;
    }
    let file = dir.join(Config::FILE);
    if !file.exists() {
        let command = [literal(&program.display().to_string()), "bank".into(), "--state".into(), "bank.json".into()];
        let command = toml_edit::value(command.iter().map(String::as_str).collect::<toml_edit::Array>()).to_string();
        let text = CONFIG.replace("LOG", &log_name()?).replace("COMMAND", &command);
        save(&file, &text).map_err(|error| cannot_write(&file, &error))?;
    }
    write_new(&dir.join("grants/demo.cedar"), GRANTS)?;
    write_new(&dir.join("grants/demo.table"), TABLE)?;
    write_new(&dir.join(".gitignore"), "/data/\n/bank.json*\n")?;
    contracts(dir)
}

fn contracts(dir: &Path) -> Result<(), Failure> {
    let fault = |why: String| Failure::new(Exit::Fault, format!("the bank's contracts cannot be written: {why}"));
    let upstream = UpstreamName::new(bank::NAME).ok_or_else(|| fault("its name".to_owned()))?;
    let schemas = dir.join("schemas");
    for definition in bank::definitions() {
        let definition = Value::from(&definition);
        let name = definition.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if schemas.join(bank::NAME).join(format!("{name}.json")).exists() {
            continue;
        }
        let mut contract = Contract::propose(&upstream, &definition, Clock::System.now()).map_err(fault)?;
        if let Some((_, impact)) = IMPACTS.iter().find(|(tool, _)| *tool == name) {
            contract.impact = [*impact].into();
        }
        file::write(&schemas, &contract).map_err(|error| fault(error.to_string()))?;
    }
    Ok(())
}

/// The bank is this very program, wherever it lay when the folder was made.
fn keep_program(config: &mut Config, program: &Path) {
    for upstream in config.upstreams.values_mut() {
        if let Transport::Stdio { command, .. } = &mut upstream.transport
            && command.get(1).is_some_and(|verb| verb == "bank")
            && let Some(first) = command.first_mut().filter(|first| !Path::new(first).exists())
        {
            *first = program.display().to_string();
        }
    }
}

fn told(program: &Path, dir: &Path, mcp: &str, console: &str, token: &str, code: Option<&str>) -> String {
    // whole paths: the lines are pasted in another terminal, which may be in another folder
    let (program, house) = (quoted(program), quoted(dir));
    let call = format!("{program} -C {house} call --agent {AGENT}");
    let enrol = code.map_or_else(String::new, |code| {
        // what stands behind `#` is sent to no server
        format!("It needs your approval: enrol once, as `{APPROVER}`, with a passphrase of your own, in a browser\n\n  {console}/enrol#{code}\n\nor at a terminal\n\n  {program} -C {house} approver enrol {code}\n\n")
    });
    format!(
        "\
Countersign serves a small bank. Everything it runs on is in {dir}.

  agents   {mcp}
  console  {console}  (besides its pages: /healthz, /readyz, /metrics, /tlog/checkpoint)
  token    {token}

Give it to an agent:

  claude mcp add --transport http countersign {mcp} --header \"Authorization: Bearer {token}\"

Or call it from another terminal: this one is permitted,

  {call} bank__transfer '{{\"from\": \"alice\", \"to\": \"bob\", \"amount\": 25}}'

this one has a bad argument,

  {call} bank__transfer '{{\"from\": \"alice\", \"to\": \"bob\", \"amount\": \"ten\"}}'

and this one is not granted.

  {call} bank__refund '{{\"account\": \"bob\", \"amount\": 5}}'

A transfer of more than 100 waits for a person:

  {call} bank__transfer '{{\"from\": \"alice\", \"to\": \"bob\", \"amount\": 250}}'

{enrol}then look at what waits, and countersign it: it goes through once.

  {console}/waiting
  {program} -C {house} hold list
  {program} -C {house} hold approve HOLD

What happened: {program} -C {house} ledger tail
",
        dir = dir.display(),
    )
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if text.chars().all(plain) && !text.is_empty() { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::look;

    #[test]
    fn the_folder_that_it_makes_checks_and_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path(), Path::new("/opt/it's here/${x}/countersign")).unwrap();
        let config = config::load(&folder.path().join(Config::FILE)).unwrap();
        let checked = look(&config).unwrap();
        assert_eq!(checked.errors, []);
        let Transport::Stdio { command, .. } = &config.upstreams.values().next().unwrap().transport else { panic!() };
        assert_eq!(command[0], "/opt/it's here/${x}/countersign");
        fs::write(folder.path().join("grants/demo.cedar"), "// mine\n").unwrap();
        make(folder.path(), Path::new("/elsewhere")).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("grants/demo.cedar")).unwrap(), "// mine\n");
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("a/b-c.d")), "a/b-c.d");
        assert_eq!(quoted(Path::new("it's")), "'it'\\''s'");
    }
}

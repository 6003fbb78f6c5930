//! The command line.

mod agents;
mod approvers;
mod attach;
pub mod bank;
mod call;
mod check;
mod control;
mod explain;
mod files;
mod holds;
mod identity;
mod ledger;
mod outcome;
mod quickstart;
mod request;
mod serve;
mod show;
mod terminal;

pub use outcome::{Exit, Failure};
pub use request::{Request, execute, with_house};

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    config::{self, Config, units::duration_argument},
    observe::{LogFormat, start_logging},
};

/// An MCP firewall and mediator: every tool call is authenticated, validated, granted and written down before it leaves.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = outcome::EXIT_CODES, max_term_width = 110)]
struct Cli {
    /// The configuration; without it, `countersign.toml` here or in the nearest folder above that has one
    #[arg(short = 'C', long, global = true, value_name = "FILE", env = "COUNTERSIGN_CONFIG")]
    config: Option<PathBuf>,
    /// Answer in JSON: one object, or one a line where there are many; errors too, on standard error
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a folder with a configuration, grants and contracts to start from
    #[command(after_help = "Examples:\n  countersign init\n  countersign init --import ~/.cursor/mcp.json house")]
    Init {
        /// Take the tool servers of an existing client over: a file with `mcpServers`, or VS Code's `servers`
        #[arg(long, value_name = "FILE")]
        import: Option<PathBuf>,
        /// The folder; made where there is none
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Run the server until SIGTERM or SIGINT; SIGHUP reads grants and contracts again
    #[command(
        after_help = "Examples:\n  countersign serve\n  countersign serve --log-format json\n  countersign serve \
                            --stdio --agent laptop\n\nWhat is logged, COUNTERSIGN_LOG says: info, countersign=debug, …"
    )]
    Serve {
        /// Serve one agent on standard input and output instead of HTTP
        #[arg(long, requires = "agent")]
        stdio: bool,
        /// The agent that the other end of standard input and output is
        #[arg(long, requires = "stdio", value_name = "NAME")]
        agent: Option<String>,
        /// How log lines on standard error look
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Check configuration, contracts, grants and decision tables: every error at once
    #[command(after_help = "Examples:\n  countersign check\n  countersign -C house/countersign.toml check --json")]
    Check,
    /// The tool servers of this house
    #[command(subcommand)]
    Upstream(UpstreamCommand),
    /// Take over the tool servers of an existing client (the same as `upstream import`)
    #[command(after_help = "Example:\n  countersign import ~/.config/Claude/claude_desktop_config.json")]
    Import(ImportArgs),
    /// Tools and their contracts
    #[command(subcommand)]
    Tool(ToolCommand),
    /// Who may do what
    #[command(subcommand)]
    Grant(GrantCommand),
    /// Agents and their tokens
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Tokens, and who they say that an agent is
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Tasks that agents work on
    #[command(subcommand)]
    Task(TaskCommand),
    /// Calls that wait for a person
    #[command(subcommand)]
    Hold(holds::HoldCommand),
    /// The people who countersign
    #[command(subcommand)]
    Approver(approvers::ApproverCommand),
    /// What happened
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Call a tool as an agent would
    #[command(after_help = "Examples:\n  countersign call --agent demo bank__balance '{\"account\": \"alice\"}'\n  \
                            COUNTERSIGN_TOKEN=… countersign call --url https://cs.example.com/mcp crm__find '{\"q\": \
                            \"x\"}'\n\nExits with 1 when the call is refused or the tool fails.")]
    Call(CallArgs),
    /// How the running server fares; exits with 3 when none runs
    #[command(after_help = "Examples:\n  countersign status\n  countersign status --json")]
    Status,
    /// Have the running server read grants and contracts again
    Reload,
    /// Drain and end the running server
    Stop,
    /// Try it: a small bank behind Countersign, with grants, a token and calls to paste
    #[command(after_help = "Examples:\n  countersign quickstart\n  countersign quickstart --dir demo --listen \
                            127.0.0.1:0 --console-listen 127.0.0.1:0 --json\n\nThe second form prints one line \
                            {\"mcp\",\"console\",\"token\",\"enrol\",\"dir\",\"pid\"} once it serves.")]
    Quickstart {
        /// The folder; made where there is none, gone on with where there is
        #[arg(long, default_value = "countersign-quickstart")]
        dir: PathBuf,
        /// The agents' address; port 0 takes a free one
        #[arg(long, value_name = "ADDR", value_parser = address)]
        listen: Option<SocketAddr>,
        /// The console's address; port 0 takes a free one
        #[arg(long, value_name = "ADDR", value_parser = address)]
        console_listen: Option<SocketAddr>,
    },
    /// The quickstart's tool server, on standard input and output
    #[command(hide = true)]
    Bank {
        /// The file that keeps the accounts
        #[arg(long, value_name = "FILE")]
        state: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum UpstreamCommand {
    /// Add a tool server to the configuration
    #[command(after_help = "Examples:\n  countersign upstream add files -- npx -y \
                            @modelcontextprotocol/server-filesystem /srv/data\n  countersign upstream add crm --url \
                            https://crm.example.com/mcp --header 'Authorization=Bearer ${CRM_TOKEN}'\n\nThen: \
                            countersign tool register NAME")]
    Add {
        /// Its name here: lower-case letters, digits and hyphens
        name: String,
        /// Its MCP endpoint
        #[arg(long, conflicts_with = "command")]
        url: Option<String>,
        /// Plain http to another machine is meant
        #[arg(long, requires = "url")]
        allow_http: bool,
        /// A header for it; `${VAR}` is read from the environment
        #[arg(long = "header", value_name = "NAME=VALUE", requires = "url", value_parser = pair)]
        headers: Vec<(String, String)>,
        /// A variable for the program; `${VAR}` is read from the environment
        #[arg(long = "env", value_name = "NAME=VALUE", requires = "command", value_parser = pair)]
        env: Vec<(String, String)>,
        /// The program's working folder
        #[arg(long, requires = "command")]
        cwd: Option<String>,
        /// The program and its arguments, behind `--`
        #[arg(last = true, required_unless_present = "url")]
        command: Vec<String>,
    },
    /// The tool servers, and how they fare when a server runs
    List,
    /// Take a tool server out of the configuration; its contracts stay
    #[command(after_help = "Example:\n  countersign upstream remove crm")]
    Remove {
        /// Its name
        name: String,
    },
    /// Take over the tool servers of an existing client
    #[command(after_help = "Example:\n  countersign upstream import .vscode/mcp.json")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// A file with `mcpServers` (Claude, Cursor, …) or `servers` (VS Code); comments are fine
    file: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ToolCommand {
    /// Ask tool servers what they have and write contracts for what is new
    #[command(
        after_help = "Examples:\n  countersign tool register\n  countersign tool register files\n\nRead the files \
                            below schemas/ before you grant anything, their impact above all."
    )]
    Register {
        /// One tool server; all without
        upstream: Option<String>,
    },
    /// The tools on offer, and those that are not
    List,
    /// Why tools are not offered, and what changed in them
    #[command(after_help = "Example:\n  countersign tool review files__read_file")]
    Review {
        /// One tool, `<upstream>__<tool>`; all without
        tool: Option<String>,
    },
    /// Take the definition that a tool server advertises now as the contract
    #[command(after_help = "Example:\n  countersign tool accept files__read_file --digest sha256:…")]
    Accept {
        /// `<upstream>__<tool>`
        tool: String,
        /// The definition that `tool review` showed; another one that came since is not taken
        #[arg(long, value_name = "DIGEST")]
        digest: Option<String>,
    },
    /// Write down that a changed definition is not wanted: the tool stays in quarantine
    #[command(after_help = "Example:\n  countersign tool reject files__read_file --digest sha256:…")]
    Reject {
        /// `<upstream>__<tool>`
        tool: String,
        /// The definition that `tool review` showed
        #[arg(long, value_name = "DIGEST")]
        digest: String,
    },
}

#[derive(Debug, Subcommand)]
enum GrantCommand {
    /// How a call would be decided, by which policies, and why the others did not count
    #[command(
        after_help = "Example:\n  countersign grant explain --agent demo --tool bank__transfer --args '{\"from\": \
                            \"alice\", \"to\": \"bob\", \"amount\": 100}'\n\nExits with 1 when the call would be denied."
    )]
    Explain(explain::Question),
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Who has called, who vouches for them, when they did last; and the tokens that are good
    #[command(after_help = "Examples:\n  countersign agent list\n  countersign agent list --json")]
    List,
    /// Print a token for an agent
    #[command(
        after_help = "Examples:\n  countersign agent token laptop\n  countersign agent token ci --ttl 15m --task \
                            release-42 --for maria"
    )]
    Token {
        /// The agent's name
        name: String,
        /// How long it lives
        #[arg(long, default_value = "1h", value_parser = duration_argument)]
        ttl: Duration,
        /// The task it is for
        #[arg(long)]
        task: Option<String>,
        /// The user the agent acts for
        #[arg(long = "for", value_name = "USER")]
        user: Option<String>,
    },
    /// End an agent's tokens, from the next call on
    #[command(after_help = "Examples:\n  countersign agent revoke laptop\n  countersign agent revoke ci --token ID")]
    Revoke {
        /// The agent's name
        name: String,
        /// One token, by its id; all without
        #[arg(long, value_name = "ID")]
        token: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// End a task for good: its tokens, its calls that wait for a person, its open streams
    #[command(
        after_help = "Example:\n  countersign task end release-42\n\nWhat is at a tool server already comes to its \
                            end there. No token is ever good for the task again, whoever issued it."
    )]
    End {
        /// The task
        #[arg(value_parser = task_argument)]
        task: String,
    },
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// The last entries, and with -f those to come
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u64,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Entries, one a line
    #[command(
        after_help = "Examples:\n  countersign ledger list --kind call.refused\n  countersign ledger list --agent \
                            demo --tool bank__transfer\n  countersign ledger list --from 100 --limit 10 --json\n\nAn \
                            outcome names neither agent nor tool: it is found with its intent."
    )]
    List {
        /// The first
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at most
        #[arg(long)]
        limit: Option<u64>,
        /// Only entries of this kind, or of all that begin so: `call.`
        #[arg(long)]
        kind: Option<String>,
        /// Only entries of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only entries for this tool, `<upstream>__<tool>`
        #[arg(long)]
        tool: Option<String>,
        /// Not earlier than this, such as 2026-11-21T03:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// One entry, or every entry of one call
    #[command(after_help = "Examples:\n  countersign ledger show 17\n  countersign ledger show call_01JD…")]
    Show {
        /// The entry's number, or a call's id
        entry: String,
    },
    /// Recompute the log from its entries: exits with 0 when it holds, 1 when it was tampered with, 2 when it cannot be told
    #[command(after_help = "Examples:\n  countersign ledger verify\n  countersign ledger verify --data copy/of/data \
                            --pin checkpoint.txt --key 'countersign.local/log+…'\n\nRollback, and a rewrite by the key's \
                            holder, show only against a checkpoint kept elsewhere: --pin.")]
    Verify(ledger::VerifyArgs),
    /// Print a receipt for one entry (C2SP tlog-proof), which verifies with the log's verifier key alone
    Prove {
        /// The entry's number
        seq: u64,
    },
    /// Remove what is kept beside an entry: its arguments or result, and their salt; the log verifies as before
    Redact {
        /// The entry's number
        seq: u64,
    },
    /// Print a signed checkpoint over everything so far; keep it elsewhere
    Checkpoint,
    /// Write every entry out
    #[command(after_help = "Example:\n  countersign ledger export --format jsonl > ledger.jsonl")]
    Export {
        /// How
        #[arg(long, value_enum, default_value_t = ledger::Format::Jsonl)]
        format: ledger::Format,
    },
    /// Make the store again from the published tiles, when the store is lost
    Rebuild(ledger::RebuildArgs),
}

#[derive(Debug, Args)]
struct CallArgs {
    /// `<upstream>__<tool>`
    tool: String,
    /// The arguments
    #[arg(default_value = "{}", value_name = "JSON")]
    arguments: String,
    /// The MCP endpoint; without it, that of the configuration
    #[arg(long)]
    url: Option<String>,
    /// The token
    #[arg(long, env = "COUNTERSIGN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Without a token: get a short-lived one for this agent from the running server
    #[arg(long, value_name = "NAME", conflicts_with = "token")]
    agent: Option<String>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Cannot } else { Exit::Done };
            // the message is all there is to do
            let _printed = error.print();
            return ExitCode::from(exit.code());
        }
    };
    let json = cli.json;
    let ended = run(cli);
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            failure.tell(json);
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    // the bank is a tool server: it needs no configuration and no runtime
    if let Command::Bank { state } = cli.command {
        return match bank::serve(state) {
            Ok(()) => Ok(Exit::Done),
            Err(error) => Err(Failure::io("the bank closes", &error)),
        };
    }
    let serves = matches!(cli.command, Command::Serve { .. } | Command::Quickstart { .. });
    let log_format = match cli.command {
        Command::Serve { log_format, .. } => log_format,
        _ => LogFormat::Text,
    };
    start_logging(log_format, if serves { "info" } else { "error" });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // one is for the ledger's thread: more workers than the others take the processor from it, and calls wait for it
    let workers = processors.saturating_sub(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::io("no threads can be started", &error))?;
    let place = Place { named: cli.config, json: cli.json };
    let ended = runtime.block_on(dispatch(cli.command, &place));
    // a read of standard input cannot be ended, so it is left behind
    runtime.shutdown_timeout(Duration::from_millis(200));
    ended
}

/// Where the configuration is, and how to answer.
#[derive(Debug)]
struct Place {
    named: Option<PathBuf>,
    json: bool,
}

impl Place {
    /// The configuration file: the one that was named, or the nearest from here upwards.
    fn file(&self) -> PathBuf {
        if let Some(named) = &self.named {
            // a folder stands for the file in it
            return if named.is_dir() { named.join(Config::FILE) } else { named.clone() };
        }
        let here = std::env::current_dir().unwrap_or_default();
        let found = here.ancestors().map(|folder| folder.join(Config::FILE)).find(|file| file.is_file());
        found.unwrap_or_else(|| PathBuf::from(Config::FILE))
    }

    fn config(&self) -> Result<Config, Failure> {
        config::load(&self.file()).map_err(|errors| Failure::config(&errors))
    }

    async fn ask(&self, request: Request) -> Result<serde_json::Value, Failure> {
        with_house(self.config()?, request).await
    }

    /// Prints the answer: as JSON, or as `text` has it.
    fn answer(&self, answer: &serde_json::Value, text: impl FnOnce(&serde_json::Value) -> String) {
        if self.json {
            show::line(&answer.to_string());
        } else {
            show::text(&text(answer));
        }
    }
}

async fn dispatch(command: Command, place: &Place) -> Result<Exit, Failure> {
    let done = Ok(Exit::Done);
    match command {
        Command::Init { import, dir } => files::init(place, &dir, import.as_deref()),
        Command::Serve { stdio: true, agent: Some(agent), .. } => serve::stdio(place.config()?, &agent).await,
        Command::Serve { .. } => serve::serve(place.config()?, async |_| Ok(())).await,
        Command::Check => check::check(place),
        Command::Upstream(UpstreamCommand::Add { name, url, allow_http, headers, env, cwd, command }) => {
            files::add_upstream(place, &name, config::edit::Entry { command, env, cwd, url, headers, allow_http })
        }
        Command::Upstream(UpstreamCommand::List) => {
            let config = place.config()?;
            let fares = match control::connect(&config).await? {
                Some(mut server) => Some(server.ask(&Request::Status).await?),
                None => None,
            };
            place.answer(&show::upstreams(&config, fares.as_ref()), show::upstreams_text);
            done
        }
        Command::Upstream(UpstreamCommand::Remove { name }) => files::remove_upstream(place, &name),
        Command::Upstream(UpstreamCommand::Import(args)) | Command::Import(args) => files::import(place, &args.file),
        Command::Tool(ToolCommand::Register { upstream }) => {
            let answer = place.ask(Request::RegisterTools { upstream }).await?;
            place.answer(&answer, show::registered);
            let failed = |tool: &serde_json::Value| matches!(show::field(tool, "result"), "refused" | "unreachable");
            let refused = show::items(&answer, "tools").iter().any(failed);
            Ok(if refused { Exit::No } else { Exit::Done })
        }
        Command::Tool(ToolCommand::List) => {
            place.answer(&place.ask(Request::ListTools).await?, show::tools);
            done
        }
        Command::Tool(ToolCommand::Review { tool }) => {
            let answer = place.ask(Request::ReviewTools { tool }).await?;
            place.answer(&answer, show::reviewed);
            done
        }
        Command::Tool(ToolCommand::Accept { tool, digest }) => {
            let answer = place.ask(Request::AcceptTool { tool, digest }).await?;
            place.answer(&answer, |answer| {
                format!("accepted {} as {}", show::field(answer, "tool"), show::field(answer, "digest"))
            });
            done
        }
        Command::Tool(ToolCommand::Reject { tool, digest }) => {
            let answer = place.ask(Request::RejectTool { tool, digest }).await?;
            place.answer(&answer, |answer| {
                format!("rejected {} for {}", show::field(answer, "digest"), show::field(answer, "tool"))
            });
            done
        }
        Command::Grant(GrantCommand::Explain(question)) => {
            let answer = place.ask(Request::ExplainGrant(question)).await?;
            place.answer(&answer, explain::text);
            Ok(if show::field(&answer, "decision") == "deny" { Exit::No } else { Exit::Done })
        }
        Command::Agent(AgentCommand::List) => {
            let answer = place.ask(Request::ListAgents).await?;
            place.answer(&answer, agents::text);
            done
        }
        Command::Agent(AgentCommand::Token { name, ttl, task, user }) => {
            let request = Request::IssueToken { agent: name, ttl_s: ttl.as_secs(), task, user };
            let answer = place.ask(request).await?;
            place.answer(&answer, |answer| show::field(answer, "token").to_owned());
            done
        }
        Command::Agent(AgentCommand::Revoke { name, token }) => {
            let answer = place.ask(Request::RevokeToken { agent: name, token }).await?;
            place.answer(&answer, |answer| match answer.get("token").and_then(serde_json::Value::as_str) {
                Some(token) => format!("revoked token {token} of agent {}", show::field(answer, "agent")),
                None => format!("revoked every token of agent {}", show::field(answer, "agent")),
            });
            done
        }
        Command::Identity(command) => identity::run(place, command).await,
        Command::Task(TaskCommand::End { task }) => {
            let answer = place.ask(Request::EndTask { task }).await?;
            place.answer(&answer, |answer| {
                let of = |name: &str, one: &str| match answer.get(name).and_then(serde_json::Value::as_u64) {
                    Some(1) => format!("1 {one}"),
                    many => format!("{} {one}s", many.unwrap_or(0)),
                };
                let (tokens, holds, streams) = (of("tokens", "token"), of("holds", "hold"), of("streams", "stream"));
                let leases = of("leases", "lease");
                format!("ended task {}, with {tokens}, {holds}, {streams} and {leases}", show::field(answer, "task"))
            });
            done
        }
        Command::Hold(command) => holds::run(place, command).await,
        Command::Approver(command) => approvers::run(place, command).await,
        Command::Ledger(command) => ledger::run(place, command).await,
        Command::Call(args) => call::call(place, args).await,
        Command::Status => status(place).await,
        Command::Reload => {
            place.answer(&place.ask(Request::Reload).await?, |_| "reloaded".to_owned());
            done
        }
        Command::Stop => {
            place.answer(&place.ask(Request::Stop).await?, |_| "stopping".to_owned());
            done
        }
        Command::Quickstart { dir, listen, console_listen } => {
            quickstart::quickstart(place, &dir, listen, console_listen).await
        }
        // run on its own, before there is a runtime
        Command::Bank { .. } => done,
    }
}

async fn status(place: &Place) -> Result<Exit, Failure> {
    let config = place.config()?;
    match control::connect(&config).await? {
        Some(mut server) => {
            let mut answer = server.ask(&Request::Status).await?;
            if let Some(answer) = answer.as_object_mut() {
                answer.insert("running".to_owned(), true.into());
            }
            place.answer(&answer, show::status);
            Ok(Exit::Done)
        }
        None => {
            let answer = serde_json::json!({"running": false, "data": config.data.display().to_string()});
            place.answer(&answer, |answer| format!("no server runs on {}", show::field(answer, "data")));
            Ok(Exit::Unreachable)
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let address = config::parse_address(text).ok_or("write it as `127.0.0.1:7400`")?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the quickstart listens on this machine only: `127.0.0.1:…` or `[::1]:…`".to_owned())
    }
}

fn task_argument(text: &str) -> Result<String, String> {
    let fits = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| "a task is 1 to 256 bytes without control characters".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as `NAME=VALUE`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The whole command tree, for tests and documentation.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The path as a person would type it: relative to here where it lies below.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).ok().filter(|path| !path.as_os_str().is_empty()).unwrap_or(path);
    path.display().to_string()
}

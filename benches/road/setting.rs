//! Set-ups of Countersign to be measured, and what this machine's disk costs.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    call::{CallId, Door, Link, Operation, Passage, Received},
    clock::Clock,
    config,
    identity::{Presented, TokenRequest},
    json::Object,
    ledger::Body,
    server,
};

use crate::load::{Target, cpu_ns, resident_mb};

/// One way to run Countersign.
pub(crate) struct Setting<'a> {
    pub(crate) name: &'a str,
    /// An HTTP upstream; a child process without.
    pub(crate) upstream: Option<&'a str>,
    pub(crate) policies: usize,
    /// `[ledger] reads = "batched"`.
    pub(crate) batched: bool,
    /// Calls a tool that changes something, so that the reply waits for the outcome too.
    pub(crate) write: bool,
    /// Calls of other agents that wait for a person meanwhile.
    pub(crate) waiting: usize,
}

/// A running Countersign.
pub(crate) struct House {
    folder: PathBuf,
    mcp: SocketAddr,
    console: SocketAddr,
    tool: String,
    token: String,
    child: Child,
    /// From the start of the process to `/readyz`.
    pub(crate) started_in: Duration,
    /// Resident memory before the first call, MB.
    pub(crate) idle_mb: f64,
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = program(folder).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`countersign {}`: {told}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with everything that a setting takes.
pub(crate) struct Prepared {
    pub(crate) folder: PathBuf,
    mcp: SocketAddr,
    console: SocketAddr,
    pub(crate) tool: String,
    pub(crate) token: String,
}

impl Prepared {
    pub(crate) fn new(under: &Path, setting: &Setting<'_>) -> Self {
        let folder = under.join(setting.name);
        std::fs::create_dir_all(folder.join("grants")).unwrap();
        let (mcp, console) = (free_port(), free_port());
        let mut config = format!(
            "[server]\nlisten = \"{mcp}\"\n\n[console]\nlisten = \"{console}\"\n\n[store]\npath = \"data\"\n\n"
        );
        if setting.batched {
            config.push_str("[ledger]\nreads = \"batched\"\n\n");
        }
        match setting.upstream {
            Some(url) => write!(config, "[upstreams.up]\nurl = \"{url}\"\nconcurrency = 256\nqueue = 1024\n").unwrap(),
            None => {
                let this = std::env::current_exe().unwrap();
                let command = format!("[{:?}, \"--party=stdio\", \"20\"]", this.display().to_string());
                write!(config, "[upstreams.up]\ncommand = {command}\nconcurrency = 256\nqueue = 1024\n").unwrap();
            }
        }
        std::fs::write(folder.join("countersign.toml"), config).unwrap();
        printed(&folder, &["tool", "register"]);
        std::fs::write(folder.join("grants").join("bench.cedar"), grants(setting.policies)).unwrap();
        let token = printed(&folder, &["agent", "token", "bench", "--ttl", "1h"]);
        let token = token.split_whitespace().find(|word| word.starts_with("eyJ")).expect("a token").to_owned();
        let tool = if setting.write { "up__write" } else { "up__echo" }.to_owned();
        Self { folder, mcp, console, tool, token }
    }
}

impl House {
    pub(crate) async fn open(under: &Path, setting: &Setting<'_>) -> Self {
        let Prepared { folder, mcp, console, tool, token } = Prepared::new(under, setting);
        wait_for_people(&folder, setting.waiting).await;
        let began = Instant::now();
        let child = spawn(&folder);
        let mut house = Self { folder, mcp, console, tool, token, child, started_in: Duration::ZERO, idle_mb: 0.0 };
        house.wait_until_ready().await;
        house.started_in = began.elapsed();
        // the upstream may still be connecting
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        house.idle_mb = house.resident_mb();
        house
    }

    async fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.fetch("/readyz").starts_with("HTTP/1.1 200") {
            assert!(self.child.try_wait().unwrap().is_none(), "the server ended: {}", self.folder.display());
            assert!(Instant::now() < deadline, "the server is not ready: {}", self.folder.display());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// A page of the console, head and body; empty when nobody answers.
    fn fetch(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(self.console) else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.console);
        let mut answer = Vec::new();
        if stream.write_all(request.as_bytes()).is_ok() {
            let _closed = stream.read_to_end(&mut answer);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) fn target(&self, name: &str) -> Target {
        let mut target = Target::plain(name, &format!("http://{}/mcp", self.mcp), &self.tool, self.child.id());
        target.authorization = Some(format!("Bearer {}", self.token));
        target
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident_mb(&self) -> f64 {
        resident_mb(self.child.id())
    }

    /// Entries in the ledger, as the newest checkpoint counts them.
    pub(crate) async fn entries(&self) -> u64 {
        let checkpoint = printed(&self.folder, &["ledger", "checkpoint"]);
        checkpoint.lines().nth(1).and_then(|size| size.trim().parse().ok()).unwrap_or(0)
    }

    /// Ends the server and starts it again; how long until it is ready, and the processor time that took.
    pub(crate) async fn restart(&mut self, kill: bool) -> (Duration, Duration) {
        if kill {
            self.child.kill().unwrap();
        } else {
            let pid = rustix::process::Pid::from_child(&self.child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        self.child.wait().unwrap();
        let began = Instant::now();
        self.child = spawn(&self.folder);
        self.wait_until_ready().await;
        (began.elapsed(), Duration::from_nanos(cpu_ns(self.child.id())))
    }

    /// Name and labels, mean and count of every histogram in seconds at `/metrics`.
    pub(crate) async fn histogram_means(&self) -> Vec<(String, f64, u64)> {
        let page = self.fetch("/metrics");
        let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
        let mut means = Vec::new();
        for line in page.lines() {
            let Some((name, rest)) = line.split_once("_seconds_sum") else { continue };
            let labels = rest.rsplit_once(' ').map_or("", |(labels, _)| labels);
            let counted = format!("{name}_seconds_count{labels} ");
            let count = page.lines().find(|line| line.starts_with(&counted)).and_then(number).unwrap_or(0.0);
            if let Some(sum) = number(line)
                && count > 0.0
            {
                means.push((format!("{name}{labels}"), sum / count, count as u64));
            }
        }
        means
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("server.log")).unwrap();
    let mut command = program(folder);
    command.arg("serve").env("COUNTERSIGN_LOG", "warn").stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Has other agents make calls that wait for a person, twenty each.
async fn wait_for_people(folder: &Path, calls: usize) {
    if calls == 0 {
        return;
    }
    let config = config::load(&folder.join("countersign.toml")).unwrap();
    let house = server::House::open(config, Clock::System).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for agent in 0..calls.div_ceil(20) {
        let pipeline = Arc::clone(&house.pipeline);
        tasks.spawn(async move {
            let (agent, ttl) = (format!("waiting-{agent}"), Duration::from_secs(3_600));
            let request = TokenRequest { agent, ttl, task: None, user: None };
            let token = pipeline.identity.issue(request).await.unwrap();
            for call in 0..20 {
                let who = pipeline.identity.authenticate(&Presented::bearer(&token)).await.unwrap();
                let (at, arguments) = (pipeline.clock.now(), Object::new().with("text", format!("held {call}")));
                let (id, name, link) = (CallId::new(at).unwrap(), "up__echo".to_owned(), Link::none());
                let (operation, passage) = (Operation::CallTool, Passage::default());
                let received = Received::new(id, at, Door::Http, operation, name, arguments.into(), passage, link);
                let reply = pipeline.handle(received, who).await;
                assert!(matches!(reply.body(), Body::Held(_)), "{reply:?}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let open = house.pipeline.ledger.holds(|book| book.counts().pending);
    println!("{open} calls wait for a person");
    house.stop("filled").await;
}

/// One grant for the agent that calls, and one that holds others' calls, among `count` for others, for other tools and for groups.
fn grants(count: usize) -> String {
    let mut text = String::from(
        "@id(\"bench\")\npermit (principal == Agent::\"bench\", action in [Action::\"up__echo\", Action::\"up__write\"], \
         resource)\nwhen { context.input.text != \"never\" };\n\
         @id(\"waits\") @hold(\"owner\") @expires(\"30d\")\npermit (principal, action == Action::\"up__echo\", resource)\n\
         when { context.input.text like \"held*\" };\n",
    );
    for policy in 2..count {
        let agent = policy % 97;
        match policy % 4 {
            0 => writeln!(
                text,
                "@id(\"p{policy}\")\npermit (principal == Agent::\"agent-{agent}\", action == Action::\"up__echo\", resource)\n\
                 when {{ context.input.text like \"a{policy}*\" }};"
            ),
            1 => writeln!(
                text,
                "@id(\"p{policy}\")\npermit (principal == Agent::\"agent-{agent}\", action in Action::\"read\", resource);"
            ),
            2 => writeln!(
                text,
                "@id(\"p{policy}\")\npermit (principal in Team::\"team-{agent}\", action == Action::\"up__write\", resource);"
            ),
            _ => writeln!(
                text,
                "@id(\"p{policy}\")\nforbid (principal == Agent::\"agent-{agent}\", action in Action::\"call\", resource)\n\
                 unless {{ context.now < datetime(\"2100-01-01\") }};"
            ),
        }
        .unwrap();
    }
    text
}

/// The 50th and 99th percentile of an append of 1 KiB and its `fdatasync`, µs.
pub(crate) fn fdatasync(folder: &Path, times: usize) -> (u32, u32) {
    let mut file = std::fs::File::create(folder.join("fdatasync")).unwrap();
    let mut took: Vec<u32> = (0..times)
        .map(|_| {
            let began = Instant::now();
            file.write_all(&[7; 1024]).unwrap();
            file.sync_data().unwrap();
            u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX)
        })
        .collect();
    took.sort_unstable();
    (took[times / 2], took[times * 99 / 100])
}

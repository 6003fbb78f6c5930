//! `ledger …`: what happened, for reading, proving and keeping elsewhere.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    LedgerCommand, Place,
    control::{self, Server},
    outcome::{Exit, Failure},
    request::{PAGE, Request, execute},
    show,
};
use crate::{
    clock::Clock,
    config::Config,
    ledger::{
        rebuild::rebuild,
        verify::{Report, Verdict, verify_pinned},
    },
    server::House,
};

/// How `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// One entry a line: `{"entry":…,"seq":…}`, the entry byte for byte as it is in the log.
    Jsonl,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A copy of a data folder or of its tlog folder; needs no configuration. Without it, this house's
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "DIR", conflicts_with = "folder")]
    data: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere; may be given several times
    #[arg(long = "pin", alias = "checkpoint", value_name = "FILE")]
    pins: Vec<PathBuf>,
    /// The log's verifier key, as `ledger.pub` has it, or a file that holds it
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RebuildArgs {
    /// The published log; without it, this house's own
    #[arg(long, value_name = "DIR")]
    tlog: Option<PathBuf>,
    /// The folder that gets the store; without it, this house's data folder
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

pub(super) async fn run(place: &Place, command: LedgerCommand) -> Result<Exit, Failure> {
    match command {
        LedgerCommand::Verify(args) => verify(place, &args),
        LedgerCommand::Rebuild(args) => remake(place, args),
        LedgerCommand::Checkpoint => {
            let answer = place.ask(Request::LedgerCheckpoint).await?;
            place.answer(&answer, |answer| show::field(answer, "checkpoint").to_owned());
            Ok(Exit::Done)
        }
        LedgerCommand::Prove { seq } => {
            let answer = place.ask(Request::LedgerProve { seq }).await?;
            place.answer(&answer, |answer| show::field(answer, "proof").to_owned());
            Ok(Exit::Done)
        }
        LedgerCommand::Redact { seq } => {
            let answer = place.ask(Request::LedgerRedact { seq }).await?;
            place.answer(&answer, |_| format!("what was kept beside entry {seq} is gone, and that is recorded"));
            Ok(Exit::Done)
        }
        LedgerCommand::List { from, limit, kind, agent, tool, since } => {
            let first = Request::LedgerSelect { from, most: PAGE, agent, tool, kind, since };
            list(place, first, limit.unwrap_or(u64::MAX)).await
        }
        LedgerCommand::Tail { lines, follow } => tail(place, lines, follow).await,
        LedgerCommand::Show { entry } => look_up(place, &entry).await,
        LedgerCommand::Export { format: Format::Jsonl } => export(place).await,
    }
}

/// The ledger, by way of the server that has it open, or open here.
enum Source {
    Server(Server),
    House(Box<House>),
}

impl Source {
    async fn open(config: Config) -> Result<Self, Failure> {
        match control::connect(&config).await? {
            Some(server) => Ok(Self::Server(server)),
            None => Ok(Self::House(Box::new(House::open(config, Clock::System)?))),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Value, Failure> {
        match self {
            Self::Server(server) => server.ask(&request).await,
            Self::House(house) => execute(house, request).await,
        }
    }

    async fn close(self) {
        if let Self::House(house) = self {
            house.pipeline.upstreams.stop().await;
            house.pipeline.ledger.close().await;
        }
    }

    /// Gives `each` the entries from `from` on that are there now, until it says enough.
    async fn each(&mut self, from: u64, mut each: impl FnMut(&Value) -> bool) -> Result<u64, Failure> {
        let mut next = from;
        loop {
            let page = self.ask(Request::LedgerEntries { from: next, most: PAGE, wait_ms: 0 }).await?;
            let entries = show::items(&page, "entries");
            for entry in entries {
                next += 1;
                if !each(entry) {
                    return Ok(next);
                }
            }
            if entries.is_empty() {
                return Ok(next);
            }
        }
    }
}

fn print(place: &Place, entry: &Value) {
    if place.json {
        show::line(&entry.to_string());
    } else {
        show::line(&show::entry(entry));
    }
}

async fn list(place: &Place, first: Request, most: u64) -> Result<Exit, Failure> {
    let mut source = Source::open(place.config()?).await?;
    let listed = list_from(place, &mut source, first, most).await;
    source.close().await;
    listed.map(|()| Exit::Done)
}

async fn list_from(place: &Place, source: &mut Source, mut ask: Request, mut left: u64) -> Result<(), Failure> {
    while left > 0 {
        let page = source.ask(ask.clone()).await?;
        let entries = show::items(&page, "entries");
        for entry in entries.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            print(place, entry);
        }
        left = left.saturating_sub(entries.len() as u64);
        let next = page.get("next").and_then(Value::as_u64).unwrap_or_default();
        match &mut ask {
            // a page that goes on where it began, or at the end, is the last
            Request::LedgerSelect { from, .. } if *from < next => *from = next,
            _ => break,
        }
    }
    Ok(())
}

async fn tail(place: &Place, lines: u64, follow: bool) -> Result<Exit, Failure> {
    let mut source = Source::open(place.config()?).await?;
    let followed = match (&source, follow) {
        (Source::House(_), true) => Err(super::request::no_server()),
        _ => tail_of(place, &mut source, lines, follow).await,
    };
    source.close().await;
    followed.map(|()| Exit::Done)
}

async fn tail_of(place: &Place, source: &mut Source, lines: u64, follow: bool) -> Result<(), Failure> {
    let size = source.ask(Request::LedgerSize).await?.get("size").and_then(Value::as_u64).unwrap_or_default();
    let shown = |entry: &Value| {
        print(place, entry);
        true
    };
    let mut next = source.each(size.saturating_sub(lines), shown).await?;
    if !follow {
        return Ok(());
    }
    loop {
        let request = Request::LedgerEntries { from: next, most: PAGE, wait_ms: 10_000 };
        let page = tokio::select! {
            page = source.ask(request) => page?,
            _interrupted = tokio::signal::ctrl_c() => return Ok(()),
        };
        for entry in show::items(&page, "entries") {
            print(place, entry);
            next += 1;
        }
    }
}

async fn look_up(place: &Place, entry: &str) -> Result<Exit, Failure> {
    let request = match entry.parse() {
        Ok(seq) => Request::LedgerEntry { seq },
        Err(_) if entry.starts_with("call_") => Request::LedgerCall { call: entry.to_owned() },
        Err(_) => {
            return Err(Failure::new(Exit::Cannot, "that is neither an entry's number nor a call's id")
                .hint("`countersign ledger list` shows both"));
        }
    };
    let answer = place.ask(request).await?;
    let pretty = |entry: &Value| serde_json::to_string_pretty(entry).map(|text| readable(&text)).unwrap_or_default();
    place.answer(&answer, |answer| match show::items(answer, "entries") {
        [] => pretty(answer),
        entries => entries.iter().map(pretty).collect::<Vec<_>>().join("\n"),
    });
    Ok(Exit::Done)
}

/// Letters that hide or turn text round written out, line by line.
fn readable(text: &str) -> String {
    text.lines().map(crate::display::visible).collect::<Vec<_>>().join("\n")
}

async fn export(place: &Place) -> Result<Exit, Failure> {
    let mut source = Source::open(place.config()?).await?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut next = 0;
    let exported = loop {
        let page = match source.ask(Request::LedgerExport { from: next, most: PAGE }).await {
            Ok(page) => page,
            Err(failure) => break Err(failure),
        };
        let lines = show::items(&page, "lines");
        if lines.is_empty() {
            break Ok(Exit::Done);
        }
        next += lines.len() as u64;
        let written = lines.iter().filter_map(Value::as_str).try_for_each(|line| writeln!(out, "{line}"));
        if let Err(error) = written {
            break Err(Failure::io("the entries cannot be written", &error));
        }
    };
    let flushed = out.flush();
    source.close().await;
    let exit = exported?;
    flushed.map(|()| exit).map_err(|error| Failure::io("the entries cannot be written", &error))
}

fn verify(place: &Place, args: &VerifyArgs) -> Result<Exit, Failure> {
    let folder = match args.folder.as_ref().or(args.data.as_ref()) {
        Some(folder) => folder.clone(),
        None => place.config()?.data,
    };
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| Failure {
            exit: Exit::Cannot,
            ..Failure::io(format!("`{}` cannot be read", path.display()), &error)
        })
    };
    let pins = args.pins.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let pins: Vec<&str> = pins.iter().map(String::as_str).collect();
    let key = match &args.key {
        Some(key) if key.contains('+') && !Path::new(key).is_file() => Some(key.clone()),
        Some(file) => Some(read(Path::new(file))?.trim().to_owned()),
        None => None,
    };
    let report = verify_pinned(&folder, &pins, key.as_deref());
    place.answer(&report_json(&report), |_| readable(&report.to_string()));
    Ok(match report.verdict {
        Verdict::Holds => Exit::Done,
        Verdict::Tampered => Exit::No,
        Verdict::CannotTell => Exit::Cannot,
    })
}

fn report_json(report: &Report) -> Value {
    let verdict = match report.verdict {
        Verdict::Holds => "holds",
        Verdict::Tampered => "tampered",
        Verdict::CannotTell => "cannot_tell",
    };
    json!({
        "verdict": verdict,
        "entries": report.entries,
        "signed": report.signed,
        "root": report.root,
        "key": report.key,
        "first_bad": report.first_bad,
        "problems": report.problems,
        "doubts": report.doubts,
        "remarks": report.remarks,
    })
}

fn remake(place: &Place, args: RebuildArgs) -> Result<Exit, Failure> {
    let data = match (&args.tlog, &args.into) {
        (Some(_), Some(_)) => PathBuf::new(),
        _ => place.config()?.data,
    };
    let tlog = args.tlog.unwrap_or_else(|| data.join("tlog"));
    let into = args.into.unwrap_or(data);
    let entries = rebuild(&tlog, &into).map_err(|fault| Failure::new(Exit::No, fault.0))?;
    let answer = json!({"entries": entries, "into": into.display().to_string()});
    place.answer(&answer, |_| format!("rebuilt {entries} entries into {}", into.display()));
    Ok(Exit::Done)
}

//! The whole road against a proxy that looks at nothing: `cargo bench --bench road`; see docs/performance.md.
//!
//! Every party is a process of its own on this machine: an upstream that does nothing, a proxy that copies bytes (the
//! practical limit), and `countersign serve` in several set-ups. A closed loop calls them in turn, round by round, so
//! that noise hits all alike: trust the ratios, and the processor time a call.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made ends the run"
)]

mod load;
mod parties;
mod setting;
mod stages;
mod tokens;

use std::{collections::BTreeMap, time::Duration};

use load::{Figures, Target};
use setting::{House, Prepared, Setting};

/// What `-- …` can say.
struct Choices {
    connections: Vec<usize>,
    seconds: f64,
    rounds: usize,
    only: Option<Vec<String>>,
    fill: u64,
}

fn choices(arguments: &[String]) -> Choices {
    let mut chosen = Choices { connections: vec![1, 8, 32, 128], seconds: 2.0, rounds: 4, only: None, fill: 0 };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().unwrap_or_else(|| panic!("`{argument}` wants a value")).clone();
        match argument.as_str() {
            "--quick" => (chosen.seconds, chosen.rounds) = (0.7, 2),
            "--conns" => chosen.connections = value().split(',').map(|each| each.parse().unwrap()).collect(),
            "--secs" => chosen.seconds = value().parse().unwrap(),
            "--rounds" => chosen.rounds = value().parse().unwrap(),
            "--only" => chosen.only = Some(value().split(',').map(str::to_owned).collect()),
            "--fill" => chosen.fill = value().parse().unwrap(),
            "--bench" => {}
            other => panic!("`{other}`: choose from --quick --conns --secs --rounds --only --fill"),
        }
    }
    chosen
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(party) = arguments.first().and_then(|first| first.strip_prefix("--party=")) {
        return parties::run(party, &arguments[1..]);
    }
    // `cargo test --all-targets` starts benchmarks too; only `cargo bench` says so
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let chosen = choices(&arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, measure(&chosen));
}

async fn measure(chosen: &Choices) {
    let wanted = |name: &str| chosen.only.as_ref().is_none_or(|only| only.iter().any(|each| each == name));
    let folder = tempfile::Builder::new().prefix("road-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let sync = setting::fdatasync(folder.path(), 600);
    println!(
        "this machine: {} processors, fdatasync of 1 KiB: p50 {} µs, p99 {} µs",
        std::thread::available_parallelism().map_or(0, usize::from),
        sync.0,
        sync.1
    );

    let upstream = parties::start("upstream", &["20"]);
    let many = parties::start("upstream", &["2000"]);
    let blind = parties::start("blind", &[&upstream.url]);
    let synced = parties::start("synced", &[&upstream.url, folder.path().to_str().unwrap()]);
    let mut targets = vec![
        Target::plain("blind", &blind.url, "echo", blind.pid),
        Target::plain("synced", &synced.url, "echo", synced.pid),
        Target::plain("direct", &upstream.url, "echo", upstream.pid),
    ];
    if wanted("stages") {
        for (name, write) in [("stages-read", false), ("stages-write", true)] {
            let setting =
                Setting { name, upstream: Some(&upstream.url), policies: 100, batched: false, write, waiting: 0 };
            let Prepared { folder, tool, token, .. } = Prepared::new(folder.path(), &setting);
            stages::measure(&folder, &tool, &token, 2_000).await;
        }
        let apart = tempfile::tempdir().unwrap();
        tokens::measure(apart.path(), 2_000).await;
    }
    let settings = [
        Setting {
            name: "durable",
            upstream: Some(&upstream.url),
            policies: 100,
            batched: false,
            write: true,
            waiting: 0,
        },
        Setting {
            name: "read",
            upstream: Some(&upstream.url),
            policies: 100,
            batched: false,
            write: false,
            waiting: 0,
        },
        Setting {
            name: "batched",
            upstream: Some(&upstream.url),
            policies: 100,
            batched: true,
            write: false,
            waiting: 0,
        },
        Setting { name: "large", upstream: Some(&many.url), policies: 1_000, batched: false, write: true, waiting: 0 },
        Setting {
            name: "held",
            upstream: Some(&upstream.url),
            policies: 100,
            batched: false,
            write: true,
            waiting: 10_000,
        },
        Setting { name: "stdio", upstream: None, policies: 100, batched: false, write: false, waiting: 0 },
    ];
    let mut houses: BTreeMap<&str, House> = BTreeMap::new();
    for setting in settings.iter().filter(|setting| wanted(setting.name)) {
        let house = House::open(folder.path(), setting).await;
        println!(
            "{:<8} ready after {:.3} s, {:.1} MB resident",
            setting.name,
            house.started_in.as_secs_f64(),
            house.resident_mb()
        );
        targets.push(house.target(setting.name));
        houses.insert(setting.name, house);
    }

    let mut table: BTreeMap<(usize, String), Figures> = BTreeMap::new();
    for connections in &chosen.connections {
        println!("\n{connections} connection(s)");
        println!(
            "{:<8} {:>10} {:>7} {:>9} {:>9} {:>12} {:>9} {:>7}",
            "", "calls/s", "ratio", "p50 µs", "p99 µs", "cpu µs/call", "MB", "errors"
        );
        let rounds = (chosen.rounds, Duration::from_secs_f64(chosen.seconds));
        let measured = load::interleaved(&targets, *connections, rounds).await;
        let base = measured[0].per_second();
        for (target, figures) in targets.iter().zip(measured) {
            println!(
                "{:<8} {:>10.0} {:>7.3} {:>9} {:>9} {:>12.1} {:>9.1} {:>7}",
                target.name,
                figures.per_second(),
                figures.per_second() / base,
                figures.quantile(0.5),
                figures.quantile(0.99),
                figures.cpu_us(),
                target.resident_mb(),
                figures.errors
            );
            table.insert((*connections, target.name.clone()), figures);
        }
    }

    histograms(&houses).await;
    starts(&mut houses, &targets, chosen.fill).await;
    judge(&table, &houses, sync.0);
}

/// What the server's own histograms say that each stage takes.
async fn histograms(houses: &BTreeMap<&str, House>) {
    for (name, house) in houses {
        let means = house.histogram_means().await;
        if !means.is_empty() {
            println!("\n{name}: mean of each histogram at /metrics");
        }
        for (metric, mean, count) in means {
            println!("  {metric:<64} {:>9.1} µs  of {count}", mean * 1e6);
        }
    }
}

/// What a call leaves in memory, and how long a start takes: after a kill under load, and after a clean stop.
async fn starts(houses: &mut BTreeMap<&str, House>, targets: &[Target], fill: u64) {
    let Some(house) = houses.get_mut("durable") else { return };
    let mut target = targets.iter().find(|target| target.name == "durable").unwrap().clone();
    let mut entries = house.entries().await;
    let mut filled: Vec<(u64, f64)> = Vec::new();
    while entries < fill {
        load::interleaved(std::slice::from_ref(&target), 64, (1, Duration::from_secs(5))).await;
        let now = house.entries().await;
        assert!(now > entries, "the ledger does not grow");
        entries = now;
        filled.push((entries, house.resident_mb()));
        println!("fill     {entries:>9} entries, {:.1} MB resident", house.resident_mb());
    }
    // what the first quarter takes is caches and the allocator's, which do not go on growing
    let warm = filled.iter().find(|(entries, _)| *entries >= fill / 4);
    let most = filled.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    if let (Some(warm), Some(most)) = (warm, most)
        && most.0 > warm.0
    {
        let grown = (most.1 - warm.1) * f64::from(1 << 20) / (most.0 - warm.0) as f64;
        println!("         {grown:.1} bytes of memory an entry, from {} to {} entries", warm.0, most.0);
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        load::interleaved(std::slice::from_ref(&target), 64, (1, Duration::from_millis(500))).await;
        for (kill, times) in [true, false].into_iter().zip(&mut times) {
            times.push(house.restart(kill).await);
            target.pids = vec![house.pid()];
        }
    }
    let [killed, clean] = times.map(|mut times| {
        times.sort_unstable();
        times[1]
    });
    let [(killed, killed_cpu), (clean, clean_cpu)] = [killed, clean];
    println!(
        "\nstart with a ledger of {} entries, median of 3: {:.3} s after a clean stop ({:.2} s of processor), {:.3} s \
         after a kill ({:.2} s); {:.1} MB resident then",
        house.entries().await,
        clean.as_secs_f64(),
        clean_cpu.as_secs_f64(),
        killed.as_secs_f64(),
        killed_cpu.as_secs_f64(),
        house.resident_mb()
    );
    println!(
        "  targets (1,000,000 entries, `-- --fill 1000000`): {} and {}",
        verdict(clean.as_secs_f64() <= 0.3, "0.3 s"),
        verdict(killed.as_secs_f64() <= 3.0, "3 s")
    );
}

fn verdict(met: bool, target: &str) -> String {
    format!("{target} {}", if met { "met" } else { "MISSED" })
}

fn judge(table: &BTreeMap<(usize, String), Figures>, houses: &BTreeMap<&str, House>, sync_us: u32) {
    println!("\ntargets");
    let figures = |connections: usize, name: &str| table.get(&(connections, name.to_owned()));
    let ratio = |connections, name: &str, base: &str| {
        Some(figures(connections, name)?.per_second() / figures(connections, base)?.per_second())
    };
    for connections in [8, 32] {
        for (name, least) in [("durable", 0.40), ("batched", 0.55)] {
            if let Some(ratio) = ratio(connections, name, "blind") {
                let target = format!("at least {least:.2} of blind");
                println!("  {name:<8} {connections:>3} connections: {ratio:.3}, {}", verdict(ratio >= least, &target));
            }
        }
        if let Some(ratio) = ratio(connections, "held", "durable") {
            println!(
                "  held     {connections:>3} connections: {ratio:.3} of durable, {}",
                verdict(ratio >= 0.97, "unchanged within noise: at least 0.97")
            );
        }
        if let Some(ratio) = ratio(connections, "large", "durable") {
            println!(
                "  large    {connections:>3} connections: {ratio:.3} of durable, {}",
                verdict(ratio >= 0.9, "at least 0.90")
            );
        }
    }
    for (name, most) in [("durable", 45.0), ("stdio", 70.0)] {
        if let Some(figures) = figures(32, name) {
            let cpu = figures.cpu_us();
            println!(
                "  {name:<8}  32 connections: {cpu:.1} µs of processor a call, {}",
                verdict(cpu <= most, &format!("at most {most:.0}"))
            );
        }
    }
    if let Some(blind) = figures(1, "blind") {
        let (blind, durable) = (blind.quantile(0.5), f64::from(sync_us) * 1.3);
        for (name, more) in [("durable", durable), ("read", durable), ("batched", 60.0)] {
            if let Some(figures) = figures(1, name) {
                let (p50, most) = (figures.quantile(0.5), f64::from(blind) + more);
                let target = format!("at most {most:.0} (blind {blind} + {more:.0})");
                println!("  {name:<8}   1 connection: p50 {p50} µs, {}", verdict(f64::from(p50) <= most, &target));
            }
        }
    }
    for (name, house) in houses {
        let (idle, loaded) = (house.idle_mb, house.resident_mb());
        println!(
            "  {name:<8} resident: idle {idle:.1} MB, {}; after the load {loaded:.1} MB, {}",
            verdict(idle <= 30.0, "at most 30"),
            verdict(loaded <= 80.0, "at most 80")
        );
    }
}

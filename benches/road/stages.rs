//! What each stage of the road takes, one call after the other, in this process: the library called directly, so that
//! timing costs the product nothing. Intending and settling wait for the disk, forwarding for the upstream; what HTTP
//! takes comes on top.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use countersign::{
    call::{CallId, ClientSide, Door, Link, Operation, Passage, Received},
    clock::Clock,
    config::Config,
    grant::Decision,
    identity::Presented,
    json::{self, Limits, Object, Value},
    ledger::Body,
    server::House,
};

use crate::load::META;

const STAGES: [&str; 8] = ["authenticate", "parse", "receive", "validate", "decide", "intend", "forward", "settle"];

/// Opens the house of that folder in this process and times `calls` calls.
pub(crate) async fn measure(folder: &Path, tool: &str, token: &str, calls: usize) {
    let config = countersign::config::load(&folder.join(Config::FILE)).unwrap();
    let began = Instant::now();
    let house = House::open(config, Clock::System).unwrap();
    let opened = began.elapsed();
    house.start().await.unwrap();
    let road = &house.pipeline;
    let deadline = Instant::now() + Duration::from_secs(20);
    while road.upstreams.status().iter().any(|status| status.state != "ready") {
        assert!(Instant::now() < deadline, "the upstream is not ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut took: Vec<[f64; STAGES.len()]> = Vec::with_capacity(calls);
    for call in 0..calls {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{call},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"text":"w0000n{call:09}"}},{META}}}}}"#
        );
        let mut laps = [0.0; STAGES.len()];
        let mut lap = {
            let mut stage = 0;
            let mut at = Instant::now();
            move |laps: &mut [f64; STAGES.len()]| {
                laps[stage] = at.elapsed().as_nanos() as f64 / 1_000.0;
                stage += 1;
                at = Instant::now();
            }
        };
        let who = road.identity.authenticate(&Presented::bearer(token)).await.unwrap();
        lap(&mut laps);
        let Value::Object(mut document) = json::parse(text.as_bytes(), &Limits::REQUEST).unwrap() else { panic!() };
        lap(&mut laps);
        let Some(Value::Object(mut params)) = document.remove("params") else { panic!("there are parameters") };
        let arguments = params.remove("arguments").unwrap();
        let at = road.clock.now();
        let client = ClientSide { modern: true, capabilities: Object::new(), ..ClientSide::default() };
        let (link, _notices, _cancel) = Link::new(client, 64);
        let id = CallId::new(at).unwrap();
        let passage = Passage::default();
        let (door, operation) = (Door::Http, Operation::CallTool);
        let received = Received::new(id, at, door, operation, tool.to_owned(), arguments, passage, link);
        lap(&mut laps);
        let call = received.authenticate(who).validate(&road.catalog.load()).unwrap();
        lap(&mut laps);
        let Decision::Permit(call) = road.grants.load().decide(call, &road.sessions) else { panic!("not permitted") };
        lap(&mut laps);
        let call = road.ledger.intend(call).await.unwrap();
        lap(&mut laps);
        let contract = std::sync::Arc::clone(call.call().call().tool());
        let forwarded = road.upstreams.forward(call).await;
        lap(&mut laps);
        let reply = road.ledger.settle(contract.inspect(forwarded)).await;
        lap(&mut laps);
        assert!(matches!(reply.body(), Body::Result { .. }));
        took.push(laps);
    }
    println!("\nstages of `{tool}`, µs, {calls} calls one after the other (opened in {:.3} s)", opened.as_secs_f64());
    println!("  {:<14} {:>9} {:>9} {:>9}", "", "p50", "mean", "p99");
    for (stage, name) in STAGES.iter().enumerate() {
        let mut column: Vec<f64> = took.iter().map(|laps| laps[stage]).collect();
        column.sort_by(f64::total_cmp);
        let mean = column.iter().sum::<f64>() / column.len() as f64;
        let (middle, late) = (column[column.len() / 2], column[column.len() * 99 / 100]);
        println!("  {name:<14} {middle:>9.1} {mean:>9.1} {late:>9.1}");
    }
    house.stop("measured").await;
}

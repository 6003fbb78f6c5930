//! How each kind of client meets a hold: bytes over a socket, a [`Fake`](super::Fake) house behind.

use super::*;

const TASKS: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;
const PAGES: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}"#;

fn result(got: &Got) -> Value {
    json(&got.body).get("result").unwrap_or_else(|| panic!("{got:?}")).clone()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_else(|| panic!("no `{name}` in {value:?}"))
}

fn decision(result: &Value) -> Value {
    result.get("_meta").unwrap().get("countersign/decision").unwrap().clone()
}

impl Door {
    /// A request of 2026-07-28 by a client that declares `meta`.
    async fn as_client(&self, meta: &str, token: &str, method: &str, name: &str, params: &str) -> Got {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params},{meta}}}}}"#);
        let bearer = format!("Bearer {token}");
        let headers = [
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", method),
            ("mcp-name", name),
            ("authorization", bearer.as_str()),
        ];
        self.post(&headers, &body).await
    }

    async fn held(&self, meta: &str, more: &str) -> Got {
        self.as_client(meta, "good", "tools/call", "x__held", &format!(r#""name":"x__held"{more}"#)).await
    }

    async fn about(&self, method: &str, task: &str, more: &str) -> Got {
        self.as_client(TASKS, "good", method, task, &format!(r#""taskId":"{task}"{more}"#)).await
    }

    /// A session of `version` whose client declares `capabilities`: its id, and what the server can do.
    async fn session_of(&self, version: &str, capabilities: &str) -> (String, Value) {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{capabilities}}}}}"#
        );
        let got = self.post(&[], &body).await;
        let own = result(&got).get("capabilities").unwrap().clone();
        (got.header("mcp-session-id").unwrap().to_owned(), own)
    }
}

#[tokio::test]
async fn a_client_with_tasks_gets_one_at_once_and_follows_it_to_its_result() {
    let door = open().await;
    let discovered = result(&door.modern("server/discover", "", None).await);
    let own = discovered.get("capabilities").unwrap();
    assert!(own.get("extensions").unwrap().get("io.modelcontextprotocol/tasks").is_some());
    assert!(own.get("tasks").is_none(), "the word of the revision before");

    let task = result(&door.held(TASKS, "").await);
    assert_eq!((text(&task, "resultType"), text(&task, "status")), ("task", "working"));
    assert_eq!(decision(&task).get("outcome"), Some(&Value::from("held")));
    for name in ["createdAt", "lastUpdatedAt", "statusMessage", "ttlMs", "pollIntervalMs"] {
        assert!(task.get(name).is_some(), "{name}");
    }
    for name in ["requestState", "inputRequests", "result", "task"] {
        assert!(task.get(name).is_none(), "{name}");
    }
    assert_eq!(*door.house.waited.lock().unwrap(), [(0, true)], "it does not wait, and runs alone");
    let id = text(&task, "taskId").to_owned();
    assert!(text(&task, "statusMessage").contains(&id) && text(&task, "statusMessage").contains("owner"));
    let again = result(&door.held(TASKS, "").await);
    assert_eq!(text(&again, "taskId"), id, "the identical call is the same task");

    let working = result(&door.about("tasks/get", &id, "").await);
    assert_eq!((text(&working, "resultType"), text(&working, "status")), ("complete", "working"));
    door.house.approve();
    // asking runs what was countersigned
    let _ran = door.about("tasks/get", &id, "").await;
    let done = result(&door.about("tasks/get", &id, "").await);
    assert_eq!(text(&done, "status"), "completed");
    let answered = done.get("result").unwrap();
    assert_eq!(text(answered, "resultType"), "complete");
    assert!(answered.get("structuredContent").is_some());
    assert_eq!(door.house.calls.load(Ordering::SeqCst) / 100, 1, "it was run once");
    assert!(door.house.codes().is_empty());
}

#[tokio::test]
async fn tasks_are_for_who_declares_them_and_for_their_own_agent() {
    let door = open().await;
    let id = text(&result(&door.held(TASKS, "").await), "taskId").to_owned();
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let params = format!(r#""taskId":"{id}","inputResponses":{{}}"#);
        let undeclared = door.as_client(MODERN, "good", method, &id, &params).await;
        assert_eq!((undeclared.status, undeclared.code()), (400, Some(-32021)), "{method}");
        assert!(
            undeclared.body.contains(r#""requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#)
        );
        let unknown = "hold_00000000000000000000000000";
        let own = door.about(method, unknown, r#","inputResponses":{}"#).await;
        let others = door.as_client(TASKS, "other", method, &id, &params).await;
        assert_eq!((own.status, own.code()), (200, Some(-32602)), "{method}");
        assert_eq!(own.body, others.body, "another's task looks like none");
        let elsewhere = door.as_client(TASKS, "good", method, "hold_1", &params).await;
        assert_eq!((elsewhere.status, elsewhere.code()), (400, Some(-32020)), "the header names another");
    }
    for id in ["x", "hold_", &"9".repeat(300)] {
        assert_eq!(door.about("tasks/get", id, "").await.code(), Some(-32602), "{id}");
    }
    for method in ["tasks/result", "tasks/list"] {
        let gone = door.about(method, &id, "").await;
        assert_eq!((gone.status, gone.code()), (404, Some(-32601)), "{method}");
    }
    assert!(door.house.open_hold().phase.is_open(), "nothing of it was withdrawn");
}

#[tokio::test]
async fn cancelling_a_task_withdraws_it_and_may_be_said_twice() {
    let door = open().await;
    let id = text(&result(&door.held(TASKS, "").await), "taskId").to_owned();
    let update = door.about("tasks/update", &id, r#","inputResponses":{"never":{"asked":true}}"#).await;
    assert_eq!(update.body, r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#);
    assert_eq!(door.about("tasks/update", &id, "").await.code(), Some(-32602));
    for _ in 0..2 {
        let cancelled = door.about("tasks/cancel", &id, "").await;
        assert_eq!(cancelled.body, r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#);
        let task = result(&door.about("tasks/get", &id, "").await);
        assert_eq!(text(&task, "status"), "cancelled");
        assert!(task.get("result").is_none() && task.get("error").is_none());
    }
    let next = result(&door.held(TASKS, "").await);
    assert_ne!(text(&next, "taskId"), id, "what was withdrawn is asked for anew");
}

#[tokio::test]
async fn a_subscription_tells_of_its_own_tasks() {
    let door = open().await;
    let id = text(&result(&door.held(TASKS, "").await), "taskId").to_owned();
    let ids = format!(r#"["{id}","hold_00000000000000000000000000","x"]"#);
    let listen = |meta: &str, ids: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":9,"method":"subscriptions/listen","params":{{"notifications":{{"taskIds":{ids}}},{meta}}}}}"#
        )
    };
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];
    let undeclared = door.post(&headers, &listen(MODERN, &ids)).await;
    assert_eq!((undeclared.status, undeclared.code()), (400, Some(-32021)));
    for bad in ["7", "[7]", &format!("[{}]", vec!["\"x\""; 65].join(","))] {
        assert_eq!(door.post(&headers, &listen(TASKS, bad)).await.code(), Some(-32602), "{bad}");
    }
    let mut client = door.connect().await;
    client.write(&headers, &listen(TASKS, &ids)).await;
    client.head().await;
    let first = client.event().await.unwrap();
    let honoured = first.get("params").unwrap().get("notifications").unwrap();
    assert_eq!(honoured.get("taskIds"), Some(&Value::from(vec![Value::from(id.as_str())])));
    let told = async |client: &mut Client| {
        let event = client.event().await.unwrap();
        assert_eq!(text(&event, "method"), "notifications/tasks");
        let params = event.get("params").unwrap().clone();
        assert_eq!(text(&params, "taskId"), id);
        let meta = params.get("_meta").unwrap();
        assert_eq!(meta.get("io.modelcontextprotocol/subscriptionId"), Some(&Value::from(9)));
        params
    };
    assert_eq!(text(&told(&mut client).await, "status"), "working", "where it stands when the stream begins");
    door.house.approve();
    let done = loop {
        let told = told(&mut client).await;
        if text(&told, "status") != "working" {
            break told;
        }
    };
    assert_eq!(text(&done, "status"), "completed");
    assert!(done.get("result").unwrap().get("structuredContent").is_some());
}

#[tokio::test]
async fn a_client_that_opens_pages_is_given_the_holds_and_then_waits() {
    let door = open().await;
    let first = result(&door.held(PAGES, "").await);
    assert_eq!(text(&first, "resultType"), "input_required");
    let asked = first.get("inputRequests").unwrap().get("countersign").unwrap();
    assert_eq!(text(asked, "method"), "elicitation/create");
    let params = asked.get("params").unwrap();
    let hold = door.house.open_hold().hold.id.to_string();
    assert_eq!((text(params, "mode"), text(params, "url")), ("url", &*format!("http://127.0.0.1:7401/holds/{hold}")));
    let state = text(&first, "requestState").to_owned();
    let accept = format!(r#","requestState":"{state}","inputResponses":{{"countersign":{{"action":"accept"}}}}"#);
    let house = Arc::clone(&door.house);
    let (second, ()) = tokio::join!(door.held(PAGES, &accept), async {
        wait(|| house.waited.lock().unwrap().len() == 2).await;
        assert_eq!(house.open_hold().phase.word(), "pending", "to open a page approves nothing");
        house.approve();
    });
    assert!(second.body.contains(r#""done":true"#), "{second:?}");
    assert_eq!(*door.house.waited.lock().unwrap(), [(0, false), (25, false)]);
    let again = door.held(PAGES, &accept).await;
    assert_eq!((again.status, again.code()), (400, Some(-32602)), "a state serves once");
}

#[tokio::test]
async fn to_decline_the_page_withdraws_the_hold() {
    let door = open().await;
    for action in ["decline", "cancel"] {
        let first = result(&door.held(PAGES, "").await);
        let (state, hold) = (text(&first, "requestState"), door.house.open_hold().hold.id.clone());
        let no = format!(r#","requestState":"{state}","inputResponses":{{"countersign":{{"action":"{action}"}}}}"#);
        let refused = result(&door.held(PAGES, &no).await);
        assert_eq!(refused.get("isError"), Some(&Value::Bool(true)));
        let decision = decision(&refused);
        assert_eq!((text(&decision, "reason"), text(&decision, "hold")), ("hold_cancelled", hold.as_str()));
        assert_eq!(door.house.book.lock().unwrap().get(&hold).unwrap().phase.word(), "cancelled", "{action}");
    }
    assert_eq!(door.house.waited.lock().unwrap().len(), 2, "what was declined is not asked for anew");
    // one who declines too late gets what was decided
    let impatient = r#","arguments":{"impatient":true}"#;
    let first = result(&door.held(PAGES, impatient).await);
    let state = text(&first, "requestState").to_owned();
    door.house.approve();
    let record = door.house.open_hold();
    door.house.run(record.hold.id.clone(), door.house.judge(Some("good")).unwrap());
    let no = r#""inputResponses":{"countersign":{"action":"decline"}}"#;
    let late = format!(r#"{impatient},"requestState":"{state}",{no}"#);
    let got = result(&door.held(PAGES, &late).await);
    assert_eq!(text(&got, "resultType"), "input_required", "the fake asks anew: the door let the call pass");
}

#[tokio::test]
async fn rounds_end_with_an_answer_before_clients_give_up() {
    let door = open().await;
    let mut state = String::new();
    for round in 1..=7 {
        let more = format!(r#","arguments":{{"impatient":true}}{state}"#);
        let got = result(&door.held(MODERN, &more).await);
        assert_eq!(text(&got, "resultType"), "input_required", "round {round}");
        assert!(got.get("inputRequests").is_none(), "nothing is asked of a client that can do nothing");
        assert_eq!(text(&decision(&got), "outcome"), "held");
        state = format!(r#","requestState":"{}""#, text(&got, "requestState"));
    }
    let last = result(&door.held(MODERN, &format!(r#","arguments":{{"impatient":true}}{state}"#)).await);
    assert_eq!(last.get("isError"), Some(&Value::Bool(true)));
    let hold = door.house.open_hold().hold.id.to_string();
    let decision = decision(&last);
    assert_eq!((text(&decision, "reason"), text(&decision, "hold")), ("approval_required", hold.as_str()));
    assert!(decision.get("retryAfterMs").is_some() && decision.get("call").is_some());
    let content = last.get("content").unwrap().as_array().unwrap();
    let sentence = text(&content[0], "text");
    for part in [hold.as_str(), "calling again with the same arguments", "http://127.0.0.1:7401/holds/", "owner"] {
        assert!(sentence.contains(part), "{part} in {sentence}");
    }
    let waited = door.house.waited.lock().unwrap();
    assert!(waited.len() == 8 && waited.iter().all(|waited| *waited == (25, false)));
}

#[tokio::test]
async fn a_state_of_a_hold_serves_its_own_call_only_and_every_failure_reads_alike() {
    let door = open().await;
    let impatient = r#","arguments":{"impatient":true}"#;
    let got = result(&door.held(MODERN, impatient).await);
    let state = text(&got, "requestState").to_owned();
    let call = async |token: &str, name: &str, arguments: &str, state: &str| {
        let params = format!(r#""name":"{name}","arguments":{arguments},"requestState":"{state}""#);
        door.as_client(MODERN, token, "tools/call", name, &params).await
    };
    let same = r#"{"impatient":true}"#;
    let mut flipped = state.clone().into_bytes();
    flipped[30] = if flipped[30] == b'A' { b'B' } else { b'A' };
    let upstreams =
        door.modern("tools/call", r#""name":"x__input","arguments":{"impatient":true}"#, Some("x__input")).await;
    let upstreams = text(&result(&upstreams), "requestState").to_owned();
    let mut texts = Vec::new();
    for (what, got) in [
        ("another principal", call("other", "x__held", same, &state).await),
        ("another tool", call("good", "x__echo", same, &state).await),
        ("other arguments", call("good", "x__held", r#"{"impatient":false}"#, &state).await),
        ("forged", call("good", "x__held", same, "AAAA").await),
        ("a flipped bit", call("good", "x__held", same, &String::from_utf8(flipped).unwrap()).await),
        ("cut", call("good", "x__held", same, &state[..state.len() - 4]).await),
        ("an upstream's", call("good", "x__held", same, &upstreams).await),
    ] {
        assert_eq!((got.status, got.code()), (400, Some(-32602)), "{what}: {got:?}");
        texts.push(got.body);
    }
    let prompt = format!(r#""name":"x__held","arguments":{same},"requestState":"{state}""#);
    texts.push(door.modern("prompts/get", &prompt, Some("x__held")).await.body);
    assert_eq!(call("good", "x__held", same, &state).await.code(), None, "it is good all the same");
    texts.push(call("good", "x__held", same, &state).await.body);
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "one text for every failure: {texts:?}");
    assert_eq!(door.house.waited.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_legacy_call_waits_on_a_stream_that_begins_at_once() {
    let door = open().await;
    let (session, own) = door.session_of("2025-06-18", r#"{"elicitation":{"url":{}}}"#).await;
    assert!(own.get("tasks").is_none(), "the revision has none");
    let mut client = door.connect().await;
    // it asks for no progress, and its revision knows no pages
    client.write(&[("mcp-session-id", &session)], &call(1, "x__held", "")).await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    assert_eq!(client.chunk().await.as_deref(), Some(":\n\n"));
    door.house.approve();
    let last = client.event().await.unwrap();
    assert!(last.get("result").unwrap().get("structuredContent").is_some(), "{last:?}");
    assert_eq!(*door.house.waited.lock().unwrap(), [(45, false)]);

    let token = r#","_meta":{"progressToken":7}"#;
    let mut client = door.connect().await;
    client.write(&[("mcp-session-id", &session)], &call(2, "x__held", token)).await;
    client.head().await;
    let progress = client.event().await.unwrap();
    assert_eq!(text(&progress, "method"), "notifications/progress");
    let told =
        door.post(&[("mcp-session-id", &session)], &call(3, "x__held", r#","arguments":{"impatient":true}"#)).await;
    assert!(told.body.contains(r#""isError":true"#) && told.body.contains(r#""outcome":"held""#), "{told:?}");
    assert!(!told.body.contains("resultType") && !told.body.contains("requestState"));
}

#[tokio::test]
async fn a_legacy_client_is_asked_to_open_the_page_on_the_calls_own_stream() {
    let door = open().await;
    let (session, _) = door.session_of("2025-11-25", r#"{"elicitation":{"form":{},"url":{}}}"#).await;
    let headers = [("mcp-session-id", session.as_str())];
    for (answer, ends) in [
        (r#""result":{"action":"accept"}"#, "spent"),
        (r#""error":{"code":-32601,"message":"no browser"}"#, "spent"),
        (r#""result":{"action":"decline"}"#, "cancelled"),
        (r#""result":{"action":"cancel"}"#, "cancelled"),
    ] {
        let mut client = door.connect().await;
        client.write(&headers, &call(1, "x__held", "")).await;
        client.head().await;
        let question = client.event().await.unwrap();
        assert_eq!(text(&question, "method"), "elicitation/create");
        let (params, hold) = (question.get("params").unwrap(), door.house.open_hold().hold.id.clone());
        assert_eq!((text(params, "mode"), text(params, "elicitationId")), ("url", hold.as_str()));
        assert!(text(params, "url").ends_with(hold.as_str()));
        let id = text(&question, "id");
        assert_eq!(door.post(&headers, &format!(r#"{{"jsonrpc":"2.0","id":"{id}",{answer}}}"#)).await.status, 202);
        if ends == "spent" {
            assert_eq!(door.house.open_hold().phase.word(), "pending", "to open a page approves nothing");
            door.house.approve();
            let complete = client.event().await.unwrap();
            assert_eq!(text(&complete, "method"), "notifications/elicitation/complete");
            assert_eq!(text(complete.get("params").unwrap(), "elicitationId"), hold.as_str());
        }
        let last = client.event().await.unwrap();
        assert_eq!(last.get("id"), Some(&Value::from(1)));
        assert_eq!(last.get("result").unwrap().get("isError").is_some(), ends == "cancelled", "{last:?}");
        assert_eq!(door.house.book.lock().unwrap().get(&hold).unwrap().phase.word(), ends, "{answer}");
    }
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_hold_and_who_cancels_withdraws_it() {
    let door = open().await;
    let session = door.session().await;
    let headers = [("mcp-session-id", session.as_str())];
    let cancel = |id: i64, reason: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"{reason}"}}}}"#
        )
    };
    let waiting = async |id: i64| {
        let mut client = door.connect().await;
        client.write(&headers, &call(id, "x__held", "")).await;
        client.head().await;
        client
    };
    let gone = waiting(1).await;
    let hold = door.house.open_hold().hold.id.clone();
    drop(gone);
    let mut late = waiting(2).await;
    assert_eq!(door.post(&headers, &cancel(2, "McpError: MCP error -32001: Request timed out")).await.status, 202);
    assert!(late.event().await.unwrap().get("result").is_some(), "its wait is over");
    let ended = waiting(3).await;
    let mut client = door.connect().await;
    let host = format!("127.0.0.1:{}", door.port);
    client
        .send(&format!(
            "DELETE /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer good\r\nmcp-session-id: {session}\r\n\r\n"
        ))
        .await;
    assert_eq!(client.read().await.status, 200);
    drop(ended);
    assert_eq!(door.house.open_hold().hold.id, hold, "nobody withdrew it");
    assert_eq!(door.house.open_hold().phase.word(), "pending");

    let session = door.session().await;
    let headers = [("mcp-session-id", session.as_str())];
    let mut client = door.connect().await;
    client.write(&headers, &call(4, "x__held", "")).await;
    client.head().await;
    assert_eq!(door.post(&headers, &cancel(4, "the user changed their mind")).await.status, 202);
    assert!(client.event().await.unwrap().get("result").is_some());
    assert_eq!(door.house.book.lock().unwrap().get(&hold).unwrap().phase.word(), "cancelled");
}

#[tokio::test]
async fn tasks_of_the_revision_before_are_made_fetched_listed_and_cancelled() {
    let door = open().await;
    let (session, own) = door.session_of("2025-11-25", "{}").await;
    let tasks = own.get("tasks").unwrap();
    assert!(tasks.get("list").is_some() && tasks.get("cancel").is_some());
    assert!(tasks.get("requests").unwrap().get("tools").unwrap().get("call").is_some());
    let headers = [("mcp-session-id", session.as_str())];
    let ask = async |method: &str, params: &str| {
        door.post(&headers, &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#)).await
    };
    let about = async |method: &str, id: &str| ask(method, &format!(r#""taskId":"{id}""#)).await;

    let made = result(&door.post(&headers, &call(1, "x__held", r#","task":{"ttl":60000}"#)).await);
    let task = made.get("task").unwrap();
    let id = text(task, "taskId").to_owned();
    assert_eq!((text(task, "status"), door.house.open_hold().hold.id.as_str()), ("working", id.as_str()));
    for name in ["ttl", "pollInterval", "createdAt", "lastUpdatedAt", "statusMessage"] {
        assert!(task.get(name).is_some(), "{name}");
    }
    assert_eq!(*door.house.waited.lock().unwrap(), [(0, true)]);
    assert_eq!(text(&result(&about("tasks/get", &id).await), "status"), "working");
    // its result is waited for
    let mut client = door.connect().await;
    client
        .write(&headers, &format!(r#"{{"jsonrpc":"2.0","id":8,"method":"tasks/result","params":{{"taskId":"{id}"}}}}"#))
        .await;
    client.head().await;
    assert_eq!(client.chunk().await.as_deref(), Some(":\n\n"));
    door.house.approve();
    let last = client.event().await.unwrap();
    let answered = last.get("result").unwrap();
    assert!(answered.get("structuredContent").is_some() && answered.get("resultType").is_none());
    let related = answered.get("_meta").unwrap().get("io.modelcontextprotocol/related-task").unwrap();
    assert_eq!(text(related, "taskId"), id);
    assert_eq!(text(&result(&about("tasks/get", &id).await), "status"), "completed");
    let ended = about("tasks/cancel", &id).await;
    assert_eq!((ended.status, ended.code()), (200, Some(-32602)));

    // a call that is not held is over when it is answered
    let made = result(&door.post(&headers, &call(1, "x__echo", r#","task":{}"#)).await);
    let quick = text(made.get("task").unwrap(), "taskId").to_owned();
    assert!(quick.starts_with("call_") && text(made.get("task").unwrap(), "status") == "completed");
    assert!(result(&about("tasks/result", &quick).await).get("seen").is_some());
    let refused = result(&door.post(&headers, &call(1, "x__refuse", r#","task":{}"#)).await);
    let refused = refused.get("task").unwrap();
    assert_eq!(text(refused, "status"), "failed", "a call whose tool failed is a failed task");
    assert_eq!(result(&about("tasks/result", text(refused, "taskId")).await).get("isError"), Some(&Value::Bool(true)));
    let unknown = result(&door.post(&headers, &call(1, "x__unknown", r#","task":{}"#)).await);
    let unknown = text(unknown.get("task").unwrap(), "taskId").to_owned();
    assert_eq!(about("tasks/result", &unknown).await.code(), Some(-32602), "the error that the call would have got");

    let made = result(&door.post(&headers, &call(1, "x__held", r#","task":{}"#)).await);
    let second = text(made.get("task").unwrap(), "taskId").to_owned();
    let cancelled = result(&about("tasks/cancel", &second).await);
    assert_eq!(text(&cancelled, "status"), "cancelled");
    assert_eq!(result(&about("tasks/result", &second).await).get("isError"), Some(&Value::Bool(true)));
    let listed = result(&ask("tasks/list", "").await);
    let ids: Vec<&str> =
        listed.get("tasks").unwrap().as_array().unwrap().iter().map(|task| text(task, "taskId")).collect();
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert!([&id, &second, &quick].iter().all(|id| ids.contains(&id.as_str())));

    let (other, _) = door.session_of("2025-11-25", "{}").await;
    let got = door.post(&[("mcp-session-id", &other), ("authorization", "Bearer other")], "{}").await;
    assert_eq!(got.status, 400);
    for (whose, token) in [(&session, "Bearer good")] {
        let headers = [("mcp-session-id", whose.as_str()), ("authorization", token)];
        let got =
            door.post(&headers, r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"call_x"}}"#).await;
        assert_eq!(got.code(), Some(-32602));
    }
    let (older, _) = door.session_of("2025-06-18", "{}").await;
    let got = door.post(&[("mcp-session-id", &older)], r#"{"jsonrpc":"2.0","id":1,"method":"tasks/list"}"#).await;
    assert_eq!((got.status, got.code()), (200, Some(-32601)));
}

#[tokio::test]
async fn over_stdio_a_call_waits_too_and_says_so_when_asked() {
    let house = Fake::new();
    let lines = [
        call(1, "x__held", &format!(r#","arguments":{{"impatient":true}},{MODERN}"#)),
        call(2, "x__held", &format!(r#","arguments":{{"impatient":true}},{TASKS}"#)),
        call(3, "x__held", &format!(r#","arguments":{{"impatient":true}},{PAGES}"#)),
    ];
    let got = channel(&house, &lines.join("\n")).await;
    let of = |id: i64| got.iter().find(|line| line.get("id") == Some(&Value::from(id))).unwrap().get("result").unwrap();
    assert_eq!(text(of(1), "resultType"), "input_required");
    assert_eq!(text(of(2), "resultType"), "task");
    assert!(of(3).get("inputRequests").is_some());
    assert_eq!(house.open_hold().hold.id.as_str(), text(of(2), "taskId"), "all three met the same hold");
}

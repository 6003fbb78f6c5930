//! The official Rust client, over both transports, in every revision that it speaks.

use rmcp::{
    RoleClient,
    model::{CallToolRequestParams, ClientConfig, ProtocolVersion},
    service::{ClientLifecycleMode, RunningService, ServiceError, serve_client_with_lifecycle},
    transport::{
        StreamableHttpClientTransport, TokioChildProcess, streamable_http_client::StreamableHttpClientTransportConfig,
    },
};
use serde_json::{Value, json};

use crate::{
    house::{EVERYTHING, House, http_upstream},
    recorder::Recorder,
};

type Client = RunningService<RoleClient, ClientConfig>;

fn lifecycles() -> Vec<(&'static str, ClientLifecycleMode, ProtocolVersion)> {
    let modern = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    vec![
        ("2026-07-28", modern, ProtocolVersion::V_2026_07_28),
        ("2025-11-25", ClientLifecycleMode::Initialize, ProtocolVersion::V_2025_11_25),
        ("2025-06-18", ClientLifecycleMode::Initialize, ProtocolVersion::V_2025_06_18),
        ("2025-03-26", ClientLifecycleMode::Initialize, ProtocolVersion::V_2025_03_26),
    ]
}

fn told(version: ProtocolVersion) -> ClientConfig {
    ClientConfig::default().with_protocol_version(version)
}

async fn over_http(house: &House, token: &str, mode: ClientLifecycleMode, version: ProtocolVersion) -> Client {
    let config = StreamableHttpClientTransportConfig::with_uri(format!("http://{}/mcp", house.mcp))
        .auth_header(token.to_owned());
    let transport = StreamableHttpClientTransport::from_config(config);
    serve_client_with_lifecycle(told(version), transport, mode).await.unwrap()
}

async fn over_stdio(house: &House, mode: ClientLifecycleMode, version: ProtocolVersion) -> Client {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.current_dir(house.path()).args(["serve", "--stdio", "--agent", "tester"]);
    let transport = TokioChildProcess::new(command).unwrap();
    serve_client_with_lifecycle(told(version), transport, mode).await.unwrap()
}

/// What every client must see, whatever it speaks.
async fn lists_and_calls(client: &Client, told: &str) {
    let tools = client.list_all_tools().await.unwrap_or_else(|problem| panic!("{told}: {problem}"));
    let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert!(names.contains(&"up__echo") && names.contains(&"up__bare"), "{told}: {names:?}");
    assert!(names.iter().all(|name| name.starts_with("up__")), "{told}: {names:?}");
    assert!(names.is_sorted(), "{told}: {names:?}");

    let arguments = json!({"text": "from rmcp", "n": 3}).as_object().cloned().unwrap();
    let call = CallToolRequestParams::new("up__echo").with_arguments(arguments);
    let result = client.call_tool(call).await.unwrap_or_else(|problem| panic!("{told}: {problem}"));
    let result = serde_json::to_value(&result).unwrap();
    assert_eq!(result["content"][0]["text"], json!(r#"{"n":3,"text":"from rmcp"}"#), "{told}");

    let refused = client.call_tool(CallToolRequestParams::new("up__echo")).await.unwrap();
    let refused = serde_json::to_value(&refused).unwrap();
    assert_eq!(refused["isError"], Value::Bool(true), "{told}: {refused}");
    assert_eq!(refused["_meta"]["countersign/decision"]["reason"], json!("arguments_invalid"), "{told}: {refused}");
    assert_eq!(refused["_meta"]["countersign/decision"]["outcome"], json!("refused"), "{told}: {refused}");

    match client.call_tool(CallToolRequestParams::new("up__none")).await {
        Err(ServiceError::McpError(error)) => assert_eq!(error.code.0, -32602, "{told}"),
        other => panic!("{told}: an unknown tool gives {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_over_http_in_every_revision() {
    let upstream = Recorder::usual();
    let house = House::open(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    let token = house.token("tester", &[]);
    for (told, mode, version) in lifecycles() {
        let client = over_http(&house, &token, mode, version).await;
        lists_and_calls(&client, told).await;
        client.cancel().await.unwrap();
    }
    assert_eq!(upstream.calls().len(), lifecycles().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_over_stdio_in_every_revision() {
    let upstream = Recorder::usual();
    let house = House::new(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    house.register();
    for (told, mode, version) in lifecycles() {
        let client = over_stdio(&house, mode, version).await;
        lists_and_calls(&client, told).await;
        client.cancel().await.unwrap();
    }
    assert_eq!(upstream.calls().len(), lifecycles().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_without_a_token_is_sent_to_the_metadata() {
    let upstream = Recorder::usual();
    let house = House::open(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    let transport = StreamableHttpClientTransport::from_uri(format!("http://{}/mcp", house.mcp));
    let refused =
        serve_client_with_lifecycle(told(ProtocolVersion::V_2025_11_25), transport, ClientLifecycleMode::Initialize)
            .await;
    let Err(problem) = refused else { panic!("no token, no session") };
    let challenge = problem.auth_challenge().unwrap_or_else(|| panic!("no challenge in {problem}"));
    assert!(challenge.contains("resource_metadata="), "{challenge}");
}

//! The console when somebody takes more of it than they should: others go on.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use crate::{
    api::{Api, text},
    console::Browser,
    wire::{connect, exchange},
};

/// Asks, and reads the status alone.
fn asks(api: &Api, path: &str, session: &str) -> (TcpStream, String) {
    let mut stream = connect(api.at);
    let (at, begin) = (api.at, "HTTP/1.1 200".len());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {session}\r\n\r\n").unwrap();
    let mut head = vec![0; begin];
    stream.read_exact(&mut head).unwrap();
    (stream, String::from_utf8(head).unwrap())
}

#[test]
fn connections_of_nobody_keep_nobody_out_and_end_no_stream_of_an_approver() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let (mut events, began) = asks(&api, "/api/v1/holds/events", &ann.token);
    assert_eq!(began, "HTTP/1.1 200");
    // some ask and do not read, some never end their question, some ask nothing
    let crowd: Vec<TcpStream> = (0..600)
        .map(|number| {
            let mut stream = connect(api.at);
            let request = match number % 3 {
                0 => format!("GET /api/v1/openapi.json HTTP/1.1\r\nHost: {}\r\n\r\n", api.at).repeat(20),
                1 => "GET /healthz HTTP/1.1\r\n".to_owned(),
                _ => String::new(),
            };
            // it may have been ended already
            let _sent = stream.write_all(request.as_bytes());
            stream
        })
        .collect();
    let healthy = exchange(api.at, format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", api.at).as_bytes());
    assert_eq!(healthy.status, 200);
    let mut browser = Browser::new(&api);
    assert_eq!(browser.sign_in("ann").status, 303);
    assert_eq!(browser.look("/waiting").status, 200);
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"a"}"#, &ann);
    let mut seen = String::new();
    while !seen.contains(text(&hold["id"])) {
        let mut chunk = [0; 4_096];
        let read = events.read(&mut chunk).unwrap();
        assert!(read > 0, "the stream was ended: {seen}");
        seen.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
    drop(crowd);
    api.close();
}

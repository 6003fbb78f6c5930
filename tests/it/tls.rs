//! TLS of our own on both doors: certificates from files that change, and who may connect at all.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    version,
};

use crate::{
    house::{EVERYTHING, House, http_upstream, until},
    recorder::Recorder,
    wire::{self, Answer, Request, connect, read_answer},
};

/// How long a change of a file may take to be seen: files are looked at every second.
const SOON: Duration = Duration::from_secs(20);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate that signed itself, and its key, both in PEM.
struct Pair {
    cert: String,
    key: String,
    der: CertificateDer<'static>,
}

impl Pair {
    fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// The usual one.
    fn local() -> Self {
        Self::new(&["localhost", "127.0.0.1"])
    }

    /// As a careful operator replaces it: the key first, and nobody else can read it.
    fn keep(&self, folder: &Path) {
        let key = folder.join("key.pem");
        replace(&key, &self.key, 0o600);
        replace(&folder.join("cert.pem"), &self.cert, 0o644);
    }
}

fn replace(path: &Path, text: &str, mode: u32) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

const BOTH: &str =
    "[server.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n\n[console.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";

/// Shakes hands and gives the connection, with the certificate that was shown.
fn shake(
    to: SocketAddr,
    name: &str,
    trusted: &Pair,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<(Tls, CertificateDer<'static>), String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = connect(to);
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).map_err(|error| error.to_string())?;
    }
    let shown = connection.peer_certificates().unwrap()[0].clone().into_owned();
    Ok((StreamOwned::new(connection, tcp), shown))
}

fn tls(to: SocketAddr, trusted: &Pair) -> Result<Tls, String> {
    shake(to, "localhost", trusted, &[&version::TLS13, &version::TLS12]).map(|(stream, _)| stream)
}

fn ask(stream: &mut Tls, bytes: &[u8]) -> Answer {
    stream.write_all(bytes).unwrap();
    read_answer(stream)
}

fn get(to: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes()
}

/// Whether the console says over TLS, with that certificate, that it is ready.
fn is_ready(house: &House, pair: &Pair) -> bool {
    if TcpStream::connect_timeout(&house.console, Duration::from_millis(500)).is_err() {
        return false;
    }
    tls(house.console, pair).is_ok_and(|mut stream| ask(&mut stream, &get(house.console, "/readyz")).status == 200)
}

/// A house that speaks TLS on both doors, and its certificate.
fn open(upstream: &Recorder) -> (House, Pair) {
    let (mut house, pair) =
        (House::new(&format!("{}{BOTH}", http_upstream("up", &upstream.url(), "")), EVERYTHING), Pair::local());
    pair.keep(house.path());
    house.register();
    house.spawn();
    until("the console is ready", SOON, || is_ready(&house, &pair).then_some(()));
    (house, pair)
}

#[test]
fn both_doors_speak_tls_and_their_urls_say_so() {
    let upstream = Recorder::usual();
    let (house, pair) = open(&upstream);
    let token = house.token("tester", &[]);
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let (mut stream, _) = shake(house.mcp, "localhost", &pair, versions).unwrap();
        let call = Request::call("up__bare", "{}").with("Connection", "keep-alive");
        let answer = ask(&mut stream, &call.bytes(house.mcp, Some(&token)));
        assert!(answer.is_success(), "{answer:?}");
        // the connection goes on
        let origin = call.with("Origin", &format!("https://{}", house.mcp));
        assert!(ask(&mut stream, &origin.bytes(house.mcp, Some(&token))).is_success());
        let answer = ask(&mut stream, &origin.with("Origin", &format!("http://{}", house.mcp)).bytes(house.mcp, None));
        assert_eq!(answer.status, 403, "a page without TLS is another origin: {answer:?}");
    }
    let challenge = ask(&mut tls(house.mcp, &pair).unwrap(), &Request::call("up__bare", "{}").bytes(house.mcp, None));
    let told = challenge.header("www-authenticate").unwrap().to_owned();
    assert!(told.contains(&format!("resource_metadata=\"https://{}/.well-known", house.mcp)), "{told}");
    for path in ["/healthz", "/metrics", "/tlog/checkpoint", "/api/v1/openapi.json"] {
        let answer = ask(&mut tls(house.console, &pair).unwrap(), &get(house.console, path));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.header("strict-transport-security"), None, "this host is not the console's alone");
    }
    let status = house.done(&["--json", "status"]);
    for at in [house.mcp, house.console] {
        assert!(status.contains(&format!("https://{at}")), "{status}");
    }
    let mut command = house.command(&["call", "up__bare", "{}", "--agent", "tester"]);
    let called = command.env("SSL_CERT_FILE", house.path().join("cert.pem")).output().unwrap();
    assert!(called.status.success(), "{called:?}");
    let distrusted = house.run(&["call", "up__bare", "{}", "--agent", "tester"]);
    assert!(!distrusted.status.success(), "a certificate that nobody vouches for was accepted");
}

#[test]
fn what_is_no_tls_that_is_spoken_here_is_told_so_and_a_name_that_is_not_ours_opens_nothing() {
    let upstream = Recorder::usual();
    let (house, pair) = open(&upstream);
    for to in [house.mcp, house.console] {
        let answer = wire::exchange(to, &get(to, "/healthz"));
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(String::from_utf8_lossy(&answer.body).contains("https"), "{answer:?}");

        // TLS 1.1 (`3, 2`): a hello without extensions
        let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x13, 1, 0]);
        let mut stream = connect(to);
        stream.write_all(&hello).unwrap();
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).unwrap();
        assert_eq!((alert.first(), alert.get(5)), (Some(&21), Some(&2)), "no fatal alert: {alert:?}");

        // what is neither
        let mut stream = connect(to);
        stream.write_all(&[0xff; 64]).unwrap();
        let _alert_and_end = stream.read_to_end(&mut Vec::new());

        // a name that the certificate is not for: a client that checks stays away …
        let why = shake(to, "other.example", &pair, &[&version::TLS13]).err().unwrap();
        assert!(why.contains("not valid for name"), "{why}");
        // … and a request for another host is for somebody else
        let asked = get(to, "/healthz");
        let asked = String::from_utf8(asked).unwrap().replace(&to.to_string(), "other.example");
        let answer = ask(&mut tls(to, &pair).unwrap(), asked.replace("/healthz", "/mcp").as_bytes());
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    assert!(is_ready(&house, &pair));
}

#[test]
fn a_certificate_is_replaced_while_connections_live_and_a_bad_one_is_not_taken() {
    let upstream = Recorder::usual();
    let (house, first) = open(&upstream);
    let token = house.token("tester", &[]);
    let call = Request::call("up__bare", "{}").with("Connection", "keep-alive").bytes(house.mcp, Some(&token));
    let mut old = tls(house.mcp, &first).unwrap();
    assert!(ask(&mut old, &call).is_success());

    let second = Pair::local();
    second.keep(house.path());
    for at in [house.mcp, house.console] {
        until("the new certificate is shown", SOON, || tls(at, &second).ok());
        assert!(tls(at, &first).is_err());
    }
    assert!(ask(&mut old, &call).is_success(), "a connection ended with its certificate");

    // a key that is not the certificate's
    let refused = || house.log().matches("the certificate was not loaded; the old one stays").count();
    let third = Pair::local();
    replace(&house.path().join("cert.pem"), &third.cert, 0o644);
    until("it is refused loudly, by both doors", SOON, || (refused() >= 2).then_some(()));
    tls(house.mcp, &second).unwrap();
    let told = house.run(&["reload"]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("key.pem"), "{told:?}");
    // one that everybody may read
    replace(&house.path().join("key.pem"), &third.key, 0o644);
    until("it is refused loudly, by both doors", SOON, || (refused() >= 4).then_some(()));
    assert!(house.log().contains("can be read by others; run `chmod 640"), "{}", house.log());
    tls(house.console, &second).unwrap();
    // and when all is well, at once
    third.keep(house.path());
    house.done(&["reload"]);
    for at in [house.mcp, house.console] {
        tls(at, &third).unwrap();
    }
    assert!(ask(&mut old, &call).is_success());
}

#[test]
fn a_server_whose_certificate_cannot_be_used_does_not_start() {
    let house = House::new(BOTH, EVERYTHING);
    let (pair, other) = (Pair::local(), Pair::local());
    let (cert, key) = (house.path().join("cert.pem"), house.path().join("key.pem"));
    let told = |word: &str| {
        for command in ["serve", "check"] {
            let output = house.run(&[command]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && text.contains(word), "{command}, {word}: {text}");
            assert!(!text.contains("PRIVATE KEY-"), "{text}");
        }
    };
    told("cert.pem");
    replace(&cert, "nothing\n", 0o644);
    told("has no certificate");
    replace(&cert, &pair.cert, 0o644);
    told("there is no such file");
    replace(&key, "nothing\n", 0o600);
    told("has no private key");
    replace(&key, &other.key, 0o600);
    told("cannot be used with the certificate");
    replace(&key, &pair.key, 0o604);
    told("chmod 640");
    replace(&key, &pair.key, 0o640);
    house.done(&["check"]);
}

#[test]
fn who_never_ends_a_handshake_keeps_nobody_out() {
    let upstream = Recorder::usual();
    let (house, pair) = open(&upstream);
    let silent: Vec<TcpStream> = (0..100).map(|_| connect(house.console)).collect();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(house.console);
            stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            stream
        })
        .collect();
    assert!(is_ready(&house, &pair));
    // each of them is let go of in time
    for mut stream in silent.into_iter().chain(slow) {
        let mut rest = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut rest);
        assert!(rest.len() < 16, "{rest:?}");
    }
}

#[test]
fn only_trusted_proxies_connect_and_what_they_forward_decides_nothing() {
    let mut house = House::new("", EVERYTHING);
    let text = fs::read_to_string(house.path().join("countersign.toml")).unwrap();
    let trusting = |who: &str| {
        let proxied = format!("behind_proxy = true\ntrusted_proxies = [\"{who}\"]\n\n[store]");
        text.replace("[store]", &format!("url = \"https://approve.example\"\n{proxied}"))
    };
    fs::write(house.path().join("countersign.toml"), trusting("127.0.0.0/8")).unwrap();
    house.serve();
    let ask =
        |headers: &str| wire::exchange(house.console, format!("GET /healthz HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes());
    let by_name = ask("Host: approve.example\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 203.0.113.9");
    assert_eq!(by_name.status, 200, "{by_name:?}");
    assert_eq!(by_name.header("strict-transport-security"), Some("max-age=31536000"));
    let forwarded = ask("Host: other.example\r\nX-Forwarded-Host: approve.example\r\nForwarded: host=approve.example");
    assert_eq!(forwarded.status, 403, "{forwarded:?}");
    house.stop();

    fs::write(house.path().join("countersign.toml"), trusting("10.0.0.0/8")).unwrap();
    house.spawn();
    let serving = || house.run(&["status"]).status.success();
    until("the server runs", SOON, || serving().then_some(()));
    let mut stream = connect(house.console);
    let _maybe_reset =
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: approve.example\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
    let mut answer = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert!(house.log().contains("trusted_proxies"), "{}", house.log());
}

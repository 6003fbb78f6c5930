//! Agents that show a certificate instead of a token, or with one: X.509-SVIDs, and others.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    version,
};

use crate::{
    house::{House, http_upstream, kind_of, until},
    recorder::Recorder,
    signer::{Shown, Signer, TokenKey, bundle, ends, params},
    wire::{self, Answer, META, Request, connect, read_answer},
};

/// How long a change of a file may take to be seen: files are looked at every second.
const SOON: Duration = Duration::from_secs(20);
const BOT: &str = "spiffe://example.org/bot";
const GRANTS: &str = "@id(\"all\")\npermit (principal, action in Action::\"call\", resource);\n";

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A house that speaks TLS at the agents' door, and its certificate.
pub(crate) struct Door {
    pub(crate) house: House,
    pub(crate) server: CertificateDer<'static>,
    _upstream: Recorder,
}

/// `identity`: more of the configuration; `files`: what lies beside it.
pub(crate) fn open(identity: &str, files: &[(&str, &str)]) -> Door {
    let upstream = Recorder::usual();
    let tls = "[server.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
    let mut house = House::new(&format!("{}{tls}\n{identity}", http_upstream("up", &upstream.url(), "")), GRANTS);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    keep(&house.path().join("key.pem"), &made.signing_key.serialize_pem());
    keep(&house.path().join("cert.pem"), &made.cert.pem());
    for (name, text) in files {
        keep(&house.path().join(name), text);
    }
    house.register();
    house.serve();
    Door { house, server: made.cert.der().clone(), _upstream: upstream }
}

/// As a careful operator replaces a file.
pub(crate) fn keep(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

/// A client that shows a certificate, or none.
fn client(
    server: &CertificateDer<'static>,
    shown: Option<&Shown>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(server.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        Some(shown) => builder.with_client_auth_cert(shown.chain.clone(), shown.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    })
}

fn shake(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Tls, String> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut tcp = connect(to);
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).map_err(|error| error.to_string())?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

impl Door {
    /// A connection on which that certificate was shown. What a server of TLS 1.3 thinks of it is known at the first answer.
    pub(crate) fn connect(&self, shown: Option<&Shown>) -> Tls {
        shake(self.house.mcp, &client(&self.server, shown, &[&version::TLS13])).unwrap()
    }

    pub(crate) fn ask(&self, stream: &mut Tls, token: Option<&str>) -> Answer {
        let call = Request::call("up__bare", "{}").with("Connection", "keep-alive").with("Host", &self.host());
        let _refused_perhaps = stream.write_all(&call.bytes(self.house.mcp, token));
        read_answer(stream)
    }

    fn host(&self) -> String {
        self.house.mcp.to_string()
    }

    /// Calls a tool on a connection of its own.
    pub(crate) fn call(&self, shown: Option<&Shown>, token: Option<&str>) -> Answer {
        self.ask(&mut self.connect(shown), token)
    }

    /// Whether that certificate opens nothing: not even a connection, by either version of TLS.
    fn is_refused(&self, shown: &Shown) -> bool {
        [&version::TLS13, &version::TLS12].into_iter().all(|version| {
            let Ok(mut stream) = shake(self.house.mcp, &client(&self.server, Some(shown), &[version])) else {
                return true;
            };
            let call = Request::call("up__bare", "{}").bytes(self.house.mcp, None);
            let _refused = stream.write_all(&call).and_then(|()| stream.flush());
            let mut answer = Vec::new();
            let _alert = stream.read_to_end(&mut answer);
            answer.is_empty()
        })
    }
}

fn now() -> i64 {
    countersign::clock::Clock::System.now().as_second()
}

/// Who the last call was recorded to be from.
fn caller(house: &House) -> Value {
    let entries = house.entries();
    entries.iter().rfind(|entry| kind_of(entry) == "call.intended").unwrap().clone()
}

const SPIFFE: &str = "[identity.spiffe.\"example.org\"]\nbundle = \"bundle.json\"\n";

#[test]
fn an_x509_svid_is_a_credential_and_a_client_without_a_certificate_comes_with_a_token_as_before() {
    let authority = Signer::new("example.org");
    let door = open(SPIFFE, &[("bundle.json", &bundle(&[&authority], &[]).to_string())]);
    let svid = authority.svid(BOT);
    for version in [&version::TLS13, &version::TLS12] {
        let mut stream = shake(door.house.mcp, &client(&door.server, Some(&svid), &[version])).unwrap();
        for _ in 0..2 {
            let answer = door.ask(&mut stream, None);
            assert!(answer.is_success(), "{answer:?}");
        }
    }
    let intended = caller(&door.house);
    let text = intended.to_string();
    assert!(text.contains(&format!("\"{BOT}\"")) && text.contains("\"spiffe://example.org\""), "{intended}");

    let nobody = door.call(None, None);
    assert_eq!((nobody.status, nobody.header("www-authenticate").is_some()), (401, true), "{nobody:?}");
    let token = door.house.token("tester", &[]);
    assert!(door.call(None, Some(&token)).is_success());
    // with both, the token says who
    assert!(door.call(Some(&svid), Some(&token)).is_success());
    assert!(caller(&door.house).to_string().contains("\"tester\""));
    let forged = door.call(Some(&svid), Some("abc"));
    assert_eq!(forged.status, 401, "a bad token was let in beside a good certificate: {forged:?}");
}

#[test]
fn a_certificate_for_which_nobody_vouches_opens_nothing() {
    let (own, other, plain, foreign) =
        (Signer::new("example.org"), Signer::new("other.org"), Signer::new("agents"), Signer::new("foreign"));
    let identity = format!(
        "{SPIFFE}[identity.spiffe.\"other.org\"]\nbundle = \"other.json\"\n\
         [identity.certificates.corp]\nca = \"corp.pem\"\nname = \"dns\"\n"
    );
    let files = [
        ("bundle.json", bundle(&[&own], &[]).to_string()),
        ("other.json", bundle(&[&other], &[]).to_string()),
        ("corp.pem", plain.pem.clone()),
    ];
    let door = open(&identity, &files.each_ref().map(|(name, text)| (*name, text.as_str())));
    assert!(door.call(Some(&own.svid(BOT)), None).is_success());
    assert!(door.call(Some(&other.svid("spiffe://other.org/bot")), None).is_success());

    let with = |uris: &[&str], change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = params(uris);
        change(&mut params);
        own.signs(&params)
    };
    let no_change = |_: &mut rcgen::CertificateParams| {};
    let mut without_key = own.svid(BOT);
    without_key.chain = own.svid(BOT).chain;
    let rows = [
        ("signed by nobody that is known", foreign.svid(BOT)),
        ("of one trust domain, signed by another's authority", other.svid(BOT)),
        ("the other way round", own.svid("spiffe://other.org/bot")),
        ("of a trust domain that is not configured", own.svid("spiffe://third.org/bot")),
        ("an SVID signed by an authority of other certificates", plain.svid(BOT)),
        ("a plain one signed by a trust domain's authority", with(&[], &no_change)),
        ("no SVID by its URI, signed by a trust domain's authority", with(&["https://example.org/bot"], &no_change)),
        ("two URIs", with(&[BOT, "spiffe://example.org/root"], &no_change)),
        ("two URIs, one of which is no SPIFFE id", with(&[BOT, "https://example.org/"], &no_change)),
        ("no path", with(&["spiffe://example.org"], &no_change)),
        ("a path that goes up", with(&["spiffe://example.org/a/../bot"], &no_change)),
        ("another spelling", with(&["spiffe://EXAMPLE.org/bot"], &no_change)),
        ("another spelling of the scheme", with(&["SPIFFE://example.org/bot"], &no_change)),
        ("an authority itself", with(&[BOT], &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("may sign certificates", with(&[BOT], &|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        ("may sign revocations", with(&[BOT], &|params| params.key_usages.push(KeyUsagePurpose::CrlSign))),
        (
            "its key is not for signatures",
            with(&[BOT], &|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        ("no key usage", with(&[BOT], &|params| params.key_usages.clear())),
        (
            "for servers only",
            with(&[BOT], &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        ("it has ended", with(&[BOT], &|params| ends(params, now() - 60))),
        ("it has not begun", with(&[BOT], &|params| params.not_before = rcgen::date_time_ymd(3000, 1, 1))),
        ("by a certificate that is no authority", chained(&own, false)),
    ];
    for (what, shown) in &rows {
        assert!(door.is_refused(shown), "{what}");
    }
    assert!(door.call(Some(&chained(&own, true)), None).is_success(), "one between it and the authority");
    // it is counted
    let metrics = wire::exchange(
        door.house.console,
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", door.house.console).as_bytes(),
    );
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = text.lines().find(|line| line.contains("certificate_mismatch")).unwrap_or_else(|| panic!("{text}"));
    let counted: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(counted >= rows.len(), "{line}");
    assert!(door.call(Some(&own.svid(BOT)), None).is_success());
}

/// An SVID that is signed by a certificate which the authority signed.
fn chained(authority: &Signer, is_authority: bool) -> Shown {
    let mut between = params(&["spiffe://example.org"]);
    if is_authority {
        between.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        between.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    between.distinguished_name.push(DnType::CommonName, "between");
    let middle = authority.signs(&between);
    let key = rcgen::KeyPair::try_from(middle.key.secret_der()).unwrap();
    let issuer = rcgen::Issuer::new(between, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let leaf = params(&[BOT]).signed_by(&own, &issuer).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    Shown { chain: vec![leaf.der().clone(), middle.chain[0].clone()], key }
}

#[test]
fn a_certificate_that_ends_ends_what_its_living_connection_may_do() {
    let authority = Signer::new("example.org");
    let door = open(SPIFFE, &[("bundle.json", &bundle(&[&authority], &[]).to_string())]);
    let mut short = params(&[BOT]);
    ends(&mut short, now() + 5);
    let mut stream = door.connect(Some(&authority.signs(&short)));
    assert!(door.ask(&mut stream, None).is_success());
    let ended = until("it has ended", SOON, || {
        let answer = door.ask(&mut stream, None);
        (!answer.is_success()).then_some(answer)
    });
    assert_eq!(ended.status, 401, "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.body).contains("token_expired"), "{ended:?}");
}

#[test]
fn authorities_come_and_go_under_living_connections_without_a_restart() {
    let (first, second) = (Signer::new("first"), Signer::new("second"));
    let text = |authorities: &[&Signer]| bundle(authorities, &[]).to_string();
    let door = open(SPIFFE, &[("bundle.json", &text(&[&first]))]);
    let file = door.house.path().join("bundle.json");
    let (old, new) = (first.svid(BOT), second.svid(BOT));
    let mut living = door.connect(Some(&old));
    assert!(door.ask(&mut living, None).is_success());
    assert!(door.is_refused(&new));

    // both for a while, as rotation goes
    keep(&file, &text(&[&first, &second]));
    until("the new one is believed", SOON, || (!door.is_refused(&new)).then_some(()));
    assert!(door.ask(&mut living, None).is_success());
    let mut later = door.connect(Some(&new));
    assert!(door.ask(&mut later, None).is_success());

    // then the old one goes, and with it those who came by it
    keep(&file, &text(&[&second]));
    let gone = until("the old one is believed no more", SOON, || {
        let answer = door.ask(&mut living, None);
        (!answer.is_success()).then_some(answer)
    });
    assert_eq!(gone.status, 401, "{gone:?}");
    assert!(door.is_refused(&old) && door.ask(&mut later, None).is_success());

    // a file that cannot be used changes nothing
    let refused = || door.house.log().matches("the bundle was not loaded; the old one stays").count();
    keep(&file, "{\"keys\": [{\"use\": \"x509-svid\", \"x5c\": [\"AAAA\"]}]}");
    until("it is refused loudly", SOON, || (refused() >= 1).then_some(()));
    assert!(door.ask(&mut later, None).is_success());
    let told = door.house.run(&["reload"]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("bundle.json"), "{told:?}");

    // and back
    keep(&file, &text(&[&first]));
    door.house.done(&["reload"]);
    assert!(door.is_refused(&new));
    assert_eq!(door.ask(&mut later, None).status, 401);
    assert!(door.ask(&mut living, None).is_success(), "its certificate is good again");

    // nobody at all
    keep(&file, &text(&[]));
    door.house.done(&["reload"]);
    assert!(door.is_refused(&old) && door.is_refused(&new));
}

#[test]
fn a_stream_that_a_certificate_opened_ends_when_nobody_vouches_for_it_any_more() {
    let authority = Signer::new("example.org");
    let door = open(SPIFFE, &[("bundle.json", &bundle(&[&authority], &[]).to_string())]);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{{"notifications":{{"toolsListChanged":true}},"_meta":{META}}}}}"#
    );
    let request = Request::envelope("subscriptions/listen", None, &body);
    let mut stream = door.connect(Some(&authority.svid(BOT)));
    stream.write_all(&request.bytes(door.house.mcp, None)).unwrap();
    let mut seen = Vec::new();
    let mut chunk = [0; 4_096];
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).unwrap();
        seen.extend_from_slice(&chunk[..read]);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&seen));
    keep(&door.house.path().join("bundle.json"), &bundle(&[], &[]).to_string());
    door.house.done(&["reload"]);
    let ended = loop {
        match stream.read(&mut chunk) {
            Ok(0) => break true,
            Ok(_) => {}
            // its connection is closed without more ado
            Err(error) => break error.kind() == std::io::ErrorKind::UnexpectedEof,
        }
    };
    assert!(ended, "the stream goes on");
}

#[test]
fn a_session_of_tls_is_never_taken_up_again_so_that_no_old_verification_lives_on() {
    let authority = Signer::new("example.org");
    let door = open(SPIFFE, &[("bundle.json", &bundle(&[&authority], &[]).to_string())]);
    let svid = authority.svid(BOT);
    for version in [&version::TLS13, &version::TLS12] {
        // one client, which keeps whatever it may take up again
        let client = client(&door.server, Some(&svid), &[version]);
        for _ in 0..3 {
            let mut stream = shake(door.house.mcp, &client).unwrap();
            assert!(door.ask(&mut stream, None).is_success());
            assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
        }
        keep(&door.house.path().join("bundle.json"), &bundle(&[], &[]).to_string());
        door.house.done(&["reload"]);
        let refused = shake(door.house.mcp, &client).map_or(true, |mut stream| door.ask(&mut stream, None).status == 0);
        assert!(refused, "the old verification lived on");
        keep(&door.house.path().join("bundle.json"), &bundle(&[&authority], &[]).to_string());
        door.house.done(&["reload"]);
    }
}

/// A certificate that is no SVID.
fn plain(hosts: &[&str], common_name: Option<&str>, uris: &[&str]) -> rcgen::CertificateParams {
    let mut params = params(uris);
    params.subject_alt_names.extend(hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap())));
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params
}

#[test]
fn a_plain_certificate_names_its_agent_by_what_its_authority_is_said_to_vouch_for() {
    let (hosts, people, uris) = (Signer::new("hosts"), Signer::new("people"), Signer::new("uris"));
    let door = open(
        "[identity.certificates.hosts]\nca = \"hosts.pem\"\nname = \"dns\"\n\
         [identity.certificates.people]\nca = \"people.pem\"\nname = \"common_name\"\nagents = { \"Ann Bot\" = \"ann-bot\" }\n\
         [identity.certificates.uris]\nca = \"uris.pem\"\nname = \"uri\"\nprefix = \"\"\n",
        &[("hosts.pem", &hosts.pem), ("people.pem", &people.pem), ("uris.pem", &uris.pem)],
    );
    let rows = [
        (&hosts, plain(&["build.example.org"], Some("x"), &["https://x/"]), Some("hosts/build.example.org")),
        (&hosts, plain(&["a.example.org", "b.example.org"], None, &[]), None),
        (&hosts, plain(&[], Some("build.example.org"), &[]), None),
        (&hosts, plain(&["*.example.org"], None, &[]), None),
        (&people, plain(&[], Some("Ann Bot"), &[]), Some("ann-bot")),
        (&people, plain(&[], Some("Bob Bot"), &[]), None),
        (&people, plain(&["ann-bot"], None, &[]), None),
        (&uris, plain(&[], None, &["urn:agent:7"]), Some("urn:agent:7")),
        (&uris, plain(&[], None, &["spiffe:example.org"]), None),
    ];
    for (signer, params, agent) in &rows {
        let answer = door.call(Some(&signer.signs(params)), None);
        match agent {
            Some(agent) => {
                assert!(answer.is_success(), "{agent}: {answer:?}");
                assert!(caller(&door.house).to_string().contains(&format!("\"{agent}\"")), "{}", caller(&door.house));
            }
            None => assert_eq!(answer.status, 401, "{params:?}: {answer:?}"),
        }
    }
    // one that cannot name an agent still comes with a token
    let token = door.house.token("tester", &[]);
    assert!(door.call(Some(&hosts.signs(&rows[1].1)), Some(&token)).is_success());

    // another authority in its file's place
    let next = Signer::new("hosts");
    let shown = hosts.signs(&rows[0].1);
    let mut living = door.connect(Some(&shown));
    assert!(door.ask(&mut living, None).is_success());
    keep(&door.house.path().join("hosts.pem"), &next.pem);
    let gone = until("the old one is believed no more", SOON, || {
        let answer = door.ask(&mut living, None);
        (!answer.is_success()).then_some(answer)
    });
    assert_eq!(gone.status, 401, "{gone:?}");
    assert!(door.is_refused(&shown) && door.call(Some(&next.signs(&rows[0].1)), None).is_success());
}

#[test]
fn a_certificate_of_two_authorities_is_nobodys() {
    let signer = Signer::new("hosts");
    let door = open(
        "[identity.certificates.one]\nca = \"ca.pem\"\nname = \"dns\"\n\
         [identity.certificates.two]\nca = \"ca.pem\"\nname = \"common_name\"\n",
        &[("ca.pem", &signer.pem)],
    );
    assert!(door.is_refused(&signer.signs(&plain(&["a.example.org"], Some("b"), &[]))));
}

#[test]
fn a_token_that_is_bound_to_a_certificate_is_good_with_that_certificate_only() {
    let (authority, key) = (Signer::new("example.org"), TokenKey::new("k1"));
    let door = open(SPIFFE, &[("bundle.json", &bundle(&[&authority], &[&key]).to_string())]);
    let (own, others) = (authority.svid(BOT), authority.svid("spiffe://example.org/other"));
    let thumbprint = URL_SAFE_NO_PAD.encode(countersign::json::Digest::of(&own.chain[0]).0);
    let claims = |bound: Option<Value>| {
        let mut claims = json!({"sub": "spiffe://example.org/job", "aud": [format!("https://{}/mcp", door.house.mcp)],
            "iat": now(), "exp": now() + 300});
        if let Some(bound) = bound {
            claims["cnf"] = bound;
        }
        key.sign(&claims)
    };
    let bound = claims(Some(json!({"x5t#S256": thumbprint})));
    assert!(door.call(Some(&own), Some(&bound)).is_success());
    assert!(caller(&door.house).to_string().contains("\"spiffe://example.org/job\""), "the token says who");
    for (what, shown, token) in [
        ("no certificate", None, &bound),
        ("another's", Some(&others), &bound),
        ("bound to what is not known", Some(&own), &claims(Some(json!({"jwk": {}})))),
        ("bound to no text", Some(&own), &claims(Some(json!({"x5t#S256": 7})))),
    ] {
        assert_eq!(door.call(shown, Some(token)).status, 401, "{what}");
    }
    let unbound = claims(None);
    for shown in [None, Some(&others)] {
        assert!(door.call(shown, Some(&unbound)).is_success(), "one that is bound to nothing");
    }
}

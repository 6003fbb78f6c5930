//! Accounts at tool servers: an approver connects one in the console, and takes it away.

use std::os::unix::fs::PermissionsExt as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign::{
    config::{Flow, OAuth, OAuthServer, Secret, UpstreamAuth},
    contract::UpstreamName,
};
use sha2::{Digest as _, Sha256};

use crate::{
    api::{Api, SOON, passphrase_of},
    console::{Browser, html, problem, refusal},
    house::until,
    token_server::TokenServer,
    wire::{Answer, Request},
};

fn open(server: &TokenServer) -> Api {
    Api::open_with(|config| {
        let up = config.upstreams.get_mut(&UpstreamName::new("up").unwrap()).unwrap();
        up.auth = UpstreamAuth::OAuth(Box::new(OAuth {
            flow: Flow::AuthorizationCode,
            server: OAuthServer::Issuer(server.issuer()),
            client_id: "us".to_owned(),
            client_secret: Some(Secret::Given("canary-client-secret".to_owned().into())),
            client_auth: None,
            scopes: vec!["openid".to_owned(), "mail".to_owned()],
            audience: None,
            resource: Some("https://up.example/mcp".to_owned()),
            role: Some("finance".to_owned()),
            users_of: Vec::new(),
            allow_private: true,
        }));
    })
}

fn call(api: &Api, token: &str) -> Answer {
    Request::call("up__bare", "{}").send(api.agents, Some(token))
}

/// Begins to connect; gives where the browser is sent.
fn begin(browser: &mut Browser<'_>) -> url::Url {
    let page = browser.fill("/upstreams", "connect", &[("passphrase", &passphrase_of("ann"))]);
    assert_eq!(page.status, 200, "{page:?}");
    let text = html(&page);
    let to = text.split("content=\"0; url=").nth(1).unwrap_or_else(|| panic!("{text}")).split('"').next().unwrap();
    url::Url::parse(&to.replace("&amp;", "&")).unwrap()
}

fn parameter(url: &url::Url, name: &str) -> String {
    url.query_pairs().find(|(have, _)| have == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn entries(api: &Api, kind: &str) -> Vec<String> {
    let all = api.house.pipeline.ledger.entries(0, 10_000).unwrap();
    let texts = all.into_iter().map(|entry| String::from_utf8(entry.text.to_vec()).unwrap());
    texts.filter(|text| text.contains(&format!("\"kind\":\"{kind}\""))).collect()
}

#[test]
fn an_approver_connects_an_account_and_takes_it_away() {
    let server = TokenServer::start();
    let api = open(&server);
    api.enrol("ann", &["finance"], &[], None);
    let bot = api.agent("bot", None);
    assert_eq!(call(&api, &bot).reason().as_deref(), Some("account_not_connected"));
    let mut browser = Browser::new(&api);
    assert_eq!(browser.look("/upstreams").status, 303, "nobody looks without a session");
    browser.sign_in("ann");
    assert!(html(&browser.look("/upstreams")).contains("data-account=\"up\" data-connected=\"false\""));
    assert!(html(&browser.look("/health")).contains("data-lacks=\"up\""));
    let wrong = browser.fill("/upstreams", "connect", &[("passphrase", "another")]);
    assert_eq!(problem(&wrong), refusal(403, "passphrase_wrong"));
    assert!(server.everything().is_empty(), "nobody is asked for nothing");

    api.enrol("bob", &["other"], &[], Some("ann"));
    let mut without = Browser::new(&api);
    without.sign_in("bob");
    let refused = without.fill("/upstreams", "connect", &[("passphrase", &passphrase_of("bob"))]);
    assert_eq!(problem(&refused), refusal(403, "account_role_missing"));

    let url = begin(&mut browser);
    assert!(url.as_str().starts_with(&format!("{}/authorize?", server.issuer())));
    let redirect = format!("http://{}/upstreams/up/callback", api.at);
    for (name, expected) in [
        ("response_type", "code"),
        ("client_id", "us"),
        ("scope", "openid mail"),
        ("code_challenge_method", "S256"),
        ("resource", "https://up.example/mcp"),
        ("redirect_uri", &redirect),
    ] {
        assert_eq!(parameter(&url, name), expected, "{url}");
    }
    let back = format!("/upstreams/up/callback?code=good-code&state={}", parameter(&url, "state"));
    let connected = browser.look(&back);
    assert_eq!(connected.status, 200, "{connected:?}");
    assert!(html(&connected).contains("url=/upstreams"));
    let [asked]: [_; 1] = server.asked("authorization_code").try_into().unwrap();
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(asked.field("code_verifier")));
    assert_eq!((challenge.as_str(), asked.field("redirect_uri")), (&*parameter(&url, "code_challenge"), &*redirect));
    // the tool server is connected anew, which takes a moment
    until("a call goes through", SOON, || call(&api, &bot).is_success().then_some(()));
    let shown = html(&browser.look("/upstreams"));
    assert!(shown.contains("data-connected=\"true\"") && shown.contains("bot@example.com"), "{shown}");
    assert!(!shown.contains("canary"));
    let kept = api.folder.data().join("leases/up.json");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&kept).unwrap().contains(&server.refresh()));
    let [entry]: [String; 1] = entries(&api, "credential.connected").try_into().unwrap();
    assert!(entry.contains("\"by\":\"ann\"") && entry.contains("\"account\":\"bot@example.com\""), "{entry}");

    let wrong = browser.fill("/upstreams", "disconnect", &[("passphrase", "another")]);
    assert_eq!(problem(&wrong), refusal(403, "passphrase_wrong"));
    assert!(call(&api, &bot).is_success());
    let refused = without.fill("/upstreams", "disconnect", &[("passphrase", &passphrase_of("bob"))]);
    assert_eq!(problem(&refused), refusal(403, "account_role_missing"));
    let gone = browser.fill("/upstreams", "disconnect", &[("passphrase", &passphrase_of("ann"))]);
    assert_eq!((gone.status, gone.header("location")), (303, Some("/upstreams")), "{gone:?}");
    assert_eq!(call(&api, &bot).reason().as_deref(), Some("account_not_connected"));
    assert!(!kept.exists());
    assert_eq!(entries(&api, "credential.disconnected").len(), 1);
    let all = api.house.pipeline.ledger.entries(0, 10_000).unwrap();
    assert!(!format!("{all:?}").contains("canary"));
    api.close();
}

#[test]
fn what_comes_back_connects_in_the_session_that_began_it_once_and_from_the_server_that_was_asked() {
    let server = TokenServer::start();
    let api = open(&server);
    api.enrol("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    browser.sign_in("ann");
    let back = |browser: &mut Browser<'_>, url: &url::Url, more: &str| {
        browser.look(&format!("/upstreams/up/callback?state={}{more}", parameter(url, "state")))
    };
    let unknown = refusal(403, "account_state_unknown");
    for (more, expected) in [
        ("x&code=good-code", unknown.clone()),
        ("&code=good-code&code=other", unknown.clone()),
        ("&code=good-code&iss=https://evil.example", refusal(403, "account_server_mixed_up")),
        ("&error=access_denied", refusal(403, "account_declined")),
        ("&code=", refusal(403, "account_code_refused")),
        ("&code=stolen", refusal(403, "account_code_refused")),
    ] {
        let url = begin(&mut browser);
        assert_eq!(problem(&back(&mut browser, &url, more)), expected, "{more}");
    }
    // another browser, and one that begins to sign in with something else
    let url = begin(&mut browser);
    let mut other = Browser::new(&api);
    assert_eq!(problem(&back(&mut other, &url, "&code=good-code")), unknown);
    // another tool server
    let there = browser.look(&format!("/upstreams/other/callback?code=good-code&state={}", parameter(&url, "state")));
    assert_eq!(problem(&there), unknown);
    // the session is over
    let url = begin(&mut browser);
    let token = browser.token();
    assert_eq!(browser.post("/sign-out", &[("csrf", &token)]).status, 303);
    assert_eq!(problem(&back(&mut browser, &url, "&code=good-code")), refusal(401, "session_unknown"));
    browser.sign_in("ann");
    assert!(html(&browser.look("/upstreams")).contains("data-connected=\"false\""));
    // and a form of another page's
    let foreign = browser.form("/upstreams/up/connect", &[("passphrase", "x")]).with("Origin", "http://attacker.test");
    assert_eq!(browser.send(&foreign).status, 403);
    assert_eq!(
        problem(&browser.post("/upstreams/up/disconnect", &[("passphrase", "x")])),
        refusal(403, "form_refused")
    );
    // once, and then no more
    let url = begin(&mut browser);
    assert_eq!(back(&mut browser, &url, "&code=good-code").status, 200);
    assert_eq!(problem(&back(&mut browser, &url, "&code=good-code")), unknown);
    assert_eq!(entries(&api, "credential.connected").len(), 1);
    api.close();
}

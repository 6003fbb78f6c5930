//! Whoever calls, and whatever it comes with: grants, holds, the ledger and the console see the same of it.

use std::{io::Write as _, time::Duration};

use serde_json::{Value, json};

use crate::{
    api::Api,
    canaries::{Parrot, Visitor, now},
    console::html,
    house::{House, kind_of, until},
    recorder::Recorder,
    wire::{Request, connect, read_answer},
};

const SOON: Duration = Duration::from_secs(30);

const PASSPHRASE: &str = "a passphrase of theirs";

const GRANTS: &str = r#"
@id("echo") @scope("bank:read") permit (principal == Agent::"corp/bot", action == Action::"up__echo", resource);
@id("write") @hold("owner") permit (principal, action == Action::"up__write", resource)
when { principal has user && principal.chain.contains("corp/helper") && principal in Team::"corp/ops" };
"#;

#[test]
fn what_another_issuers_token_says_decides_is_held_to_and_is_written_down() {
    let (upstream, issuer) = (Recorder::usual(), Parrot::start());
    let corp = format!(
        "[upstreams.up]\nurl = \"{}\"\n\n[identity.issuers.corp]\nissuer = \"{}\"\naudience = [\"us\"]\nallow_private = true\n",
        upstream.url(),
        issuer.url("")
    );
    let house = House::open(&corp, GRANTS);
    let token = |more: Value| {
        let mut claims = json!({"iss": issuer.url(""), "aud": "us", "sub": "zoe", "client_id": "bot", "iat": now(),
                                "exp": now() + 600, "groups": ["ops"]});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        issuer.token(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"}), &claims)
    };
    let echo = |token: &str| house.call(token, "up__echo", r#"{"text":"a"}"#);
    assert!(!echo(&token(json!({"scope": "openid", "jti": "1"}))).is_success());
    assert!(echo(&token(json!({"scope": "openid bank:read", "jti": "2"}))).is_success());
    let refused = house.entries().into_iter().find(|entry| kind_of(entry) == "call.refused").unwrap();
    let said = |name: &str| refused["entry"][name].clone();
    assert_eq!((said("reason"), said("policies")), (json!("insufficient_scope"), json!(["echo"])));
    assert_eq!(
        (said("agent"), said("issuer"), said("credential")),
        (json!("corp/bot"), json!(issuer.url("")), json!("corp:1"))
    );

    // a token is looked into without being shown: one that is good, one for somebody else, and one that is none
    let good = token(json!({"jti": "9"}));
    let foreign = token(json!({"jti": "10", "aud": "another"}));
    for (token, stage, refused) in [
        (&*good, "ledger", Value::Null),
        (&foreign, "claims", json!("token_audience")),
        ("x", "issuer", json!("token_invalid")),
    ] {
        let done = house.run(&["identity", "check", token, "--json"]);
        assert_eq!(done.status.code(), Some(i32::from(!refused.is_null())), "{done:?}");
        let told: Value = serde_json::from_slice(&done.stdout).unwrap();
        let last = told["stages"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["stage"], &last["refused"]), (&json!(stage), &refused), "{told}");
        assert_eq!(told["accepted"], refused.is_null());
        let text = house.run(&["identity", "check", token]);
        let shown = format!("{}{}", String::from_utf8_lossy(&text.stdout), String::from_utf8_lossy(&text.stderr));
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!shown.contains(part) && !told.to_string().contains(part), "{shown}");
        }
    }

    let added: Value =
        serde_json::from_str(&house.done(&["approver", "add", "ann", "--role", "owner", "--json"])).unwrap();
    let send = |path: &str, body: &Value| {
        let answer = Api::request("POST", path, Some(body)).send(house.console, None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.messages[0].clone()
    };
    send("/enrol", &json!({"code": added["code"], "passphrase": PASSPHRASE}));
    let session = send("/login", &json!({"approver": "ann", "passphrase": PASSPHRASE}));
    let session = session["token"].as_str().unwrap().to_owned();
    let delegated = token(json!({"scope": "bank:write", "jti": "3", "act": {"sub": "helper"}}));
    let mut waiting = connect(house.mcp);
    let call = Request::call("up__write", r#"{"text":"a"}"#);
    waiting.write_all(&call.bytes(house.mcp, Some(&delegated))).unwrap();
    let hold = until("the call is held", SOON, || {
        let holds = Api::request("GET", "/holds?limit=200", None).send(house.console, Some(&session));
        holds.messages[0]["holds"].as_array().unwrap().first().cloned()
    });
    let shown =
        ["agent", "issuer", "user", "chain", "teams", "scopes", "only_tools", "assurance"].map(|name| &hold[name]);
    let expected = [
        json!("corp/bot"),
        json!(issuer.url("")),
        json!("zoe"),
        json!(["corp/helper"]),
        json!(["corp/ops"]),
        json!(["bank:write"]),
        Value::Null,
        Value::Null,
    ];
    assert_eq!(shown, expected.each_ref(), "{hold}");
    let id = hold["id"].as_str().unwrap();
    let approve = |session: &str| {
        let body = json!({"digest": hold["digest"], "passphrase": PASSPHRASE});
        Api::request("POST", &format!("/holds/{id}/approve"), Some(&body)).send(house.console, Some(session))
    };
    let mut visitor = Visitor::new(house.console);
    let fields = [("approver", "ann"), ("passphrase", PASSPHRASE)];
    assert_eq!(visitor.fill("/sign-in", "sign-in", &fields).status, 303);
    let page = html(&visitor.look(&format!("/holds/{id}")));
    assert!(page.contains(r#"data-facts="chain"><span class="tag">corp/helper</span>"#), "{page}");
    assert!(page.contains(r#"data-facts="scopes"><span class="tag">bank:write</span>"#), "{page}");
    let told = house.done(&["hold", "show", id]);
    assert!(told.contains("handed on to  corp/helper"), "{told}");
    assert_eq!(approve(&session).status, 200);
    assert!(read_answer(&mut waiting).is_success());

    let intent = house.entries().into_iter().rfind(|entry| kind_of(entry) == "call.intended").unwrap();
    assert_eq!(intent["entry"]["chain"], json!(["corp/helper"]));
    let listed: Value = serde_json::from_str(&house.done(&["agent", "list", "--json"])).unwrap();
    let agent = &listed["agents"][0];
    let counts = ["permitted", "held", "refused"].map(|name| agent[name].as_u64().unwrap());
    assert_eq!((&agent["agent"], &agent["issuer"], counts), (&json!("corp/bot"), &json!(issuer.url("")), [2, 1, 1]));
    let explained =
        house.run(&["grant", "explain", "--agent", "corp/bot", "--tool", "up__echo", "--args", r#"{"text":"a"}"#]);
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        explained.starts_with("deny (insufficient_scope)") && explained.contains("without the scope `bank:read`"),
        "{explained}"
    );
    assert!(house.done(&["ledger", "verify"]).len() > 1);
}

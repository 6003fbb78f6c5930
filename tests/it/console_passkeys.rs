//! Passkeys on the console's pages: what their script sends, and what the pages make of it. A real browser does the same in
//! `tests/browser/passkeys.mjs`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use crate::{
    api::{
        Api,
        passkeys::{SURE, bytes, challenge_of},
        passphrase_of, text,
    },
    authenticator::{Authenticator, Made, Signed},
    console::{Browser, html, problem, refusal},
    wire::{Answer, Request},
};

/// The fields that the script adds for a passkey that was made.
fn made(authenticator: &Authenticator, challenge: &[u8]) -> Vec<(&'static str, String)> {
    let Made { client_data, attestation } = authenticator.make(challenge);
    vec![
        ("label", "my key".to_owned()),
        ("client_data", BASE64URL.encode(client_data)),
        ("attestation", BASE64URL.encode(attestation)),
    ]
}

/// The fields that it adds for what a passkey signed.
fn signed(authenticator: &Authenticator, challenge: &[u8]) -> Vec<(&'static str, String)> {
    let Signed { authenticator_data, client_data, signature } = authenticator.sign(challenge);
    vec![
        ("id", BASE64URL.encode(&authenticator.id)),
        ("client_data", BASE64URL.encode(client_data)),
        ("authenticator_data", BASE64URL.encode(authenticator_data)),
        ("signature", BASE64URL.encode(signature)),
    ]
}

/// What the button of a page asks an authenticator.
fn question(page: &Answer) -> Value {
    let html = html(page);
    let at = html.find("data-public-key=\"").unwrap_or_else(|| panic!("nothing is asked: {html}"));
    let quoted = html[at..].split('"').nth(1).unwrap();
    serde_json::from_str(&quoted.replace("&quot;", "\"").replace("&amp;", "&")).unwrap()
}

impl Browser<'_> {
    fn fill_with(&mut self, page: &Answer, act: &str, fields: &[(&'static str, String)]) -> Answer {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.fill_in(page, act, &fields)
    }

    fn sign_in_with(&mut self, api: &Api, authenticator: &Authenticator) -> Answer {
        let asked = api.asked("/passkeys/login/ask", &json!({}), None);
        let page = self.look("/sign-in");
        self.fill_with(&page, "sign-in-with-passkey", &signed(authenticator, &bytes(&asked["publicKey"]["challenge"])))
    }
}

#[test]
fn an_approver_enrols_signs_in_and_countersigns_with_a_passkey_on_the_pages() {
    let api = Api::open_under(SURE, |_config| {});
    let authenticator = api.authenticator(1);
    let code = api.invite("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    let page = browser.look("/enrol");
    let shown = html(&page);
    let place = format!("http://localhost:{}", api.at.port());
    assert!(shown.contains("data-rp=\"localhost\"") && shown.contains(&place), "{shown}");
    let ask = || bytes(&api.asked("/passkeys/enrol/ask", &json!({"code": code}), None)["publicKey"]["challenge"]);
    let with = |fields: Vec<(&'static str, String)>| [fields, vec![("code", code.clone())]].concat();
    let wrong = browser.fill_with(&page, "enrol-with-passkey", &with(made(&authenticator, &[7; 32])));
    assert_eq!(problem(&wrong), refusal(403, "passkey_refused"));
    let done = browser.fill_with(&page, "enrol-with-passkey", &with(made(&authenticator, &ask())));
    assert_eq!((done.status, done.header("location")), (303, Some("/waiting")), "{done:?}");
    assert_eq!(browser.look("/waiting").status, 200, "who made a passkey is signed in");

    let mut other = Browser::new(&api);
    let wrong = other.sign_in_with(&api, &Authenticator { flags: 1, ..authenticator.clone() });
    assert_eq!(problem(&wrong), refusal(403, "passkey_refused"), "nobody was verified");
    assert_eq!(other.look("/waiting").status, 303);
    assert_eq!(other.sign_in_with(&api, &authenticator).header("location"), Some("/waiting"));

    let person = api.sign_in_as(&authenticator, "ann");
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"pay"}"#, &person);
    let page = other.look(&format!("/holds/{}", text(&hold["id"])));
    let asked = question(&page);
    assert_eq!(bytes(&asked["challenge"]), challenge_of(&hold), "what is signed is the digest on the page");
    assert_eq!(asked["allowCredentials"][0]["id"], BASE64URL.encode(&authenticator.id));
    let shown = html(&page);
    assert!(shown.contains("with a passkey") && !shown.contains("name=\"passphrase\""), "{shown}");
    let passphrase = vec![("passphrase", passphrase_of("ann"))];
    let refused = other.fill_with(&page, "approve", &passphrase);
    assert_eq!(problem(&refused), refusal(403, "passphrase_wrong"), "she has none");
    let other_hold = signed(&authenticator, &[7; 32]);
    assert_eq!(problem(&other.fill_with(&page, "approve", &other_hold)), refusal(403, "passkey_refused"));
    let done = other.fill_with(&page, "approve", &signed(&authenticator, &challenge_of(&hold)));
    assert_eq!(done.status, 303, "{done:?}");
    let ran = Request::call("up__echo", r#"{"text":"pay"}"#).send(api.agents, Some(&agent));
    assert!(ran.is_success(), "{ran:?}");
    api.close();
}

#[test]
fn one_more_key_is_signed_for_on_a_page_of_its_own() {
    let api = Api::open_under(SURE, |_config| {});
    let ann = api.enrol("ann", &["finance"], &[], None);
    let (first, second) = (api.authenticator(1), api.authenticator(2));
    let mut browser = Browser::new(&api);
    browser.sign_in("ann");
    let add = |browser: &mut Browser<'_>, authenticator: &Authenticator| {
        let page = browser.fill("/keys", "add-passkey", &[]);
        let asked = question(&page);
        browser.fill_with(&page, "offer-passkey", &made(authenticator, &bytes(&asked["challenge"])))
    };
    let page = add(&mut browser, &first);
    let wrong = browser.fill_with(&page, "confirm", &[("passphrase", "not this one, no".to_owned())]);
    assert_eq!(problem(&wrong), refusal(403, "passphrase_wrong"));
    let late = browser.fill_with(&page, "confirm", &[("passphrase", passphrase_of("ann"))]);
    assert_eq!(problem(&late), refusal(403, "passkey_refused"), "it has to be offered again");
    let page = add(&mut browser, &first);
    let done = browser.fill_with(&page, "confirm", &[("passphrase", passphrase_of("ann"))]);
    assert_eq!((done.status, done.header("location")), (303, Some("/keys")), "{done:?}");
    // the second is signed for with the first
    let page = add(&mut browser, &second);
    let asked = question(&page);
    let done = browser.fill_with(&page, "confirm-with-passkey", &signed(&first, &bytes(&asked["challenge"])));
    assert_eq!(done.status, 303, "{done:?}");
    let shown = html(&browser.look("/keys"));
    assert_eq!(shown.matches("data-key=\"passkey\"").count(), 2, "{shown}");
    // and so is another passphrase, after which the session that began with the former is over
    let chosen = [("passphrase", "another passphrase"), ("again", "another passphrase")];
    let page = browser.fill("/keys", "add-passphrase", &chosen);
    let asked = question(&page);
    let done = browser.fill_with(&page, "confirm-with-passkey", &signed(&second, &bytes(&asked["challenge"])));
    assert_eq!(done.status, 303, "{done:?}");
    assert_eq!(browser.look("/keys").status, 303, "signed out");
    assert_eq!(api.send(&Api::request("GET", "/passkeys", None), Some(&ann.token)).status, 401);
    assert!(problem(&browser.sign_in("ann")).1.contains("login_refused"), "the former passphrase");
    api.close();
}

//! Passkeys over the API, with an authenticator made of software: enrolled, signed in with, countersigned with, added to.

use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use super::*;
use crate::authenticator::{Authenticator, Made, Signed};

/// `echo` takes a passkey; for `short`, anything will do.
pub(crate) const SURE: &str = r#"
@id("echo") @hold("finance") @assurance("passkey") @expires("10m")
permit (principal, action == Action::"up__echo", resource);
@id("short") @hold("finance") @expires("10m")
permit (principal, action == Action::"up__short", resource);
"#;

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    BASE64URL.decode(text(value)).unwrap()
}

/// The answer of an authenticator that made a passkey, and what else the operation takes.
fn made(made: &Made, with: &Value) -> Value {
    let mut body = json!({"label": "my key", "client_data": BASE64URL.encode(&made.client_data),
                          "attestation": BASE64URL.encode(&made.attestation)});
    body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    body
}

fn signed(authenticator: &Authenticator, challenge: &[u8]) -> Value {
    let Signed { authenticator_data, client_data, signature } = authenticator.sign(challenge);
    json!({"id": BASE64URL.encode(&authenticator.id), "client_data": BASE64URL.encode(client_data),
           "authenticator_data": BASE64URL.encode(authenticator_data), "signature": BASE64URL.encode(signature)})
}

/// The bytes of a hold's digest: what its challenge is.
pub(crate) fn challenge_of(hold: &Value) -> [u8; 32] {
    text(&hold["digest"]).parse::<Digest>().unwrap().0
}

impl Api {
    pub(crate) fn authenticator(&self, number: u8) -> Authenticator {
        Authenticator::new(number, "localhost", &format!("http://localhost:{}", self.at.port()))
    }

    pub(crate) fn sign_in_as(&self, authenticator: &Authenticator, name: &'static str) -> Person {
        self.sign_in(authenticator, name)
    }

    pub(crate) fn asked(&self, path: &str, body: &Value, token: Option<&str>) -> Value {
        let answer = self.act(path, body, token);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.messages[0].clone()
    }

    /// Somebody who enrols with a passkey and signs in with it.
    pub(crate) fn enrol_with(&self, authenticator: &Authenticator, name: &'static str, by: Option<&str>) -> Person {
        let code = self.invite(name, &["finance"], &[], by);
        let asked = self.asked("/passkeys/enrol/ask", &json!({"code": code}), None);
        let options = &asked["publicKey"];
        assert_eq!((&asked["approver"], &options["rp"]["id"]), (&json!(name), &json!("localhost")));
        assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
        assert_eq!(options["attestation"], "none");
        let answer = authenticator.make(&bytes(&options["challenge"]));
        let enrolled = self.asked("/passkeys/enrol", &made(&answer, &json!({"code": code})), None);
        assert_eq!((&enrolled["approver"], &enrolled["passkey"]["label"]), (&json!(name), &json!("my key")));
        self.sign_in(authenticator, name)
    }

    fn sign_in(&self, authenticator: &Authenticator, name: &'static str) -> Person {
        let asked = self.asked("/passkeys/login/ask", &json!({}), None);
        let options = &asked["publicKey"];
        assert_eq!(options["allowCredentials"], json!([]), "who there is, is told to nobody");
        let answer = signed(authenticator, &bytes(&options["challenge"]));
        let session = self.asked("/passkeys/login", &answer, None);
        assert_eq!(session["approver"], name);
        Person { name, token: text(&session["token"]).to_owned() }
    }

    fn approve_with(&self, authenticator: &Authenticator, hold: &Value, who: &Person) -> Answer {
        let passkey = signed(authenticator, &challenge_of(hold));
        let body = json!({"digest": hold["digest"], "passkey": passkey});
        self.act(&format!("/holds/{}/approve", text(&hold["id"])), &body, Some(&who.token))
    }
}

#[test]
fn an_approver_enrols_signs_in_and_countersigns_with_a_passkey() {
    let api = Api::open_under(SURE, |_config| {});
    let authenticator = api.authenticator(1);
    let ann = api.enrol_with(&authenticator, "ann", None);
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"pay"}"#, &ann);
    assert_eq!((&hold["demands"][0]["assurance"], &hold["you"]["takes"]), (&json!("passkey"), &json!("passkey")));
    let approved = api.approve_with(&authenticator, &hold, &ann);
    assert_eq!(approved.status, 200, "{approved:?}");
    assert_eq!(approved.messages[0]["votes"][0]["means"], "passkey");
    let ran = Request::call("up__echo", r#"{"text":"pay"}"#).send(api.agents, Some(&agent));
    assert!(ran.is_success(), "{ran:?}");
    // what was signed stands in the ledger, whole
    let vote = api.look("/ledger?kind=hold.approved", &ann)["entries"][0]["entry"].clone();
    let enrolled = api.look("/ledger?kind=approver.enrolled", &ann)["entries"][0]["entry"].clone();
    let client_data: Value =
        serde_json::from_slice(&BASE64.decode(text(&vote["assertion"]["client_data"])).unwrap()).unwrap();
    assert_eq!(bytes(&client_data["challenge"]), challenge_of(&hold));
    let passkey = serde_json::to_vec(&enrolled["passkey"]).unwrap();
    assert_eq!(Digest::of(&passkey).to_string(), text(&vote["passkey"]));
    let known = api.look("/passkeys", &ann);
    assert_eq!((&known["passphrase"], &known["passkeys"][0]["digest"]), (&json!(false), &vote["passkey"]));
    api.close();
}

#[test]
fn a_question_to_an_authenticator_is_good_once_for_two_minutes_and_for_nothing_else() {
    let api = Api::open_under(SURE, |_config| {});
    let authenticator = api.authenticator(1);
    let code = api.invite("ann", &["finance"], &[], None);
    let ask = || bytes(&api.asked("/passkeys/enrol/ask", &json!({"code": code}), None)["publicKey"]["challenge"]);
    let enrol = |challenge: &[u8], code: &str| {
        let body = made(&authenticator.make(challenge), &json!({"code": code}));
        let answer = api.act("/passkeys/enrol", &body, None);
        if answer.status == 200 { (200, String::new()) } else { Api::refusal(&answer) }
    };
    let stale = (403, "passkey_refused".to_owned());
    let late = ask();
    api.pass(120);
    assert_eq!(enrol(&late, &code), stale, "two minutes");
    let other = api.invite("bob", &["finance"], &[], None);
    assert_eq!(enrol(&ask(), &other), stale, "asked for another code");
    assert_eq!(enrol(&[7; 32], &code), stale, "never asked");
    let signing_in = api.asked("/passkeys/login/ask", &json!({}), None);
    assert_eq!(enrol(&bytes(&signing_in["publicKey"]["challenge"]), &code), stale, "asked for something else");
    // what is wrong uses the question up
    let challenge = ask();
    let mut body = made(&authenticator.make(&challenge), &json!({"code": code}));
    body["label"] = json!(" ");
    assert_eq!(Api::refusal(&api.act("/passkeys/enrol", &body, None)), (400, "invalid_request".to_owned()));
    assert_eq!(enrol(&challenge, &code), stale, "once");
    let challenge = ask();
    assert_eq!(enrol(&challenge, &code), (200, String::new()));
    assert_eq!(enrol(&challenge, &code), (403, "code_unknown".to_owned()), "the code has served");
    assert_eq!(Api::refusal(&api.act("/passkeys/enrol/ask", &json!({"code": code}), None)).1, "code_unknown");

    let challenge = bytes(&api.asked("/passkeys/login/ask", &json!({}), None)["publicKey"]["challenge"]);
    let answer = signed(&authenticator, &challenge);
    assert_eq!(api.act("/passkeys/login", &answer, None).status, 200);
    assert_eq!(Api::refusal(&api.act("/passkeys/login", &answer, None)), stale, "an answer is good once");
    let challenge = bytes(&api.asked("/passkeys/login/ask", &json!({}), None)["publicKey"]["challenge"]);
    api.pass(120);
    assert_eq!(Api::refusal(&api.act("/passkeys/login", &signed(&authenticator, &challenge), None)), stale);
    api.close();
}

#[test]
fn what_an_authenticator_or_its_browser_says_wrongly_opens_nothing() {
    let api = Api::open_under(SURE, |_config| {});
    let genuine = api.authenticator(1);
    api.enrol("root", &["finance"], &[], None);
    let ann = api.enrol_with(&genuine, "ann", Some("root"));
    let port = api.at.port();
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"pay"}"#, &ann);
    type Change = Box<dyn Fn(&mut Authenticator)>;
    let table: Vec<(&str, Change)> = vec![
        (
            "a page at another port of this machine",
            Box::new(move |it| it.origin = format!("http://localhost:{}", port ^ 1)),
        ),
        ("a page of another site", Box::new(|it| it.origin = "https://evil.test".to_owned())),
        ("the console by its address", Box::new(move |it| it.origin = format!("http://127.0.0.1:{port}"))),
        ("an authenticator asked for another site", Box::new(|it| it.rp = "evil.test".to_owned())),
        ("nobody verified", Box::new(|it| it.flags = 1)),
        ("inside another page", Box::new(|it| it.added = r#","crossOrigin":true"#.to_owned())),
        ("a passkey that nobody has", Box::new(|it| it.id = vec![9; 32])),
        ("another key in its name", Box::new(|it| it.keys = crate::authenticator::Keys::es256())),
        ("another type", Box::new(|it| it.kind = Some("webauthn.create"))),
    ];
    for (what, change) in table {
        let mut authenticator = genuine.clone();
        change(&mut authenticator);
        let challenge = bytes(&api.asked("/passkeys/login/ask", &json!({}), None)["publicKey"]["challenge"]);
        let refused = Api::refusal(&api.act("/passkeys/login", &signed(&authenticator, &challenge), None));
        assert_eq!(refused, (403, "passkey_refused".to_owned()), "{what}");
        let refused = Api::refusal(&api.approve_with(&authenticator, &hold, &ann));
        assert_eq!(refused, (403, "passkey_refused".to_owned()), "{what}");
    }
    // a signature for another hold, and one for signing in
    let other = api.hold(&api.agent("bot", None), "up__short", r#"{"text":"tea"}"#, &ann);
    let passkey = signed(&genuine, &challenge_of(&other));
    let path = format!("/holds/{}/approve", text(&hold["id"]));
    let body = json!({"digest": hold["digest"], "passkey": passkey});
    assert_eq!(Api::refusal(&api.act(&path, &body, Some(&ann.token))).1, "passkey_refused");
    // somebody else's passkey in ann's session
    let of_bob = api.authenticator(2);
    let bob = api.enrol_with(&of_bob, "bob", Some("root"));
    assert_eq!(Api::refusal(&api.approve_with(&of_bob, &hold, &ann)).1, "passkey_refused");
    assert_eq!(api.approve_with(&of_bob, &hold, &bob).status, 200);
    api.close();
}

#[test]
fn where_a_passkey_is_demanded_a_passphrase_is_refused() {
    let api = Api::open_under(SURE, |_config| {});
    let ann = api.enrol("ann", &["finance"], &[], None);
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"pay"}"#, &ann);
    assert_eq!(hold["you"]["cannot_approve"], "assurance_too_low", "ann has no passkey");
    assert_eq!(Api::refusal(&api.approve(&hold, &ann)), (403, "assurance_too_low".to_owned()));
    // with one of her own she can, and her passphrase is still not enough
    let authenticator = api.authenticator(1);
    let asked = api.asked("/passkeys/ask", &json!({}), Some(&ann.token));
    let answer = authenticator.make(&bytes(&asked["publicKey"]["challenge"]));
    let offered = api.asked("/passkeys/offer", &made(&answer, &json!({})), Some(&ann.token));
    assert_eq!(offered["publicKey"], Value::Null, "she has no passkey to confirm it with");
    let confirm = json!({"challenge": offered["challenge"], "passphrase": passphrase_of("ann")});
    let known = api.asked("/passkeys/confirm", &confirm, Some(&ann.token));
    assert_eq!((&known["passphrase"], known["passkeys"].as_array().unwrap().len()), (&json!(true), 1));
    assert_eq!(Api::refusal(&api.approve(&hold, &ann)), (403, "assurance_too_low".to_owned()));
    assert_eq!(api.approve_with(&authenticator, &hold, &ann).status, 200);
    // nor does it add another, or a new passphrase, from here on
    let second = api.authenticator(2);
    let asked = api.asked("/passkeys/ask", &json!({}), Some(&ann.token));
    let answer = second.make(&bytes(&asked["publicKey"]["challenge"]));
    let more = api.asked("/passkeys/offer", &made(&answer, &json!({})), Some(&ann.token));
    let chosen = json!({"passphrase": "another passphrase of hers"});
    let anew = api.asked("/passkeys/offer/passphrase", &chosen, Some(&ann.token));
    for offered in [more, anew] {
        let confirm = json!({"challenge": offered["challenge"], "passphrase": passphrase_of("ann")});
        let refused = api.act("/passkeys/confirm", &confirm, Some(&ann.token));
        assert_eq!(Api::refusal(&refused), (403, "assurance_too_low".to_owned()));
    }
    let easy = api.hold(&api.agent("bot", None), "up__short", r#"{"text":"tea"}"#, &ann);
    assert_eq!(easy["you"]["takes"], Value::Null);
    assert_eq!(api.approve(&easy, &ann).status, 200);
    api.close();
}

#[test]
fn a_session_alone_adds_nothing_to_what_an_approver_is_known_by() {
    let api = Api::open_under(SURE, |_config| {});
    let (first, second) = (api.authenticator(1), api.authenticator(2));
    let ann = api.enrol_with(&first, "ann", None);
    let offer = |authenticator: &Authenticator, who: &Person| {
        let asked = api.asked("/passkeys/ask", &json!({}), Some(&who.token));
        let known = asked["publicKey"]["excludeCredentials"].as_array().unwrap().len();
        let answer = authenticator.make(&bytes(&asked["publicKey"]["challenge"]));
        (known, api.act("/passkeys/offer", &made(&answer, &json!({})), Some(&who.token)))
    };
    let confirm = |challenge: &Value, with: Value, who: &Person| {
        let mut body = json!({"challenge": challenge});
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        api.act("/passkeys/confirm", &body, Some(&who.token))
    };
    let (known, again) = offer(&first, &ann);
    assert_eq!((known, Api::refusal(&again)), (1, (409, "passkey_known".to_owned())));

    let refused = (403, "passkey_refused".to_owned());
    // the new one cannot vouch for itself; neither can a signature for something else; each try is the only one
    for (signs, challenge) in [(&second, None), (&first, Some([7; 32]))] {
        let (_, offered) = offer(&second, &ann);
        let offered = &offered.messages[0]["challenge"];
        let challenge = challenge.map_or_else(|| bytes(offered), |other| other.to_vec());
        let passkey = json!({"passkey": signed(signs, &challenge)});
        assert_eq!(Api::refusal(&confirm(offered, passkey, &ann)), refused);
        let genuine = json!({"passkey": signed(&first, &bytes(offered))});
        assert_eq!(Api::refusal(&confirm(offered, genuine, &ann)), refused, "it has to be offered again");
    }
    let (_, offered) = offer(&second, &ann);
    let offered = offered.messages[0]["challenge"].clone();
    let elsewhere = api.sign_in(&first, "ann");
    let genuine = json!({"passkey": signed(&first, &bytes(&offered))});
    assert_eq!(Api::refusal(&confirm(&offered, genuine.clone(), &elsewhere)), refused, "another session of hers");
    let (_, offered) = offer(&second, &ann);
    let offered = offered.messages[0]["challenge"].clone();
    api.pass(120);
    let genuine = json!({"passkey": signed(&first, &bytes(&offered))});
    assert_eq!(Api::refusal(&confirm(&offered, genuine, &ann)), refused, "two minutes");
    let (_, offered) = offer(&second, &ann);
    let offered = offered.messages[0]["challenge"].clone();
    assert_eq!(api.look("/passkeys", &ann)["passkeys"].as_array().unwrap().len(), 1);
    let genuine = json!({"passkey": signed(&first, &bytes(&offered))});
    let known = confirm(&offered, genuine, &ann).messages[0].clone();
    assert_eq!(known["passkeys"].as_array().unwrap().len(), 2);
    api.sign_in(&second, "ann");

    // a passphrase, too, takes what she has
    let short = api.act("/passkeys/offer/passphrase", &json!({"passphrase": "short"}), Some(&ann.token));
    assert_eq!(Api::refusal(&short), (422, "passphrase_unfit".to_owned()));
    let chosen = json!({"passphrase": passphrase_of("ann")});
    let offered = api.asked("/passkeys/offer/passphrase", &chosen, Some(&ann.token));
    let allowed = offered["publicKey"]["allowCredentials"].as_array().unwrap().len();
    assert_eq!(allowed, 2);
    let itself = confirm(&offered["challenge"], chosen.clone(), &ann);
    assert_eq!(Api::refusal(&itself), (403, "passphrase_wrong".to_owned()), "not known by it yet");
    let offered = api.asked("/passkeys/offer/passphrase", &chosen, Some(&ann.token));
    let genuine = json!({"passkey": signed(&second, &bytes(&offered["challenge"]))});
    assert_eq!(confirm(&offered["challenge"], genuine, &ann).messages[0]["passphrase"], true);
    let with_it = api.login("ann");
    let easy = api.hold(&api.agent("bot", None), "up__short", r#"{"text":"tea"}"#, &with_it);
    assert_eq!(api.approve(&easy, &with_it).status, 200);
    api.close();
}

#[test]
fn who_is_removed_is_known_by_no_passkey_and_what_it_countersigned_counts_no_more() {
    let api = Api::open_under(SURE, |_config| {});
    let (of_ann, of_bob) = (api.authenticator(1), api.authenticator(2));
    api.enrol("root", &["finance"], &[], None);
    let ann = api.enrol_with(&of_ann, "ann", Some("root"));
    let bob = api.enrol_with(&of_bob, "bob", Some("root"));
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"pay"}"#, &ann);
    assert_eq!(api.approve_with(&of_bob, &hold, &bob).status, 200);
    let approvers = &api.house.pipeline.ledger;
    api.runtime.block_on(approvers.remove_approver("bob", Some("ann".to_owned()))).unwrap();
    assert_eq!(Api::refusal(&api.act("/logout", &json!({}), Some(&bob.token))), (401, "session_unknown".to_owned()));
    let challenge = bytes(&api.asked("/passkeys/login/ask", &json!({}), None)["publicKey"]["challenge"]);
    let gone = api.act("/passkeys/login", &signed(&of_bob, &challenge), None);
    assert_eq!(Api::refusal(&gone), (403, "passkey_refused".to_owned()));
    // it is looked at again when it is to run
    let refused = Request::call("up__echo", r#"{"text":"pay"}"#).send(api.agents, Some(&agent));
    assert!(!refused.is_success(), "{refused:?}");
    let void = api.look(&format!("/holds/{}", text(&hold["id"])), &ann);
    assert_eq!((&void["state"], &void["ended"]["code"]), (&json!("void"), &json!("void_approver_removed")));
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn a_code_that_is_replaced_while_somebody_enrols_does_not_enrol_too() {
    let mut outcomes = BTreeSet::new();
    for round in 0..6_u8 {
        let api = Api::open_under(SURE, |_config| {});
        let authenticator = api.authenticator(1);
        let code = api.invite("ann", &["finance"], &[], None);
        let code = countersign::approver::Code::read(&code).unwrap();
        let approvers = Arc::clone(&api.house.pipeline);
        let asked = approvers.approvers.ask_to_enrol(&code).unwrap();
        let answer = authenticator.make(&asked.challenge);
        let made = countersign::approver::Made {
            client_data: answer.client_data,
            attestation: answer.attestation,
            label: "key".to_owned(),
        };
        let (enrolled, added) = api.runtime.block_on(async {
            let approvers = &approvers.approvers;
            let enrol = approvers.enrol_passkey(&code, &made, "localhost");
            let add = approvers.add("ann", ["finance".to_owned()].into(), [].into(), None);
            if round % 2 == 0 {
                let (added, enrolled) = tokio::join!(add, enrol);
                (enrolled.is_ok(), added.is_ok_and(|added| added.code.is_some()))
            } else {
                let (enrolled, added) = tokio::join!(enrol, add);
                (enrolled.is_ok(), added.is_ok_and(|added| added.code.is_some()))
            }
        });
        // whoever was given a new code is not enrolled by the old one
        assert!(enrolled != added, "round {round}: {enrolled} and {added}");
        outcomes.insert((round % 2, enrolled));
        api.close();
    }
    assert_eq!(outcomes, BTreeSet::from([(0, false), (1, true)]));
}

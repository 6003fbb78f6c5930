//! The console's pages as a browser without scripts meets them: signing in, what guards the forms, what is shown.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::{
    api::{Api, SOON, passphrase_of, text},
    house::until,
    wire::{Answer, Request, connect},
};

/// Keeps cookies and sends what a browser sends; follows nothing, runs no script.
pub(crate) struct Browser<'a> {
    api: &'a Api,
    scheme: &'static str,
    cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    pub(crate) fn new(api: &'a Api) -> Self {
        Self { api, scheme: "http", cookies: BTreeMap::new() }
    }

    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn request(&self, line: &str) -> Request {
        let mut request = Request::post("").without("Content-Type").with("Accept", "text/html,*/*;q=0.8");
        request.line = format!("{line} HTTP/1.1");
        if self.cookies.is_empty() { request } else { request.with("Cookie", &self.cookie()) }
    }

    pub(crate) fn send(&mut self, request: &Request) -> Answer {
        let answer = request.send(self.api.at, None);
        let set = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        for (_, line) in set {
            let (pair, rules) = line.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            // what was begun elsewhere comes along when one is led back
            let begun = name.ends_with("-attempt") && !rules.contains("Max-Age=0");
            for rule in ["Path=/", "HttpOnly", if begun { "SameSite=Lax" } else { "SameSite=Strict" }] {
                assert!(rules.contains(rule), "{line}");
            }
            assert_eq!(rules.contains("Secure"), self.scheme == "https", "{line}");
            assert_eq!(name.starts_with("__Host-"), self.scheme == "https", "{line}");
            if rules.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub(crate) fn look(&mut self, path: &str) -> Answer {
        let request = self.request(&format!("GET {path}"));
        self.send(&request)
    }

    /// A form as the browser would send it.
    pub(crate) fn form(&self, path: &str, fields: &[(&str, &str)]) -> Request {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        self.request(&format!("POST {path}"))
            .body(body.join("&"))
            .with("Content-Type", "application/x-www-form-urlencoded")
            .with("Origin", &format!("{}://{}", self.scheme, self.api.at))
            .with("Sec-Fetch-Site", "same-origin")
            .with("Sec-Fetch-Mode", "navigate")
            .with("Sec-Fetch-Dest", "document")
    }

    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.form(path, fields);
        self.send(&request)
    }

    /// Opens a page and fills in its one form of that act.
    pub(crate) fn fill(&mut self, page: &str, act: &str, fields: &[(&str, &str)]) -> Answer {
        let page = self.look(page);
        self.fill_in(&page, act, fields)
    }

    pub(crate) fn fill_in(&mut self, page: &Answer, act: &str, fields: &[(&str, &str)]) -> Answer {
        let (action, mut all) = form(&html(page), act);
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(&action, &all)
    }

    pub(crate) fn sign_in(&mut self, name: &str) -> Answer {
        let passphrase = passphrase_of(name);
        self.fill("/sign-in", "sign-in", &[("approver", name), ("passphrase", &passphrase)])
    }

    pub(crate) fn token(&mut self) -> String {
        let page = self.look("/waiting");
        hidden(&html(&page), "csrf")
    }

    fn is_signed_in(&mut self) -> bool {
        let page = self.look("/waiting");
        assert!(matches!(page.status, 200 | 303), "{page:?}");
        page.status == 200
    }

    fn session(&self) -> &str {
        &self.cookies[if self.scheme == "https" { "__Host-countersign" } else { "countersign" }]
    }
}

pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

pub(crate) fn html(page: &Answer) -> String {
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{page:?}");
    String::from_utf8(page.body.clone()).unwrap()
}

/// The value of the first hidden field of that name.
fn hidden(html: &str, name: &str) -> String {
    let mark = format!("<input type=\"hidden\" name=\"{name}\" value=\"");
    let at = html.find(&mark).unwrap_or_else(|| panic!("no hidden `{name}`: {html}"));
    html[at + mark.len()..].split('"').next().unwrap().to_owned()
}

/// Where a form leads, and its hidden fields.
pub(crate) fn form(html: &str, act: &str) -> (String, Vec<(String, String)>) {
    let mark = format!("data-act=\"{act}\"");
    let at = html.find(&mark).unwrap_or_else(|| panic!("no form `{act}`: {html}"));
    let tag = &html[html[..at].rfind("<form").unwrap()..];
    let whole = &tag[..tag.find("</form>").unwrap()];
    let action = whole.split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let fields = whole.split("<input type=\"hidden\" name=\"").skip(1).map(|rest| {
        let (name, rest) = rest.split_once("\" value=\"").unwrap();
        (name.to_owned(), rest.split('"').next().unwrap().to_owned())
    });
    (action, fields.collect())
}

/// The code of the problem that a page tells.
pub(crate) fn problem(page: &Answer) -> (u16, String) {
    let html = html(page);
    let code = html.split("data-problem=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    (page.status, code.unwrap_or_else(|| panic!("no problem: {html}")))
}

pub(crate) fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// What stands between two texts, the first time that they do.
fn between<'h>(html: &'h str, start: &str, end: &str) -> &'h str {
    let from = html.find(start).unwrap_or_else(|| panic!("`{start}` is not in {html}")) + start.len();
    &html[from..from + html[from..].find(end).unwrap()]
}

/// The page's event stream.
struct Stream {
    stream: TcpStream,
    seen: String,
}

impl Stream {
    fn open(browser: &Browser<'_>, path: &str) -> Self {
        let request = browser.request(&format!("GET {path}")).with("Accept", "text/event-stream");
        let mut stream = connect(browser.api.at);
        stream.write_all(&request.bytes(browser.api.at, None)).unwrap();
        let mut stream = Self { stream, seen: String::new() };
        stream.next("ready");
        stream
    }

    fn next(&mut self, kind: &str) -> Value {
        let start = format!("event: {kind}\ndata: ");
        loop {
            if let Some(at) = self.seen.find(&start)
                && let Some(end) = self.seen[at..].find("\n\n")
            {
                let data = self.seen[at + start.len()..at + end].to_owned();
                self.seen.drain(..at + end);
                return serde_json::from_str(&data).unwrap();
            }
            let mut chunk = [0; 4_096];
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the stream ended before `{kind}`: {}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    }
}

#[test]
fn an_approver_enrols_signs_in_and_out_without_scripts() {
    let api = Api::open();
    let code = api.invite("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    let passphrase = passphrase_of("ann");
    let page = browser.look("/enrol");
    let enrol = |browser: &mut Browser<'_>, code: &str, one: &str, two: &str| {
        browser.fill_in(&page, "enrol", &[("code", code), ("passphrase", one), ("again", two)])
    };
    let wrong = enrol(&mut browser, &code, &passphrase, "another one, mistyped");
    assert!(!html(&wrong).contains(&code), "a code is in no page");
    assert_eq!(problem(&wrong), refusal(400, "invalid_request"));
    assert!(!html(&wrong).contains(&passphrase), "no passphrase is ever sent back");
    assert_eq!(problem(&enrol(&mut browser, &code, "short", "short")), refusal(422, "passphrase_unfit"));
    assert_eq!(problem(&enrol(&mut browser, "ABCD", &passphrase, &passphrase)), refusal(403, "code_unknown"));
    assert!(!browser.is_signed_in());
    let done = enrol(&mut browser, &code.to_lowercase(), &passphrase, &passphrase);
    assert_eq!((done.status, done.header("location")), (303, Some("/waiting")), "{done:?}");
    let page = browser.look("/waiting");
    assert!(html(&page).contains("data-approver=\"ann\"") && html(&page).contains("data-page=\"waiting\""));
    for section in ["/agents", "/tools", "/grants", "/ledger", "/health"] {
        assert!(html(&page).contains(&format!("href=\"{section}\"")), "{section}");
    }
    assert_eq!(problem(&enrol(&mut browser, &code, &passphrase, &passphrase)), refusal(403, "code_unknown"));

    let token = hidden(&html(&page), "csrf");
    let out = browser.post("/sign-out", &[("csrf", &token)]);
    assert_eq!((out.status, out.header("location")), (303, Some("/sign-in")));
    assert!(!browser.cookies.contains_key("countersign") && !browser.is_signed_in());
    assert_eq!(browser.look("/").header("location"), Some("/waiting"));
    assert_eq!(browser.look("/waiting").header("location"), Some("/sign-in"));

    let wrong = browser.fill("/sign-in", "sign-in", &[("approver", "ann\"><b>"), ("passphrase", "not it at all")]);
    assert_eq!(problem(&wrong), refusal(403, "login_refused"));
    assert!(html(&wrong).contains("value=\"ann&quot;&gt;&lt;b&gt;\""), "{}", html(&wrong));
    let done = browser.sign_in("ann");
    assert_eq!((done.status, done.header("location")), (303, Some("/waiting")), "{done:?}");
    assert!(browser.is_signed_in());
    api.close();
}

#[test]
fn a_session_is_over_on_the_server_when_it_is_signed_out_or_idle() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    browser.sign_in("ann");
    let mut thief = Browser::new(&api);
    thief.cookies = browser.cookies.clone();
    assert!(thief.is_signed_in());
    let token = browser.token();
    browser.post("/sign-out", &[("csrf", &token)]);
    assert!(!thief.is_signed_in(), "the token that was copied opens nothing any more");
    let late = thief.post("/sign-out", &[("csrf", &token)]);
    assert_eq!(problem(&late), refusal(401, "session_unknown"));
    // whose form came too late finds back to its page, and only to one of ours
    for (page, back) in [
        ("/holds/hold_00000000000000000000000000?x#y", "/sign-in?next=/holds/hold_00000000000000000000000000"),
        ("//attacker.test", "/sign-in"),
        ("/\"><script>", "/sign-in"),
    ] {
        let form = thief.form("/sign-out", &[("csrf", &token)]).with("Referer", &format!("http://{}{page}", api.at));
        let late = thief.send(&form);
        assert_eq!(problem(&late), refusal(401, "session_unknown"));
        assert!(html(&late).contains(&format!("href=\"{back}\"")), "{page}: {}", html(&late));
    }
    browser.sign_in("ann");
    api.pass(901);
    assert!(!browser.is_signed_in());
    api.close();
}

#[test]
fn by_tls_cookies_are_for_this_host_alone_and_kept_to_it() {
    let api = Api::open_with(|config| {
        config.console.behind_proxy = true;
        config.console.url = Some("https://approve.example".to_owned());
    });
    api.enrol("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    browser.scheme = "https";
    let done = browser.sign_in("ann");
    assert_eq!(done.status, 303, "{done:?}");
    assert!(done.header("strict-transport-security").is_some());
    assert!(browser.is_signed_in());
    assert!(browser.cookies.keys().all(|name| name.starts_with("__Host-")), "{:?}", browser.cookies);
    // one that came by plain HTTP, or by a name that others can set, is none
    let mut plain = Browser::new(&api);
    plain.cookies.insert("countersign".to_owned(), browser.session().to_owned());
    assert!(!plain.is_signed_in());
    let token = browser.token();
    let plain = browser.form("/sign-out", &[("csrf", &token)]).with("Origin", &format!("http://{}", api.at));
    assert_eq!(problem(&browser.send(&plain)), refusal(403, "origin_not_allowed"));
    api.close();
}

#[test]
fn a_form_needs_its_token_its_origin_and_its_session() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    api.enrol("bob", &["finance"], &[], Some("ann"));
    let (mut ann, mut bob) = (Browser::new(&api), Browser::new(&api));
    ann.sign_in("ann");
    bob.sign_in("bob");
    let (token, of_bob) = (ann.token(), bob.token());
    assert_ne!(token, of_bob);
    let of_form = ann.cookies["countersign-form"].clone();
    let own = ann.form("/sign-out", &[("csrf", &token)]);
    let table = [
        ("no token", ann.form("/sign-out", &[]), 403, "form_refused"),
        ("an empty token", ann.form("/sign-out", &[("csrf", "")]), 403, "form_refused"),
        ("a token of another", ann.form("/sign-out", &[("csrf", &of_bob)]), 403, "form_refused"),
        ("a token of no session", ann.form("/sign-out", &[("csrf", &of_form)]), 403, "form_refused"),
        ("the token twice", ann.form("/sign-out", &[("csrf", &token), ("csrf", &token)]), 400, "invalid_request"),
        ("more than was asked", ann.form("/sign-out", &[("csrf", &token), ("x", "y")]), 400, "invalid_request"),
        ("no origin", own.clone().without("Origin"), 403, "origin_not_allowed"),
        ("a foreign origin", own.clone().with("Origin", "http://attacker.test"), 403, "origin_not_allowed"),
        ("an opaque origin", own.clone().with("Origin", "null"), 403, "origin_not_allowed"),
        ("another port", own.clone().with("Origin", "http://127.0.0.1:1"), 403, "origin_not_allowed"),
        ("another scheme", own.clone().with("Origin", &format!("https://{}", api.at)), 403, "origin_not_allowed"),
        ("two origins", own.clone().also("Origin", &format!("http://{}", api.at)), 403, "origin_not_allowed"),
        ("of another site", own.clone().with("Sec-Fetch-Site", "cross-site"), 403, "origin_not_allowed"),
        ("of another port", own.clone().with("Sec-Fetch-Site", "same-site"), 403, "origin_not_allowed"),
        ("of no page", own.clone().with("Sec-Fetch-Site", "none"), 403, "origin_not_allowed"),
        ("no session", own.clone().without("Cookie"), 401, "session_unknown"),
        ("a session of nobody", own.clone().with("Cookie", "countersign=cas_x"), 401, "session_unknown"),
        (
            "two sessions",
            own.clone().with("Cookie", &format!("countersign={}; countersign={}", bob.session(), ann.session())),
            401,
            "session_unknown",
        ),
        ("no form", own.clone().with("Content-Type", "text/plain"), 415, "unsupported_media_type"),
        ("a form of files", own.clone().with("Content-Type", "multipart/form-data"), 415, "unsupported_media_type"),
        ("json", own.clone().with("Content-Type", "application/json"), 415, "unsupported_media_type"),
        ("a long form", own.clone().body("a".repeat(70_000)), 413, "too_large"),
        ("a broken form", own.clone().body("csrf=%ff"), 400, "invalid_request"),
    ];
    for (what, request, status, code) in table {
        let page = ann.send(&request);
        assert_eq!(problem(&page), refusal(status, code), "{what}: {page:?}");
        assert!(!html(&page).contains(&token), "{what}");
    }
    // none of this ended the session, and an old browser that says less is let in
    assert!(ann.is_signed_in() && bob.is_signed_in());
    assert_eq!(ann.send(&own.without("Sec-Fetch-Site")).status, 303);
    assert!(!ann.is_signed_in() && bob.is_signed_in());
    // the same before there is a session
    let passphrase = passphrase_of("ann");
    let mut browser = Browser::new(&api);
    let page = browser.look("/sign-in");
    let token = hidden(&html(&page), "csrf");
    let fields = [("csrf", token.as_str()), ("approver", "ann"), ("passphrase", &passphrase)];
    let own = browser.form("/sign-in", &fields);
    for (what, request, code) in [
        ("no token", browser.form("/sign-in", &fields[1..]), "form_refused"),
        ("no cookie", own.clone().without("Cookie"), "form_refused"),
        ("a cookie of one's own", own.clone().with("Cookie", "countersign-form=x"), "form_refused"),
        ("a foreign origin", own.clone().with("Origin", "http://attacker.test"), "origin_not_allowed"),
        ("no origin", own.clone().without("Origin"), "origin_not_allowed"),
        ("of another site", own.clone().with("Sec-Fetch-Site", "cross-site"), "origin_not_allowed"),
    ] {
        assert_eq!(problem(&browser.send(&request)), refusal(403, code), "{what}");
    }
    assert_eq!(browser.send(&own).status, 303);
    api.close();
}

#[test]
fn signing_in_begins_a_new_session_whatever_the_browser_had() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    api.enrol("mallory", &["finance"], &[], Some("ann"));
    let mut mallory = Browser::new(&api);
    mallory.sign_in("mallory");
    let planted = mallory.session().to_owned();
    // somebody planted a session of their own in ann's browser
    let mut ann = Browser::new(&api);
    ann.cookies.insert("countersign".to_owned(), planted.clone());
    ann.cookies.insert("countersign-form".to_owned(), "A".repeat(43));
    assert!(html(&ann.look("/waiting")).contains("data-approver=\"mallory\""), "the page says whose session it is");
    assert_eq!(ann.sign_in("ann").status, 303);
    assert_ne!(ann.session(), planted);
    assert!(html(&ann.look("/waiting")).contains("data-approver=\"ann\""));
    assert!(!mallory.is_signed_in(), "the session that was there before is over");
    let first = ann.session().to_owned();
    ann.sign_in("ann");
    assert_ne!(ann.session(), first);
    ann.cookies.insert("countersign".to_owned(), first);
    assert!(!ann.is_signed_in());
    api.close();
}

#[test]
fn signing_in_leads_back_to_pages_of_ours_and_nowhere_else() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    let passphrase = passphrase_of("ann");
    let asked = browser.look("/holds/hold_00000000000000000000000000");
    let to = asked.header("location").unwrap().to_owned();
    assert_eq!(to, "/sign-in?next=/holds/hold_00000000000000000000000000");
    let done = browser.fill(&to, "sign-in", &[("approver", "ann"), ("passphrase", &passphrase)]);
    assert_eq!(done.header("location"), Some("/holds/hold_00000000000000000000000000"));
    for next in [
        "//attacker.test",
        "https://attacker.test",
        "/\\attacker.test",
        "javascript:alert(1)",
        "/sign-out",
        "/api/v1/x",
    ] {
        let page = browser.look(&format!("/sign-in?next={}", next.replace('\\', "%5C")));
        assert_eq!(page.status, 200);
        assert!(!html(&page).contains("attacker") && !html(&page).contains("name=\"next\""), "{}", html(&page));
        let token = hidden(&html(&page), "csrf");
        let fields = [("csrf", token.as_str()), ("approver", "ann"), ("passphrase", &passphrase), ("next", next)];
        let done = browser.post("/sign-in", &fields);
        assert_eq!((done.status, done.header("location")), (303, Some("/waiting")), "{next}");
    }
    api.close();
}

#[test]
fn guessing_at_the_sign_in_is_slowed_down() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    let mut browser = Browser::new(&api);
    let page = browser.look("/sign-in");
    for name in ["ann", "nobody"] {
        let guess = |browser: &mut Browser<'_>, passphrase: &str| {
            browser.fill_in(&page, "sign-in", &[("approver", name), ("passphrase", passphrase)])
        };
        for _ in 0..5 {
            assert_eq!(problem(&guess(&mut browser, "a guess, and a wrong one")), refusal(403, "login_refused"));
        }
        let slowed = guess(&mut browser, &passphrase_of("ann"));
        assert_eq!(problem(&slowed), refusal(429, "too_many_attempts"));
        assert_eq!(slowed.header("retry-after"), Some("1"));
    }
    assert!(!browser.is_signed_in());
    api.pass(2);
    assert_eq!(browser.sign_in("ann").status, 303);
    api.close();
}

#[test]
fn a_cookie_opens_no_api_and_no_token_opens_a_page() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let mut browser = Browser::new(&api);
    browser.sign_in("ann");
    let by_cookie = browser.look("/api/v1/holds");
    assert_eq!(by_cookie.status, 401, "{by_cookie:?}");
    for token in [person.token.as_str(), browser.session(), &agent] {
        let mut stranger = Browser::new(&api);
        let request = stranger.request("GET /waiting").with("Authorization", &format!("Bearer {token}"));
        assert_eq!(stranger.send(&request).status, 303, "a bearer token is no cookie");
    }
    // nor does the value of the one serve as the other
    let stolen = browser.request("GET /api/v1/holds").without("Cookie");
    let stolen = browser.send(&stolen.with("Authorization", &format!("Bearer {}", browser.session())));
    assert_eq!(stolen.status, 401, "{stolen:?}");
    for token in [agent, person.token] {
        let mut other = Browser::new(&api);
        other.cookies.insert("countersign".to_owned(), token);
        assert!(!other.is_signed_in());
    }
    assert!(browser.is_signed_in());
    // nothing of the console is served to agents
    for path in ["/", "/sign-in", "/enrol", "/waiting", "/events", "/holds/x", "/assets/console.css", "/api/v1/holds"] {
        let request = browser.request(&format!("GET {path}"));
        let answer = request.send(api.agents, None);
        assert!(matches!(answer.status, 401 | 403 | 404 | 405), "{path}: {answer:?}");
        assert!(
            answer.header("set-cookie").is_none() && !answer.body.windows(5).any(|part| part == b"<html"),
            "{path}"
        );
    }
    api.close();
}

#[test]
fn who_is_signed_out_learns_nothing_of_a_hold() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let hold = api.hold(&api.agent("clerk", None), "up__echo", r#"{"text":"a"}"#, &ann);
    let real = text(&hold["id"]).to_owned();
    let none = "hold_00000000000000000000000000";
    let open = |id: &str| {
        let mut browser = Browser::new(&api);
        let mut answer = browser.look(&format!("/holds/{id}"));
        answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
        let written = format!("{answer:?}").replace(id, "ID");
        let mut page = browser.look(answer.header("location").unwrap());
        page.headers.retain(|(name, _)| !matches!(name.to_ascii_lowercase().as_str(), "date" | "set-cookie"));
        let token = hidden(&html(&page), "csrf");
        (written, format!("{page:?}").replace(id, "ID").replace(&token, "TOKEN"))
    };
    assert_eq!(open(&real), open(none));
    for id in ["x", "%3Cscript%3E", "%ff"] {
        let mut browser = Browser::new(&api);
        let answer = browser.look(&format!("/holds/{id}"));
        assert!(answer.header("location").unwrap().starts_with("/sign-in"), "{id}: {answer:?}");
    }
    // a link that was followed from elsewhere comes without our cookie: the page asks once more by itself
    let mut browser = Browser::new(&api);
    let followed = browser
        .request(&format!("GET /holds/{real}"))
        .with("Sec-Fetch-Site", "cross-site")
        .with("Sec-Fetch-Mode", "navigate")
        .with("Sec-Fetch-Dest", "document");
    let page = browser.send(&followed);
    assert_eq!(page.status, 200);
    assert!(html(&page).contains(&format!("<meta http-equiv=\"refresh\" content=\"0; url=/holds/{real}\">")));
    assert!(!html(&page).contains("clerk") && !html(&page).contains("echo"));
    api.close();
}

#[test]
fn pages_of_others_may_only_link_here() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    for path in ["/waiting", "/waiting/rows", "/assets/console.css"] {
        for (site, mode, dest, status) in [
            ("cross-site", "navigate", "document", 200),
            ("same-origin", "cors", "empty", 200),
            ("none", "navigate", "document", 200),
            ("cross-site", "navigate", "iframe", 403),
            ("same-site", "navigate", "frame", 403),
            ("cross-site", "cors", "empty", 403),
            ("same-site", "no-cors", "script", 403),
            ("cross-site", "no-cors", "image", 403),
        ] {
            let request = ann
                .request(&format!("GET {path}"))
                .with("Sec-Fetch-Site", site)
                .with("Sec-Fetch-Mode", mode)
                .with("Sec-Fetch-Dest", dest);
            let answer = ann.send(&request);
            assert_eq!(answer.status, status, "{path} {site} {mode} {dest}");
        }
        let foreign = ann.request(&format!("GET {path}")).with("Origin", "http://attacker.test");
        assert_eq!(ann.send(&foreign).status, 403);
        let rebound = ann.request(&format!("GET {path}")).with("Host", "attacker.test");
        assert_eq!(ann.send(&rebound).status, 403);
    }
    for (name, value) in
        [("Origin", "http://attacker.test"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site")]
    {
        let stream = ann.request("GET /events").with("Accept", "text/event-stream").with(name, value);
        assert_eq!(ann.send(&stream).status, 403, "{name}: {value}");
    }
    let unknown = Browser::new(&api).look("/events");
    assert_eq!((unknown.status, &unknown.messages[0]["code"]), (401, &json!("session_missing")));
    api.close();
}

#[test]
fn every_page_says_what_it_may_do() {
    let api = Api::open();
    api.enrol("ann", &["finance"], &[], None);
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    for path in ["/sign-in", "/enrol", "/waiting", "/holds/x", "/assets/console.css", "/nothing"] {
        let answer = ann.look(path);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{path}: {policy}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        if path.starts_with("/assets") {
            assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
            continue;
        }
        if path == "/nothing" {
            assert_eq!(problem(&answer), refusal(404, "not_found"));
        }
        assert!(policy.contains("script-src 'self'; style-src 'self'; "), "{path}: {policy}");
        assert!(policy.contains("require-trusted-types-for 'script'; trusted-types 'none'"), "{path}: {policy}");
        assert_eq!(answer.header("cross-origin-opener-policy"), Some("same-origin"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let body = String::from_utf8(answer.body.clone()).unwrap();
        assert!(!body.contains(" style=") && !body.contains("<style") && !body.contains(" onclick"), "{path}");
        // but for the address at which passkeys work, which is our own
        let body = body.replace(&format!("http://localhost:{}", api.at.port()), "");
        assert!(!body.contains("://"), "{path}: {body}");
    }
    // a file that the browser has is not sent again
    let first = ann.look("/assets/console.css");
    let again = ann.request("GET /assets/console.css").with("If-None-Match", first.header("etag").unwrap());
    let again = ann.send(&again);
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(ann.look("/assets/nothing.css").status, 404);
    assert_eq!(ann.look("/assets/..%2fmod.rs").status, 404);
    api.close();
}

#[test]
fn a_hold_is_read_and_countersigned_without_scripts_and_runs_once() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("billing-bot", Some("carol"));
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    assert!(!html(&ann.look("/waiting")).contains("data-empty hidden"), "nothing waits yet");
    let arguments = "{\"n\":250,\"text\":\"pay \\u202e100\"}";
    let hold = api.hold(&agent, "up__echo", arguments, &person);
    let (id, digest) = (text(&hold["id"]).to_owned(), text(&hold["digest"]).to_owned());
    let queue = html(&ann.look("/waiting"));
    assert!(queue.contains("<title>(1) Waiting · Countersign</title>"), "{queue}");
    let row = between(&queue, &format!("data-hold=\"{id}\""), "</li>");
    for wanted in
        ["up__echo", "billing-bot for carol", "<b>/n</b> 250", "&lt;U+202E&gt;", "data-flag=\"bidi\"", "10 min"]
    {
        assert!(row.contains(wanted), "{wanted}: {row}");
    }
    let path = format!("/holds/{id}");
    assert!(row.contains(&format!("href=\"{path}\"")));
    let page = ann.look(&path);
    let shown = html(&page);
    for wanted in [
        "data-page=\"hold\"",
        "data-state=\"pending\"",
        "data-agent>billing-bot<",
        "data-user>carol<",
        "data-argument-path=\"/n\"",
        "data-argument-path=\"/text\"",
        "data-flag=\"bidi\"",
        "<mark>&lt;U+202E&gt;</mark>",
        "data-canonical dir=\"ltr\">{&quot;n&quot;:250,&quot;text&quot;:&quot;pay <mark>&lt;U+202E&gt;</mark>100&quot;}<",
        "data-difference=\"none\"",
        "data-policy=\"echo\"",
        "money moves",
        "0 of 1 countersignatures of finance",
        &digest,
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    assert!(!shown.contains('\u{202e}'));
    // the yes comes after everything that it is for, and is no form's default
    let (no, yes) = (shown.find("data-act=\"deny\"").unwrap(), shown.find("data-act=\"approve\"").unwrap());
    assert!(shown.find("data-canonical").unwrap() < no && no < yes);
    let first = between(&shown[yes..], "<button", ">");
    assert!(first.contains("disabled") && first.contains("hidden"), "{first}");
    assert!(!shown.contains("autofocus"));

    let wrong = ann.fill_in(&page, "approve", &[("passphrase", "not my passphrase")]);
    assert_eq!(problem(&wrong), refusal(403, "passphrase_wrong"));
    assert!(html(&wrong).contains("data-canonical") && !html(&wrong).contains("not my passphrase"));
    assert_eq!(api.upstream.calls().len(), 0, "nothing reaches the upstream before it is countersigned");
    let done = ann.fill_in(&page, "approve", &[("passphrase", &passphrase_of("ann"))]);
    assert_eq!((done.status, done.header("location")), (303, Some(path.as_str())), "{done:?}");
    let shown = html(&ann.look(&path));
    assert!(shown.contains("data-state=\"approved\"") && shown.contains("1 of 1 countersignatures"), "{shown}");
    assert!(
        shown.contains("ann countersigned it by passphrase, ") && !shown.contains("data-act=\"approve\""),
        "{shown}"
    );
    let again = Request::call("up__echo", arguments).send(api.agents, Some(&agent));
    assert!(again.is_success(), "{again:?}");
    let shown = until("the outcome is there", SOON, || {
        let shown = html(&ann.look(&path));
        shown.contains("its run ended: ok").then_some(shown)
    });
    assert!(shown.contains("data-state=\"spent\"") && !shown.contains("data-act=\"deny\""), "{shown}");
    assert_eq!(api.upstream.calls().len(), 1);
    assert_eq!(api.upstream.calls()[0].arguments(), "{\"n\":250,\"text\":\"pay \u{202e}100\"}");
    // the form that was filled in is good for nothing more
    let twice = ann.fill_in(&page, "approve", &[("passphrase", &passphrase_of("ann"))]);
    assert_eq!(problem(&twice), refusal(409, "hold_changed"));
    // the next one like it says what is different
    let next = api.hold(&agent, "up__echo", "{\"n\":900,\"text\":\"pay 100\"}", &person);
    let shown = html(&ann.look(&format!("/holds/{}", text(&next["id"]))));
    let table = between(&shown, "data-difference=\"some\"", "</table>");
    for wanted in ["data-change=\"/n\"", ">250<", ">900<", "data-change=\"/text\""] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    api.close();
}

#[test]
fn a_no_takes_a_reason_and_the_agent_is_told_it() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"a"}"#, &person);
    let path = format!("/holds/{}", text(&hold["id"]));
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    let page = ann.look(&path);
    for reason in ["", "   ", "a\nb", "a\u{1b}[2J", &"x".repeat(501)] {
        let refused = ann.fill_in(&page, "deny", &[("reason", reason)]);
        assert_eq!(problem(&refused), refusal(400, "invalid_request"), "{reason:?}");
    }
    let done = ann.fill_in(&page, "deny", &[("reason", " not before <b>the invoice</b> is in\u{202e} ")]);
    assert_eq!((done.status, done.header("location")), (303, Some(path.as_str())), "{done:?}");
    let shown = html(&ann.look(&path));
    assert!(
        shown.contains("data-state=\"denied\"") && !shown.contains("<form method=\"post\" action=\"/holds"),
        "{shown}"
    );
    assert!(shown.contains("by ann: not before &lt;b&gt;the invoice&lt;/b&gt; is in&lt;U+202E&gt;"), "{shown}");
    let answer = Request::call("up__echo", r#"{"text":"a"}"#).send(api.agents, Some(&agent));
    assert_eq!(answer.reason().as_deref(), Some("denied_sticky"), "{answer:?}");
    assert!(answer.last.contains("not before"), "{answer:?}");
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn a_stale_page_decides_nothing_and_shows_what_changed() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    api.enrol("bob", &["finance"], &[], Some("ann"));
    let agent = api.agent("bot", None);
    let (mut ann, mut bob) = (Browser::new(&api), Browser::new(&api));
    ann.sign_in("ann");
    bob.sign_in("bob");
    let passphrases = (passphrase_of("ann"), passphrase_of("bob"));

    // somebody else countersigned it meanwhile
    let hold = api.hold(&agent, "up__short", r#"{"text":"a"}"#, &person);
    let path = format!("/holds/{}", text(&hold["id"]));
    let stale = ann.look(&path);
    assert_eq!(bob.fill(&path, "approve", &[("passphrase", &passphrases.1)]).status, 303);
    for (act, fields) in [("approve", ("passphrase", passphrases.0.as_str())), ("deny", ("reason", "no"))] {
        let refused = ann.fill_in(&stale, act, &[fields]);
        assert_eq!(problem(&refused), refusal(409, "hold_changed"), "{act}");
        let since = between(&html(&refused), "data-since", "</section>").to_owned();
        assert!(since.contains("bob countersigned it") && since.matches("<li").count() == 1, "{since}");
        assert!(html(&refused).contains("data-state=\"pending\""));
    }
    // what the page shows now is decided on by its own form
    let refused = ann.fill_in(&stale, "approve", &[("passphrase", &passphrases.0)]);
    let done = ann.fill_in(&refused, "approve", &[("passphrase", &passphrases.0)]);
    assert_eq!(done.status, 303, "{done:?}");
    assert!(html(&ann.look(&path)).contains("data-state=\"approved\""));

    // somebody else said no
    let hold = api.hold(&agent, "up__echo", r#"{"text":"b"}"#, &person);
    let path = format!("/holds/{}", text(&hold["id"]));
    let stale = ann.look(&path);
    assert_eq!(bob.fill(&path, "deny", &[("reason", "never on fridays")]).status, 303);
    let refused = ann.fill_in(&stale, "approve", &[("passphrase", &passphrases.0)]);
    assert_eq!(problem(&refused), refusal(409, "hold_changed"));
    assert!(between(&html(&refused), "data-since", "</section>").contains("bob denied it: never on fridays"));
    assert!(!html(&refused).contains("data-act=\"approve\""));

    // the grants changed, and the identical call waits under the new ones
    let hold = api.hold(&agent, "up__echo", r#"{"text":"c"}"#, &person);
    let path = format!("/holds/{}", text(&hold["id"]));
    let stale = ann.look(&path);
    let grants = "@id(\"echo-two\") @hold(\"finance\") @approvals(\"2\") @expires(\"10m\")\n\
                  permit (principal, action == Action::\"up__echo\", resource);\n";
    api.folder.grant(grants);
    api.runtime.block_on(api.house.reload()).unwrap();
    let next = api.hold(&agent, "up__echo", r#"{"text":"c"}"#, &person);
    let refused = ann.fill_in(&stale, "approve", &[("passphrase", &passphrases.0)]);
    assert_eq!(problem(&refused), refusal(409, "hold_changed"));
    let shown = html(&refused);
    assert!(between(&shown, "data-since", "</section>").contains("void_policy_changed"), "{shown}");
    let successor = between(&shown, "data-successor=", "</section>");
    for wanted in [text(&next["id"]), "1 of finance → 2 of finance", "echo → echo-two"] {
        assert!(successor.contains(wanted), "{wanted}: {successor}");
    }

    // its time ran out
    let path = format!("/holds/{}", text(&next["id"]));
    let stale = ann.look(&path);
    let (action, fields) = form(&html(&stale), "approve");
    api.pass(601);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let refused = ann.post(&action, &[&fields[..], &[("passphrase", passphrases.0.as_str())]].concat());
    assert_eq!(problem(&refused), refusal(409, "hold_changed"));
    assert!(between(&html(&refused), "data-since", "</section>").contains("its time ran out"));
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn a_yes_is_for_what_was_on_the_screen_and_by_who_may() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    api.enrol("eve", &["storage"], &[], Some("ann"));
    let agent = api.agent("bot", None);
    let one = api.hold(&agent, "up__echo", r#"{"text":"cheap"}"#, &person);
    let other = api.hold(&agent, "up__echo", r#"{"text":"dear"}"#, &person);
    let (mut ann, mut eve) = (Browser::new(&api), Browser::new(&api));
    ann.sign_in("ann");
    eve.sign_in("eve");
    let passphrase = passphrase_of("ann");
    let page = ann.look(&format!("/holds/{}", text(&one["id"])));
    let (action, fields) = form(&html(&page), "approve");
    let field = |name: &str| fields.iter().find(|(have, _)| have == name).unwrap().1.clone();
    let (token, digest, as_of) = (field("csrf"), field("digest"), field("as_of"));
    assert_eq!(digest, text(&one["digest"]));
    let there = action.replace(text(&one["id"]), text(&other["id"]));
    let of_other = text(&other["seq"].to_string().into()).to_owned();
    let nobody = "/holds/hold_00000000000000000000000000/approve";
    let send = |ann: &mut Browser<'_>, path: &str, digest: &str, as_of: &str| {
        let fields = [("csrf", token.as_str()), ("digest", digest), ("as_of", as_of), ("passphrase", &passphrase)];
        problem(&ann.post(path, &fields))
    };
    // a form for one hold decides on no other, whatever of it is changed
    assert_eq!(send(&mut ann, &there, &digest, &as_of), refusal(409, "hold_changed"));
    assert_eq!(send(&mut ann, &there, &digest, &of_other), refusal(409, "digest_mismatch"));
    assert_eq!(send(&mut ann, &action, text(&other["digest"]), &as_of), refusal(409, "digest_mismatch"));
    assert_eq!(send(&mut ann, &action, "sha256:00", &as_of), refusal(400, "invalid_request"));
    assert_eq!(send(&mut ann, &action, &digest, "x"), refusal(400, "invalid_request"));
    assert_eq!(send(&mut ann, nobody, &digest, &as_of), refusal(404, "hold_unknown"));
    assert_eq!(ann.look(&action).status, 405, "a link decides nothing");
    // who has not the role is told so, and the ledger says so too
    let page = eve.look(&format!("/holds/{}", text(&one["id"])));
    assert!(!html(&page).contains("data-act=\"approve\"") && !html(&page).contains("data-act=\"deny\""));
    assert!(html(&page).contains("none of your roles can countersign this"), "{}", html(&page));
    let token = eve.token();
    let fields = [("csrf", token.as_str()), ("digest", &digest), ("as_of", &as_of)];
    let yes = eve.post(&action, &[&fields[..], &[("passphrase", passphrase_of("eve").as_str())]].concat());
    assert_eq!(problem(&yes), refusal(403, "wrong_role"));
    let no = eve.post(&action.replace("approve", "deny"), &[&fields[..], &[("reason", "no")]].concat());
    assert_eq!(problem(&no), refusal(403, "wrong_role"));
    for hold in [&one, &other] {
        assert_eq!(api.look(&format!("/holds/{}", text(&hold["id"])), &person)["state"], "pending");
    }
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn hostile_arguments_arrive_as_text_in_their_boxes() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    let hostile = [
        ("<script>alert(1)</script>", None),
        ("<img src=x onerror=alert(1)>", None),
        ("\"></span></li></ol><form data-act=\"approve\"><button>Countersign</button>", None),
        ("</pre></details><h2>Decide</h2>", None),
        ("javascript:alert(document.cookie)", None),
        ("[click](http://attacker.test) **bold** # head", None),
        ("\u{1b}[2J\u{1b}[31mred", Some("control")),
        ("a\r\n/amount  1\n/to  \"bob\"", Some("control")),
        ("pay \u{202e}001\u{202c} now", Some("bidi")),
        ("a\u{200b}b\u{2060}c\u{e0041}\u{fe0f}", Some("invisible")),
        ("p\u{430}yee", Some("mixed_script")),
        ("\u{430}\u{440}\u{440}\u{4cf}\u{435}", Some("confusable")),
        ("&lt;script&gt; &amp;#60; &#x202e;", None),
        ("<U+202E> written by hand", None),
        ("{{7*7}} ${7*7} <%= 7 %>", None),
        ("ok                                                                                          ok", None),
    ];
    let clean = html(&ann.look("/waiting"));
    let (scripts, links) = (clean.matches("<script").count(), clean.matches("<form").count());
    for (text_of, flag) in hostile {
        let arguments = json!({"text": text_of, "n": 1}).to_string();
        let hold = api.hold(&agent, "up__echo", &arguments, &person);
        let queue = html(&ann.look("/waiting"));
        let page = html(&ann.look(&format!("/holds/{}", text(&hold["id"]))));
        assert_eq!(queue.matches("<script").count(), scripts, "{text_of:?}");
        assert_eq!(page.matches("<script").count(), 1, "{text_of:?}");
        assert_eq!((page.matches("<form").count(), queue.matches("<form").count()), (links + 2, links), "{text_of:?}");
        for shown in [&queue, &page] {
            assert!(!shown.contains("<img") && !shown.contains("javascript:\"") && !shown.contains("attacker.test\""));
            let hidden = |letter: char| {
                letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{200b}' | '\u{2060}' | '\u{e0041}')
            };
            let found: Vec<char> = shown.chars().filter(|letter| hidden(*letter)).collect();
            assert!(found.is_empty(), "{text_of:?}: {found:?}");
        }
        let rows = page.matches("<li class=\"argument\"").count();
        assert_eq!(rows, 2, "{text_of:?}: one row a value");
        if let Some(flag) = flag {
            let row = between(&page, "data-argument-path=\"/text\"", "</li>");
            assert!(row.contains(&format!("data-flag=\"{flag}\"")), "{text_of:?}: {row}");
        }
        if text_of.starts_with("<U+") {
            let row = between(&page, "data-argument-path=\"/text\"", "</li>");
            assert!(row.contains("<mark>&lt;U+003C&gt;</mark>U+202E&gt; written by hand"), "{row}");
        }
        assert_eq!(api.deny(&hold, &person).status, 200);
    }
    api.close();
}

#[test]
fn long_arguments_are_opened_and_read_before_a_yes() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let mut ann = Browser::new(&api);
    ann.sign_in("ann");
    let long = format!("{}the end", "x".repeat(200_000));
    let hold = api.hold(&agent, "up__echo", &json!({"text": long}).to_string(), &person);
    let queue = html(&ann.look("/waiting"));
    assert!(queue.contains("195 KiB of arguments: open it to read them"), "{queue}");
    let path = format!("/holds/{}", text(&hold["id"]));
    let page = ann.look(&path);
    let shown = html(&page);
    assert_eq!(between(&shown, "data-cut=\"", "\""), (long.len() + 2 - 4_096).to_string());
    assert!(between(&shown, "data-canonical", "</pre>").contains("the end&quot;}"), "the text is whole");
    assert!(shown.find("the end").unwrap() < shown.find("data-act=\"approve\"").unwrap());
    let passphrase = passphrase_of("ann");
    let unread = ann.fill_in(&page, "approve", &[("passphrase", &passphrase)]);
    assert_eq!(problem(&unread), refusal(400, "invalid_request"));
    assert!(html(&ann.look(&path)).contains("data-state=\"pending\""));
    let read = ann.fill_in(&page, "approve", &[("passphrase", &passphrase), ("whole", "read")]);
    assert_eq!(read.status, 303, "{read:?}");
    api.close();
}

#[test]
fn what_waits_is_told_as_it_happens() {
    let api = Api::open();
    let person = api.enrol("ann", &["finance"], &[], None);
    api.enrol("eve", &["storage"], &[], Some("ann"));
    let agent = api.agent("bot", None);
    let (mut ann, mut eve) = (Browser::new(&api), Browser::new(&api));
    ann.sign_in("ann");
    eve.sign_in("eve");
    let (mut stream, mut of_eve) = (Stream::open(&ann, "/events"), Stream::open(&eve, "/events"));
    let hold = api.hold(&agent, "up__echo", r#"{"text":"<b>","n":5}"#, &person);
    let told = stream.next("changed");
    assert_eq!((&told["hold"], &told["kind"], &told["pending"]), (&hold["id"], &json!("call.held"), &json!(1)));
    let row = &told["row"];
    assert_eq!((&row["tool"], &row["who"], &row["yours"]), (&json!("up__echo"), &json!("bot"), &json!(true)));
    assert_eq!(row["arguments"], json!([["/n", "5"], ["/text", "\"<b>\""]]));
    assert_eq!(of_eve.next("changed")["row"]["yours"], false);
    // a page asks for the whole again when it missed something, and is given the same
    let rows = ann.look("/waiting/rows");
    assert_eq!((rows.status, &rows.messages[0]["rows"]), (200, &json!([row])));
    // one hold's page hears of that one
    let id = text(&hold["id"]).to_owned();
    let mut one = Stream::open(&ann, &format!("/events?hold={id}"));
    let other = api.hold(&agent, "up__echo", r#"{"text":"later"}"#, &person);
    assert_eq!(stream.next("changed")["hold"], other["id"]);
    assert_eq!(api.deny(&hold, &person).status, 200);
    let told = one.next("changed");
    assert_eq!((&told["hold"], &told["state"], &told["row"]), (&hold["id"], &json!("denied"), &Value::Null));
    assert_eq!(stream.next("changed")["pending"], 1);
    assert_eq!(ann.look("/events?hold=x").status, 400);
    // what a page asks by itself keeps no session, and the stream ends with it
    api.pass(600);
    assert_eq!(ann.look("/waiting/rows").status, 200);
    api.pass(301);
    stream.next("ended");
    assert!(!ann.is_signed_in());
    api.close();
}

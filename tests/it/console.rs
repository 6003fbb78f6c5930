//! The console's pages as a browser without scripts meets them: signing in, what guards the forms, what is shown.

use std::collections::BTreeMap;

use crate::{
    api::{Api, passphrase_of, text},
    wire::{Answer, Request},
};

/// Keeps cookies and sends what a browser sends; follows nothing, runs no script.
struct Browser<'a> {
    api: &'a Api,
    scheme: &'static str,
    cookies: BTreeMap<String, String>,
}

impl<'a> Browser<'a> {
    fn new(api: &'a Api) -> Self {
        Self { api, scheme: "http", cookies: BTreeMap::new() }
    }

    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn request(&self, line: &str) -> Request {
        let mut request = Request::post("").without("Content-Type").with("Accept", "text/html,*/*;q=0.8");
        request.line = format!("{line} HTTP/1.1");
        if self.cookies.is_empty() { request } else { request.with("Cookie", &self.cookie()) }
    }

    fn send(&mut self, request: &Request) -> Answer {
        let answer = request.send(self.api.at, None);
        let set = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        for (_, line) in set {
            let (pair, rules) = line.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            for rule in ["Path=/", "HttpOnly", "SameSite=Strict"] {
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

    fn look(&mut self, path: &str) -> Answer {
        let request = self.request(&format!("GET {path}"));
        self.send(&request)
    }

    /// A form as the browser would send it.
    fn form(&self, path: &str, fields: &[(&str, &str)]) -> Request {
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

    fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let request = self.form(path, fields);
        self.send(&request)
    }

    /// Opens a page and fills in its one form of that act.
    fn fill(&mut self, page: &str, act: &str, fields: &[(&str, &str)]) -> Answer {
        let page = self.look(page);
        self.fill_in(&page, act, fields)
    }

    fn fill_in(&mut self, page: &Answer, act: &str, fields: &[(&str, &str)]) -> Answer {
        let (action, mut all) = form(&html(page), act);
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let all: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(&action, &all)
    }

    fn sign_in(&mut self, name: &str) -> Answer {
        let passphrase = passphrase_of(name);
        self.fill("/sign-in", "sign-in", &[("approver", name), ("passphrase", &passphrase)])
    }

    fn token(&mut self) -> String {
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

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn html(page: &Answer) -> String {
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
fn form(html: &str, act: &str) -> (String, Vec<(String, String)>) {
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
fn problem(page: &Answer) -> (u16, String) {
    let html = html(page);
    let code = html.split("data-problem=\"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    (page.status, code.unwrap_or_else(|| panic!("no problem: {html}")))
}

fn refusal(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
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
    assert_eq!(problem(&wrong), refusal(400, "invalid_request"));
    assert!(html(&wrong).contains(&code), "the code has not to be typed again");
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
    let mut other = Browser::new(&api);
    other.cookies.insert("countersign".to_owned(), agent);
    assert!(!other.is_signed_in());
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
    for path in ["/waiting", "/assets/console.css"] {
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

//! What an access token of others has to say before it is believed, and who it makes of its bearer. Pure.

use std::{collections::HashSet, sync::Arc};

use super::{
    Unauthenticated, agent_name,
    own::{Bound, Known},
};
use crate::{
    call::{Assurance, Principal},
    clock::Timestamp,
    config::{IssuerConfig, is_scope},
    json::{Digest, Value},
    jws::seconds,
    oidc::claim,
};

/// Agents through whose hands a token may have gone.
pub const LONGEST_CHAIN: usize = 8;
/// Teams and scopes of one token.
const MOST: usize = 64;
/// The longest name of a user, task, team, scope or workload, bytes.
const LONGEST: usize = 256;
/// The longest `jti` that names a token here, bytes.
const LONGEST_ID: usize = 128;

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    /// What the issuer is called in the configuration.
    pub(super) name: &'a str,
    pub(super) config: &'a IssuerConfig,
    /// What it has to be made for, where the configuration does not say.
    pub(super) audience: &'a str,
    /// How far the clocks may be apart, seconds.
    pub(super) skew: i64,
    pub(super) now: Timestamp,
}

/// Who told the claims.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// A signed token, of this `typ`.
    Signed(Option<String>),
    /// The issuer, when it was asked (RFC 7662).
    Asked,
}

/// Judges claims that are known to be the issuer's, of the token of that digest.
///
/// # Errors
/// [`Unauthenticated`]
pub(super) fn judge(told: &Told, claims: &Value, token: &Digest, rules: &Rules<'_>) -> Result<Known, Unauthenticated> {
    let config = rules.config;
    if let Told::Signed(kind) = told {
        let kind = kind.as_deref().unwrap_or_default().to_ascii_lowercase();
        let kind = kind.strip_prefix("application/").unwrap_or(&kind);
        if !config.types.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
            return Err(Unauthenticated::Kind);
        }
    }
    match (claims.get("iss").map(Value::as_str), told) {
        (Some(Some(iss)), _) if iss == config.issuer => {}
        (None, Told::Asked) => {}
        _ => return Err(Unauthenticated::Issuer),
    }
    let own = [rules.audience.to_owned()];
    let expected: &[String] = if config.audience.is_empty() { &own } else { &config.audience };
    let is_ours = |audience: &Value| audience.as_str().is_some_and(|one| expected.iter().any(|known| known == one));
    let ours = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(is_ours),
        Some(one) => is_ours(one),
        None => false,
    };
    if !ours {
        return Err(Unauthenticated::Audience);
    }
    let (issued, expires) = times(claims, rules)?;
    let bound = match claims.get("cnf") {
        Some(confirmation) => Some(Bound::read(confirmation).ok_or(Unauthenticated::Unbound)?),
        None if config.bound => return Err(Unauthenticated::Unbound),
        None => None,
    };
    let client = match text(claims, "client_id")? {
        Some(client) => Some(client),
        None => text(claims, "azp")?,
    };
    let agent = match &config.agent_claim {
        Some(name) => text(claims, name)?,
        // never by the subject: a person may be called like a client (RFC 9068, section 5)
        None => client,
    };
    let agent = agent.ok_or(Unauthenticated::Claims)?;
    // a client that acts for nobody is its own subject (RFC 9068, section 2.2)
    let user = match config.user_claim.as_str() {
        "" => None,
        name => text(claims, name)?.filter(|user| Some(*user) != client),
    };
    let named = |name: &str| {
        let name = format!("{}{name}", config.prefix);
        if is_of_a_trust_domain(&name) {
            return Err(Unauthenticated::Claims);
        }
        agent_name(&name).map(|()| name).map_err(|_| Unauthenticated::Claims)
    };
    let scopes = match &config.scope_claim {
        Some(name) => words(claims, name)?,
        None if claims.get("scope").is_some() => words(claims, "scope")?,
        None => words(claims, "scp")?,
    };
    let missing: Vec<String> = config.scopes.iter().filter(|scope| !scopes.contains(scope)).cloned().collect();
    if !missing.is_empty() {
        return Err(Unauthenticated::Scope(config.scopes.iter().cloned().collect()));
    }
    let teams: Vec<String> =
        listed(claims, &config.teams_claim)?.iter().map(|team| format!("{}{team}", config.prefix)).collect();
    let workload = config.workload_claim.as_deref().map(|name| text(claims, name)).transpose()?.flatten();
    if workload.is_some_and(is_of_a_trust_domain) {
        return Err(Unauthenticated::Claims);
    }
    let agent = named(agent)?;
    let chain = chain(claims, &agent, named)?;
    let principal = Principal {
        agent,
        issuer: config.issuer.clone(),
        user: user.map(str::to_owned),
        task: text(claims, &config.task_claim)?.map(str::to_owned),
        teams,
        scopes,
        workload: workload.map(str::to_owned),
        chain,
        tools: None,
        assurance: if bound.is_some() { Assurance::Bound } else { Assurance::Bearer },
        credential: credential(rules.name, claims, token),
        issued,
        expires,
    };
    Ok(Known { principal: Arc::new(principal), bound })
}

/// Since when and until when it is good, by our clock.
fn times(claims: &Value, rules: &Rules<'_>) -> Result<(Timestamp, Timestamp), Unauthenticated> {
    let time = |name: &str, wrong: Unauthenticated| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_number().and_then(seconds).map(Some).ok_or(wrong),
    };
    let now = rules.now.as_second();
    let expires = time("exp", Unauthenticated::Lifetime)?.ok_or(Unauthenticated::Lifetime)?;
    let until = expires.saturating_add(rules.skew);
    if now >= until {
        return Err(Unauthenticated::Expired);
    }
    let begins = time("nbf", Unauthenticated::NotYet)?;
    let issued = time("iat", Unauthenticated::NotYet)?;
    if begins.max(issued).is_some_and(|begins| begins > now.saturating_add(rules.skew)) {
        return Err(Unauthenticated::NotYet);
    }
    let longest = i64::try_from(rules.config.max_ttl.as_secs()).unwrap_or(i64::MAX);
    if expires.saturating_sub(issued.unwrap_or(now)) > longest {
        return Err(Unauthenticated::Lifetime);
    }
    // one that does not say when it was issued is older than any revocation
    // where the issuer's clock may be ahead, a revocation ends what was issued a moment after it by that clock
    let issued = issued.map_or(0, |issued| issued.saturating_sub(rules.skew)).min(now);
    let issued = Timestamp::from_second(issued).map_err(|_| Unauthenticated::NotYet)?;
    let until = Timestamp::from_second(until).map_err(|_| Unauthenticated::Lifetime)?;
    Ok((issued, until))
}

/// A claim that is a text, if it is there.
fn text<'c>(claims: &'c Value, name: &str) -> Result<Option<&'c str>, Unauthenticated> {
    match claim(claims, name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().filter(|text| fits(text)).map(Some).ok_or(Unauthenticated::Claims),
    }
}

fn fits(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// A claim that is a text or several.
fn listed(claims: &Value, name: &str) -> Result<Vec<String>, Unauthenticated> {
    let all = match claim(claims, name) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(Value::as_str).collect::<Option<Vec<_>>>(),
        Some(one) => one.as_str().map(|one| vec![one]),
    };
    let all =
        all.filter(|all| all.len() <= MOST && all.iter().all(|text| fits(text))).ok_or(Unauthenticated::Claims)?;
    Ok(all.into_iter().map(str::to_owned).collect())
}

/// A claim that is several words in a text, or a list of them.
fn words(claims: &Value, name: &str) -> Result<Vec<String>, Unauthenticated> {
    let all = match claim(claims, name).and_then(Value::as_str) {
        Some(text) => text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        None => listed(claims, name)?,
    };
    // one with a space in it would be several where it is written beside others
    if all.len() <= MOST && all.iter().all(|word| is_scope(word)) { Ok(all) } else { Err(Unauthenticated::Claims) }
}

/// The agents of `act` (RFC 8693, section 4.1), the first one first.
fn chain(
    claims: &Value,
    agent: &str,
    named: impl Fn(&str) -> Result<String, Unauthenticated>,
) -> Result<Vec<String>, Unauthenticated> {
    let mut chain = Vec::new();
    let mut act = claims.get("act");
    while let Some(actor) = act {
        if chain.len() >= LONGEST_CHAIN {
            return Err(Unauthenticated::Chain);
        }
        let name = actor.get("sub").and_then(Value::as_str).ok_or(Unauthenticated::Claims)?;
        chain.push(named(name)?);
        act = actor.get("act");
    }
    chain.reverse();
    // who first got it may be named as acting: nobody handed anything on so far
    if chain.first().is_some_and(|first| first == agent) {
        chain.remove(0);
    }
    let mut seen = HashSet::from([agent]);
    if chain.iter().all(|name| seen.insert(name)) { Ok(chain) } else { Err(Unauthenticated::Chain) }
}

/// Whether only a SPIFFE trust domain may say so.
fn is_of_a_trust_domain(name: &str) -> bool {
    name.get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("spiffe:"))
}

/// What names the token here and nowhere shows it.
fn credential(issuer: &str, claims: &Value, token: &Digest) -> String {
    let plain = |id: &&str| (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    match claims.get("jti").and_then(Value::as_str).filter(plain) {
        Some(id) => format!("{issuer}:{id}"),
        None => {
            let digest = token.to_string();
            format!("{issuer}:sha256-{}", digest.get(7..23).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::json::{Limits, parse};

    const NOW: i64 = 1_800_000_000;
    const MCP: &str = "https://cs.example/mcp";

    /// What is changed of a claim set.
    type Change = fn(&mut Json);

    fn config() -> IssuerConfig {
        IssuerConfig {
            issuer: "https://login.example".to_owned(),
            jwks_url: None,
            ca: None,
            audience: Vec::new(),
            algorithms: vec!["EdDSA".to_owned()],
            types: vec!["at+jwt".to_owned()],
            prefix: "corp/".to_owned(),
            agent_claim: None,
            user_claim: "sub".to_owned(),
            task_claim: "task".to_owned(),
            teams_claim: "realm.groups".to_owned(),
            scope_claim: None,
            workload_claim: None,
            scopes: Vec::new(),
            max_ttl: Duration::from_secs(3_600),
            bound: false,
            cache: Duration::from_secs(30),
            introspection: None,
            advertised: true,
            allow_private: false,
        }
    }

    fn claims() -> Json {
        json!({"iss": "https://login.example", "aud": MCP, "sub": "u-1", "client_id": "clerk", "jti": "j-1",
            "iat": NOW - 10, "exp": NOW + 300, "scope": "read pay", "task": "t-1", "realm": {"groups": ["ops"]}})
    }

    fn judged_as(told: &Told, claims: &Json, config: &IssuerConfig) -> Result<Known, Unauthenticated> {
        let claims = parse(claims.to_string().as_bytes(), &Limits::REQUEST).unwrap();
        let now = Timestamp::from_second(NOW).unwrap();
        judge(told, &claims, &Digest([7; 32]), &Rules { name: "login", config, audience: MCP, skew: 30, now })
    }

    fn judged(claims: &Json, config: &IssuerConfig) -> Result<Known, Unauthenticated> {
        judged_as(&Told::Signed(Some("application/AT+JWT".to_owned())), claims, config)
    }

    #[test]
    fn a_token_becomes_a_principal_as_the_configuration_says() {
        let Known { principal, bound } = judged(&claims(), &config()).unwrap();
        assert_eq!(principal.agent, "corp/clerk");
        assert_eq!(principal.issuer, "https://login.example");
        assert_eq!(principal.user.as_deref(), Some("u-1"));
        assert_eq!(principal.task.as_deref(), Some("t-1"));
        assert_eq!(principal.teams, ["corp/ops"]);
        assert_eq!(principal.scopes, ["read", "pay"]);
        assert_eq!(principal.credential, "login:j-1");
        assert_eq!((principal.issued.as_second(), principal.expires.as_second()), (NOW - 40, NOW + 330));
        assert_eq!((principal.assurance, bound), (Assurance::Bearer, None));
        assert!(principal.chain.is_empty() && principal.tools.is_none() && principal.workload.is_none());
        let with = |change: Change, config: &IssuerConfig| {
            let mut claims = claims();
            change(&mut claims);
            judged(&claims, config).unwrap().principal
        };
        // a client that acts for nobody, a person's own token, one that acts for nobody because the operator says so
        assert_eq!(with(|it| it["sub"] = "clerk".into(), &config()).user, None);
        let by_subject = IssuerConfig { agent_claim: Some("sub".to_owned()), ..config() };
        let own = with(|it| it["client_id"] = Json::Null, &by_subject);
        assert_eq!((own.agent.as_str(), own.user.as_deref()), ("corp/u-1", Some("u-1")));
        assert_eq!(with(|_| {}, &IssuerConfig { user_claim: String::new(), ..config() }).user, None);
        let party = with(
            |it| {
                *it = {
                    let mut it = it.clone();
                    it["client_id"] = Json::Null;
                    it["azp"] = "desk".into();
                    it
                }
            },
            &config(),
        );
        assert_eq!(party.agent, "corp/desk");
        let mapped = IssuerConfig {
            prefix: String::new(),
            agent_claim: Some("sub".to_owned()),
            user_claim: "email".to_owned(),
            scope_claim: Some("roles".to_owned()),
            workload_claim: Some("sub".to_owned()),
            ..config()
        };
        let it = with(
            |it| {
                it["email"] = "ann@example.com".into();
                it["roles"] = json!(["a", "b"]);
            },
            &mapped,
        );
        assert_eq!(
            (it.agent.as_str(), it.user.as_deref(), it.workload.as_deref()),
            ("u-1", Some("ann@example.com"), Some("u-1"))
        );
        assert_eq!(it.scopes, ["a", "b"]);
        assert_eq!(with(|it| it["aud"] = json!(["other", MCP]), &config()).agent, "corp/clerk");
        assert_eq!(with(|it| it["scope"] = Json::Null, &config()).scopes, [""; 0]);
        // what could not stand in a log names no credential
        for id in [json!("a b"), json!("a\nb"), json!(""), json!(7), json!("x".repeat(129)), Json::Null] {
            let mut claims = claims();
            claims["jti"] = id;
            assert_eq!(judged(&claims, &config()).unwrap().principal.credential, "login:sha256-0707070707070707");
        }
    }

    #[test]
    fn a_token_that_says_something_else_is_refused() {
        use Unauthenticated::*;
        let rows: &[(&str, Change, Unauthenticated)] = &[
            ("another issuer", |it| it["iss"] = "https://evil.example".into(), Issuer),
            ("an issuer that is no text", |it| it["iss"] = json!(["https://login.example"]), Issuer),
            (
                "no issuer",
                |it| {
                    it.as_object_mut().unwrap().remove("iss");
                },
                Issuer,
            ),
            ("another audience", |it| it["aud"] = "https://other.example/mcp".into(), Audience),
            ("an audience that only begins so", |it| it["aud"] = format!("{MCP}/").into(), Audience),
            ("several audiences without this", |it| it["aud"] = json!(["a", "b"]), Audience),
            (
                "no audience",
                |it| {
                    it.as_object_mut().unwrap().remove("aud");
                },
                Audience,
            ),
            ("expired", |it| it["exp"] = (NOW - 30).into(), Expired),
            (
                "no end",
                |it| {
                    it.as_object_mut().unwrap().remove("exp");
                },
                Lifetime,
            ),
            ("an end that is no number", |it| it["exp"] = "2030".into(), Lifetime),
            ("too long a life", |it| it["exp"] = (NOW + 3_591).into(), Lifetime),
            (
                "too long a life, of no known beginning",
                |it| {
                    it["exp"] = (NOW + 3_601).into();
                    it.as_object_mut().unwrap().remove("iat");
                },
                Lifetime,
            ),
            ("not yet", |it| it["nbf"] = (NOW + 31).into(), NotYet),
            ("issued tomorrow", |it| it["iat"] = (NOW + 31).into(), NotYet),
            ("not before what is no number", |it| it["nbf"] = json!({}), NotYet),
            ("an agent that is no text", |it| it["client_id"] = json!({"a": 1}), Claims),
            ("an agent with spaces", |it| it["client_id"] = "a b".into(), Claims),
            ("an agent with a line break", |it| it["client_id"] = "a\nb".into(), Claims),
            ("an agent without end", |it| it["client_id"] = "a".repeat(124).into(), Claims),
            ("a user with an escape", |it| it["sub"] = "a\u{1b}[2J".into(), Claims),
            ("a task without end", |it| it["task"] = "a".repeat(257).into(), Claims),
            ("teams that are no texts", |it| it["realm"]["groups"] = json!([1]), Claims),
            ("too many teams", |it| it["realm"]["groups"] = json!(vec!["a"; 65]), Claims),
            ("too many scopes", |it| it["scope"] = vec!["a"; 65].join(" ").into(), Claims),
            ("nobody but a person", |it| it["client_id"] = Json::Null, Claims),
            ("a scope with a space in it", |it| it["scope"] = json!(["read pay"]), Claims),
            (
                "nobody",
                |it| {
                    it["client_id"] = Json::Null;
                    it["sub"] = Json::Null;
                },
                Claims,
            ),
            ("a binding that is not known", |it| it["cnf"] = json!({"jwk": {}}), Unbound),
            ("two bindings", |it| it["cnf"] = json!({"jkt": "A", "x5t#S256": "B"}), Unbound),
            ("an empty binding", |it| it["cnf"] = json!({}), Unbound),
            ("a binding that is null", |it| it["cnf"] = Json::Null, Unbound),
            ("a binding that is no digest", |it| it["cnf"] = json!({"jkt": "AAAA"}), Unbound),
            ("a cycle", |it| it["act"] = json!({"sub": "a", "act": {"sub": "b", "act": {"sub": "a"}}}), Chain),
            ("the agent in its own chain", |it| it["act"] = json!({"sub": "clerk", "act": {"sub": "b"}}), Chain),
            ("an actor without a name", |it| it["act"] = json!({"iss": "x"}), Claims),
            ("an actor that is a text", |it| it["act"] = "a".into(), Claims),
            (
                "too long a chain",
                |it| {
                    it["act"] = (0..9).fold(Json::Null, |act, name| match act {
                        Json::Null => json!({"sub": format!("a{name}")}),
                        act => json!({"sub": format!("a{name}"), "act": act}),
                    });
                },
                Chain,
            ),
        ];
        for (what, change, expected) in rows {
            let mut claims = claims();
            change(&mut claims);
            assert_eq!(judged(&claims, &config()).unwrap_err(), *expected, "{what}");
        }
        for (kind, fine) in [(None, false), (Some("JWT"), false), (Some("id_token"), false), (Some("at+jwt"), true)] {
            let told = Told::Signed(kind.map(str::to_owned));
            assert_eq!(judged_as(&told, &claims(), &config()).is_ok(), fine, "{kind:?}");
        }
        let untyped = IssuerConfig { types: vec![String::new()], ..config() };
        judged_as(&Told::Signed(None), &claims(), &untyped).unwrap();
        assert_eq!(judged(&claims(), &untyped).unwrap_err(), Kind);
        for prefix in ["", "spiffe:"] {
            let loose = IssuerConfig { prefix: prefix.to_owned(), ..config() };
            let mut claims = claims();
            claims["client_id"] = if prefix.is_empty() { "SPIFFE://td/w" } else { "//td/w" }.into();
            assert_eq!(judged(&claims, &loose).unwrap_err(), Claims, "{prefix}");
        }
        let workload = IssuerConfig { workload_claim: Some("sub".to_owned()), ..config() };
        let mut claims_of_a_workload = claims();
        claims_of_a_workload["sub"] = "spiffe://td/w".into();
        assert_eq!(judged(&claims_of_a_workload, &workload).unwrap_err(), Claims);
        let audience = IssuerConfig { audience: vec!["other".to_owned()], ..config() };
        assert_eq!(judged(&claims(), &audience).unwrap_err(), Audience);
        let bound = IssuerConfig { bound: true, ..config() };
        assert_eq!(judged(&claims(), &bound).unwrap_err(), Unbound);
        let scopes = vec!["pay".to_owned(), "admin".to_owned()];
        let needed = IssuerConfig { scopes: scopes.clone(), ..config() };
        assert_eq!(judged(&claims(), &needed).unwrap_err(), Scope(scopes.into()));
    }

    #[test]
    fn what_an_issuer_tells_of_an_opaque_token_is_judged_alike() {
        let mut told = claims();
        told.as_object_mut().unwrap().remove("iss");
        judged_as(&Told::Asked, &told, &config()).unwrap();
        told["iss"] = "https://evil.example".into();
        assert_eq!(judged_as(&Told::Asked, &told, &config()).unwrap_err(), Unauthenticated::Issuer);
        told["iss"] = "https://login.example".into();
        told["aud"] = "another".into();
        assert_eq!(judged_as(&Told::Asked, &told, &config()).unwrap_err(), Unauthenticated::Audience);
    }

    #[test]
    fn hands_and_keys_are_read() {
        let mut it = claims();
        let thumbprint = URL_SAFE_NO_PAD.encode([9; 32]);
        it["cnf"] = json!({"jkt": thumbprint});
        it["act"] = json!({"sub": "third", "act": {"sub": "second", "act": {"sub": "clerk"}}});
        let Known { principal, bound } = judged(&it, &config()).unwrap();
        assert_eq!(principal.chain, ["corp/second", "corp/third"]);
        assert_eq!((principal.assurance, bound), (Assurance::Bound, Some(Bound::Key(Digest([9; 32])))));
        it["cnf"] = json!({"x5t#S256": thumbprint});
        assert_eq!(judged(&it, &config()).unwrap().bound, Some(Bound::Certificate(Digest([9; 32]))));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_and_what_is_taken_fits(name in "\\PC{0,140}", claim in "[a-z_]{1,12}", number: i64) {
            for value in [json!(name), json!(number), json!([name]), json!({ name.clone(): number })] {
                let mut claims = claims();
                claims[claim.as_str()] = value;
                if let Ok(Known { principal, .. }) = judged(&claims, &config()) {
                    assert!(agent_name(&principal.agent).is_ok());
                    assert!(principal.agent.starts_with("corp/"));
                    assert!(!principal.credential.chars().any(char::is_control));
                }
            }
        }
    }
}

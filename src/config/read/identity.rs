//! Reading `[identity]`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{Section, units};
use crate::config::{ALGORITHMS, CertificatesConfig, IdentityConfig, IntrospectionConfig, IssuerConfig};

/// Issuers of one house.
const MOST: usize = 64;
/// The longest that a token is believed without looking again.
const LONGEST_CACHE: Duration = Duration::from_secs(300);
/// The farthest that clocks may be apart.
const FARTHEST: Duration = Duration::from_secs(300);

impl Section<'_> {
    /// `[identity]`. `tls`: the agents' listener has a certificate of its own.
    pub(super) fn identity(mut self, folder: &Path, tls: bool) -> IdentityConfig {
        let max_ttl = self.duration("max_ttl", Duration::from_secs(24 * 3_600));
        let skew = self.up_to("clock_skew", Duration::from_secs(30), FARTHEST, "`30s`");
        let issuers = self.issuers(folder, max_ttl);
        let spiffe = self.spiffe(folder);
        let certificates = self.certificates(folder, tls);
        let delegation = self.delegation(max_ttl);
        let clients = self.clients(folder);
        self.check_names(&issuers, &certificates);
        self.finish();
        IdentityConfig { max_ttl, skew, issuers, spiffe, certificates, delegation, clients }
    }

    /// Nobody may name the agents of another without the configuration saying so: with an empty prefix it does.
    fn check_names(
        &self,
        issuers: &BTreeMap<String, IssuerConfig>,
        certificates: &BTreeMap<String, CertificatesConfig>,
    ) {
        let of_issuers = issuers.iter().map(|(name, issuer)| (format!("issuers.{name}"), issuer.prefix.as_str()));
        let of_certificates = certificates
            .iter()
            .filter(|(_, certificates)| certificates.agents.is_empty())
            .map(|(name, certificates)| (format!("certificates.{name}"), certificates.prefix.as_str()));
        let mut all: Vec<(String, &str)> =
            of_issuers.chain(of_certificates).filter(|(_, prefix)| !prefix.is_empty()).collect();
        // what begins with another stands right behind it, or behind others that do
        all.sort_by(|one, other| one.1.cmp(other.1));
        for pair in all.windows(2) {
            let [(one, short), (other, long)] = pair else { continue };
            if long.starts_with(short) {
                let problem =
                    format!("`identity.{one}` and `identity.{other}` could name the same agents: `{short}`, `{long}`");
                let hint = "give each a `prefix` that does not begin with another's";
                self.reader.error(self.place.clone(), problem, Some(hint.to_owned()));
            }
        }
        for name in ["spiffe", "certificate", "client"].into_iter().filter(|name| issuers.contains_key(*name)) {
            let hint = "credentials of other kinds are named so in the ledger: call it otherwise";
            let problem = format!("`{name}` is no name for an issuer");
            self.reader.error(self.place.clone(), problem, Some(hint.to_owned()));
        }
    }

    /// `[identity.issuers.NAME]`, by name.
    fn issuers(&mut self, folder: &Path, max_ttl: Duration) -> BTreeMap<String, IssuerConfig> {
        let mut issuers = BTreeMap::new();
        let place = self.place_of("issuers");
        for (name, entry) in self.named("issuers", "an issuer") {
            if let Some(issuer) = entry.issuer(&name, folder, max_ttl) {
                issuers.insert(name, issuer);
            }
        }
        let wrong = |problem: &str, hint: &str| {
            self.reader.error(place.clone(), format!("`identity.issuers` {problem}"), Some(hint.to_owned()));
        };
        if issuers.len() > MOST {
            wrong("has more than 64", "keep those whose agents come here");
        }
        let mut names: Vec<&str> = issuers.values().map(|issuer| issuer.issuer.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            wrong("has one issuer twice", "a token says its issuer, and nothing tells the two apart: join them");
        }
        if issuers.values().filter(|issuer| issuer.introspection.is_some()).count() > 1 {
            let hint = "an opaque token does not say whose it is, and asking several would show it to the wrong one";
            wrong("has `introspection` more than once", hint);
        }
        issuers
    }

    /// Tables below a key by their names, which are names of ours.
    pub(super) fn named(&mut self, key: &'static str, what: &str) -> Vec<(String, Self)> {
        let section = self.section(key);
        let Some(table) = section.table else { return Vec::new() };
        let mut found = Vec::new();
        for (name, item) in table.iter() {
            let place = table.key(name).and_then(toml_edit::Key::span);
            let path = format!("{}.{name}", section.name);
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !(1..=32).contains(&name.len()) || !name.bytes().all(plain) || name.starts_with('-') {
                let hint = "a name has at most 32 lower-case letters, digits and hyphens, and no hyphen first";
                self.reader.error(place, format!("`{name}` is no name for {what}"), Some(hint.to_owned()));
                continue;
            }
            let Some(entry) = item.as_table_like() else {
                let hint = format!("write `[{path}]` and its keys below");
                self.reader.error(place, format!("`{path}` is not a table"), Some(hint));
                continue;
            };
            let entry = Section { reader: self.reader, name: path, table: Some(entry), place, known: Vec::new() };
            found.push((name.to_owned(), entry));
        }
        found
    }

    fn issuer(mut self, name: &str, folder: &Path, max_ttl: Duration) -> Option<IssuerConfig> {
        let issuer = self.string("issuer");
        let allow_private = self.boolean("allow_private", false);
        if self.place_of("issuer").is_none() {
            self.error("issuer", "is missing", "write it as `https://login.example.com`, as its tokens have it");
        }
        if let Some(issuer) = &issuer {
            self.check_issuer(issuer, allow_private);
        }
        let jwks_url = self.keys_url("jwks_url", allow_private);
        let ca = self.string("ca").map(|path| folder.join(path));
        let audience = self.strings("audience").unwrap_or_default();
        if self.place_of("audience").is_some() && (audience.is_empty() || audience.iter().any(String::is_empty)) {
            self.error(
                "audience",
                "names nobody",
                "leave it out for the URL of `/mcp`, or name what tokens are made for",
            );
        }
        let algorithms = self
            .strings("algorithms")
            .unwrap_or_else(|| ["EdDSA", "ES256", "ES384", "PS256", "RS256"].map(str::to_owned).to_vec());
        if algorithms.is_empty() || algorithms.iter().any(|one| !ALGORITHMS.contains(&one.as_str())) {
            let hint = format!(
                "each is one of {}: whoever checks a token must not be able to make one",
                ALGORITHMS.join(", ")
            );
            self.error("algorithms", "has what is no algorithm here", &hint);
        }
        let types = self.strings("types").unwrap_or_else(|| vec!["at+jwt".to_owned()]);
        if types.is_empty() {
            self.error("types", "is empty", "leave it out for `at+jwt`; write `\"\"` for tokens without a type");
        }
        let prefix = self.string("prefix").unwrap_or_else(|| format!("{name}/"));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/".contains(&byte);
        if prefix.len() > 64 || !prefix.bytes().all(fits) || prefix.to_ascii_lowercase().starts_with("spiffe:") {
            self.error("prefix", "is none", "use at most 64 letters, digits and `._-@:/`, such as `corp/`");
        }
        let agent_claim = self.claim("agent_claim");
        let user_claim = self.string("user_claim").unwrap_or_else(|| "sub".to_owned());
        let task_claim = self.claim("task_claim").unwrap_or_else(|| "task".to_owned());
        let teams_claim = self.claim("teams_claim").unwrap_or_else(|| "groups".to_owned());
        let scope_claim = self.claim("scope_claim");
        let workload_claim = self.claim("workload_claim");
        let scopes = self.strings("scopes").unwrap_or_default();
        if scopes.iter().any(|scope| !is_scope(scope)) {
            self.error(
                "scopes",
                "has what is no scope",
                "a scope is visible ASCII without quotes, backslashes and spaces",
            );
        }
        let max_ttl = self.duration("max_ttl", max_ttl);
        let bound = self.boolean("bound", false);
        let cache = self.up_to("cache", Duration::from_secs(30), LONGEST_CACHE, "`30s`");
        let introspection = self.introspection(allow_private);
        let advertised = self.boolean("advertised", true);
        self.finish();
        Some(IssuerConfig {
            issuer: issuer?,
            jwks_url,
            ca,
            audience,
            algorithms,
            types,
            prefix,
            agent_claim,
            user_claim,
            task_claim,
            teams_claim,
            scope_claim,
            workload_claim,
            scopes,
            max_ttl,
            bound,
            cache,
            introspection,
            advertised,
            allow_private,
        })
    }

    fn introspection(&mut self, allow_private: bool) -> Option<IntrospectionConfig> {
        self.place_of("introspection")?;
        let mut section = self.section("introspection");
        let url = section.keys_url("url", allow_private);
        let client_id = section.string("client_id");
        let client_secret = section.string("client_secret");
        for (key, value) in [("client_id", &client_id), ("client_secret", &client_secret)] {
            // one that is there and cannot be read has its own error already
            let wrong = value.as_ref().map_or_else(|| section.place_of(key).is_none(), String::is_empty);
            if wrong && section.table.is_some() {
                section.error(
                    key,
                    "is missing",
                    "the issuer tells both when a client is registered that may ask for tokens",
                );
            }
        }
        section.finish();
        Some(IntrospectionConfig { url, client_id: client_id?, client_secret: client_secret? })
    }

    /// A URL that this server asks by itself.
    pub(super) fn keys_url(&mut self, key: &'static str, allow_private: bool) -> Option<reqwest::Url> {
        let text = self.string(key)?;
        self.check_own_url(key, &text, allow_private)
    }

    fn claim(&mut self, key: &'static str) -> Option<String> {
        let claim = self.string(key)?;
        if claim.is_empty() || claim.len() > 256 {
            self.error(key, "names no claim", "write the name of a claim, or its path such as `realm_access.roles`");
        }
        Some(claim)
    }

    /// A length of time that may be none, and not more than `most`.
    pub(super) fn up_to(&mut self, key: &'static str, default: Duration, most: Duration, such_as: &str) -> Duration {
        if self.item(key).is_none() {
            return default;
        }
        let Some(text) = self.string(key) else { return default };
        units::duration(&text).filter(|length| *length <= most).unwrap_or_else(|| {
            let problem = format!("is no length of time up to {} seconds", most.as_secs());
            self.error(key, &problem, &format!("write it as {such_as}"));
            default
        })
    }
}

/// A scope, RFC 6749, section 3.3.
pub(crate) fn is_scope(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    (1..=128).contains(&text.len()) && text.bytes().all(fits)
}

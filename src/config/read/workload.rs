//! Reading `[identity.spiffe."trust.domain"]` and `[identity.certificates.NAME]`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use spiffe::{TrustDomain, transport::Endpoint};

use super::Section;
use crate::config::{BundleSource, CertificatesConfig, NameFrom, SpiffeConfig};

/// Trust domains, and authorities of other certificates, of one server.
const MOST: usize = 16;
/// Names that one authority's certificates are told by.
const AGENTS: usize = 10_000;

impl Section<'_> {
    /// `[identity.spiffe."trust.domain"]`, by trust domain.
    pub(super) fn spiffe(&mut self, folder: &Path) -> BTreeMap<String, SpiffeConfig> {
        let mut domains = BTreeMap::new();
        let section = self.section("spiffe");
        let Some(table) = section.table else { return domains };
        for (name, item) in table.iter() {
            let place = table.key(name).and_then(toml_edit::Key::span);
            let path = format!("{}.\"{name}\"", section.name);
            if !TrustDomain::new(name).is_ok_and(|domain| domain.as_str() == name) {
                let hint = "write it in lower case and without `spiffe://`: `[identity.spiffe.\"example.org\"]`";
                self.reader.error(place, format!("`{name}` is no name of a trust domain"), Some(hint.to_owned()));
                continue;
            }
            let Some(entry) = item.as_table_like() else {
                let hint = format!("write `[{path}]` and its keys below");
                self.reader.error(place, format!("`{path}` is not a table"), Some(hint));
                continue;
            };
            let entry = Section { reader: self.reader, name: path, table: Some(entry), place, known: Vec::new() };
            if let Some(domain) = entry.trust_domain(folder) {
                domains.insert(name.to_owned(), domain);
            }
        }
        if domains.len() > MOST {
            self.error("spiffe", &format!("has more than {MOST}"), "keep those that agents come from");
        }
        domains
    }

    /// `[identity.certificates.NAME]`, by name.
    pub(super) fn certificates(&mut self, folder: &Path, tls: bool) -> BTreeMap<String, CertificatesConfig> {
        let mut authorities = BTreeMap::new();
        for (name, entry) in self.named("certificates", "an authority of certificates") {
            if let Some(authority) = entry.authority(&name, folder) {
                authorities.insert(name, authority);
            }
        }
        if authorities.len() > MOST {
            self.error("certificates", &format!("has more than {MOST}"), "keep those that agents come with");
        }
        if !authorities.is_empty() && !tls {
            let hint = "give the agents' listener a certificate (`[server.tls]`): nobody can show it one otherwise";
            self.error("certificates", "goes with `[server.tls]`", hint);
        }
        authorities
    }

    fn trust_domain(mut self, folder: &Path) -> Option<SpiffeConfig> {
        let workload_api = self.string("workload_api");
        let bundle_url = self.string("bundle_url");
        let bundle = self.string("bundle");
        let audience = self.string("audience");
        let max_lifetime = self.duration("max_lifetime", Duration::from_secs(3_600));
        let max_stale = self.duration("max_stale", Duration::from_secs(3_600));
        let ca = self.string("ca").map(|file| folder.join(file));
        let allow_private = self.boolean("allow_private", false);
        if audience.as_ref().is_some_and(String::is_empty) {
            self.error("audience", "is empty", "leave it out: then it is the URL of `/mcp`");
        }
        for (key, length) in [("max_lifetime", max_lifetime), ("max_stale", max_stale)] {
            if length > Duration::from_secs(24 * 3_600) {
                self.error(key, "is longer than a day", "write at most `24h`");
            }
        }
        for key in ["ca", "allow_private"] {
            if self.place_of(key).is_some() && self.place_of("bundle_url").is_none() {
                self.error(key, "goes with `bundle_url`", "remove it");
            }
        }
        let there = ["workload_api", "bundle_url", "bundle"].into_iter().filter(|key| self.place_of(key).is_some());
        let there: Vec<&str> = there.collect();
        let source = match there.as_slice() {
            [] => {
                let hint =
                    "write `workload_api = \"unix:///…\"`, `bundle_url = \"https://…\"` or `bundle = \"bundle.json\"`";
                let problem = format!("`{}` has no `workload_api`, `bundle_url` or `bundle`", self.name);
                self.reader.error(self.place.clone(), problem, Some(hint.to_owned()));
                None
            }
            [_, second, ..] => {
                self.error(second, "is a second source of the same keys", "keep the one that is meant");
                None
            }
            [_] => workload_api
                .and_then(|text| self.workload_api(&text))
                .or_else(|| bundle_url.and_then(|text| self.bundle_url(&text)))
                .or_else(|| bundle.map(|file| BundleSource::File(folder.join(file)))),
        };
        self.finish();
        Some(SpiffeConfig { source: source?, audience, max_lifetime, max_stale, ca, allow_private })
    }

    fn workload_api(&self, text: &str) -> Option<BundleSource> {
        let hint = "write it as `unix:///run/spire/agent/public/api.sock`";
        match Endpoint::parse(text) {
            Ok(Endpoint::Unix(path)) => Some(BundleSource::WorkloadApi(path)),
            Ok(_) => {
                self.error("workload_api", "is not of this machine, and nothing there would be encrypted", hint);
                None
            }
            Err(_) => {
                self.error("workload_api", "is no socket", hint);
                None
            }
        }
    }

    fn bundle_url(&self, text: &str) -> Option<BundleSource> {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            let bare = url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
            bare && url.has_host() && url.scheme() == "https"
        });
        if url.is_none() {
            self.error("bundle_url", "is no https URL", "write it as `https://spire.example.org/bundle.json`");
        }
        url.map(BundleSource::Url)
    }

    fn authority(mut self, name: &str, folder: &Path) -> Option<CertificatesConfig> {
        let ca = self.string("ca");
        let from = match self.string("name").as_deref() {
            Some("uri") => Some(NameFrom::Uri),
            Some("dns") => Some(NameFrom::Dns),
            Some("common_name") => Some(NameFrom::CommonName),
            Some(_) => {
                self.error("name", "is not `uri`, `dns` or `common_name`", "say what of a certificate names its agent");
                None
            }
            None => {
                if self.place_of("name").is_none() {
                    self.error(
                        "name",
                        "is missing",
                        "say what of a certificate names its agent: `\"dns\"`, for example",
                    );
                }
                None
            }
        };
        let prefix = self.string("prefix");
        let agents = self.map("agents");
        if self.place_of("ca").is_none() {
            self.error(
                "ca",
                "is missing",
                "write `ca = \"agents-ca.pem\"`: the certificates that agents' are signed by",
            );
        }
        let plain = |text: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/".contains(&byte);
            text.len() <= 64 && text.bytes().all(known) && !text.starts_with("spiffe:")
        };
        if prefix.as_ref().is_some_and(|prefix| !plain(prefix)) {
            let hint = "use at most 64 letters, digits and `._-@:/`; `spiffe:` is for trust domains";
            self.error("prefix", "cannot begin an agent's name", hint);
        }
        let named = |agent: &String| agent.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if !agents.values().all(|agent| named(agent) && plain(agent)) {
            let hint = "use 1 to 64 letters, digits and `._-@:/`, beginning with a letter or digit; `spiffe:` is for trust domains";
            self.error("agents", "gives what is no agent's name", hint);
        }
        if agents.len() > AGENTS {
            self.error("agents", &format!("has more than {AGENTS}"), "leave it out: then names are made with `prefix`");
        }
        if self.place_of("agents").is_some() && agents.is_empty() {
            self.error(
                "agents",
                "names nobody",
                "write `agents = { \"build.example.org\" = \"build\" }`, or leave it out",
            );
        }
        if self.place_of("agents").is_some() && self.place_of("prefix").is_some() {
            self.error("prefix", "goes without `agents`, which gives whole names", "keep one of them");
        }
        self.finish();
        let prefix = prefix.unwrap_or_else(|| format!("{name}/"));
        Some(CertificatesConfig { ca: folder.join(ca?), name: from?, prefix, agents })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Config, parse};

    fn read(text: &str) -> Result<Config, Vec<crate::grant::ConfigError>> {
        parse(Path::new("/house/countersign.toml"), text, &|_| None)
    }

    #[test]
    fn workloads_have_their_defaults() {
        let identity = read(
            "[server.tls]\ncert = \"c\"\nkey = \"k\"\n[identity.spiffe.\"example.org\"]\nworkload_api = \"unix:///run/s\"\n\
             [identity.spiffe.\"b.example\"]\nbundle = \"b.json\"\n[identity.certificates.ci]\nca = \"ca.pem\"\nname = \"dns\"\n",
        );
        let identity = identity.unwrap().identity;
        let own = &identity.spiffe["example.org"];
        assert_eq!(own.source, BundleSource::WorkloadApi(PathBuf::from("/run/s")));
        let hour = Duration::from_secs(3_600);
        assert_eq!((own.audience.as_ref(), own.max_lifetime, own.max_stale), (None, hour, hour));
        assert_eq!(identity.spiffe["b.example"].source, BundleSource::File(PathBuf::from("/house/b.json")));
        let ci = &identity.certificates["ci"];
        assert_eq!((ci.ca.as_path(), ci.name, ci.prefix.as_str()), (Path::new("/house/ca.pem"), NameFrom::Dns, "ci/"));
        assert!(ci.agents.is_empty());
    }

    #[test]
    fn every_mistake_names_what_to_do() {
        let domain = |text: &str| format!("[identity.spiffe.\"example.org\"]\n{text}");
        let authority = |text: &str| {
            format!(
                "[server.tls]\ncert = \"c\"\nkey = \"k\"\n[identity.certificates.ci]\nca = \"ca.pem\"\nname = \"dns\"\n{text}"
            )
        };
        for (text, problem, hint) in [
            (
                "[identity.spiffe.\"Example.org\"]\nbundle = \"b\"".to_owned(),
                "is no name of a trust domain",
                "lower case",
            ),
            ("[identity.spiffe.\"spiffe://a\"]\nbundle = \"b\"".to_owned(), "is no name of a trust domain", "without"),
            ("[identity.spiffe]\na = 1".to_owned(), "is not a table", "[identity.spiffe.\"a\"]"),
            (domain(""), "has no `workload_api`", "unix:///"),
            (domain("bundle = \"b\"\nworkload_api = \"unix:///s\""), "second source", "keep"),
            (domain("workload_api = \"tcp://127.0.0.1:1\""), "is not of this machine", "unix:///"),
            (domain("workload_api = \"/run/s\""), "is no socket", "unix:///"),
            (domain("bundle_url = \"http://localhost/\""), "is no https URL", "https://"),
            (domain("bundle_url = \"https://u:p@x/\""), "is no https URL", "https://"),
            (domain("bundle = \"b\"\nallow_private = true"), "goes with `bundle_url`", "remove"),
            (domain("bundle = \"b\"\nca = \"c\""), "goes with `bundle_url`", "remove"),
            (domain("bundle = \"b\"\nmax_stale = \"2d\""), "is longer than a day", "24h"),
            (domain("bundle = \"b\"\nmax_lifetime = \"25h\""), "is longer than a day", "24h"),
            (domain("bundle = \"b\"\naudience = \"\""), "is empty", "leave it out"),
            (domain("bundle = \"b\"\nbundel = \"b\""), "unknown key", "`bundle`"),
            (
                "[identity.certificates.ci]\nca = \"c\"\nname = \"dns\"".to_owned(),
                "goes with `[server.tls]`",
                "certificate",
            ),
            (
                "[server.tls]\ncert = \"c\"\nkey = \"k\"\n[identity.certificates.ci]\nname = \"dns\"".to_owned(),
                "ca` is missing",
                "PEM|signed",
            ),
            (
                "[server.tls]\ncert = \"c\"\nkey = \"k\"\n[identity.certificates.ci]\nca = \"c\"".to_owned(),
                "name` is missing",
                "dns",
            ),
            (
                "[server.tls]\ncert = \"c\"\nkey = \"k\"\n[identity.certificates.ci]\nca = \"c\"\nname = \"email\""
                    .to_owned(),
                "is not `uri`",
                "names",
            ),
            (authority("prefix = \"spiffe://x/\""), "cannot begin an agent's name", "trust domains"),
            (authority("prefix = \"a b\""), "cannot begin an agent's name", "letters"),
            (authority("agents = { a = \"spiffe://x/y\" }"), "no agent's name", "trust domains"),
            (authority("agents = { a = \"-x\" }"), "no agent's name", "letters"),
            (authority("agents = {}"), "names nobody", "leave it out"),
            (authority("agents = { a = \"b\" }\nprefix = \"c/\""), "goes without `agents`", "keep one"),
        ] {
            let errors = read(&text).expect_err(&text);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].problem.contains(problem), "{text}: {}", errors[0]);
            let told = errors[0].hint.as_deref().unwrap_or_default();
            assert!(hint.split('|').any(|hint| told.contains(hint)), "{text}: {}", errors[0]);
        }
    }
}

//! Reading `[identity.delegation]` and `[identity.clients.NAME]`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{Section, identity::is_scope};
use crate::config::{ClientConfig, DelegationConfig};

/// Clients of one house.
const MOST: usize = 256;
/// Scopes, tools and teams of one client.
const NAMES: usize = 64;

impl Section<'_> {
    /// `[identity.delegation]`; `longest` is the longest life of any token of ours.
    pub(super) fn delegation(&mut self, longest: Duration) -> DelegationConfig {
        let mut section = self.section("delegation");
        let usual = DelegationConfig::default();
        let enabled = section.boolean("enabled", usual.enabled);
        let new_tasks = section.boolean("new_tasks", usual.new_tasks);
        let max_ttl = section.duration("max_ttl", usual.max_ttl.min(longest));
        let ttl = section.duration("ttl", usual.ttl.min(max_ttl));
        if max_ttl > longest {
            section.error("max_ttl", "is longer than `identity.max_ttl`", "no token of this server lives longer");
        }
        if ttl > max_ttl {
            section.error("ttl", "is longer than `max_ttl`", "it is for who asks for no other");
        }
        section.finish();
        DelegationConfig { enabled, new_tasks, ttl, max_ttl }
    }

    /// `[identity.clients.NAME]`, by name.
    pub(super) fn clients(&mut self, folder: &Path) -> BTreeMap<String, ClientConfig> {
        let mut clients = BTreeMap::new();
        let place = self.place_of("clients");
        for (name, entry) in self.named("clients", "a client") {
            if let Some(client) = entry.client(&name, folder) {
                clients.insert(name, client);
            }
        }
        if clients.len() > MOST {
            let problem = format!("`identity.clients` has more than {MOST}");
            self.reader.error(place, problem, Some("keep those that are still there".to_owned()));
        }
        clients
    }

    fn client(mut self, name: &str, folder: &Path) -> Option<ClientConfig> {
        let jwks = self.string("jwks").map(|path| folder.join(path));
        let allow_private = self.boolean("allow_private", false);
        let jwks_url = self.keys_url("jwks_url", allow_private);
        let there = ["jwks", "jwks_url"].into_iter().filter(|key| self.place_of(key).is_some()).count();
        match there {
            0 => self.error("jwks", "is missing", "name the file of the client's public keys, or their `jwks_url`"),
            1 => {}
            _ => self.error("jwks_url", "and `jwks` are both there", "keep the one that is meant"),
        }
        let agent = self.string("agent").unwrap_or_else(|| name.to_owned());
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/".contains(&byte);
        if !agent.starts_with(|first: char| first.is_ascii_alphanumeric())
            || agent.len() > 128
            || !agent.bytes().all(fits)
        {
            let hint = "use 1 to 128 letters, digits and `._-@:/`, beginning with a letter or digit";
            self.error("agent", "is no agent's name", hint);
        }
        let teams = self.some_names("teams", "is no team's name", |team| {
            (1..=128).contains(&team.len()) && !team.chars().any(char::is_control)
        });
        let scopes = self.some_names("scopes", "is no scope", is_scope);
        let tools = self.some_names("tools", "is no action's name", |tool| {
            (1..=256).contains(&tool.len()) && tool.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let bound = self.boolean("bound", false);
        self.finish();
        (there == 1).then_some(ClientConfig {
            jwks,
            jwks_url,
            agent,
            teams: teams.unwrap_or_default(),
            scopes: scopes.unwrap_or_default(),
            tools,
            bound,
            allow_private,
        })
    }

    /// A list of at most [`NAMES`] names, none of them twice.
    fn some_names(&mut self, key: &'static str, no_name: &str, fits: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let mut names = self.strings(key)?;
        if let Some(name) = names.iter().find(|name| !fits(name)) {
            self.error(key, &format!("has `{}`, which {no_name}", name.escape_debug()), "correct it, or leave it out");
        }
        if names.len() > NAMES {
            self.error(key, &format!("has more than {NAMES}"), "keep those that are needed");
        }
        names.sort();
        names.dedup();
        Some(names)
    }
}

//! Reading `[console.providers.NAME]`.

use std::{collections::BTreeMap, time::Duration};

use super::{Section, is_loopback};
use crate::config::ProviderConfig;

/// Identity providers of one console.
const MOST: usize = 16;

impl Section<'_> {
    /// `[console.providers.NAME]`, by name.
    pub(super) fn providers(&mut self) -> BTreeMap<String, ProviderConfig> {
        let mut providers = BTreeMap::new();
        for (name, entry) in self.named("providers", "a provider") {
            if name == "passkey" {
                let hint = "`passkey` is a page of the console's own: call it otherwise";
                entry.reader.error(
                    entry.place.clone(),
                    "`passkey` is no name for a provider".to_owned(),
                    Some(hint.to_owned()),
                );
                continue;
            }
            if let Some(provider) = entry.provider() {
                providers.insert(name, provider);
            }
        }
        if providers.len() > MOST {
            self.error("providers", &format!("has more than {MOST}"), "keep those that people sign in with");
        }
        providers
    }

    fn provider(mut self) -> Option<ProviderConfig> {
        let issuer = self.string("issuer");
        let client_id = self.string("client_id");
        let client_secret = self.string("client_secret");
        let scopes = self.strings("scopes");
        let name_claim = self.string("name_claim");
        let roles_claim = self.string("roles_claim");
        let roles = self.map("roles");
        let also_claims = self.strings("also_claims");
        let max_age = self.up_to("max_age", Duration::ZERO, Duration::from_secs(24 * 3_600), "`0s`, `5m` or `1h`");
        let acr_values = self.strings("acr_values").unwrap_or_default();
        let allow_private = self.boolean("allow_private", false);
        for key in ["issuer", "client_id"] {
            if self.place_of(key).is_none() {
                self.error(key, "is missing", "the provider tells both when a client is registered with it");
            }
        }
        if roles.is_empty() && self.place_of("roles").is_none() {
            let hint = "write `roles = { \"a value of `roles_claim`\" = \"a role\" }`: nobody has a role otherwise";
            self.error("roles", "is missing", hint);
        }
        if roles.values().any(|role| !is_role(role)) {
            self.error("roles", "gives what is no role", "a role is 1 to 64 letters, digits, `-` and `_`");
        }
        let scopes = scopes.unwrap_or_else(|| ["openid", "profile", "email"].map(str::to_owned).to_vec());
        if !scopes.iter().any(|scope| scope == "openid") {
            self.error("scopes", "lacks `openid`", "without it a provider tells nothing of who signed in");
        }
        if client_secret.as_ref().is_some_and(String::is_empty) {
            self.error("client_secret", "is empty", "leave it out where the provider gave none");
        }
        if let Some(issuer) = &issuer {
            self.check_issuer(issuer, allow_private);
        }
        self.finish();
        Some(ProviderConfig {
            issuer: issuer?,
            client_id: client_id?,
            client_secret,
            scopes,
            name_claim: name_claim.unwrap_or_else(|| "email".to_owned()),
            roles_claim: roles_claim.unwrap_or_else(|| "groups".to_owned()),
            roles,
            also_claims: also_claims.unwrap_or_else(|| ["email", "preferred_username"].map(str::to_owned).to_vec()),
            max_age,
            acr_values,
            allow_private,
        })
    }

    /// The name of an issuer, which is a URL without anything behind its path.
    pub(super) fn check_issuer(&self, text: &str, allow_private: bool) {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            let bare = url.query().is_none() && url.fragment().is_none();
            bare && url.has_host() && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = url else {
            self.error(
                "issuer",
                "is no issuer's URL",
                "write it as `https://login.example.com`, as its tokens have it",
            );
            return;
        };
        self.check_scheme("issuer", &url, allow_private);
    }

    /// A URL that this server asks by itself: `https`, or `http` on this machine.
    pub(super) fn check_own_url(&self, key: &str, text: &str, allow_private: bool) -> Option<reqwest::Url> {
        let url = reqwest::Url::parse(text).ok().filter(|url| {
            let bare = url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
            bare && url.has_host()
        });
        let Some(url) = url else {
            self.error(key, "is no URL", "write it as `https://login.example.com/…`, without a user or a fragment");
            return None;
        };
        self.check_scheme(key, &url, allow_private);
        Some(url)
    }

    fn check_scheme(&self, key: &str, url: &reqwest::Url, allow_private: bool) {
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url) && allow_private => {}
            "http" if is_loopback(url) => {
                self.error(key, "is on this machine", "say `allow_private = true` if that is meant");
            }
            _ => self.error(key, "is not https", "http is for providers on this machine only"),
        }
    }
}

pub(super) fn is_role(role: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&role.len()) && role.bytes().all(plain)
}

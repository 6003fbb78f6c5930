//! What is so because of what was written.

use std::collections::HashMap;

use crate::clock::Timestamp;

/// A credential of our own that has not ended yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub agent: String,
    /// When it ends.
    pub expires: Timestamp,
    /// It was revoked.
    pub revoked: bool,
}

/// State folded from the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    pub(super) tokens: HashMap<String, Token>,
    pub(super) pins: HashMap<(String, String), String>,
}

impl Views {
    /// The credential of that id, if one was issued and has not ended long ago.
    pub fn token(&self, credential: &str) -> Option<&Token> {
        self.tokens.get(credential)
    }

    /// The contract digest that was last registered or accepted for a tool, by upstream and the tool's own name.
    pub fn pin(&self, upstream: &str, tool: &str) -> Option<&str> {
        self.pins.get(&(upstream.to_owned(), tool.to_owned())).map(String::as_str)
    }
}

//! Contracts: what each tool was when a person reviewed it, and the catalog that calls are checked against.
//!
//! [`mod@file`] reads and writes `schemas/<upstream>/<tool>.json`; [`vet`] says whether a schema can be
//! trusted to bound anything; [`Tool`] holds a compiled contract; [`Catalog`] is what is offered now:
//! contracts that match what the upstream advertises, and, apart, what is quarantined and why.

mod catalog;
pub mod file;
mod shape;
mod tool;
pub mod vet;

pub use catalog::{Advertised, Catalog, Quarantine, Quarantined};
pub use tool::{Completes, Impact, Inspected, ParamHeader, Tool};

use std::{fmt, sync::Arc};

use crate::{call::cut, display::visible};

/// The name of an upstream: `[a-z0-9][a-z0-9-]{0,31}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

impl UpstreamName {
    /// The name, if `text` is one.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= 32 && plain(first) && text.bytes().all(|byte| plain(byte) || byte == b'-');
        fits.then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text of somebody else's in a sentence of ours: cut to `most` bytes, [`visible`], in backticks.
fn quoted(text: &str, most: usize) -> String {
    let short = cut(text, most);
    format!("`{}{}`", visible(short), if short.len() < text.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests;

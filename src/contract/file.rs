//! `schemas/<upstream>/<tool>.json`.

use std::{collections::BTreeSet, path::Path};

use super::{Impact, Quarantined, UpstreamName};
use crate::{
    clock::Timestamp,
    json::{Digest, Value},
};

/// A contract as a person reviews it.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The definition exactly as advertised; its `name` is the tool's.
    pub definition: Value,
    /// SHA-256 over the definition's RFC 8785 form.
    pub digest: Digest,
    /// When it was registered or last accepted.
    pub registered: Timestamp,
    /// What it can do to the world.
    pub impact: BTreeSet<Impact>,
    /// Labels of the data it touches.
    pub labels: Vec<String>,
    /// A schema of the operator's own that narrows the advertised one.
    pub arguments: Option<Value>,
    /// Arguments that no schema declares are let through.
    pub open: bool,
    /// Calling it twice is calling it once.
    pub idempotent: bool,
}

impl Contract {
    /// A contract for a definition that an upstream advertises: impact as its annotations suggest,
    /// `destructive` where they say nothing.
    ///
    /// # Errors
    /// Why the definition is none.
    pub fn propose(_upstream: &UpstreamName, _definition: &Value, _now: Timestamp) -> Result<Self, String> {
        Err(String::new())
    }
}

/// Reads every contract below `schemas/`; one that cannot be read quarantines its tool and no other.
/// A folder that is not there holds none.
///
/// # Errors
/// Only when the folder itself cannot be listed.
pub fn read_all(_schemas: &Path) -> std::io::Result<Vec<Result<Contract, Quarantined>>> {
    Ok(Vec::new())
}

/// Writes one contract: to a new file, renamed over the old one.
///
/// # Errors
/// The file system's.
pub fn write(_schemas: &Path, _contract: &Contract) -> std::io::Result<()> {
    Ok(())
}

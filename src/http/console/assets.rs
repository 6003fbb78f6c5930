//! Style and scripts, as they are in the sources: nothing builds them, and nothing is fetched from elsewhere.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{Problem, only};
use crate::json::Digest;

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Every file: name, kind, content.
const ASSETS: &[(&str, &str, &str)] = &[
    ("console.css", STYLE, include_str!("assets/console.css")),
    ("enrol.js", SCRIPT, include_str!("assets/enrol.js")),
    ("hold.js", SCRIPT, include_str!("assets/hold.js")),
    ("live.js", SCRIPT, include_str!("assets/live.js")),
    ("passkey.js", SCRIPT, include_str!("assets/passkey.js")),
    ("waiting.js", SCRIPT, include_str!("assets/waiting.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// One of them. Browsers keep it, and ask each time whether it is the same still.
pub(super) async fn asset(headers: HeaderMap, name: Result<Path<String>, PathRejection>) -> Response {
    let found = name.ok().and_then(|Path(name)| ASSETS.iter().find(|(known, _, _)| *known == name));
    let Some((_, kind, content)) = found else { return Problem::NotFound.into_response() };
    let tag = format!("\"{}\"", Digest::of(content.as_bytes()).to_string().trim_start_matches("sha256:"));
    let told = [(header::ETAG, tag.as_str()), (header::CACHE_CONTROL, "no-cache")];
    if only(&headers, header::IF_NONE_MATCH) == Some(tag.as_str()) {
        return (StatusCode::NOT_MODIFIED, told).into_response();
    }
    (told, [(header::CONTENT_TYPE, *kind)], *content).into_response()
}

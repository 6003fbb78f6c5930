//! Which upstream a resource belongs to: tools and prompts say it in their name, resources keep their URI.

use super::{listing::everything, problem::Problem, road::Road};
use crate::{
    call::{Operation, Principal},
    contract::UpstreamName,
    json::Value,
    upstream::Listing,
};

/// Bytes of a URI that is looked for.
const LONGEST: usize = 8_192;

/// The one upstream, of those that the principal reaches by `operation`, that lists `uri`, or has a template
/// that it fits, or is alone in having resources at all.
///
/// # Errors
/// [`Problem::ResourceNotFound`], [`Problem::AmbiguousResource`]
pub(super) async fn resource(
    road: &impl Road,
    principal: &Principal,
    operation: Operation,
    uri: &str,
) -> Result<UpstreamName, Problem> {
    let not_found = || Problem::ResourceNotFound(crate::call::cut(uri, 256).to_owned());
    if uri.len() > LONGEST {
        return Err(not_found());
    }
    let has = |item: &Value| item.get("uri").and_then(Value::as_str) == Some(uri);
    if let Some(found) = one_of(road, principal, operation, Listing::Resources, has).await? {
        return Ok(found);
    }
    let fits = |item: &Value| {
        item.get("uriTemplate")
            .and_then(Value::as_str)
            .is_some_and(|template| template == uri || matches(template, uri))
    };
    if let Some(found) = one_of(road, principal, operation, Listing::Templates, fits).await? {
        return Ok(found);
    }
    let mut having = road.reachable(principal, operation);
    having.retain(|upstream| road.capability(upstream, "resources").is_some());
    match having.pop() {
        Some(only) if having.is_empty() => Ok(only),
        _ => Err(not_found()),
    }
}

async fn one_of(
    road: &impl Road,
    principal: &Principal,
    operation: Operation,
    listing: Listing,
    is_it: impl Fn(&Value) -> bool,
) -> Result<Option<UpstreamName>, Problem> {
    let lists = everything(road, principal, operation, listing).await;
    let mut found = lists.into_iter().filter(|(_, items)| items.iter().any(&is_it)).map(|(upstream, _)| upstream);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(Problem::AmbiguousResource),
        (found, _) => Ok(found),
    }
}

enum Piece<'t> {
    Literal(&'t str),
    /// Any text without these separators.
    Without(&'static [u8]),
    /// Any text.
    Anything,
}

/// Whether a URI could be an expansion of a template (RFC 6570): literals match themselves, a simple or
/// path expression (`{x}`, `{/x}`, `{.x}`) matches text of one path segment, the others any text.
fn matches(template: &str, uri: &str) -> bool {
    let Some(pieces) = pieces(template) else { return false };
    // the ends that the pieces so far can reach
    let mut reached = vec![false; uri.len() + 1];
    if let Some(start) = reached.first_mut() {
        *start = true;
    }
    for piece in &pieces {
        let mut next = vec![false; uri.len() + 1];
        match piece {
            Piece::Literal(literal) => {
                for (place, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
                    let fits = uri.as_bytes().get(place..).is_some_and(|rest| rest.starts_with(literal.as_bytes()));
                    if let (true, Some(end)) = (fits, next.get_mut(place + literal.len())) {
                        *end = true;
                    }
                }
            }
            Piece::Without(_) | Piece::Anything => {
                let stops: &[u8] = if let Piece::Without(stops) = piece { stops } else { &[] };
                let mut open = false;
                for (place, end) in next.iter_mut().enumerate() {
                    let stopped = place > 0 && uri.as_bytes().get(place - 1).is_some_and(|byte| stops.contains(byte));
                    open = (open && !stopped) || reached.get(place) == Some(&true);
                    *end = open;
                }
            }
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

fn pieces(template: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (expression, after) = after.split_once('}')?;
        if pieces.len() >= 64 {
            return None;
        }
        pieces.push(Piece::Literal(literal));
        let kind = expression.bytes().next()?;
        if kind == b'/' {
            pieces.push(Piece::Literal("/"));
        }
        pieces.push(match kind {
            b'+' | b'#' | b'?' | b'&' | b';' => Piece::Anything,
            b'/' if expression.ends_with('*') => Piece::Anything,
            _ => Piece::Without(b"/?#"),
        });
        rest = after;
    }
    pieces.push(Piece::Literal(rest));
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_what_they_expand_to() {
        for (template, uri) in [
            ("file:///{path}", "file:///a"),
            ("file:///{+path}", "file:///a/b/c"),
            ("test://template/{id}/data", "test://template/123/data"),
            ("x://{a}-{b}", "x://1-2-3"),
            ("x://h{/p}", "x://h/one"),
            ("x://h{/p*}", "x://h/one/two"),
            ("x://h{?q,r}", "x://h?q=1&r=2"),
            ("x://{é}/ü", "x://é/ü"),
            ("plain://x", "plain://x"),
        ] {
            assert!(matches(template, uri), "{template} {uri}");
        }
        for (template, uri) in [
            ("file:///{path}", "file:///a/b"),
            ("file:///{path}", "file://"),
            ("test://template/{id}/data", "test://template/1/2/data"),
            ("test://template/{id}/data", "test://template/1/data/"),
            ("x://{unclosed", "x://a"),
            ("x://{}", "x://a"),
            ("x://h{/p}", "x://h/one/two"),
            ("plain://x", "plain://xy"),
        ] {
            assert!(!matches(template, uri), "{template} {uri}");
        }
    }

    #[test]
    fn a_hostile_template_costs_no_more_than_its_length() {
        let template = format!("{}c", "a{+x}".repeat(32));
        assert!(!matches(&template, &"a".repeat(8_000)));
        assert!(!matches(&"{+x}".repeat(100), "a"), "too many expressions");
    }
}

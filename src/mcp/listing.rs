//! Lists: what a principal may see, page by page.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    problem::Problem,
    render::server_info,
    road::{Edition, Road},
};
use crate::{
    call::{Operation, Principal},
    clock::Timestamp,
    contract::UpstreamName,
    grant::Visibility,
    json::{Object, Value},
    upstream::Listing,
};

/// Items on a page.
const PAGE: usize = 1_000;

/// How long a page may be taken for fresh, here and by clients, milliseconds. Grants can end by the clock.
const FRESH_MS: i64 = 5_000;

/// Pages that are kept, and their bytes.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 32 << 20;

/// Rendered pages of `tools/list`.
#[derive(Debug, Default)]
pub(super) struct Pages {
    kept: Mutex<HashMap<Key, Page>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    principal: Arc<Principal>,
    modern: bool,
    tasks: bool,
    from: usize,
}

#[derive(Debug)]
struct Page {
    edition: Edition,
    made: Timestamp,
    text: Bytes,
}

impl Pages {
    /// A page of `tools/list`: the tools that some grant could let the principal call, by name, each as it was
    /// advertised under the name that it has here, with `_meta["countersign/grant"]`. `tasks` is whether the client's
    /// revision has tasks of its own: there every call may be one, since it is we who keep it.
    ///
    /// # Errors
    /// [`Problem::InvalidParams`] for a cursor that is none.
    pub(super) fn tools(
        &self,
        road: &impl Road,
        principal: &Arc<Principal>,
        params: &Object,
        modern: bool,
        tasks: bool,
    ) -> Result<Bytes, Problem> {
        let from = cursor(params, b't')?;
        let (edition, now) = (road.edition(), road.now());
        let key = Key { principal: Arc::clone(principal), modern, tasks, from };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = kept.get(&key) {
            let age = now.as_millisecond() - page.made.as_millisecond();
            if page.edition == edition && (0..FRESH_MS).contains(&age) {
                return Ok(page.text.clone());
            }
        }
        drop(kept);
        let offers = road.offers(principal);
        let shown = |(tool, visibility): &(Arc<crate::contract::Tool>, Visibility)| {
            let mut definition = tool.definition.as_object().cloned().unwrap_or_default();
            definition.insert("name", tool.name.as_str());
            let mut meta = definition.get("_meta").and_then(Value::as_object).cloned().unwrap_or_default();
            let grant = match visibility {
                Visibility::Allow => "allow",
                Visibility::Hold => "hold",
            };
            meta.insert("countersign/grant", grant);
            definition.insert("_meta", meta);
            if tasks {
                let execution = definition.get("execution").and_then(Value::as_object).cloned().unwrap_or_default();
                definition.insert("execution", execution.with("taskSupport", "optional"));
            }
            Value::Object(definition)
        };
        let text = page("tools", offers.len(), from, b't', modern, |range| {
            offers.get(range).unwrap_or_default().iter().map(shown).collect()
        })?;
        kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = kept.values().map(|page| page.text.len()).sum();
        if kept.len() >= KEPT || bytes + text.len() > KEPT_BYTES {
            kept.clear();
        }
        kept.insert(key, Page { edition, made: now, text: text.clone() });
        Ok(text)
    }
}

/// A page of `resources/list`, `resources/templates/list` or `prompts/list`: what the upstreams that the
/// principal reaches have, by upstream. Prompts are named `<upstream>__<prompt>`; resources keep their URIs.
///
/// # Errors
/// [`Problem::InvalidParams`] for a cursor that is none.
pub(super) async fn gathered(
    road: &impl Road,
    principal: &Principal,
    listing: Listing,
    params: &Object,
    modern: bool,
) -> Result<Bytes, Problem> {
    let (operation, member, kind) = match listing {
        Listing::Resources => (Operation::ReadResource, "resources", b'r'),
        Listing::Templates => (Operation::ReadResource, "resourceTemplates", b'm'),
        Listing::Prompts => (Operation::GetPrompt, "prompts", b'p'),
    };
    let from = cursor(params, kind)?;
    let lists = everything(road, principal, operation, listing).await;
    let all: Vec<(&UpstreamName, &Value)> =
        lists.iter().flat_map(|(upstream, items)| items.iter().map(move |item| (upstream, item))).collect();
    let shown = |(upstream, item): &(&UpstreamName, &Value)| match (listing, item) {
        (Listing::Prompts, Value::Object(prompt)) => {
            let name = prompt.get("name").and_then(Value::as_str).unwrap_or_default();
            Value::Object(prompt.clone().with("name", format!("{upstream}__{name}")))
        }
        _ => (*item).clone(),
    };
    page(member, all.len(), from, kind, modern, |range| all.get(range).unwrap_or_default().iter().map(shown).collect())
}

/// One list of every upstream that the principal reaches. An upstream that cannot be asked is left out.
pub(super) async fn everything(
    road: &impl Road,
    principal: &Principal,
    operation: Operation,
    listing: Listing,
) -> Vec<(UpstreamName, Arc<Vec<Value>>)> {
    let reached = road.reachable(principal, operation).into_iter().map(|upstream| async move {
        match road.list(&upstream, listing).await {
            Ok(items) => Some((upstream, items)),
            Err(problem) => {
                tracing::warn!(%upstream, ?listing, problem, "the upstream could not be asked for its list");
                None
            }
        }
    });
    join_all(reached).await.into_iter().flatten().collect()
}

/// One page of a list.
///
/// # Errors
/// [`Problem::InvalidParams`] for a place behind the end.
pub(super) fn page(
    member: &str,
    length: usize,
    from: usize,
    kind: u8,
    modern: bool,
    items: impl FnOnce(std::ops::Range<usize>) -> Vec<Value>,
) -> Result<Bytes, Problem> {
    if from > length {
        return Err(Problem::InvalidParams(
            "`cursor` is not one that was given here; list from the beginning".to_owned(),
        ));
    }
    let end = length.min(from + PAGE);
    let mut result = if modern { Object::new().with("resultType", "complete") } else { Object::new() };
    result.insert(member, items(from..end));
    if end < length {
        let place = u32::try_from(end).unwrap_or(u32::MAX).to_be_bytes();
        let [a, b, c, d] = place;
        result.insert("nextCursor", URL_SAFE_NO_PAD.encode([kind, a, b, c, d]));
    }
    if modern {
        result.insert("ttlMs", FRESH_MS);
        result.insert("cacheScope", "private");
        result.insert("_meta", Object::new().with("io.modelcontextprotocol/serverInfo", server_info()));
    }
    Ok(Value::Object(result).to_bytes().into())
}

/// The place that `params.cursor` names: an opaque text that holds for one kind of list.
pub(super) fn cursor(params: &Object, kind: u8) -> Result<usize, Problem> {
    let bad = || Problem::InvalidParams("`cursor` is not one that was given here; list from the beginning".to_owned());
    let Some(cursor) = params.get("cursor") else { return Ok(0) };
    let bytes = cursor.as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or_else(bad)?;
    match *bytes.as_slice() {
        [given, a, b, c, d] if given == kind => usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Limits, parse};

    fn at(text: &Bytes, name: &str) -> Option<Value> {
        parse(text, &Limits::RESPONSE).unwrap().get(name).cloned()
    }

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let items = |range: std::ops::Range<usize>| range.map(|n| Value::from(i64::try_from(n).unwrap())).collect();
        let (mut from, mut seen, mut pages) = (0, Vec::new(), 0);
        loop {
            let text = page("tools", 2_345, from, b't', true, items).unwrap();
            seen.extend(at(&text, "tools").unwrap().as_array().unwrap().to_vec());
            pages += 1;
            let Some(next) = at(&text, "nextCursor") else { break };
            from = cursor(&Object::new().with("cursor", next), b't').unwrap();
        }
        assert_eq!((pages, seen.len()), (3, 2_345));
        assert_eq!(seen.last(), Some(&Value::from(2_344)));
    }

    #[test]
    fn a_cursor_that_was_not_given_here_is_refused() {
        for given in ["", "x", "AAAA", "cgAAAAE", "dAAAAAEA"] {
            assert!(cursor(&Object::new().with("cursor", given), b't').is_err(), "{given}");
        }
        assert!(cursor(&Object::new().with("cursor", 7), b't').is_err());
        assert!(cursor(&Object::new().with("cursor", Value::Null), b't').is_err());
        assert_eq!(cursor(&Object::new(), b't'), Ok(0));
        assert!(page("tools", 3, 4, b't', true, |_| Vec::new()).is_err());
    }

    #[test]
    fn only_a_modern_list_says_how_long_it_is_fresh() {
        let modern = page("tools", 0, 0, b't', true, |_| Vec::new()).unwrap();
        for name in ["resultType", "ttlMs", "cacheScope", "_meta"] {
            assert!(at(&modern, name).is_some(), "{name}");
        }
        assert_eq!(page("tools", 0, 0, b't', false, |_| Vec::new()).unwrap(), r#"{"tools":[]}"#);
    }
}

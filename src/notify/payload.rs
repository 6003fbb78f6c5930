//! What a receiver gets: id and risk of a hold, and proof that it comes from here.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use super::Event;
use crate::{call::cut, config::WebhookFormat, display::visible};

/// Bytes of a name that is not ours.
const LONGEST: usize = 200;
/// Bytes of a field of Slack's, which takes 2,000 characters.
const FIELD: usize = 1_900;
/// Names of a list that is not ours.
const MOST: usize = 16;

/// The body of a notification.
pub fn body(format: WebhookFormat, event: &Event) -> Vec<u8> {
    let value = match format {
        WebhookFormat::Generic => generic(event),
        WebhookFormat::Slack => slack(event),
    };
    value.to_string().into_bytes()
}

/// The value of `Countersign-Signature`: HMAC-SHA-256 of time, a full stop and the body.
pub fn signature(secret: &str, unix: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{unix}.").as_bytes());
    context.update(body);
    let mut text = format!("t={unix},v1=");
    for byte in context.sign().as_ref() {
        text.extend([byte >> 4, byte & 15].into_iter().filter_map(|nibble| char::from_digit(nibble.into(), 16)));
    }
    text
}

fn safe(text: &str) -> String {
    visible(cut(text, LONGEST))
}

fn all_safe(texts: &[String]) -> Vec<String> {
    texts.iter().take(MOST).map(|text| safe(text)).collect()
}

fn generic(event: &Event) -> Value {
    json!({
        "v": 1,
        "id": format!("{}.{}", event.hold, event.seq),
        "seq": event.seq,
        "at": event.at.to_string(),
        "kind": event.kind,
        "hold": event.hold,
        "state": event.state,
        "tool": safe(&event.tool),
        "upstream": safe(&event.upstream),
        "impact": event.impact,
        "agent": safe(&event.agent),
        "chain": all_safe(&event.chain),
        "workload": event.workload.as_deref().map(safe),
        "scopes": all_safe(&event.scopes),
        "assurance": event.assurance,
        "approve_by": event.approve_by.map(|at| at.to_string()),
        "page": event.page,
    })
}

fn headline(event: &Event) -> String {
    match (event.kind.as_str(), event.state.as_str()) {
        ("call.held", _) => "A call waits for approval".to_owned(),
        ("hold.approved", "pending") => "An approval is in, and more are needed".to_owned(),
        ("hold.void", _) => "A held call is void".to_owned(),
        (_, "spent") => "A held call was approved and runs".to_owned(),
        (_, state) => format!("A held call is {}", safe(state)),
    }
}

fn slack(event: &Event) -> Value {
    let plain = |text: String| json!({"type": "plain_text", "text": text, "emoji": false});
    let (tool, agent) = (safe(&event.tool), safe(&event.agent));
    let impact = event.impact.join(", ");
    let mut fields = vec![
        plain(format!("Tool\n{tool}")),
        plain(format!("Impact\n{impact}")),
        plain(format!("Agent\n{agent}")),
        plain(format!("Hold\n{}", safe(&event.hold))),
    ];
    if !event.chain.is_empty() {
        fields.push(plain(cut(&format!("Handed on to\n{}", all_safe(&event.chain).join(", then ")), FIELD).to_owned()));
    }
    if let Some(workload) = &event.workload {
        fields.push(plain(format!("Workload\n{}", safe(workload))));
    }
    if !event.scopes.is_empty() {
        fields.push(plain(cut(&format!("Scopes\n{}", all_safe(&event.scopes).join(" ")), FIELD).to_owned()));
    }
    if let Some(assurance) = &event.assurance {
        fields.push(plain(format!("Shown with\n{}", safe(assurance))));
    }
    if let Some(at) = event.approve_by.filter(|_| event.state == "pending") {
        fields.push(plain(format!("Approve by\n{at}")));
    }
    let headline = headline(event);
    let mut blocks =
        vec![json!({"type": "header", "text": plain(headline.clone())}), json!({"type": "section", "fields": fields})];
    if let Some(page) = event.page.as_deref().filter(|page| is_linkable(page)) {
        blocks.push(
            json!({"type": "section", "text": {"type": "mrkdwn", "text": format!("<{page}|Open it in the console>")}}),
        );
    }
    // what stands in a phone's notification is markup to Slack: names of others stay out of it
    let text = format!("{headline}: {}", escaped(&safe(&event.hold)));
    json!({"text": text, "blocks": blocks})
}

/// Slack's three special characters (<https://api.slack.com/reference/surfaces/formatting#escaping>).
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn is_linkable(page: &str) -> bool {
    let http = page.starts_with("https://") || page.starts_with("http://");
    http && page.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'|' | b'&'))
}

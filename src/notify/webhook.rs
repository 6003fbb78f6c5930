//! One attempt at a webhook.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, header::HeaderValue};

use super::{
    Event, Failed,
    payload::{body, signature},
};
use crate::{
    call::Fault,
    clock::Clock,
    config::WebhookConfig,
    reach::{self, Resolver, Rule, cause, literal},
};

/// So much of an answer is let in; nobody reads it.
const ANSWER: usize = 64 << 10;

/// A receiver by HTTP.
pub(super) struct Webhook {
    config: WebhookConfig,
    client: Client,
    rule: Rule,
    clock: Clock,
}

impl Webhook {
    pub(super) fn new(config: WebhookConfig, resolver: Arc<dyn Resolver>, clock: Clock) -> Result<Self, Fault> {
        let rule = Rule { private: config.allow_private, loopback_only: config.url.scheme() != "https" };
        let client = reach::client(rule, resolver)
            .build()
            .map_err(|error| Fault(format!("webhooks cannot be sent: {}", cause(error))))?;
        Ok(Self { config, client, rule, clock })
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<(), Failed> {
        // a literal address is not resolved: it is checked here
        if let Some(address) = literal(&self.config.url) {
            self.rule.check(address).map_err(|why| Failed::Again(why, None))?;
        }
        let body = body(self.config.format, event);
        let mut request = self.client.post(self.config.url.clone()).header("content-type", "application/json");
        if !self.config.secret.is_empty() {
            let signed = signature(&self.config.secret, self.clock.now().as_second(), &body);
            if let Ok(mut value) = HeaderValue::from_str(&signed) {
                value.set_sensitive(true);
                request = request.header("countersign-signature", value);
            }
        }
        let mut response = request.body(body).send().await.map_err(|error| Failed::Again(cause(error), None))?;
        let verdict = judge(&response);
        // read to its end, so that a receiver that waits for that is not cut off; within bounds
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > ANSWER {
                break;
            }
        }
        verdict
    }
}

fn judge(response: &Response) -> Result<(), Failed> {
    let status = response.status();
    let told = format!("it answered with status {}", status.as_u16());
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => Err(Failed::Again(format!("{told}: redirects are not followed"), None)),
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Err(Failed::Unwanted(told)),
        _ => {
            let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Failed::Again(told, after.map(Duration::from_secs)))
        }
    }
}

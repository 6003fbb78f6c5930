//! The way back to the client while its call runs: notifications out, questions out and answers in, cancellation in.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    clock::Timestamp,
    json::{Object, Value},
};

/// What an agent is told of a call that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldNotice {
    /// The hold's id.
    pub hold: String,
    /// The tool, by the name that agents use.
    pub tool: String,
    /// Where it stands: `pending`, `approved`, or `spent` while its result is awaited.
    pub state: &'static str,
    /// Whose countersignature it waits for.
    pub roles: Vec<String>,
    /// The `@reason` of the policy, if it has one.
    pub reason: Option<String>,
    /// When it was opened.
    pub created: Timestamp,
    /// Until when it can be countersigned.
    pub approve_by: Timestamp,
    /// Until when it can be run once it is.
    pub execute_by: Timestamp,
    /// The console's page for it.
    pub page: String,
}

impl HoldNotice {
    /// The sentence for the agent: what it waits for, until when, and what to do.
    pub fn sentence(&self) -> String {
        let roles = self.roles.join(" and ");
        let reason = self.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match self.state {
            "pending" => format!(
                "waiting for {roles} to countersign this call{reason}: {}, until {:.0}; calling again with the same \
                 arguments goes on waiting and asks nobody twice",
                self.hold, self.approve_by
            ),
            "approved" => format!(
                "this call was countersigned ({}); call again with the same arguments until {:.0} to have it run, once",
                self.hold, self.execute_by
            ),
            _ => format!(
                "this call was countersigned and is being run ({}); call again with the same arguments for its result",
                self.hold
            ),
        }
    }
}

/// What is sent to the client while a call runs or waits.
#[derive(Debug)]
pub enum Notice {
    /// The call waits for a person: said once, when the wait begins.
    Held(HoldNotice),
    /// `notifications/progress`, its params without the token.
    Progress(Object),
    /// `notifications/message`, its params.
    Log(Object),
    /// A request of the upstream's (`sampling/createMessage`, `elicitation/create`, `roots/list`) that a
    /// grant lets through; the answer comes back through the sender. Dropping the sender refuses it.
    Ask {
        /// The method.
        method: String,
        /// Its params.
        params: Value,
        /// Where the client's answer goes.
        answer: oneshot::Sender<FromClient>,
    },
}

/// A client's answer to an upstream's question.
#[derive(Debug)]
pub enum FromClient {
    /// The `result`.
    Result(Value),
    /// The `error` object.
    Error(Value),
}

/// What the client can do and wants, as it told with this request or in its handshake.
#[derive(Clone, Debug, Default)]
pub struct ClientSide {
    /// The client asked for progress.
    pub wants_progress: bool,
    /// `clientCapabilities`.
    pub capabilities: Object,
    /// The least log level it wants, if it said.
    pub log_level: Option<String>,
    /// It speaks 2026-07-28 or newer.
    pub modern: bool,
    /// How long a call may wait for a person before its client has to be told something.
    pub patience: Duration,
    /// It follows a held call as a task: approving it runs it, without the client waiting.
    pub runs_alone: bool,
}

/// The upstream's end of the link.
#[derive(Clone, Debug)]
pub struct Link {
    /// What the client can do.
    pub client: ClientSide,
    notices: Option<mpsc::Sender<Notice>>,
    cancelled: watch::Receiver<bool>,
    // keeps `cancelled` open for a link that nobody can cancel
    _held: Option<std::sync::Arc<watch::Sender<bool>>>,
}

impl Link {
    /// A link with its two ends for the door: where notices arrive (at most `room` wait; an upstream
    /// that floods loses its notices, not its result) and the switch that cancels.
    pub fn new(client: ClientSide, room: usize) -> (Self, mpsc::Receiver<Notice>, watch::Sender<bool>) {
        let (notices, arriving) = mpsc::channel(room);
        let (cancel, cancelled) = watch::channel(false);
        (Self { client, notices: Some(notices), cancelled, _held: None }, arriving, cancel)
    }

    /// A link for a caller that wants no notices and cannot cancel.
    pub fn none() -> Self {
        let (cancel, cancelled) = watch::channel(false);
        Self { client: ClientSide::default(), notices: None, cancelled, _held: Some(std::sync::Arc::new(cancel)) }
    }

    /// Offers a notice to the client; when nobody listens or the queue is full it is dropped.
    /// An [`Notice::Ask`] so dropped refuses the question.
    pub fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // a full queue loses the notice by design
            let _lost = notices.try_send(notice);
        }
    }

    /// Whether the client has given up on the call.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Whether nobody waits for the call any more: it was cancelled, or its connection went away.
    pub fn is_gone(&self) -> bool {
        self.is_cancelled() || self.cancelled.has_changed().is_err()
    }

    /// The link without its end: what runs from here on runs to its end, whoever goes away.
    pub(super) fn lasting(self) -> Self {
        let (never, cancelled) = watch::channel(false);
        Self { cancelled, _held: Some(std::sync::Arc::new(never)), ..self }
    }

    /// Returns once the client has withdrawn the call; never when its connection just went away.
    pub async fn withdrawn(&self) {
        let mut cancelled = self.cancelled.clone();
        if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once the client has given up on the call: it said so, or its connection went away.
    pub async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        // an error means that the door's end is gone, and with it the client
        let _gone = cancelled.wait_for(|cancelled| *cancelled).await;
    }
}

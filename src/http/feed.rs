//! What happens to holds, as it happens: server-sent events, for as long as the session lasts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast, watch},
    time::{Interval, MissedTickBehavior},
};

use super::{Doors, Problem};
use crate::{approver::Session, ledger::HoldChange};

/// How often a stream looks whether its session is over.
const LOOK: Duration = Duration::from_secs(1);

/// A comment is sent at every so many looks, which finds out about clients that are gone.
const COMMENT: u64 = 15;

/// One stream: what a session is told.
pub(super) struct Feed {
    pub(super) doors: Arc<Doors>,
    pub(super) session: Session,
    changes: broadcast::Receiver<HoldChange>,
    stop: watch::Receiver<bool>,
    look: Interval,
    looks: u64,
    over: bool,
    _place: OwnedSemaphorePermit,
}

/// Puts what there is to tell into words: an event, or nothing.
pub(super) trait Teller: Send + Sync + 'static {
    fn tell(&self, doors: &Arc<Doors>, who: &Session, told: Told) -> impl Future<Output = Option<Bytes>> + Send;
}

/// What there is to tell.
pub(super) enum Told {
    /// The stream begins: whoever looks at the holds after this misses nothing.
    Ready,
    /// A hold came to stand elsewhere.
    Changed(HoldChange),
    /// So many changes came too fast.
    Missed(u64),
    /// Nothing, for a while.
    Nothing,
    /// The session is over, and so is the stream.
    Ended,
}

impl Feed {
    pub(super) fn open(doors: Arc<Doors>, session: Session) -> Result<Self, Problem> {
        let place = Arc::clone(&doors.api.streams).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (changes, stop) = (doors.pipeline.ledger.hold_changes(), doors.stop.clone());
        Ok(Self { doors, session, changes, stop, look, looks: 0, over: false, _place: place })
    }

    /// The answer that tells it all.
    pub(super) fn answer(self, teller: impl Teller) -> Response {
        let events = futures_util::stream::unfold((self, teller), async |(mut feed, teller)| {
            loop {
                let told = feed.next().await?;
                if let Some(event) = teller.tell(&feed.doors, &feed.session, told).await {
                    return Some((Ok::<_, Infallible>(event), (feed, teller)));
                }
            }
        });
        let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(events)).into_response()
    }

    async fn next(&mut self) -> Option<Told> {
        loop {
            if self.over {
                return None;
            }
            let told = tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => Some(Told::Changed(change)),
                    Err(broadcast::error::RecvError::Lagged(missed)) => Some(Told::Missed(missed)),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = self.session.ended() => Some(Told::Ended),
                _stopped = self.stop.wait_for(|stop| *stop) => return None,
                _now = self.look.tick() => None,
            };
            let told = match told {
                Some(told) => told,
                None if !self.lives() => Told::Ended,
                None => {
                    self.looks += 1;
                    match self.looks {
                        1 => Told::Ready,
                        looks if looks % COMMENT == 0 => Told::Nothing,
                        _ => continue,
                    }
                }
            };
            self.over = matches!(told, Told::Ended);
            return Some(told);
        }
    }

    /// Whether the session is that of an approver still, and its time not over.
    fn lives(&self) -> bool {
        let now = self.doors.pipeline.clock.now();
        self.doors.pipeline.approvers.sessions.lives(self.session.id, now) && self.doors.is_theirs(&self.session)
    }
}

/// One event: JSON text has no line breaks, so one `data:` line holds it.
pub(super) fn event(kind: &str, id: Option<u64>, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {kind}\ndata: {data}\n\n"))
}

/// Keeps a stream open: browsers and programs pass it over.
pub(super) fn comment() -> Bytes {
    Bytes::from_static(b":\n\n")
}

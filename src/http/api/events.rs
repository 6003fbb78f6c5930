//! What happens to holds, as it happens: server-sent events, for as long as the session lasts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast, watch},
    time::{Interval, MissedTickBehavior},
};

use super::{Doors, Problem, Who, form::Parameters};
use crate::{approver::Session, ledger::HoldChange};

/// How often a stream looks whether its session is over.
const LOOK: Duration = Duration::from_secs(1);

/// A comment is sent at every so many looks, which finds out about clients that are gone.
const COMMENT: u64 = 15;

/// Begins a stream.
pub(super) async fn stream(State(doors): State<Arc<Doors>>, Who(session): Who, uri: Uri) -> Result<Response, Problem> {
    Parameters::of(&uri)?.end()?;
    let place = Arc::clone(&doors.api.streams).try_acquire_owned().map_err(|_| Problem::TooManyStreams)?;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let changes = doors.pipeline.ledger.hold_changes();
    let stop = doors.stop.clone();
    let feed = Feed { doors, session, changes, stop, look, looks: 0, over: false, _place: place };
    let events = futures_util::stream::unfold(feed, async |mut feed| {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

struct Feed {
    doors: Arc<Doors>,
    session: Session,
    changes: broadcast::Receiver<HoldChange>,
    stop: watch::Receiver<bool>,
    look: Interval,
    looks: u64,
    over: bool,
    _place: OwnedSemaphorePermit,
}

enum Occurred {
    Change(HoldChange),
    Missed(u64),
    Look,
    End,
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let occurred = tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => Occurred::Change(change),
                    Err(broadcast::error::RecvError::Lagged(missed)) => Occurred::Missed(missed),
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                () = self.session.ended() => Occurred::End,
                _stopped = self.stop.wait_for(|stop| *stop) => return None,
                _now = self.look.tick() => Occurred::Look,
            };
            match occurred {
                Occurred::Change(change) => return Some(self.changed(&change)),
                Occurred::Missed(missed) => return Some(event("lagged", None, &json!({"missed": missed}))),
                Occurred::Look if self.lives() => {
                    self.looks += 1;
                    match self.looks {
                        1 => return Some(self.ready()),
                        looks if looks % COMMENT == 0 => return Some(Bytes::from_static(b":\n\n")),
                        _ => {}
                    }
                }
                Occurred::Look | Occurred::End => return Some(self.end()),
            }
        }
    }

    /// Whether the session is that of an approver still, and its time not over.
    fn lives(&self) -> bool {
        let now = self.doors.pipeline.clock.now();
        let Session { id, approver, key, .. } = &self.session;
        self.doors.pipeline.approvers.sessions.lives(*id, now) && self.doors.key_of(approver) == Some(*key)
    }

    /// What there is when the stream begins: whoever lists the holds after this misses nothing.
    fn ready(&self) -> Bytes {
        let counts = self.doors.pipeline.ledger.holds(crate::hold::Book::counts);
        event("ready", None, &json!({"pending": counts.pending, "approved": counts.approved}))
    }

    fn changed(&self, change: &HoldChange) -> Bytes {
        let state = self.doors.pipeline.ledger.holds(|book| book.get(&change.hold).map(|record| record.phase.word()));
        event(change.kind, Some(change.seq), &json!({"hold": change.hold.as_str(), "seq": change.seq, "state": state}))
    }

    fn end(&mut self) -> Bytes {
        self.over = true;
        event("ended", None, &json!({"code": "session_unknown"}))
    }
}

/// One event: JSON text has no line breaks, so one `data:` line holds it.
fn event(kind: &str, id: Option<u64>, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Bytes::from(format!("{id}event: {kind}\ndata: {data}\n\n"))
}

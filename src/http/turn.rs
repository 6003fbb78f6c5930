//! Turns of a session: how much that is large may be made for it, and on the way to it, at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    response::Response,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::Problem;
use crate::approver::Session;

/// How long one is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The turn of a session at something large.
pub(super) struct Turn(Arc<OwnedSemaphorePermit>);

impl Turn {
    /// Waits for one.
    ///
    /// # Errors
    /// [`Problem::TooManyPages`] when the session's others do not end.
    pub(super) async fn of(who: &Session) -> Result<Self, Problem> {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&who.turns).acquire_owned()).await;
        match turn {
            Ok(Ok(turn)) => Ok(Self(Arc::new(turn))),
            _ => Err(Problem::TooManyPages),
        }
    }

    /// An answer that takes the turn along until the last of it was handed on to be sent, or nobody wants it.
    pub(super) fn lasts(self, answer: Response) -> Response {
        answer.map(|body| Body::new(Lasting { body, turn: self.0 }))
    }
}

struct Lasting {
    body: Body,
    turn: Arc<OwnedSemaphorePermit>,
}

impl HttpBody for Lasting {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let turn = Arc::clone(&self.turn);
        // the bytes may wait to be written when the body is gone
        let kept = |bytes| Bytes::from_owner(Kept { bytes, _turn: turn });
        Pin::new(&mut self.body).poll_frame(cx).map_ok(|frame| frame.map_data(kept))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Kept {
    bytes: Bytes,
    _turn: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::{approver::Sessions, clock::Timestamp, hold::Means};

    #[tokio::test(start_paused = true)]
    async fn a_session_has_two_turns_and_each_lasts_as_long_as_its_answer() {
        let sessions = Sessions::default();
        let begin = || sessions.begin("ann", Means::Key([7; 32]), Timestamp::UNIX_EPOCH).unwrap().1;
        let (one, two) = (begin(), begin());
        let first = Turn::of(&one).await.unwrap().lasts("hello".into_response());
        let _second = Turn::of(&one).await.unwrap();
        assert!(matches!(Turn::of(&one).await, Err(Problem::TooManyPages)));
        assert!(Turn::of(&two).await.is_ok(), "another session has its own");
        assert_eq!(first.body().size_hint().exact(), Some(5));
        let bytes = first.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(matches!(Turn::of(&one).await, Err(Problem::TooManyPages)), "it was not sent yet");
        assert_eq!(&*bytes, b"hello");
        drop(bytes);
        assert!(Turn::of(&one).await.is_ok());
    }
}

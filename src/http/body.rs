//! The body of a request: bounded in size and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::Problem;

/// Bytes of a body.
pub(super) const LARGEST: usize = 64 << 10;

/// How long it may take to arrive.
const TIME: Duration = Duration::from_secs(10);

/// The whole body.
pub(super) async fn bytes_of(body: Body) -> Result<Bytes, Problem> {
    match tokio::time::timeout(TIME, Limited::new(body, LARGEST).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLarge),
        Ok(Err(_)) => Err(Problem::BodyIncomplete),
        Err(_) => Err(Problem::BodyTimeout),
    }
}

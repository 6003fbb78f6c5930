//! The end of a task: nothing that names it goes on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{HouseChange, Pipeline};
use crate::{
    call::Fault,
    hold::{Drift, Phase},
    identity::is_own,
    ledger::{Event, NotChanged},
};

/// What ended with a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Tokens of ours that named it and were good until then.
    pub tokens: usize,
    /// Calls that waited for a person.
    pub holds: usize,
    /// Streams that were open.
    pub streams: usize,
    /// Credentials for tool servers that were had on its behalf.
    pub leases: usize,
}

/// Streams that are open, by the task of whoever has them.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    open: Arc<Mutex<HashMap<String, usize>>>,
}

/// Counts one stream while it lives.
#[derive(Debug)]
pub struct Counted {
    streams: Streams,
    task: String,
}

impl Streams {
    /// Counts a stream of that task until what this gives is dropped.
    pub fn opened(&self, task: &str) -> Counted {
        *self.all().entry(task.to_owned()).or_default() += 1;
        Counted { streams: self.clone(), task: task.to_owned() }
    }

    /// How many streams of that task are open.
    pub fn of(&self, task: &str) -> usize {
        self.all().get(task).copied().unwrap_or(0)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.streams.all();
        if let Some(open) = all.get_mut(&self.task) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.task);
            }
        }
    }
}

impl Pipeline {
    /// Ends a task, for good: every credential that names it is refused from now on, whoever issued it; calls of it that wait
    /// for a person are void, and its streams end, and credentials for tool servers that were had on its behalf are dropped. What is at a tool server already comes to its end there.
    ///
    /// # Errors
    /// [`Fault`] when it is none, or cannot be recorded.
    pub async fn end_task(&self, task: &str) -> Result<Ended, Fault> {
        if task.is_empty() || task.len() > 256 || task.chars().any(char::is_control) {
            return Err(Fault("a task is 1 to 256 bytes without control characters".to_owned()));
        }
        let (views, now) = (self.ledger.views(), self.clock.now());
        let named = |(id, token): &(&str, &crate::ledger::Token)| {
            token.task.as_deref() == Some(task) && is_own(id) && token.is_good(now)
        };
        let over = views.is_ended(task);
        let tokens = if over { 0 } else { views.tokens().filter(named).count() };
        let streams = self.streams.of(task);
        let waiting: Vec<_> = self.ledger.holds(|book| {
            let of_it =
                book.iter().filter(|record| record.phase.is_open() && record.hold.task.as_deref() == Some(task));
            of_it.map(|record| record.hold.id.clone()).collect()
        });
        if !over {
            self.ledger.note(Event::TaskEnded { task: task.to_owned() }).await?;
        }
        let mut holds = 0;
        for id in waiting {
            match self.ledger.void(&id, Drift::TaskEnded).await {
                Ok(()) => holds += 1,
                // whoever looks after holds may have been first, and for the same reason
                Err(NotChanged::Rejected(_)) => {
                    let void = |record: &crate::hold::Record| record.phase == Phase::Void(Drift::TaskEnded);
                    holds += usize::from(self.ledger.holds(|book| book.get(&id).is_some_and(void)));
                }
                Err(NotChanged::Fault(fault)) => return Err(fault),
            }
        }
        // streams judge their credential again when they hear of anything
        self.tell(HouseChange::Offers);
        let leases = self.upstreams.leases().end_task(task);
        Ok(Ended { tokens, holds, streams, leases })
    }
}

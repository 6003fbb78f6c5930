//! What is under way, so that it can be cancelled, answered and bounded: requests by id, questions of
//! upstreams, open streams. Nothing here outlives what it stands for by more than one sweep.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};

use super::{
    message::{RequestId, Response},
    problem::Problem,
};
use crate::{call::FromClient, clock};

/// Requests that can be under way in sessions and stdio connections, questions included.
const MOST: usize = 65_536;

/// Streams that one agent may hold open.
pub(super) const STREAMS: usize = 16;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests under way by session (or stdio connection) and id. On HTTP, a request of 2026-07-28 is alone on
/// its exchange and is cancelled by closing it, so it is not kept here and its id may be anything.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    requests: Mutex<Swept<Key, watch::Sender<bool>>>,
    questions: Mutex<Swept<String, Question>>,
    streams: Mutex<HashMap<String, usize>>,
}

/// A session (or stdio connection), and an id in it.
type Key = (Arc<str>, RequestId);

#[derive(Debug)]
struct Question {
    scope: Arc<str>,
    answer: oneshot::Sender<FromClient>,
}

/// A map that drops what is over whenever it has doubled.
#[derive(Debug)]
struct Swept<K, V> {
    entries: HashMap<K, V>,
    next: usize,
}

impl<K, V> Default for Swept<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), next: 64 }
    }
}

impl<K: std::hash::Hash + Eq, V> Swept<K, V> {
    /// Makes room by dropping what is over; false when there is none.
    fn room(&mut self, over: impl Fn(&V) -> bool) -> bool {
        if self.entries.len() >= self.next {
            self.entries.retain(|_, value| !over(value));
            self.next = (self.entries.len() * 2).clamp(64, MOST);
        }
        self.entries.len() < MOST
    }
}

/// One request's place. Dropped without [`Ticket::done`] it stays until the call has ended by itself.
#[derive(Debug)]
pub(super) struct Ticket {
    under_way: Arc<UnderWay>,
    key: Key,
}

impl Ticket {
    /// The request was answered: its id may be used again.
    pub(super) fn done(self) {
        locked(&self.under_way.requests).entries.remove(&self.key);
    }
}

impl UnderWay {
    /// Takes in a request; `cancel` is its switch.
    ///
    /// # Errors
    /// [`Problem::IdInUse`], [`Problem::Busy`]
    pub(super) fn enter(
        self: &Arc<Self>,
        scope: &Arc<str>,
        id: &RequestId,
        cancel: watch::Sender<bool>,
    ) -> Result<Ticket, Problem> {
        let key = (Arc::clone(scope), id.clone());
        let mut requests = locked(&self.requests);
        if requests.entries.get(&key).is_some_and(|other| !other.is_closed()) {
            return Err(Problem::IdInUse);
        }
        if !requests.room(watch::Sender::is_closed) {
            return Err(Problem::Busy);
        }
        requests.entries.insert(key.clone(), cancel);
        Ok(Ticket { under_way: Arc::clone(self), key })
    }

    /// Cancels a request of that session. One that is not there has ended, which is no error.
    pub(super) fn cancel(&self, scope: &Arc<str>, id: &RequestId) {
        if let Some(cancel) = locked(&self.requests).entries.get(&(Arc::clone(scope), id.clone())) {
            cancel.send_replace(true);
        }
    }

    /// Takes note that nobody waits for a request of that session any more, which is less than cancelling it: what
    /// waits for a person goes on waiting.
    pub(super) fn leave(&self, scope: &Arc<str>, id: &RequestId) {
        if let Some(cancel) = locked(&self.requests).entries.get_mut(&(Arc::clone(scope), id.clone())) {
            // dropping the switch tells so
            *cancel = watch::channel(false).0;
        }
    }

    /// Takes note that nobody waits for the requests of that session any more.
    pub(super) fn leave_all(&self, scope: &Arc<str>) {
        for (key, cancel) in &mut locked(&self.requests).entries {
            if key.0 == *scope {
                *cancel = watch::channel(false).0;
            }
        }
    }

    /// Takes in a question to the client of that session: the id to ask under. `None` refuses the question.
    pub(super) fn ask(&self, scope: &Arc<str>, answer: oneshot::Sender<FromClient>) -> Option<String> {
        let random: [u8; 16] = clock::random().ok()?;
        let id: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut questions = locked(&self.questions);
        if !questions.room(|question| question.answer.is_closed()) {
            return None;
        }
        questions.entries.insert(id.clone(), Question { scope: Arc::clone(scope), answer });
        Some(id)
    }

    /// Hands a client's answer to whoever asked.
    ///
    /// # Errors
    /// [`Problem::UnknownAnswer`] when nothing was asked of that session under that id, or no more.
    pub(super) fn answer(&self, scope: &Arc<str>, response: Response) -> Result<(), Problem> {
        let id = response.id.json().trim_matches('"');
        let mut questions = locked(&self.questions);
        if questions.entries.get(id).is_none_or(|question| question.scope != *scope) {
            return Err(Problem::UnknownAnswer);
        }
        let question = questions.entries.remove(id).ok_or(Problem::UnknownAnswer)?;
        drop(questions);
        let answer = match response.outcome {
            Ok(result) => FromClient::Result(result),
            Err(error) => FromClient::Error(error),
        };
        question.answer.send(answer).map_err(|_| Problem::UnknownAnswer)
    }

    /// Takes a question back: whoever asked reads a refusal.
    pub(super) fn withdraw(&self, question: &str) {
        locked(&self.questions).entries.remove(question);
    }

    /// Takes in one more stream of `holder`, of at most `most`.
    pub(super) fn stream(self: &Arc<Self>, holder: &str, most: usize) -> Option<StreamPlace> {
        let mut streams = locked(&self.streams);
        let open = streams.entry(holder.to_owned()).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        Some(StreamPlace { under_way: Arc::clone(self), holder: holder.to_owned() })
    }
}

/// An open stream's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    under_way: Arc<UnderWay>,
    holder: String,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut streams = locked(&self.under_way.streams);
        if let Some(open) = streams.get_mut(&self.holder) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Value;

    fn id(number: i64) -> RequestId {
        RequestId::read(&Value::from(number)).unwrap()
    }

    #[test]
    fn an_id_is_refused_while_its_request_is_under_way_and_free_afterwards() {
        let under_way = Arc::new(UnderWay::default());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (cancel, _listening) = watch::channel(false);
        let ticket = under_way.enter(&one, &id(1), cancel).unwrap();
        let again = |scope: &Arc<str>| under_way.enter(scope, &id(1), watch::channel(false).0).map(|_| ());
        assert_eq!(again(&one), Err(Problem::IdInUse));
        assert_eq!(again(&other), Ok(()), "another session has ids of its own");
        ticket.done();
        assert_eq!(again(&one), Ok(()));
    }

    #[test]
    fn a_request_that_nobody_waits_for_gives_its_place_back_when_it_has_ended() {
        let under_way = Arc::new(UnderWay::default());
        let scope: Arc<str> = "s".into();
        let (cancel, running) = watch::channel(false);
        drop(under_way.enter(&scope, &id(1), cancel).unwrap());
        assert!(under_way.enter(&scope, &id(1), watch::channel(false).0).is_err(), "it still runs");
        drop(running);
        assert!(under_way.enter(&scope, &id(1), watch::channel(false).0).is_ok());
        for number in 0..10_000 {
            drop(under_way.enter(&scope, &id(number), watch::channel(false).0));
        }
        assert!(locked(&under_way.requests).entries.len() <= 200, "what is over is swept");
    }

    #[test]
    fn only_the_session_itself_cancels() {
        let under_way = Arc::new(UnderWay::default());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (cancel, running) = watch::channel(false);
        let _ticket = under_way.enter(&one, &id(1), cancel).unwrap();
        under_way.cancel(&other, &id(1));
        under_way.cancel(&one, &id(2));
        assert!(!*running.borrow());
        under_way.cancel(&one, &id(1));
        assert!(*running.borrow());
        let (cancel, running) = watch::channel(false);
        let _ticket = under_way.enter(&one, &id(3), cancel).unwrap();
        under_way.leave(&other, &id(3));
        assert!(running.has_changed().is_ok());
        under_way.leave(&one, &id(3));
        assert!(running.has_changed().is_err() && !*running.borrow(), "left, and not cancelled");
    }

    #[test]
    fn an_answer_reaches_who_asked_once_and_from_that_session_only() {
        let under_way = Arc::new(UnderWay::default());
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (answer, mut asked) = oneshot::channel();
        let question = under_way.ask(&one, answer).unwrap();
        let response = |id: &str| Response { id: RequestId::read(&Value::from(id)).unwrap(), outcome: Ok(true.into()) };
        assert_eq!(under_way.answer(&other, response(&question)), Err(Problem::UnknownAnswer));
        assert_eq!(under_way.answer(&one, response("else")), Err(Problem::UnknownAnswer));
        assert_eq!(under_way.answer(&one, response(&question)), Ok(()));
        assert!(matches!(asked.try_recv(), Ok(FromClient::Result(Value::Bool(true)))));
        assert_eq!(under_way.answer(&one, response(&question)), Err(Problem::UnknownAnswer));
    }

    #[test]
    fn streams_are_counted_by_holder() {
        let under_way = Arc::new(UnderWay::default());
        let held: Vec<_> = (0..STREAMS).map(|_| under_way.stream("bot", STREAMS).unwrap()).collect();
        assert!(under_way.stream("bot", STREAMS).is_none());
        assert!(under_way.stream("other", STREAMS).is_some());
        drop(held);
        assert!(under_way.stream("bot", STREAMS).is_some());
    }
}

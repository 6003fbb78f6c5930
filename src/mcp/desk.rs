//! The desk behind both transports: a request in, and out a whole response, a call under way, or a stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::{HeaderMap, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    feed::{Feed, Wants},
    headers,
    listing::{self, Pages},
    meeting::{self, Meeting},
    message::{Method, Notification, Request, RequestId, Response, Told},
    problem::{Problem, VERSIONS},
    render,
    road::{Following, Going, Road},
    route,
    session::{Bounded, Session},
    task::{Kept, Reader},
    tasks::Await,
    under_way::{STREAMS, Ticket, UnderWay},
};
use crate::{
    call::{
        CallId, ClientSide, Door, Fault, FromClient, HoldNotice, Identified, Link, Notice, Operation, Passage,
        Principal, Received, Refused,
    },
    hold::HoldId,
    json::{self, Canonical, Digest, Limits, Object, Value},
    ledger::{Body, Reply},
    seal::{Purpose, Seal},
    upstream::Listing,
};

/// Notices of one call that may wait for its client.
const NOTICES: usize = 64;

/// How long a multi round-trip request may be continued, seconds.
const STATE_LIFE: i64 = 600;

/// The same for one that waits for a person, who may have to be found first.
const WAIT_LIFE: i64 = 3_600;

/// States of calls that wait which were come back with, as many as are remembered: none serves twice.
const USED: usize = 65_536;

/// Tasks that one stream may follow.
const TASKS_FOLLOWED: usize = 64;

/// Resources that one session or stream may follow.
pub(super) const FOLLOWED: usize = 64;

const INSTRUCTIONS: &str = "Every call is checked against grants before it is carried out. A refused call is a result with \
                            `isError` whose text says what to do; calling again with the same arguments does not help \
                            unless it says so. Some calls wait until a person has countersigned them: calling again \
                            with the same arguments goes on waiting, asks nobody anew and gives the result once.";

/// What a door's requests share.
#[derive(Debug)]
pub(super) struct Desk<R> {
    /// The house.
    pub(super) road: R,
    /// What is under way.
    pub(super) under_way: Arc<UnderWay>,
    seal: Seal,
    pages: Pages,
    levels: Mutex<Bounded<usize>>,
    ended: Mutex<Bounded<()>>,
    followed: Mutex<Bounded<BTreeMap<String, Following>>>,
    used: Mutex<Bounded<()>>,
    kept: Mutex<Kept>,
    /// Becomes true when the server stops.
    pub(super) stop: watch::Receiver<bool>,
}

/// Judges the sender's credential once more.
pub(super) type Again = Arc<dyn Fn() -> BoxFuture<'static, Option<Identified>> + Send + Sync>;

/// Who sent a message, and how.
#[derive(Clone)]
pub(super) struct Peer {
    /// Who it is.
    pub(super) who: Identified,
    /// Judges the credential once more, for what lasts.
    pub(super) again: Again,
    /// The door it came through.
    pub(super) door: Door,
    /// Its legacy session; `None` for 2026-07-28.
    pub(super) session: Option<Arc<Session>>,
    /// Where its request ids count: the session or the stdio connection. `None` for 2026-07-28 on HTTP, where
    /// every request is alone on its exchange.
    pub(super) scope: Option<Arc<str>>,
}

impl Peer {
    /// Whether it speaks 2026-07-28.
    pub(super) fn modern(&self) -> bool {
        self.session.is_none()
    }

    /// Whether it speaks the one revision that had tasks of its own.
    pub(super) fn has_old_tasks(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.version == meeting::OLD_TASKS)
    }

    pub(super) fn principal(&self) -> &Arc<Principal> {
        self.who.principal()
    }
}

/// What becomes of a request.
pub(super) enum Answer<R> {
    /// The response.
    Whole(Vec<u8>),
    /// A call that is under way.
    Running(Box<Flight<R>>),
    /// The end of a task that is waited for.
    Waiting(Box<Await<R>>),
    /// A stream that stays open.
    Open(Box<Feed<R>>),
}

impl<R> std::fmt::Debug for Answer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Running(_) => "Running",
            Self::Waiting(_) => "Waiting",
            Self::Open(_) => "Open",
        })
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn invalid(why: &str) -> Problem {
    Problem::InvalidParams(why.to_owned())
}

impl<R: Road> Desk<R> {
    /// A desk with the key that session ids and states are sealed with.
    ///
    /// # Errors
    /// [`Fault`] when the key is not usable.
    pub(super) fn new(road: R, key: &[u8; 32], stop: watch::Receiver<bool>) -> Result<Self, Fault> {
        Ok(Self {
            road,
            under_way: Arc::default(),
            seal: Seal::new(key)?,
            pages: Pages::default(),
            levels: Mutex::new(Bounded::new(4_096)),
            ended: Mutex::new(Bounded::new(65_536)),
            followed: Mutex::new(Bounded::new(1_024)),
            used: Mutex::new(Bounded::new(USED)),
            kept: Mutex::default(),
            stop,
        })
    }

    /// Answers a request.
    ///
    /// `text` is the document that it was read from; `headers` are there on HTTP.
    ///
    /// # Errors
    /// [`Problem`] when it is refused before it is a call.
    pub(super) async fn take(
        self: &Arc<Self>,
        peer: &Peer,
        request: Request,
        text: &Bytes,
        headers: Option<&HeaderMap>,
    ) -> Result<Answer<R>, Problem> {
        let Request { id, method, mut params } = request;
        let modern = peer.modern();
        let method = Method::read(&method, modern).ok_or(Problem::MethodNotFound)?;
        let aside = self.aside(peer, &mut params)?;
        let principal = peer.principal();
        let gather = async |listing| {
            let page = listing::gathered(&self.road, principal, listing, &params, modern).await?;
            Ok(Answer::Whole(render::result(&id, &page)))
        };
        match method {
            Method::CallTool => {
                let name = text_of(&mut params, "name", 256)?;
                let span = params.span("arguments");
                let arguments = match params.remove("arguments") {
                    None => Value::Object(Object::new()),
                    Some(arguments @ Value::Object(_)) => arguments,
                    Some(_) => return Err(invalid("`arguments` has to be an object")),
                };
                if let (true, Some(headers)) = (modern, headers)
                    && let Some(tool) = self.road.tool(principal, &name)
                    && !tool.headers.is_empty()
                {
                    headers::repeated(headers, &tool.headers, &arguments)?;
                }
                let subject = Subject { name: name.clone(), text: span.map(|span| text.slice(span)) };
                self.start(peer, id, Operation::CallTool, name, arguments, subject, aside, &mut params).await
            }
            Method::ReadResource => {
                let uri = text_of(&mut params, "uri", 8_192)?;
                let upstream = route::resource(&self.road, principal, Operation::ReadResource, &uri).await?;
                let arguments = Object::new().with("uri", uri.as_str());
                let subject = Subject { name: uri, text: None };
                let name = upstream.as_str().to_owned();
                self.start(peer, id, Operation::ReadResource, name, arguments.into(), subject, aside, &mut params).await
            }
            Method::GetPrompt => {
                let name = text_of(&mut params, "name", 512)?;
                let span = params.span("arguments");
                let (upstream, prompt) = name.split_once("__").unwrap_or((name.as_str(), ""));
                let mut arguments = Object::new().with("name", prompt);
                match params.remove("arguments") {
                    None => {}
                    Some(given @ Value::Object(_)) => arguments.insert("arguments", given),
                    Some(_) => return Err(invalid("`arguments` has to be an object")),
                }
                let (upstream, text) = (upstream.to_owned(), span.map(|span| text.slice(span)));
                let subject = Subject { name, text };
                self.start(peer, id, Operation::GetPrompt, upstream, arguments.into(), subject, aside, &mut params)
                    .await
            }
            Method::Complete => {
                let (upstream, arguments) = self.completion(principal, &mut params).await?;
                let subject = Subject { name: upstream.clone(), text: None };
                self.start(peer, id, Operation::Complete, upstream, arguments.into(), subject, aside, &mut params).await
            }
            Method::ListTools => {
                let page = self.pages.tools(&self.road, principal, &params, modern, peer.has_old_tasks())?;
                Ok(Answer::Whole(render::result(&id, &page)))
            }
            Method::ListResources => gather(Listing::Resources).await,
            Method::ListTemplates => gather(Listing::Templates).await,
            Method::ListPrompts => gather(Listing::Prompts).await,
            Method::Discover => Ok(Answer::Whole(render::result_of(&id, self.discovered(principal)))),
            Method::Listen => self.listen(peer, id, &params, &aside.client.capabilities).await,
            Method::GetTask | Method::UpdateTask | Method::CancelTask | Method::TaskResult | Method::ListTasks => {
                self.task(peer, id, method, &aside.client.capabilities, params).await
            }
            Method::Ping => Ok(Answer::Whole(render::result_of(&id, Object::new()))),
            Method::SetLevel => {
                let level = params.get("level").and_then(Value::as_str).and_then(level);
                let level = level.ok_or_else(|| invalid("`level` has to be a log level"))?;
                if let Some(session) = &peer.session {
                    locked(&self.levels).insert(Arc::clone(&session.nonce), level);
                }
                Ok(Answer::Whole(render::result_of(&id, Object::new())))
            }
            Method::Subscribe => {
                let uri = text_of(&mut params, "uri", 8_192)?;
                Ok(Answer::Whole(self.follow(peer, &id, uri).await?))
            }
            Method::Unsubscribe => {
                let uri = text_of(&mut params, "uri", 8_192)?;
                if let Some(session) = &peer.session
                    && let Some(followed) = locked(&self.followed).entry_mut(&session.nonce)
                {
                    followed.remove(&uri);
                }
                Ok(Answer::Whole(render::result_of(&id, Object::new())))
            }
            // a session is open already: the transport answers the first one
            Method::Initialize => Err(Problem::InvalidRequest("the session is initialized already")),
        }
    }

    /// Takes in a notification. Whatever it says, there is no answer.
    pub(super) fn told(&self, peer: &Peer, notification: &Notification) {
        match (notification.kind, &peer.scope) {
            (Told::Cancelled, Some(scope)) => {
                if let Some(id) = notification.params.get("requestId").and_then(RequestId::read) {
                    let reason = notification.params.get("reason").and_then(Value::as_str).unwrap_or_default();
                    if timed_out(reason) {
                        self.under_way.leave(scope, &id);
                    } else {
                        self.under_way.cancel(scope, &id);
                    }
                }
            }
            (Told::Cancelled | Told::Initialized | Told::Progress | Told::RootsChanged, _) => {}
        }
    }

    /// Takes in an answer to a question of ours.
    ///
    /// # Errors
    /// [`Problem::InvalidRequest`] from a caller of 2026-07-28, [`Problem::UnknownAnswer`] when nothing was asked.
    pub(super) fn answered(&self, peer: &Peer, response: Response) -> Result<(), Problem> {
        match (&peer.session, &peer.scope) {
            (Some(_), Some(scope)) => self.under_way.answer(scope, response),
            _ => Err(Problem::InvalidRequest("clients send no responses in this revision")),
        }
    }

    /// Opens a legacy session: the session and its `initialize` result.
    ///
    /// # Errors
    /// [`Problem::InvalidParams`], [`Problem::Fault`]
    pub(super) fn initialize(&self, who: &Identified, params: &Object) -> Result<(Session, Object), Problem> {
        let asked = params.get("protocolVersion").and_then(Value::as_str);
        let asked = asked.ok_or_else(|| invalid("`protocolVersion` has to be a string"))?;
        let capabilities = match params.get("capabilities") {
            Some(Value::Object(capabilities)) => capabilities.clone(),
            None => Object::new(),
            Some(_) => return Err(invalid("`capabilities` has to be an object")),
        };
        let session = Session::new(who.principal(), asked, &capabilities, self.road.now()).map_err(told_fault)?;
        let mut own = self.capabilities(who.principal());
        if session.version == meeting::OLD_TASKS {
            let call = Object::new().with("tools", Object::new().with("call", Object::new()));
            let tasks = Object::new().with("list", Object::new()).with("cancel", Object::new()).with("requests", call);
            own.insert("tasks", tasks);
        }
        let result = Object::new()
            .with("protocolVersion", session.version.as_str())
            .with("capabilities", own)
            .with("serverInfo", render::server_info())
            .with("instructions", INSTRUCTIONS);
        Ok((session, result))
    }

    /// The id of a session.
    ///
    /// # Errors
    /// [`Problem::Fault`]
    pub(super) fn seal_session(&self, session: &Session) -> Result<String, Problem> {
        session.seal(&self.seal).map_err(told_fault)
    }

    /// The session behind an id.
    ///
    /// # Errors
    /// [`Problem::SessionUnknown`]
    pub(super) fn open_session(&self, id: &str, who: &Identified) -> Result<Session, Problem> {
        Session::open(&self.seal, id, who.principal(), self.road.now())
            .filter(|session| locked(&self.ended).get(&session.nonce).is_none())
            .ok_or(Problem::SessionUnknown)
    }

    /// Ends a session. That it ended is remembered for the last 65,536 of them, until the process ends: an id
    /// that works again after that still serves nobody but its own principal.
    pub(super) fn end_session(&self, session: &Session) {
        locked(&self.ended).insert(Arc::clone(&session.nonce), ());
        self.under_way.leave_all(&session.nonce);
    }

    /// The stream of a legacy session (`GET`, or the stdio connection itself).
    ///
    /// # Errors
    /// [`Problem::TooManyStreams`], [`Problem::StreamTaken`]
    pub(super) fn session_feed(self: &Arc<Self>, peer: &Peer, session: &Session) -> Result<Feed<R>, Problem> {
        let places = self.places(peer, Some(&session.nonce))?;
        let wants = Wants { tools: true, prompts: true, resources: true, ..Wants::default() };
        Ok(Feed::new(Arc::clone(self), peer.clone(), None, wants, places, None, None))
    }

    /// Whether the legacy session follows a resource.
    pub(super) fn follows(&self, session: &Session, uri: &str) -> bool {
        locked(&self.followed).get(&session.nonce).is_some_and(|followed| followed.contains_key(uri))
    }

    fn places(&self, peer: &Peer, session: Option<&Arc<str>>) -> Result<Vec<super::under_way::StreamPlace>, Problem> {
        let agent = format!("agent {}", peer.principal().agent);
        let mut places = vec![self.under_way.stream(&agent, STREAMS).ok_or(Problem::TooManyStreams)?];
        if let Some(nonce) = session {
            places.push(self.under_way.stream(nonce, 1).ok_or(Problem::StreamTaken)?);
        }
        Ok(places)
    }

    /// Reads `_meta` and what else travels beside the arguments, and takes it out of the parameters.
    fn aside(&self, peer: &Peer, params: &mut Object) -> Result<Aside, Problem> {
        let given = match params.remove("_meta") {
            Some(Value::Object(meta)) => meta,
            _ => Object::new(),
        };
        let token = match given.get("progressToken") {
            None => None,
            Some(token) => Some(
                RequestId::read(token).ok_or_else(|| invalid("`progressToken` has to be a string or an integer"))?,
            ),
        };
        let (capabilities, log_level) = match &peer.session {
            Some(session) => {
                let level = locked(&self.levels).get(&session.nonce).copied();
                (session.capabilities.clone(), level)
            }
            None => {
                let capabilities = match given.get("io.modelcontextprotocol/clientCapabilities") {
                    Some(Value::Object(capabilities)) => capabilities.clone(),
                    _ => return Err(invalid("`_meta` needs an object `io.modelcontextprotocol/clientCapabilities`")),
                };
                let level = match given.get("io.modelcontextprotocol/logLevel") {
                    None => None,
                    Some(said) => Some(
                        said.as_str().and_then(level).ok_or_else(|| invalid("the log level is not one of MCP's"))?,
                    ),
                };
                (capabilities, level)
            }
        };
        let client = ClientSide {
            wants_progress: token.is_some(),
            capabilities,
            log_level: log_level.and_then(|level| LEVELS.get(level)).map(|&level| level.to_owned()),
            modern: peer.modern(),
            ..ClientSide::default()
        };
        let meta = given.iter().filter(|(name, value)| travels(name, value));
        let meta = meta.map(|(name, value)| (name.to_owned(), value.clone())).collect();
        Ok(Aside { meta, client, token, log_level })
    }

    #[expect(clippy::too_many_arguments, reason = "what a call consists of, and there are four callers beside it")]
    async fn start(
        self: &Arc<Self>,
        peer: &Peer,
        id: RequestId,
        operation: Operation,
        name: String,
        arguments: Value,
        subject: Subject,
        aside: Aside,
        params: &mut Object,
    ) -> Result<Answer<R>, Problem> {
        let Aside { meta, mut client, token, log_level } = aside;
        let now = self.road.now();
        let (mut input_responses, mut request_state, mut rounds) = (None, None, 0);
        if client.modern {
            input_responses = match params.remove("inputResponses") {
                None => None,
                Some(given @ Value::Object(_)) => Some(given),
                Some(_) => return Err(invalid("`inputResponses` has to be an object")),
            };
            let opened = match params.remove("requestState") {
                None => Opened::default(),
                Some(Value::String(sealed)) => {
                    let digest = subject.digest(peer.principal(), operation);
                    let opened = open_state(&self.seal, &sealed, digest, now.as_second()).ok_or(Problem::BadState)?;
                    if opened.waits.is_some() {
                        self.use_up(&sealed)?;
                    }
                    opened
                }
                Some(_) => return Err(Problem::BadState),
            };
            // an answer to what nobody asked would be an argument that no contract and no grant has seen
            input_responses = input_responses.and_then(|given| answers(given, &opened.asked));
            request_state = opened.own;
            if let Some(waits) = opened.waits {
                rounds = waits.rounds;
                // it was our question, and nothing of it is for an upstream
                let declined =
                    input_responses.take().is_some_and(|given| given.get(render::PAGE).is_some_and(declines));
                if declined && let Some(refusal) = self.withdrawn(peer, &id, &waits.hold, &client.capabilities).await? {
                    return Ok(Answer::Whole(refusal));
                }
            }
        }
        let meeting = match &peer.session {
            None => Meeting::modern(operation, &client.capabilities),
            Some(session) => {
                let task = matches!(params.get("task"), Some(Value::Object(_)));
                Meeting::legacy(operation, &session.version, &client.capabilities, task)
            }
        };
        client.patience = meeting.patience(rounds);
        client.runs_alone = meeting.runs_alone();
        let call = CallId::new(now).map_err(|_| Problem::Fault)?;
        let capabilities = client.capabilities.clone();
        let (link, notices, cancel) = Link::new(client, NOTICES);
        let cancelled = cancel.subscribe();
        let (ticket, cancel) = match &peer.scope {
            Some(scope) => (Some(self.under_way.enter(scope, &id, cancel)?), None),
            None => (None, Some(cancel)),
        };
        let passage = Passage { meta, input_responses, request_state };
        let received = Received::new(call.clone(), now, peer.door, operation, name, arguments, passage, link);
        let going = self.road.handle(received, peer.who.clone());
        Ok(Answer::Running(Box::new(Flight {
            desk: Arc::clone(self),
            peer: peer.clone(),
            id,
            operation,
            subject,
            capabilities,
            token,
            log_level,
            meeting,
            rounds,
            going,
            notices,
            last: None,
            lacks: Vec::new(),
            questions: Vec::new(),
            page: Page::default(),
            ticket,
            cancelled,
            _cancel: cancel,
        })))
    }

    /// Takes note that a state was come back with.
    fn use_up(&self, sealed: &str) -> Result<(), Problem> {
        let mut used = locked(&self.used);
        // its first characters are its nonce
        let nonce = crate::call::cut(sealed, 16);
        if used.get(nonce).is_some() {
            return Err(Problem::BadState);
        }
        used.insert(nonce.into(), ());
        Ok(())
    }

    /// Withdraws a hold whose page its client will not open: the answer of its call. `None` when it was decided already,
    /// so that there is nothing to withdraw.
    async fn withdrawn(
        &self,
        peer: &Peer,
        id: &RequestId,
        hold: &str,
        capabilities: &Object,
    ) -> Result<Option<Vec<u8>>, Problem> {
        let Some(hold) = HoldId::read(hold) else { return Err(Problem::BadState) };
        let Some(record) = self.road.hold(peer.principal(), &hold) else { return Err(Problem::BadState) };
        if !record.phase.is_open() || !self.road.withdraw(peer.principal(), &hold).await.map_err(told_fault)? {
            return Ok(None);
        }
        let call = CallId::read(&record.hold.call).ok_or(Problem::Fault)?;
        let operation = Operation::read(&record.hold.method).ok_or(Problem::Fault)?;
        let to = render::For { id: Some(id), modern: peer.modern(), capabilities };
        let body = Body::Refused(Refused::HoldCancelled { hold: hold.to_string() });
        let never = |_: Option<&str>, _: &[&str]| Err(Fault("a refusal has no state".to_owned()));
        Ok(Some(render::reply(to, &call, operation, &body, never).1))
    }

    /// The tasks that calls of 2025-11-25 were, and that no hold is.
    pub(super) fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        locked(&self.kept)
    }

    /// The upstream that completes an argument, and the parameters that it gets.
    async fn completion(&self, principal: &Principal, params: &mut Object) -> Result<(String, Object), Problem> {
        let Some(Value::Object(mut reference)) = params.remove("ref") else {
            return Err(invalid("`ref` has to be an object"));
        };
        let Some(argument @ Value::Object(_)) = params.remove("argument") else {
            return Err(invalid("`argument` has to be an object"));
        };
        let upstream = match reference.get("type").and_then(Value::as_str) {
            Some("ref/prompt") => {
                let name = reference.get("name").and_then(Value::as_str).unwrap_or_default();
                let (upstream, prompt) = name.split_once("__").unwrap_or((name, ""));
                let (upstream, prompt) = (upstream.to_owned(), prompt.to_owned());
                reference.insert("name", prompt);
                upstream
            }
            Some("ref/resource") => {
                let uri = reference.get("uri").and_then(Value::as_str).unwrap_or_default();
                route::resource(&self.road, principal, Operation::Complete, uri).await?.as_str().to_owned()
            }
            _ => return Err(invalid("`ref.type` has to be `ref/prompt` or `ref/resource`")),
        };
        let mut arguments = Object::new().with("ref", reference).with("argument", argument);
        if let Some(context) = params.remove("context") {
            arguments.insert("context", context);
        }
        Ok((upstream, arguments))
    }

    /// `resources/subscribe` of a legacy session: the response.
    async fn follow(&self, peer: &Peer, id: &RequestId, uri: String) -> Result<Vec<u8>, Problem> {
        let Some(session) = &peer.session else { return Err(Problem::MethodNotFound) };
        let (reply, following) = self.report(peer, &uri).await?;
        let to = render::For { id: Some(id), modern: false, capabilities: &session.capabilities };
        let never = |_: Option<&str>, _: &[&str]| Err(Fault("a subscription has no state".to_owned()));
        let (_, response) = render::reply(to, reply.call(), reply.operation(), reply.body(), never);
        let Some(following) = following else { return Ok(response) };
        let mut sessions = locked(&self.followed);
        if sessions.get(&session.nonce).is_none() {
            sessions.insert(Arc::clone(&session.nonce), BTreeMap::new());
        }
        match sessions.entry_mut(&session.nonce) {
            Some(followed) if followed.len() < FOLLOWED || followed.contains_key(&uri) => {
                followed.insert(uri, following);
                Ok(response)
            }
            _ => Err(Problem::Busy),
        }
    }

    /// Has the upstream of a resource report its changes, if that is granted: what it is told is recorded before.
    async fn report(&self, peer: &Peer, uri: &str) -> Result<(Reply, Option<Following>), Problem> {
        let upstream = route::resource(&self.road, peer.principal(), Operation::Subscribe, uri).await?;
        let now = self.road.now();
        let call = CallId::new(now).map_err(|_| Problem::Fault)?;
        let (name, arguments) = (upstream.as_str().to_owned(), Object::new().with("uri", uri).into());
        let (passage, link) = (Passage::default(), Link::none());
        let received = Received::new(call, now, peer.door, Operation::Subscribe, name, arguments, passage, link);
        Ok(self.road.follow(received, peer.who.clone()).await)
    }

    async fn listen(
        self: &Arc<Self>,
        peer: &Peer,
        id: RequestId,
        params: &Object,
        capabilities: &Object,
    ) -> Result<Answer<R>, Problem> {
        let filter = params.get("notifications").and_then(Value::as_object);
        let filter = filter.ok_or_else(|| invalid("`notifications` has to be an object"))?;
        let flag = |name: &str| match filter.get(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(Problem::InvalidParams(format!("`{name}` has to be true or false"))),
        };
        let uris = match filter.get("resourceSubscriptions") {
            None => &[],
            Some(Value::Array(uris)) if uris.len() <= FOLLOWED => uris.as_slice(),
            Some(_) => return Err(invalid("`resourceSubscriptions` has to be an array of at most 64 URIs")),
        };
        let tasks = match filter.get("taskIds") {
            None => &[],
            Some(_) if !meeting::declares_tasks(capabilities) => {
                return Err(Problem::MissingCapability(meeting::tasks_missing()));
            }
            Some(Value::Array(ids)) if ids.len() <= TASKS_FOLLOWED => ids.as_slice(),
            Some(_) => return Err(invalid("`taskIds` has to be an array of at most 64 task ids")),
        };
        let own = self.capabilities(peer.principal());
        let has = |capability: &str| own.get(capability).is_some();
        let mut wants = Wants {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")? && has("prompts"),
            resources: flag("resourcesListChanged")? && has("resources"),
            followed: BTreeMap::new(),
            held: BTreeSet::new(),
            capabilities: capabilities.clone(),
        };
        for id in tasks {
            let id = id.as_str().ok_or_else(|| invalid("`taskIds` has to be an array of at most 64 task ids"))?;
            // one that is not there, or another's, is left out of what is acknowledged
            if let Some(hold) = HoldId::read(id)
                && self.road.hold(peer.principal(), &hold).is_some()
            {
                wants.held.insert(hold);
            }
        }
        let places = self.places(peer, None)?;
        for uri in uris {
            let uri =
                uri.as_str().ok_or_else(|| invalid("`resourceSubscriptions` has to be an array of at most 64 URIs"))?;
            // one that is refused is left out of what is acknowledged
            if let Ok((_, Some(following))) = self.report(peer, uri).await {
                wants.followed.insert(uri.to_owned(), following);
            }
        }
        let (cancel, cancelled) = watch::channel(false);
        let (ticket, cancelled) = match &peer.scope {
            Some(scope) => (Some(self.under_way.enter(scope, &id, cancel)?), Some(cancelled)),
            None => (None, None),
        };
        Ok(Answer::Open(Box::new(Feed::new(
            Arc::clone(self),
            peer.clone(),
            Some(id),
            wants,
            places,
            ticket,
            cancelled,
        ))))
    }

    fn discovered(&self, principal: &Principal) -> Object {
        let extensions = Object::new().with(meeting::TASKS, Object::new());
        let versions: Vec<Value> = VERSIONS.iter().map(|version| Value::from(*version)).collect();
        Object::new()
            .with("resultType", "complete")
            .with("supportedVersions", versions)
            .with("capabilities", self.capabilities(principal).with("extensions", extensions))
            .with("instructions", INSTRUCTIONS)
            .with("ttlMs", 5_000)
            .with("cacheScope", "private")
            .with("_meta", Object::new().with("io.modelcontextprotocol/serverInfo", render::server_info()))
    }

    /// Our capabilities: what some upstream that the principal reaches has, or may have for all that is known so far.
    /// A client asks once, and at a start it asks before the upstreams are there.
    fn capabilities(&self, principal: &Principal) -> Object {
        let changes = || Object::new().with("listChanged", true);
        let some = |operation, capability: &str| {
            let reached = self.road.reachable(principal, operation);
            let has = |upstream| !self.road.was_met(upstream) || self.road.capability(upstream, capability).is_some();
            reached.iter().any(has)
        };
        let mut own = Object::new().with("tools", changes());
        if some(Operation::ReadResource, "resources") {
            own.insert("resources", changes().with("subscribe", true));
        }
        if some(Operation::GetPrompt, "prompts") {
            own.insert("prompts", changes());
        }
        if some(Operation::Complete, "completions") {
            own.insert("completions", Object::new());
        }
        if some(Operation::CallTool, "logging") {
            own.insert("logging", Object::new());
        }
        own
    }
}

/// Whether a client that cancels gave up waiting, which withdraws nothing. What there is to go by is what clients
/// write: "Request timed out", "timed out after 60s", "request timeout".
fn timed_out(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["timed out", "timeout", "time out", "time-out"].iter().any(|sign| reason.contains(sign))
}

/// Whether that is an answer to a question of ours which says no.
fn declines(answer: &Value) -> bool {
    matches!(answer.get("action").and_then(Value::as_str), Some("decline" | "cancel"))
}

pub(super) fn told_fault(fault: Fault) -> Problem {
    tracing::error!(%fault, "the agents' door cannot answer");
    Problem::Fault
}

/// What travels beside the arguments, and what the answer needs of it.
struct Aside {
    meta: Object,
    client: ClientSide,
    token: Option<RequestId>,
    log_level: Option<usize>,
}

/// Whether a member of `_meta` is passed on: not what speaks of this connection, not what is ours, and of the
/// trace context only what cannot end a line.
fn travels(name: &str, value: &Value) -> bool {
    match name {
        "progressToken" => false,
        "traceparent" | "tracestate" | "baggage" => {
            let visible = |text: &str| text.len() <= 8_192 && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            value.as_str().is_some_and(visible)
        }
        _ => !name.starts_with("io.modelcontextprotocol/") && !name.starts_with("countersign/"),
    }
}

const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|level| *level == name)
}

pub(super) fn text_of(params: &mut Object, name: &str, most: usize) -> Result<String, Problem> {
    match params.remove(name) {
        Some(Value::String(text)) if text.len() <= most => Ok(text),
        _ => Err(Problem::InvalidParams(format!("`{name}` has to be a string of at most {most} bytes"))),
    }
}

/// What a multi round-trip request is about; its retry has to be about the same.
#[derive(Debug)]
struct Subject {
    name: String,
    text: Option<Bytes>,
}

impl Subject {
    /// The digest of who asks for what, over the canonical form of the arguments.
    fn digest(&self, principal: &Principal, operation: Operation) -> Digest {
        let arguments = self.text.as_ref().map(|text| {
            let canonical = json::parse(text, &Limits::REQUEST).ok().and_then(|tree| Canonical::of(tree).ok());
            canonical.map_or_else(|| text.clone(), |canonical| canonical.bytes().clone())
        });
        let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let whole = vec![
            Value::from(principal.agent.as_str()),
            Value::from(principal.issuer.as_str()),
            optional(&principal.user),
            optional(&principal.task),
            Value::Array(principal.chain.iter().map(|agent| Value::from(agent.as_str())).collect()),
            Value::from(operation.method()),
            Value::from(self.name.as_str()),
            Value::from(Digest::of(arguments.as_deref().unwrap_or(b"{}")).to_string()),
        ];
        Digest::of(&Value::Array(whole).to_bytes())
    }
}

/// What a sealed state holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Opened {
    /// The upstream's own state.
    own: Option<String>,
    /// The names of what was asked for.
    asked: Vec<String>,
    /// What the call waits for, when it is not an upstream.
    waits: Option<Waits>,
}

/// A call that waits for a person.
#[derive(Debug, PartialEq, Eq)]
struct Waits {
    /// The hold.
    hold: String,
    /// How many legs it waited already.
    rounds: u32,
}

/// The answers to what was asked; `None` when there is none.
fn answers(given: Value, asked: &[String]) -> Option<Value> {
    let Value::Object(given) = given else { return None };
    let kept: Object = given
        .iter()
        .filter(|(name, _)| asked.iter().any(|asked| asked == name))
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    (!kept.is_empty()).then(|| kept.into())
}

fn seal_state(seal: &Seal, state: &Opened, digest: Digest, now: i64) -> Result<String, Fault> {
    let life = if state.waits.is_some() { WAIT_LIFE } else { STATE_LIFE };
    let mut content = Object::new()
        .with("s", state.own.as_deref().map_or(Value::Null, Value::from))
        .with("q", state.asked.iter().map(|name| Value::from(name.as_str())).collect::<Vec<_>>())
        .with("d", digest.to_string())
        .with("e", now.saturating_add(life));
    if let Some(waits) = &state.waits {
        content.insert("h", waits.hold.as_str());
        content.insert("r", i64::from(waits.rounds));
    }
    seal.seal(Purpose::State, &Value::Object(content).to_bytes())
}

/// What is in a sealed state; `None` when it is not ours, over, or of another request.
fn open_state(seal: &Seal, sealed: &str, digest: Digest, now: i64) -> Option<Opened> {
    let content = json::parse(&seal.open(Purpose::State, sealed)?, &Limits::RESPONSE).ok()?;
    let number = |name: &str| content.get(name)?.as_number()?.as_i64();
    let ends = number("e")?;
    let same = content.get("d")?.as_str()? == digest.to_string();
    let life = if content.get("h").is_some() { WAIT_LIFE } else { STATE_LIFE };
    if !same || now >= ends || ends - now > life {
        return None;
    }
    let names = content.get("q")?.as_array()?.iter();
    let asked = names.map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()?;
    let waits = match content.get("h") {
        None => None,
        Some(hold) => {
            let rounds = u32::try_from(number("r")?).ok()?;
            Some(Waits { hold: hold.as_str()?.to_owned(), rounds })
        }
    };
    Some(Opened { own: content.get("s")?.as_str().map(str::to_owned), asked, waits })
}

/// A call under way: its notices, then its reply.
pub(super) struct Flight<R> {
    desk: Arc<Desk<R>>,
    peer: Peer,
    id: RequestId,
    operation: Operation,
    subject: Subject,
    capabilities: Object,
    token: Option<RequestId>,
    log_level: Option<usize>,
    meeting: Meeting,
    rounds: u32,
    going: Going,
    notices: mpsc::Receiver<Notice>,
    last: Option<(StatusCode, Vec<u8>)>,
    /// Scopes that the credential lacked.
    lacks: Vec<String>,
    questions: Vec<String>,
    page: Page,
    ticket: Option<Ticket>,
    cancelled: watch::Receiver<bool>,
    // dropping it cancels: closing the exchange is how a caller of 2026-07-28 cancels on HTTP
    _cancel: Option<watch::Sender<bool>>,
}

/// A hold's page that a legacy client was asked to open.
#[derive(Debug, Default)]
struct Page {
    /// Where its answer comes.
    answer: Option<oneshot::Receiver<FromClient>>,
    /// The hold, while it was asked about and nothing came of it yet.
    asked: Option<String>,
    /// The hold, while it is being withdrawn.
    declined: Option<String>,
    /// The hold, once it was decided, until the client is told so.
    over: Option<String>,
}

impl Page {
    /// Returns once the client will not open it.
    async fn declined(&mut self) {
        let Some(answer) = &mut self.answer else { return std::future::pending().await };
        let answered = answer.await;
        self.answer = None;
        match answered {
            Ok(FromClient::Result(answer)) if declines(&answer) => self.declined = self.asked.take(),
            // it was opened, or the client cannot: the call waits as it would without
            _ => std::future::pending().await,
        }
    }
}

/// What is under way, and has something to say until it is over.
pub(super) trait Speaks: Send + 'static {
    /// What comes next. Not to be called again after [`Step::Last`]. May be dropped while it waits.
    fn next(&mut self) -> impl Future<Output = Step> + Send;

    /// Whether the client cancelled it.
    fn is_cancelled(&self) -> bool;

    /// Scopes that the caller's credential lacked for it, once it is over.
    fn lacks(&self) -> &[String] {
        &[]
    }
}

/// What a call under way has to say next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A notification, or a question to a legacy client.
    Message(Vec<u8>),
    /// Nothing yet, and it may take long: whoever waits should see that it goes on.
    Waits,
    /// The response, and its HTTP status when it comes first. Nothing comes after it.
    Last(StatusCode, Vec<u8>),
}

impl<R> std::fmt::Debug for Flight<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<R: Road> Speaks for Flight<R> {
    async fn next(&mut self) -> Step {
        while self.last.is_none() {
            if let Some(hold) = self.page.declined.clone() {
                withdraw(&*self.desk, self.peer.principal(), &hold).await;
                self.page.declined = None;
            }
            let said = tokio::select! {
                biased;
                reply = &mut self.going => {
                    if !matches!(reply.body(), Body::Held(_)) {
                        self.page.over = self.page.asked.take();
                    }
                    if let Body::Refused(refused) = reply.body() {
                        self.lacks = refused.scopes().unwrap_or_default().to_vec();
                    }
                    self.last = Some(self.answer(&reply));
                    continue;
                }
                said = self.notices.recv() => said,
                () = self.page.declined() => continue,
            };
            if let Some(step) = said.and_then(|notice| self.say(notice)) {
                return step;
            }
        }
        // what was said before the reply is told before it
        while let Ok(notice) = self.notices.try_recv() {
            if !matches!(notice, Notice::Held(_))
                && let Some(step) = self.say(notice)
            {
                return step;
            }
        }
        if let Some(hold) = self.page.over.take() {
            let params = Object::new().with("elicitationId", hold);
            return Step::Message(render::notification("notifications/elicitation/complete", params));
        }
        if let Some(ticket) = self.ticket.take() {
            ticket.done();
        }
        match self.last.take() {
            Some((status, response)) => Step::Last(status, response),
            None => Step::Last(
                StatusCode::INTERNAL_SERVER_ERROR,
                Problem::Fault.response(Some(&self.id), self.peer.modern()),
            ),
        }
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    fn lacks(&self) -> &[String] {
        &self.lacks
    }
}

impl<R: Road> Flight<R> {
    /// The response to a reply of the road's.
    fn answer(&mut self, reply: &Reply) -> (StatusCode, Vec<u8>) {
        let to = render::For { id: Some(&self.id), modern: self.peer.modern(), capabilities: &self.capabilities };
        let (desk, now) = (&self.desk, self.desk.road.now());
        let seal = |state: &Opened| {
            let digest = self.subject.digest(self.peer.principal(), self.operation);
            seal_state(&desk.seal, state, digest, now.as_second())
        };
        match (reply.body(), self.meeting) {
            (Body::Held(notice), Meeting::Task | Meeting::OldTask) => {
                (StatusCode::OK, render::task(to, reply.call(), notice))
            }
            (Body::Held(notice), meeting) if meeting.goes_on(self.rounds) => {
                let ask = meeting == Meeting::Page && self.rounds == 0;
                let waits = Waits { hold: notice.hold.clone(), rounds: self.rounds + 1 };
                let asked = if ask { vec![render::PAGE.to_owned()] } else { Vec::new() };
                match seal(&Opened { own: None, asked, waits: Some(waits) }) {
                    Ok(state) => (StatusCode::OK, render::round(to, reply.call(), notice, ask, state)),
                    Err(fault) => {
                        let problem = told_fault(fault);
                        (problem.status(true), problem.response(Some(&self.id), true))
                    }
                }
            }
            (Body::Result { .. } | Body::Error { .. } | Body::Refused(_) | Body::Unknown { .. }, Meeting::OldTask) => {
                let reader = Reader { modern: false, capabilities: &self.capabilities };
                let task = desk.kept().keep(self.peer.principal(), reply, now, reader);
                (StatusCode::OK, render::result_of(&self.id, Object::new().with("task", task.shown_before())))
            }
            (body, _) => {
                let seal = |own: Option<&str>, asked: &[&str]| {
                    let asked = asked.iter().map(|&name| name.to_owned()).collect();
                    seal(&Opened { own: own.map(str::to_owned), asked, waits: None })
                };
                render::reply(to, reply.call(), reply.operation(), body, seal)
            }
        }
    }

    /// Asks a legacy client to open the page of what its call waits for.
    fn ask_for_page(&mut self, notice: &HoldNotice) -> Option<Step> {
        let (answer, told) = oneshot::channel();
        let question = self.desk.under_way.ask(self.peer.scope.as_ref()?, answer)?;
        self.questions.push(question.clone());
        self.page = Page { answer: Some(told), asked: Some(notice.hold.clone()), ..Page::default() };
        let params = render::page(notice).with("elicitationId", notice.hold.as_str());
        Some(Step::Message(asking(question, "elicitation/create", params.into())))
    }

    /// A notice as the client reads it; `None` when it did not ask for such.
    fn say(&mut self, notice: Notice) -> Option<Step> {
        match notice {
            Notice::Held(_) if self.meeting.patience(self.rounds).is_zero() => None,
            Notice::Held(notice) if self.meeting == Meeting::OldPage && self.page.asked.is_none() => {
                Some(self.ask_for_page(&notice).unwrap_or(Step::Waits))
            }
            Notice::Held(_) => Some(Step::Waits),
            Notice::Progress(mut params) => {
                let token = json::parse(self.token.as_ref()?.json().as_bytes(), &Limits::REQUEST).ok()?;
                params.insert("progressToken", token);
                Some(Step::Message(render::notification("notifications/progress", params)))
            }
            Notice::Log(params) => {
                let least = match self.log_level {
                    Some(least) => least,
                    None if self.peer.modern() => return None,
                    None => 0,
                };
                let severity = params.get("level").and_then(Value::as_str).and_then(level)?;
                (severity >= least).then(|| Step::Message(render::notification("notifications/message", params)))
            }
            Notice::Ask { method, params, answer } => {
                let capability = match method.as_str() {
                    "sampling/createMessage" => "sampling",
                    "elicitation/create" => "elicitation",
                    "roots/list" => "roots",
                    _ => return None,
                };
                let session = self.peer.session.as_ref()?;
                session.capabilities.get(capability)?;
                let question = self.desk.under_way.ask(self.peer.scope.as_ref()?, answer)?;
                self.questions.push(question.clone());
                Some(Step::Message(asking(question, &method, params)))
            }
        }
    }
}

async fn withdraw<R: Road>(desk: &Desk<R>, principal: &Principal, hold: &str) {
    let Some(hold) = HoldId::read(hold) else { return };
    if let Err(fault) = desk.road.withdraw(principal, &hold).await {
        tracing::error!(%hold, %fault, "a hold cannot be withdrawn");
    }
}

/// A question to a client.
fn asking(question: String, method: &str, params: Value) -> Vec<u8> {
    let whole = Object::new().with("jsonrpc", "2.0").with("id", question).with("method", method).with("params", params);
    Value::Object(whole).to_bytes()
}

impl<R> Drop for Flight<R> {
    fn drop(&mut self) {
        for question in &self.questions {
            self.desk.under_way.withdraw(question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::session::principal;

    fn subject(name: &str, text: &str) -> Subject {
        Subject { name: name.to_owned(), text: Some(Bytes::from(text.to_owned())) }
    }

    #[test]
    fn a_state_opens_for_the_same_request_of_the_same_principal_while_it_lasts() {
        let seal = Seal::new(&[3; 32]).unwrap();
        let bot = principal("bot", "c1");
        let digest = subject("a__b", r#"{"x":1,"y":2}"#).digest(&bot, Operation::CallTool);
        let state = || Opened { own: Some("own".to_owned()), asked: vec!["k".to_owned()], waits: None };
        let sealed = seal_state(&seal, &state(), digest, 1_000).unwrap();
        let opened = || Some(state());
        assert_eq!(open_state(&seal, &sealed, digest, 1_000), opened());
        let again = subject("a__b", r#"{ "y": 2, "x": 1 }"#).digest(&bot, Operation::CallTool);
        assert_eq!(open_state(&seal, &sealed, again, 1_599), opened());
        assert_eq!(open_state(&seal, &sealed, digest, 1_600), None, "it is over");
        for other in [
            subject("a__b", r#"{"x":1,"y":3}"#).digest(&bot, Operation::CallTool),
            subject("a__c", r#"{"x":1,"y":2}"#).digest(&bot, Operation::CallTool),
            subject("a__b", r#"{"x":1,"y":2}"#).digest(&bot, Operation::GetPrompt),
            subject("a__b", r#"{"x":1,"y":2}"#).digest(&principal("other", "c1"), Operation::CallTool),
        ] {
            assert_eq!(open_state(&seal, &sealed, other, 1_000), None);
        }
        assert_eq!(open_state(&seal, &format!("{sealed}-TAMPERED"), digest, 1_000), None);
        let none = seal_state(&seal, &Opened::default(), digest, 1_000).unwrap();
        assert_eq!(open_state(&seal, &none, digest, 1_000), Some(Opened::default()));
        let waits = || Opened {
            waits: Some(Waits { hold: "hold_1".to_owned(), rounds: 7 }),
            asked: vec![render::PAGE.to_owned()],
            own: None,
        };
        let sealed = seal_state(&seal, &waits(), digest, 1_000).unwrap();
        assert_eq!(open_state(&seal, &sealed, digest, 4_599), Some(waits()));
        assert_eq!(open_state(&seal, &sealed, digest, 4_600), None);
    }

    #[test]
    fn only_what_was_asked_is_answered() {
        let given = || Value::from(Object::new().with("k", 1).with("other", 2));
        assert_eq!(answers(given(), &["k".to_owned()]), Some(Object::new().with("k", 1).into()));
        assert_eq!(answers(given(), &[]), None);
        assert_eq!(answers(given(), &["K".to_owned()]), None);
    }

    #[test]
    fn giving_up_waiting_is_not_withdrawing() {
        // as TypeScript, Python and rmcp word it
        for reason in ["McpError: MCP error -32001: Request timed out", "timed out after 45.0s", "request timeout"] {
            assert!(timed_out(reason), "{reason}");
        }
        for reason in ["", "AbortError: This operation was aborted", "caller cancelled", "enough"] {
            assert!(!timed_out(reason), "{reason}");
        }
    }

    #[test]
    fn what_speaks_of_the_connection_does_not_travel() {
        for (name, value, passes) in [
            ("progressToken", "x", false),
            ("io.modelcontextprotocol/clientInfo", "x", false),
            ("countersign/decision", "x", false),
            ("com.example/thing", "x", true),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", true),
            ("traceparent", "00-0af7\r\nX: y", false),
        ] {
            assert_eq!(travels(name, &Value::from(value)), passes, "{name}");
        }
        assert!(!travels("traceparent", &Value::Null));
    }
}

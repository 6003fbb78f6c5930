//! Standard input and output: one JSON-RPC message a line, both generations on one channel.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    desk::{Answer, Desk, Peer, Speaks, Step},
    feed::{Feed, told},
    headers::VERSION_KEY,
    message::{self, Message, Misread, Request, RequestId},
    problem::{Problem, VERSIONS},
    render,
    road::Road,
    session::Session,
};
use crate::{
    call::{Door, Fault, Identified},
    clock,
    json::{self, Limits, Value},
};

/// How the channel is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of one line.
    pub max_line: usize,
    /// Requests under way at once.
    pub max_requests: usize,
    /// How long requests under way have to finish once the input ends.
    pub drain: Duration,
    /// What states are sealed with.
    pub key: [u8; 32],
}

/// Lines that may wait to be written.
const WAITING: usize = 256;

/// Serves until the input ends or `stop` becomes true, then lets requests under way finish for as long as
/// [`Settings::drain`]. `who` judges the one agent that speaks here, for every message anew; nothing is served
/// while it gives `None`.
///
/// # Errors
/// [`Fault`] when it cannot begin, or the output is gone.
pub async fn serve<R, I, O>(
    road: R,
    settings: Settings,
    who: impl Fn() -> Option<Identified> + Send + Sync + 'static,
    input: I,
    output: O,
    stop: watch::Receiver<bool>,
) -> Result<(), Fault>
where
    R: Road,
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin + Send + 'static,
{
    // streams end when the input ends, not only when the server stops
    let (ending, ended) = watch::channel(false);
    let desk = Arc::new(Desk::new(road, &settings.key, ended)?);
    let random: [u8; 16] = clock::random().map_err(|problem| Fault(problem.to_string()))?;
    let scope: Arc<str> = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    let (lines, waiting) = mpsc::channel(WAITING);
    let writing = tokio::spawn(write(output, waiting));
    let drain = settings.drain;
    let mut channel = Channel { desk, settings, who: Arc::new(who), scope, session: None, lines, work: JoinSet::new() };
    channel.read(input, stop).await;
    ending.send_replace(true);
    let Channel { desk, scope, lines, mut work, .. } = channel;
    let finished = async { while work.join_next().await.is_some() {} };
    if timeout(drain, finished).await.is_err() {
        tracing::warn!("requests under way did not finish in time");
        desk.under_way.leave_all(&scope);
        work.shutdown().await;
    }
    drop(lines);
    match writing.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(problem)) => Err(Fault(problem.to_string())),
        Err(problem) => Err(Fault(problem.to_string())),
    }
}

async fn write(mut output: impl AsyncWrite + Unpin, mut waiting: mpsc::Receiver<Vec<u8>>) -> std::io::Result<()> {
    while let Some(mut line) = waiting.recv().await {
        line.push(b'\n');
        output.write_all(&line).await?;
        if waiting.is_empty() {
            output.flush().await?;
        }
    }
    output.flush().await
}

struct Channel<R> {
    desk: Arc<Desk<R>>,
    settings: Settings,
    who: Arc<dyn Fn() -> Option<Identified> + Send + Sync>,
    scope: Arc<str>,
    session: Option<Arc<Session>>,
    lines: mpsc::Sender<Vec<u8>>,
    work: JoinSet<()>,
}

impl<R: Road> Channel<R> {
    async fn read(&mut self, input: impl AsyncRead + Unpin, mut stop: watch::Receiver<bool>) {
        let mut input = BufReader::with_capacity(64 << 10, input);
        loop {
            let line = tokio::select! {
                biased;
                () = told(&mut stop) => return,
                () = self.lines.closed() => return,
                Some(_) = self.work.join_next() => continue,
                line = line(&mut input, self.settings.max_line) => line,
            };
            match line {
                Line::End => return,
                Line::TooLong => {
                    let Some(who) = (self.who)() else { return };
                    self.refuse(&who, None, None, Problem::TooLarge, self.session.is_none()).await;
                }
                Line::Text(text) if text.iter().all(u8::is_ascii_whitespace) => {}
                Line::Text(text) => {
                    let Some(who) = (self.who)() else {
                        tracing::error!("the agent of this channel is known no more");
                        return;
                    };
                    self.take(&who, text.into()).await;
                }
            }
        }
    }

    async fn take(&mut self, who: &Identified, text: Bytes) {
        let limits = Limits { bytes: self.settings.max_line, ..Limits::REQUEST };
        let document = match json::parse(&text, &limits) {
            Ok(document) => document,
            Err(error) => return self.refuse(who, None, None, Problem::Parse(error.kind), true).await,
        };
        let message = match message::read(document) {
            Ok(message) => message,
            Err(Misread { id, method, problem }) => {
                let modern = self.session.is_none();
                return self.refuse(who, id.as_ref(), method.as_deref(), problem, modern).await;
            }
        };
        match message {
            Message::Request(request) => {
                let (id, method) = (request.id.clone(), request.method.clone());
                if let Err((problem, modern)) = self.begin(who, request, text).await {
                    self.refuse(who, Some(&id), Some(&method), problem, modern).await;
                }
            }
            Message::Notification(notification) => {
                let peer = self.peer(who, self.session.clone());
                if notification.kind == message::Told::Initialized && self.session.is_some() {
                    self.follow(&peer);
                }
                self.desk.told(&peer, &notification);
            }
            Message::Response(response) => {
                let peer = self.peer(who, self.session.clone());
                if let Err(problem) = self.desk.answered(&peer, response) {
                    // an answer has no answer
                    self.desk.road.refuse_message(who, problem.code(), None).await;
                }
            }
        }
    }

    async fn begin(&mut self, who: &Identified, request: Request, text: Bytes) -> Result<(), (Problem, bool)> {
        let meta = request.params.get("_meta").and_then(Value::as_object);
        let modern = match meta.and_then(|meta| meta.get(VERSION_KEY)) {
            None => false,
            Some(Value::String(said)) if VERSIONS.first() == Some(&said.as_str()) => true,
            Some(Value::String(said)) => {
                return Err((Problem::UnsupportedVersion(crate::call::cut(said, 64).to_owned()), true));
            }
            Some(_) => return Err((Problem::InvalidParams(format!("`{VERSION_KEY}` has to be a string")), true)),
        };
        if !modern && request.method == "initialize" && self.session.is_none() {
            let (session, result) = self.desk.initialize(who, &request.params).map_err(|problem| (problem, false))?;
            self.session = Some(Arc::new(session.named(Arc::clone(&self.scope))));
            self.send(render::result_of(&request.id, result)).await;
            return Ok(());
        }
        let peer = match (&self.session, modern) {
            (_, true) => self.peer(who, None),
            (Some(session), false) => self.peer(who, Some(Arc::clone(session))),
            (None, false) if request.method == "ping" => {
                self.send(render::result_of(&request.id, json::Object::new())).await;
                return Ok(());
            }
            (None, false) => {
                let why = "send `initialize` first, or a `_meta` that says the protocol version";
                return Err((Problem::InvalidRequest(why), false));
            }
        };
        if self.work.len() >= self.settings.max_requests {
            return Err((Problem::Busy, modern));
        }
        let answer = self.desk.take(&peer, request, &text, None).await.map_err(|problem| (problem, modern))?;
        match answer {
            Answer::Whole(response) => self.send(response).await,
            Answer::Open(feed) => {
                self.work.spawn(pump(feed, self.lines.clone()));
            }
            Answer::Running(flight) => {
                self.work.spawn(speak(flight, self.lines.clone()));
            }
            Answer::Waiting(task) => {
                self.work.spawn(speak(task, self.lines.clone()));
            }
        }
        Ok(())
    }

    /// What a legacy client is told between its requests.
    fn follow(&mut self, peer: &Peer) {
        if let Some(session) = &peer.session
            && let Ok(feed) = self.desk.session_feed(peer, session)
        {
            self.work.spawn(pump(Box::new(feed), self.lines.clone()));
        }
    }

    fn peer(&self, who: &Identified, session: Option<Arc<Session>>) -> Peer {
        let again = Arc::clone(&self.who);
        Peer {
            who: who.clone(),
            again: Arc::new(move || Box::pin(std::future::ready(again()))),
            door: Door::Stdio,
            session,
            scope: Some(Arc::clone(&self.scope)),
        }
    }

    async fn refuse(
        &self,
        who: &Identified,
        id: Option<&RequestId>,
        method: Option<&str>,
        problem: Problem,
        modern: bool,
    ) {
        self.desk.road.refuse_message(who, problem.code(), method).await;
        self.send(problem.response(id, modern)).await;
    }

    async fn send(&self, line: Vec<u8>) {
        // when the output is gone the next read ends the channel
        let _gone = self.lines.send(line).await;
    }
}

async fn speak(mut speaker: Box<impl Speaks>, lines: mpsc::Sender<Vec<u8>>) {
    loop {
        let (line, last) = match speaker.next().await {
            Step::Message(line) => (line, false),
            Step::Last(_, line) => (line, true),
            Step::Waits => continue,
        };
        // a cancelled request is not spoken of again
        if !speaker.is_cancelled() && lines.send(line).await.is_err() {
            return;
        }
        if last {
            return;
        }
    }
}

async fn pump<R: Road>(mut feed: Box<Feed<R>>, lines: mpsc::Sender<Vec<u8>>) {
    while let Some(line) = feed.next().await {
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

/// The next line, without its end. What is longer than `most` is read away and not kept.
async fn line(input: &mut (impl AsyncBufRead + Unpin), most: usize) -> Line {
    let mut text = Vec::new();
    let mut too_long = false;
    loop {
        let Ok(available) = input.fill_buf().await else { return Line::End };
        if available.is_empty() {
            return match (text.is_empty(), too_long) {
                (_, true) => Line::TooLong,
                (true, false) => Line::End,
                (false, false) => Line::Text(text),
            };
        }
        let (part, used, ended) = match memchr::memchr(b'\n', available) {
            Some(place) => (available.get(..place).unwrap_or_default(), place + 1, true),
            None => (available, available.len(), false),
        };
        too_long = too_long || text.len() + part.len() > most;
        if too_long {
            text = Vec::new();
        } else {
            text.extend_from_slice(part);
        }
        input.consume(used);
        if ended {
            return if too_long { Line::TooLong } else { Line::Text(text) };
        }
    }
}

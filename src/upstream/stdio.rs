//! MCP over a child's standard input and output: one message a line, one channel for all calls.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    child::{Process, log_stderr},
    house::{About, Heard, House, Sent, Side, ask, log, refusal},
    lines::{Lines, NoLine},
    message::{Answer, ENVELOPE, Message, read},
    outgoing::reply,
};
use crate::{
    call::{Link, Notice, Principal},
    json::{Object, Value},
};

/// Lines in a row that are no messages before the child counts as broken.
const GARBAGE: usize = 100;
/// Questions to clients that may be open at once.
const QUESTIONS: usize = 32;

/// A connection to a child process. Dropping it kills the child with its group.
#[derive(Debug)]
pub(super) struct Stdio {
    lines: mpsc::Sender<Outbound>,
    pending: Arc<Pending>,
    ended: watch::Receiver<Option<Gone>>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Why there is no connection any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) why: &'static str,
    pub(super) detail: String,
}

#[derive(Debug)]
struct Outbound {
    body: Vec<u8>,
    sent: Option<Arc<Sent>>,
}

/// Requests that wait for their answer.
#[derive(Debug, Default)]
struct Pending(Mutex<HashMap<u64, Waiting>>);

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<Answer, Gone>>,
    call: Option<(Link, Arc<Principal>)>,
}

impl Pending {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, Waiting>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&self, gone: &Gone) {
        for (_, waiting) in self.with(std::mem::take) {
            let _nobody_waits = waiting.answer.send(Err(gone.clone()));
        }
    }

    /// The only call under way, if there is just one: what comes without a token can only be its.
    fn only_call(&self) -> Option<(Link, Arc<Principal>)> {
        self.with(|pending| {
            let mut calls = pending.values().filter_map(|waiting| waiting.call.as_ref());
            match (calls.next(), calls.next()) {
                (Some(call), None) => Some(call.clone()),
                _ => None,
            }
        })
    }
}

/// Takes the request out of the list when its future is dropped.
struct Registered<'a>(&'a Pending, u64);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.with(|pending| drop(pending.remove(&self.1)));
    }
}

impl Stdio {
    /// Starts the child.
    ///
    /// # Errors
    /// Why it cannot, for an operator.
    pub(super) fn start(
        house: &Arc<House>,
        command: &[String],
        env: &BTreeMap<String, String>,
        cwd: Option<&PathBuf>,
        most: usize,
        patience: Duration,
    ) -> Result<Self, String> {
        let (mut process, (stdin, stdout, stderr)) = Process::spawn(command, env, cwd)?;
        let (connection, wire) = Self::prepare(house, most, patience);
        let house = Arc::clone(house);
        let task = tokio::spawn(async move {
            let Wire { mut inbox, mut reader, pending, ended, mut stopped } = wire;
            let gone = {
                let talk = talk(&mut inbox, &mut reader, stdin, stdout);
                let stderr = log_stderr(&house, stderr);
                tokio::pin!(talk, stderr);
                let exit = async {
                    let status = process.exited().await;
                    // what it wrote before it went is still in the pipe
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Gone { why: "died", detail: format!("the process ended: {status}") }
                };
                tokio::pin!(exit);
                let mut logging = true;
                loop {
                    tokio::select! {
                        biased;
                        gone = &mut talk => break gone,
                        gone = &mut exit => break gone,
                        _ = stopped.wait_for(|stop| *stop) => {
                            break Gone { why: "stopping", detail: "the server stops".to_owned() };
                        }
                        () = &mut stderr, if logging => logging = false,
                    }
                }
            };
            tracing::info!(upstream = %house.name, why = gone.why, "connection to the child process ended: {}", gone.detail);
            drop(inbox);
            pending.end(&gone);
            ended.send_replace(Some(gone));
            process.end().await;
        });
        *connection.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(connection)
    }

    fn prepare(house: &Arc<House>, most: usize, patience: Duration) -> (Self, Wire) {
        let (lines, inbox) = mpsc::channel(64);
        let (ended, when_ended) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let pending = Arc::new(Pending::default());
        let reader = Reader {
            house: Arc::clone(house),
            pending: Arc::clone(&pending),
            replies: lines.downgrade(),
            most,
            patience,
        };
        let wire = Wire { inbox, reader, pending: Arc::clone(&pending), ended, stopped };
        (Self { lines, pending, ended: when_ended, stop, task: Mutex::new(None) }, wire)
    }

    /// Sends a request and waits for its answer. Dropping the future forgets the request.
    pub(super) async fn exchange(&self, id: u64, body: Vec<u8>, side: Option<Side<'_>>, sent: &Arc<Sent>) -> Heard {
        let (answer, answered) = oneshot::channel();
        let call = side.map(|side| (side.link.clone(), Arc::clone(side.principal)));
        self.pending.with(|pending| pending.insert(id, Waiting { answer, call }));
        let _registered = Registered(&self.pending, id);
        if self.lines.send(Outbound { body, sent: Some(Arc::clone(sent)) }).await.is_err() {
            return Heard::NotSent("the process is gone".to_owned());
        }
        let gone = match answered.await {
            Ok(Ok(answer)) => return Heard::Answer(answer),
            Ok(Err(gone)) => gone,
            Err(_) => Gone { why: "died", detail: "the connection ended".to_owned() },
        };
        if sent.withdraw() { Heard::NotSent(gone.detail) } else { Heard::Lost { why: gone.why, detail: gone.detail } }
    }

    /// Sends a message that has no answer; one that finds the queue full for long is lost.
    pub(super) async fn tell(&self, body: Vec<u8>) {
        let _lost = timeout(Duration::from_secs(1), self.lines.send(Outbound { body, sent: None })).await;
    }

    /// Sends a message that has no answer, if the queue has room.
    pub(super) fn tell_now(&self, body: Vec<u8>) {
        let _lost = self.lines.try_send(Outbound { body, sent: None });
    }

    /// Returns once the connection is gone, with why.
    pub(super) async fn ended(&self) -> Gone {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(gone) => gone.clone(),
            Err(_) => None,
        }
        .unwrap_or(Gone { why: "died", detail: "the connection ended".to_owned() })
    }

    /// Ends the child in the orderly way, and returns when it and its group are gone.
    pub(super) async fn close(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(Duration::from_secs(5), &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// The child's side of the connection, for the task that owns it.
struct Wire {
    inbox: mpsc::Receiver<Outbound>,
    reader: Reader,
    pending: Arc<Pending>,
    ended: watch::Sender<Option<Gone>>,
    stopped: watch::Receiver<bool>,
}

async fn talk<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    inbox: &mut mpsc::Receiver<Outbound>,
    reader: &mut Reader,
    stdin: W,
    stdout: R,
) -> Gone {
    tokio::select! {
        gone = reader.run(stdout) => gone,
        gone = write(inbox, stdin) => gone,
    }
}

async fn write<W: AsyncWrite + Unpin>(inbox: &mut mpsc::Receiver<Outbound>, mut stdin: W) -> Gone {
    let mut batch = Vec::with_capacity(8 << 10);
    while let Some(first) = inbox.recv().await {
        batch.clear();
        let mut next = Some(first);
        while let Some(Outbound { body, sent }) = next {
            if sent.is_none_or(|sent| sent.begin()) {
                batch.extend_from_slice(&body);
                batch.push(b'\n');
            }
            next = if batch.len() < 64 << 10 { inbox.try_recv().ok() } else { None };
        }
        if let Err(error) = stdin.write_all(&batch).await {
            // its last words are still to be read
            tokio::time::sleep(Duration::from_millis(200)).await;
            return Gone { why: "died", detail: format!("cannot write to the process: {error}") };
        }
        let _unbuffered = stdin.flush().await;
        batch.shrink_to(256 << 10);
    }
    Gone { why: "stopping", detail: "the connection is not used any more".to_owned() }
}

/// Reads what a child says and sees to it.
struct Reader {
    house: Arc<House>,
    pending: Arc<Pending>,
    replies: mpsc::WeakSender<Outbound>,
    most: usize,
    patience: Duration,
}

impl Reader {
    async fn run<R: AsyncRead + Unpin>(&mut self, stdout: R) -> Gone {
        let mut lines = Lines::new(stdout, self.most.saturating_add(ENVELOPE));
        let mut questions = FuturesUnordered::new();
        let mut garbage = 0;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                Some(answer) = questions.next(), if !questions.is_empty() => {
                    let (id, answer): (Value, Result<Value, Value>) = answer;
                    self.reply(&id, &answer);
                    continue;
                }
            };
            let line = match line {
                Ok(line) if line.is_empty() => continue,
                Ok(line) => line,
                Err(NoLine::Ended) => return Gone { why: "died", detail: "the process closed its output".to_owned() },
                Err(NoLine::TooLong) => {
                    let detail = format!("the process wrote a line of more than {} bytes", self.most);
                    return Gone { why: "too_large", detail };
                }
            };
            match self.line(line) {
                Ok(None) => garbage = 0,
                Ok(Some((id, method, params))) => {
                    garbage = 0;
                    let call = self.pending.only_call();
                    let side = call.as_ref().map(|(link, principal)| Side { link, principal });
                    match (self.house.judge(&method, Some(&params), side), call) {
                        (Ok(()), Some((link, _))) if questions.len() < QUESTIONS => {
                            let patience = self.patience;
                            questions.push(async move {
                                let answer = timeout(patience, ask(link, method, params)).await;
                                (
                                    id,
                                    answer
                                        .unwrap_or_else(|_| Err(refusal(-32000, "the client did not answer in time"))),
                                )
                            });
                        }
                        (Ok(()), _) => self.reply(&id, &Err(refusal(-32000, "too many questions at once"))),
                        (Err(why), _) => self.reply(&id, &Err(refusal(-32601, &why))),
                    }
                }
                Err(line) => {
                    garbage += 1;
                    // what looks like a piece of a message may hold what a tool was told
                    let text = if line.contains(&b'{') { String::new() } else { self.house.visible(&line, 80) };
                    tracing::warn!(upstream = %self.house.name, bytes = line.len(), "a line of output is no message: `{text}`");
                    if garbage >= GARBAGE {
                        let detail = format!("the process wrote {GARBAGE} lines that are no messages");
                        return Gone { why: "bad_answer", detail };
                    }
                }
            }
        }
    }

    /// Sees to one line; gives back a question that has to be judged, or the line if it is no message.
    fn line(&self, line: Bytes) -> Result<Option<(Value, String, Value)>, Bytes> {
        match read(&line, self.most) {
            Ok(Message::Answer(answer)) => self.answer(answer),
            Ok(Message::Notification { method, params }) => self.notification(&method, params),
            Ok(Message::Request { id, method, params: _ }) if method == "ping" => {
                self.reply(&id, &Ok(Object::new().into()));
            }
            Ok(Message::Request { id, method, params }) => return Ok(Some((id, method, params))),
            Err(_) => return Err(line),
        }
        Ok(None)
    }

    fn answer(&self, answer: Answer) {
        let waiting = self.pending.with(|pending| match answer.id {
            Some(id) => pending.remove(&id),
            // an error that names no request can only be an answer to the one question that is open
            None if answer.body.is_err() && pending.len() == 1 => {
                let id = pending.iter().find(|(_, waiting)| waiting.call.is_none()).map(|(id, _)| *id)?;
                pending.remove(&id)
            }
            None => None,
        });
        match waiting {
            Some(waiting) => {
                let _nobody_waits = waiting.answer.send(Ok(answer));
            }
            None => tracing::warn!(upstream = %self.house.name, "an answer to no open request is ignored"),
        }
    }

    fn notification(&self, method: &str, params: Object) {
        match self.house.notified(method, params) {
            About::Progress(id, params) => self.pending.with(|pending| {
                if let Some((link, _)) = pending.get(&id).and_then(|waiting| waiting.call.as_ref())
                    && link.client.wants_progress
                {
                    link.notify(Notice::Progress(params));
                }
            }),
            About::Log(params) => {
                if let Some((link, _)) = self.pending.only_call() {
                    log(&link, params);
                }
            }
            About::Nothing => {}
        }
    }

    fn reply(&self, id: &Value, answer: &Result<Value, Value>) {
        let body = reply(id, answer.as_ref());
        let sent = self.replies.upgrade().map(|lines| lines.try_send(Outbound { body, sent: None }));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!(upstream = %self.house.name, "a reply to the upstream is lost: it does not read");
        }
    }
}

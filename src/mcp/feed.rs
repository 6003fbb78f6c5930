//! Streams that stay open: `subscriptions/listen`, and what a legacy session is told between its requests.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Instant, sleep_until},
};

use super::{
    desk::{Desk, Peer},
    message::RequestId,
    render,
    road::{Following, Road},
    task::Reader,
    under_way::{StreamPlace, Ticket},
};
use crate::{
    call::{Operation, Principal},
    contract::UpstreamName,
    grant::Visibility,
    hold::HoldId,
    json::{self, Digest, Limits, Object, Value},
    ledger::HoldChange,
    pipeline::HouseChange,
    upstream::Change,
};

/// How often the credential behind a stream is judged again.
const RECHECK: Duration = Duration::from_secs(5);

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// What a stream was opened for.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// `notifications/tools/list_changed`
    pub(super) tools: bool,
    /// `notifications/prompts/list_changed`
    pub(super) prompts: bool,
    /// `notifications/resources/list_changed`
    pub(super) resources: bool,
    /// `notifications/resources/updated` of these URIs.
    pub(super) followed: BTreeMap<String, Following>,
    /// `notifications/tasks` of these.
    pub(super) held: BTreeSet<HoldId>,
    /// What the client can do.
    pub(super) capabilities: Object,
}

/// One open stream. It ends when the server stops, when the credential ends or is revoked, and when it is
/// cancelled; a stream of 2026-07-28 says so with its result, save in the last case.
pub(super) struct Feed<R> {
    desk: Arc<Desk<R>>,
    peer: Peer,
    id: Option<RequestId>,
    wants: Wants,
    house: broadcast::Receiver<HouseChange>,
    upstreams: broadcast::Receiver<(UpstreamName, Change)>,
    holds: broadcast::Receiver<HoldChange>,
    stop: watch::Receiver<bool>,
    cancelled: Option<watch::Receiver<bool>>,
    offered: Digest,
    waiting: VecDeque<Vec<u8>>,
    recheck: Instant,
    /// What it woke up by, until that is dealt with.
    woken: Option<Woken>,
    over: bool,
    ticket: Option<Ticket>,
    _places: Vec<StreamPlace>,
    _counted: Option<Following>,
}

impl<R> std::fmt::Debug for Feed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("id", &self.id).field("wants", &self.wants).finish_non_exhaustive()
    }
}

impl<R: Road> Feed<R> {
    /// Opens a stream: `id` is the request of `subscriptions/listen`, `None` for a legacy session.
    pub(super) fn new(
        desk: Arc<Desk<R>>,
        peer: Peer,
        id: Option<RequestId>,
        wants: Wants,
        places: Vec<StreamPlace>,
        ticket: Option<Ticket>,
        cancelled: Option<watch::Receiver<bool>>,
    ) -> Self {
        let (house, upstreams) = (desk.road.house_changes(), desk.road.upstream_changes());
        let holds = desk.road.hold_changes();
        let (stop, offered) = (desk.stop.clone(), offered(&desk.road, peer.who.principal()));
        let counted = desk.road.stream_opened(peer.who.principal());
        let mut feed = Self {
            desk,
            peer,
            id,
            wants,
            house,
            upstreams,
            holds,
            stop,
            cancelled,
            offered,
            waiting: VecDeque::new(),
            recheck: Instant::now() + RECHECK,
            woken: None,
            over: false,
            ticket,
            _places: places,
            _counted: counted,
        };
        if feed.id.is_some() {
            let mut honoured = Object::new();
            for (name, on) in [
                ("toolsListChanged", feed.wants.tools),
                ("promptsListChanged", feed.wants.prompts),
                ("resourcesListChanged", feed.wants.resources),
            ] {
                if on {
                    honoured.insert(name, true);
                }
            }
            if !feed.wants.followed.is_empty() {
                let uris: Vec<Value> = feed.wants.followed.keys().map(|uri| Value::from(uri.as_str())).collect();
                honoured.insert("resourceSubscriptions", uris);
            }
            if !feed.wants.held.is_empty() {
                let ids: Vec<Value> = feed.wants.held.iter().map(|hold| Value::from(hold.as_str())).collect();
                honoured.insert("taskIds", ids);
            }
            let params = Object::new().with("notifications", honoured);
            feed.tell("notifications/subscriptions/acknowledged", params);
            // what happened between the task's beginning and this stream's would not be told otherwise
            feed.tell_tasks();
        }
        feed
    }

    /// The next message; `None` when the stream is over. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            if self.over {
                return None;
            }
            // kept while the credential is judged, which may take a while in which this is dropped: nothing is lost then
            if self.woken.is_none() {
                self.woken = Some(self.wait().await);
            }
            match self.woken {
                Some(Woken::Cancelled) => self.over = true,
                Some(
                    Woken::Stop
                    | Woken::House(Err(RecvError::Closed))
                    | Woken::Upstream(Err(RecvError::Closed))
                    | Woken::Hold(Err(RecvError::Closed)),
                )
                | None => self.end(),
                Some(_) => self.judge_again().await,
            }
            let woken = self.woken.take();
            if self.over {
                continue;
            }
            match woken {
                Some(Woken::Recheck) => self.recheck = Instant::now() + RECHECK,
                Some(Woken::House(Ok(HouseChange::Offers) | Err(RecvError::Lagged(_)))) => self.offers_changed(),
                Some(Woken::Upstream(Ok((upstream, change)))) => self.upstream_changed(&upstream, &change),
                Some(Woken::Upstream(Err(_))) => self.missed(),
                Some(Woken::Hold(Ok(change))) if self.wants.held.contains(&change.hold) => self.tell_task(&change.hold),
                Some(Woken::Hold(Err(_))) => self.tell_tasks(),
                _ => {}
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let cancelled = async {
            match &mut self.cancelled {
                Some(cancelled) => told(cancelled).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = told(&mut self.stop) => Woken::Stop,
            () = cancelled => Woken::Cancelled,
            () = sleep_until(self.recheck) => Woken::Recheck,
            change = self.house.recv() => Woken::House(change),
            change = self.upstreams.recv() => Woken::Upstream(change),
            change = self.holds.recv() => Woken::Hold(change),
        }
    }

    fn offers_changed(&mut self) {
        let now = offered(&self.desk.road, self.peer.who.principal());
        if self.wants.tools && now != self.offered {
            self.tell("notifications/tools/list_changed", Object::new());
        }
        self.offered = now;
    }

    fn upstream_changed(&mut self, upstream: &UpstreamName, change: &Change) {
        let (wanted, operation) = match change {
            // what an upstream offers counts once the catalog says so
            Change::Tools => return,
            Change::Resources => (self.wants.resources, Operation::ReadResource),
            Change::Prompts => (self.wants.prompts, Operation::GetPrompt),
            Change::Resource { uri } => (self.follows(uri), Operation::ReadResource),
        };
        if !wanted {
            return;
        }
        if !self.desk.road.reachable(self.peer.who.principal(), operation).contains(upstream) {
            return;
        }
        match change {
            Change::Tools => {}
            Change::Resources => self.tell("notifications/resources/list_changed", Object::new()),
            Change::Prompts => self.tell("notifications/prompts/list_changed", Object::new()),
            Change::Resource { uri } => {
                self.tell("notifications/resources/updated", Object::new().with("uri", uri.as_str()));
            }
        }
    }

    /// Changes were lost: anything may have changed.
    fn missed(&mut self) {
        if self.wants.resources {
            self.tell("notifications/resources/list_changed", Object::new());
        }
        if self.wants.prompts {
            self.tell("notifications/prompts/list_changed", Object::new());
        }
        for uri in self.wants.followed.keys().cloned().collect::<Vec<_>>() {
            self.tell("notifications/resources/updated", Object::new().with("uri", uri));
        }
    }

    /// Tells where a task stands, as `tasks/get` would.
    fn tell_task(&mut self, hold: &HoldId) {
        let reader = Reader { modern: self.peer.modern(), capabilities: &self.wants.capabilities };
        if let Some(task) = self.desk.held(&self.peer, reader, hold) {
            self.tell("notifications/tasks", task.shown());
        }
    }

    fn tell_tasks(&mut self) {
        for hold in self.wants.held.clone() {
            self.tell_task(&hold);
        }
    }

    fn follows(&self, uri: &str) -> bool {
        match &self.peer.session {
            Some(session) => self.desk.follows(session, uri),
            None => self.wants.followed.contains_key(uri),
        }
    }

    /// Judges the credential again; ends the stream when it is good no more.
    async fn judge_again(&mut self) {
        match (self.peer.again)().await {
            Some(who) => self.peer.who = who,
            None => self.end(),
        }
    }

    fn tell(&mut self, method: &str, params: Object) {
        let mut whole = Object::new();
        if let Some(meta) = self.subscription() {
            whole.insert("_meta", meta);
        }
        for (name, value) in params.iter() {
            whole.insert(name, value.clone());
        }
        self.waiting.push_back(render::notification(method, whole));
    }

    fn subscription(&self) -> Option<Object> {
        let id = json::parse(self.id.as_ref()?.json().as_bytes(), &Limits::REQUEST).ok()?;
        Some(Object::new().with(SUBSCRIPTION, id))
    }

    fn end(&mut self) {
        self.over = true;
        if let (Some(id), Some(meta)) = (&self.id, self.subscription()) {
            let result = Object::new().with("resultType", "complete").with("_meta", meta);
            self.waiting.push_back(render::result_of(id, result));
        }
    }
}

impl<R> Drop for Feed<R> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.done();
        }
    }
}

enum Woken {
    Stop,
    Cancelled,
    Recheck,
    House(Result<HouseChange, RecvError>),
    Upstream(Result<(UpstreamName, Change), RecvError>),
    Hold(Result<HoldChange, RecvError>),
}

/// Returns once the switch is on, or whoever held it is gone.
pub(super) async fn told(switch: &mut watch::Receiver<bool>) {
    let _gone = switch.wait_for(|on| *on).await.map(drop);
}

/// What a principal is offered, as one digest.
fn offered(road: &impl Road, principal: &Principal) -> Digest {
    let mut all = Vec::new();
    for (tool, visibility) in road.offers(principal) {
        all.extend_from_slice(&tool.digest.0);
        all.extend_from_slice(tool.name.as_bytes());
        all.push(match visibility {
            Visibility::Allow => 0xfe,
            Visibility::Hold => 0xff,
        });
    }
    Digest::of(&all)
}

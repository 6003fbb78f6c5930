//! The one writer: gathers what waits into groups, makes each durable, wakes who waited.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{Semaphore, TryAcquireError, oneshot, watch};

use super::{
    entry::{self, Ending, Settlement},
    holds::{self, Holds, NotChanged},
    store::{Appended, Content, Group, Head, Kept, Snapshot, Store, Stored},
    tree::{self, Frontier},
    views::Views,
};
use crate::{
    call::Fault,
    clock::{Clock, Timestamp},
    hold::{Book, Change, Rejected, Spend},
};

/// The most entries and bytes in one group.
const GROUP_ENTRIES: usize = 1_024;
const GROUP_BYTES: usize = 1 << 20;
/// How long entries that nobody waits for may gather.
const LINGER: Duration = Duration::from_millis(10);
/// How far behind the disk may be before a batched intent waits for it like any other: with the linger and one
/// more write this keeps within the promised 50 ms.
const LAG: Duration = Duration::from_millis(25);
/// What may wait to be written, in KiB, each entry counted as one at least.
const ROOM: u32 = 32 << 10;
/// The most intents without outcome.
pub(super) const MOST_OPEN: usize = 16_384;
/// Entries between two snapshots of the views.
const SNAPSHOT_EVERY: u64 = 50_000;

/// Something to be written.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) text: Vec<u8>,
    pub(super) kept: Option<Kept>,
    pub(super) effect: Effect,
    /// What it changes of holds and approvers; checked as it is taken in.
    pub(super) change: Option<Change>,
    /// The hold that it spends, in an entry right before it.
    pub(super) spends: Option<Box<Spending>>,
}

/// An entry that spends a hold.
#[derive(Debug)]
pub(super) struct Spending {
    pub(super) text: Vec<u8>,
    pub(super) change: Change,
    pub(super) spend: Spend,
    pub(super) at: Timestamp,
}

impl Item {
    pub(super) fn new(text: Vec<u8>, effect: Effect) -> Self {
        Self { text, kept: None, effect, change: None, spends: None }
    }

    /// The file that its payload is in, if it is in one.
    pub(super) fn file(&self) -> Option<crate::json::Digest> {
        match self.kept.as_ref()?.content {
            Content::File(name) => Some(name),
            Content::Here(_) => None,
        }
    }

    /// How many entries it is.
    fn entries(&self) -> u64 {
        1 + u64::from(self.spends.is_some())
    }
}

/// What an entry changes besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// It is an intent.
    Opens,
    /// It is the outcome of that intent.
    Settles(u64),
    /// It changes the views.
    Folds,
    /// The payload of that entry goes.
    Redacts(u64),
}

#[derive(Debug)]
struct Waiting {
    item: Item,
    /// The index of its own entry.
    seq: u64,
    room: u32,
    waiter: Option<oneshot::Sender<Result<u64, Fault>>>,
}

#[derive(Debug)]
struct Queue {
    /// Holds and approvers, with the changes that wait to be written: what a change is checked against.
    book: Book,
    waiting: VecDeque<Waiting>,
    /// The index that the next entry gets.
    next: u64,
    /// How many of those waiting have a waiter.
    waiters: usize,
    /// Since when the oldest has waited.
    since: Instant,
    /// Since when the group that is being written has waited.
    writing: Option<Instant>,
    open: usize,
    sleeping: bool,
    closing: bool,
    fault: Option<Fault>,
}

/// What the committer shares with those who append and read.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    room: Semaphore,
    healthy: AtomicBool,
    durable: AtomicU64,
    /// How many of these the views and holds know of.
    applied: AtomicU64,
    /// Told after each group, and when the ledger failed.
    grown: watch::Sender<()>,
    views: ArcSwap<Views>,
    pub(super) holds: Holds,
    /// The last checkpoint that was published, for the next head.
    pub(super) published: Mutex<String>,
}

impl Shared {
    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// How many entries are durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn views(&self) -> Arc<Views> {
        self.views.load_full()
    }

    fn fail(&self, fault: &Fault) {
        self.healthy.store(false, Ordering::Release);
        self.grown.send_replace(());
        self.room.close();
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.fault = Some(fault.clone());
            queue.waiters = 0;
            std::mem::take(&mut queue.waiting)
        };
        for waiter in waiting.into_iter().filter_map(|waiting| waiting.waiter) {
            // who went away needs no answer
            let _gone = waiter.send(Err(fault.clone()));
        }
    }
}

/// The writing end of a ledger. Dropping it writes out what waits.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Recovers what the store holds, settles open intents as `unknown`, and starts to write. Returns the
    /// indices of those intents.
    pub(super) fn start(store: Arc<dyn Store>, payloads: &Path, clock: Clock) -> Result<(Self, Vec<u64>), Fault> {
        let head = store.head()?;
        let orphans = head.open.clone();
        let (views, folded) = recover_views(&*store, head.frontier.size())?;
        let book = holds::recover(&*store, payloads, &views, folded, head.frontier.size())?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                book: Book::default(),
                waiting: VecDeque::new(),
                next: 0,
                waiters: 0,
                since: Instant::now(),
                writing: None,
                open: 0,
                sleeping: false,
                closing: false,
                fault: None,
            }),
            ready: Condvar::new(),
            room: Semaphore::new(ROOM as usize),
            healthy: AtomicBool::new(true),
            durable: AtomicU64::new(head.frontier.size()),
            applied: AtomicU64::new(head.frontier.size()),
            grown: watch::channel(()).0,
            holds: Holds::new(book),
            views: ArcSwap::from_pointee(views),
            published: Mutex::new(head.checkpoint.clone()),
        });
        let mut writer = Writer {
            store,
            clock,
            open: head.open.into_iter().collect(),
            frontier: head.frontier,
            shared: Arc::clone(&shared),
            snapshot: folded,
        };
        writer.settle_open("crash")?;
        writer.snapshot_when_due()?;
        {
            let mut queue = lock(&shared.queue);
            queue.next = writer.frontier.size();
            queue.book = shared.holds.look(Book::clone);
        }
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| Fault(format!("the ledger's thread cannot be started: {error}")))?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, orphans))
    }

    /// Appends and waits until it is durable; gives its index.
    pub(super) async fn write(&self, item: Item) -> Result<u64, Fault> {
        self.change(item).await.map_err(plain)
    }

    /// As [`Committer::write`], for what changes holds or approvers: it is not appended when that change cannot be.
    pub(super) async fn change(&self, item: Item) -> Result<u64, NotChanged> {
        let room = room_for(&item);
        let permit = self.shared.room.acquire_many(room).await.map_err(|_| self.why_not())?;
        permit.forget();
        let (waiter, written) = oneshot::channel();
        self.push(item, room, Some(waiter))?;
        Ok(written.await.unwrap_or_else(|_| Err(self.why_not()))?)
    }

    /// Waits until everything that waits now is durable.
    pub(super) async fn flush(&self) -> Result<(), Fault> {
        let target = lock(&self.shared.queue).next;
        let mut durable = self.shared.grown.subscribe();
        loop {
            if self.shared.applied.load(Ordering::Acquire) >= target {
                return Ok(());
            }
            if !self.shared.healthy() || durable.changed().await.is_err() {
                return Err(self.why_not());
            }
        }
    }

    /// Appends, waiting for room only; gives the index that it will have.
    pub(super) async fn enqueue(&self, item: Item) -> Result<u64, Fault> {
        let room = room_for(&item);
        let permit = self.shared.room.acquire_many(room).await.map_err(|_| self.why_not())?;
        permit.forget();
        self.push(item, room, None).map_err(plain)
    }

    /// Appends when there is room and the disk keeps up; waits for the disk when it does not.
    pub(super) async fn write_behind(&self, item: Item) -> Result<u64, Fault> {
        let behind = {
            let queue = lock(&self.shared.queue);
            let oldest = queue.writing.or((!queue.waiting.is_empty()).then_some(queue.since));
            oldest.is_some_and(|since| since.elapsed() > LAG)
        };
        if behind {
            return self.write(item).await;
        }
        let room = room_for(&item);
        match self.shared.room.try_acquire_many(room) {
            Ok(permit) => permit.forget(),
            Err(TryAcquireError::NoPermits) => return Err(Fault("too much waits to be written".to_owned())),
            Err(TryAcquireError::Closed) => return Err(self.why_not()),
        }
        self.push(item, room, None).map_err(plain)
    }

    fn push(
        &self,
        item: Item,
        room: u32,
        waiter: Option<oneshot::Sender<Result<u64, Fault>>>,
    ) -> Result<u64, NotChanged> {
        let mut queue = lock(&self.shared.queue);
        if let Some(fault) = &queue.fault {
            return Err(fault.clone().into());
        }
        let full = match item.effect {
            Effect::Opens if queue.open >= MOST_OPEN => Some("too many calls are under way"),
            _ if queue.closing => Some("the ledger is closed"),
            _ => None,
        };
        if let Some(why) = full {
            drop(queue);
            self.shared.room.add_permits(room as usize);
            return Err(Fault(why.to_owned()).into());
        }
        let seq = queue.next + item.entries() - 1;
        if let Err(rejected) = queue.book.take(&item, seq) {
            drop(queue);
            self.shared.room.add_permits(room as usize);
            return Err(NotChanged::Rejected(rejected));
        }
        match item.effect {
            Effect::Opens => queue.open += 1,
            Effect::Settles(_) => queue.open = queue.open.saturating_sub(1),
            _ => {}
        }
        queue.next = seq + 1;
        if queue.waiting.is_empty() {
            queue.since = Instant::now();
        }
        let first = queue.waiting.is_empty() || (waiter.is_some() && queue.waiters == 0);
        queue.waiters += usize::from(waiter.is_some());
        queue.waiting.push_back(Waiting { item, seq, room, waiter });
        let wake = queue.sleeping && (first || queue.waiting.len() >= GROUP_ENTRIES);
        drop(queue);
        if wake {
            self.shared.ready.notify_one();
        }
        Ok(seq)
    }

    fn why_not(&self) -> Fault {
        let fault = lock(&self.shared.queue).fault.clone();
        fault.unwrap_or_else(|| Fault("the ledger is closed".to_owned()))
    }

    /// Writes out what waits, settles what is open and stops; blocks until that is done.
    pub(super) fn stop(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.ready.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // a panic in it has poisoned the ledger already
            let _panicked = thread.join();
        }
        self.shared.room.close();
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread's own state: as of the last group that is durable.
struct Writer {
    store: Arc<dyn Store>,
    clock: Clock,
    frontier: Frontier,
    open: BTreeSet<u64>,
    shared: Arc<Shared>,
    /// The size at the last snapshot.
    snapshot: u64,
}

impl Writer {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work()));
        let fault = match worked {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault,
            Err(_) => Fault("the ledger's writer panicked".to_owned()),
        };
        tracing::error!(%fault, "the ledger cannot be written: every call is refused from now on");
        shared.fail(&fault);
    }

    fn work(&mut self) -> Result<(), Fault> {
        while let Some(group) = self.next_group() {
            let room = group.iter().map(|waiting| waiting.room as usize).sum();
            let (items, waiters): (Vec<_>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.item, (waiting.waiter, waiting.seq))).unzip();
            let result = self.commit(items);
            if result.is_err() {
                // who is told of the failure finds the ledger unhealthy
                self.shared.healthy.store(false, Ordering::Release);
            }
            for (waiter, seq) in waiters {
                if let Some(waiter) = waiter {
                    // who went away needs no answer
                    let _gone = waiter.send(result.clone().map(|()| seq));
                }
            }
            result?;
            lock(&self.shared.queue).writing = None;
            self.shared.room.add_permits(room);
            self.snapshot_when_due()?;
        }
        self.settle_open("stopping")?;
        if self.snapshot != self.frontier.size() {
            self.remember()?;
        }
        Ok(())
    }

    /// Waits for something to write; `None` when the ledger is closed and nothing waits.
    fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut queue = lock(&self.shared.queue);
        loop {
            if queue.waiting.is_empty() {
                if queue.closing {
                    return None;
                }
                queue.sleeping = true;
                queue = self.shared.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.sleeping = false;
                continue;
            }
            let waited = queue.since.elapsed();
            if queue.waiters > 0 || queue.closing || queue.waiting.len() >= GROUP_ENTRIES || waited >= LINGER {
                break;
            }
            queue.sleeping = true;
            let (back, _) =
                self.shared.ready.wait_timeout(queue, LINGER - waited).unwrap_or_else(PoisonError::into_inner);
            queue = back;
            queue.sleeping = false;
        }
        let mut group = Vec::with_capacity(queue.waiting.len().min(GROUP_ENTRIES));
        let mut bytes = 0;
        while let Some(waiting) = queue.waiting.front() {
            bytes += size_of_item(&waiting.item);
            if !group.is_empty() && (bytes > GROUP_BYTES || group.len() == GROUP_ENTRIES) {
                break;
            }
            group.extend(queue.waiting.pop_front());
        }
        queue.waiters -= group.iter().filter(|waiting| waiting.waiter.is_some()).count();
        queue.writing = Some(queue.since);
        queue.since = Instant::now();
        Some(group)
    }

    /// Makes one group durable, then visible.
    fn commit(&mut self, items: Vec<Item>) -> Result<(), Fault> {
        let first = self.frontier.size();
        let mut frontier = self.frontier.clone();
        let mut group = Group { first, ..Group::default() };
        let (mut folds, mut made) = (Vec::new(), Vec::new());
        for item in items {
            if let Some(spending) = item.spends {
                let seq = frontier.size();
                let text = Bytes::from(spending.text);
                let hash = tree::leaf(&text);
                frontier.push(hash);
                group.entries.push(Stored { text, hash });
                made.push((seq, Made::Change(spending.change)));
            }
            let seq = frontier.size();
            let text = Bytes::from(item.text);
            made.extend(item.change.map(|change| (seq, Made::Change(change))));
            let hash = tree::leaf(&text);
            frontier.push(hash);
            match item.effect {
                Effect::None => {}
                Effect::Opens => {
                    self.open.insert(seq);
                }
                Effect::Settles(intent) => {
                    self.open.remove(&intent);
                    made.push((seq, Made::Outcome(intent, text.clone())));
                }
                Effect::Folds => folds.push(text.clone()),
                Effect::Redacts(entry) => group.redacted.push(entry),
            }
            group.payloads.extend(item.kept.map(|kept| (seq, kept)));
            group.entries.push(Stored { text, hash });
        }
        group.head = Head {
            frontier: frontier.clone(),
            open: self.open.iter().copied().collect(),
            checkpoint: lock(&self.shared.published).clone(),
        };
        match self.store.append(&group)? {
            Appended::Written => {}
            Appended::Conflict { size } => {
                return Err(Fault(format!(
                    "another writer made the log {size} entries long where this one knows {first}"
                )));
            }
        }
        if !folds.is_empty() {
            let mut views = Views::clone(&self.shared.views.load());
            folds.iter().for_each(|text| views.fold(text));
            self.shared.views.store(Arc::new(views));
        }
        self.frontier = frontier;
        // whoever is told of a change finds its entry
        self.shared.durable.store(self.frontier.size(), Ordering::Release);
        for (seq, made) in made {
            let change = match made {
                Made::Change(change) => Some(change),
                Made::Outcome(intent, text) => self.shared.holds.look(|book| holds::settles(book, intent, &text)),
            };
            if let Some(change) = change {
                self.shared.holds.made(&change, seq);
            }
        }
        self.shared.applied.store(self.frontier.size(), Ordering::Release);
        self.shared.grown.send_replace(());
        Ok(())
    }

    /// Settles every open intent as `unknown`.
    fn settle_open(&mut self, why: &str) -> Result<(), Fault> {
        let open: Vec<u64> = self.open.iter().copied().collect();
        for intents in open.chunks(GROUP_ENTRIES / 4) {
            let at = self.clock.now();
            let items = intents.iter().map(|intent| self.unknown(*intent, at, why)).collect::<Result<_, _>>()?;
            self.commit(items)?;
        }
        Ok(())
    }

    fn unknown(&self, intent: u64, at: Timestamp, why: &str) -> Result<Item, Fault> {
        let entry = self.store.read(intent, 1)?.pop();
        let entry = entry.ok_or_else(|| Fault(format!("the store is damaged: entry {intent} is missing")))?;
        let call = entry::member(&entry.text, "call").unwrap_or_default();
        let settlement = Settlement::Unknown;
        let ending = Ending {
            intent,
            call,
            settlement,
            why: Some(why),
            result: None,
            took_us: None,
            findings: &[],
            lease: None,
            reason: None,
        };
        Ok(Item::new(entry::settled(at, &ending)?, Effect::Settles(intent)))
    }

    fn snapshot_when_due(&mut self) -> Result<(), Fault> {
        if self.frontier.size() - self.snapshot >= SNAPSHOT_EVERY { self.remember() } else { Ok(()) }
    }

    fn remember(&mut self) -> Result<(), Fault> {
        let size = self.frontier.size();
        let state = self.shared.holds.look(|book| self.shared.views.load().to_snapshot(book));
        self.store.remember(&Snapshot { size, state })?;
        self.snapshot = size;
        Ok(())
    }
}

/// The views over the whole log, and up to where they had been folded before.
fn recover_views(store: &dyn Store, size: u64) -> Result<(Views, u64), Fault> {
    let known = store.snapshot()?.filter(|snapshot| snapshot.size <= size);
    let known = known.and_then(|snapshot| Some((Views::of_snapshot(&snapshot.state)?, snapshot.size)));
    let (mut views, folded) = known.unwrap_or_default();
    let mut from = folded;
    while from < size {
        let entries = store.read(from, 1_024)?;
        if entries.is_empty() {
            return Err(Fault(format!("the store is damaged: entry {from} is missing")));
        }
        entries.iter().filter(|entry| Views::concerns(&entry.text)).for_each(|entry| views.fold(&entry.text));
        from += entries.len() as u64;
    }
    Ok((views, folded))
}

/// What an entry of a group means for holds, once it is durable.
enum Made {
    /// It is this change.
    Change(Change),
    /// It is the outcome of that intent, which may be the run of a hold.
    Outcome(u64, Bytes),
}

impl Book {
    /// Checks what an item changes and takes it in.
    fn take(&mut self, item: &Item, seq: u64) -> Result<(), Rejected> {
        if let Some(spending) = &item.spends {
            self.may_spend(&spending.spend, spending.at)?;
            self.apply(&spending.change, seq - 1)?;
        }
        if let Effect::Settles(intent) = item.effect
            && let Some(change) = holds::settles(self, intent, &item.text)
        {
            self.apply(&change, seq)?;
        }
        item.change.as_ref().map_or(Ok(()), |change| self.apply(change, seq))
    }
}

/// For what changes nothing that could be rejected.
fn plain(not: NotChanged) -> Fault {
    match not {
        NotChanged::Fault(fault) => fault,
        NotChanged::Rejected(rejected) => Fault(rejected.to_string()),
    }
}

fn size_of_item(item: &Item) -> usize {
    let kept = match &item.kept {
        Some(Kept { content: Content::Here(bytes), .. }) => bytes.len(),
        _ => 0,
    };
    item.text.len() + kept + item.spends.as_ref().map_or(0, |spending| spending.text.len())
}

fn room_for(item: &Item) -> u32 {
    u32::try_from(size_of_item(item) >> 10).unwrap_or(ROOM).clamp(1, ROOM)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

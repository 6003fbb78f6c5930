//! Holds in the ledger: how their changes are written, read back, made one after the other, and looked at.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use tokio::sync::{broadcast, watch};

use super::{
    Ledger, Reply,
    committer::{Effect, Item},
    entry::{self, Commitment, Line},
    payloads,
    store::{Content, Kept, Store},
    views::Views,
};
use crate::{
    call::{self, CallId, Caller, Fault, Operation, Principal, Refused, Validated},
    clock::Timestamp,
    grant::{Basis, Held},
    hold::{
        Assurance, Book, Bound, Change, Claims, Credential, Demand, Drift, Hold, HoldId, NOT_SENT, Phase, Proof,
        Record, Rejected, Roster, SignIn, Statement, Warrant, statement,
    },
    json::{self, Digest, Limits, Number, Object, Value},
    passkey::{Assertion, Passkey},
};

/// Changes of holds that a slow listener may lag behind.
const CHANGES: usize = 4_096;
/// Demands that one hold may have.
const DEMANDS: usize = 32;
/// Times that a call tries to find its place among others that do the same.
const TURNS: usize = 8;

/// A hold came to stand elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldChange {
    /// Which.
    pub hold: HoldId,
    /// The entry that says so.
    pub seq: u64,
    /// That entry's kind, such as `hold.approved`.
    pub kind: &'static str,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotChanged {
    /// It cannot be.
    Rejected(Rejected),
    /// It could not be written.
    Fault(Fault),
}

impl fmt::Display for NotChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejected) => rejected.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for NotChanged {}

impl From<Fault> for NotChanged {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A call whose hold is durable. Minted here only.
#[derive(Debug)]
pub struct Parked {
    call: Validated,
    hold: Arc<Hold>,
}

impl Parked {
    /// The call that waits.
    pub fn call(&self) -> &Validated {
        &self.call
    }

    /// What it waits for.
    pub fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// The call, to be decided again.
    pub fn into_call(self) -> Validated {
        self.call
    }
}

/// What a call meets that was made before.
#[derive(Debug)]
pub enum Met {
    /// Its hold.
    Parked(Parked),
    /// A denial.
    Refused((Refused, Caller, Basis)),
}

/// The durable book, and who listens.
#[derive(Debug)]
pub(super) struct Holds {
    book: RwLock<Book>,
    watched: Mutex<HashMap<HoldId, watch::Sender<Phase>>>,
    changes: broadcast::Sender<HoldChange>,
}

impl Holds {
    pub(super) fn new(book: Book) -> Self {
        Self { book: RwLock::new(book), watched: Mutex::default(), changes: broadcast::channel(CHANGES).0 }
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes in a change that is durable now.
    pub(super) fn made(&self, change: &Change, seq: u64) {
        let mut book = self.book.write().unwrap_or_else(PoisonError::into_inner);
        let intent = match change {
            Change::Settled { intent, .. } => book.run_by(*intent).cloned(),
            _ => None,
        };
        if let Err(rejected) = book.apply(change, seq) {
            // the same was checked before it was written; a call that only one of the two books knows is not run
            tracing::error!(seq, why = rejected.code(), "a written change of a hold does not fit");
            if let Some(id) = id_of(change) {
                book.distrust(id, seq);
            }
        }
        let Some(id) = id_of(change).cloned().or(intent) else { return };
        let phase = book.get(&id).map(|record| record.phase.clone());
        drop(book);
        if let Some(phase) = phase {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let ends = phase.is_final();
            if let Some(watch) = watched.get(&id) {
                watch.send_replace(phase);
            }
            if ends {
                watched.remove(&id);
            }
        }
        // an error means that nobody listens
        let _nobody = self.changes.send(HoldChange { hold: id, seq, kind: kind_of(change) });
    }

    fn watch(&self, id: &HoldId) -> Option<watch::Receiver<Phase>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watched.get(id) {
            return Some(watch.subscribe());
        }
        // looked at under the lock of those who are told: a change after this look is told
        let phase = self.look(|book| book.get(id).map(|record| record.phase.clone()))?;
        watched.retain(|_, watch| watch.receiver_count() > 0);
        let (sender, receiver) = watch::channel(phase.clone());
        if !phase.is_final() {
            watched.insert(id.clone(), sender);
        }
        Some(receiver)
    }
}

fn id_of(change: &Change) -> Option<&HoldId> {
    match change {
        Change::Opened(hold) => Some(&hold.id),
        Change::Approved { hold, .. }
        | Change::Denied { hold, .. }
        | Change::Expired { hold, .. }
        | Change::Cancelled { hold, .. }
        | Change::Void { hold, .. }
        | Change::Spent { hold, .. } => Some(hold),
        Change::Settled { .. }
        | Change::ApproverAdded { .. }
        | Change::ApproverEnrolled { .. }
        | Change::ApproverSignedIn { .. }
        | Change::ApproverRemoved { .. } => None,
    }
}

fn kind_of(change: &Change) -> &'static str {
    match change {
        Change::Opened(_) => "call.held",
        Change::Approved { .. } => "hold.approved",
        Change::Denied { .. } => "hold.denied",
        Change::Expired { .. } => "hold.expired",
        Change::Cancelled { .. } => "hold.cancelled",
        Change::Void { .. } => "hold.void",
        Change::Spent { .. } => "hold.spent",
        Change::Settled { .. } => "call.settled",
        Change::ApproverAdded { .. } => "approver.added",
        Change::ApproverEnrolled { .. } => "approver.enrolled",
        Change::ApproverSignedIn { .. } => "approver.signed_in",
        Change::ApproverRemoved { .. } => "approver.removed",
    }
}

/// Kinds of entries that change the book by themselves; `call.settled` does only when its intent was a hold's.
const KINDS: [&str; 11] = [
    "call.held",
    "hold.approved",
    "hold.denied",
    "hold.expired",
    "hold.cancelled",
    "hold.void",
    "hold.spent",
    "approver.added",
    "approver.enrolled",
    "approver.signed_in",
    "approver.removed",
];

/// Whether an entry may change the book: a glance at its kind.
pub(super) fn concerns(text: &[u8], book: &Book) -> bool {
    match entry::member(text, "kind") {
        Some("call.settled") => intent_of(text).is_some_and(|intent| book.awaits(intent)),
        Some(kind) => KINDS.contains(&kind),
        None => false,
    }
}

/// The index of the intent that an outcome is of.
pub(super) fn intent_of(text: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(text, b"\"intent\":")? + 9;
    let rest = text.get(at..)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// The change that an outcome is, if its intent was a hold's.
pub(super) fn settles(book: &Book, intent: u64, text: &[u8]) -> Option<Change> {
    if !book.awaits(intent) {
        return None;
    }
    Some(Change::Settled { intent, outcome: outcome_of(text) })
}

fn outcome_of(text: &[u8]) -> String {
    let not_sent = entry::member(text, "why") == Some(NOT_SENT);
    if not_sent { NOT_SENT.to_owned() } else { entry::member(text, "outcome").unwrap_or_default().to_owned() }
}

/// What an entry says of holds and approvers. `arguments` gives the SHA-256 of what is kept beside the entry; without it
/// the hold is like no call's.
///
/// # Errors
/// What is missing or malformed in it.
pub(super) fn read(text: &[u8], seq: u64, arguments: impl FnOnce() -> Option<Digest>) -> Result<Change, String> {
    let tree = entry::tree(text).ok_or("it is not JSON")?;
    let wanted = |name: &str| {
        let found = tree.get(name).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| format!("its member `{name}` is missing"))
    };
    let optional = |name: &str| tree.get(name).and_then(Value::as_str).map(str::to_owned);
    let time = |name: &str| {
        let time = wanted(name)?.parse::<Timestamp>();
        time.map_err(|_| format!("its member `{name}` is no time"))
    };
    let digest = |name: &str| wanted(name)?.parse::<Digest>().map_err(|_| format!("its member `{name}` is no digest"));
    let hold = || HoldId::read(&wanted("hold")?).ok_or("its member `hold` is no hold's id".to_owned());
    let names = |name: &str| -> BTreeSet<String> {
        let listed = tree.get(name).and_then(Value::as_array).unwrap_or_default();
        listed.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    // one that cannot be read is not none: what is bound is never less than what is written
    let list = |name: &str| -> Result<Option<Vec<String>>, String> {
        let Some(found) = tree.get(name) else { return Ok(None) };
        let texts = found.as_array().and_then(|texts| {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        texts.map(Some).ok_or_else(|| format!("its member `{name}` is no list of texts"))
    };
    let at = time("at")?;
    Ok(match wanted("kind")?.as_str() {
        "call.held" => {
            let arguments = arguments();
            Change::Opened(Arc::new(Hold {
                id: hold()?,
                digest: Digest::of(text),
                seq,
                call: wanted("call")?,
                agent: wanted("agent")?,
                issuer: wanted("issuer")?,
                user: optional("user"),
                task: optional("task"),
                claims: Claims {
                    workload: optional("workload"),
                    chain: list("chain")?.unwrap_or_default(),
                    teams: list("teams")?.unwrap_or_default(),
                    scopes: list("scopes")?.unwrap_or_default(),
                    tools: list("tools")?,
                    assurance: optional("assurance"),
                },
                credential: wanted("credential")?,
                credential_expires: match tree.get("credential_expires") {
                    Some(_) => Some(time("credential_expires")?),
                    None => None,
                },
                door: wanted("door")?,
                method: wanted("method")?,
                tool: wanted("tool")?,
                upstream: wanted("upstream")?,
                impact: names("impact").into_iter().collect(),
                contract: digest("contract")?,
                grants: digest("grants")?,
                policies: policies(&tree),
                demands: demands(&tree)?,
                arguments: arguments.unwrap_or_else(|| Digest::of(text)),
                kept: arguments.is_some(),
                created: at,
                approve_by: time("approve_by")?,
                execute_by: time("execute_by")?,
                runs_alone: tree.get("runs_alone").and_then(Value::as_bool) == Some(true),
                idempotent: tree.get("idempotent").and_then(Value::as_bool) == Some(true),
            }))
        }
        "hold.approved" => {
            let proof = proof(&tree).ok_or("what it was signed with cannot be read")?;
            let (means, mark) = (proof.means(), proof.mark());
            Change::Approved {
                hold: hold()?,
                digest: digest("digest")?,
                approver: wanted("approver")?,
                means,
                mark,
                at,
            }
        }
        "hold.denied" => Change::Denied {
            hold: hold()?,
            digest: digest("digest")?,
            approver: wanted("approver")?,
            reason: wanted("reason")?,
            at,
        },
        "hold.expired" => Change::Expired { hold: hold()?, at },
        "hold.cancelled" => Change::Cancelled { hold: hold()?, by: wanted("by")?, at },
        "hold.void" => {
            let why = Drift::read(&wanted("reason")?).ok_or("its reason is unknown")?;
            Change::Void { hold: hold()?, why, at }
        }
        "hold.spent" => Change::Spent { hold: hold()?, call: wanted("call")?, at },
        "call.settled" => {
            let intent = intent_of(text).ok_or("its member `intent` is missing")?;
            Change::Settled { intent, outcome: outcome_of(text) }
        }
        "approver.added" => Change::ApproverAdded {
            name: wanted("approver")?,
            roles: names("roles"),
            also: names("also"),
            by: optional("by"),
            at,
        },
        "approver.enrolled" => {
            let by = match tree.get("proof") {
                None => None,
                Some(by) => Some(proof(by).ok_or("its member `proof` cannot be read")?.means()),
            };
            let credential = match (tree.get("key"), tree.get("passkey")) {
                (Some(_), None) => Credential::Key(key(&wanted("key")?)?),
                (None, Some(passkey)) => {
                    let passkey = Passkey::read(passkey).ok_or("its member `passkey` is no passkey")?;
                    Credential::Passkey(Arc::new(passkey))
                }
                _ => return Err("it has to name a key or a passkey".to_owned()),
            };
            Change::ApproverEnrolled { name: wanted("approver")?, credential, by, at }
        }
        "approver.signed_in" => Change::ApproverSignedIn {
            who: SignIn {
                name: wanted("approver")?,
                provider: wanted("provider")?,
                issuer: wanted("issuer")?,
                subject: wanted("subject")?,
                roles: names("roles"),
                also: names("also"),
                until: time("until")?,
            },
            at,
        },
        "approver.removed" => Change::ApproverRemoved { name: wanted("approver")?, by: optional("by"), at },
        other => return Err(format!("its kind `{}` says nothing of holds", other.escape_debug())),
    })
}

fn key(text: &str) -> Result<[u8; 32], String> {
    let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| "its member `key` is no Ed25519 key".to_owned())
}

/// What shows that an approver signed: in the members of a `hold.approved` entry, or of the `proof` of an
/// `approver.enrolled` one. A key and its signature, or a passkey's digest and the assertion, and not both.
fn proof(members: &Value) -> Option<Proof> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    if let Some(token) = text("token") {
        let others = ["key", "signature", "passkey", "assertion"];
        return others.iter().all(|name| members.get(name).is_none()).then_some(Proof::Vouched {
            issuer: text("issuer")?.to_owned(),
            subject: text("subject")?.to_owned(),
            token: token.parse().ok()?,
            key: text("jwk")?.parse().ok()?,
            evidence: None,
        });
    }
    match (text("key"), text("signature"), text("passkey"), members.get("assertion")) {
        (Some(named), Some(signature), None, None) => {
            Some(Proof::Signature { key: key(named).ok()?, signature: BASE64.decode(signature).ok()? })
        }
        (None, None, Some(passkey), Some(assertion)) => {
            Some(Proof::Assertion { passkey: passkey.parse().ok()?, assertion: Assertion::read(assertion)? })
        }
        _ => None,
    }
}

fn policies(tree: &Value) -> Vec<Arc<str>> {
    let listed = tree.get("policies").and_then(Value::as_array).unwrap_or_default();
    listed.iter().filter_map(Value::as_str).map(Arc::from).collect()
}

fn demands(tree: &Value) -> Result<Vec<Demand>, String> {
    let listed = tree.get("demands").and_then(Value::as_array).unwrap_or_default();
    let one = |demand: &Value| {
        let text = |name: &str| demand.get(name).and_then(Value::as_str);
        let number = |name: &str| demand.get(name).and_then(Value::as_number).and_then(Number::as_i64);
        let assurance = match demand.get("assurance") {
            None => Assurance::Any,
            Some(word) => Assurance::read(word.as_str()?)?,
        };
        Some(Demand {
            policy: text("policy")?.into(),
            role: text("role")?.to_owned(),
            approvals: u8::try_from(number("approvals")?).ok()?,
            assurance,
            expires: u64::try_from(number("expires")?).ok()?,
            reason: text("reason").map(str::to_owned),
        })
    };
    let read: Option<Vec<Demand>> = listed.iter().map(one).collect();
    read.filter(|demands| !demands.is_empty()).ok_or_else(|| "its demands cannot be read".to_owned())
}

/// Whether an approver, as the roster knows them, signed what a `hold.approved` entry says that they did, or what makes an
/// `approver.enrolled` one more than their first. It is asked when an entry is about to be written, and when one is verified.
pub(super) fn is_shown(change: &Change, proof: Option<&Proof>, origin: &str, roster: &Roster) -> bool {
    let shows = |said: &Statement<'_>, approver: &str| {
        proof.zip(roster.get(approver)).is_some_and(|(proof, approver)| proof.shows(said, approver))
    };
    match change {
        Change::Approved { hold, digest, approver, at, .. } => {
            shows(&Statement::Approval { origin, hold, digest, approver, at: *at }, approver)
        }
        Change::ApproverEnrolled { name, credential, by: Some(_), .. } => {
            shows(&Statement::Enrolment { approver: name, means: &credential.means() }, name)
        }
        _ => true,
    }
}

/// What shows that an approver signed, as the entry has it.
pub(super) fn proof_of(change: &Change, tree: &Value) -> Option<Proof> {
    match change {
        Change::Approved { .. } => proof(tree),
        Change::ApproverEnrolled { .. } => proof(tree.get("proof")?),
        _ => None,
    }
}

/// The text of a `call.held` entry.
fn held(origin: &str, hold: &Hold, arguments: &Commitment) -> Result<Vec<u8>, Fault> {
    let demands: Vec<Value> = hold
        .demands
        .iter()
        .map(|demand| {
            let approvals = i64::from(demand.approvals);
            let expires = i64::try_from(demand.expires).unwrap_or(i64::MAX);
            let mut whole = Object::new().with("approvals", approvals);
            // entries of a house that demands none say nothing of it
            if let Some(word) = demand.assurance.word() {
                whole = whole.with("assurance", word);
            }
            let whole = whole
                .with("expires", expires)
                .with("policy", &*demand.policy)
                .with("reason", demand.reason.as_deref().map_or(Value::Null, Value::from))
                .with("role", demand.role.as_str());
            Value::Object(whole)
        })
        .collect();
    let mut line = Line::new();
    line.text("agent", &hold.agent);
    line.time("approve_by", hold.approve_by);
    line.commitment("arguments", arguments);
    line.option("assurance", hold.claims.assurance.as_deref());
    line.time("at", hold.created);
    line.text("call", &hold.call);
    line.list("chain", &hold.claims.chain);
    line.digest("contract", &hold.contract);
    line.text("credential", &hold.credential);
    if let Some(expires) = hold.credential_expires {
        line.time("credential_expires", expires);
    }
    line.raw("demands", &Value::Array(demands).to_bytes());
    line.text("door", &hold.door);
    line.time("execute_by", hold.execute_by);
    line.digest("grants", &hold.grants);
    line.text("hold", hold.id.as_str());
    line.flag("idempotent", hold.idempotent);
    line.texts("impact", hold.impact.iter().map(String::as_str));
    line.text("issuer", &hold.issuer);
    line.text("kind", "call.held");
    line.text("method", &hold.method);
    line.text("origin", origin);
    line.texts("policies", hold.policies.iter().map(|policy| &**policy));
    line.flag("runs_alone", hold.runs_alone);
    line.list("scopes", &hold.claims.scopes);
    line.option("task", hold.task.as_deref());
    line.list("teams", &hold.claims.teams);
    line.text("tool", &hold.tool);
    line.names("tools", hold.claims.tools.as_deref());
    line.text("upstream", &hold.upstream);
    line.option("user", hold.user.as_deref());
    line.option("workload", hold.claims.workload.as_deref());
    line.end()
}

/// The text of the entry of a change that has nothing else to say.
fn plain(change: &Change) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    let kind = kind_of(change);
    match change {
        Change::Denied { hold, digest, approver, reason, at } => {
            line.text("approver", approver);
            line.time("at", *at);
            line.digest("digest", digest);
            line.text("hold", hold.as_str());
            line.text("kind", kind);
            line.text("reason", reason);
        }
        Change::Expired { hold, at } => {
            line.time("at", *at);
            line.text("hold", hold.as_str());
            line.text("kind", kind);
        }
        Change::Cancelled { hold, by, at } => {
            line.time("at", *at);
            line.text("by", by);
            line.text("hold", hold.as_str());
            line.text("kind", kind);
        }
        Change::Void { hold, why, at } => {
            line.time("at", *at);
            line.text("hold", hold.as_str());
            line.text("kind", kind);
            line.text("reason", why.code());
        }
        Change::Spent { hold, call, at } => {
            line.time("at", *at);
            line.text("call", call);
            line.text("hold", hold.as_str());
            line.text("kind", kind);
        }
        Change::ApproverAdded { name, roles, also, by, at } => {
            line.texts("also", also.iter().map(String::as_str));
            line.text("approver", name);
            line.time("at", *at);
            line.option("by", by.as_deref());
            line.text("kind", kind);
            line.texts("roles", roles.iter().map(String::as_str));
        }
        Change::ApproverSignedIn { who, at } => {
            line.texts("also", who.also.iter().map(String::as_str));
            line.text("approver", &who.name);
            line.time("at", *at);
            line.text("issuer", &who.issuer);
            line.text("kind", kind);
            line.text("provider", &who.provider);
            line.texts("roles", who.roles.iter().map(String::as_str));
            line.text("subject", &who.subject);
            line.time("until", who.until);
        }
        Change::ApproverRemoved { name, by, at } => {
            line.text("approver", name);
            line.time("at", *at);
            line.option("by", by.as_deref());
            line.text("kind", kind);
        }
        Change::Opened(_) | Change::Approved { .. } | Change::ApproverEnrolled { .. } | Change::Settled { .. } => {
            return Err(Fault("this change has an entry of its own".to_owned()));
        }
    }
    line.end()
}

/// The text of a `hold.approved` entry.
fn approved(
    hold: &HoldId,
    digest: &Digest,
    approver: &str,
    at: Timestamp,
    proof: &Proof,
    evidence: Option<&Commitment>,
) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    line.text("approver", approver);
    if let Proof::Assertion { assertion, .. } = proof {
        line.raw("assertion", &assertion.entry().to_bytes());
    }
    line.time("at", at);
    line.digest("digest", digest);
    if let Some(evidence) = evidence {
        line.commitment("evidence", evidence);
    }
    line.text("hold", hold.as_str());
    match proof {
        Proof::Signature { key, .. } => line.text("key", &BASE64.encode(key)),
        Proof::Assertion { .. } => {}
        Proof::Vouched { issuer, key, .. } => {
            line.text("issuer", issuer);
            line.digest("jwk", key);
        }
    }
    line.text("kind", "hold.approved");
    match proof {
        Proof::Vouched { subject, token, .. } => {
            line.text("subject", subject);
            line.digest("token", token);
        }
        Proof::Assertion { passkey, .. } => line.digest("passkey", passkey),
        Proof::Signature { signature, .. } => line.text("signature", &BASE64.encode(signature)),
    }
    line.end()
}

/// The text of an `approver.enrolled` entry.
fn enrolled(name: &str, credential: &Credential, at: Timestamp, proof: Option<&Proof>) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    line.text("approver", name);
    line.time("at", at);
    if let Credential::Key(key) = credential {
        line.text("key", &BASE64.encode(key));
    }
    line.text("kind", "approver.enrolled");
    if let Credential::Passkey(passkey) = credential {
        line.raw("passkey", &passkey.entry().to_bytes());
    }
    let proof = proof.and_then(|proof| match proof {
        Proof::Signature { key, signature } => {
            Some(Object::new().with("key", BASE64.encode(key)).with("signature", BASE64.encode(signature)))
        }
        Proof::Assertion { passkey, assertion } => {
            Some(Object::new().with("assertion", assertion.entry()).with("passkey", passkey.to_string()))
        }
        // a provider's word is for one hold, and enrols nobody
        Proof::Vouched { .. } => None,
    });
    if let Some(proof) = proof {
        line.raw("proof", &Value::Object(proof).to_bytes());
    }
    line.end()
}

/// Text of the entry that spends a hold for `call`, and the change.
pub(super) fn spending(hold: &HoldId, call: &str, at: Timestamp) -> Result<(Vec<u8>, Change), Fault> {
    let change = Change::Spent { hold: hold.clone(), call: call.to_owned(), at };
    Ok((plain(&change)?, change))
}

/// Makes the book from the entries that are known to concern it, then from those after them.
pub(super) fn recover(store: &dyn Store, payloads: &Path, views: &Views, from: u64, size: u64) -> Result<Book, Fault> {
    let mut book = Book::default();
    for seq in views.holds.iter().filter(|seq| **seq < from) {
        let entry = store.read(*seq, 1)?.pop();
        let entry = entry.ok_or_else(|| Fault(format!("the store is damaged: entry {seq} is missing")))?;
        replay(&mut book, store, payloads, *seq, &entry.text)?;
    }
    let (latest, voted) = views.memory.clone();
    book.remember(latest, voted);
    let mut at = from;
    while at < size {
        let entries = store.read(at, 1_024)?;
        if entries.is_empty() {
            return Err(Fault(format!("the store is damaged: entry {at} is missing")));
        }
        for (seq, entry) in (at..).zip(&entries) {
            replay(&mut book, store, payloads, seq, &entry.text)?;
        }
        at += entries.len() as u64;
    }
    Ok(book)
}

fn replay(book: &mut Book, store: &dyn Store, payloads: &Path, seq: u64, text: &[u8]) -> Result<(), Fault> {
    if !concerns(text, book) {
        return Ok(());
    }
    let kept = match entry::member(text, "kind") {
        Some("call.held") => committed(store, payloads, seq, text)?,
        _ => None,
    };
    let change = match read(text, seq, || kept.as_deref().map(Digest::of)) {
        Ok(change) => change,
        Err(why) => {
            tracing::error!(seq, why, "an entry about a hold cannot be read");
            let named = entry::member(text, "hold").and_then(HoldId::read);
            let named = named.ok_or_else(|| {
                Fault(format!(
                    "entry {seq} says something of holds that cannot be read: {why}; see `countersign ledger verify`"
                ))
            })?;
            book.distrust(&named, seq);
            return Ok(());
        }
    };
    if let Err(rejected) = book.apply(&change, seq) {
        tracing::error!(seq, why = rejected.code(), "an entry is no lawful change of a hold");
        if let Some(id) = id_of(&change) {
            book.distrust(id, seq);
        }
    }
    Ok(())
}

/// What is kept beside a `call.held` entry, if it is what the entry commits to.
fn committed(store: &dyn Store, folder: &Path, seq: u64, text: &[u8]) -> Result<Option<Bytes>, Fault> {
    let Some(Kept { salt, content }) = store.payload(seq)? else { return Ok(None) };
    let bytes = match content {
        Content::Here(bytes) => Some(bytes),
        Content::File(name) => payloads::read(folder, &name)?,
    };
    Ok(bytes.filter(|bytes| is_committed(&salt, bytes, text)))
}

fn is_committed(salt: &[u8; 16], bytes: &[u8], text: &[u8]) -> bool {
    let named = entry::tree(text).and_then(|tree| tree.get("arguments")?.get("digest")?.as_str().map(str::to_owned));
    let own = Commitment::of(salt, bytes).name().to_string().replace("sha256:", "hmac-sha256:");
    named.is_some_and(|named| named == own)
}

impl Ledger {
    /// Parks a call that people have to countersign: it attaches to the hold that the identical call has, or gets one.
    /// When this returns the hold is durable.
    ///
    /// # Errors
    /// The refusal: the identical call was denied, there are too many holds, or nothing can be written.
    pub async fn hold(&self, held: Held) -> Result<Parked, Box<(Refused, Caller, Basis)>> {
        let (call, basis, demands) = held.into_parts();
        match self.find_place(&call, &basis, demands).await {
            Ok(hold) => Ok(Parked { call, hold }),
            Err(refused) => Err(Box::new((refused, call.caller(), basis))),
        }
    }

    async fn find_place(&self, call: &Validated, basis: &Basis, demands: Vec<Demand>) -> Result<Arc<Hold>, Refused> {
        let failed = |fault: Fault| {
            tracing::error!(call = %call.id(), %fault, "a hold cannot be written");
            Refused::Unavailable(fault)
        };
        if demands.len() > DEMANDS {
            return Err(failed(Fault(format!("a call cannot wait for more than {DEMANDS} policies"))));
        }
        for _ in 0..TURNS {
            let now = self.inner.clock.now();
            let claims = claims_of(call.principal());
            let act = bound_of(call, &claims);
            let known =
                self.holds(|book| book.identical(act.binding(), now).or_else(|| book.denied(&act, now)).cloned());
            if let Some(met) = known.and_then(|record| meet(&record, call, basis)) {
                return met;
            }
            // what is refused anyhow is not written beside the log first
            let whose = call.principal();
            if !self.holds(|book| book.has_room(&whose.issuer, &whose.agent)) {
                return Err(Refused::TooManyHolds);
            }
            let (text, hold, kept) = self.write_up(call, basis, demands.clone(), now).await.map_err(failed)?;
            let mut item = Item::new(text, Effect::None);
            item.kept = Some(kept);
            item.change = Some(Change::Opened(Arc::clone(&hold)));
            let file = item.file();
            let written = self.inner.committer.change(item).await;
            if let Err(NotChanged::Rejected(_)) = written {
                self.drop_file(file);
            }
            match written {
                Ok(seq) => {
                    // the record's own, which knows its index
                    let recorded = self.holds(|book| book.get(&hold.id).map(|record| Arc::clone(&record.hold)));
                    debug_assert!(recorded.is_some(), "entry {seq} opened it");
                    return Ok(recorded.unwrap_or(hold));
                }
                Err(NotChanged::Rejected(Rejected::Drifted(old, why))) => {
                    let newer = self.holds(|book| book.get(&old).is_some_and(|old| old.hold.created > call.at()));
                    if newer {
                        return Err(failed(Fault("the grants were replaced while this call was decided".to_owned())));
                    }
                    // who loses this race finds it void
                    let _lost = self.void(&old, why).await;
                }
                // it was opened just now, and is durable in a moment
                Err(NotChanged::Rejected(Rejected::Known(_))) => self.flush().await.map_err(failed)?,
                Err(NotChanged::Rejected(Rejected::TooMany)) => return Err(Refused::TooManyHolds),
                Err(NotChanged::Rejected(other)) => return Err(failed(Fault(other.to_string()))),
                Err(NotChanged::Fault(fault)) => return Err(failed(fault)),
            }
        }
        Err(failed(Fault("too many identical calls at once".to_owned())))
    }

    /// The hold that a call meets, if the identical call has one; a call that meets none is decided on. A hold that was
    /// opened under another contract or other grants is not met: whoever looks after holds makes it void.
    ///
    /// # Errors
    /// The call back, with its hold or the refusal.
    pub fn attach(&self, call: Validated, grants: Digest) -> Result<Validated, Box<Met>> {
        if !call.operation().can_wait() || !self.holds(|book| book.may_meet(&call.principal().agent)) {
            return Ok(call);
        }
        let now = self.inner.clock.now();
        let Some(record) = self.holds(|book| book.identical(binding_of(&call), now).cloned()) else { return Ok(call) };
        let basis = Basis { policies: record.hold.policies.clone(), set: Some(grants) };
        match meet(&record, &call, &basis) {
            Some(Ok(hold)) => Err(Box::new(Met::Parked(Parked { call, hold }))),
            Some(Err(refused)) => Err(Box::new(Met::Refused((refused, call.caller(), basis)))),
            None => Ok(call),
        }
    }

    async fn write_up(
        &self,
        call: &Validated,
        basis: &Basis,
        demands: Vec<Demand>,
        now: Timestamp,
    ) -> Result<(Vec<u8>, Arc<Hold>, Kept), Fault> {
        // a hold's arguments are kept whatever the configuration says: they are what will be run
        let (commitment, kept) = self.keep_always(call.arguments().bytes()).await?;
        let (approve_by, execute_by) = Hold::deadlines(&demands, now);
        let (principal, tool) = (call.principal(), call.tool());
        let hold = Hold {
            id: HoldId::new(now).map_err(|error| Fault(error.to_string()))?,
            digest: Digest([0; 32]),
            seq: 0,
            call: call.id().to_string(),
            agent: principal.agent.clone(),
            issuer: principal.issuer.clone(),
            user: principal.user.clone(),
            task: principal.task.clone(),
            claims: claims_of(principal),
            credential: principal.credential.clone(),
            credential_expires: self.ends_unsaid(principal),
            door: call.door().word().to_owned(),
            method: call.operation().method().to_owned(),
            tool: tool.name.clone(),
            upstream: tool.upstream.to_string(),
            impact: tool.impact.iter().map(|impact| impact.word().to_owned()).collect(),
            contract: tool.digest,
            grants: basis.set.ok_or_else(|| Fault("a hold without grants".to_owned()))?,
            policies: basis.policies.clone(),
            demands,
            arguments: Digest::of(call.arguments().bytes()),
            kept: true,
            created: now,
            approve_by,
            execute_by,
            runs_alone: call.link().client.runs_alone && call.operation() == Operation::CallTool,
            idempotent: tool.idempotent,
        };
        let text = held(&self.inner.options.origin, &hold, &commitment)?;
        // what was cut to fit is what it says from now on
        match read(&text, 0, || Some(hold.arguments)) {
            // a principal of whom a part was cut is another, and other policies are about it
            Ok(Change::Opened(read)) if read.binding() != hold.binding() => {
                Err(Fault("what the credential says is too long to be held to".to_owned()))
            }
            Ok(Change::Opened(read)) => Ok((text, read, kept)),
            _ => Err(Fault("a hold cannot be written so that it can be read".to_owned())),
        }
    }

    /// Whether a credential says the same of its agent as that which the hold was opened with.
    pub fn is_bound_as(hold: &Hold, principal: &Principal) -> bool {
        hold.claims == claims_of(principal)
    }

    /// When a credential ends of whose issuing no entry tells.
    fn ends_unsaid(&self, principal: &Principal) -> Option<Timestamp> {
        let said = self.views().token(&principal.credential).is_some() || principal.expires == Timestamp::MAX;
        (!said).then_some(principal.expires)
    }

    /// Looks at the holds and the approvers, as far as they are durable.
    pub fn holds<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        self.inner.committer.shared.holds.look(look)
    }

    /// Changes of holds from now on.
    pub fn hold_changes(&self) -> broadcast::Receiver<HoldChange> {
        self.inner.committer.shared.holds.changes.subscribe()
    }

    /// Where one hold stands, from now on.
    pub fn watch_hold(&self, id: &HoldId) -> Option<watch::Receiver<Phase>> {
        self.inner.committer.shared.holds.watch(id)
    }

    /// The proof that a hold was countersigned, while it can be run.
    pub fn warrant(&self, id: &HoldId) -> Option<Warrant> {
        let now = self.inner.clock.now();
        self.holds(|book| book.warrant(id, now))
    }

    /// The canonical arguments of a hold; `None` when they were redacted, or are not those that were held.
    ///
    /// # Errors
    /// [`Fault`] when they cannot be read.
    pub fn held_arguments(&self, hold: &Hold) -> Result<Option<Bytes>, Fault> {
        let kept = self.payload(hold.seq)?.map(|payload| payload.bytes);
        Ok(kept.filter(|bytes| Digest::of(bytes) == hold.arguments))
    }

    /// Records one person's countersignature; gives where the hold stands then.
    ///
    /// # Errors
    /// [`NotChanged`]: every rule is checked where the change is made, the signature too.
    pub async fn countersign(
        &self,
        hold: &HoldId,
        digest: &Digest,
        approver: &str,
        at: Timestamp,
        proof: &Proof,
    ) -> Result<Phase, NotChanged> {
        let evidence = match proof {
            Proof::Vouched { evidence: Some(evidence), .. } => Some(Bytes::from(evidence.kept())),
            // what can be shown is shown before it is written
            Proof::Vouched { evidence: None, .. } => return Err(NotChanged::Rejected(Rejected::OtherKey)),
            Proof::Signature { .. } | Proof::Assertion { .. } => None,
        };
        let (commitment, kept) = match &evidence {
            Some(evidence) => {
                let (commitment, kept) = self.keep_always(evidence).await?;
                (Some(commitment), Some(kept))
            }
            None => (None, None),
        };
        let text = approved(hold, digest, approver, at, proof, commitment.as_ref())?;
        let (digest, approver, means, mark) = (*digest, approver.to_owned(), proof.means(), proof.mark());
        let change = Change::Approved { hold: hold.clone(), digest, approver, means, mark, at };
        self.make_shown(change, text, Some(proof), kept).await?;
        self.phase(hold)
    }

    /// Makes a change that an approver has signed.
    async fn make_shown(
        &self,
        change: Change,
        text: Vec<u8>,
        proof: Option<&Proof>,
        kept: Option<Kept>,
    ) -> Result<u64, NotChanged> {
        let origin = &self.inner.options.origin;
        // whose key or passkey it is may change until it is written: the book asks again, and knows a passkey by the digest
        // of all that it is
        let shown = self.holds(|book| is_shown(&change, proof, origin, book.roster()));
        let mut item = Item::new(text, Effect::None);
        item.change = Some(change);
        item.kept = kept;
        let file = item.file();
        if !shown {
            self.drop_file(file);
            return Err(NotChanged::Rejected(Rejected::OtherKey));
        }
        let made = self.inner.committer.change(item).await;
        if let Err(NotChanged::Rejected(_)) = made {
            self.drop_file(file);
        }
        made
    }

    /// The name of this log, which statements are bound to.
    pub fn origin(&self) -> &str {
        &self.inner.options.origin
    }

    /// The statement that an approver signs now with their key: the bytes, and the time in them.
    pub fn statement(&self, hold: &HoldId, digest: &Digest, approver: &str) -> (Vec<u8>, Timestamp) {
        let at = self.inner.clock.now();
        (statement::approval(&self.inner.options.origin, hold, digest, approver, at), at)
    }

    /// Records a denial.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn deny(
        &self,
        hold: &HoldId,
        digest: &Digest,
        approver: &str,
        reason: &str,
    ) -> Result<Phase, NotChanged> {
        let (approver, reason) = (approver.to_owned(), crate::call::cut(reason, 500).to_owned());
        let at = self.inner.clock.now();
        self.make(Change::Denied { hold: hold.clone(), digest: *digest, approver, reason, at }).await?;
        self.phase(hold)
    }

    /// Withdraws a hold; `by` is `agent` or `operator`.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn cancel(&self, hold: &HoldId, by: &str) -> Result<(), NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::Cancelled { hold: hold.clone(), by: by.to_owned(), at }).await.map(|_seq| ())
    }

    /// Makes a hold void.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn void(&self, hold: &HoldId, why: Drift) -> Result<(), NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::Void { hold: hold.clone(), why, at }).await.map(|_seq| ())
    }

    /// Writes down that a hold's time is over.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn expire(&self, hold: &HoldId) -> Result<(), NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::Expired { hold: hold.clone(), at }).await.map(|_seq| ())
    }

    /// Adds an approver, or changes its roles and names.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn add_approver(
        &self,
        name: &str,
        roles: BTreeSet<String>,
        also: BTreeSet<String>,
        by: Option<String>,
    ) -> Result<u64, NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::ApproverAdded { name: name.to_owned(), roles, also, by, at }).await
    }

    /// Records what an approver signs with: their first, or one more, which `proof` shows that they want.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn enrol_approver(
        &self,
        name: &str,
        credential: Credential,
        proof: Option<&Proof>,
    ) -> Result<u64, NotChanged> {
        let at = self.inner.clock.now();
        let text = enrolled(name, &credential, at, proof)?;
        let by = proof.map(Proof::means);
        self.make_shown(Change::ApproverEnrolled { name: name.to_owned(), credential, by, at }, text, proof, None).await
    }

    /// Records that an identity provider let somebody in.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn sign_in_approver(&self, who: SignIn) -> Result<u64, NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::ApproverSignedIn { who, at }).await
    }

    /// Removes an approver; what it countersigned counts no more.
    ///
    /// # Errors
    /// [`NotChanged`]
    pub async fn remove_approver(&self, name: &str, by: Option<String>) -> Result<u64, NotChanged> {
        let at = self.inner.clock.now();
        self.make(Change::ApproverRemoved { name: name.to_owned(), by, at }).await
    }

    /// What the run of a hold came to, told to an identical call; `None` while that is not known.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    pub fn collect(&self, record: &Record, call: CallId, operation: Operation) -> Result<Option<Reply>, Fault> {
        let Phase::Spent { outcome: Some((seq, word)), .. } = &record.phase else { return Ok(None) };
        let kept = match word.as_str() {
            "ok" | "tool_error" | "upstream_error" => self.payload(*seq)?,
            _ => None,
        };
        let Some(payload) = kept else { return Ok(Some(Reply::untold(call, operation))) };
        let tree = json::parse(&payload.bytes, &Limits::RESPONSE);
        let tree = tree.map_err(|_| Fault(format!("the result beside entry {seq} cannot be read")))?;
        Ok(Some(Reply::collected(call, operation, tree, payload.bytes, word == "upstream_error")))
    }

    /// Tells a caller that its call waits.
    pub fn still_held(&self, call: CallId, operation: Operation, notice: crate::call::HoldNotice) -> Reply {
        Reply::held(call, operation, notice)
    }

    fn phase(&self, hold: &HoldId) -> Result<Phase, NotChanged> {
        let phase = self.holds(|book| book.get(hold).map(|record| record.phase.clone()));
        phase.ok_or(NotChanged::Rejected(Rejected::UnknownHold))
    }

    pub(super) async fn make(&self, change: Change) -> Result<u64, NotChanged> {
        let mut item = Item::new(plain(&change)?, Effect::None);
        item.change = Some(change);
        self.inner.committer.change(item).await
    }

    /// Waits until what is written before this is durable.
    async fn flush(&self) -> Result<(), Fault> {
        self.inner.committer.flush().await
    }
}

/// What a principal's credential says of it beside agent, issuer, user and task.
fn claims_of(principal: &Principal) -> Claims {
    let sorted = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect();
    Claims {
        workload: principal.workload.clone(),
        chain: principal.chain.clone(),
        teams: sorted(&principal.teams),
        scopes: sorted(&principal.scopes),
        tools: principal.tools.as_deref().map(sorted),
        // the usual goes without saying, as it did before there was another
        assurance: match principal.assurance {
            call::Assurance::Bearer | call::Assurance::Process => None,
            surer => Some(surer.word().to_owned()),
        },
    }
}

/// Which call it is.
pub(super) fn binding_of(call: &Validated) -> crate::hold::Binding {
    bound_of(call, &claims_of(call.principal())).binding()
}

fn bound_of<'a>(call: &'a Validated, claims: &'a Claims) -> Bound<'a> {
    let (principal, tool) = (call.principal(), call.tool());
    Bound {
        issuer: &principal.issuer,
        agent: &principal.agent,
        user: principal.user.as_deref(),
        task: principal.task.as_deref(),
        claims,
        method: call.operation().method(),
        tool: &tool.name,
        arguments: Digest::of(call.arguments().bytes()),
    }
}

/// What an identical call meets in a hold; `None` when the hold is of another contract or other grants.
fn meet(record: &Record, call: &Validated, basis: &Basis) -> Option<Result<Arc<Hold>, Refused>> {
    let hold = &record.hold;
    if hold.contract != call.tool().digest || Some(hold.grants) != basis.set {
        return None;
    }
    Some(match &record.phase {
        Phase::Denied { reason, .. } => {
            Err(Refused::DeniedSticky { hold: hold.id.to_string(), reason: reason.clone() })
        }
        _ => Ok(Arc::clone(hold)),
    })
}

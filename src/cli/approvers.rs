//! `approver …`: the people who countersign.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Place,
    holds::not_done,
    outcome::{Exit, Failure},
    request::{Request, Typed, Voucher},
    show::{field, items, table},
    terminal::Terminal,
};
use crate::{
    approver::{Code, Passphrase, Vouch},
    display::visible,
    server::House,
};

#[derive(Debug, Subcommand)]
pub(super) enum ApproverCommand {
    /// Add an approver and print the one-time code to enrol with; or change the roles and names of one
    #[command(
        after_help = "Examples:\n  countersign approver add maria --role finance\n  countersign approver add ben --role \
                      finance --role oncall --also ben@example.com --as maria\n\nPass the code on; whoever has it runs \
                      `countersign approver enrol`. Once anybody is\nenrolled, an enrolled approver has to vouch: their \
                      passphrase is asked for on the terminal."
    )]
    Add {
        /// The name they sign in with: letters, digits and `._-@+`
        name: String,
        /// A role, as `@hold("…")` names it; may be given several times
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<String>,
        /// Another name of the same person, such as a user that agents act for: they countersign nothing of that user's
        #[arg(long, value_name = "NAME")]
        also: Vec<String>,
        /// Who vouches; without, the one approver who is enrolled
        #[arg(long = "as", value_name = "NAME")]
        voucher: Option<String>,
    },
    /// Everybody who may countersign
    #[command(after_help = "Examples:\n  countersign approver list\n  countersign approver list --json")]
    List,
    /// Take an approver out: what they countersigned and nobody ran yet counts no more
    #[command(after_help = "Example:\n  countersign approver remove ben --as maria")]
    Remove {
        /// The name
        name: String,
        /// Who vouches; without, the one approver who is enrolled
        #[arg(long = "as", value_name = "NAME")]
        voucher: Option<String>,
    },
    /// Enrol with a one-time code: asks for the passphrase to be, on the terminal
    #[command(
        after_help = "Examples:\n  countersign approver enrol\n  countersign approver enrol ABCD-EFGH-JKMN-PQRS-TVWX\n\n\
                      The code is good once, for a day. The passphrase seals the key that signs; it is typed\nat the \
                      terminal, never given by argument, environment or pipe, and nobody can restore it."
    )]
    Enrol {
        /// The code; asked for without
        code: Option<String>,
    },
}

pub(super) async fn run(place: &Place, command: ApproverCommand) -> Result<Exit, Failure> {
    match command {
        ApproverCommand::Add { name, roles, also, voucher } => {
            let vouch = vouched(place, voucher, &format!("to add {}", visible(&name))).await?;
            let answer = place.ask(Request::AddApprover { name, roles, also, vouch }).await?;
            place.answer(&answer, added);
        }
        ApproverCommand::List => place.answer(&place.ask(Request::ListApprovers).await?, listed),
        ApproverCommand::Remove { name, voucher } => {
            let vouch = vouched(place, voucher, &format!("to remove {}", visible(&name))).await?;
            let answer = place.ask(Request::RemoveApprover { name, vouch }).await?;
            place.answer(&answer, |answer| format!("removed {}", field(answer, "approver")));
        }
        ApproverCommand::Enrol { code } => {
            let mut terminal = Terminal::open()?;
            let code = match code {
                Some(code) => Typed::new(code.into()),
                None => secret(&mut terminal, "The one-time code: ")?,
            };
            let passphrase = secret(&mut terminal, "A passphrase of at least 12 letters: ")?;
            if secret(&mut terminal, "The same again: ")? != passphrase {
                return Err(Failure::new(Exit::No, "the two differ: nothing was done").hint("the code is still good"));
            }
            let answer = place.ask(Request::EnrolApprover { code, passphrase }).await?;
            place.answer(&answer, |answer| {
                format!("enrolled {}; `countersign hold list` shows what waits", field(answer, "approver"))
            });
        }
    }
    Ok(Exit::Done)
}

fn secret(terminal: &mut Terminal, question: &str) -> Result<Typed, Failure> {
    tokio::task::block_in_place(|| terminal.secret(question)).map(Typed::new)
}

/// Asks who is enrolled for their word, where anybody is.
async fn vouched(place: &Place, voucher: Option<String>, what: &str) -> Result<Option<Voucher>, Failure> {
    let known = place.ask(Request::ListApprovers).await?;
    let with = |what: &str| {
        let has = items(&known, "approvers")
            .iter()
            .filter(|approver| approver.get(what).and_then(Value::as_bool) == Some(true));
        has.map(|approver| field(approver, "name")).collect::<Vec<_>>()
    };
    // an authenticator cannot be asked from here
    let approver = match (voucher, with("passphrase").as_slice()) {
        (None, []) if with("enrolled").is_empty() => return Ok(None),
        (None, []) => {
            return Err(Failure::new(Exit::Cannot, "an enrolled approver has to vouch for this with their passphrase")
                .hint("nobody has one: sign in to the console and add one under `Your keys`"));
        }
        (Some(name), _) => name,
        (None, [one]) => (*one).to_owned(),
        (None, several) => {
            return Err(Failure::new(Exit::Cannot, "an enrolled approver has to vouch for this")
                .hint(format!("say which of these with --as NAME: {}", several.join(", "))));
        }
    };
    let mut terminal = Terminal::open()?;
    let question = format!("Passphrase of {}, {what} (nothing to break off): ", visible(&approver));
    let passphrase = secret(&mut terminal, &question)?;
    Ok(Some(Voucher { approver, passphrase }))
}

// ---- in the house

pub(super) fn list(house: &House) -> Value {
    let approvers = house.pipeline.ledger.holds(|book| {
        let each = book.roster().iter().map(|approver| {
            json!({
                "name": approver.name,
                "roles": approver.roles,
                "also": approver.also,
                "enrolled": approver.is_enrolled(),
                "passphrase": approver.key.is_some(),
                "passkeys": approver.passkeys.iter().map(|passkey| json!({
                    "label": passkey.label(),
                    "rp": passkey.rp(),
                    "synced": passkey.synced(),
                    "digest": passkey.digest().to_string(),
                })).collect::<Vec<_>>(),
                "since": approver.since.to_string(),
            })
        });
        each.collect::<Vec<_>>()
    });
    json!({"approvers": approvers})
}

fn vouch(vouch: Option<Voucher>) -> Option<Vouch> {
    vouch.map(|Voucher { approver, passphrase }| Vouch { approver, passphrase: passphrase.passphrase() })
}

pub(super) async fn add(
    house: &House,
    name: &str,
    roles: Vec<String>,
    also: Vec<String>,
    by: Option<Voucher>,
) -> Result<Value, Failure> {
    let (roles, also) = (roles.into_iter().collect(), also.into_iter().collect());
    let added = house.pipeline.approvers.add(name, roles, also, vouch(by)).await.map_err(not_done)?;
    let code = added.code.map(|code| code.reveal().to_string());
    // what stands behind `#` is sent to no server
    let link = code.as_ref().map(|code| format!("{}/enrol#{code}", house.config.console_url()));
    Ok(json!({"approver": name, "code": code, "link": link, "expires": added.expires.map(|at| at.to_string())}))
}

pub(super) async fn remove(house: &House, name: &str, by: Option<Voucher>) -> Result<Value, Failure> {
    house.pipeline.approvers.remove(name, vouch(by)).await.map_err(not_done)?;
    Ok(json!({"approver": name, "removed": true}))
}

pub(super) async fn enrol(house: &House, code: &str, passphrase: &Passphrase) -> Result<Value, Failure> {
    let code = Code::read(code).ok_or_else(|| {
        Failure::new(Exit::Cannot, "that is no one-time code").hint("it reads `ABCD-EFGH-JKMN-PQRS-TVWX`")
    })?;
    let name = house.pipeline.approvers.enrol(&code, passphrase).await.map_err(not_done)?;
    Ok(json!({"approver": name, "enrolled": true}))
}

// ---- as text

fn added(answer: &Value) -> String {
    let name = field(answer, "approver");
    match field(answer, "code") {
        "" => format!("changed {name}, who is enrolled already"),
        code => format!(
            "added {name}; the one-time code, good until {}:\n\n  {code}\n\nPass it on: they open {}\nor run `countersign approver enrol`",
            field(answer, "expires"),
            field(answer, "link")
        ),
    }
}

/// What an approver who is enrolled signs with.
fn known_by(approver: &Value) -> String {
    let passphrase = approver.get("passphrase").and_then(Value::as_bool) == Some(true);
    let labels = items(approver, "passkeys").iter().map(|passkey| visible(field(passkey, "label")));
    let labels: Vec<String> = labels.collect();
    let mut known = Vec::new();
    if passphrase {
        known.push("passphrase".to_owned());
    }
    match labels.as_slice() {
        [] => {}
        [one] => known.push(format!("passkey {one}")),
        several => known.push(format!("passkeys {}", several.join(", "))),
    }
    known.join("; ")
}

fn listed(answer: &Value) -> String {
    let approvers = items(answer, "approvers");
    if approvers.is_empty() {
        return "nobody; add one with `countersign approver add NAME --role ROLE`".to_owned();
    }
    let words = |value: &Value, name: &str| {
        items(value, name).iter().filter_map(Value::as_str).map(visible).collect::<Vec<_>>().join(", ")
    };
    let row = |approver: &Value| {
        let enrolled = approver.get("enrolled").and_then(Value::as_bool) == Some(true);
        let also = words(approver, "also");
        vec![
            field(approver, "name").to_owned(),
            words(approver, "roles"),
            if enrolled { known_by(approver) } else { "not enrolled yet".to_owned() },
            if also.is_empty() { also } else { format!("also {also}") },
        ]
    };
    table(&approvers.iter().map(row).collect::<Vec<_>>())
}

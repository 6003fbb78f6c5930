//! How each kind of client meets a hold: what it declares decides, and nothing that it is called.

use std::time::Duration;

use crate::{
    call::Operation,
    json::{Object, Value},
};

/// The tasks extension of 2026-07-28.
pub(super) const TASKS: &str = "io.modelcontextprotocol/tasks";

/// The revision before it, the only one with tasks of its own.
pub(super) const OLD_TASKS: &str = "2025-11-25";

/// Clients of 2026-07-28 give up after ten rounds; the last of ours is an answer.
pub(super) const ROUNDS: u32 = 8;

/// How long one leg of a request of 2026-07-28 waits: clients give each leg a minute or less.
const LEG: Duration = Duration::from_secs(25);

/// How long a call of a legacy session waits: its clients give it a minute.
const WAIT: Duration = Duration::from_secs(45);

/// How a client meets the hold of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meeting {
    /// 2026-07-28 with the tasks extension: a task at once.
    Task,
    /// 2026-07-28 with `elicitation.url`: the hold's page first, then rounds.
    Page,
    /// 2026-07-28: rounds of waiting, each ended by a state to come back with.
    Rounds,
    /// 2025-11-25, and the call asks to be a task.
    OldTask,
    /// 2025-11-25 with `elicitation.url`: the hold's page on the call's own stream, which waits.
    OldPage,
    /// Any other: the call waits.
    Wait,
}

impl Meeting {
    /// How a client of 2026-07-28 meets it that declared `capabilities` with the request.
    pub(super) fn modern(operation: Operation, capabilities: &Object) -> Self {
        match operation {
            Operation::CallTool if declares_tasks(capabilities) => Self::Task,
            // these alone can be answered with a question (MCP 2026-07-28, "Supported Requests")
            Operation::CallTool | Operation::ReadResource | Operation::GetPrompt if opens_pages(capabilities) => {
                Self::Page
            }
            Operation::CallTool | Operation::ReadResource | Operation::GetPrompt => Self::Rounds,
            Operation::Complete | Operation::Subscribe => Self::Wait,
        }
    }

    /// How a client of a legacy session meets it, which agreed on `version` and declared `capabilities`; `task` is
    /// whether the call asks to be one.
    pub(super) fn legacy(operation: Operation, version: &str, capabilities: &Object, task: bool) -> Self {
        let newest = version == OLD_TASKS;
        match operation {
            Operation::CallTool if newest && task => Self::OldTask,
            _ if newest && opens_pages(capabilities) => Self::OldPage,
            _ => Self::Wait,
        }
    }

    /// How long the call may wait for its hold in the leg that follows `rounds` others.
    pub(super) fn patience(self, rounds: u32) -> Duration {
        match self {
            Self::Task | Self::OldTask => Duration::ZERO,
            Self::Page if rounds == 0 => Duration::ZERO,
            Self::Page | Self::Rounds => LEG,
            Self::OldPage | Self::Wait => WAIT,
        }
    }

    /// Whether an approval runs the call although nobody waits for it.
    pub(super) fn runs_alone(self) -> bool {
        matches!(self, Self::Task | Self::OldTask)
    }

    /// Whether the leg that follows `rounds` others may end with a state to come back with.
    pub(super) fn goes_on(self, rounds: u32) -> bool {
        matches!(self, Self::Page | Self::Rounds) && rounds + 1 < ROUNDS
    }
}

/// Whether a client of 2026-07-28 declares the tasks extension.
pub(super) fn declares_tasks(capabilities: &Object) -> bool {
    let extensions = capabilities.get("extensions").and_then(Value::as_object);
    extensions.is_some_and(|extensions| matches!(extensions.get(TASKS), Some(Value::Object(_))))
}

/// What is missing when it does not, as `requiredCapabilities` says it.
pub(super) fn tasks_missing() -> Object {
    Object::new().with("extensions", Object::new().with(TASKS, Object::new()))
}

fn opens_pages(capabilities: &Object) -> bool {
    let elicitation = capabilities.get("elicitation").and_then(Value::as_object);
    elicitation.is_some_and(|elicitation| matches!(elicitation.get("url"), Some(Value::Object(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Limits, parse};

    fn object(text: &str) -> Object {
        parse(text.as_bytes(), &Limits::REQUEST).unwrap().as_object().unwrap().clone()
    }

    #[test]
    fn what_a_modern_client_declares_decides() {
        let tasks = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}},"elicitation":{"url":{}}}"#;
        for (capabilities, meets) in [
            ("{}", Meeting::Rounds),
            (r#"{"elicitation":{}}"#, Meeting::Rounds),
            (r#"{"elicitation":{"form":{}}}"#, Meeting::Rounds),
            (r#"{"elicitation":{"url":{}}}"#, Meeting::Page),
            (tasks, Meeting::Task),
            (r#"{"extensions":{"io.modelcontextprotocol/tasks":true}}"#, Meeting::Rounds),
            (r#"{"extensions":{"com.example/tasks":{}}}"#, Meeting::Rounds),
            (r#"{"tasks":{"requests":{}}}"#, Meeting::Rounds),
        ] {
            assert_eq!(Meeting::modern(Operation::CallTool, &object(capabilities)), meets, "{capabilities}");
        }
        assert_eq!(Meeting::modern(Operation::ReadResource, &object(tasks)), Meeting::Page, "only calls become tasks");
        assert_eq!(Meeting::modern(Operation::Complete, &object(tasks)), Meeting::Wait, "it cannot be asked anything");
    }

    #[test]
    fn a_legacy_client_gets_what_its_revision_knows() {
        let page = object(r#"{"elicitation":{"url":{}}}"#);
        let meets =
            |version, capabilities: &Object, task| Meeting::legacy(Operation::CallTool, version, capabilities, task);
        assert_eq!(meets("2025-11-25", &page, false), Meeting::OldPage);
        assert_eq!(meets("2025-11-25", &page, true), Meeting::OldTask);
        assert_eq!(meets("2025-11-25", &Object::new(), false), Meeting::Wait);
        for older in ["2025-06-18", "2025-03-26"] {
            assert_eq!(meets(older, &page, true), Meeting::Wait, "{older}");
        }
        assert_eq!(Meeting::legacy(Operation::GetPrompt, "2025-11-25", &page, true), Meeting::OldPage);
    }

    #[test]
    fn rounds_end_before_clients_give_up() {
        for meeting in [Meeting::Page, Meeting::Rounds] {
            let rounds = (0..).take_while(|rounds| meeting.goes_on(*rounds)).count();
            assert_eq!(rounds, 7, "and the eighth leg is the answer");
        }
        for meeting in [Meeting::Task, Meeting::OldTask, Meeting::OldPage, Meeting::Wait] {
            assert!(!meeting.goes_on(0));
        }
        assert_eq!(Meeting::Page.patience(0), Duration::ZERO, "the page comes before the waiting");
        assert_eq!(Meeting::Page.patience(1), Meeting::Rounds.patience(0));
    }
}

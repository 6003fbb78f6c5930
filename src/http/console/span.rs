//! How far back a page looks: a day, hour by hour, or a week.

use maud::{Markup, html};

use super::Problem;
use crate::{clock::Timestamp, http::api::form::Parameters, ledger::HOURS};

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Span {
    /// 24 hours.
    #[default]
    Day,
    /// Seven days.
    Week,
}

impl Span {
    /// What `?span=` says.
    pub(super) fn of(parameters: &mut Parameters) -> Result<Self, Problem> {
        match parameters.text("span")?.as_deref() {
            None | Some("day") => Ok(Self::Day),
            Some("week") => Ok(Self::Week),
            Some(_) => Err(Problem::Invalid("`span` has to be `day` or `week`".to_owned())),
        }
    }

    pub(super) fn hours(self) -> i64 {
        match self {
            Self::Day => 24,
            Self::Week => HOURS,
        }
    }

    /// Hours that one bar stands for.
    pub(super) fn hours_a_bar(self) -> usize {
        match self {
            Self::Day => 1,
            Self::Week => 6,
        }
    }

    /// What a picture over it is called.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Day => "Calls by the hour, the last 24 hours",
            Self::Week => "Calls by six hours, the last seven days",
        }
    }

    /// When a bar begins, where there is little room.
    pub(super) fn label(self, at: Timestamp) -> String {
        match self {
            Self::Day => at.strftime("%H:%M").to_string(),
            Self::Week => at.strftime("%d %b %Hh").to_string(),
        }
    }

    /// When a bar begins.
    pub(super) fn name(self, at: Timestamp) -> String {
        at.strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// The way to the other one.
    pub(super) fn choice(self, path: &str) -> Markup {
        html! {
            nav.choice aria-label="How far back" {
                @for (span, word, name) in [(Self::Day, "day", "24 hours"), (Self::Week, "week", "7 days")] {
                    a href={ (path) "?span=" (word) } aria-current=[(span == self).then_some("true")] { (name) }
                }
            }
        }
    }
}

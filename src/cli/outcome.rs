//! How a command ends: its exit code, and what it says when it could not do what was asked.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{call::Fault, grant::ConfigError, server::OpenError};

/// Exit codes; they are public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 0: done, and all is well.
    Done,
    /// 1: the answer is no. A call was refused or failed, a check found errors, the ledger was tampered with.
    No,
    /// 2: the question was wrong or cannot be answered: usage, a configuration that cannot be read.
    Cannot,
    /// 3: there is no server to ask, or it does not answer.
    Unreachable,
    /// 4: something of ours or of the machine's failed.
    Fault,
}

impl Exit {
    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Cannot => 2,
            Self::Unreachable => 3,
            Self::Fault => 4,
        }
    }
}

/// What every `--help` ends with.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or errors found, 2 wrong usage or cannot tell, \
                                     3 no server reached, 4 a fault";

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// What is wrong: lower case, no full stop.
    pub problem: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Each error in the files of an operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Value>,
}

impl Failure {
    /// A failure of that kind.
    pub fn new(exit: Exit, problem: impl Into<String>) -> Self {
        Self { exit, problem: problem.into(), hint: None, errors: Vec::new() }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The machine said no.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Exit::Fault, format!("{what}: {error}"))
    }

    /// Errors in files.
    pub fn config(errors: &[ConfigError]) -> Self {
        let problem = match errors {
            [_] => "there is an error in the files of this house".to_owned(),
            _ => format!("there are {} errors in the files of this house", errors.len()),
        };
        let errors = errors.iter().map(error_json).collect();
        Self { exit: Exit::Cannot, problem, hint: None, errors }
    }

    /// Writes it to standard error: for people, or as one JSON object.
    pub fn tell(&self, json: bool) {
        if json {
            let mut object = Map::new();
            object
                .insert("error".to_owned(), json!({"problem": self.problem, "hint": self.hint, "errors": self.errors}));
            object.insert("exit".to_owned(), self.exit.code().into());
            eprintln!("{}", Value::Object(object));
            return;
        }
        for error in &self.errors {
            tell_error(error);
        }
        eprintln!("error: {}", self.problem);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::new(Exit::Fault, fault.0)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Config(errors) => Self::config(&errors),
            OpenError::InUse(why) => Self::new(Exit::Fault, why.to_string())
                .hint("a server or another command has it: see `countersign status`, and `countersign stop`"),
            OpenError::Fault(fault) => fault.into(),
        }
    }
}

/// One error in a file, as `check --json` shows it.
pub(super) fn error_json(error: &ConfigError) -> Value {
    json!({
        "file": error.file.display().to_string(),
        "line": (error.line > 0).then_some(error.line),
        "column": (error.column > 0).then_some(error.column),
        "problem": error.problem,
        "hint": error.hint,
    })
}

/// `error: file:line:column: problem`, then `hint: …`.
pub(super) fn tell_error(error: &Value) {
    let text = |key: &str| error.get(key).and_then(Value::as_str);
    let mut place = text("file").unwrap_or_default().to_owned();
    for key in ["line", "column"] {
        if let Some(number) = error.get(key).and_then(Value::as_u64) {
            place.push_str(&format!(":{number}"));
        }
    }
    eprintln!("error: {place}: {}", text("problem").unwrap_or_default());
    if let Some(hint) = text("hint") {
        eprintln!("hint: {hint}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_public_interface() {
        let codes = [Exit::Done, Exit::No, Exit::Cannot, Exit::Unreachable, Exit::Fault].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_failure_survives_the_control_socket() {
        let failure = Failure::new(Exit::Cannot, "no").hint("yes");
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}

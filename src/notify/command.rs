//! One attempt at the program of `notify.command`.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use super::{Event, Failed, payload::body};
use crate::{
    config::WebhookFormat,
    upstream::{Group, inherited},
};

/// How long the program may run.
const LIMIT: Duration = Duration::from_secs(30);

/// A program that gets the event as JSON on its standard input. No shell reads the command, and of our environment it has
/// PATH, HOME and the locale.
pub(super) struct Program {
    command: Vec<String>,
    limit: Duration,
}

impl Program {
    pub(super) fn new(command: Vec<String>) -> Self {
        Self { command, limit: LIMIT }
    }

    #[cfg(test)]
    pub(super) fn within(command: Vec<String>, limit: Duration) -> Self {
        Self { command, limit }
    }

    pub(super) async fn deliver(&self, event: &Event) -> Result<(), Failed> {
        let again = |why: String| Failed::Again(why, None);
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(again("`notify.command` is empty".to_owned()));
        };
        let mut builder = Command::new(program);
        builder.args(arguments).env_clear().envs(inherited(std::env::vars_os()));
        builder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        builder.process_group(0).kill_on_drop(true);
        let mut child = builder.spawn().map_err(|error| again(format!("`{program}` cannot be started: {error}")))?;
        // whatever it started ends with it
        let _group = Group::of(&child);
        let input = child.stdin.take();
        let run = async {
            if let Some(mut input) = input {
                // a program that does not want to know is as good as one that does
                let _unread = input.write_all(&body(WebhookFormat::Generic, event)).await;
            }
            child.wait().await
        };
        match timeout(self.limit, run).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Failed::Unwanted(format!("`{program}` ended with {status}"))),
            Ok(Err(error)) => Err(again(format!("`{program}` cannot be waited for: {error}"))),
            Err(_) => Err(Failed::Unwanted(format!("`{program}` took longer than {} seconds", self.limit.as_secs()))),
        }
    }
}

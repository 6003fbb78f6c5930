//! A child process with nothing of ours in its environment, and everything it starts in one group.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout},
};

use super::{
    house::House,
    lines::{Lines, NoLine},
};

/// How long a child has after its input was closed, and again after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// A running child. Dropping it kills the whole group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
}

/// A process group; dropping it kills what is left of it.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group that a child leads: it must have been started with `process_group(0)`.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // a group that is gone already is what we want
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The ends of its pipes.
pub(super) type Pipes = (ChildStdin, ChildStdout, ChildStderr);

impl Process {
    /// Starts `command` with only PATH, HOME, the locale and `env`.
    ///
    /// # Errors
    /// Why it cannot, for an operator.
    pub(super) fn spawn(
        command: &[String],
        env: &BTreeMap<String, String>,
        cwd: Option<&PathBuf>,
    ) -> Result<(Self, Pipes), String> {
        let (program, arguments) = command.split_first().ok_or("`command` is empty")?;
        let mut builder = Command::new(program);
        builder.args(arguments).env_clear().envs(inherited(std::env::vars_os())).envs(env);
        builder.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        builder.process_group(0).kill_on_drop(true);
        if let Some(cwd) = cwd {
            builder.current_dir(cwd);
        }
        let mut child = builder.spawn().map_err(|error| format!("cannot start `{program}`: {error}"))?;
        let group = Group::of(&child);
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("`{program}` has no pipes"));
        };
        Ok((Self { child, group }, (stdin, stdout, stderr)))
    }

    /// Returns once the child has exited, with how.
    pub(super) async fn exited(&mut self) -> String {
        self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Ends the group: its input is closed by now; then SIGTERM, then SIGKILL for everything in it.
    pub(super) async fn end(mut self) {
        if timeout(GRACE, self.child.wait()).await.is_err() {
            self.group.signal(Signal::TERM);
            let _in_time = timeout(GRACE, self.child.wait()).await;
        }
        self.group.signal(Signal::KILL);
        self.group.0 = None;
    }
}

/// What a child may know of our environment.
pub(crate) fn inherited(
    ours: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    ours.filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| matches!(name, "PATH" | "HOME" | "LANG" | "LANGUAGE") || name.starts_with("LC_"))
    })
}

/// Passes what a child writes to its standard error to the log, a line an event, at most 200 a second.
pub(super) async fn log_stderr(house: &House, stderr: ChildStderr) {
    let mut lines = Lines::new(stderr, 4096);
    let (mut second, mut count) = (Instant::now(), 0_u32);
    loop {
        let line = match lines.next().await {
            Ok(line) => house.visible(&line, 4096),
            Err(NoLine::TooLong) => "(a line longer than 4096 bytes)".to_owned(),
            Err(NoLine::Ended) => return,
        };
        if second.elapsed() >= Duration::from_secs(1) {
            if count > 200 {
                tracing::info!(target: "countersign::upstream::stderr", upstream = %house.name, "{} lines left out", count - 200);
            }
            (second, count) = (Instant::now(), 0);
        }
        count = count.saturating_add(1);
        if count <= 200 {
            tracing::info!(target: "countersign::upstream::stderr", upstream = %house.name, "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn only_path_home_and_locale_are_inherited() {
        let ours = ["PATH", "HOME", "LANG", "LC_ALL", "AWS_SECRET", "TOKEN", "LD_PRELOAD", "LCX", "path"];
        let kept: Vec<_> = inherited(ours.iter().map(|name| (name.into(), "x".into()))).map(|(name, _)| name).collect();
        assert_eq!(kept, ["PATH", "HOME", "LANG", "LC_ALL"]);
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let env = BTreeMap::from([("MINE".to_owned(), "yes".to_owned())]);
        let (process, (_stdin, mut stdout, _stderr)) = Process::spawn(&sh("env"), &env, None).unwrap();
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.unwrap();
        for line in text.lines() {
            let name = line.split('=').next().unwrap();
            let own_of_sh = matches!(name, "PWD" | "OLDPWD" | "SHLVL" | "_");
            let ours = matches!(name, "PATH" | "HOME" | "LANG" | "LANGUAGE" | "MINE") || name.starts_with("LC_");
            assert!(own_of_sh || ours, "{line}");
        }
        assert!(text.contains("MINE=yes"));
        process.end().await;
    }

    fn alive(pid: i32) -> bool {
        // a zombie that nobody reaps is dead enough
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn dies(pid: i32) {
        let until = Instant::now() + Duration::from_secs(10);
        while alive(pid) {
            assert!(Instant::now() < until, "{pid} is alive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn with_grandchild() -> (Process, Pipes, i32) {
        let script = "trap '' TERM; sh -c 'trap \"\" TERM; while :; do sleep 1; done' & echo $!; wait";
        let (process, (stdin, stdout, stderr)) = Process::spawn(&sh(script), &BTreeMap::new(), None).unwrap();
        let mut lines = Lines::new(stdout, 100);
        let line = lines.next().await.unwrap();
        let grandchild = std::str::from_utf8(&line).unwrap().trim().parse().unwrap();
        assert!(alive(grandchild));
        (process, (stdin, lines.into_inner(), stderr), grandchild)
    }

    #[tokio::test]
    async fn ending_kills_grandchildren_that_ignore_sigterm() {
        let (process, pipes, grandchild) = with_grandchild().await;
        drop(pipes);
        process.end().await;
        dies(grandchild).await;
    }

    #[tokio::test]
    async fn dropping_kills_grandchildren() {
        let (process, _pipes, grandchild) = with_grandchild().await;
        drop(process);
        dies(grandchild).await;
    }
}

//! Going into the background without fork: the command starts itself once more.
//!
//! The first process starts a second one with the same arguments, hands it the secrets that stood in
//! variables through its stdin (so that they are not in its environment), and waits for "ok" on its
//! stdout. Sentences go to the shared stderr. When the mount answers, the second process leaves the
//! session, says "ok" and closes what it has of the caller.

use crate::config::{self, Env};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

/// The variable that tells the second process what it is.
const MARK: &str = "ASSETFS_BACKGROUND";

const OK: &str = "ok\n";

/// What the first process learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// The mount answers.
    Answers,
    /// It ended with this exit status and has said why.
    Ended(u8),
}

/// Whether this is the second process.
pub(super) fn is_second() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts the second process and waits until its mount answers or it has ended.
///
/// # Errors
/// A sentence if it cannot be started or dies without one.
pub(super) fn start(env: &Env) -> Result<Started, String> {
    let exe =
        std::env::current_exe().map_err(|why| format!("cannot find my own program: {why}"))?;
    let mut argv = std::env::args_os();
    let mut command = Command::new(exe);
    if let Some(name) = argv.next() {
        command.arg0(name);
    }
    command
        .args(argv)
        .env(MARK, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut secrets = BTreeMap::new();
    for name in config::secret_variables() {
        command.env_remove(&name);
        if let Some(value) = env.vars.get(&name) {
            secrets.insert(name, value.as_str());
        }
    }
    let mut child = command
        .spawn()
        .map_err(|why| format!("cannot start the background process: {why}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_vec(&secrets).map_err(|why| why.to_string())?;
        // If it died already, its exit status says more than this.
        drop(stdin.write_all(&text));
    }
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        drop(stdout.take(OK.len() as u64).read_to_string(&mut said));
    }
    if said == OK {
        return Ok(Started::Answers);
    }
    let status = child
        .wait()
        .map_err(|why| format!("lost the background process: {why}"))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Started::Ended(1)),
        (Some(code), _) => Ok(Started::Ended(u8::try_from(code).unwrap_or(1))),
        (None, signal) => Err(format!(
            "the background process was killed by signal {} before the mount answered",
            signal.unwrap_or_default()
        )),
    }
}

/// In the second process: takes the secrets from stdin into `env`.
///
/// # Errors
/// A sentence if the first process did not send them.
pub(super) fn take_secrets(env: &mut Env) -> Result<(), String> {
    let mut text = Vec::new();
    std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|why| format!("cannot hear the first process: {why}"))?;
    let secrets: BTreeMap<String, String> = serde_json::from_slice(&text)
        .map_err(|_| format!("{MARK} is set, but by nobody who says more: unset it"))?;
    env.vars.extend(secrets);
    Ok(())
}

/// In the second process: leaves the session, says "ok", and closes what it has of the caller.
///
/// # Errors
/// A sentence if the first process is gone: then nobody knows of the mount.
pub(super) fn detach() -> Result<(), String> {
    let said = |why: std::io::Error| format!("cannot go into the background: {why}");
    // Fails only for the leader of a process group, which is detached enough.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/").map_err(said)?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(said)?;
    rustix::stdio::dup2_stdin(&null).map_err(|why| said(why.into()))?;
    {
        let mut out = std::io::stdout().lock();
        out.write_all(OK.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|why| format!("the command that asked for the mount is gone: {why}"))?;
    }
    rustix::stdio::dup2_stdout(&null).map_err(|why| said(why.into()))?;
    rustix::stdio::dup2_stderr(&null).map_err(|why| said(why.into()))?;
    Ok(())
}

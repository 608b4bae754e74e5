//! `assetfs mount`: checks everything that can be checked, opens the store, mounts, and stays until
//! the mount ends. The only place of the commands that calls the rooms below.

use super::control::{self, Answer, Ask, Control};
use super::progress::count;
use super::signals::Signals;
use super::{Ended, KEPT, background, logging, mountpoint, store};
use crate::config::{self, Env, Given, Resolved, Source};
use crate::error::Kind;
use crate::fuse::{self, MountOptions, Mounted};
use crate::store::Probe;
use crate::vfs::{self, Drained, Vfs};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

/// How often progress is told while sending what is left.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How much longer systemd is asked to wait while sending goes on.
const EXTEND: Duration = Duration::from_secs(30);

/// What a command line wishes.
#[derive(Debug)]
pub(super) struct Wish {
    /// Source and settings.
    pub(super) given: Given,
    /// Where to.
    pub(super) mountpoint: PathBuf,
    /// Stay in the foreground.
    pub(super) foreground: bool,
    /// Check, but do not mount.
    pub(super) fake: bool,
    /// Say nothing on success.
    pub(super) quiet: bool,
}

/// Carries out `wish`: in the first process starts the second one, in that (or with `-f`) mounts.
pub(super) fn mount(wish: &Wish) -> Ended {
    let second = background::is_second();
    let mut env = super::env();
    if second {
        background::take_secrets(&mut env)?;
    } else if !wish.foreground && !wish.fake {
        return match background::start(&env)? {
            background::Started::Answers => {
                if !wish.quiet {
                    let (source, on) = (&wish.given.source, wish.mountpoint.display());
                    super::print_safe(&format!("{source} on {on}\n"));
                }
                Ok(0)
            }
            background::Started::Ended(status) => std::process::exit(status.into()),
        };
    }
    let plan = Plan::check(wish, &env, second)?;
    let rt = super::runtime()?;
    let status = plan.run(&rt, wish.fake);
    // Reads that nobody waits for any more are not waited for.
    rt.shutdown_timeout(Duration::from_secs(1));
    status
}

/// A wish that passed every check on this machine.
#[derive(Debug)]
struct Plan {
    shown: String,
    resolved: Resolved,
    mountpoint: PathBuf,
    state_dir: PathBuf,
    /// This is the background process.
    second: bool,
}

/// What a start took up, in one line.
fn said(taken: &vfs::TakenUp) -> String {
    let mut parts = Vec::new();
    if taken.sending > 0 {
        parts.push(format!("{} sent now", count(taken.sending)));
    }
    if taken.there > 0 {
        parts.push(format!("{} the store already had", count(taken.there)));
    }
    if taken.kept > 0 {
        parts.push(format!(
            "{} kept in the spool and not sent by itself",
            count(taken.kept)
        ));
    }
    parts.extend(taken.odd.iter().cloned());
    format!("left by an earlier mount: {}", parts.join("; "))
}

impl Plan {
    fn check(wish: &Wish, env: &Env, second: bool) -> Result<Self, String> {
        let mut resolved = config::resolve(&wish.given, env)?;
        for warning in &resolved.warnings {
            super::eprintln_safe(&format!("assetfs: warning: {warning}"));
        }
        for credential in resolved.credentials.values() {
            credential.read()?;
        }
        if let Source::Demo(dir) = &mut resolved.source {
            *dir = std::fs::canonicalize(&*dir).map_err(|why| match why.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("there is no folder {0}: mkdir -p {0}", dir.display())
                }
                _ => format!("cannot use the folder {}: {why}", dir.display()),
            })?;
        }
        let settings = &mut resolved.settings;
        for path in [&mut settings.log_file, &mut settings.ca_file]
            .into_iter()
            .flatten()
        {
            *path = absolute(path)?;
        }
        let state_dir = absolute(&resolved.state_dir)?;
        let mounts = mountpoint::mounts()?;
        let mountpoint = mountpoint::usable(&wish.mountpoint, &mounts)?;
        if let Source::Demo(dir) = &resolved.source
            && mountpoint.starts_with(dir)
        {
            return Err(format!(
                "{} lies in {}, which it would show: use another mountpoint",
                mountpoint.display(),
                dir.display()
            ));
        }
        mountpoint::fuse_works(env.root, resolved.settings.allow_other)?;
        make_private(&state_dir)?;
        Ok(Plan {
            shown: wish.given.source.clone(),
            resolved,
            mountpoint,
            state_dir,
            second,
        })
    }

    fn run(&self, rt: &Runtime, fake: bool) -> Ended {
        let settings = &self.resolved.settings;
        if !fake {
            let default = self.second.then(|| self.log_file());
            let log_file = settings.log_file.clone().or(default);
            logging::start(settings.log_level, log_file.as_deref())?;
            raise_descriptors();
        }
        let opened = rt.block_on(store::open(&self.resolved))?;
        if fake {
            return Ok(0);
        }
        let options = self.options(&opened.probe)?;
        let socket = options.control.clone();
        let handle = rt.handle().clone();
        let vfs = Vfs::new(opened.store, &opened.probe, options, handle.clone())
            .map_err(|why| format!("{}: {why}", self.shown))?;
        let fuse = MountOptions {
            source: self.shown.clone(),
            allow_other: settings.allow_other,
            read_only: settings.read_only,
            words: self.resolved.words.clone(),
        };
        let ended = rt.block_on(async {
            // Before the mount, so that no signal finds it undrained.
            let mut signals = Signals::new()?;
            let taken = tokio::select! {
                taken = vfs.take_up() => taken,
                () = signals.next() => {
                    vfs.close_spool();
                    return Err("told to end before it was mounted; what is unsent stays in the spool".to_owned());
                }
            };
            if taken != vfs::TakenUp::default() {
                log::warn!("{}", said(&taken));
            }
            let mounted = fuse::mount(Arc::clone(&vfs), &self.mountpoint, &fuse, handle)
                .map_err(|why| format!("cannot mount on {}: {why}", self.mountpoint.display()))?;
            let watch = Arc::clone(&vfs);
            let watch = tokio::spawn(async move { watch.watch_idle().await });
            let life = Life {
                plan: self,
                vfs: Arc::clone(&vfs),
                mounted: Arc::new(mounted),
            };
            let ended = life.live(signals, socket.as_deref()).await;
            watch.abort();
            vfs.close_spool();
            ended
        });
        if let Some(socket) = socket {
            // It is gone already if the state directory is.
            drop(std::fs::remove_file(socket));
        }
        if let Some(server) = opened.server {
            rt.block_on(server.stop());
        }
        ended
    }

    /// Plain data for the rooms below.
    fn options(&self, probe: &Probe) -> Result<vfs::Options, String> {
        let settings = &self.resolved.settings;
        Ok(vfs::Options {
            uid: settings
                .uid
                .unwrap_or_else(|| rustix::process::getuid().as_raw()),
            gid: settings
                .gid
                .unwrap_or_else(|| rustix::process::getgid().as_raw()),
            umask: settings.umask,
            read_only: settings.read_only,
            attr_ttl: settings.attr_ttl,
            negative_ttl: settings.negative_ttl,
            name_timeout: settings.name_timeout,
            stall_timeout: settings.stall_timeout,
            uploads: settings.uploads,
            downloads: settings.downloads,
            memory: settings.memory,
            spool_dir: self
                .state_dir
                .join("spool")
                .join(spool_name(&self.resolved.source, probe)),
            spool_max: settings.spool_max,
            commit: settings.commit,
            commit_for: settings.commit_for.0.clone(),
            temp_names: match settings.defer_temp {
                true => settings.temp_names.0.clone(),
                false => Vec::new(),
            },
            temp_idle: settings.temp_idle,
            conflict: settings.conflict,
            rename_max: settings.rename_max,
            control: Some(control::socket_path(&self.state_dir)?),
        })
    }

    fn log_file(&self) -> PathBuf {
        let name = self
            .mountpoint
            .to_string_lossy()
            .trim_matches('/')
            .replace('/', "-");
        // A name has at most 255 bytes; the end says more than the beginning.
        let from = (name.len().saturating_sub(200)..=name.len())
            .find(|at| name.is_char_boundary(*at))
            .unwrap_or_default();
        self.state_dir
            .join("log")
            .join(format!("{}.log", &name[from..]))
    }
}

/// Resolves when the filesystem is unmounted.
type Gone = Shared<BoxFuture<'static, ()>>;

/// A mount that answers, until it ends.
struct Life<'a> {
    plan: &'a Plan,
    vfs: Arc<Vfs>,
    mounted: Arc<Mounted>,
}

impl Life<'_> {
    async fn live(&self, mut signals: Signals, socket: Option<&Path>) -> Ended {
        let plan = self.plan;
        let (asks, mut asked) = mpsc::channel(1);
        let listening = socket.map(|socket| {
            let control = Control::new(
                Arc::clone(&self.vfs),
                plan.shown.clone(),
                plan.mountpoint.clone(),
                asks.clone(),
            );
            control::listen(socket).map(|listener| tokio::spawn(control.run(listener)))
        });
        if let Some(Err(why)) = listening {
            self.let_go().await;
            return Err(why);
        }
        let gone = self.watch();
        if plan.second
            && let Err(why) = background::detach()
        {
            self.let_go().await;
            return Err(why);
        }
        log::info!("{} on {}", plan.shown, plan.mountpoint.display());
        notify(&[NotifyState::Ready, NotifyState::Status("mounted")]);

        let limit = plan.resolved.settings.drain_timeout;
        let (drained, ask) = loop {
            tokio::select! {
                () = gone.clone() => {
                    log::info!("{} was unmounted", plan.mountpoint.display());
                    let mut sent = Box::pin(self.drain(Some(limit), None));
                    let drained = tokio::select! {
                        drained = &mut sent => drained,
                        () = signals.next() => {
                            self.told_to_end(signals, gone);
                            sent.await
                        }
                    };
                    break (drained, None);
                }
                () = signals.next() => break (self.end_by_signal(signals, gone, None).await, None),
                Some(ask) = asked.recv() => {
                    log::info!("asked to unmount: sending what is left");
                    let ended = tokio::select! {
                        ended = self.end_as_asked(&ask, gone.clone()) => Some(ended),
                        () = signals.next() => None,
                    };
                    match ended {
                        Some(Ok(drained)) => break (drained, Some(ask)),
                        Some(Err(why)) => {
                            self.vfs.undrain();
                            tell(Some(&ask.answers), Answer::Refused { why });
                        }
                        // Whoever stops the process does not wait as long as whoever asked.
                        None => break (self.end_by_signal(signals, gone, Some(&ask)).await, Some(ask)),
                    }
                }
            }
        };
        self.last_words(drained, ask).await
    }

    /// Sends what is left, for as long as `ask` allows, and unmounts unless something holds it.
    async fn end_as_asked(&self, ask: &Ask, gone: Gone) -> Result<Drained, String> {
        let first = self.drain(ask.limit, Some(&ask.answers)).await;
        self.unmount().await?;
        Ok(self
            .drain_rest(first, gone, ask.limit, Some(&ask.answers))
            .await)
    }

    /// Sends what is left within `drain_timeout`, and unmounts whatever holds it.
    async fn end_by_signal(&self, signals: Signals, gone: Gone, ask: Option<&Ask>) -> Drained {
        self.told_to_end(signals, gone.clone());
        let limit = Some(self.plan.resolved.settings.drain_timeout);
        let answers = ask.map(|ask| &ask.answers);
        let first = self.drain(limit, answers).await;
        // `ask` may have come so far already: what is mounted there since is not ours.
        if gone.clone().now_or_never().is_none() {
            self.let_go().await;
        }
        self.drain_rest(first, gone, limit, answers).await
    }

    /// A signal asks for the end.
    fn told_to_end(&self, signals: Signals, gone: Gone) {
        log::info!("a signal asks to end: sending what is left");
        notify(&[
            NotifyState::Stopping,
            NotifyState::Status("sending what is left"),
        ]);
        self.leave_at_the_next(signals, gone);
    }

    /// Logs, tells and returns how it ended.
    async fn last_words(&self, drained: Drained, ask: Option<Ask>) -> Ended {
        let Drained { kept, refused } = drained;
        let left = super::left(kept, refused);
        for sentence in &left {
            log::error!("{sentence}");
        }
        if left.is_empty() {
            log::info!("everything is sent");
        }
        if let Some(ask) = ask {
            let pid = i32::try_from(std::process::id()).unwrap_or_default();
            tell(Some(&ask.answers), Answer::Unmounted { kept, refused, pid });
            drop(ask.answers);
            // Whoever asked may be stopped, and is not waited for long.
            let _ = tokio::time::timeout(Duration::from_secs(1), ask.written).await;
        }
        Ok(if left.is_empty() { 0 } else { KEPT })
    }

    /// Sends what is left: for at most `limit`, or without one as long as there is progress.
    async fn drain(
        &self,
        limit: Option<Duration>,
        answers: Option<&mpsc::UnboundedSender<Answer>>,
    ) -> Drained {
        let patience = self.plan.resolved.settings.drain_timeout;
        let work = async {
            let mut before = self.vfs.status();
            loop {
                let drained = self.vfs.drain(limit.unwrap_or(patience)).await;
                let now = self.vfs.status();
                let progress = now.sent_bytes > before.sent_bytes
                    || now.committed_files > before.committed_files;
                if limit.is_some() || drained.kept == 0 || !progress {
                    return drained;
                }
                before = now;
            }
        };
        tokio::pin!(work);
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                drained = &mut work => return drained,
                _ = tick.tick() => {
                    let status = self.vfs.status();
                    let extend = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
                    notify(&[
                        NotifyState::ExtendTimeoutUsec(extend),
                        NotifyState::Status(&format!("{} left to send", count(status.files.len()))),
                    ]);
                    tell(answers, Answer::Draining {
                        files: status.files.len(),
                        sent_bytes: status.sent_bytes,
                        to_send_bytes: status.to_send_bytes,
                    });
                }
            }
        }
    }

    /// After the unmount: what was closed at the very end arrives with it, and is sent unless the
    /// time was over before.
    async fn drain_rest(
        &self,
        first: Drained,
        gone: Gone,
        limit: Option<Duration>,
        answers: Option<&mpsc::UnboundedSender<Answer>>,
    ) -> Drained {
        // The threads that serve the kernel end after its last request; never, if something still
        // holds a mount that was taken out of the tree.
        let _ = tokio::time::timeout(Duration::from_secs(2), gone).await;
        let limit = if first.kept > 0 {
            Some(Duration::ZERO)
        } else {
            limit
        };
        self.drain(limit, answers).await
    }

    /// Unmounts unless something holds it.
    async fn unmount(&self) -> Result<(), String> {
        let mounted = Arc::clone(&self.mounted);
        let done = tokio::task::spawn_blocking(move || mounted.unmount())
            .await
            .map_err(|why| why.to_string())?;
        done.map_err(|why| match why.kind {
            Kind::Busy => {
                let on = self.plan.mountpoint.display();
                format!("something has files open there: lsof +f -- {on}")
            }
            _ => why.to_string(),
        })
    }

    /// Unmounts even though something holds it.
    async fn let_go(&self) {
        if self.unmount().await.is_err() {
            let on = self.plan.mountpoint.clone();
            log::warn!(
                "{} is in use: taken out of the tree all the same",
                on.display()
            );
            drop(tokio::task::spawn_blocking(move || mountpoint::let_go(&on)).await);
        }
    }

    /// Resolves when the filesystem is unmounted, by whomever.
    fn watch(&self) -> Gone {
        let (sender, gone) = oneshot::channel();
        let mounted = Arc::clone(&self.mounted);
        std::thread::spawn(move || {
            mounted.wait();
            // Nobody listens when the process is ending already.
            let _ = sender.send(());
        });
        gone.map(drop).boxed().shared()
    }

    /// From now on a signal ends the process at once; the spool keeps what is not sent.
    fn leave_at_the_next(&self, mut signals: Signals, gone: Gone) {
        let on = self.plan.mountpoint.clone();
        tokio::spawn(async move {
            signals.next().await;
            log::error!("a second signal: leaving at once, the spool keeps what is not sent");
            if gone.now_or_never().is_none() {
                drop(tokio::task::spawn_blocking(move || mountpoint::let_go(&on)).await);
            }
            std::process::exit(KEPT.into());
        });
    }
}

fn tell(answers: Option<&mpsc::UnboundedSender<Answer>>, answer: Answer) {
    if let Some(answers) = answers {
        // Whoever asked may have gone away: the work goes on.
        drop(answers.send(answer));
    }
}

/// To systemd, if it started us.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(states) {
        log::debug!("sd_notify: {why}");
    }
}

/// Descriptors beyond which nothing here needs more; some programs that we start look at each one that they
/// may have.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// Lets this process open as many files as it may.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        if let Err(why) = setrlimit(Resource::Nofile, limit) {
            log::debug!("cannot raise the number of open files to {most}: {why}");
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|why| format!("{}: {why}", path.display()))
}

/// Makes `dir`, for this user alone.
fn make_private(dir: &Path) -> Result<(), String> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(|why| format!("cannot use the state directory {}: {why}", dir.display()))
}

/// The folder of a store and account below the spool: readable, and different for each of them.
fn spool_name(source: &Source, probe: &Probe) -> String {
    let (readable, address, account) = match source {
        Source::Proget(p) => (
            format!("proget-{}", p.directory),
            format!("{}/{}/{}", p.server, p.directory, p.folder),
            probe.account.as_str(),
        ),
        Source::Iotfile(i) => (
            format!("iotfile-{}", &i.entity[..8]),
            format!("{}/{}/{}", i.gateway, i.entity, i.folder),
            probe.account.as_str(),
        ),
        // The same folder, by whatever path it is named.
        Source::Box(_) => (
            format!("box-{}", probe.root.0.trim_start_matches("folder/")),
            format!("box/{}", probe.root),
            probe.account.as_str(),
        ),
        // A demo has another key each time.
        Source::Demo(dir) => ("demo".to_owned(), dir.to_string_lossy().into_owned(), ""),
    };
    let readable: String = readable
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(60)
        .collect();
    let hash = Sha256::digest(format!("{address}\n{account}"));
    let hash: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{readable}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Word;

    fn name(source: &str, account: &str) -> String {
        let Ok(Word::Source(source)) = Word::parse(source) else {
            panic!("{source}");
        };
        let probe = Probe {
            root: "".into(),
            account: account.to_owned(),
            banner: String::new(),
        };
        spool_name(&source, &probe)
    }

    #[test]
    fn another_folder_server_or_account_has_another_spool() {
        let names = [
            name("proget+https://h/endpoints/f", "a"),
            name("proget+https://h/endpoints/f/x", "a"),
            name("proget+https://i/endpoints/f", "a"),
            name("proget+https://h/endpoints/f", "b"),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(names[..i].iter().all(|other| other != one), "{one}");
        }
        assert_eq!(names[0], name("proget+https://h/endpoints/f/", "a"));
        assert!(names[0].starts_with("proget-f-"), "{}", names[0]);
    }
}

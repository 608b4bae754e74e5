//! `assetfs serve`: a store's API over a folder, so that everything can be tried without an account.

use super::Ended;
use crate::config::units;
use crate::serve::{Api, ENTITY, EXAMPLE, FORMAT, Server, Settings};
use clap::{Args, ValueHint};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The asset directory's name that a server of ours has unless told otherwise.
pub(super) const NAME: &str = "files";

const AFTER_HELP: &str = "\
The key to ask for comes from ASSETFS_API_KEY, or user and password from ASSETFS_USERNAME and
ASSETFS_PASSWORD; of the IoT File Service and Box from ASSETFS_TOKEN, or ASSETFS_CLIENT_ID and
ASSETFS_CLIENT_SECRET; without them everybody may do everything. The first line of the output ends with
the source to mount.";

fn after_long_help() -> String {
    format!("{AFTER_HELP}\n\nFaults:\n{FORMAT}\nAn example:\n{EXAMPLE}")
}

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = after_long_help())]
pub(super) struct ServeArgs {
    /// The folder to serve; made if missing
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// Which service to be: proget, iotfile or box
    #[arg(long)]
    api: Api,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Name of the asset directory, or the entity [default: files, or 0123456789abcdef twice]
    #[arg(long)]
    name: Option<String>,
    /// Bytes per second in each direction [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    rate: Option<u64>,
    /// What every request waits in addition
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "0")]
    rtt: Duration,
    /// JSON file of faults to inject, read again when it changes; --help describes it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    faults: Option<PathBuf>,
    /// File that gets one JSON line per request
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,
}

pub(super) fn serve(args: &ServeArgs) -> Ended {
    super::logging::start(log::LevelFilter::Info, None)?;
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut settings = Settings::new(&args.dir);
    settings.api = args.api;
    settings.listen = args.listen;
    match args.api {
        Api::Proget => {
            settings.key = var("ASSETFS_API_KEY");
            settings.login = var("ASSETFS_USERNAME").zip(var("ASSETFS_PASSWORD"));
        }
        Api::Iotfile => {
            settings.name = ENTITY.to_owned();
            settings.key = var("ASSETFS_TOKEN");
            settings.login = var("ASSETFS_CLIENT_ID").zip(var("ASSETFS_CLIENT_SECRET"));
        }
        Api::Box => {
            settings.key = var("ASSETFS_TOKEN");
            settings.login = var("ASSETFS_CLIENT_ID").zip(var("ASSETFS_CLIENT_SECRET"));
            settings.boxcom.refresh_token = var("ASSETFS_REFRESH_TOKEN");
        }
    }
    if let Some(name) = &args.name {
        settings.name.clone_from(name);
    }
    let name = settings.name.clone();
    settings.rate = args.rate;
    settings.rtt = args.rtt;
    settings.faults.clone_from(&args.faults);
    settings.log.clone_from(&args.log);
    if settings.key.is_none() && settings.login.is_none() && !args.listen.ip().is_loopback() {
        super::eprintln_safe(
            "assetfs: warning: no credentials are asked for: everybody who reaches this address may do everything",
        );
    }
    let rt = super::runtime()?;
    rt.block_on(async {
        let mut signals = super::signals::Signals::new()?;
        let server = start(settings, &args.dir).await?;
        let addr = server.addr();
        let (url, source) = match args.api {
            Api::Proget => {
                let url = format!("http://{addr}/endpoints/{name}");
                (url.clone(), format!("proget+{url}"))
            }
            Api::Iotfile => (
                format!("http://{addr}/api/iotfile/v3/files/{name}"),
                format!("iotfile+http://{addr}/{name}"),
            ),
            Api::Box => (
                format!("http://{addr}/2.0"),
                format!(
                    "box: with -o api_url=http://{addr}/2.0,upload_url=http://{addr}/api/2.0,\
                     token_url=http://{addr}/oauth2/token"
                ),
            ),
        };
        let dir = args.dir.display();
        super::print_safe(&format!("{url} serves {dir}; mount {source}\n"));
        signals.next().await;
        server.stop().await;
        Ok(0)
    })
}

/// Starts a server over `dir`.
///
/// # Errors
/// A sentence if it cannot be started.
pub(super) async fn start(settings: Settings, dir: &Path) -> Result<Server, String> {
    let listen = settings.listen;
    Server::start(settings)
        .await
        .map_err(|why| format!("cannot serve {} at {listen}: {why}", dir.display()))
}

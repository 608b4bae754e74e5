//! `assetfs login box`: authorization in a browser on this machine; what comes of it is kept for later mounts.

use super::{Ended, store};
use crate::config::{Env, Given, Resolved, resolve};
use crate::http::{self, Secret, Url};
use crate::store::boxcom;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Where a person says yes, unless told otherwise.
const AUTHORIZE: &str = "https://account.box.com/api/oauth2/authorize";

/// How long the last page may take to reach the browser.
const PAGE_WITHIN: Duration = Duration::from_secs(2);

/// What can be logged in to.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Service {
    /// A Box account
    Box,
}

#[derive(Args, Debug)]
pub(super) struct LoginArgs {
    /// The service
    service: Service,
    /// A NAME of the configuration file whose client_id and client_secret are used
    #[arg(default_value = "box:")]
    source: String,
    /// Port of this machine to which the browser comes back; http://127.0.0.1:PORT/ must be a redirect URI of
    /// the application
    #[arg(long, default_value = "8913")]
    port: u16,
    /// The page on which a person says yes [default: that of Box]
    #[arg(long, value_name = "URL")]
    authorize_url: Option<String>,
    /// Where tokens come from [default: as for a mount]
    #[arg(long, value_name = "URL")]
    token_url: Option<String>,
    /// The configuration file [default: as for a mount]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Where the refresh token is kept [default: as for a mount]
    #[arg(long, value_name = "PATH")]
    state_dir: Option<PathBuf>,
}

/// What the browser brought.
type Brought = Result<String, String>;

pub(super) fn login(args: &LoginArgs, env: &Env) -> Ended {
    let Service::Box = args.service;
    let mut flags = Vec::new();
    for (key, value) in [
        ("token_url", args.token_url.clone()),
        (
            "config",
            args.config.as_ref().map(|p| p.display().to_string()),
        ),
        (
            "state_dir",
            args.state_dir.as_ref().map(|p| p.display().to_string()),
        ),
    ] {
        flags.extend(value.map(|value| (key.to_owned(), value)));
    }
    let given = Given {
        source: args.source.clone(),
        flags,
        ..Given::default()
    };
    let resolved = resolve(&given, env)?;
    let read = |name: &str| match resolved.credentials.get(name) {
        Some(credential) => credential.read(),
        None => Err(format!(
            "a login needs the client_id and client_secret of an application: set ASSETFS_CLIENT_ID and \
             ASSETFS_CLIENT_SECRET, or write client_id and client_secret_file into {}",
            resolved.config.display()
        )),
    };
    let (id, secret) = (read("client_id")?, read("client_secret")?);
    super::runtime()?.block_on(authorize(args, &resolved, &id, &secret))
}

async fn authorize(args: &LoginArgs, resolved: &Resolved, id: &str, secret: &str) -> Ended {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))
        .await
        .map_err(|why| {
            format!(
                "cannot listen on port {} ({why}): give another --port",
                args.port
            )
        })?;
    let at = listener.local_addr().map_err(|why| why.to_string())?;
    let redirect = format!("http://{at}/");
    let state = uuid::Uuid::new_v4().simple().to_string();
    let page = args.authorize_url.as_deref().unwrap_or(AUTHORIZE);
    let mut page = Url::parse(page).map_err(|why| format!("{page} is not an address: {why}"))?;
    page.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", id)
        .append_pair("redirect_uri", &redirect)
        .append_pair("state", &state);
    super::print_safe(&format!(
        "Open this address in a browser of this machine, and allow the access:\n{page}\n"
    ));
    let code = wait_for_browser(listener, state).await?;
    let config = boxcom::Config::new(
        boxcom::Root {
            id: "0".to_owned(),
            path: String::new(),
        },
        boxcom::Auth::Anonymous,
    );
    let token_url = match &resolved.settings.token_url {
        Some(url) => Url::parse(url).map_err(|why| format!("{url} is not an address: {why}"))?,
        None => config.map_err(|why| why.to_string())?.token,
    };
    let keep = store::box_keep(&resolved.state_dir, id);
    let secret = http::Credential::fixed(Secret::new(secret));
    let http = store::http_settings(resolved);
    boxcom::log_in(
        &http,
        &token_url,
        id,
        secret,
        &code,
        &redirect,
        keep.clone(),
    )
    .await
    .map_err(|why| format!("the login has failed: {why}"))?;
    super::print_safe(&format!(
        "Logged in. What a mount needs is kept in {}.\n",
        keep.display()
    ));
    Ok(0)
}

/// Serves the page to which the browser comes back, until it brings the code.
async fn wait_for_browser(listener: tokio::net::TcpListener, state: String) -> Brought {
    let (brings, mut brought) = mpsc::channel::<Brought>(1);
    let back = move |Query(asked): Query<HashMap<String, String>>| async move {
        // Not the answer to our question.
        if asked.get("state") != Some(&state) {
            return "This is not the login that was begun.".to_owned();
        }
        let code = match (asked.get("code"), asked.get("error")) {
            (Some(code), _) => Ok(code.clone()),
            (None, error) => Err(format!(
                "the access was not allowed ({})",
                error.map_or("no code came back", String::as_str)
            )),
        };
        let words = match &code {
            Ok(_) => "assetfs is logged in. You can close this page.".to_owned(),
            Err(why) => why.clone(),
        };
        // A second answer has nobody to wait for it.
        drop(brings.try_send(code));
        words
    };
    let router = Router::new().route("/", get(back));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        // Also when nobody is there any more to say so.
        let _ = stopped.await;
    });
    let serving = tokio::spawn(async move { serving.await });
    let code = brought.recv().await;
    drop(stop);
    // The browser shall have its page; one that keeps the connection open is not waited for.
    let _ = tokio::time::timeout(PAGE_WITHIN, serving).await;
    code.unwrap_or_else(|| Err("the login page has ended".to_owned()))
}

//! From a source to a store that was probed, and from its errors to sentences.

use super::serve;
use crate::config::{self, BoxFolder, Iotfile, Proget, Resolved, Source};
use crate::error::{Error, Kind};
use crate::http::{self, Secret};
use crate::serve::{Server, Settings as ServerSettings};
use crate::store::boxcom::{self, BoxCom};
use crate::store::iotfile::{self, IotFile};
use crate::store::proget::{Auth, Config, ProGet};
use crate::store::{Probe, RetrySettings, Store, WrapSettings, wrapped};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A store that answered.
#[derive(Debug)]
pub(super) struct Opened {
    /// The store, with its wrappers.
    pub(super) store: Arc<dyn Store>,
    /// What it is.
    pub(super) probe: Probe,
    /// The server inside this process, for a demo.
    pub(super) server: Option<Server>,
}

/// Opens the store of a source.
///
/// # Errors
/// A sentence that says what to do.
pub(super) async fn open(resolved: &Resolved) -> Result<Opened, String> {
    match &resolved.source {
        Source::Proget(proget) => {
            let (store, probe) = proget_at(proget, auth(resolved)?, resolved).await?;
            Ok(Opened {
                store,
                probe,
                server: None,
            })
        }
        Source::Iotfile(source) => {
            let store = iotfile_at(source, resolved)?;
            let said = |why: Error| iotfile_sentence(&why, source, resolved);
            let (store, probe) = wrap(store, resolved).await.map_err(said)?;
            Ok(Opened {
                store,
                probe,
                server: None,
            })
        }
        Source::Box(folder) => {
            let store = box_at(folder, resolved)?;
            let said = |why: Error| box_sentence(&why, folder, resolved);
            let (store, probe) = wrap(store, resolved).await.map_err(said)?;
            Ok(Opened {
                store,
                probe,
                server: None,
            })
        }
        Source::Demo(dir) => {
            // Known to this process alone.
            let key = uuid::Uuid::new_v4().simple().to_string();
            let mut settings = ServerSettings::new(dir);
            settings.key = Some(key.clone());
            let server = serve::start(settings, dir).await?;
            let proget = Proget {
                server: format!("http://{}", server.addr()),
                directory: serve::NAME.to_owned(),
                folder: String::new(),
                in_the_clear: false,
            };
            let auth = Auth::Key(http::Credential::fixed(Secret::new(&key)));
            let (store, probe) = proget_at(&proget, auth, resolved).await?;
            Ok(Opened {
                store,
                probe,
                server: Some(server),
            })
        }
    }
}

async fn proget_at(
    proget: &Proget,
    auth: Auth,
    resolved: &Resolved,
) -> Result<(Arc<dyn Store>, Probe), String> {
    let settings = &resolved.settings;
    let base = http::Url::parse(&proget.server)
        .map_err(|why| format!("{} is not an address: {why}", proget.server))?;
    let config = Config {
        directory: proget.directory.clone(),
        folder: proget.folder.clone(),
        part_size: settings.part_size,
        user_metadata: settings.user_metadata,
        http: http_settings(resolved),
        case_fold: resolved.settings.case_fold,
        parallel_parts: true,
        auth,
        base,
    };
    let said = |why: Error| sentence(&why, proget, resolved);
    let store: Arc<dyn Store> = Arc::new(ProGet::new(config).map_err(said)?);
    wrap(store, resolved).await.map_err(said)
}

pub(super) fn http_settings(resolved: &Resolved) -> http::Settings {
    let settings = &resolved.settings;
    http::Settings {
        ca_file: settings.ca_file.clone(),
        stall_timeout: settings.stall_timeout,
        limit_up: settings.limit_up.unwrap_or_default(),
        limit_down: settings.limit_down.unwrap_or_default(),
        ..http::Settings::default()
    }
}

/// Probes a store, and lays the wrappers around it.
async fn wrap(
    store: Arc<dyn Store>,
    resolved: &Resolved,
) -> crate::error::Result<(Arc<dyn Store>, Probe)> {
    let settings = &resolved.settings;
    let wraps = WrapSettings {
        uploads: settings.uploads,
        downloads: settings.downloads,
        // Whoever wants to hear soon that nothing moves wants no tries beyond that either.
        retry: RetrySettings {
            budget: settings.stall_timeout * 2,
            later_budget: settings.stall_timeout * 10,
            ..RetrySettings::default()
        },
        ..WrapSettings::default()
    };
    // Somebody waits at a prompt: a wrong address must not take minutes to say so.
    let hasty = WrapSettings {
        retry: RetrySettings {
            tries: 3,
            budget: Duration::from_secs(20),
            later_budget: Duration::from_secs(20),
            ..RetrySettings::default()
        },
        ..wraps.clone()
    };
    let probe = wrapped(Arc::clone(&store), &hasty).probe().await?;
    log::info!("{}", probe.banner);
    Ok((wrapped(store, &wraps), probe))
}

/// A credential that is read again when it is refused.
fn readable(credential: &config::Credential) -> http::Credential {
    let credential = credential.clone();
    http::Credential::read_by(move || {
        credential
            .read()
            .map_err(|why| Error::new(Kind::Denied, "read the credential").said(&why))
    })
}

/// The least part of the IoT File Service, in bytes.
const IOTFILE_PART_MIN: u64 = 5 << 20;

fn iotfile_at(source: &Iotfile, resolved: &Resolved) -> Result<Arc<dyn Store>, String> {
    let settings = &resolved.settings;
    let address = |text: &str| {
        http::Url::parse(text).map_err(|why| format!("{text} is not an address: {why}"))
    };
    let auth = iotfile_auth(resolved)?;
    let mut config = iotfile::Config::at(&source.gateway, &source.entity, auth)
        .map_err(|why| why.to_string())?;
    config.folder.clone_from(&source.folder);
    config.token_url = settings.token_url.as_deref().map(address).transpose()?;
    config.part_size = settings.part_size.max(IOTFILE_PART_MIN);
    config.http = http_settings(resolved);
    let store = IotFile::new(config).map_err(|why| match why.kind {
        Kind::Invalid if settings.token_url.is_none() => format!(
            "{} does not tell where tokens come from: give -o token_url=URL (--token-url URL)",
            source.gateway
        ),
        _ => why.to_string(),
    })?;
    Ok(Arc::new(store))
}

/// A token, tenant credentials, or application credentials, whichever is whole.
fn iotfile_auth(resolved: &Resolved) -> Result<iotfile::Auth, String> {
    let found = &resolved.credentials;
    if let Some(token) = found.get("token") {
        return Ok(iotfile::Auth::Token(readable(token)));
    }
    let (id, secret) = match (found.get("client_id"), found.get("client_secret")) {
        (None, None) => return Ok(iotfile::Auth::Anonymous),
        (Some(id), Some(secret)) => (id.read()?, readable(secret)),
        (Some(id), None) => return Err(format!("{} needs a client_secret beside it", id.from)),
        (None, Some(secret)) => {
            return Err(format!("{} needs a client_id beside it", secret.from));
        }
    };
    if let Some(tenant) = found.get("tenant") {
        let tenant = tenant.read()?;
        return Ok(iotfile::Auth::Tenant { id, secret, tenant });
    }
    let value = |name: &str| match found.get(name) {
        Some(credential) => credential.read(),
        None => Err(format!(
            "client_id and client_secret need a tenant beside them, or app_name, app_version, \
             host_tenant and user_tenant: {name} is missing"
        )),
    };
    Ok(iotfile::Auth::Application {
        name: value("app_name")?,
        version: value("app_version")?,
        host: value("host_tenant")?,
        user: value("user_tenant")?,
        id,
        secret,
    })
}

fn box_at(folder: &BoxFolder, resolved: &Resolved) -> Result<Arc<dyn Store>, String> {
    let root = boxcom::Root {
        id: folder.id.clone(),
        path: folder.folder.clone(),
    };
    let auth = box_auth(resolved)?;
    let mut config = boxcom::Config::new(root, auth).map_err(|why| why.to_string())?;
    let settings = &resolved.settings;
    for (given, base) in [
        (&settings.api_url, &mut config.api),
        (&settings.upload_url, &mut config.upload),
        (&settings.token_url, &mut config.token),
    ] {
        if let Some(text) = given {
            *base =
                http::Url::parse(text).map_err(|why| format!("{text} is not an address: {why}"))?;
        }
    }
    config.http = http_settings(resolved);
    let store = BoxCom::new(config).map_err(|why| why.to_string())?;
    Ok(Arc::new(store))
}

/// Where the refresh token of a client is kept.
pub(super) fn box_keep(state_dir: &Path, client_id: &str) -> PathBuf {
    let name: String = client_id
        .bytes()
        .map(|b| format!("{b:02x}"))
        .take(64)
        .collect();
    state_dir.join("box").join(format!("{name}.json"))
}

/// A token, client credentials for somebody, or a refresh token, whichever is whole.
fn box_auth(resolved: &Resolved) -> Result<boxcom::Auth, String> {
    let found = &resolved.credentials;
    if let Some(token) = found.get("token") {
        return Ok(boxcom::Auth::Token(readable(token)));
    }
    let (id, secret) = match (found.get("client_id"), found.get("client_secret")) {
        (None, None) => return Ok(boxcom::Auth::Anonymous),
        (Some(id), Some(secret)) => (id.read()?, readable(secret)),
        (Some(id), None) => return Err(format!("{} needs a client_secret beside it", id.from)),
        (None, Some(secret)) => {
            return Err(format!("{} needs a client_id beside it", secret.from));
        }
    };
    if let Some(subject) = found.get("subject") {
        let from = &subject.from;
        let subject = boxcom::Subject::parse(&subject.read()?);
        let subject = subject.map_err(|why| format!("{from}: {why}"))?;
        return Ok(boxcom::Auth::Client {
            id,
            secret,
            subject,
        });
    }
    let keep = box_keep(&resolved.state_dir, &id);
    let first = found.get("refresh_token").map(config::Credential::read);
    let first = first.transpose()?;
    if first.is_none() && !keep.exists() {
        return Err(
            "client_id and client_secret need a subject (enterprise:ID or user:ID) or a refresh_token \
             beside them, or a login: assetfs login box"
                .to_owned(),
        );
    }
    Ok(boxcom::Auth::Refresh {
        id,
        secret,
        first: first.as_deref().map(Secret::new),
        keep,
    })
}

/// What a person should do about an account that does not let itself be mounted.
fn box_sentence(why: &Error, folder: &BoxFolder, resolved: &Resolved) -> String {
    let at = resolved.settings.api_url.as_deref().unwrap_or("Box");
    let cause = cause(why);
    match why.kind {
        Kind::Denied if resolved.credentials.is_empty() => format!(
            "{at} wants a token: set ASSETFS_TOKEN, or write client_id, client_secret_file and subject into \
             {}, or log in: assetfs login box",
            resolved.config.display()
        ),
        Kind::Denied => {
            let from = resolved.credentials.values().map(|c| c.from.as_str());
            format!(
                "{at} refuses the credentials ({}){}: check them, and what they may do",
                from.collect::<Vec<_>>().join(", "),
                if cause.is_empty() {
                    String::new()
                } else {
                    format!(", \"{cause}\"")
                },
            )
        }
        Kind::Unreachable if speaks_of_a_certificate(&cause) => certificate(at, &cause),
        Kind::Unreachable | Kind::Timeout => {
            format!("cannot reach {at} ({cause}): check the addresses and the network")
        }
        Kind::NotFound if folder.folder.is_empty() => {
            format!(
                "{at} has no folder with the id {}, or it is not shown to this account",
                folder.id
            )
        }
        Kind::NotFound => format!(
            "the folder {} is not in this account of {at}: check its name (SOURCE and subdir)",
            folder.folder
        ),
        Kind::NotDir => format!("{} is a file: mount a folder", folder.folder),
        _ => why.to_string(),
    }
}

/// What a person should do about an entity that does not let itself be mounted.
fn iotfile_sentence(why: &Error, source: &Iotfile, resolved: &Resolved) -> String {
    let server = &source.gateway;
    let host = server
        .split_once("://")
        .map_or(server.as_str(), |(_, host)| host);
    let cause = cause(why);
    match why.kind {
        Kind::Denied if resolved.credentials.is_empty() => format!(
            "{server} wants a token: set ASSETFS_TOKEN, or write client_id, client_secret_file and \
             tenant into {}",
            resolved.config.display()
        ),
        Kind::Denied => {
            let from = resolved.credentials.values().map(|c| c.from.as_str());
            format!(
                "{server} refuses the credentials ({}): check them, and that they may use the files \
                 of the entity {}",
                from.collect::<Vec<_>>().join(", "),
                source.entity
            )
        }
        Kind::Unreachable | Kind::Timeout => unreachable(why.kind, host, &cause),
        Kind::NotFound => format!("{server} has no entity {}: check its id", source.entity),
        Kind::NotDir => format!("{} is a file: mount a folder", source.folder),
        _ => why.to_string(),
    }
}

/// The server's words, or what lies below, without what the libraries between say of themselves.
fn cause(why: &Error) -> String {
    let whole = match (&why.said, &why.source) {
        (said, _) if !said.is_empty() => said.clone(),
        (_, Some(source)) => source.to_string(),
        (_, None) => String::new(),
    };
    match whole.rsplit_once("client error (Connect): ") {
        Some((_, cause)) => cause.to_owned(),
        None => whole,
    }
}

/// What to do about a store that cannot be reached at `host`.
fn unreachable(kind: Kind, host: &str, cause: &str) -> String {
    if kind == Kind::Unreachable && speaks_of_a_certificate(cause) {
        return certificate(host, cause);
    }
    // What rustls says of an answer that does not begin like one of TLS.
    if cause.contains("InvalidContentType") {
        return format!(
            "{host} does not speak https ({cause}): check the port; if it is meant to be http, in which the \
             key and all bytes travel in the clear, write +http:// in the source"
        );
    }
    format!("cannot reach {host} ({cause}): check the name, the port and the network")
}

/// The credentials as the store wants them: read again when they are refused.
fn auth(resolved: &Resolved) -> Result<Auth, String> {
    let found = &resolved.credentials;
    match (
        found.get("api_key"),
        found.get("username"),
        found.get("password"),
    ) {
        (Some(key), _, _) => Ok(Auth::Key(readable(key))),
        (None, Some(name), Some(password)) => Ok(Auth::User {
            name: name.read()?,
            password: readable(password),
        }),
        (None, Some(name), None) => Err(format!("{} needs a password beside it", name.from)),
        (None, None, Some(password)) => {
            Err(format!("{} needs a username beside it", password.from))
        }
        (None, None, None) => Ok(Auth::Anonymous),
    }
}

/// What a person should do about a store that does not let itself be mounted.
fn sentence(why: &Error, proget: &Proget, resolved: &Resolved) -> String {
    let server = &proget.server;
    let host = server
        .split_once("://")
        .map_or(server.as_str(), |(_, host)| host);
    let cause = cause(why);
    match why.kind {
        Kind::Denied
            if resolved.credentials.is_empty() && matches!(resolved.source, Source::Proget(_)) =>
        {
            format!(
                "{server} wants a key: set ASSETFS_API_KEY, or write api_key_file = \"PATH\" into {}",
                resolved.config.display()
            )
        }
        Kind::Denied => {
            let from: Vec<&str> = resolved
                .credentials
                .values()
                .map(|c| c.from.as_str())
                .collect();
            format!(
                "{server} refuses the credentials ({}): check them, and that they may view the asset directory {}",
                from.join(", "),
                proget.directory
            )
        }
        Kind::Unreachable | Kind::Timeout => unreachable(why.kind, host, &cause),
        Kind::NotFound if !proget.folder.is_empty() && why.path.ends_with(&proget.folder) => {
            format!(
                "the folder {} is not in the asset directory {} of {server}: check its name (SOURCE and subdir)",
                proget.folder, proget.directory
            )
        }
        Kind::NotFound => format!(
            "{server} has no asset directory \"{}\": check its name, and that it is an asset directory",
            proget.directory
        ),
        Kind::NotDir => format!("{} is a file: mount a folder", proget.folder),
        _ => why.to_string(),
    }
}

/// Whether the words are those of a TLS library about a certificate.
fn speaks_of_a_certificate(cause: &str) -> bool {
    let cause = cause.to_ascii_lowercase();
    ["certificate", "unknown ca"]
        .iter()
        .any(|words| cause.contains(words))
}

/// What to do about a certificate; the words are those of rustls's `CertificateError`.
fn certificate(host: &str, cause: &str) -> String {
    if cause.contains("not valid for") {
        return format!(
            "the certificate of {host} is made for another name ({cause}): use the name that it is made for"
        );
    }
    if cause.contains("expired") || cause.contains("not valid yet") {
        return format!(
            "the certificate of {host} is not valid at this time ({cause}): check this machine's clock; else the server needs a new one"
        );
    }
    format!(
        "the certificate of {host} is not trusted ({cause}): give -o ca_file=PATH (--ca-file PATH) with the authority's certificate (PEM)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Given, resolve};

    fn said(kind: Kind, path: &str, words: &str, vars: &[(&str, &str)]) -> String {
        let given = Given {
            source: "proget+https://h:8624/endpoints/files/a/b".to_owned(),
            ..Given::default()
        };
        let home = [("HOME", "/nonexistent")];
        let vars = vars
            .iter()
            .chain(&home)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let env = Env {
            vars: vars.collect(),
            root: false,
        };
        let resolved = resolve(&given, &env).unwrap();
        let Source::Proget(proget) = &resolved.source else {
            panic!("a ProGet source");
        };
        sentence(
            &Error::new(kind, "reach the store").at(path).said(words),
            proget,
            &resolved,
        )
    }

    #[test]
    fn a_missing_key_says_where_one_can_stand() {
        let text = said(Kind::Denied, "", "", &[]);
        assert!(
            text.contains("set ASSETFS_API_KEY, or write api_key_file"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_key_says_where_it_came_from_and_not_what_it_is() {
        let text = said(Kind::Denied, "", "", &[("ASSETFS_API_KEY", "hunter2")]);
        assert!(
            text.contains("refuses the credentials (ASSETFS_API_KEY)"),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn an_unknown_authority_leads_to_ca_file() {
        let text = said(
            Kind::Unreachable,
            "",
            "invalid peer certificate: UnknownIssuer",
            &[],
        );
        assert!(
            text.contains("h:8624 is not trusted") && text.contains("--ca-file"),
            "{text}"
        );
        for (words, wanted) in [
            (
                "not valid for name \"h\"; certificate is only valid for DnsName(\"i\")",
                "made for another name",
            ),
            ("certificate expired: verification time 2 (UNIX)", "clock"),
        ] {
            let words = format!("invalid peer certificate: {words}");
            let text = said(Kind::Unreachable, "", &words, &[]);
            assert!(text.contains(wanted) && !text.contains("ca_file"), "{text}");
        }
        let text = said(Kind::Unreachable, "", "connection refused", &[]);
        assert!(
            text.starts_with("cannot reach h:8624 (connection refused)"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_folder_and_a_missing_asset_directory_are_told_apart() {
        assert!(said(Kind::NotFound, "/a/b", "", &[]).starts_with("the folder a/b is not in"));
        let text = said(Kind::NotFound, "https://h:8624/endpoints/files", "", &[]);
        assert!(text.contains("has no asset directory \"files\""), "{text}");
    }

    #[test]
    fn a_name_without_password_is_told() {
        let given = Given {
            source: "proget+https://h/endpoints/f".to_owned(),
            ..Given::default()
        };
        let env = Env {
            vars: [("ASSETFS_USERNAME".to_owned(), "u".to_owned())].into(),
            root: true,
        };
        let why = auth(&resolve(&given, &env).unwrap()).unwrap_err();
        assert_eq!(why, "ASSETFS_USERNAME needs a password beside it");
    }
}

//! Settings and credentials: flag, `-o`, variable, configuration file, default, in this order.
//!
//! Knows nothing of mounting. Everything but reading files is a pure function of what was given.

mod credential;
mod dash_o;
mod file;
pub mod promises;
mod settings;
mod source;
pub mod units;

pub use credential::{Credential, Place};
pub use dash_o::DashO;
pub use file::{File, Section};
pub use settings::Settings;
pub use source::{BoxFolder, Iotfile, Proget, Source, Word};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the surroundings of a command say.
#[derive(Clone, Default)]
pub struct Env {
    /// The variables.
    pub vars: BTreeMap<String, String>,
    /// Whether it runs as root.
    pub root: bool,
}

/// Variables may be secret.
impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("vars", &self.vars.keys())
            .field("root", &self.root)
            .finish()
    }
}

/// What a command line gave.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The word SOURCE.
    pub source: String,
    /// Long flags, as keys (`foo_bar`) and raw values.
    pub flags: Vec<(String, String)>,
    /// What stood after each `-o`.
    pub dash_o: Vec<String>,
    /// Unknown words after `-o` are ignored (mount(8)'s `-s`).
    pub sloppy: bool,
}

/// Everything a mount needs to know, all layers applied.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What is mounted, with `subdir` applied.
    pub source: Source,
    /// The settings.
    pub settings: Settings,
    /// Where the state is: absolute unless `state_dir` was given otherwise.
    pub state_dir: PathBuf,
    /// mount(8)'s words for the kernel.
    pub words: Vec<String>,
    /// The credentials that were found, by name.
    pub credentials: BTreeMap<String, Credential>,
    /// The configuration file that was or would have been read.
    pub config: PathBuf,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Applies the layers.
///
/// # Errors
/// One sentence that names the key and where it stood.
pub fn resolve(given: &Given, env: &Env) -> Result<Resolved, String> {
    let word = Word::parse(&given.source)?;
    let known = known_keys();
    let dash_o = DashO::parse(&given.dash_o)?;
    let mut layers = Layers::default();
    for (key, value) in &given.flags {
        layers.offer(key, value, &format!("--{}", key.replace('_', "-")));
    }
    // The last of several wins, so they are offered from the end.
    for (key, value) in dash_o.pairs.iter().rev() {
        if known.contains(key) {
            layers.offer(key, value, "-o");
        } else if is_credential(key) {
            return Err(on_command_line(key, &config_path(&layers, env).0));
        } else if !given.sloppy {
            let near = match nearest(key, &known) {
                near if near.is_empty() => "; assetfs mount --help lists what there is".to_owned(),
                near => near,
            };
            return Err(format!("-o {key} is not known{near}"));
        }
    }
    let mut warnings = Vec::new();
    for key in &known {
        if let Some(value) = env.vars.get(&variable(key)) {
            layers.offer(key, value, &variable(key));
        }
    }
    warnings.extend(misspelt_variables(env, &known));

    let (config, must_be) = config_path(&layers, env);
    let file = if must_be || config.exists() {
        File::read(&config)?
    } else {
        File::default()
    };
    let (source, remote) = match word {
        Word::Source(source) => (source, None),
        Word::Name(name) => {
            let section = file
                .remotes
                .get(&name)
                .ok_or_else(|| no_such_remote(&name, &config, &file))?;
            if let Some(wrong) = &section.wrong {
                return Err(format!("{}: {wrong}", config.display()));
            }
            let text = section.source.as_deref().unwrap_or_default();
            match Word::parse(text) {
                Ok(Word::Source(source)) => (source, Some((name, section))),
                Ok(Word::Name(_)) => {
                    return Err(format!(
                        "{}: [remote.{name}] source = \"{text}\" names another remote: write its address",
                        config.display()
                    ));
                }
                Err(why) => return Err(format!("{}: [remote.{name}] {why}", config.display())),
            }
        }
    };
    let wrong = file.remotes.values().filter_map(|one| one.wrong.as_ref());
    warnings.extend(wrong.map(|wrong| format!("{}: {wrong}", config.display())));
    let top = config.display().to_string();
    let sections: Vec<(String, &Section)> = remote
        .map(|(name, section)| (format!("[remote.{name}] of {top}"), section))
        .into_iter()
        .chain([(top, &file.top)])
        .collect();
    for (place, section) in &sections {
        for (key, value) in section.pairs.iter().filter(|(key, _)| known.contains(key)) {
            layers.offer(key, value, place);
        }
    }
    let settings = layers.settings()?;
    let credentials = credentials(env, &sections)?;
    let source = with_subdir(source, settings.subdir.as_deref())?;
    if let Source::Proget(Proget {
        in_the_clear: true,
        server,
        ..
    })
    | Source::Iotfile(Iotfile {
        in_the_clear: true,
        gateway: server,
        ..
    }) = &source
    {
        warnings.push(format!(
            "{server} is not https: the key and all bytes travel in the clear"
        ));
    }
    if let Source::Box(_) = &source {
        let urls = [&settings.api_url, &settings.upload_url, &settings.token_url];
        for url in urls
            .into_iter()
            .flatten()
            .filter(|url| source::goes_in_the_clear(url))
        {
            warnings.push(format!(
                "{url} is not https: tokens and all bytes travel in the clear"
            ));
        }
    }
    let state_dir = settings
        .state_dir
        .clone()
        .map_or_else(|| state_dir(env), Ok)?;
    Ok(Resolved {
        source,
        settings,
        state_dir,
        words: dash_o.words,
        credentials,
        config,
        warnings,
    })
}

/// Keys with their values, the first offer of each key wins.
#[derive(Default)]
struct Layers(BTreeMap<String, (String, String)>);

impl Layers {
    fn offer(&mut self, key: &str, value: &str, from: &str) {
        self.0
            .entry(key.to_owned())
            .or_insert_with(|| (value.to_owned(), from.to_owned()));
    }

    fn settings(&self) -> Result<Settings, String> {
        Settings::of(
            self.0
                .iter()
                .map(|(key, (value, _))| (key.as_str(), value.as_str())),
        )
        .map_err(|(key, why)| match self.0.get(&key) {
            Some((_, from)) if from.starts_with("--") => format!("{from}: {why}"),
            Some((_, from)) => format!("{key} ({from}): {why}"),
            None => why,
        })
    }
}

/// Every key of a setting.
#[must_use]
pub fn known_keys() -> Vec<String> {
    Settings::keys()
}

/// The variable of a key.
#[must_use]
pub fn variable(key: &str) -> String {
    format!("ASSETFS_{}", key.to_ascii_uppercase())
}

/// Whether `key` is a credential, or says where one is.
#[must_use]
pub fn is_credential(key: &str) -> bool {
    let name = key
        .strip_suffix("_file")
        .or_else(|| key.strip_suffix("_command"))
        .unwrap_or(key);
    credential::NAMES.iter().any(|(known, _)| *known == name)
}

/// The variables that hold secrets.
pub fn secret_variables() -> impl Iterator<Item = String> {
    credential::NAMES
        .iter()
        .filter(|(_, secret)| *secret)
        .map(|(name, _)| variable(name))
}

/// The sentence for a credential on the command line.
#[must_use]
pub fn on_command_line(key: &str, config: &Path) -> String {
    let name = key
        .strip_suffix("_file")
        .or_else(|| key.strip_suffix("_command"))
        .unwrap_or(key);
    format!(
        "{key} is not taken from the command line, which everybody can see: set {}, or write \
         {name}_file = \"PATH\" into {}",
        variable(name),
        config.display()
    )
}

/// Words less alike than this (Jaro-Winkler) are not taken for one another.
const ALIKE: f64 = 0.8;

/// "; did you mean ...?" for the nearest of `known`; nothing if none is near.
#[must_use]
pub fn nearest(key: &str, known: &[String]) -> String {
    known
        .iter()
        .map(|near| (strsim::jaro_winkler(key, near), near))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, near)| format!("; did you mean \"{near}\"?"))
        .unwrap_or_default()
}

/// `path` with a leading `~/` replaced by the home directory.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// Where the state is by default.
///
/// # Errors
/// A sentence if there is no home directory.
pub fn state_dir(env: &Env) -> Result<PathBuf, String> {
    xdg(env, "XDG_STATE_HOME", ".local/state", "/var/lib")
        .ok_or_else(|| "there is no HOME for the state: give --state-dir PATH".to_owned())
}

/// The state directory of a command that mounts nothing: flag, variable, top of the configuration file,
/// default.
///
/// # Errors
/// A sentence if the configuration file is wrong, or there is no home directory.
pub fn state_dir_for(flag: Option<&Path>, env: &Env) -> Result<PathBuf, String> {
    if let Some(given) = flag {
        return Ok(given.to_owned());
    }
    let mut layers = Layers::default();
    for key in ["config", "state_dir"] {
        if let Some(value) = env.vars.get(&variable(key)) {
            layers.offer(key, value, &variable(key));
        }
    }
    if let Some((given, _)) = layers.0.get("state_dir") {
        return Ok(given.into());
    }
    let (config, must_be) = config_path(&layers, env);
    let file = if must_be || config.exists() {
        File::read(&config)?
    } else {
        File::default()
    };
    match file.top.pairs.get("state_dir") {
        Some(given) => Ok(given.into()),
        None => state_dir(env),
    }
}

/// The configuration file and whether it must exist.
fn config_path(layers: &Layers, env: &Env) -> (PathBuf, bool) {
    match layers.0.get("config") {
        Some((path, _)) => (PathBuf::from(path), true),
        None => {
            let dir = xdg(env, "XDG_CONFIG_HOME", ".config", "/etc");
            (
                dir.unwrap_or_else(|| "/etc/assetfs".into())
                    .join("config.toml"),
                false,
            )
        }
    }
}

/// The folder of this program below an XDG directory. Root's is always the same: what a shell with a user's
/// variables has left there must be found by the mount of a boot, which has none.
fn xdg(env: &Env, name: &str, below_home: &str, for_root: &str) -> Option<PathBuf> {
    let set = |name: &str| {
        env.vars
            .get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let dir = match env.root {
        true => Some(for_root.into()),
        false => set(name).or_else(|| set("HOME").map(|home| home.join(below_home))),
    };
    dir.map(|dir| dir.join("assetfs"))
}

fn credentials(
    env: &Env,
    sections: &[(String, &Section)],
) -> Result<BTreeMap<String, Credential>, String> {
    let mut found = BTreeMap::new();
    for (name, _) in credential::NAMES {
        let from_variable = env.vars.get(&variable(name)).map(|text| Credential {
            place: Place::Text(text.clone()),
            from: variable(name),
        });
        let from_systemd = env
            .vars
            .get("CREDENTIALS_DIRECTORY")
            .map(|dir| Path::new(dir).join(name))
            .filter(|path| path.exists())
            .map(|path| Credential {
                place: Place::Systemd(path),
                from: format!("$CREDENTIALS_DIRECTORY/{name}"),
            });
        let mut credential = from_variable.or(from_systemd);
        for (place, section) in sections {
            let here = section.credential(name, place)?;
            credential = credential.or(here);
        }
        if let Some(credential) = credential {
            found.insert(name.to_owned(), credential);
        }
    }
    Ok(found)
}

fn with_subdir(source: Source, subdir: Option<&str>) -> Result<Source, String> {
    let Some(subdir) = subdir else {
        return Ok(source);
    };
    match source {
        Source::Proget(proget) => Ok(Source::Proget(
            proget
                .below(subdir)
                .map_err(|why| format!("subdir: {why}"))?,
        )),
        Source::Iotfile(iotfile) => Ok(Source::Iotfile(
            iotfile
                .below(subdir)
                .map_err(|why| format!("subdir: {why}"))?,
        )),
        Source::Box(folder) => Ok(Source::Box(
            folder
                .below(subdir)
                .map_err(|why| format!("subdir: {why}"))?,
        )),
        Source::Demo(_) => {
            Err("subdir has no use with demo:DIR: name the folder itself".to_owned())
        }
    }
}

fn no_such_remote(name: &str, config: &Path, file: &File) -> String {
    let names: Vec<String> = file.remotes.keys().cloned().collect();
    let hint = if names.is_empty() {
        format!(" (a source by its address looks like proget+https://HOST/endpoints/{name})")
    } else {
        nearest(name, &names)
    };
    format!("{} has no table [remote.{name}]{hint}", config.display())
}

/// Variables that are nearly, but not quite, those of a setting or credential.
fn misspelt_variables(env: &Env, known: &[String]) -> Vec<String> {
    let mut names: Vec<String> = known.iter().map(|key| variable(key)).collect();
    names.extend(credential::NAMES.iter().map(|(name, _)| variable(name)));
    env.vars
        .keys()
        .filter(|name| name.starts_with("ASSETFS_") && !names.contains(name))
        .filter_map(|name| {
            let near = names
                .iter()
                .find(|n| strsim::damerau_levenshtein(n, name) <= 2)?;
            Some(format!(
                "the variable {name} is not known; did you mean {near}?"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests;

//! Faults on request: which requests fail, and how. The rule file is described in [`FORMAT`], which the
//! help of `assetfs serve` shows, with [`EXAMPLE`].

use globset::{GlobBuilder, GlobMatcher};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// What a rule file is, for people.
pub const FORMAT: &str = r#"A rule file is a JSON array of rules, looked at from top to bottom for every request; the first that
fires is applied and ends the search. The file is read again when it changes (size or modification
time); counting then starts anew. A file that cannot be read as rules is refused at the start, and
later leaves the old rules in force, with a warning.

Which requests (all that is given must hold; nothing given is every request):
  method        the verb
  path          in the percent-decoded path; a glob over all of it if it has one of *?[{ (* stays in
                a segment, ** does not), else a piece of it
  query         a piece of the raw query
  body_over     Content-Length is above this
  skip          let so many matches pass first
  times         fire so often, then never again
  chance, seed  fire with this probability; the same seed, the same sequence

What happens (action):
  {"answer": {"status", "retry_after", "headers", "body", "early"}}
                nothing is done but this answer; retry_after in seconds; early: without reading the
                request's body
  {"reset": {"after"}}
                RST when so many bytes of the request's body have come (0: before anything is done)
  {"truncate": {"after"}}
                the answer's body ends after so many bytes, by closing the connection
  {"stall": {"after", "seconds"}}
                the answer stops after so many bytes of its body (absent: before its first line, with
                nothing done) for this time (absent: for ever), then goes on
  {"slow": {"rate"}}
                both bodies at so many bytes per second
  "drop_answer" the work is done, then RST instead of the answer
  {"corrupt": {"at"}}
                the byte at this place of the answer's body is inverted
"#;

/// A rule file.
pub const EXAMPLE: &str = r#"[
  { "method": "POST", "query": "multipart=upload", "skip": 1, "times": 1,
    "action": { "answer": { "status": 503, "retry_after": 1, "body": "Later, please." } } },
  { "method": "GET", "path": "**/content/*.iso", "times": 1,
    "action": { "truncate": { "after": 1000 } } },
  { "query": "multipart=complete", "times": 1, "action": "drop_answer" },
  { "path": "content/slow/", "chance": 0.5, "seed": 7, "action": { "slow": { "rate": 100000 } } }
]
"#;

/// One line of a rule file; see [`FORMAT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The verb, any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A glob over, or a piece of, the decoded path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A piece of the raw query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// `Content-Length` is above this, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_over: Option<u64>,
    /// Matches that pass first.
    #[serde(default)]
    pub skip: u64,
    /// Firings in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// 0.0 to 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// For `chance`.
    #[serde(default)]
    pub seed: u64,
    /// What happens.
    pub action: Action,
}

/// What a rule does; see [`FORMAT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Another answer, and nothing is done.
    Answer {
        /// 100 to 999.
        status: u16,
        /// Seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
        /// More headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// As `text/plain`.
        #[serde(default)]
        body: String,
        /// Without reading the request's body first.
        #[serde(default)]
        early: bool,
    },
    /// RST in the middle of the request.
    Reset {
        /// Bytes of the request's body.
        #[serde(default)]
        after: u64,
    },
    /// The answer ends too early.
    Truncate {
        /// Bytes of the answer's body.
        after: u64,
    },
    /// The answer stops.
    Stall {
        /// Bytes of the answer's body; absent: before the first line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// Absent: for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// Both bodies crawl.
    Slow {
        /// Bytes per second.
        rate: u64,
    },
    /// The work is done, the answer lost.
    DropAnswer,
    /// One byte of the answer's body is inverted.
    Corrupt {
        /// Its place in the body, from 0.
        at: u64,
    },
}

impl Action {
    /// A year stands for "for ever".
    pub(super) fn stall_for(seconds: Option<f64>) -> Duration {
        let year = Duration::from_secs(365 * 24 * 3600);
        seconds.map_or(year, |s| {
            Duration::try_from_secs_f64(s).unwrap_or(year).min(year)
        })
    }

    /// The word that the log shows.
    pub(super) fn word(&self) -> String {
        match self {
            Action::Answer { status, .. } => format!("answer {status}"),
            Action::Reset { after } => format!("reset after {after}"),
            Action::Truncate { after } => format!("truncate after {after}"),
            Action::Stall { after: None, .. } => "stall".to_owned(),
            Action::Stall {
                after: Some(after), ..
            } => format!("stall after {after}"),
            Action::Slow { rate } => format!("slow {rate}"),
            Action::DropAnswer => "drop_answer".to_owned(),
            Action::Corrupt { at } => format!("corrupt {at}"),
        }
    }
}

impl Rule {
    /// Every request.
    #[must_use]
    pub fn new(action: Action) -> Rule {
        Rule {
            method: None,
            path: None,
            query: None,
            body_over: None,
            skip: 0,
            times: None,
            chance: None,
            seed: 0,
            action,
        }
    }

    /// Every request gets this answer.
    #[must_use]
    pub fn answer(status: u16) -> Rule {
        Rule::new(Action::Answer {
            status,
            retry_after: None,
            headers: BTreeMap::new(),
            body: String::new(),
            early: false,
        })
    }

    /// Only this verb.
    #[must_use]
    pub fn method(self, method: &str) -> Rule {
        Rule {
            method: Some(method.to_owned()),
            ..self
        }
    }

    /// Only where the path is so.
    #[must_use]
    pub fn path(self, path: &str) -> Rule {
        Rule {
            path: Some(path.to_owned()),
            ..self
        }
    }

    /// Only where the query has this.
    #[must_use]
    pub fn query(self, query: &str) -> Rule {
        Rule {
            query: Some(query.to_owned()),
            ..self
        }
    }

    /// Only after so many matches.
    #[must_use]
    pub fn skip(self, skip: u64) -> Rule {
        Rule { skip, ..self }
    }

    /// Only so often.
    #[must_use]
    pub fn times(self, times: u64) -> Rule {
        Rule {
            times: Some(times),
            ..self
        }
    }
}

/// What a rule looks at.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    /// Raw.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) length: Option<u64>,
}

/// The rules in force, and where they come from.
#[derive(Debug)]
pub struct Faults {
    file: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    armed: Vec<Armed>,
    seen: Option<(u64, SystemTime)>,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    glob: Option<GlobMatcher>,
    matched: u64,
    fired: u64,
}

impl Faults {
    pub(super) fn new(file: Option<&Path>, rules: Vec<Rule>) -> io::Result<Faults> {
        let mut inner = Inner {
            armed: arm(rules)?,
            seen: None,
        };
        if let Some(path) = file {
            inner.seen = Some(stamp(path)?);
            inner.armed = read(path)?;
        }
        Ok(Faults {
            file: file.map(Path::to_owned),
            inner: Mutex::new(inner),
        })
    }

    /// Replaces all rules; counting starts anew. Fails on a path that is no glob.
    pub fn set(&self, rules: Vec<Rule>) -> io::Result<()> {
        self.inner().armed = arm(rules)?;
        Ok(())
    }

    /// How often each rule has fired.
    #[must_use]
    pub fn fired(&self) -> Vec<u64> {
        self.inner().armed.iter().map(|armed| armed.fired).collect()
    }

    /// What happens to this request.
    pub(super) fn decide(&self, asked: &Asked<'_>) -> Option<Action> {
        let mut inner = self.inner();
        if let Some(path) = &self.file {
            reread(&mut inner, path);
        }
        let armed = inner
            .armed
            .iter_mut()
            .find_map(|armed| armed.fires(asked).then_some(armed))?;
        Some(armed.rule.action.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reread(inner: &mut Inner, path: &Path) {
    let now = stamp(path).ok();
    if now.is_none() || now == inner.seen {
        return;
    }
    inner.seen = now;
    match read(path) {
        Ok(armed) => inner.armed = armed,
        Err(e) => ::log::warn!("the old fault rules stay in force: {e}"),
    }
}

fn stamp(path: &Path) -> io::Result<(u64, SystemTime)> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.len(), meta.modified()?))
}

fn read(path: &Path) -> io::Result<Vec<Armed>> {
    let bad = |e: &dyn std::fmt::Display| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {e}", path.display()),
        )
    };
    let rules = serde_json::from_slice(&std::fs::read(path)?).map_err(|e| bad(&e))?;
    arm(rules).map_err(|e| bad(&e))
}

fn arm(rules: Vec<Rule>) -> io::Result<Vec<Armed>> {
    let arm = |rule: Rule| {
        let glob = match &rule.path {
            Some(path) if path.contains(['*', '?', '[', '{']) => {
                let glob = GlobBuilder::new(path).literal_separator(true).build();
                Some(glob.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?)
            }
            _ => None,
        };
        let glob = glob.map(|glob| glob.compile_matcher());
        Ok(Armed {
            rule,
            glob,
            matched: 0,
            fired: 0,
        })
    };
    rules.into_iter().map(arm).collect()
}

impl Armed {
    fn fires(&mut self, asked: &Asked<'_>) -> bool {
        if !self.matches(asked) {
            return false;
        }
        self.matched += 1;
        let due = self.matched > self.rule.skip
            && self.rule.times.is_none_or(|times| self.fired < times)
            && self
                .rule
                .chance
                .is_none_or(|chance| draw(self.rule.seed, self.matched) < chance);
        self.fired += u64::from(due);
        due
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        let rule = &self.rule;
        let path = || percent_decode_str(asked.path).decode_utf8_lossy();
        rule.method
            .as_ref()
            .is_none_or(|m| m.eq_ignore_ascii_case(asked.method))
            && rule
                .query
                .as_ref()
                .is_none_or(|q| asked.query.contains(q.as_str()))
            && rule
                .body_over
                .is_none_or(|over| asked.length.is_some_and(|n| n > over))
            && match (&self.glob, &rule.path) {
                (Some(glob), _) => glob.is_match(&*path()),
                (None, Some(piece)) => path().contains(piece.as_str()),
                (None, None) => true,
            }
    }
}

/// The `n`th number of a sequence, 0.0 to 1.0 (splitmix64).
fn draw(seed: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Asked<'_> {
        Asked {
            method: "GET",
            path,
            query: "a=1&b=2",
            length: Some(10),
        }
    }

    #[test]
    fn a_rule_fires_only_where_all_of_it_holds() {
        let any = || Rule::answer(500);
        let over = |n| Rule {
            body_over: Some(n),
            ..any()
        };
        for (rule, fires) in [
            (any(), true),
            (any().method("get"), true),
            (any().method("POST"), false),
            (any().path("dir/b x"), true),
            (any().path("/dir/*"), true),
            (any().path("/*"), false),
            (any().path("/**"), true),
            (any().query("b=2"), true),
            (any().query("b=3"), false),
            (over(9), true),
            (over(10), false),
            (any().path("dir").query("c"), false),
        ] {
            let faults = Faults::new(None, vec![rule.clone()]).unwrap();
            assert_eq!(
                faults.decide(&get("/dir/b%20x")).is_some(),
                fires,
                "{rule:?}"
            );
        }
    }

    #[test]
    fn skip_and_times_pick_the_nth_match() {
        let rules = vec![
            Rule::answer(500).skip(1).times(2),
            Rule::answer(501).skip(1),
        ];
        let faults = Faults::new(None, rules).unwrap();
        let words: Vec<_> = (0..5)
            .map(|_| faults.decide(&get("/")).map(|a| a.word()))
            .collect();
        let word = |status: &str| Some(format!("answer {status}"));
        assert_eq!(
            words,
            [None, word("500"), word("500"), word("501"), word("501")]
        );
        assert_eq!(faults.fired(), [2, 2]);
    }

    #[test]
    fn chance_is_about_right_and_the_same_for_the_same_seed() {
        let run = |seed| {
            let rule = Rule {
                chance: Some(0.25),
                seed,
                ..Rule::answer(500)
            };
            let faults = Faults::new(None, vec![rule]).unwrap();
            (0..4000)
                .map(|_| faults.decide(&get("/")).is_some())
                .collect::<Vec<_>>()
        };
        let fired = run(1).iter().filter(|f| **f).count();
        assert!((900..1100).contains(&fired), "{fired}");
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn the_format_names_every_field_and_action() {
        fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
            if let serde_json::Value::String(word) = value {
                found.push(word.clone());
            }
            for (key, value) in value.as_object().into_iter().flatten() {
                found.push(key.clone());
                keys(value, found);
            }
        }
        let (after, at, rate, seconds) = (1, 1, 1, Some(1.0));
        let mut found = Vec::new();
        for action in [
            Rule::answer(503).action,
            Action::Reset { after },
            Action::Truncate { after },
            Action::Stall {
                after: Some(after),
                seconds,
            },
            Action::Slow { rate },
            Action::DropAnswer,
            Action::Corrupt { at },
        ] {
            let rule = Rule {
                body_over: Some(1),
                times: Some(1),
                chance: Some(0.5),
                ..Rule::new(action)
            };
            keys(&serde_json::to_value(rule).unwrap(), &mut found);
        }
        found.retain(|word| !word.is_empty());
        assert!(found.len() > 20, "{found:?}");
        for word in found {
            assert!(FORMAT.contains(&word), "{word}");
        }
    }

    #[test]
    fn the_example_is_a_rule_file_and_a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("faults.json");
        std::fs::write(&path, EXAMPLE).unwrap();
        let faults = Faults::new(Some(&path), Vec::new()).unwrap();
        assert_eq!(faults.fired().len(), 4);
        assert_eq!(faults.decide(&get("/")), None);
        std::fs::write(&path, r#"[{"action": {"answer": {"status": 418}}}]"#).unwrap();
        assert_eq!(faults.decide(&get("/")).unwrap().word(), "answer 418");
        std::fs::write(&path, "no rules").unwrap();
        assert_eq!(faults.decide(&get("/")).unwrap().word(), "answer 418");
        assert!(Faults::new(Some(&path), Vec::new()).is_err());
    }
}

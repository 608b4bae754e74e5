//! The layers, as sentences.

use super::*;
use std::time::Duration;

struct Case {
    dir: tempfile::TempDir,
    given: Given,
    env: Env,
}

fn case(source: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap().to_owned();
    Case {
        given: Given {
            source: source.to_owned(),
            ..Given::default()
        },
        env: Env {
            vars: [("HOME".to_owned(), home)].into(),
            root: false,
        },
        dir,
    }
}

impl Case {
    fn flag(mut self, key: &str, value: &str) -> Self {
        self.given.flags.push((key.to_owned(), value.to_owned()));
        self
    }

    fn o(mut self, text: &str) -> Self {
        self.given.dash_o.push(text.to_owned());
        self
    }

    fn var(mut self, name: &str, value: &str) -> Self {
        self.env.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(self, text: &str) -> Self {
        let dir = self.dir.path().join(".config/assetfs");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.toml"), text).unwrap();
        self
    }

    fn resolve(&self) -> Result<Resolved, String> {
        resolve(&self.given, &self.env)
    }

    fn uploads(&self) -> usize {
        self.resolve().unwrap().settings.uploads
    }
}

const REMOTE: &str = "uploads = 5\n[remote.a]\nsource = \"demo:/x\"\nuploads = 6\n";

#[test]
fn the_order_is_flag_then_o_then_variable_then_remote_then_top_of_the_file_then_default() {
    assert_eq!(case("demo:/x").uploads(), 4);
    assert_eq!(case("demo:/x").file(REMOTE).uploads(), 5);
    assert_eq!(case("a").file(REMOTE).uploads(), 6);
    let with_var = || case("a").file(REMOTE).var("ASSETFS_UPLOADS", "7");
    assert_eq!(with_var().uploads(), 7);
    assert_eq!(with_var().o("uploads=8").uploads(), 8);
    assert_eq!(with_var().o("uploads=8").o("uploads=9").uploads(), 9);
    assert_eq!(
        with_var().o("uploads=8").flag("uploads", "10").uploads(),
        10
    );
}

#[test]
fn an_unknown_o_word_names_the_nearest_key() {
    let why = case("demo:/x").o("upload=3").resolve().unwrap_err();
    assert_eq!(why, "-o upload is not known; did you mean \"uploads\"?");
}

#[test]
fn only_a_word_that_is_near_is_suggested() {
    for word in ["foo", "default_permissions", "big_writes", "x"] {
        let why = case("demo:/x").o(word).resolve().unwrap_err();
        assert_eq!(
            why,
            format!("-o {word} is not known; assetfs mount --help lists what there is")
        );
    }
}

#[test]
fn a_sloppy_mount_ignores_unknown_words() {
    let mut sloppy = case("demo:/x").o("whatever,uploads=3");
    sloppy.given.sloppy = true;
    assert_eq!(sloppy.uploads(), 3);
}

#[test]
fn a_wrong_value_says_where_it_stood() {
    let why = case("demo:/x")
        .var("ASSETFS_MEMORY", "lots")
        .resolve()
        .unwrap_err();
    assert!(
        why.starts_with("memory (ASSETFS_MEMORY): \"lots\" is not a size"),
        "{why}"
    );
    let why = case("demo:/x")
        .file("memory = \"lots\"")
        .resolve()
        .unwrap_err();
    assert!(why.contains("config.toml): \"lots\""), "{why}");
}

#[test]
fn a_credential_on_the_command_line_is_refused_without_showing_it() {
    let why = case("demo:/x").o("api_key=hunter2").resolve().unwrap_err();
    assert!(why.contains("set ASSETFS_API_KEY"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
}

#[test]
fn a_variable_goes_before_the_file_and_the_remote_before_the_top() {
    let text =
        "api_key_file = \"/top\"\n[remote.a]\nsource = \"demo:/x\"\napi_key_command = \"c\"\n";
    let from = |c: Case| c.resolve().unwrap().credentials["api_key"].place.clone();
    assert_eq!(from(case("demo:/x").file(text)), Place::File("/top".into()));
    assert_eq!(from(case("a").file(text)), Place::Command("c".into()));
    assert_eq!(
        from(case("a").file(text).var("ASSETFS_API_KEY", "k")),
        Place::Text("k".into())
    );
}

#[test]
fn systemds_credential_directory_is_used_when_it_has_the_name() {
    let c = case("demo:/x");
    let dir = c.dir.path().to_str().unwrap().to_owned();
    let c = c.var("CREDENTIALS_DIRECTORY", &dir);
    assert!(c.resolve().unwrap().credentials.is_empty());
    std::fs::write(c.dir.path().join("api_key"), "k").unwrap();
    assert_eq!(
        c.resolve().unwrap().credentials["api_key"].read(),
        Ok("k".to_owned())
    );
}

#[test]
fn an_unknown_remote_names_the_file_and_the_nearest_name() {
    let why = case("aa").file(REMOTE).resolve().unwrap_err();
    assert!(
        why.contains("has no table [remote.aa]; did you mean \"a\"?"),
        "{why}"
    );
}

#[test]
fn a_config_file_that_was_asked_for_must_exist() {
    assert!(case("demo:/x").resolve().is_ok());
    let why = case("demo:/x")
        .flag("config", "/nowhere/c.toml")
        .resolve()
        .unwrap_err();
    assert!(why.contains("cannot read /nowhere/c.toml"), "{why}");
}

#[test]
fn root_keeps_its_state_and_configuration_where_no_variable_of_a_login_leads() {
    let places = |c: &Case| {
        let resolved = c.resolve().unwrap();
        let command = state_dir_for(None, &c.env).unwrap();
        assert_eq!(command, resolved.state_dir, "as the mount");
        [resolved.state_dir, resolved.config].map(|path| path.display().to_string())
    };
    let c = case("demo:/x");
    let home = c.dir.path().display();
    let below = |path: &str| format!("{home}/{path}");
    let at_home = [
        below(".local/state/assetfs"),
        below(".config/assetfs/config.toml"),
    ];
    assert_eq!(places(&c), at_home);
    let mut c = case("demo:/x")
        .var("XDG_STATE_HOME", "/s")
        .var("XDG_CONFIG_HOME", "/c");
    assert_eq!(places(&c), ["/s/assetfs", "/c/assetfs/config.toml"]);
    c.env.root = true;
    let of_root = ["/var/lib/assetfs", "/etc/assetfs/config.toml"];
    assert_eq!(places(&c), of_root);
    let c = c.var("ASSETFS_STATE_DIR", "/elsewhere");
    assert_eq!(places(&c)[0], "/elsewhere");
}

#[test]
fn a_table_that_is_wrong_stops_only_who_asks_for_it_and_warns_the_others() {
    let text = "[remote.a]\nsource = \"demo:/x\"\n[remote.b]\nsource = \"demo:/y\"\nupload = 3\n";
    let why = case("b").file(text).resolve().unwrap_err();
    let wrong = "config.toml: [remote.b] key \"upload\" is not known; did you mean \"uploads\"?";
    assert!(why.ends_with(wrong), "{why}");
    for source in ["a", "demo:/z"] {
        let warnings = case(source).file(text).resolve().unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].ends_with(wrong), "{warnings:?}");
    }
}

#[test]
fn a_misspelt_variable_is_told_and_a_strange_one_left_alone() {
    let c = case("demo:/x")
        .var("ASSETFS_UPLOAD", "3")
        .var("ASSETFS_TEST_ALL", "1");
    let warnings = c.resolve().unwrap().warnings;
    assert_eq!(
        warnings,
        ["the variable ASSETFS_UPLOAD is not known; did you mean ASSETFS_UPLOADS?"]
    );
}

#[test]
fn http_to_another_machine_is_warned_about() {
    let warnings = |s: &str| case(s).resolve().unwrap().warnings;
    assert_eq!(warnings("proget+http://h/endpoints/f").len(), 1);
    assert!(warnings("proget+http://127.0.0.1/endpoints/f").is_empty());
}

#[test]
fn every_key_is_accepted_as_flag_word_variable_and_file_key() {
    let value = |key: &str| match Settings::of([(key, "5s")]) {
        Ok(_) if key != "config" => Some("5s"),
        _ => ["5", "5M", "on", "info", "spool", "fail", "*.x=spool"]
            .into_iter()
            .find(|v| Settings::of([(key, *v)]).is_ok()),
    };
    for key in known_keys()
        .iter()
        .filter(|key| *key != "config" && *key != "subdir")
    {
        let v = value(key).unwrap_or_else(|| panic!("{key}"));
        case("demo:/x").flag(key, v).resolve().unwrap();
        case("demo:/x").o(&format!("{key}={v}")).resolve().unwrap();
        case("demo:/x").var(&variable(key), v).resolve().unwrap();
        case("demo:/x")
            .file(&format!("{key} = \"{v}\""))
            .resolve()
            .unwrap();
    }
}

#[test]
fn times_may_be_bare_numbers_in_the_file() {
    let resolved = case("demo:/x").file("name_timeout = 3").resolve().unwrap();
    assert_eq!(resolved.settings.name_timeout, Duration::from_secs(3));
}

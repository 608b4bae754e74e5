//! A store behind a certificate of a private authority.
#![allow(clippy::unwrap_used)]

mod common;

use common::bytes;
use common::mount::{Mount, given};
use common::tls::Authority;

/// `assetfs mount` with these arguments must fail, and leave nothing mounted.
fn refused(m: &Mount, args: &[String], words: &str) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = m.assetfs(&args);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    assert!(ended.err.contains(words), "wanted {words}: {ended:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(m.root().to_str().unwrap()), "{mounts}");
}

#[test]
fn with_ca_file_a_file_goes_in_and_out_by_https() {
    given().tls("localhost").part_size("64K").mounted(|m| {
        let content = bytes(300_000, 1);
        m.make("a", &content);
        m.sh("cp a $M/a");
        assert_eq!(m.stored("a").unwrap(), content);
        m.remount();
        m.sh("cmp a $M/a");
        // The same by the word of mount(8), in the background.
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        let mut args = m.mount_args();
        let flag = args
            .iter_mut()
            .find(|arg| arg.starts_with("--ca-file="))
            .unwrap();
        *flag = format!("-oro,ca_file={}", m.dir().join("ca.pem").display());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = m.assetfs(&args);
        assert!(ended.status.success(), "{ended:?}");
        m.sh("cmp a $M/a");
        assert!(m.umount_background().status.success());
    });
}

#[test]
fn without_ca_file_nothing_is_mounted_and_ca_file_is_named() {
    given().tls("localhost").mounted(|m| {
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        let mut args = m.mount_args();
        args.retain(|arg| !arg.starts_with("--ca-file="));
        m.forget();
        refused(m, &args, "is not trusted");
        refused(m, &args, "ca_file=PATH");
        assert_eq!(m.seen(), Vec::<String>::new(), "no key goes to a stranger");
    });
}

#[test]
fn a_certificate_for_another_name_is_refused_whoever_made_it() {
    given().tls("localhost").mounted(|m| {
        let (ended, _) = m.unmount();
        assert!(ended.status.success(), "{ended:?}");
        let authority = Authority::new(m.dir());
        let front = m.front(&authority, "elsewhere.example");
        let mut args = m.mount_args();
        args[1] = front.source();
        m.forget();
        refused(m, &args, "is made for another name");
        assert_eq!(m.seen(), Vec::<String>::new(), "no key goes to a stranger");
    });
}

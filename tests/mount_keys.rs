//! Keys that change while a store is mounted.
#![allow(clippy::unwrap_used)]

mod common;

use common::mount::{Mount, errno, given};
use std::fs::File;

/// From now on the server takes this key alone.
fn server_wants(m: &Mount, key: &str) {
    m.stop_server();
    m.start_server_wanting(key);
}

/// The requests that were refused.
fn refused(m: &Mount) -> usize {
    let refused = |r: &assetfs::serve::Request| r.status == Some(401);
    m.requests().into_iter().filter(refused).count()
}

fn rotated(line: &'static str) {
    let setup = given().key_from(line).with("attr_ttl", "0s");
    setup.mounted(|m| {
        m.write("a", "one");
        for key in ["second-key", "third-key"] {
            m.write_key(key);
            server_wants(m, key);
            assert_eq!(m.put("a", key), "ok");
            assert_eq!(m.stored("a").unwrap(), key.as_bytes());
            assert_eq!(m.read("a"), key.as_bytes());
            assert_eq!(refused(m), 1, "once, then the new key: {:?}", m.seen());
            assert!(!m.log().contains(key), "the log shows the key");
        }
    });
}

#[test]
fn a_key_that_is_rotated_in_its_file_is_taken_without_an_error() {
    rotated("api_key_file = \"$KEY\"");
}

#[test]
fn a_key_that_a_command_prints_is_had_again_when_it_is_refused() {
    rotated("api_key_command = \"cat '$KEY'\"");
}

#[test]
fn a_wrong_key_is_eacces_until_it_is_mended() {
    let setup = given().key_from("api_key_file = \"$KEY\"");
    let setup = setup.with("attr_ttl", "0s").with("negative_ttl", "0s");
    setup.on_server("old", "old").mounted(|m| {
        m.write_key("wrong-key");
        server_wants(m, "second-key");
        assert_eq!(m.put("a", "x"), "open EACCES");
        assert_eq!(errno(File::open(m.at("old"))), libc::EACCES);
        assert_eq!(m.stored("a"), None);
        m.write_key("second-key");
        assert_eq!(m.put("a", "x"), "ok");
        assert_eq!(m.stored("a").unwrap(), b"x");
        assert_eq!(m.read("old"), b"old");
    });
}

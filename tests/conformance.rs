//! What every store must do, whatever its service: one suite of functions over `Arc<dyn Store>`, run
//! against each embedded server.
#![allow(clippy::unwrap_used)]

mod common;

use assetfs::error::Kind;
use assetfs::store::{Addr, Attrs, Kind as EntryKind, Store};
use common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

type S = Arc<dyn Store>;

fn kind<T: std::fmt::Debug>(done: assetfs::error::Result<T>) -> Kind {
    done.expect_err("an error").kind
}

async fn contents_of_every_size_around_a_part_come_back(store: &S, root: &Addr, part: u64) {
    let sizes = [
        0,
        1,
        part - 1,
        part,
        part + 1,
        2 * part,
        3 * part,
        3 * part + 1,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        let content = bytes(size as usize, seed as u64 + 1);
        let name = format!("size {size}");
        let entry = common::store(store, &new(root, &name, &content), &content)
            .await
            .unwrap_or_else(|e| panic!("{size} bytes: {e}"));
        assert_eq!((entry.name.as_str(), entry.size), (name.as_str(), size));
        assert_eq!(entry.kind, EntryKind::File);
        let seen = store.stat(&place(root, &name)).await.unwrap();
        assert_eq!(seen.version, entry.version);
        assert_eq!(seen.addr, entry.addr);
        if let Some(first) = store.caps().digests.first() {
            assert_eq!(seen.digests.0.get(first), digests(&content).0.get(first));
        }
        assert!(
            read_all(store, &seen).await.unwrap() == content,
            "{size} bytes"
        );
    }
}

async fn replacing_changes_the_version_and_all_of_the_content(store: &S, root: &Addr, part: u64) {
    let mut last: Option<assetfs::store::Entry> = None;
    for (n, size) in [5, 3 * part + 7, 2, 3 * part + 7].into_iter().enumerate() {
        let content = bytes(size as usize, 100 + n as u64);
        let mut new = new(root, "replaced", &content);
        new.replaces = last.clone();
        let entry = common::store(store, &new, &content).await.unwrap();
        if let Some(last) = last {
            assert_ne!(last.version, entry.version);
        }
        assert!(read_all(store, &entry).await.unwrap() == content);
        last = Some(entry);
    }
    // A store that was not told of the old file replaces it all the same.
    let content = bytes(9, 999);
    let entry = common::store(store, &new(root, "replaced", &content), &content)
        .await
        .unwrap();
    assert_eq!(read_all(store, &entry).await.unwrap(), content);
}

async fn any_range_gives_just_its_bytes(store: &S, root: &Addr, part: u64) {
    let content = bytes(2 * part as usize + 10, 7);
    let size = content.len() as u64;
    let entry = common::store(store, &new(root, "ranges", &content), &content)
        .await
        .unwrap();
    for range in [
        0..1,
        0..size,
        1..2,
        size - 1..size,
        part - 1..part + 1,
        5..size - 5,
    ] {
        let got = read(store, &entry, range.clone()).await.unwrap();
        assert!(
            got == content[range.start as usize..range.end as usize],
            "{range:?}"
        );
    }
}

async fn a_version_that_is_gone_is_stale_and_never_another_one(store: &S, root: &Addr) {
    let old = bytes(1000, 1);
    let entry = common::store(store, &new(root, "pinned", &old), &old)
        .await
        .unwrap();
    for (size, seed) in [(1000, 2), (2000, 3), (500, 4)] {
        let content = bytes(size, seed);
        common::store(store, &new(root, "pinned", &content), &content)
            .await
            .unwrap();
        let mut got = Got::default();
        match store.read(&entry, 0..1000, &mut got).await {
            Err(error) => {
                assert_eq!(error.kind, Kind::Stale, "{size} bytes now: {error}");
                assert!(got.0.is_empty());
            }
            // A store that still has the old one.
            Ok(()) => assert!(got.0 == old, "{size} bytes now"),
        }
    }
    let now = store.stat(&place(root, "pinned")).await.unwrap();
    store.remove(&now).await.unwrap();
    assert!(matches!(
        kind(read(store, &entry, 0..10).await),
        Kind::NotFound | Kind::Stale
    ));
}

async fn exclusive_creation_happens_once(store: &S, root: &Addr, part: u64) {
    for (name, size) in [("lock", 0), ("big lock", 2 * part as usize + 1)] {
        let content = bytes(size, 5);
        let mut new = new(root, name, &content);
        new.exclusive = true;
        common::store(store, &new, &content).await.unwrap();
        assert_eq!(
            kind(common::store(store, &new, &content).await),
            Kind::Exists,
            "{name}"
        );
    }
    if store.caps().exclusive_create {
        let content = bytes(20, 6);
        let mut new = new(root, "raced lock", &content);
        new.exclusive = true;
        let tries = (0..8).map(|_| common::store(store, &new, &content));
        let done = futures_util::future::join_all(tries).await;
        assert_eq!(done.iter().filter(|d| d.is_ok()).count(), 1);
        assert!(
            done.iter()
                .flat_map(|d| d.as_ref().err())
                .all(|e| e.kind == Kind::Exists)
        );
    }
}

async fn removing_says_what_was_there(store: &S, root: &Addr) {
    let content = bytes(3, 1);
    let entry = common::store(store, &new(root, "gone", &content), &content)
        .await
        .unwrap();
    store.remove(&entry).await.unwrap();
    assert_eq!(kind(store.stat(&place(root, "gone")).await), Kind::NotFound);
    assert_eq!(kind(store.remove(&entry).await), Kind::NotFound);
    let dir = store.mkdir(&place(root, "a dir")).await.unwrap();
    assert_eq!(kind(store.remove(&dir).await), Kind::IsDir);
    assert_eq!(
        store.stat(&place(root, "a dir")).await.unwrap().kind,
        EntryKind::Dir
    );
}

async fn directories_are_made_listed_and_removed_only_when_empty(store: &S, root: &Addr) {
    let dir = store.mkdir(&place(root, "dir")).await.unwrap();
    assert_eq!((dir.kind, dir.name.as_str()), (EntryKind::Dir, "dir"));
    assert_eq!(kind(store.mkdir(&place(root, "dir")).await), Kind::Exists);
    assert_eq!(store.list(&dir.addr).await.unwrap(), vec![]);
    let inner = store.mkdir(&place(&dir.addr, "inner")).await.unwrap();
    assert_eq!(kind(store.rmdir(&dir).await), Kind::NotEmpty);
    let content = bytes(10, 3);
    let file = common::store(store, &new(&dir.addr, "file", &content), &content)
        .await
        .unwrap();
    assert_eq!(names(store, &dir.addr).await, ["file", "inner"]);
    let listed = store.list(&dir.addr).await.unwrap();
    let listed = listed.into_iter().find(|e| e.name == "file").unwrap();
    assert_eq!(
        (&listed.addr, &listed.version, listed.size),
        (&file.addr, &file.version, 10)
    );
    assert_eq!(read_all(store, &listed).await.unwrap(), content);
    assert_eq!(
        kind(store.mkdir(&place(&dir.addr, "file")).await),
        Kind::Exists
    );
    assert_eq!(kind(store.list(&file.addr).await), Kind::NotDir);
    assert_eq!(kind(store.rmdir(&file).await), Kind::NotDir);
    assert!(
        store.stat(&place(&dir.addr, "file")).await.is_ok(),
        "rmdir never removes a file"
    );
    store.rmdir(&inner).await.unwrap();
    assert_eq!(kind(store.rmdir(&inner).await), Kind::NotFound);
    assert_eq!(kind(store.list(&inner.addr).await), Kind::NotFound);
    store.remove(&file).await.unwrap();
    store.rmdir(&dir).await.unwrap();
    assert_eq!(kind(store.stat(&place(root, "dir")).await), Kind::NotFound);
}

async fn a_file_where_a_directory_is_needed_is_told(store: &S, root: &Addr) {
    let content = bytes(10, 3);
    let file = common::store(store, &new(root, "plain", &content), &content)
        .await
        .unwrap();
    let below = new(&file.addr, "below", &content);
    assert_eq!(
        kind(common::store(store, &below, &content).await),
        Kind::NotDir
    );
    assert_eq!(
        kind(store.mkdir(&place(&file.addr, "below")).await),
        Kind::NotDir
    );
    store.mkdir(&place(root, "taken")).await.unwrap();
    let over = new(root, "taken", &content);
    assert_eq!(
        kind(common::store(store, &over, &content).await),
        Kind::IsDir
    );
}

async fn attributes_are_kept_with_the_content_and_replaced_as_a_set(store: &S, root: &Addr) {
    let keeps = store.caps().keeps;
    let mut attrs = Attrs::default();
    if let Some(step) = keeps.mtime {
        let step = step.as_nanos() as u32;
        let nanos = 123_456_789 / step * step;
        attrs.mtime = Some(SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, nanos));
    }
    if keeps.mode {
        attrs.mode = Some(0o4640);
    }
    if keeps.xattrs {
        attrs.xattrs = BTreeMap::from([
            ("user.Mixed.Case é".to_owned(), vec![0, 255, 10]),
            ("user.plain".to_owned(), b"text".to_vec()),
        ]);
    }
    if attrs.is_empty() {
        return;
    }
    let content = bytes(10, 3);
    let mut first = new(root, "attrs", &content);
    first.attrs = attrs.clone();
    let entry = common::store(store, &first, &content).await.unwrap();
    assert_eq!(entry.attrs, attrs);
    assert_eq!(
        store.stat(&place(root, "attrs")).await.unwrap().attrs,
        attrs
    );
    let listed = store.list(root).await.unwrap();
    assert_eq!(
        listed.iter().find(|e| e.name == "attrs").unwrap().attrs,
        attrs
    );

    attrs.xattrs.remove("user.plain");
    attrs.mode = keeps.mode.then_some(0o600);
    let entry = store.set_attrs(&entry, &attrs).await.unwrap();
    assert_eq!(entry.attrs, attrs);
    assert_eq!(
        read_all(store, &entry).await.unwrap(),
        content,
        "the bytes stay"
    );

    // A new content without attributes does not inherit the old ones. Where the store has no other time,
    // the mtime is that of the upload.
    let other = bytes(11, 4);
    let mut entry = common::store(store, &new(root, "attrs", &other), &other)
        .await
        .unwrap();
    if attrs.mtime.is_some() {
        assert_ne!(entry.attrs.mtime.take(), attrs.mtime);
    }
    assert_eq!(entry.attrs, Attrs::default());
}

async fn a_symbolic_link_is_one_again_when_it_is_seen(store: &S, root: &Addr) {
    if !store.caps().keeps.symlinks {
        return;
    }
    let target = bytes::Bytes::from_static("../où/target file".as_bytes());
    let mut link = new(root, "link", &target);
    link.kind = EntryKind::Symlink;
    let entry = common::store(store, &link, &target).await.unwrap();
    assert_eq!(entry.kind, EntryKind::Symlink);
    let seen = store.stat(&place(root, "link")).await.unwrap();
    assert_eq!(seen.kind, EntryKind::Symlink);
    assert_eq!(read_all(store, &seen).await.unwrap(), target);
    let content = bytes(5, 1);
    let mut file = new(root, "link", &content);
    file.replaces = Some(seen);
    let entry = common::store(store, &file, &content).await.unwrap();
    assert_eq!(
        entry.kind,
        EntryKind::File,
        "a file that replaces a link is a file"
    );
}

async fn names_go_to_the_store_and_back_unchanged(store: &S, root: &Addr) {
    let dir = store.mkdir(&place(root, "names # 100% ?")).await.unwrap();
    let long = "n".repeat(255);
    let wide = "é".repeat(127);
    let wanted: BTreeSet<&str> = [
        "a b",
        " lead",
        "+plus",
        "100%",
        "%41",
        "%2F",
        "#hash",
        "question?",
        "a&b=c",
        "semi;colon",
        "it's",
        "quo\"te",
        "ünïcödé",
        "日本語",
        "🦀",
        "e\u{301}",
        "\u{e9}",
        "(1) [2] {3}",
        "~tilde",
        "-dash",
        "...",
        "..a",
        ".hidden",
        "comma,at@",
        "dollar$!",
        "star*",
        "pipe|<>",
        "co:lon",
        &long,
        &wide,
    ]
    .into();
    let mut stored = BTreeSet::new();
    for name in &wanted {
        store
            .check_name(&dir.addr, name)
            .unwrap_or_else(|e| panic!("{name:?}: {e}"));
        let content = bytes::Bytes::from(name.as_bytes().to_vec());
        let entry = common::store(store, &new(&dir.addr, name, &content), &content)
            .await
            .unwrap_or_else(|e| panic!("{name:?}: {e}"));
        assert_eq!(entry.name, **name);
        stored.insert(name.to_string());
    }
    let listed = store.list(&dir.addr).await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|e| e.name.clone())
            .collect::<BTreeSet<_>>(),
        stored
    );
    for entry in listed {
        assert_eq!(
            read_all(store, &entry).await.unwrap(),
            entry.name.as_bytes()
        );
        assert_eq!(
            store
                .stat(&place(&dir.addr, &entry.name))
                .await
                .unwrap()
                .addr,
            entry.addr
        );
        store.remove(&entry).await.unwrap();
    }
    store.rmdir(&dir).await.unwrap();
}

async fn names_that_cannot_be_are_refused_without_asking(store: &S, root: &Addr) {
    for name in ["", ".", "..", "a/b", "nul\0"] {
        assert_eq!(
            kind(store.check_name(root, name)),
            Kind::Invalid,
            "{name:?}"
        );
    }
    assert_eq!(
        kind(store.check_name(root, &"n".repeat(256))),
        Kind::NameTooLong
    );
}

async fn case_is_kept_or_the_second_spelling_refused(
    store: &S,
    root: &Addr,
    folds: bool,
    part: u64,
) {
    let upper = bytes(8, 1);
    common::store(store, &new(root, "Case", &upper), &upper)
        .await
        .unwrap();
    store.mkdir(&place(root, "Dir")).await.unwrap();
    let small = bytes(9, 2);
    let large = bytes(2 * part as usize + 1, 2);
    for lower in [small, large] {
        let second = common::store(store, &new(root, "case", &lower), &lower).await;
        if folds {
            assert_eq!(kind(second), Kind::Exists);
            assert_eq!(kind(store.stat(&place(root, "case")).await), Kind::NotFound);
        } else {
            assert_eq!(read_all(store, &second.unwrap()).await.unwrap(), lower);
        }
        let first = store.stat(&place(root, "Case")).await.unwrap();
        assert_eq!(
            read_all(store, &first).await.unwrap(),
            upper,
            "the first one is untouched"
        );
    }
    let second = store.mkdir(&place(root, "dir")).await;
    assert_eq!(second.is_err(), folds);
}

async fn a_native_rename_moves_and_replaces(store: &S, root: &Addr, part: u64) {
    if !store.caps().rename_file {
        return;
    }
    let (one, two) = (bytes(2 * part as usize + 5, 1), bytes(20, 2));
    let dir = store.mkdir(&place(root, "to")).await.unwrap();
    let file = common::store(store, &new(root, "one", &one), &one)
        .await
        .unwrap();
    let moved = store
        .rename(&file, &place(root, "ONE"), None)
        .await
        .unwrap();
    assert_eq!((&moved.name[..], &moved.version), ("ONE", &file.version));
    let moved = store
        .rename(&moved, &place(&dir.addr, "new"), None)
        .await
        .unwrap();
    assert_eq!(read_all(store, &moved).await.unwrap(), one);
    assert_eq!(kind(store.stat(&place(root, "ONE")).await), Kind::NotFound);
    let over = common::store(store, &new(root, "over", &two), &two)
        .await
        .unwrap();
    let moved = store
        .rename(&moved, &place(root, "over"), Some(&over))
        .await
        .unwrap();
    assert_eq!(names(store, root).await, ["over", "to"]);
    assert_eq!(names(store, &dir.addr).await, Vec::<String>::new());
    assert_eq!(read_all(store, &moved).await.unwrap(), one);
    assert_eq!(
        store.stat(&place(root, "over")).await.unwrap().version,
        file.version
    );
    let other = common::store(store, &new(root, "other", &two), &two)
        .await
        .unwrap();
    let taken = store.rename(&other, &place(root, "over"), None).await;
    assert_eq!(kind(taken), Kind::Exists);
    // Directories, with what is in them; over an empty one, but not over a full one.
    common::store(store, &new(&dir.addr, "inner", &two), &two)
        .await
        .unwrap();
    let empty = store.mkdir(&place(root, "empty")).await.unwrap();
    let full = store.mkdir(&place(root, "full")).await.unwrap();
    store.mkdir(&place(&full.addr, "x")).await.unwrap();
    let dir = store
        .rename(&dir, &place(root, "empty"), Some(&empty))
        .await
        .unwrap();
    assert_eq!(names(store, &dir.addr).await, ["inner"]);
    let refused = store.rename(&dir, &place(root, "full"), Some(&full)).await;
    assert_eq!(kind(refused), Kind::NotEmpty);
    assert_eq!(names(store, root).await, ["empty", "full", "other", "over"]);
    let below = store.rename(&full, &place(&full.addr, "y"), None).await;
    assert_eq!(kind(below), Kind::Invalid);
}

async fn what_a_store_cannot_do_it_says(store: &S, root: &Addr) {
    let caps = store.caps();
    let content = bytes(3, 1);
    let entry = common::store(store, &new(root, "moved", &content), &content)
        .await
        .unwrap();
    if !caps.rename_file {
        let moved = store.rename(&entry, &place(root, "new name"), None).await;
        assert_eq!(kind(moved), Kind::Unsupported);
    }
    assert_eq!(store.space().await.unwrap().is_some(), caps.space);
}

async fn giving_up_leaves_the_old_content(store: &S, root: &Addr, part: u64) {
    let old = bytes(10, 1);
    let entry = common::store(store, &new(root, "kept", &old), &old)
        .await
        .unwrap();
    let content = bytes(3 * part as usize, 2);
    let mut new = new(root, "kept", &content);
    new.replaces = Some(entry.clone());
    let up = store.start(&new).await.unwrap();
    let parts = up.cut.parts(new.size);
    store
        .part(&up, &new, &parts[0], &Mem(content.clone()))
        .await
        .unwrap();
    assert_eq!(
        read_all(store, &entry).await.unwrap(),
        old,
        "a part is not seen"
    );
    store.abort(&up, &new).await.unwrap();
    store.abort(&up, &new).await.unwrap();
    assert_eq!(read_all(store, &entry).await.unwrap(), old);
}

/// All of the above, each in a directory of its own. `folds`: the server takes `A` and `a` for one.
async fn conforms(store: &S, folds: bool, part: u64) {
    let probe = store.probe().await.unwrap();
    assert!(!probe.banner.is_empty() && !probe.account.is_empty());
    let dir = async |name: &str| store.mkdir(&place(&probe.root, name)).await.unwrap().addr;
    contents_of_every_size_around_a_part_come_back(store, &dir("1").await, part).await;
    replacing_changes_the_version_and_all_of_the_content(store, &dir("2").await, part).await;
    any_range_gives_just_its_bytes(store, &dir("3").await, part).await;
    a_version_that_is_gone_is_stale_and_never_another_one(store, &dir("4").await).await;
    exclusive_creation_happens_once(store, &dir("5").await, part).await;
    removing_says_what_was_there(store, &dir("6").await).await;
    directories_are_made_listed_and_removed_only_when_empty(store, &dir("7").await).await;
    a_file_where_a_directory_is_needed_is_told(store, &dir("8").await).await;
    attributes_are_kept_with_the_content_and_replaced_as_a_set(store, &dir("9").await).await;
    a_symbolic_link_is_one_again_when_it_is_seen(store, &dir("10").await).await;
    names_go_to_the_store_and_back_unchanged(store, &dir("11").await).await;
    names_that_cannot_be_are_refused_without_asking(store, &dir("12").await).await;
    case_is_kept_or_the_second_spelling_refused(store, &dir("13").await, folds, part).await;
    what_a_store_cannot_do_it_says(store, &dir("14").await).await;
    giving_up_leaves_the_old_content(store, &dir("15").await, part).await;
    a_native_rename_moves_and_replaces(store, &dir("16").await, part).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proget_store_conforms() {
    let at = Setup::new().go().await;
    conforms(&at.store, false, PART).await;
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proget_store_below_a_folder_of_a_server_that_folds_case_conforms() {
    let mut setup = Setup::new();
    setup.server.ignore_case = true;
    setup.parallel = false;
    setup.below = "/Some%20Folder".to_owned();
    std::fs::create_dir(setup.folder.path().join("Some Folder")).unwrap();
    let at = setup.go().await;
    conforms(&at.store, true, PART).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iotfile_store_conforms() {
    let at = iot::Setup::new().go().await;
    conforms(&at.store, false, PART).await;
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iotfile_store_below_a_folder_whose_search_never_catches_up_conforms() {
    let mut setup = iot::Setup::new();
    setup.server.iotfile.index_delay = Duration::from_secs(24 * 3600);
    setup.server.iotfile.slash = false;
    setup.server.iotfile.count_header = "count";
    setup.server.iotfile.complete_tag = true;
    setup.server.iotfile.range_tag = true;
    setup.below = "Some Folder".to_owned();
    let at = setup.go().await;
    conforms(&at.store, false, PART).await;
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_store_conforms() {
    let at = boxcom::Setup::new().go().await;
    conforms(&at.store, true, PART).await;
    assert_eq!(at.stats.counts().retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_store_below_a_folder_of_a_server_of_every_other_reading_conforms() {
    let mut setup = boxcom::Setup::new();
    let ways = &mut setup.server.boxcom;
    ways.versions = true;
    ways.conflicts_list = true;
    ways.bare_part = true;
    ways.last_marker = Some("".into());
    ways.commit_waits = 2;
    ways.parts_mismatch = 1;
    ways.unchanged = false;
    setup.client = true;
    setup.below = "Some Folder".to_owned();
    std::fs::create_dir(setup.folder.path().join("Some Folder")).unwrap();
    let at = setup.go().await;
    conforms(&at.store, true, PART).await;
    assert_eq!(at.stats.counts().retries, 0);
}

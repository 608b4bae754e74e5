//! Items: looking, listing, making, renaming, moving, copying, deleting, the trash, names, quota, calls.

use crate::bench::{Bench, no, send, sha1, with_json};
use serde_json::{Value, json};
use std::time::Duration;

fn rename(name: &str) -> Value {
    json!({"name": name})
}

#[tokio::test]
async fn an_item_is_shown_mini_standard_or_as_asked() {
    let b = Bench::new().await;
    let id = b.put("0", "data.bin", b"0123456789").await.id();
    let at = format!("2.0/files/{id}");
    let all = b.ask("GET", &at).await.json();
    assert_eq!((&all["type"], &all["size"]), (&json!("file"), &json!(10)));
    assert_eq!(all["sha1"], sha1(b"0123456789").as_str());
    assert_eq!(
        (&all["etag"], &all["sequence_id"]),
        (&json!("0"), &json!("0"))
    );
    assert_eq!(all["file_version"]["sha1"], all["sha1"]);
    assert_eq!(all["path_collection"]["entries"][0]["name"], "All Files");
    assert_eq!(
        (&all["parent"]["id"], &all["parent"]["etag"]),
        (&json!("0"), &Value::Null)
    );
    let time = all["content_modified_at"].as_str().unwrap();
    assert!(time.ends_with("-08:00") && time.len() == 25, "{time}");
    let some = b.ask("GET", &format!("{at}?fields=size,name")).await.json();
    let want = json!({"type": "file", "id": id, "etag": "0", "size": 10, "name": "data.bin"});
    assert_eq!(some, want);
    let listed = b.ask("GET", "2.0/folders/0/items").await.json();
    let mini = listed["entries"][0].as_object().unwrap();
    assert!(mini.contains_key("file_version") && !mini.contains_key("size"));
    let known = b.request("GET", &at).header("if-none-match", "0");
    assert_eq!(send(known).await.status, 304);
    let root = b.ask("GET", "2.0/folders/0").await.json();
    assert_eq!(
        (&root["name"], &root["etag"]),
        (&json!("All Files"), &Value::Null)
    );
    assert_eq!(
        b.ask("GET", "2.0/files/77").await.refusal(),
        no(404, "not_found")
    );
    for odd in [
        "2.0/files/x7",
        "2.0/folders/-1",
        "api/2.0/folders/0",
        "2.0/nothing",
    ] {
        assert_eq!(
            b.ask("GET", odd).await.refusal(),
            no(405, "method_not_allowed"),
            "{odd}"
        );
    }
    assert_eq!(b.ask("GET", &format!("2.0/folders/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_listing_comes_in_pages_by_marker_or_offset() {
    let b = Bench::new().await;
    for n in 0..5 {
        std::fs::write(b.disk(&format!("f{n}")), "x").unwrap();
    }
    b.folder("0", "zdir").await;
    let mut seen = Vec::new();
    let mut marker = String::new();
    loop {
        let at = format!("2.0/folders/0/items?usemarker=true&limit=2&fields=name&marker={marker}");
        let page = b.ask("GET", &at).await.json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() <= 2);
        seen.extend(
            entries
                .iter()
                .map(|e| e["name"].as_str().unwrap().to_owned()),
        );
        match &page["next_marker"] {
            Value::String(next) => marker.clone_from(next),
            end => {
                assert!(end.is_null() && page.as_object().unwrap().contains_key("next_marker"));
                break;
            }
        }
    }
    assert_eq!(seen, ["zdir", "f0", "f1", "f2", "f3", "f4"]);
    let page = b
        .ask("GET", "2.0/folders/0/items?offset=4&limit=10")
        .await
        .json();
    assert_eq!(
        (&page["total_count"], &page["limit"]),
        (&json!(6), &json!(10))
    );
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    for (query, code) in [
        ("limit=1001", "invalid_limit"),
        ("limit=0", "invalid_limit"),
        ("offset=10000", "invalid_offset"),
        ("usemarker=true&marker=%21", "bad_request"),
    ] {
        let said = b.ask("GET", &format!("2.0/folders/0/items?{query}")).await;
        assert_eq!(said.refusal(), no(400, code), "{query}");
    }
    let absent = Bench::with(|s| s.boxcom.last_marker = None).await;
    let page = absent
        .ask("GET", "2.0/folders/0/items?usemarker=true")
        .await
        .json();
    assert!(!page.as_object().unwrap().contains_key("next_marker"));
}

#[tokio::test]
async fn folders_are_made_once_in_any_case_of_letters() {
    let b = Bench::new().await;
    let id = b.folder("0", "Dir").await;
    let make = |name: &str, parent: &str| json!({"name": name, "parent": {"id": parent}});
    let said = b.tell("POST", "2.0/folders", make("dIR", "0")).await;
    assert_eq!(said.refusal(), no(409, "item_name_in_use"));
    // A list for folders, an object for files.
    assert_eq!(
        said.json()["context_info"]["conflicts"][0]["id"],
        id.as_str()
    );
    let said = b.put("0", "dir", b"x").await;
    assert_eq!(said.json()["context_info"]["conflicts"]["type"], "folder");
    assert_eq!(
        b.tell("POST", "2.0/folders", make("x", "9")).await.status,
        404
    );
    assert!(b.disk("Dir").is_dir());
    let long = "n".repeat(256);
    for (name, code) in [
        ("", "item_name_invalid"),
        (".", "item_name_invalid"),
        ("..", "item_name_invalid"),
        ("a/b", "item_name_invalid"),
        ("a\\b", "item_name_invalid"),
        ("a\u{1}", "item_name_invalid"),
        ("a\u{7f}", "item_name_invalid"),
        ("tail ", "item_name_invalid"),
        (long.as_str(), "item_name_too_long"),
    ] {
        let said = b.tell("POST", "2.0/folders", make(name, "0")).await;
        assert_eq!(said.refusal(), no(400, code), "{name:?}");
        assert_eq!(
            b.put("0", name, b"").await.refusal(),
            no(400, code),
            "{name:?}"
        );
    }
    for name in [" lead", "a<>:|?*", "-", "🦀", "%41"] {
        b.folder("0", name).await;
    }
}

#[tokio::test]
async fn items_are_renamed_and_moved_and_keep_their_ids() {
    let b = Bench::new().await;
    let (one, two) = (b.folder("0", "one").await, b.folder("0", "two").await);
    let file = b.put(&one, "f", b"bytes").await.id();
    let at = format!("2.0/files/{file}");
    let said = b.tell("PUT", &at, rename("F")).await;
    assert_eq!(
        (said.status, said.json()["etag"].as_str()),
        (200, Some("1"))
    );
    assert_eq!(b.names(&one).await, ["F"]);
    let both = json!({"name": "g", "parent": {"id": two}});
    assert_eq!(
        b.tell("PUT", &at, both).await.json()["parent"]["id"],
        two.as_str()
    );
    assert_eq!(std::fs::read(b.disk("two/g")).unwrap(), b"bytes");
    b.put(&two, "taken", b"").await;
    let said = b.tell("PUT", &at, rename("TAKEN")).await;
    assert_eq!(said.refusal(), no(409, "item_name_in_use"));
    assert_eq!(
        b.tell("PUT", &at, json!({"parent": {"id": "9"}}))
            .await
            .status,
        404
    );
    // A stale tag counts for a rename and not for a move.
    let put = |body: Value| with_json(b.request("PUT", &at), &body).header("if-match", "0");
    let said = send(put(rename("h"))).await;
    assert_eq!(said.refusal(), no(412, "precondition_failed"));
    assert_eq!(send(put(json!({"parent": {"id": one}}))).await.status, 200);
    // Folders take along what is in them.
    let at_one = format!("2.0/folders/{one}");
    let inner = b.tell("PUT", &at_one, json!({"parent": {"id": two}}));
    assert_eq!(inner.await.status, 200);
    assert_eq!(std::fs::read(b.disk("two/one/g")).unwrap(), b"bytes");
    assert_eq!(b.ask("GET", &at).await.json()["parent"]["id"], one.as_str());
    let at_two = format!("2.0/folders/{two}");
    let below = b.tell("PUT", &at_two, json!({"parent": {"id": one}}));
    assert_eq!(below.await.refusal(), no(400, "cyclical_folder_structure"));
    assert_eq!(
        b.tell("PUT", "2.0/folders/0", rename("x")).await.status,
        403
    );
    let b = b.restart().await;
    assert_eq!(b.ask("GET", &at).await.json()["name"], "g");
}

#[tokio::test]
async fn times_are_set_to_the_second_and_not_before_1970() {
    let b = Bench::new().await;
    let file = b.put("0", "f", b"bytes").await.id();
    let at = format!("2.0/files/{file}");
    let set = async |text: &str| {
        b.tell("PUT", &at, json!({"content_modified_at": text}))
            .await
    };
    let said = set("2017-04-08T00:58:08.999Z").await;
    assert_eq!(
        said.json()["content_modified_at"],
        "2017-04-07T16:58:08-08:00"
    );
    assert_eq!(said.json()["etag"], "1");
    for bad in ["1969-12-31T23:59:59Z", "yesterday"] {
        assert_eq!(set(bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn copies_are_new_items() {
    let b = Bench::new().await;
    let dir = b.folder("0", "d").await;
    let file = b.put(&dir, "f", b"bytes").await.id();
    let to_root = json!({"parent": {"id": "0"}, "name": "g"});
    let said = b
        .tell("POST", &format!("2.0/files/{file}/copy"), to_root.clone())
        .await;
    assert_eq!(
        (said.status, b.content(&said.id()).await),
        (201, b"bytes".to_vec())
    );
    assert_ne!(said.id(), file);
    let again = b
        .tell("POST", &format!("2.0/files/{file}/copy"), to_root)
        .await;
    assert_eq!(again.refusal(), no(409, "item_name_in_use"));
    let all = json!({"parent": {"id": "0"}, "name": "e"});
    let said = b
        .tell("POST", &format!("2.0/folders/{dir}/copy"), all)
        .await;
    assert_eq!(b.names(&said.id()).await, ["f"]);
    let root = b
        .tell("POST", "2.0/folders/0/copy", json!({"parent": {"id": dir}}))
        .await;
    assert_eq!(root.status, 500);
}

#[tokio::test]
async fn what_is_deleted_is_in_the_trash_until_it_is_restored_or_purged() {
    let b = Bench::new().await;
    let dir = b.folder("0", "d").await;
    let file = b.put(&dir, "f", b"bytes").await.id();
    let (at, dir_at) = (format!("2.0/files/{file}"), format!("2.0/folders/{dir}"));
    let plain = format!("{dir_at}?recursive=false");
    assert_eq!(
        b.ask("DELETE", &plain).await.refusal(),
        no(400, "folder_not_empty")
    );
    let stale = b.request("DELETE", &at).header("if-match", "7");
    assert_eq!(send(stale).await.refusal(), no(412, "precondition_failed"));
    let purge = format!("{at}/trash");
    assert_eq!(
        b.ask("DELETE", &purge).await.refusal(),
        no(404, "not_trashed")
    );
    assert_eq!(b.ask("DELETE", &at).await.status, 204);
    assert_eq!(b.ask("GET", &at).await.refusal(), no(404, "trashed"));
    assert_eq!(b.ask("DELETE", &at).await.status, 404);
    assert!(!b.disk("d/f").exists());
    // The name is free again; then it cannot be restored.
    let other = b.put(&dir, "f", b"other").await.id();
    assert_eq!(
        b.ask("POST", &at).await.refusal(),
        no(409, "item_name_in_use")
    );
    assert_eq!(
        b.ask("DELETE", &format!("2.0/files/{other}")).await.status,
        204
    );
    let b = b.restart().await;
    assert_eq!(b.ask("POST", &at).await.status, 201);
    assert_eq!(b.content(&file).await, b"bytes");
    assert_eq!(
        b.ask("DELETE", &format!("2.0/files/{other}/trash"))
            .await
            .status,
        204
    );
    assert_eq!(
        b.ask("GET", &format!("2.0/files/{other}")).await.refusal(),
        no(404, "not_found")
    );
    assert_eq!(
        b.ask("DELETE", &format!("{dir_at}?recursive=True"))
            .await
            .status,
        204
    );
    assert_eq!(b.names("0").await, Vec::<String>::new());
    assert_eq!(
        b.ask("DELETE", "2.0/folders/0?recursive=true").await.status,
        403
    );
}

#[tokio::test]
async fn what_is_changed_by_hand_is_a_new_version_of_the_same_item() {
    let b = Bench::new().await;
    std::fs::create_dir(b.disk("d")).unwrap();
    std::fs::write(b.disk("d/f"), "one").unwrap();
    let dirs = b.ask("GET", "2.0/folders/0/items").await.json();
    let dir = dirs["entries"][0]["id"].as_str().unwrap().to_owned();
    let first = b
        .ask("GET", &format!("2.0/folders/{dir}/items"))
        .await
        .json();
    let first = &first["entries"][0];
    std::fs::write(b.disk("d/new"), "three").unwrap();
    std::fs::rename(b.disk("d/new"), b.disk("d/f")).unwrap();
    let at = format!("2.0/files/{}", first["id"].as_str().unwrap());
    let now = b.ask("GET", &at).await.json();
    assert_eq!((&now["size"], &now["etag"]), (&json!(5), &json!("1")));
    assert_ne!(now["file_version"]["id"], first["file_version"]["id"]);
    std::fs::remove_file(b.disk("d/f")).unwrap();
    assert_eq!(b.ask("GET", &at).await.status, 404);
}

#[tokio::test]
async fn a_preflight_tells_what_an_upload_would_meet() {
    let b = Bench::with(|s| s.boxcom.size_max = 100).await;
    let ask = async |name: &str, size: u64| {
        let body = json!({"name": name, "parent": {"id": "0"}, "size": size});
        b.tell("OPTIONS", "2.0/files/content", body).await
    };
    let said = ask("f", 10).await;
    let url = said.json()["upload_url"].as_str().unwrap().to_owned();
    assert!(url.contains("/api/2.0/files/content"), "{url}");
    let id = b.put("0", "f", b"x").await.id();
    let said = ask("F", 10).await;
    assert_eq!(said.refusal(), no(409, "item_name_in_use"));
    let other = &said.json()["context_info"]["conflicts"];
    assert_eq!((&other["id"], &other["name"]), (&json!(id), &json!("f")));
    assert_eq!(ask("a/b", 10).await.refusal(), no(400, "item_name_invalid"));
    assert_eq!(
        ask("g", 101).await.refusal(),
        no(403, "file_size_limit_exceeded")
    );
    let at = format!("2.0/files/{id}/content");
    let version = b.tell("OPTIONS", &at, json!({"size": 1}));
    assert_eq!(version.await.status, 200);
}

#[tokio::test]
async fn the_quota_is_told_and_held() {
    let b = Bench::with(|s| s.boxcom.quota = Some(1000)).await;
    assert_eq!(b.put("0", "f", &[0; 900]).await.status, 201);
    let me = b.ask("GET", "2.0/users/me").await.json();
    assert_eq!(
        (&me["space_amount"], &me["space_used"]),
        (&json!(1000.0), &json!(900))
    );
    let body = json!({"folder_id": "0", "file_size": 5000, "file_name": "g"});
    let said = b.tell("POST", "api/2.0/files/upload_sessions", body).await;
    assert_eq!(said.refusal(), no(403, "storage_limit_exceeded"));
}

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_come_back() {
    let b = Bench::with(|s| s.boxcom.calls = Some((2, Duration::from_secs(3600)))).await;
    let all = b.ask("GET", "2.0/users/me").await.json();
    assert_eq!(all["space_amount"], json!(1e18));
    assert_eq!(b.ask("GET", "2.0/folders/0").await.status, 200);
    let said = b.ask("GET", "2.0/folders/0").await;
    assert_eq!(said.refusal(), no(429, "rate_limit_exceeded"));
    let wait: u64 = said.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
}

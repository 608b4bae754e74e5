//! Looking at the server below a mount, and changing it as somebody else would.

use super::mount::{KEY, Mount, PATIENCE, tail};
use super::tls::{Authority, Front};
use assetfs::serve::{Api, ENTITY, Request, Rule, Server};
use std::path::Path;

impl Mount {
    fn with_server<T>(&self, look: impl FnOnce(&Server) -> T) -> T {
        look(self.server.lock().unwrap().as_ref().expect("a server"))
    }

    /// Waits until the mount has logged these words.
    pub fn logs(&self, words: &str) {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::fs::inotify;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        let log = self.dir().join("log");
        inotify::add_watch(&events, log, inotify::WatchFlags::MODIFY).unwrap();
        while !self.log().contains(words) {
            let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
            let more = poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&patience));
            assert_eq!(more, Ok(1), "not logged: {words}\n{}", tail(&self.log()));
            rustix::io::read(&events, &mut [0; 4096]).unwrap();
        }
    }

    /// What the server has under a path.
    pub fn stored(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.settings.dir.join(path)).ok()
    }

    /// What the server has, folders with a slash at the end.
    pub fn stored_names(&self) -> Vec<String> {
        fn below(root: &Path, dir: &Path, found: &mut Vec<String>) {
            for row in std::fs::read_dir(dir).unwrap().flatten() {
                let path = row.path();
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                if name == ".assetfs-serve" {
                    continue;
                }
                if path.is_dir() {
                    found.push(format!("{name}/"));
                    below(root, &path, found);
                } else {
                    found.push(name);
                }
            }
        }
        let mut found = Vec::new();
        below(&self.settings.dir, &self.settings.dir, &mut found);
        found.sort();
        found
    }

    /// Somebody else changes a file on the server.
    pub fn change_on_server(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.settings.dir.join(path);
        let new = path.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Somebody else does what they like in the served folder.
    pub fn on_disk(&self, change: impl FnOnce(&Path)) {
        change(&self.settings.dir);
    }

    /// Somebody else removes a file on the server.
    pub fn remove_on_server(&self, path: &str) {
        std::fs::remove_file(self.settings.dir.join(path)).unwrap();
    }

    /// The fault rules from now on.
    pub fn rules(&self, rules: impl IntoIterator<Item = Rule>) {
        self.with_server(|server| server.faults().set(rules.into_iter().collect()).unwrap());
    }

    pub fn forget(&self) {
        self.with_server(Server::forget_requests);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.with_server(Server::requests)
    }

    /// `METHOD operation/path` of each request, decoded, with `?upload` or `?complete` of a multipart.
    pub fn seen(&self) -> Vec<String> {
        self.requests().iter().map(line).collect()
    }

    /// Of these only what changes something.
    pub fn changes(&self) -> Vec<String> {
        let mut seen = self.seen();
        seen.retain(|line| !line.starts_with("GET") && !line.starts_with("HEAD"));
        seen
    }

    /// Bodies of contents that went to the server.
    pub fn uploads(&self) -> Vec<String> {
        let mut seen = self.changes();
        seen.retain(|line| line.contains(" content/") && !line.starts_with("DELETE"));
        seen
    }

    /// Reads of contents.
    pub fn downloads(&self) -> Vec<String> {
        let mut seen = self.seen();
        seen.retain(|line| line.starts_with("GET content/"));
        seen
    }

    /// Waits until the server has seen a request whose line contains `words`.
    pub fn sees(&self, words: &str) {
        self.with_server(|server| {
            let wait = server.wait_for(|all| all.iter().any(|r| line(r).contains(words)));
            let seen = self
                .rt
                .block_on(async { tokio::time::timeout(PATIENCE, wait).await });
            if seen.is_err() {
                let lines: Vec<String> = server.requests().iter().map(line).collect();
                panic!("no request with {words}: {lines:#?}");
            }
        });
    }

    /// Waits until `enough` is true of the lines seen so far.
    pub fn when(&self, mut enough: impl FnMut(&[String]) -> bool) {
        self.with_server(|server| {
            let wait = server.wait_for(|all| enough(&all.iter().map(line).collect::<Vec<_>>()));
            (self.rt)
                .block_on(async { tokio::time::timeout(PATIENCE, wait).await })
                .expect("what was waited for");
        });
    }

    /// Waits until a request with `words` has sent some of its body.
    pub fn sees_body(&self, words: &str) {
        self.with_server(|server| {
            let begun = |r: &Request| line(r).contains(words) && r.bytes_in > 0;
            let wait = server.wait_for(|all| all.iter().any(begun));
            (self.rt)
                .block_on(async { tokio::time::timeout(PATIENCE, wait).await })
                .expect("a body under way");
        });
    }

    /// One more front before the server.
    pub fn front(&self, authority: &Authority, name: &str) -> Front {
        self.rt
            .block_on(authority.front(name, self.settings.listen))
    }

    /// The server goes away, as in a crash.
    pub fn stop_server(&self) {
        let server = self.server.lock().unwrap().take();
        let _in = self.rt.enter();
        drop(server);
    }

    /// The server is back at its address.
    pub fn start_server(&self) {
        self.start_server_wanting(KEY);
    }

    /// The server is back at its address and wants another key.
    pub fn start_server_wanting(&self, key: &str) {
        let mut settings = self.settings.clone();
        settings.rules.clear();
        match settings.api {
            Api::Proget => settings.key = Some(key.to_owned()),
            Api::Iotfile | Api::Box => {
                settings.login = Some(("id".to_owned(), key.to_owned()));
            }
        }
        let server = self.rt.block_on(Server::start(settings)).unwrap();
        *self.server.lock().unwrap() = Some(server);
    }
}

fn line(request: &Request) -> String {
    let (path, query) = (request.target.split_once('?')).unwrap_or((&request.target, ""));
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let path = path.strip_prefix("/endpoints/files/").unwrap_or(&path);
    if let Some(path) = path.strip_prefix("/api/iotfile/v3/") {
        let step = query
            .split('&')
            .find(|q| q.starts_with("upload=") || q.starts_with("part="));
        let step = step.map_or(String::new(), |step| format!("?{step}"));
        let path = path.replacen(&format!("/{ENTITY}"), "", 1);
        return format!("{} {path}{step}", request.method);
    }
    let multipart = query.split('&').find_map(|q| q.strip_prefix("multipart="));
    match multipart {
        Some(step) => format!("{} {path}?{step}", request.method),
        None => format!("{} {path}", request.method),
    }
}

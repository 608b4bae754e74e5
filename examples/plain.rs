//! The yardstick of `scripts/bench`: the same bytes over the same interface with nothing between: no
//! FUSE, no spool, no cache, no digests, no retries. Whatever a mount needs beyond this is its price.
//!
//! It speaks the asset directory interface in the plainest way and checks nothing but sizes. It also
//! holds the random reader, so that a mount and the interface are read by the same code. Every command
//! prints one line of JSON.

use bytes::Bytes;
use futures_util::stream::{self, TryStreamExt};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Bytes per part and per range.
const PIECE: u64 = 8 << 20;

const USAGE: &str = "\
usage: plain put BASE NAME FILE JOBS         one file in parts of 8 MiB
       plain get BASE NAME JOBS [FILE]       one file in ranges of 8 MiB, into FILE or nowhere
       plain list BASE DIR                   one folder
       plain put-all BASE DIR FOLDER JOBS    the files of a local folder, one request each
       plain get-all BASE DIR JOBS           the files of a remote folder, one request each
       plain random TARGET FILE BLOCK JOBS SECONDS
                                             reads at random places of TARGET (a path or a URL),
                                             compared with those of FILE";

#[tokio::main]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let http = reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .build()?;
    let started = Instant::now();
    let mut said = match args[..] {
        ["put", base, name, file, jobs] => put(&http, base, name, file, jobs.parse()?).await?,
        ["get", base, name, jobs] => get(&http, base, name, jobs.parse()?, None).await?,
        ["get", base, name, jobs, file] => {
            get(&http, base, name, jobs.parse()?, Some(file)).await?
        }
        ["list", base, dir] => json!({ "entries": list(&http, base, dir).await?.len() }),
        ["put-all", base, dir, folder, jobs] => {
            put_all(&http, base, dir, folder, jobs.parse()?).await?
        }
        ["get-all", base, dir, jobs] => get_all(&http, base, dir, jobs.parse()?).await?,
        ["random", target, file, block, jobs, seconds] => {
            let reads = Reads {
                file: Arc::new(File::open(file)?),
                size: std::fs::metadata(file)?.len(),
                block: block.parse()?,
                until: Instant::now() + Duration::from_secs_f64(seconds.parse()?),
            };
            random(&http, target, reads, jobs.parse()?).await?
        }
        _ => return Err(USAGE.into()),
    };
    said["seconds"] = json!(started.elapsed().as_secs_f64());
    println!("{said}");
    Ok(())
}

fn ranges(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(PIECE)).map(move |i| (i * PIECE, PIECE.min(size - i * PIECE)))
}

async fn read_at(file: Arc<File>, at: u64, len: u64) -> Fallible<Bytes> {
    tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; usize::try_from(len)?];
        file.read_exact_at(&mut piece, at)?;
        Ok(Bytes::from(piece))
    })
    .await?
}

async fn post(http: &reqwest::Client, url: String, body: Bytes) -> Fallible<()> {
    let answer = http.post(url).body(body).send().await?;
    answer.error_for_status()?.bytes().await?;
    Ok(())
}

async fn put(
    http: &reqwest::Client,
    base: &str,
    name: &str,
    file: &str,
    jobs: usize,
) -> Fallible<Value> {
    let size = std::fs::metadata(file)?.len();
    let file = Arc::new(File::open(file)?);
    let id = uuid::Uuid::new_v4().simple();
    let parts = size.div_ceil(PIECE);
    let to = format!("{base}/content/{name}?multipart");
    stream::iter(ranges(size).enumerate().map(Ok))
        .try_for_each_concurrent(jobs, |(index, (at, len))| {
            let (file, url) = (
                file.clone(),
                format!(
                    "{to}=upload&id={id}&index={index}&offset={at}&totalSize={size}\
                     &partSize={len}&totalParts={parts}"
                ),
            );
            async move { post(http, url, read_at(file, at, len).await?).await }
        })
        .await?;
    post(http, format!("{to}=complete&id={id}"), Bytes::new()).await?;
    Ok(json!({ "bytes": size }))
}

/// The bytes of one range into `file` or nowhere.
async fn fetch(
    http: &reqwest::Client,
    url: &str,
    at: u64,
    len: u64,
    file: Option<&File>,
) -> Fallible<()> {
    let range = format!("bytes={at}-{}", at + len - 1);
    let answer = http.get(url).header("Range", range).send().await?;
    let mut body = answer.error_for_status()?.bytes_stream();
    let mut got = 0;
    while let Some(piece) = body.try_next().await? {
        if let Some(file) = file {
            file.write_all_at(&piece, at + got)?;
        }
        got += piece.len() as u64;
    }
    if got == len {
        Ok(())
    } else {
        Err(format!("{url}: {got} bytes of {len}").into())
    }
}

async fn get(
    http: &reqwest::Client,
    base: &str,
    name: &str,
    jobs: usize,
    file: Option<&str>,
) -> Fallible<Value> {
    let url = format!("{base}/content/{name}");
    let head = http.head(&url).send().await?.error_for_status()?;
    let size: u64 = head
        .headers()
        .get("content-length")
        .and_then(|n| n.to_str().ok())
        .ok_or("no length")?
        .parse()?;
    let file = file.map(File::create).transpose()?;
    let (url, file) = (&url, file.as_ref());
    stream::iter(ranges(size).map(Ok))
        .try_for_each_concurrent(jobs, |(at, len)| fetch(http, url, at, len, file))
        .await?;
    Ok(json!({ "bytes": size }))
}

/// Names and sizes of a folder's files.
async fn list(http: &reqwest::Client, base: &str, dir: &str) -> Fallible<Vec<(String, u64)>> {
    let answer = http.get(format!("{base}/dir/{dir}")).send().await?;
    let body = answer.error_for_status()?.bytes().await?;
    let entries: Vec<Value> = serde_json::from_slice(&body)?;
    let known = |entry: &Value| Some((entry["name"].as_str()?.to_owned(), entry["size"].as_u64()?));
    Ok(entries.iter().filter_map(known).collect())
}

async fn put_all(
    http: &reqwest::Client,
    base: &str,
    dir: &str,
    folder: &str,
    jobs: usize,
) -> Fallible<Value> {
    post(http, format!("{base}/dir/{dir}"), Bytes::new()).await?;
    let files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let count = files.len();
    stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(jobs, |file| async move {
            let name = file.file_name();
            let url = format!("{base}/content/{dir}/{}", name.display());
            post(http, url, std::fs::read(file.path())?.into()).await
        })
        .await?;
    Ok(json!({ "files": count }))
}

async fn get_all(http: &reqwest::Client, base: &str, dir: &str, jobs: usize) -> Fallible<Value> {
    let files = list(http, base, dir).await?;
    let count = files.len();
    stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(jobs, |(name, size)| async move {
            let url = format!("{base}/content/{dir}/{name}");
            let got = http.get(&url).send().await?.error_for_status()?;
            let got = got.bytes().await?.len() as u64;
            if got == size {
                Fallible::Ok(())
            } else {
                Err(format!("{url}: {got} bytes of {size}").into())
            }
        })
        .await?;
    Ok(json!({ "files": count }))
}

/// What is read at random.
#[derive(Clone)]
struct Reads {
    /// What must come back.
    file: Arc<File>,
    size: u64,
    block: u64,
    until: Instant,
}

impl Reads {
    /// Where job `job` reads its `n`th block: the same in every run.
    fn place(&self, job: u64, n: u64) -> u64 {
        // splitmix64
        let mut x = (job << 40 | n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % (self.size / self.block) * self.block
    }

    fn check(&self, at: u64, got: &[u8]) -> Fallible<()> {
        let mut want = vec![0; got.len()];
        self.file.read_exact_at(&mut want, at)?;
        if got.len() as u64 == self.block && got == want {
            Ok(())
        } else {
            Err(format!("wrong bytes at {at}").into())
        }
    }
}

async fn random(http: &reqwest::Client, target: &str, reads: Reads, jobs: u64) -> Fallible<Value> {
    let started = Instant::now();
    let remote = target.starts_with("http://");
    let mut tasks = Vec::new();
    for job in 0..jobs {
        let (http, url, reads) = (http.clone(), target.to_owned(), reads.clone());
        tasks.push(if remote {
            tokio::spawn(async move { random_ranges(&http, &url, &reads, job).await })
        } else {
            tokio::task::spawn_blocking(move || random_preads(&url, &reads, job))
        });
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let took = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    Ok(json!({
        "reads": times.len(), "iops": times.len() as f64 / took,
        "p50_ms": at(50), "p99_ms": at(99),
    }))
}

fn random_preads(path: &str, reads: &Reads, job: u64) -> Fallible<Vec<Duration>> {
    let file = File::open(path)?;
    let mut block = vec![0; usize::try_from(reads.block)?];
    let mut times = Vec::new();
    while times.is_empty() || Instant::now() < reads.until {
        let at = reads.place(job, times.len() as u64);
        let asked = Instant::now();
        file.read_exact_at(&mut block, at)?;
        times.push(asked.elapsed());
        reads.check(at, &block)?;
    }
    Ok(times)
}

async fn random_ranges(
    http: &reqwest::Client,
    url: &str,
    reads: &Reads,
    job: u64,
) -> Fallible<Vec<Duration>> {
    let mut times = Vec::new();
    while times.is_empty() || Instant::now() < reads.until {
        let at = reads.place(job, times.len() as u64);
        let asked = Instant::now();
        let range = format!("bytes={at}-{}", at + reads.block - 1);
        let answer = http.get(url).header("Range", range).send().await?;
        let got = answer.error_for_status()?.bytes().await?;
        times.push(asked.elapsed());
        reads.check(at, &got)?;
    }
    Ok(times)
}

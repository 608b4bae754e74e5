//! Secrets that do not show, and credentials that can be had anew when a server refuses them.

use crate::error::Result;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A text that never appears in a log: its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A credential as it was just had.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The key, password or token.
    pub secret: Secret,
    /// How long it may be used from now; `None`: until it is refused.
    pub life: Option<Duration>,
}

/// Where a credential comes from: a file, a command, a token endpoint.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Has it anew.
    async fn fetch(&self) -> Result<Fresh>;
}

/// A credential, shared by all requests: had once, renewed before it ends, and had anew once when a
/// server refuses it, however many requests were refused at the same time.
pub struct Credential {
    fetch: Option<Box<dyn Fetch>>,
    /// How long before its end it is renewed.
    margin: Duration,
    held: Mutex<Option<(Secret, Option<Instant>)>>,
    renewals: AtomicU64,
}

impl Credential {
    /// One that never changes.
    #[must_use]
    pub fn fixed(secret: Secret) -> Self {
        Credential {
            fetch: None,
            margin: Duration::ZERO,
            held: Mutex::new(Some((secret, None))),
            renewals: AtomicU64::new(0),
        }
    }

    /// One that `read` gives, at first use and again when it was refused. `read` may block (it reads
    /// a file or runs a command) and is called off the async threads.
    #[must_use]
    pub fn read_by(read: impl Fn() -> Result<String> + Send + Sync + 'static) -> Self {
        struct Read(Arc<dyn Fn() -> Result<String> + Send + Sync>);
        #[async_trait]
        impl Fetch for Read {
            async fn fetch(&self) -> Result<Fresh> {
                let read = self.0.clone();
                let text = tokio::task::spawn_blocking(move || read())
                    .await
                    .map_err(|e| {
                        crate::error::Error::new(
                            crate::error::Kind::Local(libc::EIO),
                            "read credential",
                        )
                        .because(e)
                    })??;
                Ok(Fresh {
                    secret: Secret::new(text.trim_end_matches(['\r', '\n'])),
                    life: None,
                })
            }
        }
        Self::fetched(Read(Arc::new(read)), Duration::ZERO)
    }

    /// One that `fetch` gives, renewed when less than `margin` of its life is left.
    #[must_use]
    pub fn fetched(fetch: impl Fetch + 'static, margin: Duration) -> Self {
        Credential {
            fetch: Some(Box::new(fetch)),
            margin,
            held: Mutex::new(None),
            renewals: AtomicU64::new(0),
        }
    }

    /// The credential to send now.
    pub async fn get(&self) -> Result<Secret> {
        let mut held = self.held.lock().await;
        if let Some((secret, until)) = &*held
            && until.is_none_or(|end| Instant::now() + self.margin < end)
        {
            return Ok(secret.clone());
        }
        self.renew(&mut held).await
    }

    /// Tells that a server refused `seen`; another one to try with, or `None` if there is none.
    pub async fn refused(&self, seen: &Secret) -> Result<Option<Secret>> {
        if self.fetch.is_none() {
            return Ok(None);
        }
        let before = self.renewals.load(Ordering::Acquire);
        let mut held = self.held.lock().await;
        let now = match &*held {
            Some((secret, _)) if secret != seen => secret.clone(),
            // Somebody asked again while this task waited for the lock, and got the same.
            Some((secret, _)) if self.renewals.load(Ordering::Acquire) != before => secret.clone(),
            _ => self.renew(&mut held).await?,
        };
        Ok((now != *seen).then_some(now))
    }

    async fn renew(&self, held: &mut Option<(Secret, Option<Instant>)>) -> Result<Secret> {
        let Some(fetch) = &self.fetch else {
            return Ok(held.as_ref().map_or(Secret::new(""), |h| h.0.clone()));
        };
        self.renewals.fetch_add(1, Ordering::Release);
        let fresh = fetch.fetch().await?;
        *held = Some((
            fresh.secret.clone(),
            fresh.life.map(|life| Instant::now() + life),
        ));
        Ok(fresh.secret)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[tokio::test]
    async fn many_refusals_at_once_read_the_credential_once() {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = reads.clone();
        let credential = Arc::new(Credential::read_by(move || {
            Ok(format!("key-{}\n", count.fetch_add(1, Ordering::SeqCst)))
        }));
        let first = credential.get().await.unwrap();
        assert_eq!(first.reveal(), "key-0");
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let (credential, first) = (credential.clone(), first.clone());
                tokio::spawn(async move { credential.refused(&first).await.unwrap() })
            })
            .collect();
        for task in asked {
            assert_eq!(task.await.unwrap().unwrap().reveal(), "key-1");
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_same_key_again_is_not_worth_a_second_request() {
        let credential = Credential::read_by(|| Ok("same".into()));
        let key = credential.get().await.unwrap();
        assert_eq!(credential.refused(&key).await.unwrap(), None);
        let fixed = Credential::fixed(Secret::new("k"));
        let key = fixed.get().await.unwrap();
        assert_eq!(fixed.refused(&key).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_before_it_ends() {
        struct Count(AtomicUsize);
        #[async_trait]
        impl Fetch for Count {
            async fn fetch(&self) -> Result<Fresh> {
                let n = self.0.fetch_add(1, Ordering::SeqCst);
                Ok(Fresh {
                    secret: Secret::new(&n.to_string()),
                    life: Some(Duration::from_secs(100)),
                })
            }
        }
        let token = Credential::fetched(Count(AtomicUsize::new(0)), Duration::from_secs(10));
        assert_eq!(token.get().await.unwrap().reveal(), "0");
        tokio::time::advance(Duration::from_secs(80)).await;
        assert_eq!(token.get().await.unwrap().reveal(), "0");
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(token.get().await.unwrap().reveal(), "1");
    }

    #[test]
    fn no_secret_shows_in_debug() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", Credential::fixed(secret)), "***");
    }
}

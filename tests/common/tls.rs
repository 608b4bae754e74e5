//! A certificate authority of a test's own, and a front that speaks TLS and passes on what it hears.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// An authority that no system trusts; its files are in a folder of the test.
pub struct Authority {
    dir: PathBuf,
}

/// Where a front listens; it does so until the runtime ends.
pub struct Front {
    port: u16,
}

impl Authority {
    pub fn new(dir: &Path) -> Self {
        let authority = Authority {
            dir: dir.to_owned(),
        };
        authority.make("ca", &["-subj", "/CN=An authority of a test"]);
        authority
    }

    /// Its own certificate, for `ca_file`.
    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A front for the server at `to`, with a certificate for `name`.
    pub async fn front(&self, name: &str, to: SocketAddr) -> Front {
        let alt = format!("subjectAltName=DNS:{name}");
        let subject = format!("/CN={name}");
        let signed = ["-subj", &subject, "-CA", "ca.pem", "-CAkey", "ca.key"];
        let is = [
            "-addext",
            &alt,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ];
        self.make(name, &[signed.as_slice(), &is].concat());
        let chain = CertificateDer::pem_file_iter(self.dir.join(format!("{name}.pem"))).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.dir.join(format!("{name}.key"))).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Whoever does not trust us leaves during the handshake.
                    if let Ok(mut from) = acceptor.accept(from).await
                        && let Ok(mut to) = TcpStream::connect(to).await
                    {
                        drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
                    }
                });
            }
        });
        Front { port }
    }

    /// Makes `NAME.key` and `NAME.pem`.
    fn make(&self, name: &str, more: &[&str]) {
        let done = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args([
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.pem"),
            ])
            .args(more)
            .current_dir(&self.dir)
            .output()
            .expect("openssl is installed");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Front {
    /// What to mount.
    pub fn source(&self) -> String {
        format!("proget+https://localhost:{}/endpoints/files", self.port)
    }
}

//! Where an entity is and how it is used, as plain data.

use super::names;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::http::{Credential, Settings, Url};
use std::time::Duration;

/// Who asks.
#[derive(Debug)]
pub enum Auth {
    /// Nobody; only our own server lets that pass.
    Anonymous,
    /// A bearer token as it is.
    Token(Credential),
    /// Tenant (service) credentials, for which the tenant's token endpoint gives tokens.
    Tenant {
        /// The client id.
        id: String,
        /// The client secret.
        secret: Credential,
        /// The tenant, from which the token endpoint's address is made.
        tenant: String,
    },
    /// Application credentials, for which the gateway's token manager gives tokens.
    Application {
        /// The client id.
        id: String,
        /// The client secret.
        secret: Credential,
        /// `appName`.
        name: String,
        /// `appVersion`.
        version: String,
        /// `hostTenant`.
        host: String,
        /// `userTenant`.
        user: String,
    },
}

/// How one entity of an IoT File Service is reached and used.
#[derive(Debug)]
pub struct Config {
    /// The API gateway: what stands before `/api/iotfile/v3`.
    pub gateway: Url,
    /// The entity (asset): 32 of `a-f0-9`.
    pub entity: String,
    /// The folder that is shown, not encoded; empty: all.
    pub folder: String,
    /// Who asks.
    pub auth: Auth,
    /// Where tokens come from; without it the address is made from gateway and tenant.
    pub token_url: Option<Url>,
    /// Bytes of the first parts, and the most for one request. At least 5 MiB for the real service.
    pub part_size: u64,
    /// How long what the search said of a large entity is believed: one question answers all that are asked
    /// meanwhile. A small entity is asked about each time.
    pub fresh_for: Duration,
    /// Connections, waiting times, rates.
    pub http: Settings,
}

impl Config {
    /// Good defaults for a gateway and an entity.
    pub fn at(gateway: &str, entity: &str, auth: Auth) -> Result<Self> {
        let wrong =
            |why: &str| Error::new(ErrorKind::Invalid, "read the store's address").said(why);
        let gateway = Url::parse(gateway).map_err(|e| wrong(&e.to_string()))?;
        let is_id = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if entity.len() != 32 || !entity.bytes().all(is_id) {
            return Err(wrong("an entity has 32 characters a-f and 0-9"));
        }
        Ok(Config {
            gateway,
            entity: entity.to_owned(),
            folder: String::new(),
            auth,
            token_url: None,
            part_size: 8 << 20,
            fresh_for: Duration::from_secs(2),
            http: Settings::default(),
        })
    }

    /// The folder, if it can be one.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |name: &&str| !names::is_one_segment(name);
        let odd = self.folder.split('/').find(bad);
        match odd.filter(|_| !self.folder.is_empty()) {
            None => Ok(()),
            Some(name) => Err(Error::new(ErrorKind::Invalid, "read the store's address")
                .said(&format!("\"{name}\" cannot be a folder's name"))),
        }
    }

    /// Where tokens come from.
    pub(super) fn token_url(&self) -> Result<Url> {
        if let Some(url) = &self.token_url {
            return Ok(url.clone());
        }
        let wrong = |why: &str| Error::new(ErrorKind::Invalid, "find the token endpoint").said(why);
        let text = match &self.auth {
            Auth::Tenant { tenant, .. } => {
                let host = self.gateway.host_str().unwrap_or("");
                if !host.starts_with("gateway.") {
                    return Err(wrong("the gateway's name does not tell it: set token_url"));
                }
                let piam = host.replacen("gateway", &format!("{tenant}.piam"), 1);
                let port = self.gateway.port().map(|p| format!(":{p}"));
                let port = port.unwrap_or_default();
                format!("{}://{piam}{port}/oauth/token", self.gateway.scheme())
            }
            _ => format!(
                "{}/api/technicaltokenmanager/v3/oauth/token",
                self.gateway.as_str().trim_end_matches('/')
            ),
        };
        Url::parse(&text).map_err(|e| wrong(&e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Secret;

    #[test]
    fn the_token_endpoint_is_made_from_gateway_and_tenant_unless_it_is_given() {
        let secret = || Credential::fixed(Secret::new("s"));
        let tenant = || Auth::Tenant {
            id: "i".into(),
            secret: secret(),
            tenant: "acme".into(),
        };
        let entity = "0123456789abcdef0123456789abcdef";
        let at = |gateway: &str, auth| Config::at(gateway, entity, auth).unwrap();
        let config = at("https://gateway.eu1.mindsphere.io", tenant());
        let url = config.token_url().unwrap();
        assert_eq!(
            url.as_str(),
            "https://acme.piam.eu1.mindsphere.io/oauth/token"
        );
        let mut config = at("https://cloud.example", tenant());
        assert!(config.token_url().is_err());
        config.token_url = Some(Url::parse("https://t.example/x").unwrap());
        assert_eq!(config.token_url().unwrap().as_str(), "https://t.example/x");
        let config = at("https://cloud.example/pre/", Auth::Anonymous);
        assert_eq!(
            config.token_url().unwrap().as_str(),
            "https://cloud.example/pre/api/technicaltokenmanager/v3/oauth/token"
        );
        for bad in ["", "ABC", &"A".repeat(32), &"0".repeat(33)] {
            assert!(Config::at("https://h", bad, Auth::Anonymous).is_err());
        }
    }
}

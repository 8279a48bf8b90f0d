//! Who a request to the admin plane is from, and what it may do. A token of the
//! settings may do everything; those of the ledger what their scopes say; and
//! where neither is asked for (`tidepool dev` on loopback) everybody may who is
//! not a web page.

use std::net::IpAddr;
use std::time::Instant;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use subtle::ConstantTimeEq as _;

use super::respond::{Kind, Problem};
use crate::config::Secret;
use crate::handlers::registry::Registry;
use crate::handlers::rollout::Actor;
use crate::model::Operation;
use crate::trust::failures::Failures;
use crate::trust::token::{Action, Scope, TokenRecord};

const ACTOR: HeaderName = HeaderName::from_static("tidepool-actor");

/// What the token of the settings is called in the record.
const SETTING: &str = "admin.token";

/// Longest `Tidepool-Actor`, in bytes.
const MAX_ACTOR_BYTES: usize = 256;

/// What the admin plane lets in.
pub(super) struct Authority {
    /// The token of the settings.
    token: Option<Secret>,
    /// Whether who sends none is let in.
    open: bool,
    failures: Failures,
}

/// Who was let in, and what for.
#[derive(Clone)]
pub(super) struct Who {
    /// For the record.
    pub actor: Actor,
    /// The record of the token, if it is of the ledger.
    token: Option<TokenRecord>,
}

impl Who {
    /// Whether they may change what an operation runs in these regions, or in all.
    ///
    /// # Errors
    ///
    /// The token's scopes do not allow it.
    pub fn may_deploy(
        &self,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<(), Problem> {
        let regions: Vec<&str> = regions.unwrap_or_default().iter().map(|it| &**it).collect();
        let regions = &regions;
        self.may(&Action::Deploy { regions, operation })
    }

    /// Whether they are still let in, for an answer that has no end.
    ///
    /// # Errors
    ///
    /// Their token was revoked, or has expired.
    pub async fn holds(&self, registry: &Registry) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        let holds = registry.token_holds(&token.id).await;
        holds.map_err(|error| Problem::new(Kind::Unauthorized, error.to_string()))
    }

    /// Whether they may do this.
    ///
    /// # Errors
    ///
    /// The token's scopes do not allow it.
    pub fn may(&self, action: &Action<'_>) -> Result<(), Problem> {
        let Some(token) = &self.token else {
            return Ok(());
        };
        if token.allows(action) {
            return Ok(());
        }
        let scopes: Vec<String> = token.scopes.iter().map(Scope::to_string).collect();
        let needed = match action {
            Action::Read => "read".to_owned(),
            Action::Admin => "admin".to_owned(),
            Action::Deploy { regions, operation } => match regions {
                [] => format!("deploy:*:{operation}"),
                regions => {
                    let lacks = |region: &&&str| {
                        let regions = std::slice::from_ref(*region);
                        !token.allows(&Action::Deploy {
                            regions,
                            operation: *operation,
                        })
                    };
                    let region = regions.iter().find(lacks).unwrap_or(&"*");
                    format!("deploy:{region}:{operation}")
                }
            },
        };
        let detail = format!(
            "the token {} may do {}, and this needs {needed}; ask for a token with that scope",
            token.id,
            scopes.join(", ")
        );
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

impl Authority {
    /// `open`: who sends no token is let in while the settings have none.
    pub fn new(token: Option<Secret>, open: bool) -> Authority {
        Authority {
            open: open && token.is_none(),
            token,
            failures: Failures::default(),
        }
    }

    /// Who a request is from.
    ///
    /// # Errors
    ///
    /// Nobody who is known.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        registry: &Registry,
    ) -> Result<Who, Problem> {
        let token = self.token(headers, peer, registry).await?;
        // Whoever is let in without a record of the ledger, where not everybody is, has
        // sent that of the settings.
        let root = (!self.open).then_some(SETTING);
        let name = token.as_ref().map(|token| &*token.name).or(root);
        let actor = actor(headers, peer, name)?;
        Ok(Who { actor, token })
    }

    /// The record of the token that was sent; none for the one of the settings, and
    /// where none is needed.
    async fn token(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        registry: &Registry,
    ) -> Result<Option<TokenRecord>, Problem> {
        let credentials = headers.get(AUTHORIZATION);
        let Some(credentials) = credentials else {
            if self.open {
                refuse_browsers(headers)?;
                return Ok(None);
            }
            let detail = "send a token as `Authorization: Bearer <token>` (tidepool: --token or TIDEPOOL_ADMIN_TOKEN): that of the setting admin.token, or one of `tidepool token create`";
            return Err(Problem::new(Kind::Unauthorized, detail));
        };
        let sent = credentials.as_bytes().strip_prefix(b"Bearer ");
        let sent = sent.unwrap_or_default();
        // In constant time: an answer's delay must not tell how much was right.
        let root = self.token.as_ref();
        if root.is_some_and(|token| bool::from(sent.ct_eq(token.expose().as_bytes()))) {
            return Ok(None);
        }
        let text = std::str::from_utf8(sent).unwrap_or_default();
        let detail = match registry.token(text).await {
            Ok(record) => return Ok(Some(record)),
            Err(error) => error.to_string(),
        };
        // The right token is let in above, whatever else came from its address.
        Err(match self.failures.count(peer, Instant::now()) {
            None => Problem::new(Kind::Unauthorized, detail),
            Some(wait) => Problem::new(Kind::TooManyFailures, detail).retry_after(wait),
        })
    }
}

/// Who a request is from: the token's name is known, the rest is said.
fn actor(headers: &HeaderMap, peer: IpAddr, token: Option<&str>) -> Result<Actor, Problem> {
    let said = match headers.get(ACTOR).map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) if !text.is_empty() && text.len() <= MAX_ACTOR_BYTES => Some(text),
        Some(_) => {
            return Err(Problem::new(
                Kind::BadRequest,
                format!(
                    "header Tidepool-Actor: send who you are in 1 to {MAX_ACTOR_BYTES} bytes of ASCII, or leave it out"
                ),
            ));
        }
    };
    let name = match (token, said) {
        (Some(token), Some(said)) => format!("{token} ({said})"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => "unknown".to_owned(),
    };
    Ok(Actor {
        name,
        source: peer.to_string(),
    })
}

/// Refuses what a web page could have caused.
fn refuse_browsers(headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("localhost");
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let name = name.trim_matches(['[', ']']);
    let ours = name == "localhost" || name.parse::<IpAddr>().is_ok();
    if ours && !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let detail =
        "requests from web pages are refused; use the command line, or set admin.token and send it";
    Err(Problem::new(Kind::Forbidden, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| {
                (
                    http::HeaderName::from_static(n),
                    http::HeaderValue::from_static(v),
                )
            })
            .collect()
    }

    #[test]
    fn a_web_page_cannot_reach_an_admin_plane_without_a_token() {
        assert!(refuse_browsers(&headers(&[("host", "127.0.0.1:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "[::1]:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "localhost:8090")])).is_ok());
        assert!(refuse_browsers(&headers(&[("host", "evil.example:8090")])).is_err());
        assert!(
            refuse_browsers(&headers(&[
                ("host", "127.0.0.1:8090"),
                ("origin", "http://evil.example")
            ]))
            .is_err()
        );
    }
}

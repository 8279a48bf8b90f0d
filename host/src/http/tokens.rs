//! The part of the admin plane that makes, lists and takes back tokens.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming as HttpBody;

use super::body::read_body;
use super::documents::{NewToken, Token, TokenList, TokenMade};
use super::respond::{self, Answer, Kind, Problem};
use crate::handlers::registry::Registry;
use crate::handlers::rollout::Actor;
use crate::trust::token::{Scope, TokenRecord};
use crate::wit_host::log::rfc3339;

/// Longest body of a request for a token.
const MAX_BODY_BYTES: usize = 64 << 10;

/// `POST /v1/tokens`
pub(super) async fn create(
    registry: &Registry,
    request: Request<HttpBody>,
    by: &Actor,
    body_timeout: Duration,
) -> Result<Answer, Problem> {
    let body = read_body(request.into_body(), MAX_BODY_BYTES, body_timeout).await?;
    let new: NewToken = serde_json::from_slice(&body).map_err(|error| {
        let detail = format!(
            r#"send {{"name": "...", "scopes": ["read"], "expires_in_seconds": 3600}}, the last only if it is to end: {error}"#
        );
        Problem::new(Kind::BadRequest, detail)
    })?;
    let scopes: Result<Vec<Scope>, _> = new.scopes.iter().map(|text| text.parse()).collect();
    let scopes = scopes.map_err(bad_request)?;
    let lasts = new.expires_in_seconds.map(Duration::from_secs);
    let (secret, record) = registry.create_token(&new.name, scopes, lasts, by).await?;
    let document = TokenMade {
        token: secret.expose().to_owned(),
        made: shown(&record),
    };
    Ok(respond::json(StatusCode::CREATED, &document))
}

/// `GET /v1/tokens`
pub(super) async fn list(registry: &Registry) -> Result<Answer, Problem> {
    let tokens = registry.tokens().await?.iter().map(shown).collect();
    Ok(respond::json(StatusCode::OK, &TokenList { tokens }))
}

/// `DELETE /v1/tokens/{id}`
pub(super) async fn revoke(registry: &Registry, id: &str, by: &Actor) -> Result<Answer, Problem> {
    let record = registry.revoke_token(id, by).await?;
    Ok(respond::json(StatusCode::OK, &shown(&record)))
}

fn bad_request(error: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::BadRequest, error.to_string())
}

fn shown(record: &TokenRecord) -> Token {
    Token {
        id: record.id.clone(),
        name: record.name.clone(),
        scopes: record.scopes.iter().map(Scope::to_string).collect(),
        created_at: rfc3339(record.created_at),
        created_by: record.created_by.clone(),
        expires_at: record.expires_at.map(rfc3339),
        revoked_at: record.revoked_at.map(rfc3339),
    }
}

//! Bearer tokens: how one is made, what of it is kept, and what it allows. Pure,
//! but for the system's randomness when one is made. It must not keep a secret:
//! a record has only its SHA-256, which is enough because the secret is 32
//! random bytes that nobody can try through.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::config::{Secret, is_region_name};
use crate::model::Operation;

/// What every token begins with, so that a leaked one is recognised.
const PREFIX: &str = "tp_";

/// Bytes of a token's number: 8 hexadecimal digits in the token.
const ID_BYTES: usize = 4;

/// Bytes of a token's secret: 43 characters in the token.
const SECRET_BYTES: usize = 32;

/// Longest name of a token, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Most scopes of a token.
pub const MAX_SCOPES: usize = 64;

/// The SHA-256 of a token's secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &[u8]) -> SecretHash {
        SecretHash(Sha256::digest(secret).into())
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> String {
        BASE64.encode(hash.0)
    }
}

impl TryFrom<String> for SecretHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<SecretHash, &'static str> {
        let bytes = BASE64.decode(text).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(SecretHash)
            .ok_or("the hash of a token is 32 bytes in base64url")
    }
}

/// What is kept of a token. Times are in microseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its number: 8 hexadecimal digits, a part of the token. Random, so whoever
    /// stores it checks that it is not there yet.
    pub id: String,
    /// What it is for, in its maker's words.
    pub name: String,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// What it allows: each of these.
    pub scopes: Vec<Scope>,
    /// When it ends; never when there is none.
    pub expires_at: Option<i64>,
    /// When it was taken back.
    #[serde(default)]
    pub revoked_at: Option<i64>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: i64,
}

/// Why no token is made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateError {
    /// The name.
    #[error("name the token after what it is for, with 1 to {MAX_NAME_BYTES} bytes")]
    Name,
    /// Too few, or too many.
    #[error("give the token 1 to {MAX_SCOPES} scopes, for example read or deploy:us-east-1")]
    Scopes,
    /// The end is not after the beginning.
    #[error("the token would have expired already; choose a time to come")]
    Expired,
    /// The system has no randomness.
    #[error("the system gives no random bytes: {0}; nothing was made, try again")]
    Randomness(String),
}

impl TokenRecord {
    /// Makes a token: the text to hand over, which is not to be had again, and
    /// the record to keep.
    ///
    /// # Errors
    ///
    /// See [`CreateError`].
    pub fn create(
        name: &str,
        scopes: Vec<Scope>,
        expires_at: Option<i64>,
        created_by: &str,
        now: i64,
    ) -> Result<(Secret, TokenRecord), CreateError> {
        if name.trim().is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(CreateError::Name);
        }
        if scopes.is_empty() || scopes.len() > MAX_SCOPES {
            return Err(CreateError::Scopes);
        }
        if expires_at.is_some_and(|end| end <= now) {
            return Err(CreateError::Expired);
        }
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        for bytes in [&mut id[..], &mut secret[..]] {
            OsRng
                .try_fill_bytes(bytes)
                .map_err(|error| CreateError::Randomness(error.to_string()))?;
        }
        let id = format!("{:08x}", u32::from_be_bytes(id));
        let text = Secret::new(format!("{PREFIX}{id}_{}", BASE64.encode(secret)));
        let record = TokenRecord {
            id,
            name: name.to_owned(),
            hash: SecretHash::of(&secret),
            scopes,
            expires_at,
            revoked_at: None,
            created_by: created_by.to_owned(),
            created_at: now,
        };
        Ok((text, record))
    }

    /// Whether it can still be used.
    ///
    /// # Errors
    ///
    /// It was taken back, or has ended.
    pub fn holds(&self, now: i64) -> Result<(), TokenError> {
        let id = || self.id.clone();
        if self.revoked_at.is_some() {
            return Err(TokenError::Revoked { id: id() });
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(TokenError::Expired { id: id() });
        }
        Ok(())
    }

    /// Whether its scopes together allow an action: of a deployment, every
    /// region by one of them.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        let any = |action: &Action<'_>| self.scopes.iter().any(|scope| scope.allows(action));
        if any(action) {
            return true;
        }
        let Action::Deploy { regions, operation } = action else {
            return false;
        };
        !regions.is_empty()
            && regions.iter().all(|region| {
                any(&Action::Deploy {
                    regions: &[region],
                    operation: *operation,
                })
            })
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action<'a> {
    /// Looking.
    Read,
    /// Changing what an operation runs.
    Deploy {
        /// In these regions; none named means wherever there is one.
        regions: &'a [&'a str],
        /// The operation.
        operation: Operation,
    },
    /// Everything else: tokens and settings.
    Admin,
}

/// What a token may be used for, as text `read`, `admin`, `deploy`,
/// `deploy:REGION`, `deploy:*:OPERATION` or `deploy:REGION:OPERATION`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Looking at everything but secrets.
    Read,
    /// Deploying, and looking.
    Deploy {
        /// Only in this region.
        region: Option<String>,
        /// Only this operation.
        operation: Option<Operation>,
    },
    /// Everything.
    Admin,
}

impl Scope {
    /// Whether this scope alone allows an action.
    pub fn allows(&self, action: &Action<'_>) -> bool {
        match (self, action) {
            (Scope::Admin, _) => true,
            (_, Action::Admin) => false,
            (_, Action::Read) => true,
            (Scope::Read, Action::Deploy { .. }) => false,
            (
                Scope::Deploy { region, operation },
                Action::Deploy {
                    regions,
                    operation: wanted,
                },
            ) => {
                let everywhere = |own: &String| {
                    !regions.is_empty() && regions.iter().all(|region| region == own)
                };
                operation.is_none_or(|own| own == *wanted) && region.as_ref().is_none_or(everywhere)
            }
        }
    }
}

/// A text that is no scope.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is no scope; use read, admin, deploy, deploy:REGION, deploy:*:OPERATION or deploy:REGION:OPERATION, where an operation is get, put, delete or hydrate"
)]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Scope, ScopeError> {
        let wrong = || ScopeError(text.chars().take(MAX_NAME_BYTES).collect());
        let mut parts = text.split(':');
        let scope = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("read"), None, ..) => Scope::Read,
            (Some("admin"), None, ..) => Scope::Admin,
            (Some("deploy"), region, operation, None) => Scope::Deploy {
                region: match region {
                    None | Some("*") => None,
                    Some(name) if is_region_name(name) => Some(name.to_owned()),
                    Some(_) => return Err(wrong()),
                },
                operation: match operation {
                    None => None,
                    Some(name) => Some(Operation::parse(name).ok_or_else(wrong)?),
                },
            },
            _ => return Err(wrong()),
        };
        Ok(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Read => f.write_str("read"),
            Scope::Admin => f.write_str("admin"),
            Scope::Deploy { region, operation } => {
                f.write_str("deploy")?;
                match (region, operation) {
                    (None, None) => Ok(()),
                    (Some(region), None) => write!(f, ":{region}"),
                    (region, Some(operation)) => {
                        write!(f, ":{}:{operation}", region.as_deref().unwrap_or("*"))
                    }
                }
            }
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Scope, ScopeError> {
        text.parse()
    }
}

/// Why a token is not taken. None of them shows its secret, and only who has the
/// secret learns that a token has ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not look like one.
    #[error("this is no token of Tidepool; send the whole text, tp_ and 52 characters more")]
    Malformed,
    /// There is none of this number, or its secret is another.
    #[error("there is no such token; check that it was copied whole, or ask for a new one")]
    Unknown,
    /// Its time is over.
    #[error("the token {id} has expired; ask for a new one")]
    Expired {
        /// Its number.
        id: String,
    },
    /// It was taken back.
    #[error("the token {id} was revoked; ask for a new one")]
    Revoked {
        /// Its number.
        id: String,
    },
}

/// The record of a token that was sent, if it holds. `lookup` finds a record by
/// its number; `now` is in microseconds since the Unix epoch.
///
/// # Errors
///
/// See [`TokenError`].
pub fn verify<'a>(
    text: &str,
    lookup: impl FnOnce(&str) -> Option<&'a TokenRecord>,
    now: i64,
) -> Result<&'a TokenRecord, TokenError> {
    let (id, secret) = split(text).ok_or(TokenError::Malformed)?;
    let record = lookup(id).ok_or(TokenError::Unknown)?;
    // In constant time: an answer's delay must not tell how much was right.
    if !bool::from(SecretHash::of(&secret).0.ct_eq(&record.hash.0)) {
        return Err(TokenError::Unknown);
    }
    record.holds(now)?;
    Ok(record)
}

/// The number and the secret of a token.
fn split(text: &str) -> Option<(&str, [u8; SECRET_BYTES])> {
    // The secret may have a `_` of its own; the number has none.
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if id.len() != 2 * ID_BYTES || !id.bytes().all(hexadecimal) {
        return None;
    }
    let secret = BASE64.decode(secret).ok()?.try_into().ok()?;
    Some((id, secret))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;

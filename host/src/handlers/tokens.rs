//! The tokens of the admin plane: they are events of the ledger, like deployments, so
//! that they hold on every host and are revoked on every host.

use std::time::Duration;

use super::registry::Registry;
use super::rollout::{Actor, DeployError};
use crate::config::Secret;
use crate::deployments::{Command, LedgerError, Refusal};
use crate::trust::token::{self, Scope, TokenError, TokenRecord};

impl Registry {
    /// Makes a token that lasts for some time, or without an end. Gives the text,
    /// which is not to be had again, and what is kept of it.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn create_token(
        &self,
        name: &str,
        scopes: Vec<Scope>,
        lasts: Option<Duration>,
        by: &Actor,
    ) -> Result<(Secret, TokenRecord), DeployError> {
        let now = self.now_micros();
        let lasts = lasts.map(|lasts| i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX));
        let end = lasts.map(|lasts| now.saturating_add(lasts));
        let (secret, token) = TokenRecord::create(name, scopes, end, &by.name, now)?;
        let command = Command::CreateToken {
            token: token.clone(),
        };
        self.append(&command, by).await?;
        Ok((secret, token))
    }

    /// Takes a token back.
    ///
    /// # Errors
    ///
    /// See [`DeployError`].
    pub async fn revoke_token(&self, id: &str, by: &Actor) -> Result<TokenRecord, DeployError> {
        let command = Command::RevokeToken { id: id.to_owned() };
        let (_, after) = self.append(&command, by).await?;
        let none = || Refusal::NoSuchToken { id: id.to_owned() };
        Ok(after.token(id).cloned().ok_or_else(none)?)
    }

    /// What is kept of all tokens.
    ///
    /// # Errors
    ///
    /// The ledger cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, LedgerError> {
        self.catch_up().await?;
        Ok(self.known.lock().await.tokens().cloned().collect())
    }

    /// The token that a text is, if it holds.
    ///
    /// # Errors
    ///
    /// See [`TokenError`].
    pub async fn token(&self, text: &str) -> Result<TokenRecord, TokenError> {
        match self.known_token(text).await {
            // It may have been made on another host a moment ago.
            Err(TokenError::Unknown) => {}
            judged => return judged,
        }
        if let Err(error) = self.catch_up().await {
            tracing::warn!(%error, "a token is judged by what was known");
        }
        self.known_token(text).await
    }

    /// Whether a token that was let in still holds.
    ///
    /// # Errors
    ///
    /// See [`TokenError`].
    pub async fn token_holds(&self, id: &str) -> Result<(), TokenError> {
        if let Err(error) = self.catch_up().await {
            tracing::warn!(%error, "a token is judged by what was known");
        }
        let state = self.known.lock().await;
        let token = state.token(id).ok_or(TokenError::Unknown)?;
        token.holds(self.now_micros())
    }

    async fn known_token(&self, text: &str) -> Result<TokenRecord, TokenError> {
        let state = self.known.lock().await;
        token::verify(text, |id| state.token(id), self.now_micros()).cloned()
    }
}

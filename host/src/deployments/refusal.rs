//! Why something that is asked of deployments cannot be done. Each text says what to
//! do next.

use super::command::MAX_TOKENS;
use super::config::ConfigError;
use super::event::Share;
use crate::model::Operation;

/// Why a command cannot be done. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No such region.
    #[error("there is no region {name:?}; there are {}", known.join(", "))]
    UnknownRegion {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Somebody else has changed a slot.
    #[error(
        "somebody else has deployed `{operation}` in {region} at the same time: it runs revision {active} now; look at `tidepool handlers` and deploy again if yours is still wanted"
    )]
    Overtaken {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// What it runs.
        active: u64,
    },
    /// There is a canary.
    #[error(
        "`{operation}` in {region} has a canary, revision {canary} at {share}; `tidepool promote {operation}` or `tidepool abort {operation}` first"
    )]
    CanaryRuns {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// Its revision.
        canary: u64,
        /// Its share.
        share: Share,
    },
    /// There is a plan.
    #[error(
        "`{operation}` has a plan that goes on by itself, step {step} of {steps}; wait for it, or `tidepool abort {operation}` first"
    )]
    PlanRuns {
        /// The operation.
        operation: Operation,
        /// The step that it has come to, counted from 1.
        step: usize,
        /// How many it has.
        steps: usize,
    },
    /// There would be a configuration that there cannot be.
    #[error("{region}: {error}")]
    Config {
        /// Where.
        region: String,
        /// Why.
        error: ConfigError,
    },
    /// There is no canary.
    #[error(
        "`{operation}` has no canary in {region}; `tidepool deploy {operation} FILE --canary 5%` starts one"
    )]
    NoCanary {
        /// The operation.
        operation: Operation,
        /// Where.
        region: String,
    },
    /// A canary only grows.
    #[error(
        "the canary of `{operation}` in {region} has {share} already; a key that got it does not go back: name more, or `tidepool abort {operation}`"
    )]
    Shrinks {
        /// The operation.
        operation: Operation,
        /// Where.
        region: String,
        /// What it has.
        share: Share,
    },
    /// There is nothing to go back to.
    #[error(
        "`{operation}` in {region} has no revision {wanted}; `tidepool handlers --all` lists them"
    )]
    NoSuchRevision {
        /// The region.
        region: String,
        /// The operation.
        operation: Operation,
        /// As asked for.
        wanted: String,
    },
    /// A token has this number.
    #[error("there is a token {id} already; try again, and it gets another number")]
    TokenExists {
        /// The number.
        id: String,
    },
    /// No token has this number.
    #[error("there is no token {id:?}; `tidepool token list` has them")]
    NoSuchToken {
        /// As asked for.
        id: String,
    },
    /// There are as many as may be.
    #[error("there are {MAX_TOKENS} tokens that hold; revoke some that are no longer used")]
    TooManyTokens,
}

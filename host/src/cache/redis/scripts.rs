//! The scripts that run in Redis, each beside this file with what it takes and
//! answers. A script is one step to everybody else: what it looked at is still so
//! when it writes.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Script, ToRedisArgs};

use super::connection::{LinkError, Links};

/// A script and its digest.
pub(super) struct Source {
    text: &'static str,
    script: LazyLock<Script>,
}

macro_rules! script {
    ($(#[doc = $doc:literal])+ $name:ident, $file:literal) => {
        $(#[doc = $doc])+
        pub(super) static $name: Source = Source {
            text: include_str!($file),
            script: LazyLock::new(|| Script::new(include_str!($file))),
        };
    };
}

script!(
    /// Applies rows.
    APPLY, "scripts/apply.lua");
script!(
    /// Puts an entry in the place of its lease.
    FILL, "scripts/fill.lua");
script!(
    /// Removes a lease.
    RELEASE, "scripts/release.lua");
script!(
    /// Takes or renews the lead.
    LEAD, "scripts/lead.lua");
script!(
    /// Saves the position.
    SAVE, "scripts/save.lua");
script!(
    /// Shows entries.
    LOOK, "scripts/look.lua");
script!(
    /// Removes what an earlier epoch has left.
    CLEAR, "scripts/clear.lua");

impl Source {
    /// Runs it. A server that does not know it yet, or has forgotten it, is sent
    /// the text.
    pub async fn run<T: FromRedisValue>(
        &self,
        links: &Links,
        bound: Duration,
        keys: &[impl ToRedisArgs],
        arguments: &[impl ToRedisArgs],
    ) -> Result<T, LinkError> {
        let call = |whole| {
            let mut command = self.call(whole, keys.len());
            command.arg(keys).arg(arguments);
            command
        };
        match links.query(bound, &call(false)).await {
            Err(LinkError::NoScript) => links.query(bound, &call(true)).await,
            answer => answer,
        }
    }

    /// The beginning of a command that runs it: by its digest, or `whole`.
    pub fn call(&self, whole: bool, keys: usize) -> Cmd {
        let mut command = match whole {
            true => redis::cmd("EVAL"),
            false => redis::cmd("EVALSHA"),
        };
        match whole {
            true => command.arg(self.text),
            false => command.arg(self.script.get_hash()),
        };
        command.arg(keys);
        command
    }
}

//! What the server says that it is, and whether it is new enough. Pure.

use std::fmt;

/// Oldest PostgreSQL that is served.
pub const LEAST_POSTGRES: u32 = 15;

/// Oldest CockroachDB that is served.
pub const LEAST_COCKROACH: (u32, u32) = (22, 1);

/// A server that is new enough. Releases compare within one product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerKind {
    /// PostgreSQL.
    Postgres {
        /// As in 15.
        major: u32,
    },
    /// CockroachDB.
    Cockroach {
        /// As 23 in v23.2.
        major: u32,
        /// As 2 in v23.2.
        minor: u32,
    },
}

impl ServerKind {
    /// Whether it is CockroachDB of this release or a later one.
    pub fn cockroach_since(self, major: u32, minor: u32) -> bool {
        match self {
            ServerKind::Postgres { .. } => false,
            ServerKind::Cockroach { major: a, minor: b } => (a, b) >= (major, minor),
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerKind::Postgres { major } => write!(f, "PostgreSQL {major}"),
            ServerKind::Cockroach { major, minor } => write!(f, "CockroachDB v{major}.{minor}"),
        }
    }
}

/// A server that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSupported {
    /// A release that is too old.
    #[error(
        "the server is {0}; Tidepool needs PostgreSQL 15 or newer, or CockroachDB v22.1 or newer: upgrade it, or name another server"
    )]
    TooOld(ServerKind),
    /// Something else that speaks the protocol.
    #[error(
        "the server calls itself `{0}`; Tidepool needs PostgreSQL 15 or newer, or CockroachDB v22.1 or newer"
    )]
    Unknown(String),
}

/// The server of an answer to `SELECT version()`.
pub fn parse_version(text: &str) -> Result<ServerKind, NotSupported> {
    // Enough to recognise it by, should it be long.
    let unknown = || NotSupported::Unknown(text.chars().take(80).collect());
    let kind = if let Some(rest) = text.strip_prefix("CockroachDB ") {
        let release = rest
            .split_whitespace()
            .find_map(|word| word.strip_prefix('v'));
        let mut parts = release.ok_or_else(unknown)?.split('.').map(leading_number);
        match (parts.next().flatten(), parts.next().flatten()) {
            (Some(major), Some(minor)) => ServerKind::Cockroach { major, minor },
            _ => return Err(unknown()),
        }
    } else {
        // Forks keep the name and put their own into the number.
        let release = text.strip_prefix("PostgreSQL ").ok_or_else(unknown)?;
        let release = release.split_whitespace().next().unwrap_or_default();
        if release.contains("-YB-") {
            return Err(unknown());
        }
        let major = leading_number(release).ok_or_else(unknown)?;
        ServerKind::Postgres { major }
    };
    let new_enough = match kind {
        ServerKind::Postgres { major } => major >= LEAST_POSTGRES,
        ServerKind::Cockroach { major, minor } => (major, minor) >= LEAST_COCKROACH,
    };
    new_enough.then_some(kind).ok_or(NotSupported::TooOld(kind))
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    text.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_are_told_apart_by_name_and_release() {
        for (text, kind) in [
            (
                "PostgreSQL 15.13 (Debian 15.13-0+deb12u1) on x86_64-pc-linux-gnu, compiled by gcc",
                ServerKind::Postgres { major: 15 },
            ),
            (
                "PostgreSQL 18beta1 on aarch64",
                ServerKind::Postgres { major: 18 },
            ),
            (
                "CockroachDB CCL v22.1.0-alpha.1-12-gabcdef (x86_64-unknown-linux-gnu, built 2022/01/01)",
                ServerKind::Cockroach {
                    major: 22,
                    minor: 1,
                },
            ),
            (
                "CockroachDB CCL v25.4.2 (x86_64-pc-linux-gnu)",
                ServerKind::Cockroach {
                    major: 25,
                    minor: 4,
                },
            ),
        ] {
            assert_eq!(parse_version(text), Ok(kind), "{text}");
        }
    }

    #[test]
    fn what_is_too_old_is_refused_by_name() {
        for (text, name) in [
            ("PostgreSQL 14.9 on x86_64", "PostgreSQL 14"),
            ("PostgreSQL 8.0.2 on i686", "PostgreSQL 8"),
            ("CockroachDB CCL v21.2.17 (x86_64)", "CockroachDB v21.2"),
        ] {
            let error = parse_version(text).unwrap_err();
            assert!(matches!(error, NotSupported::TooOld(_)), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_is_something_else_is_refused() {
        for text in [
            "",
            "MySQL 8",
            "PostgreSQL",
            "CockroachDB",
            "PostgreSQL 15.2-YB-2.25.0 on x",
        ] {
            assert!(
                matches!(parse_version(text), Err(NotSupported::Unknown(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn releases_compare_as_numbers() {
        let server = ServerKind::Cockroach {
            major: 23,
            minor: 2,
        };
        assert!(server.cockroach_since(22, 9) && server.cockroach_since(23, 2));
        assert!(!server.cockroach_since(23, 10) && !server.cockroach_since(24, 1));
        assert!(!ServerKind::Postgres { major: 99 }.cockroach_since(22, 1));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in ".*") {
            let _ = parse_version(&text);
            let _ = parse_version(&format!("CockroachDB v{text}"));
            let _ = parse_version(&format!("PostgreSQL {text}"));
        }
    }
}

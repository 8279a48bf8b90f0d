//! What a failure of the database means, and what an operator can do about it.
//! Pure: it looks at SQLSTATE codes and at nothing that could hold a secret.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

use super::server::NotSupported;

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// 40001, 40P01: nothing has happened; do the whole transaction again.
    Retry,
    /// 40003, 08007: a commit may or may not have happened.
    Ambiguous,
    /// The connection is gone (57P01 to 57P05, class 08, or without a word). What
    /// was sent and not answered may or may not have happened.
    Lost,
    /// 57014: cancelled, by somebody or by `statement_timeout`.
    Cancelled,
    /// Class 53: too many connections, no memory, disk full.
    Overloaded,
    /// 25006: it can only be read, as a standby.
    ReadOnly,
    /// 28P01, 28000: user or password are wrong, or not let in from here.
    Login,
    /// 3D000: there is no such database.
    NoDatabase,
    /// 42501: a privilege is missing.
    Privilege,
    /// 42P01: there is no such table.
    NoTable,
    /// The certificate, or TLS itself.
    Tls,
    /// Anything else.
    Other,
}

/// What kind of failure an error is.
pub fn classify(error: &Error) -> Class {
    match error.as_db_error() {
        Some(error) => classify_code(error.code()),
        None if tls_error(error).is_some() || error.to_string().contains("TLS") => Class::Tls,
        None if error.is_closed() || has_io(error) => Class::Lost,
        None if error.to_string().contains("authentication") => Class::Login,
        None => Class::Other,
    }
}

fn classify_code(code: &SqlState) -> Class {
    match code.code() {
        "40001" | "40P01" => Class::Retry,
        "40003" | "08007" => Class::Ambiguous,
        "57014" => Class::Cancelled,
        "25006" => Class::ReadOnly,
        "28P01" | "28000" => Class::Login,
        "3D000" => Class::NoDatabase,
        "42501" => Class::Privilege,
        "42P01" => Class::NoTable,
        code if code.starts_with("57P") || code.starts_with("08") => Class::Lost,
        code if code.starts_with("53") => Class::Overloaded,
        _ => Class::Other,
    }
}

/// Whether the way to the server failed, and not what was said on it.
fn has_io(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The fault of TLS in an error, if it is one.
fn tls_error(error: &Error) -> Option<&rustls::Error> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error shows what it wraps only to those who ask it.
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && let Some(found) = io.get_ref().and_then(|inner| inner.downcast_ref())
        {
            return Some(found);
        }
        source = cause.source();
    }
    None
}

/// Why there is no connection, or no answer on it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SqlError {
    /// None of the hosts could be used.
    #[error("cannot use the database {target}: {why}")]
    Connect {
        /// The database, without secrets.
        target: String,
        /// What kind of failure, of the last host.
        class: Class,
        /// What went wrong and what to do, for each host.
        why: String,
    },
    /// The server is not one that can be used.
    #[error("cannot use the database {target}: {source}")]
    NotSupported {
        /// The database, without secrets.
        target: String,
        /// What it is.
        source: NotSupported,
    },
    /// A statement failed.
    #[error("{why}")]
    Statement {
        /// What kind of failure.
        class: Class,
        /// What went wrong and what to do.
        why: String,
    },
    /// No answer in time. It may come later.
    #[error(
        "the database {target} has not answered within {limit:?}; check the network and its load, or raise database.request_timeout"
    )]
    Silent {
        /// The database, without secrets.
        target: String,
        /// How long was waited.
        limit: Duration,
    },
}

impl SqlError {
    /// What kind of failure it is.
    pub fn class(&self) -> Class {
        match self {
            SqlError::Connect { class, .. } | SqlError::Statement { class, .. } => *class,
            SqlError::NotSupported { .. } => Class::Other,
            SqlError::Silent { .. } => Class::Lost,
        }
    }
}

/// What went wrong, in one line, and what to do. `role` is who we are there.
pub(super) fn explain(error: &Error, role: &str) -> String {
    if let Some(error) = error.as_db_error() {
        return explain_db(error, role);
    }
    match classify(error) {
        Class::Tls => explain_tls(error),
        Class::Login => format!(
            "{}; give user and password in the URL, and check how the server asks for them",
            chain(error)
        ),
        Class::Lost if error.is_closed() => "the connection was closed".to_owned(),
        _ => chain(error),
    }
}

fn explain_db(error: &DbError, role: &str) -> String {
    let code = error.code();
    // A server's message can be of several lines.
    let said = format!("{} ({})", error.message().replace('\n', " "), code.code());
    let advice = match classify_code(code) {
        Class::Login => "check user and password in the URL, and that the server lets this host in",
        Class::NoDatabase => "create the database, or name another one in the URL",
        Class::NoTable => "somebody has removed it; start Tidepool anew to have it made again",
        Class::ReadOnly => "name the primary in the URL, not a standby",
        Class::Overloaded => match code.code() {
            "53300" => "lower database.connections, or raise max_connections on the server",
            "53200" => {
                "give the server more memory, or raise max_locks_per_transaction, or lower log.max_batch"
            }
            "53100" => "free some space on the server's disk",
            _ => "the server is overloaded",
        },
        Class::Privilege => return format!("{said}; {}", missing_grant(error.message(), role)),
        Class::Cancelled => "somebody cancelled it, or it took too long",
        Class::Retry | Class::Ambiguous | Class::Lost | Class::Tls | Class::Other => return said,
    };
    format!("{said}; {advice}")
}

/// What a host needs on each table.
pub(crate) const PRIVILEGES: [(&str, &str); 6] = [
    ("tidepool_schema", "SELECT, INSERT"),
    ("tidepool_deployments", "SELECT, INSERT"),
    ("tidepool_components", "SELECT, INSERT, UPDATE, DELETE"),
    ("tidepool_hosts", "SELECT, INSERT, UPDATE, DELETE"),
    ("tidepool_quarantine", "SELECT, INSERT, UPDATE, DELETE"),
    ("kv_log", "SELECT, INSERT"),
];

/// The statement that gives the privilege whose want a server names.
fn missing_grant(message: &str, role: &str) -> String {
    let role = quote(role);
    let table = PRIVILEGES.iter().find(|(table, _)| message.contains(table));
    let grant = if message.contains("CHANGEFEED") {
        format!(
            "GRANT CHANGEFEED ON TABLE kv_log TO {role} (before v22.2: ALTER ROLE {role} WITH CONTROLCHANGEFEED)"
        )
    } else if message.contains("owner of") {
        format!("GRANT <the owner of kv_log> TO {role}")
    } else if let Some((table, privileges)) = table {
        format!("GRANT {privileges} ON TABLE {table} TO {role}")
    } else if message.contains("schema") {
        format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    } else if message.contains("database") && message.contains("CREATE") {
        format!("GRANT CREATE ON DATABASE <name> TO {role}")
    } else if message.contains("database") {
        format!("GRANT CONNECT ON DATABASE <name> TO {role}")
    } else {
        format!("GRANT SELECT, INSERT ON TABLE kv_log TO {role}")
    };
    format!("an administrator has to run: {grant}")
}

/// An identifier as SQL wants it.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn explain_tls(error: &Error) -> String {
    use rustls::CertificateError as Bad;
    let fault = tls_error(error);
    let advice = match fault {
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::UnknownIssuer | Bad::BadSignature => {
                "no trusted authority has signed the server's certificate; name the authority's file with sslrootcert"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "the server's certificate is for another name; use that name in the URL, or sslmode=verify-ca to accept any name"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => "the server's certificate has expired",
            _ => "the server's certificate cannot be used",
        },
        Some(rustls::Error::AlertReceived(_)) => {
            "the server refused our side; check sslcert and sslkey"
        }
        Some(_) => "TLS has failed",
        None if chain(error).contains("does not support TLS") => {
            "switch TLS on at the server, or use sslmode=disable on a network that you trust"
        }
        None => "TLS has failed",
    };
    format!("{} ({advice})", chain(error))
}

/// An error with all its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some repeat what they wrap.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_they_mean() {
        for (code, class) in [
            ("40001", Class::Retry),
            ("40P01", Class::Retry),
            ("40003", Class::Ambiguous),
            ("08007", Class::Ambiguous),
            ("08006", Class::Lost),
            ("57P01", Class::Lost),
            ("57P03", Class::Lost),
            ("57014", Class::Cancelled),
            ("53300", Class::Overloaded),
            ("53200", Class::Overloaded),
            ("25006", Class::ReadOnly),
            ("28P01", Class::Login),
            ("28000", Class::Login),
            ("3D000", Class::NoDatabase),
            ("42501", Class::Privilege),
            ("42P01", Class::NoTable),
            ("XXUUU", Class::Other),
            ("23505", Class::Other),
        ] {
            assert_eq!(classify_code(&SqlState::from_code(code)), class, "{code}");
        }
    }

    #[test]
    fn a_missing_privilege_names_its_grant() {
        for (message, grant) in [
            (
                "permission denied for schema public",
                "GRANT USAGE, CREATE ON SCHEMA public TO \"o\"\"k\"",
            ),
            (
                "permission denied for table kv_log",
                "GRANT SELECT, INSERT ON TABLE kv_log TO",
            ),
            (
                "permission denied for table tidepool_schema",
                "ON TABLE tidepool_schema TO",
            ),
            (
                "must be owner of table kv_log",
                "GRANT <the owner of kv_log> TO",
            ),
            (
                "permission denied for table tidepool_deployments",
                "GRANT SELECT, INSERT ON TABLE tidepool_deployments TO",
            ),
            (
                "user x does not have UPDATE privilege on relation tidepool_hosts",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE tidepool_hosts TO",
            ),
            (
                "user x does not have CREATE privilege on database d",
                "GRANT CREATE ON DATABASE",
            ),
            (
                "current user must have a role WITH CONTROLCHANGEFEED",
                "GRANT CHANGEFEED ON TABLE kv_log",
            ),
        ] {
            let text = missing_grant(message, "o\"k");
            assert!(text.contains(grant), "{text}");
        }
    }
}

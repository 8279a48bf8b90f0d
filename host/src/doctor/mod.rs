//! What the doctor says of a server: one kind of finding for databases and
//! caches alike. Looking is done by whoever knows the server; nothing here asks
//! anybody.

/// How much a finding matters.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, and could work better.
    Advice,
    /// It does not work, or not as promised.
    Problem,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What it costs to leave it so.
    pub cost: Option<String>,
    /// The command to run, ready to be copied.
    pub fix: Option<String>,
}

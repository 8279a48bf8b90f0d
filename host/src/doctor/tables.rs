//! What is to be said about the tables beside `kv_log`, from facts about them. Pure.

use super::Finding;

/// A table, as it is on the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Table {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there.
    pub there: bool,
    /// Privileges that a host needs on it and this user does not have.
    pub missing: Vec<&'static str>,
}

/// What is to be said. `create`: whether this user may make tables; `allow` is the
/// statement that lets it. `role` is quoted.
pub(super) fn evaluate(tables: &[Table], role: &str, create: bool, allow: &str) -> Vec<Finding> {
    const REFUSED: &str = "no host starts";
    let one = |table: &Table| {
        let Table {
            name,
            there,
            missing,
        } = table;
        let subject = format!("table {name}");
        match (there, missing.is_empty(), create) {
            (true, true, _) => Finding::ok(&subject, "there, with every privilege that is needed"),
            (true, false, _) => {
                let missing = missing.join(", ");
                Finding::problem(&subject, format!("this user has no {missing} on it"))
                    .costs(REFUSED)
                    .fixed_by(format!("GRANT {missing} ON TABLE {name} TO {role};"))
            }
            (false, _, true) => Finding::ok(
                &subject,
                "it is not there yet; Tidepool creates it when it starts, unless somebody has removed it",
            ),
            (false, _, false) => {
                let what = "it is not there, and this user may not create it";
                Finding::problem(&subject, what)
                    .costs(REFUSED)
                    .fixed_by(allow)
            }
        }
    };
    tables.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn what_a_table_needs_is_granted_by_name() {
        let table = |there, missing: &[&'static str]| {
            let missing = missing.to_vec();
            [Table {
                name: "tidepool_hosts",
                there,
                missing,
            }]
        };
        let about = |tables: &[Table], create| {
            let mut findings = evaluate(tables, "\"app\"", create, "GRANT CREATE");
            let finding = findings.remove(0);
            assert_eq!(finding.subject, "table tidepool_hosts");
            (finding.severity, finding.fix)
        };
        assert_eq!(about(&table(true, &[]), false), (Severity::Ok, None));
        assert_eq!(about(&table(false, &[]), true), (Severity::Ok, None));
        assert_eq!(
            about(&table(true, &["UPDATE", "DELETE"]), true),
            (
                Severity::Problem,
                Some("GRANT UPDATE, DELETE ON TABLE tidepool_hosts TO \"app\";".to_owned())
            )
        );
        assert_eq!(
            about(&table(false, &[]), false),
            (Severity::Problem, Some("GRANT CREATE".to_owned()))
        );
    }
}

//! Plans go on: whichever host sees first that a step is due appends it. A step is
//! due when the pause is over and every host of the last one's regions has done that
//! and has no problem with it; so a plan survives the end of any host.

use std::time::Instant as Stopwatch;

use super::arrival::region_has_done;
use super::follow::HOST;
use super::progress::Progress;
use super::registry::Registry;
use super::rollout::Actor;
use crate::deployments::{Command, HostReport, LedgerError, Plan};
use crate::model::Operation;

/// What a plan waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waits {
    /// For its pause to end, microseconds since the Unix epoch.
    Until(i64),
    /// For hosts; why.
    ForHosts(String),
}

impl Registry {
    /// Begins the steps that are due.
    pub(super) async fn advance_plans(&self) -> Result<(), LedgerError> {
        let plans: Vec<(Operation, Plan)> = {
            let state = self.known.lock().await;
            let running = state.plans().filter(|(_, plan)| plan.runs());
            running
                .map(|(operation, plan)| (operation, plan.clone()))
                .collect()
        };
        if plans.is_empty() {
            return Ok(());
        }
        let hosts = self.ledger.hosts().await?;
        // Not this host's clock: one that is fast would end every pause.
        let now = self.ledger.now_micros().await?;
        for (operation, plan) in plans {
            if waits(operation, &plan, &hosts, now).is_some() {
                continue;
            }
            let command = Command::Advance {
                operation,
                plan: plan.number,
                step: plan.step + 1,
            };
            let by = Actor {
                name: HOST.to_owned(),
                source: HOST.to_owned(),
            };
            // Somebody else may have been first: then there is nothing to do.
            if let Err(error) = self
                .command(&command, &by, Stopwatch::now(), &Progress::untold())
                .await
            {
                tracing::warn!(%operation, %error, "a plan waits: its step cannot be kept");
            }
        }
        Ok(())
    }
}

/// What a plan that runs waits for. `None`: its next step is due.
pub fn waits(
    operation: Operation,
    plan: &Plan,
    hosts: &[HostReport],
    now_micros: i64,
) -> Option<Waits> {
    let due = plan.due_micros()?;
    if now_micros < due {
        return Some(Waits::Until(due));
    }
    for region in plan.current().iter().flat_map(|step| &step.regions) {
        let mut its = hosts.iter().filter(|host| host.regions.contains(region));
        let problem = its.find_map(|host| host.problem_with(region, operation));
        if let Some(problem) = problem {
            return Some(Waits::ForHosts(format!("{region}: {problem}")));
        }
        if !region_has_done(hosts, region, plan.since) {
            let why = format!("{region}: a host has not done the step yet, or none is there");
            return Some(Waits::ForHosts(why));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::deployments::{HostProblem, Outline};

    #[test]
    fn a_step_waits_for_its_time_and_for_the_hosts_of_the_last() {
        let plan = Plan {
            number: 5,
            steps: Outline::parse("a: 5%; b: 100%")
                .unwrap()
                .steps(&["a".to_owned(), "b".to_owned()]),
            pause: Duration::from_secs(1),
            step: 0,
            since: 5,
            since_micros: 0,
            revisions: BTreeMap::new(),
            ended: None,
        };
        let host = |region: &str, applied, problems: &[(Operation, &str)]| HostReport {
            host: String::new(),
            regions: vec![region.to_owned()],
            applied,
            problems: problems
                .iter()
                .map(|(operation, text)| HostProblem {
                    slot: Some((region.to_owned(), *operation)),
                    text: (*text).to_owned(),
                })
                .collect(),
        };
        let at = |micros, hosts: &[HostReport]| waits(Operation::Get, &plan, hosts, micros);
        let done = host("a", 5, &[]);
        assert_eq!(at(999_999, &[]), Some(Waits::Until(1_000_000)));
        assert_eq!(at(1_000_000, std::slice::from_ref(&done)), None);
        let for_hosts = |waits| matches!(waits, Some(Waits::ForHosts(_)));
        assert!(for_hosts(at(1_000_000, &[])));
        assert!(for_hosts(at(1_000_000, &[done.clone(), host("a", 4, &[])])));
        assert!(for_hosts(at(
            1_000_000,
            &[host("a", 5, &[(Operation::Get, "no secret")])]
        )));
        // The next step's are not asked, nor is what else goes wrong.
        let next = host("b", 4, &[(Operation::Get, "old")]);
        assert_eq!(at(1_000_000, &[done, next]), None);
        let other = host("a", 5, &[(Operation::Put, "old")]);
        assert_eq!(at(1_000_000, &[other]), None);
    }
}

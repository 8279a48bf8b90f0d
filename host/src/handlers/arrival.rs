//! When a deployment is live: every host of its regions has said that it has done what
//! the ledger says, and none that it cannot.

use std::time::{Duration, Instant as Stopwatch};

use super::progress::{Progress, Step};
use super::registry::Registry;
use super::rollout::Swapped;
use crate::deployments::HostReport;
use crate::model::Operation;

/// How long it is waited for other hosts to make a deployment true.
pub(super) const WAIT_FOR_HOSTS: Duration = Duration::from_secs(5);

impl Registry {
    /// Waits until the hosts of the slots' regions have done what the ledger says up
    /// to an entry, each with its time; at most for `wait`.
    pub(super) async fn wait_for_hosts(
        &self,
        operation: Operation,
        seq: u64,
        wait: Duration,
        slots: &mut [Swapped],
        start: Stopwatch,
        progress: &Progress,
    ) -> Vec<String> {
        let deadline = Stopwatch::now() + wait;
        loop {
            let hosts = match self.ledger.hosts().await {
                Ok(hosts) => hosts,
                Err(error) => {
                    tracing::warn!(%error, "other hosts cannot be seen now");
                    Vec::new()
                }
            };
            // One that cannot do it has done with it, and is not live.
            let problem = |host: &HostReport, region: &str| {
                let its = host.regions.iter().any(|it| it == region);
                let problem = host.problem_with(region, operation).filter(|_| its);
                problem.map(str::to_owned)
            };
            for slot in slots.iter_mut().filter(|slot| slot.live.is_none()) {
                let able = !hosts.iter().any(|it| problem(it, &slot.region).is_some());
                if able && region_has_done(&hosts, &slot.region, seq) {
                    let live = start.elapsed();
                    slot.live = Some(live);
                    if !slot.unchanged {
                        let (region, revision) = (slot.region.clone(), slot.revision);
                        progress.done(Step::Live { region, revision }, live);
                    }
                }
            }
            let left = slots.iter().any(|slot| {
                let mut its = hosts.iter().filter(|it| it.regions.contains(&slot.region));
                its.any(|host| host.applied < seq)
            });
            if !left || Stopwatch::now() >= deadline {
                let pairs = hosts
                    .iter()
                    .flat_map(|host| slots.iter().map(move |slot| (host, &slot.region)));
                return pairs
                    .filter_map(|(host, region)| problem(host, region))
                    .collect();
            }
            self.hosts_changed().await;
        }
    }
}

/// Whether all hosts of a region, and there is one, have done what the ledger says
/// up to an entry.
pub(super) fn region_has_done(hosts: &[HostReport], region: &str, seq: u64) -> bool {
    let mut its = hosts
        .iter()
        .filter(|host| host.regions.iter().any(|it| it == region));
    let mut some = false;
    its.all(|host| {
        some = true;
        host.applied >= seq
    }) && some
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_has_done_it_when_all_its_hosts_have() {
        let host = |region: &str, applied| HostReport {
            host: String::new(),
            regions: vec![region.to_owned()],
            applied,
            problems: Vec::new(),
        };
        let hosts = [host("a", 5), host("a", 4), host("b", 6)];
        assert!(region_has_done(&hosts, "a", 4));
        assert!(!region_has_done(&hosts, "a", 5));
        assert!(region_has_done(&hosts, "b", 6));
        assert!(!region_has_done(&hosts, "c", 0));
    }
}

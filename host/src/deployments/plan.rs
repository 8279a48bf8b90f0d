//! A deployment that goes on by itself: regions in an order, shares of their keys,
//! and a pause after each step. Pure: when a step is due is decided here, and
//! `handlers` looks at the clock and at the hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Share;

/// Steps that a plan may have.
pub const MAX_STEPS: usize = 100;

/// The longest pause between two steps: a week.
pub const MAX_PAUSE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The pause when none is named.
pub const USUAL_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Stands for the regions that the plan does not name.
const REST: &str = "*";

/// One step: from then on these regions give the revision this share of their keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The regions.
    pub regions: Vec<String>,
    /// The share.
    pub share: Share,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.regions.join(", "), self.share)
    }
}

/// Why a text is not a plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is no plan: {why}; write regions and shares in their order, as in \"us-east-1: 5%, 100%; *: 100%\""
)]
pub struct BadPlan {
    text: String,
    why: String,
}

/// A plan as somebody writes it: groups of regions, each with its shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline(Vec<(Vec<String>, Vec<Share>)>);

impl Outline {
    /// From `us-east-1: 5%, 100%; *: 100%`. The shares of a group grow; `*`, in a
    /// group of its own, is every region that is not named.
    ///
    /// # Errors
    ///
    /// See [`BadPlan`].
    pub fn parse(text: &str) -> Result<Outline, BadPlan> {
        let bad = |why: String| BadPlan {
            text: text.to_owned(),
            why,
        };
        let mut groups = Vec::new();
        let mut named = BTreeSet::new();
        let mut steps = 0;
        for group in text.split(';').map(str::trim) {
            let parts = group.split_once(':');
            let (regions, shares) =
                parts.ok_or_else(|| bad(format!("{group:?} has no \"REGIONS: SHARES\"")))?;
            let regions: Vec<_> = regions
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect();
            for region in &regions {
                if region.is_empty() || region == REST && regions.len() > 1 {
                    return Err(bad(format!("{group:?} needs names of regions, or * alone")));
                }
                if !named.insert(region.clone()) {
                    return Err(bad(format!("{region:?} is there twice")));
                }
            }
            let mut grown: Vec<Share> = Vec::new();
            for share in shares.split(',').map(str::trim) {
                let share = Share::parse(share)
                    .ok_or_else(|| bad(format!("{share:?} is not a share of 0.01% to 100%")))?;
                if grown.last().is_some_and(|last| *last >= share) {
                    return Err(bad(format!("the shares in {group:?} do not grow")));
                }
                grown.push(share);
            }
            steps += grown.len();
            groups.push((regions, grown));
        }
        match steps {
            1..=MAX_STEPS => Ok(Outline(groups)),
            _ => Err(bad(format!(
                "{steps} steps; at most {MAX_STEPS} are allowed"
            ))),
        }
    }

    /// The regions that it names, and whether it is for all others too.
    pub fn regions(&self) -> (Vec<String>, bool) {
        let all = self.0.iter().flat_map(|(regions, _)| regions);
        let (rest, named): (Vec<_>, Vec<_>) = all.cloned().partition(|name| name == REST);
        (named, !rest.is_empty())
    }

    /// The regions that it is for; without, all.
    pub fn wanted(&self) -> Option<Vec<String>> {
        match self.regions() {
            (_, true) => None,
            (named, false) => Some(named),
        }
    }

    /// Its steps, for those of its regions that are `wanted`; `*` is every one of
    /// them that it does not name.
    pub fn steps(&self, wanted: &[String]) -> Vec<Step> {
        let (named, _) = self.regions();
        let mut steps = Vec::new();
        for (regions, shares) in &self.0 {
            let is_rest = regions.iter().any(|name| name == REST);
            let has = |name: &&String| match is_rest {
                true => !named.contains(name),
                false => regions.contains(name),
            };
            let regions: Vec<_> = wanted.iter().filter(has).cloned().collect();
            if regions.is_empty() {
                continue;
            }
            steps.extend(shares.iter().map(|share| Step {
                regions: regions.clone(),
                share: *share,
            }));
        }
        steps
    }
}

/// How a plan ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Its last step began.
    Done,
    /// It was stopped, or stopped itself; why.
    Stopped(String),
}

/// A plan, as far as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The number of the entry that it began with, by which it is known.
    pub number: u64,
    /// Its steps.
    pub steps: Vec<Step>,
    /// The pause after each.
    pub pause: Duration,
    /// The step that began last, counted from 0.
    pub step: usize,
    /// The entry with which that began.
    pub since: u64,
    /// When, microseconds since the Unix epoch.
    pub since_micros: i64,
    /// The revision that it brings, by region, as far as it is there.
    pub revisions: BTreeMap<String, u64>,
    /// How it ended.
    pub ended: Option<Ending>,
}

impl Plan {
    /// Whether it goes on.
    pub fn runs(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether it is about a region, now or in a later step.
    pub fn is_about(&self, region: &str) -> bool {
        let mut regions = self.steps.iter().flat_map(|step| &step.regions);
        regions.any(|it| it == region)
    }

    /// The step that it has come to.
    pub fn current(&self) -> Option<&Step> {
        self.steps.get(self.step)
    }

    /// When its next step may begin, microseconds since the Unix epoch. `None`: it
    /// has none.
    pub fn due_micros(&self) -> Option<i64> {
        let has_more = self.runs() && self.step + 1 < self.steps.len();
        let pause = i64::try_from(self.pause.as_micros()).unwrap_or(i64::MAX);
        has_more.then(|| self.since_micros.saturating_add(pause))
    }

    /// A step has begun.
    pub(super) fn came_to(&mut self, step: usize, entry: u64, at: i64) {
        self.step = step;
        self.since = entry;
        self.since_micros = at;
        if step + 1 >= self.steps.len() {
            self.ended = Some(Ending::Done);
        }
    }

    /// It ends here, unless it has ended.
    pub(super) fn stop(&mut self, why: String) {
        self.ended.get_or_insert(Ending::Stopped(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let steps = Outline::parse(text).unwrap().steps(&wanted);
        steps.iter().map(Step::to_string).collect()
    }

    #[test]
    fn a_plan_is_regions_and_shares_in_their_order() {
        assert_eq!(
            shown("b: 5%,25 , 100%; *: 50%, 100%", &["a", "b", "c"]),
            [
                "b at 5%",
                "b at 25%",
                "b at 100%",
                "a, c at 50%",
                "a, c at 100%"
            ]
        );
        assert_eq!(shown("a, b: 100%", &["a", "b"]), ["a, b at 100%"]);
        // What runs it already is left out.
        assert_eq!(shown("a: 1%, 2%; b: 100%", &["b"]), ["b at 100%"]);
        assert_eq!(shown("a: 100%; *: 100%", &["a"]), ["a at 100%"]);
    }

    #[test]
    fn what_is_no_plan_is_told_why() {
        for (text, why) in [
            ("", "REGIONS: SHARES"),
            ("a", "REGIONS: SHARES"),
            ("a: 5%;", "REGIONS: SHARES"),
            (": 5%", "names of regions"),
            ("a,: 5%", "names of regions"),
            ("a, *: 5%", "* alone"),
            ("a: 5%; a: 100%", "twice"),
            ("*: 5%; *: 100%", "twice"),
            ("a: 0%", "not a share"),
            ("a:", "not a share"),
            ("a: 5%, 5%", "do not grow"),
            ("a: 50%, 5%", "do not grow"),
        ] {
            let error = Outline::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        let shares = |last: u32| -> String {
            let shares = (1..=last).map(|n| format!("{}.{:02}%", n / 100, n % 100));
            format!("a: {}", shares.collect::<Vec<_>>().join(","))
        };
        assert!(Outline::parse(&shares(100)).is_ok());
        let error = Outline::parse(&shares(101)).unwrap_err().to_string();
        assert!(error.contains("101 steps"), "{error}");
    }

    #[test]
    fn a_step_is_due_after_the_pause_and_the_last_ends_the_plan() {
        let wanted = ["a".to_owned()];
        let mut plan = Plan {
            number: 7,
            steps: Outline::parse("a: 5%, 100%").unwrap().steps(&wanted),
            pause: Duration::from_secs(2),
            step: 0,
            since: 7,
            since_micros: 1_000_000,
            revisions: BTreeMap::new(),
            ended: None,
        };
        assert!(plan.is_about("a") && !plan.is_about("b"));
        assert_eq!(plan.due_micros(), Some(3_000_000));
        plan.came_to(1, 9, 4_000_000);
        assert_eq!((plan.due_micros(), plan.runs()), (None, false));
        plan.stop("too late".to_owned());
        assert_eq!(plan.ended, Some(Ending::Done));
    }
}

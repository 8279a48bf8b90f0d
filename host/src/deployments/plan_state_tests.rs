//! What entries amount to: configurations, and plans.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::config::ConfigError;
use super::super::super::plan::{Ending, Outline};
use super::*;

impl Told {
    fn configures(
        &mut self,
        region: Option<&str>,
        name: &str,
        config: &[(&str, Option<&str>)],
    ) -> Result<bool, Refusal> {
        let command = Command::Deploy {
            candidate: candidate(name, config, self.state.seq),
            regions: region.and_then(only),
            share: Share::ALL,
        };
        self.wants(&command)
    }

    fn config(&self, region: &str) -> String {
        let slot = self.slot(region);
        let active = slot.revision(slot.active).unwrap();
        let shown = active
            .config
            .iter()
            .map(|(name, is)| format!("{name}={is}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    fn plans(&mut self, name: &str, text: &str) -> Result<bool, Refusal> {
        let command = Command::Plan {
            candidate: candidate(name, &[], self.state.seq),
            outline: Outline::parse(text).unwrap(),
            pause: Duration::from_secs(1),
        };
        self.wants(&command)
    }

    fn advances(&mut self, step: usize) -> bool {
        let plan = self.plan().number;
        let operation = Operation::Get;
        self.wants(&Command::Advance {
            operation,
            plan,
            step,
        })
        .unwrap()
    }

    fn plan(&self) -> &Plan {
        self.state.plan(Operation::Get).unwrap()
    }

    /// The canary's share, or whether the plan's component is active.
    fn share(&self, region: &str, name: &str) -> String {
        let slot = self.slot(region);
        let active = slot.revision(slot.active).unwrap();
        let runs = active.component
            == Component::Deployed {
                digest: digest(name),
                size: 7,
            };
        match slot.canary {
            Some((_, share)) => share.to_string(),
            None => format!("{runs}"),
        }
    }
}

#[test]
fn a_configuration_is_part_of_a_revision_and_is_carried_on() {
    let mut told = Told::new();
    assert!(
        told.configures(None, "x", &[("a", Some("1")), ("b", Some("2"))])
            .unwrap()
    );
    assert_eq!(told.config("a"), r#"a="1" b="2""#);
    // Another component has it too.
    assert!(told.configures(None, "y", &[]).unwrap());
    assert_eq!(told.config("a"), r#"a="1" b="2""#);
    // The same component with another is another revision.
    assert!(told.configures(Some("a"), "y", &[("a", None)]).unwrap());
    assert_eq!(
        (told.active(), told.config("a")),
        ((4, 3), r#"b="2""#.to_owned())
    );
    // As it is already.
    assert!(
        !told
            .configures(Some("a"), "y", &[("a", None), ("b", Some("2"))])
            .unwrap()
    );
    // A change is one of what each region has.
    assert!(told.configures(None, "y", &[("c", Some("3"))]).unwrap());
    assert_eq!(told.config("a"), r#"b="2" c="3""#);
    assert_eq!(told.config("b"), r#"a="1" b="2" c="3""#);
    let back = Command::Rollback {
        operation: Operation::Get,
        regions: only("a"),
        to: Some(2),
    };
    assert!(told.wants(&back).unwrap());
    assert_eq!(told.config("a"), r#"a="1" b="2""#);
}

#[test]
fn a_configuration_over_a_bound_is_refused_by_what_it_would_be() {
    let mut told = Told::new();
    let large = "x".repeat(4000);
    for name in ["a", "b", "c", "d"] {
        assert!(
            told.configures(Some("a"), "x", &[(name, Some(&large))])
                .unwrap()
        );
    }
    let more = [("e", Some(&*large))];
    let refused = told.configures(None, "x", &more).unwrap_err();
    assert_eq!(
        refused,
        Refusal::Config {
            region: "a".to_owned(),
            error: ConfigError::Size(20_005),
        }
    );
    assert!(told.configures(Some("b"), "x", &more).unwrap());
}

#[test]
fn a_region_that_joins_has_the_configuration_that_all_others_have() {
    let mut told = Told::new();
    assert!(told.configures(None, "x", &[("a", Some("1"))]).unwrap());
    let join = |region: &str| Event::Joined {
        region: region.to_owned(),
    };
    told.tell(&join("c"));
    assert_eq!(told.config("c"), r#"a="1""#);
    assert!(
        told.configures(Some("a"), "x", &[("a", Some("2"))])
            .unwrap()
    );
    told.tell(&join("d"));
    assert_eq!(
        (told.slot("d").active, told.config("d")),
        (1, String::new())
    );
}

#[test]
fn a_plan_goes_from_step_to_step_and_ends() {
    let mut told = Told::new();
    assert!(told.plans("x", "b: 5%, 50%, 100%; *: 100%").unwrap());
    let shares = |told: &Told| (told.share("a", "x"), told.share("b", "x"));
    let is = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(shares(&told), is("false", "5%"));
    assert_eq!(told.plan().due_micros(), Some(1_000_005));
    // Neither twice nor out of turn.
    assert!(!told.advances(0) && !told.advances(2));
    assert!(told.advances(1) && !told.advances(1));
    assert_eq!(shares(&told), is("false", "50%"));
    assert!(told.advances(2));
    assert_eq!(shares(&told), is("false", "true"));
    assert!(told.plan().runs());
    assert!(told.advances(3));
    assert_eq!(shares(&told), is("true", "true"));
    assert_eq!(told.plan().ended, Some(Ending::Done));
    assert_eq!(told.active(), (2, 2));
    // There is nothing to be done.
    assert!(!told.plans("x", "*: 100%").unwrap());
}

#[test]
fn while_a_plan_goes_on_its_regions_are_its_own() {
    let mut told = Told::new();
    assert!(told.plans("x", "a: 5%, 100%").unwrap());
    let runs = Refusal::PlanRuns {
        operation: Operation::Get,
        step: 1,
        steps: 2,
    };
    assert_eq!(told.plans("y", "b: 100%"), Err(runs.clone()));
    assert_eq!(told.configures(None, "y", &[]), Err(runs.clone()));
    let promote = Command::Promote {
        operation: Operation::Get,
        regions: None,
        share: Share::ALL,
    };
    assert_eq!(told.wants(&promote), Err(runs));
    // The other region is not its.
    assert!(told.configures(Some("b"), "y", &[]).unwrap());
    assert!(told.plan().runs());
}

#[test]
fn a_plan_is_stopped_by_whatever_takes_its_revision_out() {
    let abort = |regions: Option<Vec<String>>| Command::Abort {
        operation: Operation::Get,
        regions,
    };
    let stopped = |told: &Told| matches!(told.plan().ended, Some(Ending::Stopped(_)));
    // By hand, in the middle of a region and between two.
    for steps in ["a: 5%; b: 100%", "a: 100%; b: 100%"] {
        let mut told = Told::new();
        assert!(told.plans("x", steps).unwrap());
        assert!(told.wants(&abort(None)).unwrap());
        assert!(stopped(&told) && !told.advances(1), "{steps}");
        assert_eq!(told.share("b", "x"), "false");
        assert!(matches!(
            told.wants(&abort(None)),
            Err(Refusal::NoCanary { .. })
        ));
    }
    // By what is rolled back.
    let mut told = Told::new();
    assert!(told.plans("x", "a: 100%; b: 100%").unwrap());
    let back = Command::Rollback {
        operation: Operation::Get,
        regions: only("a"),
        to: None,
    };
    assert!(told.wants(&back).unwrap() && stopped(&told));
    // By itself; another revision's fault is not the plan's.
    let mut told = Told::new();
    assert!(told.configures(Some("b"), "old", &[]).unwrap());
    assert!(told.plans("x", "a: 5%, 100%; b: 100%").unwrap());
    let taken = |region: &str, revision| Event::TakenBack {
        operation: Operation::Get,
        region: region.to_owned(),
        revision,
        reason: "traps".to_owned(),
    };
    told.tell(&taken("b", 2));
    assert!(told.plan().runs());
    told.tell(&taken("a", 2));
    assert!(stopped(&told));
    assert!(!told.advances(1));
    let Some(Ending::Stopped(why)) = &told.plan().ended else {
        panic!("it goes on");
    };
    assert_eq!(why, "it took itself back in a: traps");
}

#[test]
fn revisions_share_what_they_are_configured_with() {
    let mut told = Told::new();
    assert!(told.configures(None, "x", &[("a", Some("1"))]).unwrap());
    assert!(told.configures(None, "y", &[]).unwrap());
    let slot = told.slot("a");
    let of = |number| &slot.revision(number).unwrap().config;
    assert!(Arc::ptr_eq(of(2), of(3)));
}

#[test]
fn an_abort_stops_the_plan_and_every_canary_that_was_meant() {
    let abort = |regions: Option<&[&str]>| Command::Abort {
        operation: Operation::Get,
        regions: regions.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
    };
    let stopped = |told: &Told| matches!(told.plan().ended, Some(Ending::Stopped(_)));
    // One of the regions has its canary behind it.
    let mut told = Told::new();
    assert!(told.plans("x", "a: 100%; b: 5%, 100%").unwrap() && told.advances(1));
    assert!(told.slot("b").canary.is_some());
    assert!(told.wants(&abort(Some(&["a", "b"]))).unwrap());
    assert!(stopped(&told) && told.slot("b").canary.is_none());
    // Somebody else's canary is in a region that is not the plan's.
    let mut told = Told::new();
    told.tell(&Event::Joined {
        region: "c".to_owned(),
    });
    let since = told.state.seq;
    let five = Share::parse("5%").unwrap();
    let canary = deploy(Some(&["c"]), "y", five, since);
    assert!(told.wants(&canary).unwrap());
    assert!(told.plans("x", "a: 100%; b: 100%").unwrap());
    assert!(told.wants(&abort(None)).unwrap());
    assert!(stopped(&told) && told.slot("c").canary.is_none());
    let none = told.wants(&abort(Some(&["c"])));
    assert!(matches!(none, Err(Refusal::NoCanary { .. })));
}

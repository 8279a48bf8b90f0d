//! What entries amount to, told one after another.

use std::sync::Arc;
use std::time::Duration;

use super::super::command::{Candidate, Command};
use super::super::config::{ConfigError, Setting};
use super::super::event::Share;
use super::super::event::encode;
use super::super::plan::{Ending, Outline};
use super::super::refusal::Refusal;
use super::*;

/// A ledger in memory.
struct Told {
    state: State,
}

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn deploy(regions: Option<&[&str]>, name: &str, share: Share, since: u64) -> Command {
    Command::Deploy {
        candidate: candidate(name, &[], since),
        regions: regions.map(|regions| regions.iter().map(|r| (*r).to_owned()).collect()),
        share,
    }
}

/// A component, and names of its configuration with texts.
fn candidate(name: &str, config: &[(&str, Option<&str>)], since: u64) -> Candidate {
    let config = config.iter().map(|(name, text)| {
        let setting = text.map(|text| Setting::Text(text.to_owned()));
        ((*name).to_owned(), setting)
    });
    Candidate {
        operation: Operation::Get,
        digest: digest(name),
        size: 7,
        config: config.collect(),
        note: String::new(),
        signature: None,
        since,
    }
}

fn only(region: &str) -> Option<Vec<String>> {
    Some(vec![region.to_owned()])
}

impl Told {
    fn new() -> Told {
        let mut told = Told {
            state: State::new(4),
        };
        for region in ["a", "b"] {
            told.tell(&Event::Joined {
                region: region.to_owned(),
            });
        }
        told
    }

    fn tell(&mut self, event: &Event) {
        let entry = Entry {
            seq: self.state.seq + 1,
            at: 5,
            id: 0,
            actor: "me".to_owned(),
            source: "here".to_owned(),
            body: encode(event),
        };
        self.state.apply(&entry).unwrap();
    }

    /// Whether something was to be done.
    fn wants(&mut self, command: &Command) -> Result<bool, Refusal> {
        let event = self.state.decide(command, |_| digest("built-in"))?;
        if let Some(event) = &event {
            self.tell(event);
        }
        Ok(event.is_some())
    }

    fn deploys(&mut self, regions: Option<&[&str]>, name: &str) -> bool {
        let since = self.state.seq;
        self.wants(&deploy(regions, name, Share::ALL, since))
            .unwrap()
    }

    fn slot(&self, region: &str) -> &SlotState {
        self.state.slot(region, Operation::Get).unwrap()
    }

    fn active(&self) -> (u64, u64) {
        (self.slot("a").active, self.slot("b").active)
    }
}

#[test]
fn a_deployment_is_the_next_revision_where_it_changes_something() {
    let mut told = Told::new();
    assert_eq!(told.active(), (1, 1));
    assert!(!told.deploys(None, "built-in"));
    assert!(told.deploys(Some(&["a"]), "x"));
    assert_eq!(told.active(), (2, 1));
    // One region has it already.
    assert!(told.deploys(None, "x"));
    assert_eq!(told.active(), (2, 2));
    assert!(!told.deploys(None, "x"));
    assert_eq!(told.state.components().len(), 1);
    let unknown = deploy(Some(&["c"]), "x", Share::ALL, 99);
    assert!(matches!(
        told.wants(&unknown),
        Err(Refusal::UnknownRegion { name, known }) if name == "c" && known == ["a", "b"]
    ));
}

#[test]
fn of_two_at_once_one_wins_and_the_other_is_told() {
    let mut told = Told::new();
    let since = told.state.seq;
    assert!(
        told.wants(&deploy(Some(&["a"]), "x", Share::ALL, since))
            .unwrap()
    );
    let other = told.wants(&deploy(None, "y", Share::ALL, since));
    assert!(matches!(other, Err(Refusal::Overtaken { region, active: 2, .. }) if region == "a"));
    assert_eq!(told.active(), (2, 1));
    // In another slot it is no matter.
    assert!(
        told.wants(&deploy(Some(&["b"]), "y", Share::ALL, since))
            .unwrap()
    );
}

#[test]
fn a_canary_grows_is_promoted_or_is_withdrawn() {
    let mut told = Told::new();
    let five = Share::parse("5%").unwrap();
    let since = told.state.seq;
    assert!(told.wants(&deploy(None, "x", five, since)).unwrap());
    assert_eq!(told.active(), (1, 1));
    assert_eq!(told.slot("a").canary, Some((2, five)));
    let since = told.state.seq;
    assert!(matches!(
        told.wants(&deploy(Some(&["a"]), "y", Share::ALL, since)),
        Err(Refusal::CanaryRuns { canary: 2, .. })
    ));
    let promote = |regions, share| Command::Promote {
        operation: Operation::Get,
        regions,
        share,
    };
    let half = Share::parse("50").unwrap();
    assert!(told.wants(&promote(None, half)).unwrap());
    assert!(!told.wants(&promote(None, half)).unwrap());
    assert!(matches!(
        told.wants(&promote(None, five)),
        Err(Refusal::Shrinks { .. })
    ));
    assert!(told.wants(&promote(only("a"), Share::ALL)).unwrap());
    assert_eq!(told.active(), (2, 1));
    assert!(matches!(
        told.wants(&promote(only("a"), Share::ALL)),
        Err(Refusal::NoCanary { .. })
    ));
    let abort = Command::Abort {
        operation: Operation::Get,
        regions: None,
    };
    assert!(told.wants(&abort).unwrap());
    assert_eq!((told.active(), told.slot("b").canary), ((2, 1), None));
    assert!(matches!(told.wants(&abort), Err(Refusal::NoCanary { .. })));
}

#[test]
fn a_rollback_goes_to_what_was_good_or_to_what_is_named() {
    let mut told = Told::new();
    for name in ["x", "y", "z"] {
        told.deploys(Some(&["a"]), name);
    }
    told.tell(&Event::TakenBack {
        operation: Operation::Get,
        region: "a".to_owned(),
        revision: 4,
        reason: "it trapped".to_owned(),
    });
    assert_eq!((told.slot("a").active, told.slot("a").replaced), (3, None));
    let bad = told.slot("a").revision(4).unwrap();
    assert_eq!(bad.taken_back.as_deref(), Some("it trapped"));
    let back = |to| Command::Rollback {
        operation: Operation::Get,
        regions: only("a"),
        to,
    };
    assert!(told.wants(&back(None)).unwrap());
    assert_eq!(told.slot("a").active, 2);
    // Somebody knows better.
    assert!(told.wants(&back(Some(4))).unwrap());
    assert_eq!(told.slot("a").active, 4);
    assert_eq!(told.slot("a").revision(4).unwrap().taken_back, None);
    assert!(!told.wants(&back(Some(4))).unwrap());
    assert!(matches!(
        told.wants(&back(Some(9))),
        Err(Refusal::NoSuchRevision { .. })
    ));
    let everywhere = Command::Rollback {
        operation: Operation::Get,
        regions: None,
        to: None,
    };
    // One of them has nothing to go back to: none goes.
    assert!(told.wants(&everywhere).is_err());
}

#[test]
fn a_canary_that_is_taken_back_leaves_what_is_active() {
    let mut told = Told::new();
    let since = told.state.seq;
    let five = Share::parse("5%").unwrap();
    told.wants(&deploy(None, "x", five, since)).unwrap();
    told.tell(&Event::TakenBack {
        operation: Operation::Get,
        region: "a".to_owned(),
        revision: 2,
        reason: "slow".to_owned(),
    });
    assert_eq!((told.active(), told.slot("a").canary), ((1, 1), None));
    assert_eq!(told.slot("b").canary, Some((2, five)));
}

#[test]
fn what_is_taken_back_gives_way_to_what_it_replaced() {
    let mut told = Told::new();
    told.deploys(Some(&["a"]), "x");
    told.wants(&Command::Rollback {
        operation: Operation::Get,
        regions: only("a"),
        to: None,
    })
    .unwrap();
    let since = told.state.seq;
    let five = Share::parse("5%").unwrap();
    told.wants(&deploy(Some(&["a"]), "y", five, since)).unwrap();
    told.wants(&Command::Abort {
        operation: Operation::Get,
        regions: None,
    })
    .unwrap();
    // Neither the one that was rolled back nor the one that was only a canary.
    assert!(told.deploys(Some(&["a"]), "z"));
    assert_eq!(
        (told.slot("a").active, told.slot("a").replaced),
        (4, Some(1))
    );
    // And so does a rollback go.
    assert_eq!(told.slot("a").before().unwrap().number, 1);
    told.tell(&Event::TakenBack {
        operation: Operation::Get,
        region: "a".to_owned(),
        revision: 4,
        reason: "slow".to_owned(),
    });
    assert_eq!((told.slot("a").active, told.slot("a").replaced), (1, None));
}

#[test]
fn a_slot_remembers_some_revisions_and_always_what_it_runs() {
    let mut told = Told::new();
    told.deploys(Some(&["a"]), "0");
    told.wants(&Command::Rollback {
        operation: Operation::Get,
        regions: only("a"),
        to: Some(1),
    })
    .unwrap();
    let five = Share::parse("5%").unwrap();
    for name in 1..20 {
        let since = told.state.seq;
        let canary = deploy(Some(&["a"]), &name.to_string(), five, since);
        assert!(told.wants(&canary).unwrap());
        assert!(told.slot("a").revision(1).is_some());
        assert_eq!(told.slot("a").canary, Some((name + 2, five)));
        told.wants(&Command::Abort {
            operation: Operation::Get,
            regions: None,
        })
        .unwrap();
    }
    let numbers: Vec<_> = told.slot("a").revisions.iter().map(|r| r.number).collect();
    assert_eq!(numbers, [1, 19, 20, 21]);
    assert_eq!(told.state.components().len(), 3);
}

#[test]
fn a_region_that_joins_runs_what_the_others_agree_on() {
    let mut told = Told::new();
    told.deploys(None, "x");
    told.tell(&Event::Joined {
        region: "c".to_owned(),
    });
    assert_eq!(told.slot("c").active, 2);
    told.deploys(Some(&["a"]), "y");
    for _ in 0..2 {
        told.tell(&Event::Joined {
            region: "d".to_owned(),
        });
    }
    assert_eq!(told.slot("d").active, 1);
    let put = told.state.slot("c", Operation::Put).unwrap();
    assert_eq!(put.revisions.len(), 1);
}

#[test]
fn a_token_is_kept_and_taken_back() {
    let mut told = Told::new();
    let scopes = vec!["read".parse().unwrap()];
    let (_, token) = TokenRecord::create("ci", scopes, None, "me", 1).unwrap();
    let create = Command::CreateToken {
        token: token.clone(),
    };
    assert!(told.wants(&create).unwrap());
    assert!(!told.wants(&create).unwrap());
    let other = TokenRecord {
        name: "other".to_owned(),
        ..token.clone()
    };
    let other = Command::CreateToken { token: other };
    assert!(matches!(
        told.wants(&other),
        Err(Refusal::TokenExists { .. })
    ));
    assert_eq!(told.state.token(&token.id), Some(&token));
    let revoke = |id: &str| Command::RevokeToken { id: id.to_owned() };
    assert!(told.wants(&revoke(&token.id)).unwrap());
    assert!(!told.wants(&revoke(&token.id)).unwrap());
    assert_eq!(told.state.token(&token.id).unwrap().revoked_at, Some(5));
    assert!(matches!(
        told.wants(&revoke("x")),
        Err(Refusal::NoSuchToken { .. })
    ));
}

#[test]
fn an_entry_of_the_future_changes_nothing() {
    let mut told = Told::new();
    let before = told.state.clone();
    let entry = Entry {
        seq: 3,
        at: 0,
        id: 0,
        actor: String::new(),
        source: String::new(),
        body: r#"{"type":"teleported"}"#.to_owned(),
    };
    assert_eq!(told.state.apply(&entry), Err(FromTheFuture { seq: 3 }));
    assert_eq!(told.state, before);
}

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

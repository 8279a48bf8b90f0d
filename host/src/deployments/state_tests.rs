//! What entries amount to, told one after another.

use super::super::command::{Candidate, Command};
use super::super::config::Setting;
use super::super::event::Share;
use super::super::event::encode;
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
    // Unless it is the very same.
    assert!(
        !told
            .wants(&deploy(Some(&["a"]), "x", Share::ALL, since))
            .unwrap()
    );
    // In another slot it is no matter.
    assert!(
        told.wants(&deploy(Some(&["b"]), "y", Share::ALL, since))
            .unwrap()
    );
}

#[test]
fn a_signature_that_comes_later_makes_another_revision() {
    let mut told = Told::new();
    let signed = |signature: Option<&str>| Command::Deploy {
        candidate: Candidate {
            signature: signature.map(str::to_owned),
            ..candidate("x", &[], 99)
        },
        regions: only("a"),
        share: Share::ALL,
    };
    assert!(told.wants(&signed(None)).unwrap());
    assert!(!told.wants(&signed(None)).unwrap());
    assert!(told.wants(&signed(Some("by ann"))).unwrap());
    assert_eq!(told.active(), (3, 1));
    assert!(!told.wants(&signed(Some("by ann"))).unwrap());
    assert!(!told.wants(&signed(None)).unwrap());
    assert!(told.wants(&signed(Some("by bob"))).unwrap());
    // What is in the binary needs none.
    let built_in = Command::Deploy {
        candidate: Candidate {
            signature: Some("by ann".to_owned()),
            ..candidate("built-in", &[], 99)
        },
        regions: only("b"),
        share: Share::ALL,
    };
    assert!(!told.wants(&built_in).unwrap());
}

#[test]
fn the_record_tells_of_configuration_and_signature_and_of_no_secret() {
    let event = Event::Deployed {
        operation: Operation::Get,
        regions: vec!["a".to_owned()],
        digest: digest("x"),
        size: 7,
        share: Share::ALL,
        note: String::new(),
        signature: Some("c2lnbmVk".to_owned()),
        config: candidate("x", &[("greeting", Some("moin")), ("old", None)], 0).config,
    };
    let summary = event.summary();
    assert!(
        summary.ends_with(" to a at 100%, signed, greeting=\"moin\", without old"),
        "{summary}"
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

#[path = "plan_state_tests.rs"]
mod plans;

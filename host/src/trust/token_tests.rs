//! Tests of `token`.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_700_000_000_000_000;

fn create(scopes: &[&str]) -> (String, TokenRecord) {
    let scopes = scopes.iter().map(|text| text.parse().unwrap()).collect();
    let (text, record) =
        TokenRecord::create("ci", scopes, Some(NOW + 10), "ann@laptop", NOW).unwrap();
    (text.expose().to_owned(), record)
}

fn deploy<'a>(regions: &'a [&'a str], operation: Operation) -> Action<'a> {
    Action::Deploy { regions, operation }
}

#[test]
fn a_token_is_known_again_by_its_record_alone() {
    let (text, record) = create(&["read"]);
    assert_eq!(text.len(), 3 + 8 + 1 + 43);
    let kept = serde_json::to_string(&record).unwrap();
    let secret = text.rsplit_once(&format!("{}_", record.id)).unwrap().1;
    assert!(!kept.contains(secret), "{kept}");
    let record: TokenRecord = serde_json::from_str(&kept).unwrap();
    let find = |id: &str| (id == record.id).then_some(&record);
    assert_eq!(verify(&text, find, NOW).unwrap(), &record);
}

#[test]
fn no_two_tokens_are_alike_and_none_is_shown() {
    let scopes = || vec![Scope::Read];
    let (one, first) = TokenRecord::create("a", scopes(), None, "b", NOW).unwrap();
    let (other, second) = TokenRecord::create("a", scopes(), None, "b", NOW).unwrap();
    assert!(one != other && first.hash != second.hash);
    assert!(!format!("{one:?}").contains("tp_"));
}

#[test]
fn only_who_has_the_secret_learns_that_a_token_has_ended() {
    let (text, mut record) = create(&["read"]);
    let (other, _) = create(&["read"]);
    let forged = format!("tp_{}_{}", record.id, &other[12..]);
    let at = |text: &str, record: &TokenRecord, now| {
        verify(text, |_| Some(record), now).map(|_| ()).unwrap_err()
    };
    let id = record.id.clone();
    assert_eq!(at(&forged, &record, NOW), TokenError::Unknown);
    assert_eq!(at(&forged, &record, NOW + 10), TokenError::Unknown);
    let expired = TokenError::Expired { id: id.clone() };
    assert_eq!(at(&text, &record, NOW + 10), expired);
    record.revoked_at = Some(NOW);
    assert_eq!(at(&forged, &record, NOW), TokenError::Unknown);
    assert_eq!(at(&text, &record, NOW), TokenError::Revoked { id });
    let nobody = verify(&text, |_| None, NOW).unwrap_err();
    assert_eq!(nobody, TokenError::Unknown);
}

#[test]
fn what_is_no_token_is_not_looked_up() {
    let (text, record) = create(&["read"]);
    let cut = &text[..text.len() - 1];
    let long = format!("{text}A");
    let upper = text.replacen(&record.id, &"ABCDEF01"[..8], 1);
    for wrong in ["", "tp_", "hello", cut, &long, &upper, &text[3..]] {
        let found = verify(wrong, |_| panic!("looked up {wrong}"), NOW);
        assert_eq!(found.unwrap_err(), TokenError::Malformed);
    }
}

#[test]
fn a_token_that_cannot_work_is_not_made() {
    let make = |name: &str, scopes, end| TokenRecord::create(name, scopes, end, "a", NOW);
    let read = || vec![Scope::Read];
    assert_eq!(make(" ", read(), None).unwrap_err(), CreateError::Name);
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(make(&long, read(), None).unwrap_err(), CreateError::Name);
    assert_eq!(
        make("a", Vec::new(), None).unwrap_err(),
        CreateError::Scopes
    );
    let many = vec![Scope::Read; MAX_SCOPES + 1];
    assert_eq!(make("a", many, None).unwrap_err(), CreateError::Scopes);
    let past = make("a", read(), Some(NOW)).unwrap_err();
    assert_eq!(past, CreateError::Expired);
}

#[test]
fn a_scope_reads_back_as_it_is_written() {
    for text in [
        "read",
        "admin",
        "deploy",
        "deploy:us-east-1",
        "deploy:*:get",
        "deploy:eu:hydrate",
    ] {
        assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
    }
    assert_eq!("deploy:*".parse::<Scope>().unwrap().to_string(), "deploy");
    for text in [
        "",
        "write",
        "read:us",
        "admin:",
        "deploy:",
        "deploy:US",
        "deploy::get",
        "deploy:us:",
        "deploy:us:got",
        "deploy:us:get:x",
        "Deploy",
    ] {
        let error = text.parse::<Scope>().unwrap_err().to_string();
        assert!(error.contains("deploy:REGION"), "{error}");
    }
}

#[test]
fn admin_is_everything_and_deploying_is_looking_too() {
    let of = |text: &str| text.parse::<Scope>().unwrap();
    let everything = [
        Action::Read,
        deploy(&["us"], Operation::Get),
        deploy(&[], Operation::Get),
        Action::Admin,
    ];
    let allowed = |text: &str| everything.map(|action| of(text).allows(&action));
    assert_eq!(allowed("admin"), [true, true, true, true]);
    assert_eq!(allowed("deploy"), [true, true, true, false]);
    assert_eq!(allowed("deploy:*:get"), [true, true, true, false]);
    assert_eq!(allowed("deploy:*:put"), [true, false, false, false]);
    assert_eq!(allowed("deploy:us"), [true, true, false, false]);
    assert_eq!(allowed("deploy:us:get"), [true, true, false, false]);
    assert_eq!(allowed("deploy:us:put"), [true, false, false, false]);
    assert_eq!(allowed("deploy:eu"), [true, false, false, false]);
    assert_eq!(allowed("read"), [true, false, false, false]);
}

#[test]
fn every_region_of_a_deployment_must_be_allowed() {
    let both = &["us", "eu"][..];
    assert!(
        !"deploy:us"
            .parse::<Scope>()
            .unwrap()
            .allows(&deploy(both, Operation::Get))
    );
    let (_, record) = create(&["deploy:us", "deploy:eu:get"]);
    assert!(record.allows(&deploy(both, Operation::Get)));
    assert!(!record.allows(&deploy(both, Operation::Put)));
    assert!(!record.allows(&deploy(&["us", "eu", "ap"], Operation::Get)));
    assert!(!record.allows(&deploy(&[], Operation::Get)));
    assert!(record.allows(&Action::Read) && !record.allows(&Action::Admin));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}", tail in "[A-Za-z0-9_-]{0,50}") {
        let _ = text.parse::<Scope>();
        for token in [text.clone(), format!("tp_{text}"), format!("tp_01234567_{tail}")] {
            prop_assert!(verify(&token, |_| None, NOW).is_err());
        }
    }
}

//! What people see who look into a cache.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidepool::cache::{Cache, Held, Holding, SHOWN_BYTES};
use tidepool::model::{Key, Row, State, Value, Version};

use super::{lease, row, state, store};

async fn shown(cache: &dyn Cache) -> BTreeMap<String, Holding> {
    let holdings = cache.holdings(usize::MAX).await.unwrap();
    let count = holdings.len();
    let by_key = holdings.into_iter().map(|it| (it.key.clone(), it));
    let shown: BTreeMap<_, _> = by_key.collect();
    assert_eq!(shown.len(), count, "a key is there twice");
    shown
}

pub async fn what_it_holds_can_be_seen(cache: &dyn Cache) {
    let (value, gone) = (row("seen/é *", 1, Some("v")), row("seen/gone", 2, None));
    let long = Row {
        key: Key::new("seen/long").unwrap(),
        version: Version(3),
        value: Some(Value {
            bytes: Bytes::from(vec![b'x'; 4 * SHOWN_BYTES]),
            content_type: Some("y".repeat(255).into()),
            expires_at: None,
        }),
    };
    for row in [&value, &gone, &long] {
        assert_eq!(store(cache, row).await, 1);
    }
    let absent = lease(cache, "seen/absent").await;
    assert!(cache.fill(absent, &State::Absent).await.unwrap());
    let leased = lease(cache, "seen/leased").await;

    let shown = shown(cache).await;
    let held = |key: &str| shown[key].held.clone();
    assert_eq!(held("seen/é *"), Some(Held::State(state(&value))));
    assert_eq!(held("seen/gone"), Some(Held::State(state(&gone))));
    assert_eq!(held("seen/absent"), Some(Held::State(State::Absent)));
    assert_eq!(held("seen/leased"), Some(Held::Lease));
    let Some(Held::State(State::Live { version, value })) = held("seen/long") else {
        panic!("{:?}", shown["seen/long"])
    };
    assert_eq!(
        (version, value.content_type),
        (Version(3), long.value.unwrap().content_type)
    );
    // Longer than what is shown, so that it can be said.
    assert!(value.bytes.len() > SHOWN_BYTES && value.bytes.iter().all(|byte| *byte == b'x'));
    for key in ["seen/gone", "seen/absent", "seen/leased"] {
        assert!(shown[key].left.is_some(), "{key} is there for ever");
    }
    for most in 0..3 {
        assert_eq!(cache.holdings(most).await.unwrap().len(), most);
    }
    cache.release(leased);
}

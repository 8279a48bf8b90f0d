//! The rules of a batch, and that nothing is forgotten or counted twice.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::Tags;

const WIDE: Bounds = Bounds {
    queue: 1000,
    queue_bytes: 1 << 20,
    batch: 100,
    batch_bytes: 1 << 20,
    batch_keys: 100,
    beside: Duration::ZERO,
};

fn append(key: &str, write_id: i64, condition: Condition) -> Append {
    Append {
        key: Key::new(key).unwrap(),
        change: Change::Put {
            value: Bytes::from_static(b"x"),
            content_type: None,
            ttl: None,
        },
        condition,
        write_id,
        since: Instant::now(),
        deadline: Instant::now() + Duration::from_secs(60),
        unclear: None,
        reply: oneshot::channel().0,
    }
}

fn plain(key: &str, write_id: i64) -> Append {
    append(key, write_id, Condition::None)
}

fn conditional(key: &str, write_id: i64) -> Append {
    append(key, write_id, Condition::IfNoneMatch(Tags::Any))
}

fn take(queue: &mut Queue) -> Vec<i64> {
    let batch = queue.take(Instant::now(), &mut Vec::new());
    ids(&batch.unwrap_or_default())
}

fn ids(batch: &[Append]) -> Vec<i64> {
    batch.iter().map(|append| append.write_id).collect()
}

fn done(queue: &mut Queue, keys: &[&str]) {
    let keys: Vec<Key> = keys.iter().map(|key| Key::new(key).unwrap()).collect();
    queue.done(&keys);
}

#[tokio::test]
async fn a_key_is_in_one_batch_at_a_time() {
    let mut queue = Queue::new(WIDE);
    queue.push(plain("a", 1)).unwrap();
    assert_eq!(take(&mut queue), [1]);
    queue.push(plain("a", 2)).unwrap();
    queue.push(plain("b", 3)).unwrap();
    queue.push(plain("a", 4)).unwrap();
    assert_eq!(take(&mut queue), [3]);
    assert_eq!(queue.due(), None);
    done(&mut queue, &["a"]);
    assert_eq!(take(&mut queue), [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_meanwhile_waits_a_while_for_the_batch_under_way() {
    let beside = Duration::from_millis(5);
    let bounds = Bounds {
        beside,
        batch: 3,
        ..WIDE
    };
    let mut queue = Queue::new(bounds);
    queue.push(plain("a", 1)).unwrap();
    // Nothing is under way: nothing waits.
    assert_eq!(take(&mut queue), [1]);
    queue.push(plain("b", 2)).unwrap();
    assert!(take(&mut queue).is_empty());
    assert_eq!(queue.due(), Some(Instant::now() + beside));
    tokio::time::advance(beside).await;
    assert_eq!(take(&mut queue), [2]);
    queue.push(plain("c", 3)).unwrap();
    assert!(take(&mut queue).is_empty());
    done(&mut queue, &["a"]);
    assert!(take(&mut queue).is_empty(), "b is under way");
    done(&mut queue, &["b"]);
    assert_eq!(take(&mut queue), [3]);
    // Enough for a full one goes at once.
    for (key, id) in [("d", 4), ("e", 5), ("f", 6)] {
        assert!(take(&mut queue).is_empty());
        queue.push(plain(key, id)).unwrap();
    }
    assert_eq!(take(&mut queue), [4, 5, 6]);
}

#[tokio::test]
async fn a_condition_comes_first_of_its_key() {
    let mut queue = Queue::new(WIDE);
    for append in [
        conditional("a", 1),
        plain("a", 2),
        conditional("a", 3),
        plain("a", 4),
        conditional("b", 5),
    ] {
        queue.push(append).unwrap();
    }
    assert_eq!(take(&mut queue), [1, 2, 5]);
    done(&mut queue, &["a", "b"]);
    assert_eq!(take(&mut queue), [3, 4]);
}

#[tokio::test]
async fn an_id_comes_first_of_its_key() {
    let mut queue = Queue::new(WIDE);
    for (key, write_id) in [
        ("a", -1),
        ("a", 2),
        ("a", -1),
        ("a", -4),
        ("b", 5),
        ("b", -6),
    ] {
        queue.push(plain(key, write_id)).unwrap();
    }
    assert_eq!(take(&mut queue), [-1, 2, 5]);
    done(&mut queue, &["a", "b"]);
    assert_eq!(take(&mut queue), [-1, -6]);
    done(&mut queue, &["a", "b"]);
    assert_eq!(take(&mut queue), [-4]);
}

#[tokio::test]
async fn bounds_hold_and_one_big_append_is_let_in() {
    let one = plain("a", 0).bytes();
    let bounds = Bounds {
        queue: 4,
        queue_bytes: 3 * one,
        batch: 2,
        batch_bytes: 1,
        batch_keys: 9,
        beside: Duration::ZERO,
    };
    let mut queue = Queue::new(Bounds {
        queue_bytes: 1,
        ..bounds
    });
    queue.push(plain("a", 1)).unwrap();
    assert!(queue.push(plain("a", 2)).unwrap_err().contains("try again"));
    assert_eq!(take(&mut queue), [1]);
    queue.push(plain("a", 2)).unwrap();

    let mut queue = Queue::new(Bounds {
        batch_bytes: 1 << 20,
        ..bounds
    });
    for id in 0..3 {
        queue.push(plain("a", id)).unwrap();
    }
    assert!(queue.push(plain("b", 3)).is_err());
    assert_eq!(take(&mut queue), [0, 1]);
    done(&mut queue, &["a"]);
    assert_eq!(take(&mut queue), [2]);

    let mut queue = Queue::new(bounds);
    queue.push(plain("a", 1)).unwrap();
    queue.push(plain("b", 2)).unwrap();
    assert_eq!(take(&mut queue), [1], "a batch is full by its bytes");
    assert_eq!(take(&mut queue), [2]);
}

#[tokio::test]
async fn what_has_waited_too_long_is_not_sent() {
    let mut queue = Queue::new(WIDE);
    queue.push(plain("a", 1)).unwrap();
    queue.push(plain("b", 2)).unwrap();
    let mut late = Vec::new();
    let later = Instant::now() + Duration::from_secs(61);
    assert!(queue.take(later, &mut late).is_none());
    assert_eq!(ids(&late), [1, 2]);
    assert_eq!((queue.count, queue.bytes), (0, 0));
    queue.push(plain("a", 3)).unwrap();
    assert_eq!(take(&mut queue), [3]);
}

#[tokio::test]
async fn an_append_is_taken_back_only_while_it_waits() {
    let mut queue = Queue::new(WIDE);
    let key = Key::new("a").unwrap();
    let first = queue.push(plain("a", -1)).unwrap();
    // Another with the same id, as when a client sends a write again.
    let second = queue.push(plain("a", -1)).unwrap();
    let third = queue.push(plain("a", 3)).unwrap();
    assert!(queue.take_back(&key, second));
    assert!(!queue.take_back(&key, second));
    assert_eq!(take(&mut queue), [-1, 3]);
    assert!(!queue.take_back(&key, first) && !queue.take_back(&key, third));
    done(&mut queue, &["a"]);
    let fourth = queue.push(plain("a", 4)).unwrap();
    assert!(queue.take_back(&key, fourth));
    assert_eq!(queue.due(), None);
    assert_eq!((queue.count, queue.bytes), (0, 0));
}

proptest! {
    #[test]
    fn every_append_goes_once_and_in_order(
        pushes in prop::collection::vec((0u8..4, any::<bool>(), any::<bool>()), 1..60),
        batch in 1usize..6,
        batch_keys in 1usize..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let mut queue = Queue::new(Bounds { batch, batch_keys, ..WIDE });
        let mut expected: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for (id, (key, has_condition, has_id)) in (1i64..).zip(pushes) {
            let (key, id) = (format!("k{key}"), if has_id { -id } else { id });
            let append = if has_condition { conditional(&key, id) } else { plain(&key, id) };
            queue.push(append).unwrap();
            expected.entry(key).or_default().push(id);
        }
        let mut got: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        while let Some(taken) = queue.take(Instant::now(), &mut Vec::new()) {
            prop_assert!(taken.len() <= batch);
            let mut seen: HashSet<Key> = HashSet::new();
            for append in &taken {
                let first = seen.insert(append.key.clone());
                prop_assert!(first || (append.condition == Condition::None && !append.has_id()));
                got.entry(append.key.to_string()).or_default().push(append.write_id);
            }
            prop_assert!(seen.len() <= batch_keys);
            queue.done(&seen);
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!((queue.count, queue.bytes, queue.busy.len()), (0, 0, 0));
    }
}

//! Replacing handlers while they serve: by command, across restarts, under
//! load, and from a watched folder; and what is seen of it meanwhile.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

mod at_hand;
mod command;
mod configuration;
mod logs;
mod plans;
mod progress;
mod restart;
mod rollout;
mod tokens;
mod traffic;
mod watch;

use tidepool_tests::{Plane, built};

/// Deploys need paths as text.
fn fixture(name: &str) -> String {
    built::fixture(name).display().to_string()
}

/// Which of the tagged handlers answers GET in a region; `None`: another one.
async fn tag(plane: &Plane) -> Option<String> {
    let answer = plane.get("/kv/some-key").send().await;
    let tag = answer.header("x-tag")?.to_owned();
    assert_eq!(answer.text(), format!("{tag}:some-key"));
    Some(tag)
}

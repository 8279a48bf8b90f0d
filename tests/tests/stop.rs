//! Stopping: what was begun is finished and acknowledged, then the server ends
//! well; a second signal does not wait for that.

#![allow(clippy::unwrap_used)] // In a test a panic is the report.

use tidepool_tests::wire::Wire;
use tidepool_tests::{Plane, Server};

/// A PUT whose head the server has read and whose body it waits for.
async fn begun(plane: &Plane) -> Wire {
    let mut wire = Wire::connect(plane.address()).await;
    wire.send(
        "PUT /kv/begun?raw HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\
         expect: 100-continue\r\n\r\n",
    )
    .await;
    wire.answer().await.expect(100);
    wire.send("half").await;
    wire
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun() {
    let server = Server::start().await;
    let setup = server.setup().clone();
    let mut wire = begun(server.region("us-west-1")).await;
    server.signal("TERM").await;
    server.log().line(&["finishing what was begun"]).await;
    wire.send("done").await;
    let version = wire.answer().await.expect(201).version();
    wire.closed().await;
    // One signal was enough: a second would have it end with 1.
    let ended = server.ended().await;
    assert_eq!(ended.code(), Some(0));

    let server = setup.start().await;
    let answer = server.region("eu-west-1").get("/kv/begun").send().await;
    assert_eq!(answer.version(), version);
    assert_eq!(answer.text(), "halfdone");
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let server = Server::start().await;
    let wire = begun(server.region("us-west-1")).await;
    server.signal("INT").await;
    server.log().line(&["finishing what was begun"]).await;
    assert_eq!(server.stop().await.code(), Some(1));
    wire.closed().await;
}

//! Answers that come line by line, as JSON (`application/x-ndjson`): how they are
//! opened, and what keeps them bounded. An empty line now and then tells the
//! client that the host is there, and the host, in time, that the client is not.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::respond::{Answer, Kind, Problem};

/// The type of such an answer.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// Answers that may be open at once. A client that has stopped reading holds one
/// until `http.idle_timeout` has passed without a byte taken; one whose machine is
/// gone, until the system gives the connection up.
const MAX_STREAMS: usize = 64;

/// Longest silence of such an answer: then an empty line is sent. A third of
/// `http.idle_timeout` where that is shorter, so that a quiet one is not cut.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The body of an answer.
pub enum OutBody {
    /// Known as a whole.
    Whole(Full<Bytes>),
    /// Comes line by line.
    Lines(Box<LinesBody>),
}

impl From<Bytes> for OutBody {
    fn from(bytes: Bytes) -> OutBody {
        OutBody::Whole(Full::new(bytes))
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            OutBody::Whole(body) => Pin::new(body).poll_frame(cx),
            OutBody::Lines(body) => body
                .poll_lines(cx)
                .map(|lines| lines.map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutBody::Whole(body) => body.is_end_stream(),
            OutBody::Lines(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutBody::Whole(body) => body.size_hint(),
            OutBody::Lines(_) => SizeHint::default(),
        }
    }
}

/// Lines on their way to a client.
pub struct LinesBody {
    lines: mpsc::Receiver<Bytes>,
    heartbeat: Interval,
    _permit: OwnedSemaphorePermit,
}

impl LinesBody {
    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(lines) = self.lines.poll_recv(cx) {
            self.heartbeat.reset();
            return Poll::Ready(lines);
        }
        let silent = self.heartbeat.poll_tick(cx);
        silent.map(|_| Some(Bytes::from_static(b"\n")))
    }
}

/// Where lines are written to. The answer ends when all clones are gone.
#[derive(Clone)]
pub(super) struct Lines(mpsc::Sender<Bytes>);

impl Lines {
    /// Sends whole lines once there is room; whether the client is still there.
    pub async fn send(&self, lines: Bytes) -> bool {
        self.0.send(lines).await.is_ok()
    }

    /// Sends whole lines if there is room. A client that takes none misses them.
    pub fn try_send(&self, lines: Bytes) {
        if !lines.is_empty() {
            let _ = self.0.try_send(lines);
        }
    }

    /// Waits until the client has gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The answers of a host that come line by line.
pub(super) struct Streams {
    permits: Arc<Semaphore>,
    heartbeat: Duration,
    stop: watch::Receiver<bool>,
}

impl Streams {
    /// None yet. `idle_timeout`: that of the server; `stop`: when it drains.
    pub fn new(idle_timeout: Duration, stop: watch::Receiver<bool>) -> Streams {
        let heartbeat = HEARTBEAT.min(idle_timeout / 3);
        Streams {
            permits: Arc::new(Semaphore::new(MAX_STREAMS)),
            heartbeat: heartbeat.max(Duration::from_millis(1)),
            stop,
        }
    }

    /// Opens one. `queue`: how many sends may wait for the client.
    ///
    /// # Errors
    ///
    /// Too many are open.
    pub fn open(&self, queue: usize) -> Result<(Lines, Answer), Problem> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| {
            let detail = format!(
                "{MAX_STREAMS} answers that come line by line are open; end one, or ask without `Accept: {NDJSON}` and without `follow`"
            );
            Problem::new(Kind::Overloaded, detail)
        })?;
        let (sender, lines) = mpsc::channel(queue);
        let mut heartbeat =
            tokio::time::interval_at(Instant::now() + self.heartbeat, self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let body = OutBody::Lines(Box::new(LinesBody {
            lines,
            heartbeat,
            _permit: permit,
        }));
        Ok((Lines(sender), answer(body)))
    }

    /// Waits until the host stops.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.clone();
        async move {
            // A sender that is gone cannot say stop any more: that is a stop, too.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }
}

/// An answer of lines, whole or not.
pub(crate) fn answer(body: OutBody) -> Answer {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    // What stands between must not keep it, nor wait for its end.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Whether a request asks for lines.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let mut ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let name = range.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(NDJSON)
    })
}

/// A document as a line.
pub(super) fn line(document: &impl Serialize) -> Bytes {
    match serde_json::to_vec(document) {
        Ok(mut line) => {
            line.push(b'\n');
            line.into()
        }
        Err(error) => {
            tracing::error!(%error, "a line cannot be written as JSON");
            Bytes::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn streams() -> (watch::Sender<bool>, Streams) {
        let (stop, stopped) = watch::channel(false);
        (stop, Streams::new(Duration::from_secs(60), stopped))
    }

    async fn next(answer: &mut Answer) -> Option<Bytes> {
        let frame = answer.body_mut().frame().await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_empty_lines() {
        let (_stop, streams) = streams();
        let (lines, mut answer) = streams.open(1).unwrap();
        assert_eq!(answer.headers()[CONTENT_TYPE], NDJSON);
        lines.try_send(line(&1));
        assert_eq!(next(&mut answer).await.unwrap(), "1\n");
        let start = Instant::now();
        assert_eq!(next(&mut answer).await.unwrap(), "\n");
        assert_eq!(next(&mut answer).await.unwrap(), "\n");
        assert_eq!(start.elapsed(), 2 * HEARTBEAT);
        drop(lines);
        assert_eq!(next(&mut answer).await, None);
    }

    #[tokio::test]
    async fn the_producer_knows_when_the_client_has_gone() {
        let (_stop, streams) = streams();
        let (lines, answer) = streams.open(1).unwrap();
        drop(answer);
        lines.closed().await;
        assert!(!lines.send(line(&1)).await);
    }

    #[tokio::test]
    async fn no_more_are_open_than_may() {
        let (_stop, streams) = streams();
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| streams.open(1).unwrap()).collect();
        assert_eq!(streams.open(1).err().unwrap().kind(), Kind::Overloaded);
        // A producer that goes on does not count; its client does.
        drop(open.pop().unwrap().1);
        assert!(streams.open(1).is_ok());
    }

    #[tokio::test]
    async fn a_stop_is_heard_by_those_who_ask_later_too() {
        let (stop, streams) = streams();
        let before = streams.stopped();
        stop.send_replace(true);
        before.await;
        streams.stopped().await;
        drop(stop);
        streams.stopped().await;
    }

    #[test]
    fn lines_are_wanted_by_name_only() {
        let wanted = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            is_wanted(&headers)
        };
        assert!(wanted("application/x-ndjson"));
        assert!(wanted("application/json;q=0.5, Application/X-NDJSON; q=1"));
        assert!(!wanted("*/*") && !wanted("application/json"));
        assert!(!is_wanted(&HeaderMap::new()));
    }
}

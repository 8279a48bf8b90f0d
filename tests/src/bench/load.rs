//! A closed-loop load generator: each connection sends a request, waits for
//! the whole answer, and sends the next. One thread, as little work per
//! request as it takes, so that on two cores the server is what is measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What one run measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Time of each request in microseconds, and when it ended since the
    /// start of the run.
    pub samples: Vec<(Duration, u32)>,
    /// Answers that were not as expected, and connections that broke.
    pub failures: u64,
    /// How long the run was.
    pub elapsed: Duration,
}

impl Measured {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// A quantile of the times, in microseconds, of requests that ended in
    /// the window.
    pub fn quantile(&self, q: f64, from: Duration, to: Duration) -> f64 {
        let mut times: Vec<u32> = self
            .samples
            .iter()
            .filter(|(at, _)| *at >= from && *at < to)
            .map(|(_, micros)| *micros)
            .collect();
        if times.is_empty() {
            return f64::NAN;
        }
        let at = ((times.len() - 1) as f64 * q).round() as usize;
        f64::from(*times.select_nth_unstable(at).1)
    }

    /// A quantile over the whole run.
    pub fn p(&self, q: f64) -> f64 {
        self.quantile(q, Duration::ZERO, Duration::MAX)
    }

    fn merge(&mut self, other: Measured) {
        self.samples.extend(other.samples);
        self.failures += other.failures;
    }
}

/// Whether an answer, head and body, is right for a connection.
pub type Right = dyn Fn(usize, &[u8]) -> bool + Send + Sync;

/// What each connection sends, and how it knows a right answer.
#[derive(Clone)]
pub struct Plan {
    /// Where to.
    pub address: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// The request of a connection for its nth turn.
    pub request: Arc<dyn Fn(usize, u64) -> Vec<u8> + Send + Sync>,
    /// How it knows a right answer.
    pub right: Arc<Right>,
    /// When to end.
    pub stop: Arc<AtomicBool>,
}

/// Runs the plan for `time`, or until its `stop`, on a thread of its own.
pub fn run(plan: &Plan, time: Duration) -> Measured {
    let plan = plan.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        io::Result::Ok(runtime.block_on(drive(plan, time)))
    });
    match thread.join() {
        Ok(Ok(measured)) => measured,
        _ => Measured {
            failures: 1,
            ..Measured::default()
        },
    }
}

async fn drive(plan: Plan, time: Duration) -> Measured {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..plan.connections {
        tasks.spawn(one(plan.clone(), connection, start, time));
    }
    let mut all = Measured::default();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(measured) => all.merge(measured),
            Err(_) => all.failures += 1,
        }
    }
    all.elapsed = start.elapsed();
    all
}

async fn one(plan: Plan, connection: usize, start: Instant, time: Duration) -> Measured {
    let mut measured = Measured::default();
    let Ok(mut stream) = TcpStream::connect(plan.address).await else {
        measured.failures += 1;
        return measured;
    };
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(4096);
    for turn in 0.. {
        if start.elapsed() >= time || plan.stop.load(Ordering::Relaxed) {
            break;
        }
        let request = (plan.request)(connection, turn);
        let began = Instant::now();
        buffer.clear();
        let right = match exchange(&mut stream, &request, &mut buffer).await {
            Ok(()) => (plan.right)(connection, &buffer),
            Err(_) => {
                measured.failures += 1;
                break;
            }
        };
        let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        measured.samples.push((start.elapsed(), micros));
        if !right {
            measured.failures += 1;
        }
    }
    measured
}

/// Sends a request and reads one answer, framed by `Content-Length`.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request).await?;
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let length = content_length(&buffer[..end]).ok_or(io::ErrorKind::InvalidData)?;
            if buffer.len() >= end + 4 + length {
                return Ok(());
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The position of `needle` in `text`.
pub fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len())
        .position(|window| window == needle)
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\ncontent-length: ";
    let at = find(head, NAME)? + NAME.len();
    let digits = head[at..].iter().take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0, |n, b| n * 10 + usize::from(b - b'0')))
}

//! A closed-loop load generator: each connection sends a request, waits for
//! the whole answer, and sends the next. One thread, as little work per
//! request as it takes, so that on two cores the server is what is measured.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

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

    fn add(&mut self, start: Instant, began: Instant, right: bool) {
        let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.samples.push((start.elapsed(), micros));
        self.failures += u64::from(!right);
    }

    fn merge(&mut self, other: Measured) {
        self.samples.extend(other.samples);
        self.failures += other.failures;
    }
}

/// Whether an answer is right for a connection.
pub type Right = dyn Fn(usize, &[u8]) -> bool + Send + Sync;

/// What each connection sends, and how it knows a right answer.
#[derive(Clone)]
pub struct Plan {
    /// Where to: the connections go to these in turn.
    pub addresses: Vec<SocketAddr>,
    /// Connections.
    pub connections: usize,
    /// The request of a connection for its nth turn.
    pub request: Arc<dyn Fn(usize, u64) -> Vec<u8> + Send + Sync>,
    /// How it knows that an answer is whole.
    pub whole: Whole,
    /// How it knows a right answer.
    pub right: Arc<Right>,
    /// A connection begins no request earlier than this after the one before;
    /// `None`: at once.
    pub pace: Option<Duration>,
    /// When to end.
    pub stop: Arc<AtomicBool>,
}

impl Plan {
    /// HTTP to one address, as fast as it answers.
    pub fn http(
        address: SocketAddr,
        connections: usize,
        request: impl Fn(usize, u64) -> Vec<u8> + Send + Sync + 'static,
        right: impl Fn(usize, &[u8]) -> bool + Send + Sync + 'static,
    ) -> Plan {
        Plan {
            addresses: vec![address],
            connections,
            request: Arc::new(request),
            whole: http_whole,
            right: Arc::new(right),
            pace: None,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
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
    let mut tasks = JoinSet::new();
    for connection in 0..plan.connections {
        tasks.spawn(one(plan.clone(), connection, start, time));
    }
    gather(tasks, start).await
}

/// Runs callers for `time` on the present runtime, each again as soon as its
/// call has ended. A call says whether it went well.
pub async fn calls<C, F>(callers: impl IntoIterator<Item = C>, time: Duration) -> Measured
where
    C: FnMut(u64) -> F + Send + 'static,
    F: Future<Output = bool> + Send,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for mut caller in callers {
        tasks.spawn(async move {
            let mut measured = Measured::default();
            for turn in 0.. {
                let began = Instant::now();
                if start.elapsed() >= time {
                    break;
                }
                let right = caller(turn).await;
                measured.add(start, began, right);
            }
            measured
        });
    }
    gather(tasks, start).await
}

async fn gather(mut tasks: JoinSet<Measured>, start: Instant) -> Measured {
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

async fn one(plan: Plan, number: usize, start: Instant, time: Duration) -> Measured {
    let mut measured = Measured::default();
    let address = plan.addresses[number % plan.addresses.len()];
    let Ok(mut connection) = Connection::open(address, plan.whole).await else {
        measured.failures += 1;
        return measured;
    };
    // Those that are paced do not all come at once.
    let part = number as f64 / plan.connections as f64;
    let mut due = plan.pace.map(|pace| start + pace.mul_f64(part));
    for turn in 0.. {
        if let (Some(at), Some(pace)) = (&mut due, plan.pace) {
            tokio::time::sleep_until((*at).into()).await;
            *at += pace;
        }
        if start.elapsed() >= time || plan.stop.load(Ordering::Relaxed) {
            break;
        }
        let request = (plan.request)(number, turn);
        let began = Instant::now();
        match connection.exchange(&request).await {
            Ok(answer) => {
                let right = (plan.right)(number, answer);
                measured.add(start, began, right);
            }
            Err(_) => {
                measured.failures += 1;
                break;
            }
        }
    }
    measured
}

/// Whether bytes are a whole answer.
pub type Whole = fn(&[u8]) -> io::Result<bool>;

/// A connection with one request under way at a time.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    whole: Whole,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr, whole: Whole) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            buffer: Vec::with_capacity(4096),
            whole,
        })
    }

    /// Sends a request and reads one answer.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        while !(self.whole)(&self.buffer)? {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.buffer)
    }
}

/// HTTP with a `Content-Length`.
pub fn http_whole(buffer: &[u8]) -> io::Result<bool> {
    let Some(end) = find(buffer, b"\r\n\r\n") else {
        return Ok(false);
    };
    let length = content_length(&buffer[..end]).ok_or(io::ErrorKind::InvalidData)?;
    Ok(buffer.len() >= end + 4 + length)
}

/// One bulk string, or one line, of Redis.
pub fn redis_whole(buffer: &[u8]) -> io::Result<bool> {
    let Some(end) = find(buffer, b"\r\n") else {
        return Ok(false);
    };
    let length = match &buffer[..end] {
        [b'$', digits @ ..] if digits.first() != Some(&b'-') => decimal(digits) + 2,
        _ => 0,
    };
    Ok(buffer.len() >= end + 2 + length)
}

/// The position of `needle` in `text`.
pub fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len())
        .position(|window| window == needle)
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\r\ncontent-length: ";
    let at = find(head, NAME)? + NAME.len();
    Some(decimal(&head[at..]))
}

/// The number that some bytes begin with.
fn decimal(text: &[u8]) -> usize {
    let digits = text.iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n, b| n * 10 + usize::from(b - b'0'))
}

//! What a server says: where it listens, on standard output, and its log, on
//! standard error. Both are read to their ends, so that it never waits for a
//! reader.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};

use crate::{Plane, within};

/// Where a server says that it listens.
pub(crate) struct Banner {
    /// The data planes, by region.
    pub regions: Vec<(String, Plane)>,
    /// The admin plane.
    pub admin: Plane,
}

impl Banner {
    /// Reads standard output to its end, on a thread of its own; the receiver
    /// gets the banner.
    pub(crate) fn of(stdout: Option<impl Read + Send + 'static>) -> oneshot::Receiver<Banner> {
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let mut planes = Vec::new();
        read_lines(stdout, move |line| {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(url), None) = (words.next(), words.next(), words.next())
                && let Some((_, address)) = url.split_once("://")
                && let Ok(address) = address.parse()
            {
                planes.push((name.to_owned(), Plane::new(address)));
            }
            // The banner's last line.
            if line.starts_with("Ctrl-C")
                && let Some((_, admin)) = planes.pop()
                && let Some(sender) = sender.take()
            {
                let regions = std::mem::take(&mut planes);
                let _ = sender.send(Banner { regions, admin });
            }
        });
        receiver
    }
}

/// What a server logs, line by line, as it comes.
#[derive(Clone, Debug)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Lines so far, and whether no more will come.
    progress: watch::Receiver<(usize, bool)>,
}

impl Log {
    pub(crate) fn of(stderr: Option<impl Read + Send + 'static>) -> Log {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (sender, progress) = watch::channel((0, false));
        let (kept, end) = (Arc::clone(&lines), EndOfLog(sender));
        read_lines(stderr, move |line| {
            let count = {
                let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
                lines.push(line);
                lines.len()
            };
            // Not under the lock: who waits for lines counts them as well.
            end.0.send_modify(|(lines, _)| *lines = count);
        });
        Log { lines, progress }
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// How many of the lines so far have all of these texts.
    pub fn count(&self, texts: &[&str]) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let has_all = |line: &&String| texts.iter().all(|text| line.contains(text));
        lines.iter().filter(has_all).count()
    }

    /// Waits until a line with all of these texts has come.
    ///
    /// # Panics
    ///
    /// None comes.
    pub async fn line(&self, texts: &[&str]) {
        self.lines(1, texts).await;
    }

    /// Waits until so many lines with all of these texts have come.
    ///
    /// # Panics
    ///
    /// Fewer come.
    pub async fn lines(&self, count: usize, texts: &[&str]) {
        let mut progress = self.progress.clone();
        let enough = progress.wait_for(|(_, ended)| self.count(texts) >= count || *ended);
        let _ = within(&format!("{count} log lines with {texts:?}"), enough).await;
        let found = self.count(texts);
        assert!(found >= count, "{found} of {count} lines with {texts:?}");
    }

    pub(crate) async fn ended(&self) {
        let mut progress = self.progress.clone();
        let end = progress.wait_for(|(_, ended)| *ended);
        let _ = within("the end of the server", end).await;
    }
}

/// Says that a log has ended, when it goes.
struct EndOfLog(watch::Sender<(usize, bool)>);

impl Drop for EndOfLog {
    fn drop(&mut self) {
        self.0.send_modify(|(_, ended)| *ended = true);
    }
}

/// Hands every line of a stream on, from a thread of its own that ends with
/// the stream.
fn read_lines(
    stream: Option<impl Read + Send + 'static>,
    mut line: impl FnMut(String) + Send + 'static,
) {
    let Some(stream) = stream else {
        panic!("a stream of the server is not piped");
    };
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while stream.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            line(String::from_utf8_lossy(&bytes).trim_end().to_owned());
            bytes.clear();
        }
    });
}

//! The last lines of a slot's handlers, in memory: what they printed, and how they
//! failed. It keeps a bounded number of them, and never waits for a reader: one
//! that is too slow is told how many lines it missed.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Lines that a slot keeps.
pub const MAX_LINES: usize = 1024;

/// Bytes that the lines of a slot take in memory.
pub const MAX_BYTES: usize = 512 * 1024;

/// Longest text of a line, in bytes; of a longer one, a backtrace for example,
/// the end is cut off.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;

/// What a line takes beside its text.
const LINE_BYTES: usize = 64;

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineKind {
    /// The handler printed it.
    Printed,
    /// The host says how the handler failed.
    Failed,
}

impl LineKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            LineKind::Printed => "printed",
            LineKind::Failed => "failed",
        }
    }
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// The number of the revision.
    pub revision: u64,
    /// What it is.
    pub kind: LineKind,
    /// What it says. It may have line ends of its own.
    pub text: Box<str>,
}

impl Line {
    /// A line of at most [`MAX_TEXT_BYTES`].
    pub fn new(at: i64, revision: u64, kind: LineKind, text: &str) -> Line {
        let end = text.floor_char_boundary(MAX_TEXT_BYTES);
        let text = text.split_at_checked(end).map_or(text, |(kept, _)| kept);
        Line {
            at,
            revision,
            kind,
            text: text.into(),
        }
    }

    fn bytes(&self) -> usize {
        self.text.len() + LINE_BYTES
    }
}

/// What a reader gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Lines before these that are gone.
    pub missed: u64,
    /// The lines, oldest first.
    pub lines: Vec<Arc<Line>>,
    /// Where to go on.
    pub next: u64,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct HandlerLog {
    kept: Mutex<Kept>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    /// The number of the next line; they count from 0.
    next: u64,
}

impl Kept {
    fn first(&self) -> u64 {
        self.next - self.lines.len() as u64
    }
}

impl HandlerLog {
    /// Adds a line; the oldest ones give way.
    pub fn add(&self, line: Line) {
        let line = Arc::new(line);
        let mut kept = self.kept.lock();
        kept.bytes += line.bytes();
        kept.lines.push_back(line);
        kept.next += 1;
        while kept.lines.len() > MAX_LINES || kept.bytes > MAX_BYTES {
            let Some(gone) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= gone.bytes();
        }
        drop(kept);
        self.came.notify_waiters();
    }

    /// The last lines, at most so many.
    pub fn last(&self, most: usize) -> Page {
        let kept = self.kept.lock();
        let skipped = kept.lines.len().saturating_sub(most);
        Page {
            missed: 0,
            lines: kept.lines.iter().skip(skipped).cloned().collect(),
            next: kept.next,
        }
    }

    /// The lines from a number on: at most so many, and of so many bytes, but one
    /// in any case.
    pub fn read(&self, from: u64, most: usize, most_bytes: usize) -> Page {
        let kept = self.kept.lock();
        let first = kept.first();
        let start = from.max(first);
        let skipped = usize::try_from(start - first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let lines = kept.lines.iter().skip(skipped).take(most);
        let lines = lines.take_while(|line| {
            let fits = bytes == 0 || bytes + line.bytes() <= most_bytes;
            bytes += line.bytes();
            fits
        });
        let lines: Vec<_> = lines.cloned().collect();
        Page {
            missed: start - from.min(start),
            next: start + lines.len() as u64,
            lines,
        }
    }

    /// Waits for a line that comes after this call, also before the first poll.
    pub fn came(&self) -> Notified<'_> {
        self.came.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::new(0, 1, LineKind::Printed, text)
    }

    fn texts(page: &Page) -> Vec<&str> {
        page.lines.iter().map(|line| &*line.text).collect()
    }

    #[test]
    fn a_reader_gets_the_last_lines_and_then_what_comes() {
        let log = HandlerLog::default();
        assert_eq!(log.last(9).lines, []);
        for text in ["a", "b", "c"] {
            log.add(line(text));
        }
        let last = log.last(2);
        assert_eq!(texts(&last), ["b", "c"]);
        assert_eq!((last.missed, last.next), (0, 3));
        assert_eq!(log.read(last.next, 9, 99).lines, []);
        log.add(line("d"));
        log.add(line("e"));
        let page = log.read(last.next, 1, 999);
        assert_eq!((texts(&page), page.next), (vec!["d"], 4));
        // However small the room is, it goes on.
        let page = log.read(3, 9, 1);
        assert_eq!((texts(&page), page.next), (vec!["d"], 4));
        let page = log.read(3, 9, 999);
        assert_eq!((texts(&page), page.missed), (vec!["d", "e"], 0));
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let log = HandlerLog::default();
        let start = log.last(0).next;
        for n in 0..MAX_LINES + 10 {
            log.add(line(&n.to_string()));
        }
        let page = log.read(start, 2, MAX_BYTES);
        assert_eq!(page.missed, 10);
        assert_eq!(texts(&page), ["10", "11"]);
        assert_eq!(page.next, 12);
        assert_eq!(log.read(page.next, 1, MAX_BYTES).missed, 0);
        assert_eq!(log.last(usize::MAX).lines.len(), MAX_LINES);
    }

    #[test]
    fn long_lines_are_cut_and_all_together_have_a_bound() {
        let log = HandlerLog::default();
        for _ in 0..200 {
            log.add(line(&"é".repeat(MAX_TEXT_BYTES)));
        }
        let kept = log.kept.lock();
        assert!(kept.bytes <= MAX_BYTES && kept.lines.len() > 50);
        let real: usize = kept.lines.iter().map(|line| line.bytes()).sum();
        assert_eq!(kept.bytes, real);
        assert_eq!(kept.lines[0].text.len(), MAX_TEXT_BYTES);
        assert_eq!(
            line(&format!("x{}", "é".repeat(9999))).text.len(),
            MAX_TEXT_BYTES - 1
        );
    }

    #[tokio::test]
    async fn a_line_before_the_first_poll_is_not_missed() {
        let log = HandlerLog::default();
        let came = log.came();
        log.add(line("a"));
        came.await;
    }
}

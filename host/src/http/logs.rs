//! `GET /v1/logs/{operation}`: what the handlers of this host print and how they
//! fail, the last lines and then what comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use http::Uri;

use super::authority::Who;
use super::documents::{LogEntry, LogLine};
use super::query::Query;
use super::respond::{Answer, Kind, Problem};
use super::stream::{self, Lines, Streams, line};
use crate::handlers::logs::{Line, Page};
use crate::handlers::registry::Registry;
use crate::handlers::slot::Slot;
use crate::model::Operation;
use crate::wit_host::log::rfc3339;

/// Lines that are given at first: at most, and unless asked.
const MAX_LINES: usize = 1000;
const USUAL_LINES: usize = 100;

/// Lines of a slot that are sent at once, and about how many bytes of all slots.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 64 * 1024;

/// Sends that may wait for the client.
const QUEUE: usize = 1;

/// Pause between sends, so that a handler that prints without end, and many who
/// follow it, leave the processors to requests: 12800 lines per second, and who
/// prints more is not followed without losses.
const PACE: Duration = Duration::from_millis(20);

/// How often it is looked at whether the token of who follows still holds.
const LOOK_AT_TOKEN: Duration = Duration::from_secs(5);

/// The answer.
pub(super) fn logs(
    registry: &Arc<Registry>,
    operation: Operation,
    uri: &Uri,
    who: &Who,
    streams: &Streams,
) -> Result<Answer, Problem> {
    let query = Query::of(uri, &["region", "limit", "follow"])?;
    let limit = query.number("limit")?.unwrap_or(USUAL_LINES);
    let follow = match query.text("follow") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let detail = format!("query parameter \"follow\": {other:?} is neither true nor false");
            return Err(Problem::new(Kind::BadRequest, detail));
        }
    };
    let regions = query.list("region");
    let mut reader = Reader::new(registry, operation, regions.as_deref())?;
    if !follow {
        let last = reader.last(limit.min(MAX_LINES));
        return Ok(stream::answer(last.into()));
    }
    let (lines, answer) = streams.open(QUEUE)?;
    // Before the answer is on its way: what comes after it is not missed.
    lines.try_send(reader.last(limit.min(MAX_LINES)));
    let (stopped, who, registry) = (streams.stopped(), who.clone(), Arc::clone(registry));
    tokio::spawn(async move {
        tokio::select! {
            () = reader.follow(&lines) => {}
            () = lines.closed() => {}
            () = stopped => {}
            problem = revoked(&who, &registry) => {
                let problem = problem.document();
                lines.try_send(line(&LogEntry::Problem { problem }));
            }
        }
    });
    Ok(answer)
}

/// Waits until a token does not hold any more.
async fn revoked(who: &Who, registry: &Registry) -> Problem {
    loop {
        tokio::time::sleep(LOOK_AT_TOKEN).await;
        if let Err(problem) = who.holds(registry).await {
            return problem;
        }
    }
}

/// Reads the slots of an operation.
struct Reader {
    operation: Operation,
    slots: Vec<Followed>,
}

struct Followed {
    region: Arc<str>,
    slot: Arc<Slot>,
    /// The number of the first line that was not read.
    next: u64,
}

impl Reader {
    fn new(
        registry: &Registry,
        operation: Operation,
        regions: Option<&[String]>,
    ) -> Result<Reader, Problem> {
        let here = registry.regions();
        if let Some(regions) = regions
            && let Some(unknown) = regions
                .iter()
                .find(|name| !here.iter().any(|it| **it == ***name))
        {
            let detail = format!(
                "region {unknown:?} is not on this host, which has {}; ask a host of that region",
                here.join(", ")
            );
            return Err(Problem::new(Kind::NoSuchPath, detail));
        }
        let wanted = |name: &str| regions.is_none_or(|regions| regions.iter().any(|it| it == name));
        let slots = here.iter().enumerate().filter(|(_, name)| wanted(name));
        let slots = slots.map(|(index, name)| Followed {
            region: Arc::clone(name),
            slot: Arc::clone(registry.slot(index, operation)),
            next: 0,
        });
        Ok(Reader {
            operation,
            slots: slots.collect(),
        })
    }

    /// The last lines of all, at most so many; reading goes on after them.
    fn last(&mut self, most: usize) -> Bytes {
        let pages = self.pages(|followed| followed.slot.log().last(most));
        let lines = self.in_order(&pages);
        let skipped = lines.len().saturating_sub(most);
        self.written(&[], lines.into_iter().skip(skipped))
    }

    /// What has come since; empty when nothing has.
    fn more(&mut self) -> Bytes {
        let bytes = BATCH_BYTES / self.slots.len().max(1);
        let pages = self.pages(|followed| {
            let log = followed.slot.log();
            log.read(followed.next, BATCH_LINES, bytes)
        });
        let lines = self.in_order(&pages);
        self.written(&pages, lines.into_iter())
    }

    /// Sends what comes, until the client has gone.
    async fn follow(&mut self, lines: &Lines) {
        loop {
            let slots: Vec<_> = self.slots.iter().map(|it| Arc::clone(&it.slot)).collect();
            // Before it is looked: what comes in between is not missed.
            let came = select_all(slots.iter().map(|slot| Box::pin(slot.log().came())));
            let more = self.more();
            if more.is_empty() {
                came.await;
            } else if lines.send(more).await {
                tokio::time::sleep(PACE).await;
            } else {
                return;
            }
        }
    }

    fn pages(&mut self, read: impl Fn(&Followed) -> Page) -> Vec<(Arc<str>, Page)> {
        let pages = self.slots.iter_mut().map(|followed| {
            let page = read(followed);
            followed.next = page.next;
            (Arc::clone(&followed.region), page)
        });
        pages.collect()
    }

    /// The lines of all regions in the order of their times.
    fn in_order<'a>(&self, pages: &'a [(Arc<str>, Page)]) -> Vec<(&'a str, &'a Line)> {
        let of = |(region, page): &'a (Arc<str>, Page)| {
            let lines = page.lines.iter();
            lines.map(move |line| (&**region, &**line))
        };
        let mut lines: Vec<_> = pages.iter().flat_map(of).collect();
        // Stable: lines of one time stay as they are.
        lines.sort_by_key(|(_, line)| line.at);
        lines
    }

    fn written<'a>(
        &self,
        pages: &[(Arc<str>, Page)],
        lines: impl Iterator<Item = (&'a str, &'a Line)>,
    ) -> Bytes {
        let mut bytes = Vec::new();
        for (region, page) in pages.iter().filter(|(_, page)| page.missed > 0) {
            bytes.extend_from_slice(&line(&LogEntry::Missed {
                missed: page.missed,
                region: region.to_string(),
            }));
        }
        for (region, it) in lines {
            bytes.extend_from_slice(&line(&LogEntry::Line(LogLine {
                at: rfc3339(it.at),
                region: region.to_owned(),
                operation: self.operation.name().to_owned(),
                revision: it.revision,
                kind: it.kind.name().to_owned(),
                text: it.text.to_string(),
            })));
        }
        bytes.into()
    }
}

//! What the disk itself allows: how often it can be told to keep what was
//! written, one small write at a time.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Appends of 4 KiB followed by `fdatasync`, per second.
pub fn syncs_per_second(folder: &Path, time: Duration) -> io::Result<f64> {
    let mut file = File::create(folder.join("syncs"))?;
    let page = [7u8; 4096];
    let start = Instant::now();
    let mut count = 0u32;
    while start.elapsed() < time {
        file.write_all(&page)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

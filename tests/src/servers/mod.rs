//! Real servers for tests and benchmarks: each is started on a free port with
//! its data in a temporary folder, and killed when it is dropped.
//!
//! A server whose program is missing is a failed test, never a skipped one:
//! `make init` installs it.

pub mod cockroach;
pub mod pgwire;
pub mod postgres;
pub mod redis;
pub mod redis_cluster;

pub use redis::Redis;
pub use redis_cluster::RedisCluster;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// A port on loopback that nothing listens on now, below those that the system
/// gives to outgoing connections, so that a server that is restarted finds it free.
///
/// # Panics
///
/// There is none.
pub fn free_port() -> u16 {
    // Servers of other tests start at the same time: everybody tries others.
    let mut from = std::process::id().wrapping_mul(2_654_435_761);
    for _ in 0..1000 {
        from = from.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let port = 15_000 + u16::try_from((from ^ chance()) % 15_000).unwrap_or_default();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on loopback");
}

/// Some chance, without a library for it.
pub(crate) fn chance() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8) as u32
}

/// A program on `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The same, or where Debian keeps PostgreSQL's, of which only the client's are on
/// `PATH`: the newest release's.
pub fn postgres_program(name: &str) -> Option<PathBuf> {
    program(name).or_else(|| {
        let releases = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let releases = releases.filter_map(|release| {
            let file = release.ok()?.path();
            let number: u32 = file.file_name()?.to_str()?.parse().ok()?;
            Some((number, file.join("bin").join(name)))
        });
        let found = releases.filter(|(_, file)| file.is_file()).max();
        found.map(|(_, file)| file)
    })
}

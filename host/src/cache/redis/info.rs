//! What `INFO` says, read by pure code: an absent or strange line is an absent
//! answer, never a failure.

use super::error::{OLDEST, RedisCacheError};

/// The text of one or more sections of `INFO`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info<'a>(pub &'a str);

impl<'a> Info<'a> {
    /// The value of a line `name:value`.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    }

    /// The same as a number.
    pub fn number(self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Major and minor release.
    pub fn release(self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version")?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Whether a cache can be kept there at all, by a URL of a cluster or another.
    /// What it does not say is not held against it.
    pub fn usable(self, server: &str, cluster: bool) -> Result<(), RedisCacheError> {
        let server = server.to_owned();
        if self.release().is_some_and(|release| release < OLDEST) {
            let version = self.get("redis_version").unwrap_or_default().to_owned();
            return Err(RedisCacheError::TooOld { server, version });
        }
        match self.get("redis_mode") {
            Some("cluster") if !cluster => return Err(RedisCacheError::Cluster { server }),
            Some(mode) if cluster && mode != "cluster" => {
                return Err(RedisCacheError::NotCluster { server });
            }
            _ => {}
        }
        if self.get("loading") == Some("1") {
            return Err(RedisCacheError::Loading { server });
        }
        match self.get("role") {
            None | Some("master") => Ok(()),
            // Another node has taken over since the cluster was asked.
            Some(_) if cluster => Err(RedisCacheError::Moved {
                server,
                why: "it is a replica now".to_owned(),
            }),
            Some(_) => Err(RedisCacheError::Replica { server }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let info = Info(&text);
            let _ = (info.release(), info.usable("s", true), info.number("a"));
        }
    }

    #[test]
    fn what_cannot_serve_is_named() {
        let good = "# Server\r\nredis_version:6.2.0\r\nredis_mode:standalone\r\nrun_id:ab\r\nloading:0\r\nrole:master\r\n";
        let cluster = good.replace("standalone", "cluster");
        assert_eq!(Info(good).usable("s", false), Ok(()));
        assert_eq!(Info(&cluster).usable("s", true), Ok(()));
        assert_eq!(Info(good).get("run_id"), Some("ab"));
        assert_eq!(Info("").usable("s", false), Ok(()));
        assert_eq!(Info("").usable("s", true), Ok(()));
        for (from, to, says) in [
            ("6.2.0", "6.0.16", "Redis 6.0.16; use 6.2 or newer"),
            ("standalone", "cluster", "write redis-cluster://"),
            ("loading:0", "loading:1", "is loading"),
            ("role:master", "role:slave", "read-only replica"),
        ] {
            let text = good.replace(from, to);
            let error = Info(&text).usable("s", false).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        for (from, to, says) in [
            ("mode:cluster", "mode:standalone", "write redis://"),
            ("role:master", "role:slave", "is asked again"),
        ] {
            let text = cluster.replace(from, to);
            let error = Info(&text).usable("s", true).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

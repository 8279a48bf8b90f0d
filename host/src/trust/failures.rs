//! A brake on guessing: how often an address may fail to authenticate. It keeps
//! count and says how long to wait. It must not stop who has the right token,
//! or whoever shares an address with a guesser could be locked out.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use parking_lot::Mutex;

/// Failures that an address has in a window before it is told to wait.
pub const MAX_FAILURES: u32 = 10;

/// How long failures are counted, from the first one on.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are counted at once. With more, the one whose window began
/// first is forgotten.
pub const MAX_ADDRESSES: usize = 1024;

/// The failures of all addresses.
#[derive(Debug, Default)]
pub struct Failures {
    /// In the order in which their windows began.
    windows: Mutex<IndexMap<IpAddr, Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    failures: u32,
}

impl Failures {
    /// Counts a failure of an address. With more than [`MAX_FAILURES`] in its
    /// window: how long it is to wait.
    pub fn count(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let address = source(address);
        let mut windows = self.windows.lock();
        if let Some(window) = windows.get_mut(&address) {
            let left = WINDOW.saturating_sub(now.saturating_duration_since(window.began));
            if !left.is_zero() {
                window.failures = window.failures.saturating_add(1);
                if window.failures == MAX_FAILURES + 1 {
                    tracing::warn!(%address, "somebody keeps failing to authenticate at the admin plane");
                }
                return (window.failures > MAX_FAILURES).then_some(left);
            }
            windows.shift_remove(&address);
        }
        if windows.len() >= MAX_ADDRESSES {
            windows.shift_remove_index(0);
        }
        let window = Window {
            began: now,
            failures: 1,
        };
        windows.insert(address, window);
        None
    }
}

/// What is counted as one: an IPv4 address, however it is written, or the 64
/// bits of an IPv6 network, since whoever has one has all of its addresses.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ip4(n: usize) -> IpAddr {
        IpAddr::from(u32::try_from(n).unwrap().to_be_bytes())
    }

    #[test]
    fn ten_failures_are_free_and_the_next_waits_for_the_window() {
        let (failures, start) = (Failures::default(), Instant::now());
        let one = address("192.0.2.1");
        for second in 0..10 {
            assert_eq!(failures.count(one, start + second * SECOND), None);
        }
        assert_eq!(failures.count(one, start + 10 * SECOND), Some(50 * SECOND));
        assert_eq!(failures.count(one, start + 59 * SECOND), Some(SECOND));
        // Others are not held up, and the window ends whatever was done in it.
        assert_eq!(failures.count(address("192.0.2.2"), start), None);
        assert_eq!(failures.count(one, start + 60 * SECOND), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let (failures, start) = (Failures::default(), Instant::now());
        for n in 0..=MAX_FAILURES as usize {
            failures.count(ip4(0), start + SECOND);
            failures.count(ip4(1), start);
            assert_eq!(failures.windows.lock().len(), 2, "{n}");
        }
        for n in 2..MAX_ADDRESSES {
            failures.count(ip4(n), start);
        }
        assert!(failures.count(ip4(0), start).is_some());
        // A window that begins anew is the newest.
        assert_eq!(failures.count(ip4(0), start + 2 * WINDOW), None);
        failures.count(ip4(MAX_ADDRESSES), start + 2 * WINDOW);
        let windows = failures.windows.lock();
        assert_eq!(windows.len(), MAX_ADDRESSES);
        assert!(!windows.contains_key(&ip4(1)) && windows.contains_key(&ip4(0)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_ipv4() {
        let same = |a: &str, b: &str| source(address(a)) == source(address(b));
        assert!(same("2001:db8::1", "2001:db8::ffff:2"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}

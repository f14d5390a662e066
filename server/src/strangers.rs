//! Bounds what callers without a certificate may begin, by the network they come from: whoever needs only a public
//! certificate to ask for a challenge could otherwise take every place in the table.

use crate::error::Failure;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tonic::Code;

/// The life of a challenge: what was begun in one window has ended in the next.
const WINDOW: Duration = Duration::from_secs(120);
/// A quarter of the challenge table; a line behind one address enrolls about eight units a second.
const PER_NETWORK: u32 = 1_024;
/// Networks remembered at once, about 40 octets each.
const NETWORKS: usize = 65_536;

/// Counts what strangers begin.
#[derive(Default)]
pub struct Strangers {
    windows: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

/// An IPv6 subscriber has at least a /64 (RFC 6177), so that is what counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

impl Strangers {
    /// Counts one more from this address.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED with a retry hint when it was too many.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Failure> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = network(address);
        if windows.len() >= NETWORKS && !windows.contains_key(&key) {
            windows.retain(|_, (begun, _)| now.duration_since(*begun) < WINDOW);
        }
        let full = windows.len() >= NETWORKS;
        let refusal = |after: Duration| {
            Failure::new(Code::ResourceExhausted, "TOO_MANY_CHALLENGES", "too many challenges from this network")
                .retry_after(after.max(Duration::from_secs(1)))
        };
        match windows.get_mut(&key) {
            Some((begun, count)) => {
                let age = now.duration_since(*begun);
                if age >= WINDOW {
                    (*begun, *count) = (now, 1);
                } else if *count >= PER_NETWORK {
                    return Err(refusal(WINDOW.saturating_sub(age)));
                } else {
                    *count += 1;
                }
            }
            None if full => return Err(refusal(WINDOW)),
            None => {
                windows.insert(key, (now, 1));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_bounded_and_others_are_not() {
        let strangers = Strangers::default();
        let now = Instant::now();
        let flooder: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        for _ in 0..PER_NETWORK {
            strangers.admit(flooder, now).unwrap();
        }
        let neighbour: IpAddr = "2001:db8:1:2:ffff::9".parse().unwrap();
        assert_eq!(strangers.admit(neighbour, now).unwrap_err().reason(), "TOO_MANY_CHALLENGES");
        strangers.admit("2001:db8:1:3::1".parse().unwrap(), now).unwrap();
        strangers.admit("192.0.2.1".parse().unwrap(), now).unwrap();
        strangers.admit(flooder, now + WINDOW).unwrap();
    }
}

//! Times to live. etcd removes a key with its lease; a lease per key would cost etcd more than the key. So a lease is granted a little
//! longer than asked and given to further keys for as long as it outlives them by no more than that, as kube-apiserver's lease
//! manager does: up to 60 s or a twentieth of the time, and up to 1000 keys.
//!
//! Must never let a key go before its time.

use super::call::{Caller, Kind};
use super::error::Refusal;
use super::wire::LeaseGrantRequest;
use super::wire::lease_client::LeaseClient;
use crate::{Error, Result};
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Of the time asked for, how much longer a lease is granted at most.
const SURPLUS: f64 = 0.05;

#[derive(Clone, Copy, Debug)]
struct Lease {
    id: i64,
    /// Not before this.
    ends: Instant,
    keys: u32,
}

/// Leases that can still be given to keys.
#[derive(Debug)]
pub(super) struct Leases {
    granted: Mutex<Vec<Lease>>,
    reuse: Duration,
    keys: u32,
}

/// Whole seconds, up: etcd counts in seconds.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Leases {
    /// `reuse` bounds the surplus, `keys` the keys of one lease.
    pub fn new(reuse: Duration, keys: u32) -> Leases {
        Leases { granted: Mutex::default(), reuse, keys }
    }

    fn surplus(&self, ttl: u64) -> u64 {
        ((ttl as f64 * SURPLUS) as u64).min(self.reuse.as_secs())
    }

    /// A lease that a key of this lifetime can have.
    pub async fn lease_for(&self, caller: &Caller, ttl: Duration) -> Result<i64> {
        let ttl = seconds(ttl).max(1);
        if let Some(id) = self.reusable(ttl, Instant::now()) {
            return Ok(id);
        }
        let longer = ttl + self.surplus(ttl);
        let request = LeaseGrantRequest { ttl: i64::try_from(longer).unwrap_or(i64::MAX), id: 0 };
        // A grant made twice leaves a lease without keys, which goes by itself.
        let make = |channel| async move { LeaseClient::new(channel).lease_grant(request).await };
        let asked = Instant::now();
        let response = caller.call(Kind::Read, make).await.map_err(Refusal::plain)?;
        if !response.error.is_empty() || response.id == 0 {
            return Err(Error::Unavailable(format!("etcd granted no lease: {}", response.error)));
        }
        self.granted.lock().push(Lease { id: response.id, ends: asked + Duration::from_secs(longer), keys: 1 });
        Ok(response.id)
    }

    /// A granted lease that outlives the key, but not by more than the surplus.
    fn reusable(&self, ttl: u64, now: Instant) -> Option<i64> {
        let (least, most) = (now + Duration::from_secs(ttl), now + Duration::from_secs(ttl + self.surplus(ttl)));
        let mut granted = self.granted.lock();
        granted.retain(|lease| lease.ends > now && lease.keys < self.keys);
        let lease = granted.iter_mut().find(|lease| lease.ends >= least && lease.ends <= most)?;
        lease.keys += 1;
        Some(lease.id)
    }

    /// The lease is gone.
    pub fn forget(&self, id: i64) {
        self.granted.lock().retain(|lease| lease.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leases(ends: Instant) -> Leases {
        let leases = Leases::new(Duration::from_secs(60), 3);
        leases.granted.lock().push(Lease { id: 7, ends, keys: 1 });
        leases
    }

    #[test]
    fn a_lease_serves_keys_that_it_outlives_by_no_more_than_the_surplus() {
        let now = Instant::now();
        // An hour asked, one minute of surplus.
        let ends = now + Duration::from_secs(3660);
        assert_eq!(leases(ends).reusable(3600, now), Some(7));
        assert_eq!(leases(ends).reusable(3600, now + Duration::from_secs(60)), Some(7));
        assert_eq!(leases(ends).reusable(3600, now + Duration::from_secs(61)), None, "the key would go before its time");
        assert_eq!(leases(ends).reusable(60, now), None, "the key would stay for an hour");
    }

    #[test]
    fn a_lease_has_a_limited_number_of_keys_and_is_not_given_out_once_forgotten() {
        let now = Instant::now();
        let leases = leases(now + Duration::from_secs(3660));
        assert_eq!([(); 3].map(|()| leases.reusable(3600, now)), [Some(7), Some(7), None]);
        let again = self::leases(now + Duration::from_secs(3660));
        again.forget(7);
        assert_eq!(again.reusable(3600, now), None);
    }

    #[test]
    fn times_are_rounded_up() {
        assert_eq!([seconds(Duration::from_millis(1)), seconds(Duration::from_secs(2))], [1, 2]);
    }
}

//! Node ports. The allocator's memory follows the Services in the watch cache, whichever server wrote them; what a request is
//! about to use is claimed in it before the write and given back when the write fails, so that no two requests of this server
//! get the same port. Two servers over one store learn of each other as fast as the store tells them.
//!
//! Source: `pkg/registry/core/service/portallocator`.

use crate::ApiServer;
use crate::local::loopback_user;
use ferrokube_api::{Listings, News, Object, Selection};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Random tries before the range is searched in order.
const RANDOM_TRIES: usize = 16;
/// A write is over and heard of long before: of a claim that is older, the Service came and went while nothing was heard.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Whose a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// Of a write that is not in the watch cache yet, since then.
    Claim(Instant),
    /// Of the Service with this uid.
    Service(Arc<str>),
}

/// Who has which port.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    taken: Mutex<HashMap<u16, Owner>>,
}

/// Ports in use by a service.
pub fn of(service: &Value) -> HashSet<u16> {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]).chain([&spec["healthCheckNodePort"]]);
    ports.filter_map(Value::as_u64).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).collect()
}

impl Ports {
    /// Over the cluster's range, knowing nothing.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Ports { range, taken: Mutex::default() }
    }

    /// Claims any port: above the band that is left to those who ask by number, while there is room (KEP-3668).
    pub fn any(&self) -> Result<u16, &'static str> {
        let (first, size) = (*self.range.start(), self.range.end() - self.range.start() + 1);
        let band = super::static_band(size.into(), 32, 128) as u16;
        let mut taken = self.taken.lock();
        let mut claim = |port: u16| claim(&mut taken, port);
        for _ in 0..RANDOM_TRIES {
            let port = first + rand::random_range(band.min(size - 1)..size);
            if claim(port) {
                return Ok(port);
            }
        }
        (band..size).chain(0..band).map(|n| first + n).find(|port| claim(*port)).ok_or("range is full")
    }

    /// Claims this port.
    pub fn take(&self, port: u16) -> Result<(), String> {
        if !self.range.contains(&port) {
            let (start, end) = (self.range.start(), self.range.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {start}-{end}"));
        }
        if claim(&mut self.taken.lock(), port) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    /// Gives back what was claimed, or what the Service with this uid had.
    pub fn release<'p>(&self, ports: impl IntoIterator<Item = &'p u16>, uid: &str) {
        let mut taken = self.taken.lock();
        for port in ports {
            let own = match taken.get(port) {
                Some(Owner::Claim(_)) => uid.is_empty(),
                Some(Owner::Service(owner)) => **owner == *uid,
                None => false,
            };
            if own {
                taken.remove(port);
            }
        }
    }

    /// The Service has these ports now, and no others.
    pub fn learn(&self, uid: &str, ports: &HashSet<u16>) {
        let mut taken = self.taken.lock();
        taken.retain(|port, owner| ports.contains(port) || *owner != Owner::Service(uid.into()));
        for port in ports {
            let ours = Owner::Service(uid.into());
            match taken.insert(*port, ours.clone()) {
                Some(other @ Owner::Service(_)) if other != ours => {
                    tracing::error!(port, uid, "two Services have the same node port");
                    taken.insert(*port, other);
                }
                _ => {}
            }
        }
    }

    /// These are all Services with what they have. Taken one after the other they would be in each other's way: a port that
    /// went from one Service to another would stay with the first one, and be free as soon as that one is seen without it.
    pub fn learn_all(&self, services: &[(Arc<str>, HashSet<u16>)]) {
        let mut taken = self.taken.lock();
        // Claims belong to writes that no listing shows yet.
        taken.retain(|_, owner| matches!(owner, Owner::Claim(_)));
        for (uid, ports) in services {
            for port in ports {
                if let Some(Owner::Service(other)) = taken.insert(*port, Owner::Service(uid.clone())) {
                    tracing::error!(port, %uid, %other, "two Services have the same node port");
                }
            }
        }
    }
}

/// Claims a port, unless somebody has it.
fn claim(taken: &mut HashMap<u16, Owner>, port: u16) -> bool {
    let free = match taken.get(&port) {
        None => true,
        Some(Owner::Claim(since)) => since.elapsed() >= FORGOTTEN,
        Some(Owner::Service(_)) => false,
    };
    if free {
        taken.insert(port, Owner::Claim(Instant::now()));
    }
    free
}

fn ports_of(service: &Object) -> HashSet<u16> {
    service.decode::<Value>().map(|value| of(&value)).unwrap_or_default()
}

/// Learns from every Service that is written, until the server stops.
pub async fn follow(server: Arc<ApiServer>) {
    let selection = Selection { version: "v1".into(), resource: "services".into(), ..Selection::default() };
    let Ok(changes) = server.subscribe(loopback_user(), selection) else { return };
    let mut changes = std::pin::pin!(changes);
    let ports = &server.services.ports;
    let mut listings = Listings::default();
    while let Some(change) = changes.next().await {
        match listings.take(change) {
            None => {}
            Some(News::Set(service)) => ports.learn(&service.uid, &ports_of(&service)),
            Some(News::Gone(service)) => ports.learn(&service.uid, &HashSet::new()),
            Some(News::All(services, _)) => {
                let all: Vec<_> = services.iter().map(|s| (s.uid.clone(), ports_of(s))).collect();
                ports.learn_all(&all);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_given_once_and_the_last_one_too() {
        let ports = Ports::new(30000..=30099);
        let mut all: Vec<u16> = (0..100).map(|_| ports.any().expect("a port")).collect();
        // The static band is the last to go.
        assert!(all[..84].iter().all(|p| *p >= 30016), "{all:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100);
        assert_eq!(ports.any(), Err("range is full"));
        ports.release(&[30003], "");
        assert!(ports.take(30003).is_ok() && ports.take(30003).is_err() && ports.take(1).is_err());
    }

    #[test]
    fn what_services_have_is_followed_and_claims_are_left_alone() {
        let ports = Ports::new(30000..=30099);
        let set = |list: &[u16]| list.iter().copied().collect::<HashSet<u16>>();
        ports.learn("a", &set(&[30001, 30002]));
        assert!(ports.take(30001).is_err());
        ports.learn("a", &set(&[30002]));
        assert!(ports.take(30001).is_ok());
        // A late word of the old owner does not free what is claimed by now.
        ports.learn("a", &set(&[]));
        ports.release(&[30001], "a");
        assert!(ports.take(30001).is_err() && ports.take(30002).is_ok());
        ports.learn("b", &set(&[30001]));
        ports.learn_all(&[("b".into(), set(&[30001]))]);
        assert!(ports.take(30001).is_err() && ports.take(30002).is_err());
        ports.learn_all(&[]);
        assert!(ports.take(30001).is_ok() && ports.take(30002).is_err(), "the claim stays");
    }

    #[test]
    fn ports_that_changed_hands_while_nothing_was_heard_are_not_free() {
        let ports = Ports::new(30000..=30099);
        let set = |list: &[u16]| list.iter().copied().collect::<HashSet<u16>>();
        ports.learn_all(&[("gone".into(), set(&[30001])), ("moved".into(), set(&[30002]))]);
        // A listing in which others have them.
        ports.learn_all(&[("a".into(), set(&[30001])), ("b".into(), set(&[30002])), ("moved".into(), set(&[30003]))]);
        assert!([30001, 30002, 30003].iter().all(|port| ports.take(*port).is_err()));
        ports.learn("a", &set(&[]));
        assert!(ports.take(30001).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_of_which_nothing_was_ever_heard_is_free_after_a_while() {
        let ports = Ports::new(30000..=30000);
        ports.take(30000).expect("free");
        tokio::time::advance(FORGOTTEN / 2).await;
        assert!(ports.take(30000).is_err() && ports.any().is_err());
        tokio::time::advance(FORGOTTEN / 2).await;
        assert_eq!(ports.any(), Ok(30000));
        ports.learn("a", &HashSet::from([30000]));
        tokio::time::advance(FORGOTTEN).await;
        assert!(ports.any().is_err(), "what a Service has stays its own");
    }
}

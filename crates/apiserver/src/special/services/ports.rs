//! Node ports. The allocator's memory is the truth while the server runs; it is filled from the services at start, and the
//! repair loop puts it right when another server over the same store gave ports away.
//!
//! A claim is made before the write and given back when the write fails, so that no two requests of this server get the
//! same port. Source: `pkg/registry/core/service/portallocator`.

use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashSet;
use std::ops::RangeInclusive;

/// Random tries before the range is searched in order.
const RANDOM_TRIES: usize = 16;

/// Who has which port.
#[derive(Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    taken: Mutex<HashSet<u16>>,
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

    /// Takes any port: above the band that is left to those who ask by number, while there is room (KEP-3668).
    pub fn any(&self) -> Result<u16, &'static str> {
        let (first, size) = (*self.range.start(), self.range.end() - self.range.start() + 1);
        let band = super::static_band(size.into(), 32, 128) as u16;
        let mut taken = self.taken.lock();
        for _ in 0..RANDOM_TRIES {
            let port = first + rand::random_range(band.min(size - 1)..size);
            if taken.insert(port) {
                return Ok(port);
            }
        }
        (band..size).chain(0..band).map(|n| first + n).find(|port| taken.insert(*port)).ok_or("range is full")
    }

    /// Takes this port.
    pub fn take(&self, port: u16) -> Result<(), String> {
        if !self.range.contains(&port) {
            let (start, end) = (self.range.start(), self.range.end());
            return Err(format!("provided port is not in the valid range. The range of valid ports is {start}-{end}"));
        }
        if self.taken.lock().insert(port) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    /// Gives ports back.
    pub fn release<'p>(&self, ports: impl IntoIterator<Item = &'p u16>) {
        let mut taken = self.taken.lock();
        ports.into_iter().for_each(|port| _ = taken.remove(port));
    }

    /// Remembers what the services have besides.
    pub fn learn(&self, ports: impl IntoIterator<Item = u16>) {
        self.taken.lock().extend(ports);
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
        ports.release(&[30003]);
        assert!(ports.take(30003).is_ok() && ports.take(30003).is_err() && ports.take(1).is_err());
    }
}

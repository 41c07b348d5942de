//! The pools of devices as their slices make them, with what of them is left.
//!
//! A search looks at a node's pools for every pod, so what does not depend on the pod is kept: which slices are the newest, which devices
//! can still be had, what is left of counters, and which devices a selector chooses.

use super::capacity::Amounts;
use super::selector::{Selector, Wrong};
use super::{Counters, Device, DeviceKey, Reach, Taken, consume};
use crate::node::Node;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Driver and name of a pool.
pub type PoolKey = (Box<str>, Box<str>);

/// So many selectors a pool remembers the choices of.
const MOST_CHOICES: usize = 64;
/// So many kinds of places are told apart.
const MOST_PLACES: usize = 64;

/// One slice of a pool.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub pool: PoolKey,
    /// The one node it is for.
    pub node: Option<Box<str>>,
    pub generation: i64,
    /// How many slices the pool has.
    pub of: usize,
    pub devices: Vec<Arc<Device>>,
    pub counters: Counters,
}

/// Which devices of a pool each selector chooses, by the number of the selector.
#[derive(Default)]
struct Choices(Mutex<HashMap<u64, Arc<[Choice]>>>);

/// Whether a selector chooses a device.
pub(super) type Choice = Result<bool, Wrong>;

impl Clone for Choices {
    fn clone(&self) -> Self {
        // They are found again when they are asked for.
        Choices::default()
    }
}

impl std::fmt::Debug for Choices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Choices")
    }
}

/// What claims have of a device.
#[derive(Clone, Debug, Default)]
struct Use {
    /// How many claims have all of it (several only by mistake).
    whole: usize,
    /// How many have a part, and what the parts come to.
    parts: Option<(usize, Amounts)>,
}

/// One pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    slices: BTreeSet<Box<str>>,
    /// Those of the newest generation; none if it is not whole.
    devices: Vec<Arc<Device>>,
    uses: Vec<Use>,
    /// Attributes that are the same of all devices.
    common: BTreeMap<Box<str>, Value>,
    /// What is left of its counters.
    left: Counters,
    /// How many devices are left that nobody has and whose counters suffice.
    free: usize,
    /// No device must first be made ready.
    quick: bool,
    choices: Choices,
}

impl Pool {
    /// Its devices.
    pub fn devices(&self) -> &[Arc<Device>] {
        &self.devices
    }

    /// What is left of its counters.
    pub fn left(&self) -> &Counters {
        &self.left
    }

    /// Whether none of its devices can be had any more, unless by those who take nothing.
    pub fn is_exhausted(&self) -> bool {
        self.free == 0
    }

    /// Whether all of a device is taken.
    pub fn is_taken(&self, at: usize) -> bool {
        self.uses[at].whole > 0
    }

    /// What claims have of a device that is shared, if any has a part.
    pub fn parts(&self, at: usize) -> Option<&Amounts> {
        self.uses[at].parts.as_ref().map(|(_, amounts)| amounts)
    }

    /// Which of its devices a selector chooses.
    pub(super) fn choices(&self, selector: &Selector) -> Arc<[Choice]> {
        let mut known = self.choices.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(choices) = known.get(&selector.number()) {
            return choices.clone();
        }
        if known.len() >= MOST_CHOICES {
            known.clear();
        }
        let choices: Arc<[Choice]> = self.devices.iter().map(|device| selector.matches(device)).collect();
        known.insert(selector.number(), choices.clone());
        choices
    }

    /// The value of an attribute that all of its devices have.
    pub fn common(&self, attribute: &str) -> Option<&Value> {
        self.common.get(attribute)
    }

    fn may_be_had(&self, at: usize) -> bool {
        let (device, used) = (&self.devices[at], &self.uses[at]);
        // Whoever shares a device takes no more counters.
        used.whole == 0 && (used.parts.is_some() || suffices(&self.left, &device.consumes))
    }

    fn count_free(&mut self) {
        self.free = (0..self.devices.len()).filter(|at| self.may_be_had(*at)).count();
    }
}

/// Whether so much of counters is left.
pub(super) fn suffices(left: &Counters, amounts: &Counters) -> bool {
    let enough = |set: &str, name: &str, amount: i64| left.get(set).and_then(|s| s.get(name)).is_some_and(|v| *v >= amount);
    amounts.iter().all(|(set, counters)| counters.iter().all(|(name, amount)| enough(set, name, *amount)))
}

/// All pools.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    slices: BTreeMap<Box<str>, Slice>,
    pools: BTreeMap<PoolKey, usize>,
    /// By number; numbers are used again.
    all: Vec<Pool>,
    unused: Vec<usize>,
    /// Pools by the one node that they are for.
    of_node: HashMap<Box<str>, BTreeMap<PoolKey, usize>>,
    /// Pools for several nodes.
    wide: BTreeMap<PoolKey, usize>,
    /// What claims have, also of devices that are not there.
    uses: HashMap<DeviceKey, Use>,
    /// The places of devices that are equal are one.
    reaches: BTreeMap<String, Arc<Reach>>,
    /// From where devices of pools for several nodes can be used; made again when they have changed.
    places: OnceLock<Vec<Arc<Reach>>>,
}

impl Pools {
    /// A pool by its number.
    pub fn get(&self, number: usize) -> &Pool {
        &self.all[number]
    }

    /// The numbers of the pools that may be used from a node, its own first.
    pub fn for_node<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = usize> + 'a {
        let own = self.of_node.get(&node.name).into_iter().flat_map(BTreeMap::values);
        let both = || own.clone().chain(self.wide.values()).copied();
        // Pools whose devices must first be made ready come last.
        both().filter(|n| self.all[*n].quick).chain(both().filter(|n| !self.all[*n].quick)).collect::<Vec<_>>().into_iter()
    }

    /// The same for nodes that can use the same devices; `None`: the node has some of its own, or they are too many kinds.
    pub fn alike(&self, node: &Node) -> Option<u64> {
        let wide = || {
            let mut places: Vec<Arc<Reach>> = Vec::new();
            for device in self.wide.values().flat_map(|n| &self.all[*n].devices) {
                // Those of one slice follow each other.
                let known = |p: &Arc<Reach>| Arc::ptr_eq(p, &device.reach);
                if !places.last().is_some_and(known) && !places.iter().any(known) {
                    places.push(device.reach.clone());
                }
                if places.len() > MOST_PLACES {
                    break;
                }
            }
            places
        };
        let places = self.places.get_or_init(wide);
        if self.of_node.contains_key(&node.name) || places.len() > MOST_PLACES {
            return None;
        }
        Some(places.iter().enumerate().map(|(at, place)| u64::from(place.reaches(node)) << at).sum())
    }

    /// One reach for all devices that can be used from the same places.
    pub(super) fn shared(&mut self, reach: Reach) -> Arc<Reach> {
        let Reach::Nodes(_, raw) = &reach else { return Arc::new(reach) };
        let text = raw.to_string();
        if self.reaches.len() > 2 * self.slices.len() + 16 {
            self.reaches.retain(|_, known| Arc::strong_count(known) > 1);
        }
        self.reaches.entry(text).or_insert_with(|| Arc::new(reach)).clone()
    }

    /// A slice is as it is now.
    pub(super) fn set(&mut self, name: &str, slice: Slice) {
        self.forget(name);
        let key = slice.pool.clone();
        let number = match self.pools.get(&key) {
            Some(number) => *number,
            None => {
                let number = self.unused.pop().unwrap_or_else(|| {
                    self.all.push(Pool::default());
                    self.all.len() - 1
                });
                self.pools.insert(key.clone(), number);
                number
            }
        };
        match &slice.node {
            Some(node) => self.of_node.entry(node.clone()).or_default().insert(key, number),
            None => self.wide.insert(key, number),
        };
        self.all[number].slices.insert(name.into());
        self.slices.insert(name.into(), slice);
        self.rebuild(number);
    }

    /// A slice is gone.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(old) = self.slices.remove(name) else { return };
        let Some(number) = self.pools.get(&old.pool).copied() else { return };
        self.all[number].slices.remove(name);
        let mut others = self.all[number].slices.iter().filter_map(|name| self.slices.get(name));
        if !others.any(|s| s.node == old.node) {
            match &old.node {
                Some(node) => {
                    let left = self.of_node.get_mut(node).map(|pools| {
                        pools.remove(&old.pool);
                        pools.len()
                    });
                    if left == Some(0) {
                        self.of_node.remove(node);
                    }
                }
                None => drop(self.wide.remove(&old.pool)),
            }
        }
        if self.all[number].slices.is_empty() {
            self.pools.remove(&old.pool);
            self.all[number] = Pool::default();
            self.unused.push(number);
            self.places = OnceLock::new();
        } else {
            self.rebuild(number);
        }
    }

    /// Puts a pool together from its slices: those of the newest generation, if all of them are there.
    fn rebuild(&mut self, number: usize) {
        let all = || self.all[number].slices.iter().filter_map(|name| self.slices.get(name));
        let newest = all().map(|s| s.generation).max();
        let mut slices: Vec<&Slice> = all().filter(|s| Some(s.generation) == newest).collect();
        if slices.first().is_none_or(|first| first.of > slices.len()) {
            slices.clear();
        }
        // A device that two slices have is one.
        let mut names = HashSet::new();
        let devices: Vec<Arc<Device>> =
            slices.iter().flat_map(|s| &s.devices).filter(|device| names.insert(&*device.key.2)).cloned().collect();
        let uses: Vec<Use> = devices.iter().map(|d| self.uses.get(&d.key).cloned().unwrap_or_default()).collect();
        let mut left: Counters = slices.iter().flat_map(|s| s.counters.clone()).collect();
        let used = devices.iter().zip(&uses).filter(|(_, used)| used.whole > 0 || used.parts.is_some());
        used.for_each(|(device, _)| consume(&mut left, &device.consumes, 1));
        let quick = devices.iter().all(|d| d.conditions.0.is_empty());
        self.places = OnceLock::new();
        let mut common = devices.first().map(|d| d.attributes.clone()).unwrap_or_default();
        common.retain(|name, value| devices.iter().all(|d| d.attributes.get(name) == Some(value)));
        let pool = &mut self.all[number];
        pool.common = common;
        (pool.devices, pool.uses, pool.left, pool.quick) = (devices, uses, left, quick);
        pool.choices = Choices::default();
        pool.count_free();
    }

    /// A claim has a device, or a part of it.
    pub fn take(&mut self, taken: &Taken) {
        let known = self.uses.entry(taken.device.clone()).or_default();
        match &taken.part {
            None => known.whole += 1,
            Some(part) => {
                let (count, amounts) = known.parts.get_or_insert_default();
                *count += 1;
                part.iter().for_each(|(name, amount)| *amounts.entry(name.clone()).or_default() += *amount);
            }
        }
        let known = known.clone();
        self.is_used(&taken.device, known);
    }

    /// A claim no longer has it.
    pub fn release(&mut self, taken: &Taken) {
        let Some(known) = self.uses.get_mut(&taken.device) else { return };
        match (&taken.part, &mut known.parts) {
            (None, _) => known.whole = known.whole.saturating_sub(1),
            (Some(part), Some((count, amounts))) => {
                *count = count.saturating_sub(1);
                part.iter().for_each(|(name, amount)| *amounts.entry(name.clone()).or_default() -= *amount);
                if *count == 0 {
                    known.parts = None;
                }
            }
            (Some(_), None) => {}
        }
        let known = known.clone();
        if known.whole == 0 && known.parts.is_none() {
            self.uses.remove(&taken.device);
        }
        self.is_used(&taken.device, known);
    }

    /// What claims have of a device is this now.
    fn is_used(&mut self, (driver, pool, name): &DeviceKey, now: Use) {
        let Some(number) = self.pools.get(&(driver.clone(), pool.clone())) else { return };
        let pool = &mut self.all[*number];
        let counts = |used: &Use| used.whole > 0 || used.parts.is_some();
        for at in 0..pool.devices.len() {
            let device = pool.devices[at].clone();
            if device.key.2 != *name {
                continue;
            }
            match (counts(&pool.uses[at]), counts(&now)) {
                (false, true) => consume(&mut pool.left, &device.consumes, 1),
                (true, false) => consume(&mut pool.left, &device.consumes, -1),
                _ => {}
            }
            pool.uses[at] = now.clone();
        }
        pool.count_free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    fn counters(amounts: &[(&str, i64)]) -> Counters {
        [("set".into(), amounts.iter().map(|(name, amount)| ((*name).into(), *amount)).collect())].into()
    }

    fn device(pool: &str, name: &str, shared: bool, takes: &[(&str, i64)]) -> Arc<Device> {
        Arc::new(Device {
            key: ("driver".into(), pool.into(), name.into()),
            reach: Arc::new(Reach::All),
            attributes: BTreeMap::new(),
            capacity: BTreeMap::new(),
            shared,
            binds_to_node: false,
            conditions: Default::default(),
            consumes: counters(takes),
            taints: Vec::new(),
        })
    }

    /// Two devices with one counter each, one that takes both, and one that is shared.
    fn slice(pool: &str, generation: i64, node: Option<&str>) -> Slice {
        let devices = [
            device(pool, "a", false, &[("one", 1)]),
            device(pool, "b", false, &[("two", 1)]),
            device(pool, "both", false, &[("one", 1), ("two", 1)]),
            device(pool, "shared", true, &[("two", 1)]),
        ];
        let counters = counters(&[("one", 1), ("two", 1)]);
        Slice { pool: ("driver".into(), pool.into()), node: node.map(Into::into), generation, of: 1, devices: devices.into(), counters }
    }

    fn taken(pool: &str, device: &str) -> Taken {
        let part = (device == "shared").then(|| [("driver/memory".into(), ferrokube_api::quantity::Quantity::parse("1").unwrap())].into());
        Taken { device: ("driver".into(), pool.into(), device.into()), part }
    }

    /// What a pool looks like from outside.
    fn look(pools: &Pools, name: &str) -> Option<(Counters, usize, Vec<(usize, usize)>)> {
        let pool = pools.get(*pools.pools.get(&("driver".into(), name.into()))?);
        let uses = pool.uses.iter().map(|used| (used.whole, used.parts.as_ref().map_or(0, |(count, _)| *count)));
        Some((pool.left.clone(), pool.free, uses.collect()))
    }

    #[test]
    fn what_is_kept_of_pools_is_what_their_slices_and_claims_come_to() {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..200 {
            let mut pools = Pools::default();
            let mut slices: BTreeMap<String, Slice> = BTreeMap::new();
            let mut claims: Vec<Taken> = Vec::new();
            for _ in 0..40 {
                let pool = ["p", "q"][rng.random_range(0..2)];
                match rng.random_range(0..5) {
                    0 => {
                        let name = format!("{pool}{}", rng.random_range(0..2));
                        let made =
                            slice(pool, rng.random_range(0..3), ["", "n"].get(rng.random_range(0..3)).filter(|n| !n.is_empty()).copied());
                        pools.set(&name, made.clone());
                        slices.insert(name, made);
                    }
                    1 => {
                        let name = format!("{pool}{}", rng.random_range(0..2));
                        pools.forget(&name);
                        slices.remove(&name);
                    }
                    2 if !claims.is_empty() => {
                        let gone = claims.swap_remove(rng.random_range(0..claims.len()));
                        pools.release(&gone);
                    }
                    _ => {
                        let claim = taken(pool, ["a", "b", "both", "shared"][rng.random_range(0..4)]);
                        pools.take(&claim);
                        claims.push(claim);
                    }
                }
                let mut anew = Pools::default();
                claims.iter().for_each(|claim| anew.take(claim));
                slices.iter().for_each(|(name, slice)| anew.set(name, slice.clone()));
                for name in ["p", "q"] {
                    assert_eq!(look(&pools, name), look(&anew, name), "{slices:?} {claims:?}");
                }
                let numbers = |pools: &Pools| (pools.wide.len(), pools.of_node.values().map(BTreeMap::len).sum::<usize>());
                assert_eq!(numbers(&pools), numbers(&anew));
            }
        }
    }

    #[test]
    fn a_pool_of_which_nothing_can_be_had_is_exhausted() {
        let mut pools = Pools::default();
        pools.set("s", slice("p", 1, None));
        let exhausted = |pools: &Pools| pools.get(0).is_exhausted();
        assert!(!exhausted(&pools));
        pools.take(&taken("p", "both"));
        assert!(exhausted(&pools), "both counters are gone, also for those that nobody has");
        pools.release(&taken("p", "both"));
        pools.take(&taken("p", "a"));
        pools.take(&taken("p", "shared"));
        assert!(!exhausted(&pools), "a part of the shared one is left");
    }

    #[test]
    fn a_device_that_two_slices_have_is_one() {
        let mut pools = Pools::default();
        let twice = Slice { of: 2, ..slice("p", 1, None) };
        pools.set("s", twice.clone());
        pools.set("t", twice);
        assert_eq!(pools.get(0).devices().len(), 4);
    }
}

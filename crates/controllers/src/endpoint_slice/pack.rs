//! Which endpoints are in which slice: pure.
//!
//! Every slice that changes goes to every node, so the fewest possible change: an endpoint stays where it is, slices that change
//! anyway are filled first, then one that has room for all that is left, and only then a new one is made.
//! Source: `k8s.io/endpointslice/reconciler.go`.

use ferrokube_client::Named;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use std::collections::{BTreeMap, HashMap};

/// Endpoints that have the same ports.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The ports.
    pub ports: Vec<EndpointPort>,
    /// All endpoints that are wanted.
    pub endpoints: Vec<Endpoint>,
}

/// Slices by what becomes of them.
#[derive(Debug, Default)]
pub struct Sorted {
    /// New ones.
    pub create: Vec<EndpointSlice>,
    /// Present ones that change.
    pub update: Vec<EndpointSlice>,
    /// Present ones that are right.
    pub unchanged: Vec<EndpointSlice>,
    /// Present ones that nothing is left in.
    pub delete: Vec<EndpointSlice>,
    /// Endpoints that are in no slice yet.
    pub added: usize,
    /// Endpoints that are no longer wanted.
    pub removed: usize,
}

/// A comparable form of ports.
pub fn key(ports: &[EndpointPort]) -> String {
    serde_json::to_string(ports).unwrap_or_default()
}

/// What makes two endpoints the same one, whatever else has changed.
fn identity(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    (endpoint.target_ref.as_ref().and_then(|r| r.uid.clone()), endpoint.addresses.first().cloned())
}

/// Equal but for hints, which are decided later.
fn same(a: &Endpoint, b: &Endpoint) -> bool {
    Endpoint { hints: None, ..a.clone() } == Endpoint { hints: None, ..b.clone() }
}

/// The endpoints of a slice.
pub fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn set(slice: &mut EndpointSlice, endpoints: Vec<Endpoint>) {
    // An empty list and none are the same to the API; one form of them compares.
    slice.endpoints = Some(endpoints).filter(|e| !e.is_empty());
}

fn fill(slice: &mut EndpointSlice, left: &mut Vec<Endpoint>, most: usize) {
    let mut list = slice.endpoints.take().unwrap_or_default();
    let room = most.saturating_sub(list.len()).min(left.len());
    list.extend(left.drain(..room));
    set(slice, list);
}

/// How slices of a service are made.
pub struct Rules<'a> {
    /// `--max-endpoints-per-slice`.
    pub most: usize,
    /// A new slice of these ports.
    pub empty: &'a dyn Fn(&[EndpointPort]) -> EndpointSlice,
    /// A present one with the labels that it should have.
    pub labelled: &'a dyn Fn(EndpointSlice) -> EndpointSlice,
}

/// Puts the endpoints of all groups into the present slices, which the service owns, and into new ones.
pub fn pack(groups: BTreeMap<String, Group>, present: Vec<EndpointSlice>, rules: &Rules) -> Sorted {
    let mut sorted = Sorted::default();
    let mut by_ports: BTreeMap<String, Vec<EndpointSlice>> = BTreeMap::new();
    for slice in present {
        by_ports.entry(key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    for (key, group) in groups {
        group_into(&mut sorted, group, by_ports.remove(&key).unwrap_or_default(), rules);
    }
    for slice in by_ports.into_values().flatten() {
        sorted.removed += endpoints(&slice).len();
        sorted.delete.push(slice);
    }
    // Consumers like to see that there is nothing rather than to see nothing.
    if sorted.create.is_empty() && sorted.update.is_empty() && sorted.unchanged.is_empty() {
        let placeholder = (rules.empty)(&[]);
        let is_one = |s: &EndpointSlice| {
            endpoints(s).is_empty() && s.ports.as_deref().unwrap_or_default().is_empty() && s.metadata.labels == placeholder.metadata.labels
        };
        match sorted.delete.iter().position(is_one) {
            Some(at) => {
                let kept = sorted.delete.swap_remove(at);
                sorted.unchanged.push(kept);
            }
            None => sorted.create.push(placeholder),
        }
    }
    sorted
}

fn group_into(sorted: &mut Sorted, group: Group, present: Vec<EndpointSlice>, rules: &Rules) {
    let most = rules.most;
    let places: HashMap<_, usize> = group.endpoints.iter().enumerate().map(|(at, e)| (identity(e), at)).collect();
    let mut wanted: Vec<Option<Endpoint>> = group.endpoints.into_iter().map(Some).collect();
    let (mut update, mut unchanged) = (Vec::new(), Vec::new());
    for slice in present {
        let (mut kept, mut changed) = (Vec::new(), false);
        for known in endpoints(&slice) {
            let Some(wanted) = places.get(&identity(known)).and_then(|at| wanted.get_mut(*at)?.take()) else { continue };
            changed |= !same(&wanted, known);
            kept.push(wanted);
        }
        let gone = endpoints(&slice).len() - kept.len();
        sorted.removed += gone;
        if kept.is_empty() {
            sorted.delete.push(slice);
            continue;
        }
        let relabelled = (rules.labelled)(slice.clone());
        if changed || gone > 0 || relabelled.metadata.labels != slice.metadata.labels {
            let mut slice = relabelled;
            set(&mut slice, kept);
            update.push(slice);
        } else {
            unchanged.push(slice);
        }
    }
    let mut left: Vec<Endpoint> = wanted.into_iter().flatten().collect();
    sorted.added += left.len();
    // The fullest first.
    update.sort_by_key(|s| std::cmp::Reverse(endpoints(s).len()));
    update.iter_mut().for_each(|slice| fill(slice, &mut left, most));
    while !left.is_empty() {
        let fits = |s: &EndpointSlice| endpoints(s).len() + left.len() <= most;
        let best = unchanged.iter().enumerate().filter(|(_, s)| left.len() < most && fits(s)).max_by_key(|(_, s)| endpoints(s).len());
        match best.map(|(at, _)| at) {
            Some(at) => {
                let mut slice = unchanged.remove(at);
                fill(&mut slice, &mut left, most);
                update.push(slice);
            }
            None => {
                let mut slice = (rules.empty)(&group.ports);
                fill(&mut slice, &mut left, most);
                sorted.create.push(slice);
            }
        }
    }
    sorted.update.extend(update);
    sorted.unchanged.extend(unchanged);
}

impl Sorted {
    /// Slices that would be made and slices that would be deleted become slices that change.
    pub fn reuse(&mut self) {
        while let (Some(fresh), Some(old)) = (self.create.last(), self.delete.first()) {
            let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                labels: fresh.metadata.labels.clone(),
                annotations: fresh.metadata.annotations.clone(),
                ..old.metadata.clone()
            };
            tracing::trace!(slice = old.name(), "used again");
            if let Some(fresh) = self.create.pop() {
                self.update.push(EndpointSlice { metadata, ..fresh });
            }
            self.delete.remove(0);
        }
    }
}

//! Who should use an endpoint: hints for consumers that prefer what is near. Pure.
//!
//! `spec.trafficDistribution` simply names the endpoint's own zone or node. The older annotation `topology-mode: Auto` shares
//! the endpoints out between the zones in proportion to their processors, and gives up when a zone would be overloaded.
//! Source: `k8s.io/endpointslice/topologycache`, `trafficdist`.

use super::pack::{Sorted, endpoints};
use ferrokube_client::events::EventType;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};
use std::collections::BTreeMap;

/// The part of its share that a zone must have, so that none bears more than a fifth too much. Written as upstream computes it,
/// so that both round alike.
const BEARABLE: f64 = 1.0 / (1.0 + 0.2);

/// Processors of each zone as a part of all, when every node says what it has.
pub type Ratios = BTreeMap<String, f64>;

/// Endpoints that each zone was given.
pub type Given = BTreeMap<String, usize>;

/// An event about the service.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Warning or not.
    pub kind: EventType,
    /// Reason.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

/// What a service asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No hints.
    None,
    /// Shares by zone (`service.kubernetes.io/topology-mode: Auto`).
    Shares,
    /// The endpoint's own zone.
    SameZone,
    /// The endpoint's own node, then its zone.
    SameNode,
}

impl Wish {
    /// Of a service.
    pub fn of(service: &Service) -> Self {
        let annotation = |key: &str| service.metadata.annotations.as_ref().and_then(|a| a.get(key)).map(String::as_str);
        let mode = annotation("service.kubernetes.io/topology-mode").or_else(|| annotation("service.kubernetes.io/topology-aware-hints"));
        if matches!(mode, Some("Auto" | "auto")) {
            return Wish::Shares;
        }
        match service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()) {
            Some("PreferClose" | "PreferSameZone") => Wish::SameZone,
            Some("PreferSameNode") => Wish::SameNode,
            _ => Wish::None,
        }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}

fn for_zone(zone: &str) -> EndpointHints {
    EndpointHints { for_zones: Some(vec![ForZone { name: zone.into() }]), for_nodes: None }
}

fn near(endpoint: &Endpoint, with_node: bool) -> Option<EndpointHints> {
    let for_zones = endpoint.zone.as_ref().map(|z| vec![ForZone { name: z.clone() }]);
    let for_nodes = endpoint.node_name.as_ref().filter(|_| with_node).map(|n| vec![ForNode { name: n.clone() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
}

/// Rewrites hints: in the slices that change anyway, and in those where one is not as it should be.
fn rewrite(sorted: &mut Sorted, hint: impl Fn(&Endpoint) -> Option<EndpointHints>) {
    let wrong = |s: &EndpointSlice| endpoints(s).iter().any(|e| e.hints != hint(e));
    let (wrong, right): (Vec<_>, Vec<_>) = std::mem::take(&mut sorted.unchanged).into_iter().partition(wrong);
    sorted.unchanged = right;
    sorted.update.extend(wrong);
    for endpoint in sorted.create.iter_mut().chain(&mut sorted.update).flat_map(|s| s.endpoints.iter_mut().flatten()) {
        endpoint.hints = hint(endpoint);
    }
}

/// Gives hints as the service wishes. `had` says that it had shares before; the answer is what each zone has now.
pub fn give(wish: Wish, sorted: &mut Sorted, ratios: Option<&Ratios>, had: bool, family: &str, events: &mut Vec<Told>) -> Option<Given> {
    let mut tell = |kind, reason, message: &str| events.push(Told { kind, reason, message: format!("{message}, addressType: {family}") });
    if wish != Wish::Shares && had {
        tell(EventType::Warning, "TopologyAwareHintsDisabled", "Topology Aware Hints has been disabled");
    }
    match wish {
        Wish::None => rewrite(sorted, |_| None),
        Wish::SameZone | Wish::SameNode => {
            // Who is not ready keeps what it has, so that nothing changes only for that.
            rewrite(sorted, |e| if is_ready(e) { near(e, wish == Wish::SameNode) } else { e.hints.clone() });
        }
        Wish::Shares => {
            let (unchanged, changing) = (sorted.unchanged.clone(), sorted.update.len());
            match share(sorted, ratios) {
                Ok(given) => {
                    if !had {
                        tell(EventType::Normal, "TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled");
                    }
                    return Some(given);
                }
                Err(why) => {
                    tell(EventType::Warning, "TopologyAwareHintsDisabled", &why);
                    sorted.unchanged = unchanged;
                    sorted.update.truncate(changing);
                    rewrite(sorted, |_| None);
                }
            }
        }
    }
    None
}

/// How many endpoints a zone should have.
#[derive(Clone, Copy, Debug)]
struct Share {
    most: usize,
    desired: f64,
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of endpoints")]
fn shares(ratios: Option<&Ratios>, ready: usize) -> Result<BTreeMap<String, Share>, String> {
    let Some(ratios) = ratios else {
        return Err("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".into());
    };
    if ratios.len() < 2 {
        return Err("Nodes only ready in one zone".into());
    }
    if ratios.len() > ready {
        return Err(format!("Insufficient number of endpoints ({ready} endpoints, {} zones)", ratios.len()));
    }
    let least = |ratio: f64| (ratio * ready as f64 * BEARABLE).ceil() as usize;
    let total: usize = ratios.values().map(|r| least(*r)).sum();
    if total > ready {
        let why = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{why} ({ready} endpoints, {} zones)", ratios.len()));
    }
    let share = |ratio: f64| Share { most: least(ratio) + ready - total, desired: (ratio * ready as f64).max(least(ratio) as f64) };
    Ok(ratios.iter().map(|(zone, ratio)| (zone.clone(), share(*ratio))).collect())
}

/// What the hints of a slice give each zone; `None` when they cannot stay.
fn given_by(slice: &EndpointSlice, given: &Given, shares: &BTreeMap<String, Share>) -> Option<Given> {
    let mut found = Given::new();
    for endpoint in endpoints(slice).iter().filter(|e| is_ready(e)) {
        let zones = endpoint.hints.as_ref().and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty())?;
        for zone in zones {
            shares.get(&zone.name)?;
            *found.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, n): (&String, &usize)| shares.get(zone).is_some_and(|s| n + given.get(zone).copied().unwrap_or(0) <= s.most);
    found.iter().all(fits).then_some(found)
}

fn share(sorted: &mut Sorted, ratios: Option<&Ratios>) -> Result<Given, String> {
    let all = sorted.create.iter().chain(&sorted.update).chain(&sorted.unchanged);
    let ready = all.flat_map(endpoints).filter(|e| is_ready(e)).count();
    let shares = shares(ratios, ready)?;
    let mut given = Given::new();
    for slice in std::mem::take(&mut sorted.unchanged) {
        match given_by(&slice, &given, &shares) {
            Some(found) => {
                found.into_iter().for_each(|(zone, n)| *given.entry(zone).or_default() += n);
                sorted.unchanged.push(slice);
            }
            None => sorted.update.push(slice),
        }
    }
    let open: Vec<&mut Endpoint> =
        sorted.create.iter_mut().chain(&mut sorted.update).flat_map(|s| s.endpoints.iter_mut().flatten()).collect();
    let (mut open, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|e| is_ready(e));
    rest.into_iter().for_each(|e| e.hints = None);
    // First everybody's own zone, ...
    for endpoint in &mut open {
        let zone = endpoint.zone.clone().filter(|z| !z.is_empty()).ok_or("One or more endpoints do not have a zone specified")?;
        *given.entry(zone.clone()).or_default() += 1;
        endpoint.hints = Some(for_zone(&zone));
    }
    // ... then those that have too many give to those that have too few.
    let (mut giving, mut receiving) = exchange(&shares, &given);
    for endpoint in open {
        let Some(from) = endpoint.zone.clone().filter(|z| giving.get(z).is_some_and(|n| *n > 0)) else { continue };
        let Some(to) = receiving.iter().find(|(_, n)| **n > 0).map(|(zone, _)| zone.clone()) else { break };
        endpoint.hints = Some(for_zone(&to));
        for (zone, counts) in [(&from, &mut giving), (&to, &mut receiving)] {
            *counts.entry(zone.clone()).or_default() -= 1;
        }
        *given.entry(from).or_default() -= 1;
        *given.entry(to).or_default() += 1;
    }
    if given.is_empty() { Err("No hints allocated for zones".into()) } else { Ok(given) }
}

/// How many endpoints zones give to others, and get from others.
#[allow(clippy::cast_precision_loss, reason = "numbers of endpoints")]
fn exchange(shares: &BTreeMap<String, Share>, given: &Given) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let mut over: BTreeMap<&str, f64> =
        shares.iter().map(|(zone, s)| (zone.as_str(), given.get(zone).copied().unwrap_or(0) as f64 - s.desired)).collect();
    let (mut giving, mut receiving) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let most = over.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, n)| (*zone, *n));
        let least = over.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, n)| (*zone, -*n));
        let (Some((from, gives)), Some((to, gets))) = (most, least) else { break };
        if gives < 0.5 || gets < 0.5 || (gives < 1.0 && gets < 1.0) {
            break;
        }
        over.entry(from).and_modify(|n| *n -= 1.0);
        over.entry(to).and_modify(|n| *n += 1.0);
        *giving.entry(from.to_owned()).or_default() += 1;
        *receiving.entry(to.to_owned()).or_default() += 1;
    }
    (giving, receiving)
}

/// Whether a zone has too few endpoints for its processors.
#[allow(clippy::cast_precision_loss, reason = "numbers of endpoints")]
pub fn is_overloaded(given: &Given, ratios: Option<&Ratios>) -> bool {
    if given.is_empty() {
        return false;
    }
    let Some(ratios) = ratios else { return true };
    let total = given.values().sum::<usize>() as f64;
    ratios.iter().any(|(zone, ratio)| given.get(zone).is_none_or(|n| (*n as f64) < (total * ratio * BEARABLE).ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(zones: &[&str]) -> EndpointSlice {
        let endpoint = |(at, zone): (usize, &&str)| {
            let zone = Some(zone).filter(|z| !z.is_empty());
            json!({"addresses": [format!("10.0.0.{at}")], "zone": zone, "nodeName": format!("n{at}"), "conditions": {"ready": true}})
        };
        let all: Vec<_> = zones.iter().enumerate().map(endpoint).collect();
        serde_json::from_value(json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": all, "ports": []})).unwrap()
    }

    fn fresh(zones: &[&str]) -> Sorted {
        Sorted { create: vec![slice(zones)], ..Sorted::default() }
    }

    fn shown(sorted: &Sorted) -> Vec<String> {
        let text = |e: &Endpoint| {
            let hints = e.hints.clone().unwrap_or_default();
            let zones = hints.for_zones.into_iter().flatten().map(|z| z.name);
            zones.chain(hints.for_nodes.into_iter().flatten().map(|n| n.name)).collect::<Vec<_>>().join("/")
        };
        sorted.create.iter().chain(&sorted.update).flat_map(endpoints).map(text).collect()
    }

    fn ratios(list: &[(&str, f64)]) -> Ratios {
        list.iter().map(|(z, r)| ((*z).to_owned(), *r)).collect()
    }

    #[test]
    fn traffic_distribution_names_what_is_near() {
        for (wish, expected) in [(Wish::SameZone, ["a", ""]), (Wish::SameNode, ["a/n0", "n1"]), (Wish::None, ["", ""])] {
            let mut sorted = fresh(&["a", ""]);
            give(wish, &mut sorted, None, false, "IPv4", &mut Vec::new());
            assert_eq!(shown(&sorted), expected, "{wish:?}");
        }
        let mut settled = Sorted { unchanged: vec![slice(&["a"])], ..Sorted::default() };
        give(Wish::SameZone, &mut settled, None, false, "IPv4", &mut Vec::new());
        assert_eq!((settled.update.len(), settled.unchanged.len()), (1, 0), "a slice without the hint changes");
        let mut again = Sorted { unchanged: settled.update, ..Sorted::default() };
        give(Wish::SameZone, &mut again, None, false, "IPv4", &mut Vec::new());
        assert_eq!((again.update.len(), again.unchanged.len()), (0, 1));
    }

    #[test]
    fn zones_share_endpoints_by_their_processors() {
        let even = ratios(&[("a", 0.5), ("b", 0.5)]);
        let cases: [(&[&str], &Ratios, &[(&str, usize)]); 4] = [
            (&["a", "b"], &even, &[("a", 1), ("b", 1)]),
            (&["a", "a", "a", "b"], &even, &[("a", 2), ("b", 2)]),
            (&["a", "a", "a", "a"], &even, &[("a", 2), ("b", 2)]),
            (&["a", "a", "b", "b"], &ratios(&[("a", 0.75), ("b", 0.25)]), &[("a", 3), ("b", 1)]),
        ];
        for (zones, ratios, expected) in cases {
            let mut sorted = fresh(zones);
            let given = give(Wish::Shares, &mut sorted, Some(ratios), false, "IPv4", &mut Vec::new()).unwrap();
            let expected: Given = expected.iter().map(|(z, n)| ((*z).to_owned(), *n)).collect();
            assert_eq!(given, expected, "{zones:?}");
            let mut again = Sorted { unchanged: sorted.create, ..Sorted::default() };
            give(Wish::Shares, &mut again, Some(ratios), true, "IPv4", &mut Vec::new());
            assert!(again.update.is_empty(), "a second look changes nothing: {zones:?}");
        }
    }

    #[test]
    fn shares_are_given_up_with_a_reason() {
        let even = ratios(&[("a", 0.5), ("b", 0.5)]);
        let cases = [
            (fresh(&["a", "b"]), None, "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"),
            (fresh(&["a"]), Some(&even), "Insufficient number of endpoints (1 endpoints, 2 zones)"),
            (fresh(&["a", ""]), Some(&even), "One or more endpoints do not have a zone specified"),
        ];
        for (mut sorted, ratios, expected) in cases {
            let mut events = Vec::new();
            assert_eq!(give(Wish::Shares, &mut sorted, ratios, false, "IPv4", &mut events), None);
            let told =
                Told { kind: EventType::Warning, reason: "TopologyAwareHintsDisabled", message: format!("{expected}, addressType: IPv4") };
            assert_eq!(events, [told]);
            assert!(shown(&sorted).iter().all(String::is_empty));
        }
        let three = ratios(&[("a", 0.34), ("b", 0.33), ("c", 0.33)]);
        assert!(shares(Some(&three), 4).unwrap_err().starts_with("Unable to allocate minimum required endpoints"));
    }

    #[test]
    fn a_zone_with_too_few_endpoints_is_overloaded() {
        let given: Given = [("a".to_owned(), 5), ("b".to_owned(), 2)].into();
        assert!(is_overloaded(&given, Some(&ratios(&[("a", 0.5), ("b", 0.5)]))));
        assert!(!is_overloaded(&given, Some(&ratios(&[("a", 0.75), ("b", 0.25)]))));
        assert!(is_overloaded(&given, None) && !is_overloaded(&Given::new(), None));
    }
}

//! Filters and scores of kube-scheduler's default profile, in the plainest way that can be written.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
const MIB: i64 = 1024 * 1024;

#[derive(Clone, Default)]
pub struct Cluster {
    pub nodes: BTreeMap<String, Value>,
    pub namespaces: BTreeMap<String, Value>,
    pub pods: Vec<Value>,
    pub services: Vec<Value>,
    /// Disruption budgets.
    pub budgets: Vec<Value>,
    /// Volumes by `namespace/name` of the claim that is bound to each.
    pub volumes: BTreeMap<String, Value>,
    /// How many volumes nodes take.
    pub limits: BTreeMap<String, usize>,
    /// How many devices nodes have, and how many the claims by `namespace/name` ask for.
    pub devices: BTreeMap<String, usize>,
    pub wanted_devices: BTreeMap<String, usize>,
}

fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn amount(value: &Value) -> Option<f64> {
    let text = value.as_str()?;
    let units = [("Gi", 1024.0 * 1024.0 * 1024.0), ("Mi", 1024.0 * 1024.0), ("m", 0.001), ("", 1.0)];
    let (suffix, factor) = units.iter().find(|(suffix, _)| text.ends_with(suffix)).unwrap();
    Some(text.trim_end_matches(suffix).parse::<f64>().unwrap() * factor)
}

/// In thousandths for cpu, whole for the rest.
fn quantity(name: &str, value: &Value) -> Option<i64> {
    amount(value).map(|n| if name == "cpu" { (n * 1000.0).round() as i64 } else { n as i64 })
}

fn request(pod: &Value, name: &str) -> Option<i64> {
    quantity(name, &pod["spec"]["containers"][0]["resources"]["requests"][name])
}

fn offer(node: &Value, name: &str) -> i64 {
    quantity(name, &node["status"]["allocatable"][name]).unwrap_or(0)
}

fn expression_matches(expression: &Value, labels: &Value) -> bool {
    let value = labels[expression["key"].as_str().unwrap()].as_str();
    let named = |v: &str| list(expression, "/values").iter().any(|x| x == v);
    match expression["operator"].as_str().unwrap() {
        "In" => value.is_some_and(named),
        "NotIn" => !value.is_some_and(named),
        "Exists" => value.is_some(),
        other => panic!("{other}"),
    }
}

/// A label selector; absent: nothing.
fn selects(selector: &Value, labels: &Value) -> bool {
    let Some(object) = selector.as_object() else { return false };
    let pairs = object.get("matchLabels").and_then(Value::as_object);
    pairs.into_iter().flatten().all(|(k, v)| labels[k] == *v)
        && list(selector, "/matchExpressions").iter().all(|e| expression_matches(e, labels))
}

fn node_term_matches(term: &Value, node: &Value) -> bool {
    list(term, "/matchExpressions").iter().all(|e| expression_matches(e, &node["metadata"]["labels"]))
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(pod, "/spec/tolerations").iter().any(|t| t["key"] == taint["key"] && t["operator"] == "Exists")
}

fn intolerable<'a>(pod: &'a Value, node: &'a Value, effect: &'a str) -> impl Iterator<Item = &'a Value> {
    list(node, "/spec/taints").iter().filter(move |t| t["effect"] == effect && !tolerates(pod, t))
}

fn wants_node(pod: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object();
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    selector.into_iter().flatten().all(|(k, v)| labels[k] == *v)
        && (required.is_null() || list(required, "/nodeSelectorTerms").iter().any(|t| node_term_matches(t, node)))
}

fn features_allow(pod: &Value, node: &Value) -> bool {
    let needed = pod["spec"]["hostNetwork"] == true && pod["spec"]["hostUsers"] == false;
    !needed || list(node, "/status/declaredFeatures").iter().any(|f| f == "UserNamespacesHostNetworkSupport")
}

fn priority(pod: &Value) -> i64 {
    pod["spec"]["priority"].as_i64().unwrap_or(0)
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn terms<'a>(pod: &'a Value, kind: &str, when: &str) -> &'a [Value] {
    list(pod, &format!("/spec/affinity/{kind}/{when}"))
}

impl Cluster {
    pub fn set_pod(&mut self, pod: Value) {
        self.pods.retain(|p| p["metadata"]["uid"] != pod["metadata"]["uid"]);
        self.pods.push(pod);
    }

    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Value> {
        self.pods.iter().filter(move |p| p["spec"]["nodeName"] == node)
    }

    fn placed(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.pods.iter().filter_map(|p| Some((p, self.nodes.get(p["spec"]["nodeName"].as_str()?)?)))
    }

    /// Whether a term of `owner` means `other`.
    fn means(&self, owner: &Value, term: &Value, other: &Value) -> bool {
        let namespace = other["metadata"]["namespace"].as_str().unwrap();
        let named = list(term, "/namespaces");
        let selector = &term["namespaceSelector"];
        let namespace_meant = if named.is_empty() && selector.is_null() {
            owner["metadata"]["namespace"] == namespace
        } else {
            named.iter().any(|n| n == namespace) || selects(selector, &self.namespaces[namespace])
        };
        namespace_meant && selects(&term["labelSelector"], &other["metadata"]["labels"])
    }

    /// Names of feasible nodes with their total scores.
    pub fn expected(&self, pod: &Value) -> BTreeMap<String, i64> {
        let feasible: Vec<&str> = self.nodes.keys().map(String::as_str).filter(|n| self.feasible(pod, n)).collect();
        let mut totals: BTreeMap<String, i64> = feasible.iter().map(|n| ((*n).to_owned(), 0)).collect();
        let mut add = |weight: i64, scores: Vec<i64>| {
            for (name, score) in feasible.iter().zip(scores) {
                *totals.get_mut(*name).unwrap() += weight * score;
            }
        };
        let each = |score: &dyn Fn(&str) -> i64| feasible.iter().map(|n| score(n)).collect::<Vec<i64>>();
        add(1, each(&|n| self.least_allocated(pod, n)));
        add(1, each(&|n| self.balanced(pod, n)));
        add(1, each(&|n| self.image_locality(pod, n)));
        let taints = each(&|n| intolerable(pod, &self.nodes[n], "PreferNoSchedule").count() as i64);
        add(3, of_largest(taints).into_iter().map(|s| 100 - s).collect());
        let preferred = |n: &str| {
            let matching = terms(pod, "nodeAffinity", PREFERRED).iter().filter(|t| node_term_matches(&t["preference"], &self.nodes[n]));
            matching.map(|t| t["weight"].as_i64().unwrap()).sum()
        };
        add(2, of_largest(each(&preferred)));
        add(2, self.spread_scores(pod, &feasible));
        add(2, min_max(each(&|n| self.inter_pod_score(pod, n))));
        totals
    }

    fn feasible(&self, pod: &Value, name: &str) -> bool {
        let node = &self.nodes[name];
        let there: Vec<&Value> = self.on(name).collect();
        let port = |p: &Value| p["spec"]["containers"][0]["ports"][0]["hostPort"].as_i64();
        let fits = |resource: &str| {
            let used: i64 = there.iter().filter_map(|p| request(p, resource)).sum();
            request(pod, resource).is_none_or(|asked| asked == 0 || used + asked <= offer(node, resource))
        };
        node["spec"]["unschedulable"] != true
            && intolerable(pod, node, "NoSchedule").count() == 0
            && wants_node(pod, node)
            && port(pod).is_none_or(|p| there.iter().all(|t| port(t) != Some(p)))
            && there.len() < offer(node, "pods") as usize
            && ["cpu", "memory", "example.com/gpu"].into_iter().all(fits)
            && features_allow(pod, node)
            && self.volumes_allow(pod, name)
            && self.spread_allows(pod, node)
            && self.neighbours_allow(pod, node)
            && self.devices_allow(pod, name)
    }

    /// On which of some nodes room can be made for a pod: whose pods must go (UIDs, sorted), and how many of them against a
    /// budget.
    pub fn preemptions(&self, pod: &Value, nodes: &[String]) -> BTreeMap<String, (Vec<String>, usize)> {
        nodes.iter().filter_map(|name| Some((name.clone(), self.victims(pod, name)?))).collect()
    }

    fn victims(&self, pod: &Value, name: &str) -> Option<(Vec<String>, usize)> {
        let mut lower: Vec<Value> = self.on(name).filter(|p| priority(p) < priority(pod)).cloned().collect();
        let mut trial = self.clone();
        trial.pods.retain(|p| !lower.contains(p));
        if lower.is_empty() || !trial.feasible(pod, name) {
            return None;
        }
        // The most important are spared first, of those the ones that budgets protect.
        lower.sort_by_key(|p| (std::cmp::Reverse(priority(p)), p["status"]["startTime"].to_string()));
        let mut allowed: Vec<i64> = self.budgets.iter().map(|b| b["status"]["disruptionsAllowed"].as_i64().unwrap()).collect();
        let (protected, others): (Vec<Value>, Vec<Value>) = lower.into_iter().partition(|victim| {
            let mut violates = false;
            for (budget, left) in self.budgets.iter().zip(&mut allowed) {
                let same = budget["metadata"]["namespace"] == victim["metadata"]["namespace"];
                if same && selects(&budget["spec"]["selector"], &victim["metadata"]["labels"]) {
                    *left -= 1;
                    violates |= *left < 0;
                }
            }
            violates
        });
        let (mut victims, mut violations) = (Vec::new(), 0);
        for (list, against) in [(protected, 1), (others, 0)] {
            for spared in list {
                trial.pods.push(spared);
                if !trial.feasible(pod, name) {
                    victims.extend(trial.pods.pop().and_then(|p| p["metadata"]["uid"].as_str().map(str::to_owned)));
                    violations += against;
                }
            }
        }
        victims.sort();
        Some((victims, violations))
    }

    /// What making room costs, by the rules of kube-scheduler; less is better.
    pub fn cost(&self, victims: &[String], violations: usize) -> (usize, i64, i64, usize, std::cmp::Reverse<String>) {
        let all: Vec<&Value> = self.pods.iter().filter(|p| victims.iter().any(|v| p["metadata"]["uid"] == **v)).collect();
        let highest = all.iter().map(|p| priority(p)).max().unwrap_or(0);
        let sum = all.iter().map(|p| priority(p) + (1 << 31)).sum();
        let important = all.iter().filter(|p| priority(p) == highest);
        let earliest = important.map(|p| p["status"]["startTime"].to_string()).min().unwrap_or_default();
        (violations, highest, sum, all.len(), std::cmp::Reverse(earliest))
    }

    /// The volume of a pod, by its claim.
    fn volume(&self, pod: &Value) -> Option<(String, &Value)> {
        let claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"].as_str()?;
        let key = format!("{}/{claim}", pod["metadata"]["namespace"].as_str().unwrap());
        self.volumes.get(&key).map(|v| (key, v))
    }

    fn volumes_allow(&self, pod: &Value, name: &str) -> bool {
        let Some((key, volume)) = self.volume(pod) else { return true };
        let node = &self.nodes[name];
        let other = |p: &&Value| p["metadata"]["uid"] != pod["metadata"]["uid"];
        let exclusive = volume["spec"]["accessModes"][0] == "ReadWriteOncePod";
        let in_use = self.pods.iter().filter(other).any(|p| self.volume(p).is_some_and(|(k, _)| k == key));
        let terms = list(volume, "/spec/nodeAffinity/required/nodeSelectorTerms");
        let zone = &volume["metadata"]["labels"][ZONE];
        let own_zone = &node["metadata"]["labels"][ZONE];
        let mut attached: BTreeSet<String> = self.on(name).filter_map(|p| Some(self.volume(p)?.0)).collect();
        let known = !attached.insert(key);
        !(exclusive && in_use)
            && (terms.is_empty() || terms.iter().any(|t| node_term_matches(t, node)))
            // A node in no zone at all takes any volume.
            && (zone.is_null() || own_zone.is_null() || zone == own_zone)
            && self.limits.get(name).is_none_or(|limit| known || attached.len() <= *limit)
    }

    fn claimed(&self, pod: &Value) -> usize {
        let claim = pod["spec"]["resourceClaims"][0]["resourceClaimName"].as_str();
        let key = claim.map(|c| format!("{}/{c}", pod["metadata"]["namespace"].as_str().unwrap()));
        key.and_then(|k| self.wanted_devices.get(&k)).copied().unwrap_or(0)
    }

    fn devices_allow(&self, pod: &Value, name: &str) -> bool {
        let taken: usize = self.on(name).map(|p| self.claimed(p)).sum();
        taken + self.claimed(pod) <= self.devices.get(name).copied().unwrap_or(0) || self.claimed(pod) == 0
    }

    fn neighbours_allow(&self, pod: &Value, node: &Value) -> bool {
        let same = |term: &Value, other: &Value| {
            let key = term["topologyKey"].as_str().unwrap();
            let value = &node["metadata"]["labels"][key];
            !value.is_null() && *value == other["metadata"]["labels"][key]
        };
        let affinity = terms(pod, "podAffinity", REQUIRED);
        let means_all = |other: &Value| affinity.iter().all(|t| self.means(pod, t, other));
        let there = affinity.iter().all(|t| self.placed().any(|(p, n)| means_all(p) && same(t, n)));
        let labelled = affinity.iter().all(|t| !node["metadata"]["labels"][t["topologyKey"].as_str().unwrap()].is_null());
        // Nobody of the kind in any domain, and the pod is of the kind itself.
        let in_domain = |n: &Value, t: &Value| !n["metadata"]["labels"][t["topologyKey"].as_str().unwrap()].is_null();
        let nobody = affinity.iter().all(|t| !self.placed().any(|(p, n)| means_all(p) && in_domain(n, t)));
        let first = nobody && means_all(pod);
        let wanted = affinity.is_empty() || labelled && (there || first);
        let unwanted = |t: &Value| self.placed().any(|(p, n)| self.means(pod, t, p) && same(t, n));
        let unwelcome = |p: &Value, n: &Value| terms(p, "podAntiAffinity", REQUIRED).iter().any(|t| self.means(p, t, pod) && same(t, n));
        wanted && !terms(pod, "podAntiAffinity", REQUIRED).iter().any(unwanted) && !self.placed().any(|(p, n)| unwelcome(p, n))
    }

    fn least_allocated(&self, pod: &Value, name: &str) -> i64 {
        let node = &self.nodes[name];
        let score = |resource: &str, default: i64| {
            let asked = |p: &Value| request(p, resource).unwrap_or(default);
            let used: i64 = self.on(name).map(asked).sum::<i64>() + asked(pod);
            let capacity = offer(node, resource);
            if used > capacity { 0 } else { (capacity - used) * 100 / capacity }
        };
        (score("cpu", 100) + score("memory", 200 * MIB)) / 2
    }

    fn balanced(&self, pod: &Value, name: &str) -> i64 {
        let node = &self.nodes[name];
        if request(pod, "cpu").is_none() && request(pod, "memory").is_none() {
            return 0;
        }
        let balance = |with: bool| {
            let share = |resource: &str| {
                let own = if with { request(pod, resource).unwrap_or(0) } else { 0 };
                let used: i64 = self.on(name).filter_map(|p| request(p, resource)).sum::<i64>() + own;
                (used as f64 / offer(node, resource) as f64).min(1.0)
            };
            let deviation = ((share("cpu") - share("memory")) / 2.0).abs();
            ((1.0 - deviation) * 100.0) as i64
        };
        50 + (50 + balance(true) - balance(false)) / 2
    }

    fn image_locality(&self, pod: &Value, name: &str) -> i64 {
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
        let image = if image.contains(':') { image.to_owned() } else { format!("{image}:latest") };
        let size = |node: &Value| {
            let images = list(node, "/status/images").iter();
            images.filter(|i| list(i, "/names").iter().any(|n| *n == image.as_str())).filter_map(|i| i["sizeBytes"].as_i64()).next()
        };
        let holders = self.nodes.values().filter(|n| size(n).is_some()).count();
        let spread = holders as f64 / self.nodes.len() as f64;
        let sum = (size(&self.nodes[name]).unwrap_or(0) as f64 * spread) as i64;
        100 * (sum.clamp(23 * MIB, 1000 * MIB) - 23 * MIB) / (1000 * MIB - 23 * MIB)
    }

    fn inter_pod_score(&self, pod: &Value, name: &str) -> i64 {
        let node = &self.nodes[name];
        let mut sum = 0;
        for (other, there) in self.placed() {
            let mut add = |owner: &Value, term: &Value, meant: &Value, weight: i64| {
                let key = term["topologyKey"].as_str().unwrap();
                let (mine, theirs) = (&node["metadata"]["labels"][key], &there["metadata"]["labels"][key]);
                if !mine.is_null() && mine == theirs && self.means(owner, term, meant) {
                    sum += weight;
                }
            };
            for (owner, meant) in [(pod, other), (other, pod)] {
                for (kind, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
                    for preferred in terms(owner, kind, PREFERRED) {
                        add(owner, &preferred["podAffinityTerm"], meant, sign * preferred["weight"].as_i64().unwrap());
                    }
                }
            }
            for term in terms(other, "podAffinity", REQUIRED) {
                add(other, term, pod, 1);
            }
        }
        sum
    }
}

/// PodTopologySpread.
impl Cluster {
    fn constraints(&self, pod: &Value, when: &str) -> (Vec<Value>, bool) {
        let own = list(pod, "/spec/topologySpreadConstraints");
        if !own.is_empty() {
            return (own.iter().filter(|c| c["whenUnsatisfiable"] == when).cloned().collect(), true);
        }
        let mut merged = json!({"matchLabels": {}});
        for service in self.services.iter().filter(|s| s["metadata"]["namespace"] == pod["metadata"]["namespace"]) {
            let selector = service["spec"]["selector"].as_object().unwrap();
            if selector.iter().all(|(k, v)| pod["metadata"]["labels"][k] == *v) {
                selector.iter().for_each(|(k, v)| merged["matchLabels"][k] = v.clone());
            }
        }
        if merged == json!({"matchLabels": {}}) || when == "DoNotSchedule" {
            return (Vec::new(), false);
        }
        let default = |key: &str, skew: i64| json!({"maxSkew": skew, "topologyKey": key, "labelSelector": merged});
        (vec![default(HOST, 3), default(ZONE, 5)], false)
    }

    fn counts_node(&self, pod: &Value, constraint: &Value, node: &Value) -> bool {
        (constraint["nodeAffinityPolicy"] == "Ignore" || wants_node(pod, node))
            && (constraint["nodeTaintsPolicy"] != "Honor" || intolerable(pod, node, "NoSchedule").count() == 0)
    }

    fn counted(&self, pod: &Value, constraint: &Value, name: &str) -> i64 {
        let counts = |p: &&Value| {
            p["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && p["metadata"]["deletionTimestamp"].is_null()
                && selects(&constraint["labelSelector"], &p["metadata"]["labels"])
        };
        self.on(name).filter(counts).count() as i64
    }

    fn domain<'a>(node: &'a Value, constraint: &Value) -> Option<&'a str> {
        node["metadata"]["labels"][constraint["topologyKey"].as_str().unwrap()].as_str()
    }

    fn spread_allows(&self, pod: &Value, node: &Value) -> bool {
        let (constraints, _) = self.constraints(pod, "DoNotSchedule");
        constraints.iter().all(|constraint| {
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for (name, other) in &self.nodes {
                let in_all = constraints.iter().all(|c| Self::domain(other, c).is_some());
                if in_all && self.counts_node(pod, constraint, other) {
                    *domains.entry(Self::domain(other, constraint).unwrap()).or_default() += self.counted(pod, constraint, name);
                }
            }
            let few = (domains.len() as u64) < constraint["minDomains"].as_u64().unwrap_or(1);
            let least = if few { 0 } else { domains.values().copied().min().unwrap_or(i64::MAX) };
            let Some(domain) = Self::domain(node, constraint) else { return false };
            let own = i64::from(selects(&constraint["labelSelector"], &pod["metadata"]["labels"]));
            domains.get(domain).copied().unwrap_or(0) + own - least <= constraint["maxSkew"].as_i64().unwrap()
        })
    }

    fn spread_scores(&self, pod: &Value, feasible: &[&str]) -> Vec<i64> {
        let (constraints, needs_all) = self.constraints(pod, "ScheduleAnyway");
        if constraints.is_empty() {
            return vec![0; feasible.len()];
        }
        let whole = |node: &Value| constraints.iter().all(|c| Self::domain(node, c).is_some());
        let ignored = |name: &str| needs_all && !whole(&self.nodes[name]);
        let raw: Vec<i64> = feasible
            .iter()
            .map(|name| {
                let node = &self.nodes[*name];
                if ignored(name) {
                    return 0;
                }
                let mut sum = 0.0;
                for constraint in &constraints {
                    let Some(domain) = Self::domain(node, constraint) else { continue };
                    let hostname = constraint["topologyKey"] == HOST;
                    let others = feasible.iter().filter(|n| !ignored(n));
                    // Nodes without the label have the empty value together.
                    let domains: BTreeSet<Option<&str>> = others.clone().map(|n| Self::domain(&self.nodes[*n], constraint)).collect();
                    let size = if hostname { others.count() } else { domains.len() };
                    let count: i64 = if hostname {
                        self.counted(pod, constraint, name)
                    } else {
                        let same = |n: &Value| Self::domain(n, constraint) == Some(domain);
                        let counted = |n: &Value| (!needs_all || whole(n)) && self.counts_node(pod, constraint, n);
                        let nodes = self.nodes.iter().filter(|(_, n)| same(n) && counted(n));
                        nodes.map(|(name, _)| self.counted(pod, constraint, name)).sum()
                    };
                    sum += count as f64 * ((size + 2) as f64).ln() + (constraint["maxSkew"].as_i64().unwrap() - 1) as f64;
                }
                sum.round() as i64
            })
            .collect();
        let scored = || raw.iter().zip(feasible).filter(|(_, n)| !ignored(n)).map(|(s, _)| *s);
        let (most, least) = (scored().max().unwrap_or(0), scored().min().unwrap_or(0));
        let score = |(raw, name): (&i64, &&str)| match most {
            _ if ignored(name) => 0,
            0 => 100,
            _ => 100 * (most + least - raw) / most,
        };
        raw.iter().zip(feasible).map(score).collect()
    }
}

fn of_largest(scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    scores.into_iter().map(|s| if most == 0 { 0 } else { 100 * s / most }).collect()
}

fn min_max(scores: Vec<i64>) -> Vec<i64> {
    let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
    let score = |s: i64| if most == least { 0 } else { (100.0 * ((s - least) as f64 / (most - least) as f64)) as i64 };
    scores.into_iter().map(score).collect()
}

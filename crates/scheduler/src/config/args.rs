//! `profiles[].pluginConfig`: the arguments of plugins.

use super::{Invalid, parse_duration};
use crate::pod::{self, NodeAffinity, SpreadView};
use crate::profile::{DefaultSpread, Profile, Share, Strategy};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PluginConfig {
    pub name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Preemption {
    min_candidate_nodes_percentage: usize,
    min_candidate_nodes_absolute: usize,
}

impl Default for Preemption {
    fn default() -> Self {
        Preemption { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct InterPodAffinity {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Fit {
    ignored_resources: Vec<Box<str>>,
    ignored_resource_groups: Vec<Box<str>>,
    scoring_strategy: Option<Scoring>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scoring {
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    resources: Option<Vec<Resource>>,
    #[serde(default)]
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: Box<str>,
    #[serde(default)]
    weight: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spreading {
    default_constraints: Option<Vec<SpreadView>>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Balanced {
    resources: Option<Vec<Resource>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct VolumeBinding {
    bind_timeout_seconds: Option<i64>,
    shape: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct AddedAffinity {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Dynamic {
    filter_timeout: Option<String>,
    binding_timeout: Option<String>,
}

/// The arguments of a plugin, which may say of what kind they are.
struct Arguments {
    plugin: String,
    fields: serde_json::Map<String, Value>,
}

impl Arguments {
    fn of(plugin: String, args: Value) -> Result<Self, Invalid> {
        let mut fields = match args {
            Value::Object(fields) => fields,
            Value::Null => serde_json::Map::new(),
            other => return Err(Invalid::value(plugin, other, "args must be an object")),
        };
        let text = |value: Option<Value>| value.and_then(|v| v.as_str().map(str::to_owned)).filter(|t| !t.is_empty());
        let (version, kind) = (text(fields.remove("apiVersion")), text(fields.remove("kind")));
        match kind {
            Some(kind) if kind != format!("{plugin}Args") => {
                let group = version.as_deref().and_then(|v| v.split_once('/')).map(|(group, _)| format!(".{group}"));
                Err(Invalid::KindOfArguments(plugin, kind + &group.unwrap_or_default()))
            }
            _ => Ok(Arguments { plugin, fields }),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(self) -> Result<T, Invalid> {
        serde_json::from_value(Value::Object(self.fields)).map_err(|e| Invalid::Arguments(self.plugin, e))
    }
}

impl PluginConfig {
    pub(super) fn apply(self, path: &str, profile: &mut Profile) -> Result<(), Invalid> {
        let path = format!("{path}.args");
        let args = Arguments::of(self.name, self.args)?;
        let plugin = args.plugin.clone();
        match &*plugin {
            "DefaultPreemption" => preemption(&path, args.read()?, profile),
            "InterPodAffinity" => inter_pod(&path, args.read()?, profile),
            "NodeResourcesFit" => fit(&path, args.read()?, profile),
            "PodTopologySpread" => spreading(&path, args.read()?, profile),
            "NodeResourcesBalancedAllocation" => {
                let view: Balanced = args.read()?;
                if let Some(resources) = view.resources.filter(|r| !r.is_empty()) {
                    if let Some((at, resource)) = resources.iter().enumerate().find(|(_, r)| !matches!(r.weight, 0 | 1)) {
                        return Err(Invalid::value(format!("{path}.resources[{at}].weight"), resource.weight, "must be 1"));
                    }
                    profile.balanced = resources.into_iter().map(|r| r.name).collect();
                }
                Ok(())
            }
            "VolumeBinding" => {
                let view: VolumeBinding = args.read()?;
                if let Some(shape) = view.shape.filter(|s| !s.is_null()) {
                    let why = "unexpected field `shape`, feature StorageCapacityScoring is off";
                    return Err(Invalid::value(format!("{path}.shape"), shape, why));
                }
                let seconds = view.bind_timeout_seconds.unwrap_or(600);
                let refused = || {
                    Invalid::value(
                        format!("{path}.bindTimeoutSeconds"),
                        seconds,
                        "invalid BindTimeoutSeconds, should not be a negative value",
                    )
                };
                profile.bind_timeout_seconds = u64::try_from(seconds).map_err(|_| refused())?;
                Ok(())
            }
            "NodeAffinity" => {
                let view: AddedAffinity = args.read()?;
                if let Some(affinity) = view.added_affinity {
                    (profile.added_required, profile.added_preferred) = pod::node_affinity(affinity);
                }
                Ok(())
            }
            "DynamicResources" => {
                let view: Dynamic = args.read()?;
                let read = |text: Option<String>| {
                    let parsed = text.map(|text| parse_duration(&text).ok_or_else(|| Invalid::value(&path, text, "invalid duration")));
                    parsed.transpose()
                };
                // A search is bounded by its steps and not by time, so that it comes to the same end everywhere.
                read(view.filter_timeout)?;
                if let Some(timeout) = read(view.binding_timeout)? {
                    profile.device_timeout = timeout;
                }
                Ok(())
            }
            name => Err(Invalid::value(path, name, format!("plugin \"{name}\" takes no arguments"))),
        }
    }
}

fn preemption(path: &str, view: Preemption, profile: &mut Profile) -> Result<(), Invalid> {
    let (percent, at_least) = (view.min_candidate_nodes_percentage, view.min_candidate_nodes_absolute);
    if percent > 100 {
        return Err(Invalid::value(format!("{path}.minCandidateNodesPercentage"), percent, "not in valid range [0, 100]"));
    }
    if percent == 0 && at_least == 0 {
        let why = "cannot be zero at the same time as minCandidateNodesPercentage";
        return Err(Invalid::value(format!("{path}.minCandidateNodesAbsolute"), at_least, why));
    }
    profile.candidates = Share { percent, at_least };
    Ok(())
}

fn inter_pod(path: &str, view: InterPodAffinity, profile: &mut Profile) -> Result<(), Invalid> {
    let weight = view.hard_pod_affinity_weight.unwrap_or(1);
    if !(0..=100).contains(&weight) {
        return Err(Invalid::value(format!("{path}.hardPodAffinityWeight"), weight, "not in valid range [0, 100]"));
    }
    profile.hard_affinity_weight = weight;
    profile.ignore_preferred_of_existing = view.ignore_preferred_terms_of_existing_pods;
    Ok(())
}

fn fit(path: &str, view: Fit, profile: &mut Profile) -> Result<(), Invalid> {
    profile.ignored_resources.extend(view.ignored_resources);
    if let Some(group) = view.ignored_resource_groups.iter().find(|g| g.contains('/')) {
        return Err(Invalid::value(format!("{path}.ignoredResourceGroups"), &**group, "resource group name can't contain '/'"));
    }
    profile.ignored_groups = view.ignored_resource_groups;
    let Some(strategy) = view.scoring_strategy else { return Ok(()) };
    let path = format!("{path}.scoringStrategy");
    if let Some(resources) = strategy.resources.filter(|r| !r.is_empty()) {
        for resource in &resources {
            if !(0..=100).contains(&resource.weight) {
                return Err(Invalid::value(format!("{path}.resources"), resource.weight, "resource weight not in valid range (0, 100]"));
            }
        }
        profile.fit = resources.into_iter().map(|r| (r.name, if r.weight == 0 { 1 } else { r.weight })).collect();
    }
    profile.strategy = match strategy.r#type.as_deref().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Strategy::Least,
        "MostAllocated" => Strategy::Most,
        "RequestedToCapacityRatio" => Strategy::Ratio(shape(&path, strategy.requested_to_capacity_ratio)?),
        other => return Err(Invalid::value(format!("{path}.type"), other, "Unsupported value")),
    };
    Ok(())
}

fn shape(path: &str, ratio: Option<Ratio>) -> Result<Vec<(i64, i64)>, Invalid> {
    let points: Vec<(i64, i64)> = ratio.into_iter().flat_map(|r| r.shape).map(|p| (p.utilization, p.score)).collect();
    let path = format!("{path}.requestedToCapacityRatio.shape");
    if points.is_empty() {
        return Err(Invalid::value(path, "", "at least one point must be specified"));
    }
    if !points.is_sorted_by(|a, b| a.0 < b.0) {
        return Err(Invalid::value(path, points.len(), "utilization values must be sorted in increasing order"));
    }
    if points.iter().any(|(used, score)| !(0..=100).contains(used) || !(0..=10).contains(score)) {
        return Err(Invalid::value(path, points.len(), "utilization not in valid range [0, 100], or score not in valid range [0, 10]"));
    }
    Ok(points)
}

fn spreading(path: &str, view: Spreading, profile: &mut Profile) -> Result<(), Invalid> {
    let list = view.default_constraints.unwrap_or_default();
    match view.defaulting_type.as_deref().unwrap_or("System") {
        "System" if list.is_empty() => profile.spread = DefaultSpread::System,
        "System" => {
            let why = "when .defaultingType is System, .defaultConstraints must be empty";
            return Err(Invalid::value(format!("{path}.defaultConstraints"), list.len(), why));
        }
        "List" => {
            let read = |view| pod::spread(view, &Box::default());
            let list: Result<Vec<_>, _> = list.into_iter().map(read).collect();
            let refused = |e: pod::Unreadable| Invalid::value(format!("{path}.defaultConstraints"), "", e.to_string());
            profile.spread = DefaultSpread::List(list.map_err(refused)?);
        }
        other => return Err(Invalid::value(format!("{path}.defaultingType"), other, "Unsupported value")),
    }
    Ok(())
}

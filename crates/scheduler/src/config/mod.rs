//! A KubeSchedulerConfiguration (`kubescheduler.config.k8s.io/v1`): read strictly, with upstream's defaults.
//!
//! It becomes [`Profile`]s and a few settings; nothing else of the scheduler sees the file's shape.

mod args;
mod plugins;

use crate::extender;
use crate::profile::Profile;
use crate::queue::{Backoff, LONGEST_WAIT};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It is another kind of file.
    #[error("no kind \"{1}\" is registered for version \"{0}\"")]
    Kind(String, String),
    /// Its shape is wrong.
    #[error("strict decoding error: {0}")]
    Shape(#[from] serde_json::Error),
    /// The shape of a plugin's arguments is.
    #[error("decoding args for plugin {0}: strict decoding error: {1}")]
    Arguments(String, serde_json::Error),
    /// Arguments are of another kind than the plugin's.
    #[error("args for plugin {0} were not of type {0}Args.kubescheduler.config.k8s.io, got {1}")]
    KindOfArguments(String, String),
    /// A value is.
    #[error("{path}: Invalid value: {value}: {why}")]
    Value {
        /// Where.
        path: String,
        /// What.
        value: Value,
        /// Why.
        why: String,
    },
}

impl Invalid {
    fn value(path: impl Into<String>, value: impl Into<Value>, why: impl Into<String>) -> Self {
        Invalid::Value { path: path.into(), value: value.into(), why: why.into() }
    }
}

/// Settings of the election of one scheduler among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    /// Whether there is one.
    pub elect: bool,
    /// Namespace of the lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `leaseDuration`.
    pub lease_duration: Duration,
    /// `renewDeadline`.
    pub renew_deadline: Duration,
    /// `retryPeriod`.
    pub retry_period: Duration,
}

/// A webhook that takes part in placing pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extender {
    /// Where it is, without the verbs.
    pub url_prefix: String,
    /// Verb that filters nodes; empty: it does not.
    pub filter_verb: String,
    /// Verb that trims the victims of preemption.
    pub preempt_verb: String,
    /// Verb that scores nodes.
    pub prioritize_verb: String,
    /// Weight of its scores.
    pub weight: i64,
    /// Verb that binds.
    pub bind_verb: String,
    /// HTTPS also where `tlsConfig` is empty.
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    /// Certificates.
    pub tls_config: Option<Value>,
    /// How long it may take.
    #[serde(rename = "httpTimeout")]
    pub http_timeout: Option<String>,
    /// It wants names of nodes and not whole nodes.
    pub node_cache_capable: bool,
    /// It is asked only about pods that ask for these resources.
    pub managed_resources: Vec<ManagedResource>,
    /// Pods are placed also when it does not answer.
    pub ignorable: bool,
}

impl Default for Extender {
    fn default() -> Self {
        Extender {
            url_prefix: String::new(),
            filter_verb: String::new(),
            preempt_verb: String::new(),
            prioritize_verb: String::new(),
            weight: 0,
            bind_verb: String::new(),
            enable_https: false,
            tls_config: None,
            http_timeout: None,
            node_cache_capable: false,
            managed_resources: Vec::new(),
            ignorable: false,
        }
    }
}

/// A resource that an extender knows about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedResource {
    /// Name.
    pub name: String,
    /// The scheduler itself does not look at it.
    pub ignored_by_scheduler: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// At least one.
    pub profiles: Arc<[Profile]>,
    /// How long pods stay back after a try.
    pub backoff: Backoff,
    /// How long they wait for something to change (`--pod-max-in-unschedulable-pods-duration`).
    pub longest_wait: Duration,
    /// The election.
    pub leader_election: LeaderElection,
    /// Webhooks.
    pub extenders: Arc<[Arc<extender::Extender>]>,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            profiles: [Profile::default()].into(),
            backoff: Backoff::default(),
            longest_wait: LONGEST_WAIT,
            leader_election: LeaderElection {
                elect: true,
                namespace: "kube-system".to_owned(),
                name: "kube-scheduler".to_owned(),
                lease_duration: Duration::from_secs(15),
                renew_deadline: Duration::from_secs(10),
                retry_period: Duration::from_secs(2),
            },
            extenders: [].into(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    parallelism: Option<i64>,
    #[serde(default)]
    leader_election: Option<ElectionView>,
    #[serde(default, rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    pod_initial_backoff_seconds: Option<i64>,
    #[serde(default)]
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Option<Vec<ProfileView>>,
    #[serde(default)]
    extenders: Option<Vec<Extender>>,
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ElectionView {
    #[serde(default)]
    leader_elect: Option<bool>,
    #[serde(default)]
    lease_duration: Option<String>,
    #[serde(default)]
    renew_deadline: Option<String>,
    #[serde(default)]
    retry_period: Option<String>,
    #[serde(default)]
    resource_lock: Option<String>,
    #[serde(default)]
    resource_name: Option<String>,
    #[serde(default)]
    resource_namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileView {
    #[serde(default)]
    scheduler_name: Option<String>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: Option<plugins::Plugins>,
    #[serde(default)]
    plugin_config: Option<Vec<args::PluginConfig>>,
}

impl Configuration {
    /// Reads a configuration file that has been parsed.
    pub fn read(file: Value) -> Result<Self, Invalid> {
        let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
        if (text("apiVersion").as_str(), text("kind").as_str()) != (API_VERSION, KIND) {
            return Err(Invalid::Kind(text("apiVersion"), text("kind")));
        }
        let file: File = serde_json::from_value(file)?;
        if let Some(parallelism) = file.parallelism.filter(|n| *n <= 0) {
            return Err(Invalid::value("parallelism", parallelism, "should be an integer value greater than zero"));
        }
        let mut configuration = Configuration::default();
        configuration.backoff = backoff(file.pod_initial_backoff_seconds, file.pod_max_backoff_seconds)?;
        let percentage = percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
        if let Some(view) = file.leader_election {
            configuration.leader_election = election(view, configuration.leader_election)?;
        }
        let views = file.profiles.unwrap_or_else(|| {
            vec![ProfileView { scheduler_name: None, percentage_of_nodes_to_score: None, plugins: None, plugin_config: None }]
        });
        let alone = views.len() == 1;
        let mut profiles: Vec<Profile> = Vec::new();
        for (at, view) in views.into_iter().enumerate() {
            let profile = profile(&format!("profiles[{at}]"), view, alone, percentage)?;
            if profiles.iter().any(|p| p.name == profile.name) {
                return Err(Invalid::value(format!("profiles[{at}].schedulerName"), &*profile.name, "Duplicate value"));
            }
            profiles.push(profile);
        }
        configuration.extenders = extenders(file.extenders.unwrap_or_default(), &mut profiles)?;
        configuration.profiles = profiles.into();
        Ok(configuration)
    }

    /// The number of the profile that a scheduler name means.
    pub fn profile_named(&self, name: &str) -> Option<u16> {
        let at = self.profiles.iter().position(|p| *p.name == *name)?;
        u16::try_from(at).ok()
    }
}

fn backoff(first: Option<i64>, longest: Option<i64>) -> Result<Backoff, Invalid> {
    let (first, longest) = (first.unwrap_or(1), longest.unwrap_or(10));
    if first < 0 || first == 0 && longest != 0 {
        return Err(Invalid::value("podInitialBackoffSeconds", first, "must be greater than 0"));
    }
    if longest < first && longest != 0 {
        return Err(Invalid::value("podMaxBackoffSeconds", longest, "must be greater than or equal to PodInitialBackoffSeconds"));
    }
    let seconds = |n: i64| Duration::from_secs(u64::try_from(n).unwrap_or(0));
    Ok(Backoff { first: seconds(first), longest: seconds(longest) })
}

fn percentage(path: &str, value: Option<i64>) -> Result<usize, Invalid> {
    let value = value.unwrap_or(0);
    match usize::try_from(value) {
        Ok(percent @ 0..=100) => Ok(percent),
        _ => Err(Invalid::value(path, value, "not in valid range [0-100]")),
    }
}

fn profile(path: &str, view: ProfileView, alone: bool, percentage_of_all: usize) -> Result<Profile, Invalid> {
    let mut profile = Profile { percentage: percentage_of_all, ..Profile::default() };
    match view.scheduler_name.filter(|n| !n.is_empty()) {
        Some(name) => profile.name = name.into(),
        None if alone => {}
        None => return Err(Invalid::value(format!("{path}.schedulerName"), "", "Required value")),
    }
    if view.percentage_of_nodes_to_score.is_some() {
        profile.percentage = percentage(&format!("{path}.percentageOfNodesToScore"), view.percentage_of_nodes_to_score)?;
    }
    if let Some(plugins) = view.plugins {
        plugins.apply(&format!("{path}.plugins"), &mut profile)?;
    }
    let mut seen: Vec<String> = Vec::new();
    for (at, config) in view.plugin_config.into_iter().flatten().enumerate() {
        let path = format!("{path}.pluginConfig[{at}]");
        if seen.contains(&config.name) {
            return Err(Invalid::value(path, config.name, "Duplicate value"));
        }
        seen.push(config.name.clone());
        config.apply(&path, &mut profile)?;
    }
    Ok(profile)
}

fn election(view: ElectionView, default: LeaderElection) -> Result<LeaderElection, Invalid> {
    let duration = |path: &str, text: Option<String>, or: Duration| match text {
        None => Ok(or),
        Some(text) => parse_duration(&text).ok_or_else(|| Invalid::value(format!("leaderElection.{path}"), text, "invalid duration")),
    };
    if let Some(lock) = view.resource_lock.filter(|l| l != "leases" && !l.is_empty()) {
        return Err(Invalid::value("leaderElection.resourceLock", lock, "resourceLock value must be \"leases\""));
    }
    let election = LeaderElection {
        elect: view.leader_elect.unwrap_or(default.elect),
        namespace: view.resource_namespace.filter(|n| !n.is_empty()).unwrap_or(default.namespace),
        name: view.resource_name.filter(|n| !n.is_empty()).unwrap_or(default.name),
        lease_duration: duration("leaseDuration", view.lease_duration, default.lease_duration)?,
        renew_deadline: duration("renewDeadline", view.renew_deadline, default.renew_deadline)?,
        retry_period: duration("retryPeriod", view.retry_period, default.retry_period)?,
    };
    if election.lease_duration <= election.renew_deadline {
        let seconds = election.renew_deadline.as_secs();
        return Err(Invalid::value("leaderElection.leaseDuration", seconds, "LeaseDuration must be greater than RenewDeadline"));
    }
    Ok(election)
}

/// Whether a resource is none of Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

/// Go's notation of durations, as far as configurations use it: `1m30s`, `500ms`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

fn extenders(list: Vec<Extender>, profiles: &mut [Profile]) -> Result<Arc<[Arc<extender::Extender>]>, Invalid> {
    let (mut binders, mut managed) = (0, BTreeSet::new());
    for (at, extender) in list.iter().enumerate() {
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let why = "must have a positive weight applied to it";
            return Err(Invalid::value(format!("extenders[{at}].weight"), extender.weight, why));
        }
        if extender.http_timeout.as_deref().is_some_and(|t| parse_duration(t).is_none()) {
            return Err(Invalid::value(format!("extenders[{at}].httpTimeout"), extender.http_timeout.clone(), "invalid duration"));
        }
        binders += usize::from(!extender.bind_verb.is_empty());
        for (number, resource) in extender.managed_resources.iter().enumerate() {
            let refused = |why| Invalid::value(format!("extenders[{at}].managedResources[{number}].name"), &*resource.name, why);
            if !is_extended(&resource.name) {
                return Err(refused("is an invalid extended resource name"));
            }
            if !managed.insert(&*resource.name) {
                return Err(refused("duplicate extender managed resource name"));
            }
        }
        for resource in extender.managed_resources.iter().filter(|r| r.ignored_by_scheduler) {
            profiles.iter_mut().for_each(|p| p.ignored_resources.push(resource.name.as_str().into()));
        }
    }
    if binders > 1 {
        return Err(Invalid::value("extenders", binders, "only one extender can implement bind"));
    }
    let client = |(at, config): (usize, &Extender)| {
        let refused = |why| Invalid::value(format!("extenders[{at}]"), &*config.url_prefix, why);
        extender::Extender::new(config).map(Arc::new).map_err(refused)
    };
    list.iter().enumerate().map(client).collect()
}

//! What a KubeSchedulerConfiguration says, what of it is refused, and what it changes about decisions.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_scheduler::config::Configuration;
use ferrokube_scheduler::plugins::{Plugin, fit};
use ferrokube_scheduler::profile::{DefaultSpread, Profile, Share, Strategy};
use serde_json::{Value, json};
use std::time::Duration;

fn file(more: &Value) -> Value {
    let mut file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"});
    for (key, value) in more.as_object().into_iter().flatten() {
        file[key] = value.clone();
    }
    file
}

fn read(more: &Value) -> Configuration {
    Configuration::read(file(more)).unwrap()
}

fn with_plugins(plugins: &Value) -> Profile {
    read(&json!({"profiles": [{"plugins": plugins}]})).profiles[0].clone()
}

fn with_args(name: &str, args: &Value) -> Profile {
    read(&json!({"profiles": [{"pluginConfig": [{"name": name, "args": args}]}]})).profiles[0].clone()
}

#[test]
fn a_file_that_says_nothing_is_the_default() {
    let configuration = read(&json!({}));
    assert_eq!(*configuration.profiles, [Profile::default()]);
    assert_eq!((configuration.backoff.first, configuration.backoff.longest), (Duration::from_secs(1), Duration::from_secs(10)));
    let election = &configuration.leader_election;
    assert!(election.elect);
    assert_eq!((&*election.namespace, &*election.name), ("kube-system", "kube-scheduler"));
}

#[test]
fn settings_of_all_profiles_and_of_one() {
    let configuration = read(&json!({
        "parallelism": 8,
        "percentageOfNodesToScore": 30,
        "podInitialBackoffSeconds": 2,
        "podMaxBackoffSeconds": 20,
        "leaderElection": {"leaderElect": false, "leaseDuration": "1m30s", "renewDeadline": "20s", "retryPeriod": "500ms", "resourceName": "mine"},
        "clientConnection": {"qps": 100},
        "profiles": [{"schedulerName": "one"}, {"schedulerName": "two", "percentageOfNodesToScore": 100}],
    }));
    assert_eq!(configuration.backoff.longest, Duration::from_secs(20));
    assert_eq!(configuration.leader_election.lease_duration, Duration::from_secs(90));
    assert_eq!(configuration.leader_election.retry_period, Duration::from_millis(500));
    assert!(!configuration.leader_election.elect);
    assert_eq!(configuration.profiles.iter().map(|p| p.percentage).collect::<Vec<_>>(), [30, 100]);
    assert_eq!((configuration.profile_named("two"), configuration.profile_named("default-scheduler")), (Some(1), None));
    assert_eq!(
        (configuration.profiles[0].enough(1000), configuration.profiles[1].enough(1000), Profile::default().enough(1000)),
        (300, 1000, 420)
    );
}

#[test]
fn plugins_are_enabled_disabled_and_weighted() {
    let profile =
        with_plugins(&json!({"score": {"disabled": [{"name": "ImageLocality"}], "enabled": [{"name": "NodeAffinity", "weight": 7}]}}));
    assert_eq!(
        (profile.weight(Plugin::ImageLocality), profile.weight(Plugin::NodeAffinity), profile.weight(Plugin::TaintToleration)),
        (0, 7, 3)
    );
    let profile = with_plugins(&json!({"filter": {"disabled": [{"name": "NodePorts"}]}, "postFilter": {"disabled": [{"name": "*"}]}}));
    assert!(!profile.filters(Plugin::NodePorts) && profile.filters(Plugin::NodeResourcesFit) && !profile.has(Plugin::DefaultPreemption));
    let enabled = ["PrioritySort", "DefaultBinder", "NodeResourcesFit"].map(|n| json!({"name": n}));
    let profile = with_plugins(&json!({"multiPoint": {"disabled": [{"name": "*"}], "enabled": enabled}}));
    let scoring: Vec<Plugin> = Plugin::ALL.into_iter().filter(|p| profile.weight(*p) > 0).collect();
    assert_eq!(scoring, [Plugin::NodeResourcesFit]);
    assert!(profile.filters(Plugin::NodeResourcesFit) && !profile.filters(Plugin::TaintToleration));
}

#[test]
fn arguments_of_plugins() {
    let fit = json!({"ignoredResourceGroups": ["example.com"], "scoringStrategy": {"type": "RequestedToCapacityRatio",
        "resources": [{"name": "cpu", "weight": 3}], "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}});
    let profile = with_args("NodeResourcesFit", &fit);
    assert_eq!(profile.strategy, Strategy::Ratio(vec![(0, 0), (100, 10)]));
    assert_eq!(profile.fit, [("cpu".into(), 3)]);
    assert_eq!(profile.ignored_groups, ["example.com".into()]);
    let typed = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "InterPodAffinityArgs", "hardPodAffinityWeight": 9});
    assert_eq!(with_args("InterPodAffinity", &typed).hard_affinity_weight, 9);
    assert_eq!(with_args("DefaultPreemption", &json!({"minCandidateNodesAbsolute": 7})).candidates, Share { percent: 10, at_least: 7 });
    assert_eq!(with_args("VolumeBinding", &json!({"bindTimeoutSeconds": 5})).bind_timeout_seconds, 5);
    let constraint = json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway"});
    let profile = with_args("PodTopologySpread", &json!({"defaultingType": "List", "defaultConstraints": [constraint]}));
    assert!(matches!(&profile.spread, DefaultSpread::List(list) if list.len() == 1 && list[0].anyway && &*list[0].key == "rack"));
    let added = json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a"]}]}]}}});
    assert_eq!(with_args("NodeAffinity", &added).added_required.unwrap().len(), 1);
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let profile = |profile: Value| json!({"profiles": [profile]});
    let args = |name: &str, args: Value| profile(json!({"pluginConfig": [{"name": name, "args": args}]}));
    let extenders = |list: Value| json!({"extenders": list});
    for (more, want) in [
        (json!({"apiVersion": "v1"}), "no kind \"KubeSchedulerConfiguration\" is registered"),
        (json!({"profile": []}), "unknown field `profile`"),
        (json!({"parallelism": 0}), "parallelism: Invalid value: 0"),
        (json!({"percentageOfNodesToScore": 101}), "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
        (json!({"podInitialBackoffSeconds": 20}), "podMaxBackoffSeconds: Invalid value: 10"),
        (json!({"leaderElection": {"leaseDuration": "5s"}}), "LeaseDuration must be greater than RenewDeadline"),
        (json!({"leaderElection": {"retryPeriod": "soon"}}), "leaderElection.retryPeriod: Invalid value: \"soon\": invalid duration"),
        (
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName: Invalid value: \"a\": Duplicate value",
        ),
        (json!({"profiles": [{"schedulerName": "a"}, {}]}), "profiles[1].schedulerName: Invalid value: \"\": Required value"),
        (
            profile(json!({"plugins": {"score": {"enabled": [{"name": "Nope"}]}}})),
            "profiles[0].plugins.score.enabled[0].name: Invalid value: \"Nope\"",
        ),
        (profile(json!({"plugins": {"bind": {"disabled": [{"name": "*"}]}}})), "at least one bind plugin is required"),
        (args("Nope", json!({})), "plugin \"Nope\" takes no arguments"),
        (args("InterPodAffinity", json!({"hardPodAffinityWeight": 101})), "hardPodAffinityWeight: Invalid value: 101"),
        (
            args("InterPodAffinity", json!({"hardAffinityWeight": 1})),
            "decoding args for plugin InterPodAffinity: strict decoding error: unknown field `hardAffinityWeight`",
        ),
        (
            args("InterPodAffinity", json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "NodeAffinityArgs"})),
            "args for plugin InterPodAffinity were not of type InterPodAffinityArgs.kubescheduler.config.k8s.io, got NodeAffinityArgs.kubescheduler.config.k8s.io",
        ),
        (args("NodeResourcesFit", json!({"scoringStrategy": {"kind": "x"}})), "unknown field `kind`"),
        (
            args("NodeResourcesBalancedAllocation", json!({"resources": [{"name": "cpu"}, {"name": "memory", "weight": 2}]})),
            "resources[1].weight: Invalid value: 2: must be 1",
        ),
        (args("VolumeBinding", json!({"shape": [{"utilization": 0, "score": 0}]})), "StorageCapacityScoring is off"),
        (
            extenders(json!([{"urlPrefix": "http://127.0.0.1:1", "prioritizeVerb": "p"}])),
            "extenders[0].weight: Invalid value: 0: must have a positive weight",
        ),
        (
            extenders(json!([{"managedResources": [{"name": "example.com/a"}]}, {"managedResources": [{"name": "example.com/a"}]}])),
            "extenders[1].managedResources[0].name: Invalid value: \"example.com/a\": duplicate extender managed resource name",
        ),
        (
            extenders(json!([{"managedResources": [{"name": "kubernetes.io/a"}]}])),
            "extenders[0].managedResources[0].name: Invalid value: \"kubernetes.io/a\": is an invalid extended resource name",
        ),
        (args("NodeResourcesFit", json!({"scoringStrategy": {"type": "Best"}})), "scoringStrategy.type: Invalid value: \"Best\""),
        (
            args("NodeResourcesFit", json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}})),
            "at least one point must be specified",
        ),
        (
            args(
                "PodTopologySpread",
                json!({"defaultConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]}),
            ),
            "must be empty",
        ),
    ] {
        let error = Configuration::read(file(&more)).unwrap_err().to_string();
        assert!(error.contains(want), "{more}: {error}");
    }
}

#[test]
fn strategies_prefer_emptier_fuller_or_the_line_through_their_points() {
    let ratio = Strategy::Ratio(vec![(0, 0), (50, 10), (100, 2)]);
    // cpu in use with the pod, percent -> scores
    for (used, least, most, line) in [("1", 75, 25, 50), ("2", 50, 50, 100), ("3", 25, 75, 60), ("4", 0, 100, 20), ("5", 0, 100, 20)] {
        for (strategy, want) in [(Strategy::Least, least), (Strategy::Most, most), (ratio.clone(), line)] {
            let profile = Profile { strategy: strategy.clone(), fit: vec![("cpu".into(), 1)], ..Profile::default() };
            let mut world = World::with_profile(&[node("n", "4", "8Gi", "z")], profile.clone());
            let id = world.add(&pod("p", "x", used, "", &json!({})));
            assert_eq!(
                fit::score(&world.state.devices, &profile, world.state.class_of(id), world.state.node(0)),
                want,
                "{strategy:?} {used}"
            );
        }
    }
}

#[test]
fn a_filter_that_is_off_rejects_nobody() {
    let profile = with_plugins(&json!({"filter": {"disabled": [{"name": "NodeResourcesFit"}]}}));
    let mut world = World::with_profile(&[node("n", "1", "1Gi", "z")], profile);
    let id = world.add(&pod("p", "x", "100", "", &json!({})));
    assert_eq!(world.place(id), Ok("n".to_owned()));
}

#[test]
fn added_affinity_keeps_a_profile_to_its_nodes() {
    let added = json!({"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]}]}]}}});
    let mut world = World::with_profile(&[node("n", "4", "8Gi", "a"), node("m", "1", "8Gi", "b")], with_args("NodeAffinity", &added));
    let id = world.add(&pod("p", "x", "1", "", &json!({})));
    assert_eq!(world.place(id), Ok("m".to_owned()));
    let id = world.add(&pod("q", "x", "1", "", &json!({})));
    let said = world.place(id).unwrap_err();
    assert!(said.contains("1 node(s) didn't match scheduler-enforced node affinity"), "{said}");
}

//! The status as tables: what the runtime shows and what the worker knows, against what users see.

use super::*;
use ferrokube_cri::v1 as cri;
use serde_json::{Value, json};

struct World {
    pod: Pod,
    observed: Observed,
    waiting: BTreeMap<String, Waiting>,
    ready: BTreeSet<String>,
    started: BTreeSet<String>,
    verdict: Option<Waiting>,
    ended: bool,
    rejected: bool,
}

#[derive(Clone, Copy)]
enum Is {
    /// Running: ready and started.
    Up,
    /// Running: started but not ready.
    Unready,
    Exited(i32),
}

fn world(spec: Value) -> World {
    let mut observed = Observed::nothing();
    let network = Some(cri::PodSandboxNetworkStatus { ip: "10.1.0.5".into(), ..Default::default() });
    observed.sandboxes.push(cri::PodSandboxStatus { id: "box".into(), network, ..Default::default() });
    World {
        pod: serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "spec": spec})).unwrap(),
        observed,
        waiting: BTreeMap::new(),
        ready: BTreeSet::new(),
        started: BTreeSet::new(),
        verdict: None,
        ended: false,
        rejected: false,
    }
}

fn one(policy: &str) -> World {
    world(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "app:1"}]}))
}

fn staged(policy: &str) -> World {
    world(json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}))
}

impl World {
    fn with(mut self, name: &str, restarts: u32, is: Is) -> Self {
        let id = format!("{name}{restarts}");
        let (state, exit_code) = match is {
            Is::Up | Is::Unready => (State::ContainerRunning, 0),
            Is::Exited(code) => (State::ContainerExited, code),
        };
        if matches!(is, Is::Up) {
            self.ready.insert(id.clone());
        }
        if !matches!(is, Is::Exited(_)) {
            self.started.insert(id.clone());
        }
        let annotations = BTreeMap::from([(annotations::RESTART_COUNT.to_owned(), restarts.to_string())]);
        let status =
            cri::ContainerStatus { id, state: state.into(), exit_code, annotations, started_at: 1, finished_at: 2, ..Default::default() };
        self.observed.containers.insert(0, Container { name: name.into(), sandbox: "box".into(), status });
        self
    }

    fn waits(mut self, name: &str, reason: &str) -> Self {
        self.waiting.insert(name.into(), (reason.into(), "why".into()));
        self
    }

    fn ended(mut self) -> Self {
        self.ended = true;
        self.observed.sandboxes.clear();
        self
    }

    fn status(&self) -> PodStatus {
        status(&Facts {
            pod: &self.pod,
            observed: &self.observed,
            waiting: &self.waiting,
            ready: &self.ready,
            started: &self.started,
            resizes: &Resizes::default(),
            messages: &BTreeMap::from([("c0".to_owned(), "last words".to_owned()), ("i0".to_owned(), String::new())]),
            host_ips: &["192.0.2.1".to_owned()],
            runtime: "rt",
            start_time: Timestamp::UNIX_EPOCH,
            verdict: self.verdict.as_ref(),
            ended: self.ended,
            rejected: self.rejected,
            now: Timestamp::from_second(100).unwrap(),
        })
    }

    /// Writes the status into the pod, as the API does.
    fn written(mut self) -> Self {
        self.pod.status = Some(self.status());
        self
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    /// `waiting Reason`, `running`, `terminated Reason code`.
    fn state(&self, name: &str) -> String {
        spoken(find(&self.status(), name).state.as_ref().unwrap())
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let found = self.status().conditions.unwrap().into_iter().find(|c| c.type_ == kind).unwrap();
        (found.status, found.reason.unwrap_or_default())
    }
}

fn find<'a>(status: &'a PodStatus, name: &str) -> &'a ContainerStatus {
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name).unwrap()
}

fn spoken(state: &ContainerState) -> String {
    match (&state.waiting, &state.running, &state.terminated) {
        (Some(w), _, _) => format!("waiting {}", w.reason.as_deref().unwrap_or_default()),
        (_, Some(_), _) => "running".into(),
        (_, _, Some(t)) => format!("terminated {} {}", t.reason.as_deref().unwrap_or_default(), t.exit_code),
        _ => "nothing".into(),
    }
}

#[test]
fn the_phase_follows_the_containers_and_the_restart_policy() {
    let two = |policy: &str| world(json!({"restartPolicy": policy, "containers": [{"name": "c"}, {"name": "d"}]}));
    let cases = [
        ("nothing yet", one("Always"), "Pending"),
        ("running", one("Always").with("c", 0, Is::Up), "Running"),
        ("one of two", two("Always").with("c", 0, Is::Up), "Pending"),
        ("will be restarted", one("Always").with("c", 0, Is::Exited(1)), "Running"),
        ("waits for its restart", one("Always").with("c", 0, Is::Exited(1)).waits("c", "CrashLoopBackOff"), "Running"),
        ("done", one("Never").with("c", 0, Is::Exited(0)), "Succeeded"),
        ("done on failure", one("OnFailure").with("c", 0, Is::Exited(0)), "Succeeded"),
        ("again on failure", one("OnFailure").with("c", 0, Is::Exited(2)), "Running"),
        ("failed", one("Never").with("c", 0, Is::Exited(2)), "Failed"),
        ("one done, one failed", two("Never").with("c", 0, Is::Exited(0)).with("d", 0, Is::Exited(1)), "Failed"),
        ("one done, one runs", two("Never").with("c", 0, Is::Exited(0)).with("d", 0, Is::Up), "Running"),
        ("initializing", staged("Always").with("i", 0, Is::Up), "Pending"),
        ("init failed for good", staged("Never").with("i", 0, Is::Exited(1)), "Failed"),
        ("init is tried again", staged("Always").with("i", 0, Is::Exited(1)), "Pending"),
        ("deleted while running", one("Always").with("c", 0, Is::Exited(137)).ended(), "Failed"),
        ("deleted, and it ended well", one("Always").with("c", 0, Is::Exited(0)).ended(), "Succeeded"),
    ];
    for (what, world, expected) in cases {
        assert_eq!(world.phase(), expected, "{what}");
    }
}

#[test]
fn once_over_is_always_over() {
    let mut world = one("Never").with("c", 0, Is::Exited(0)).written();
    world.observed.containers.clear();
    assert_eq!(world.phase(), "Succeeded");
    assert_eq!(world.state("c"), "terminated Completed 0", "the last state outlives the runtime's record");
}

#[test]
fn a_verdict_makes_the_pod_failed_with_its_reason() {
    let verdict = Some(("Evicted".to_owned(), "low on memory".to_owned()));
    let mut running = one("Always").with("c", 0, Is::Up);
    running.verdict = verdict.clone();
    assert_eq!((running.phase().as_str(), running.status().reason), ("Running", None), "not before its processes have ended");
    let mut world = one("Always").with("c", 0, Is::Exited(137));
    world.verdict = verdict;
    let status = world.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref()),
        (Some("Failed"), Some("Evicted"), Some("low on memory"))
    );
    assert_eq!(world.condition("DisruptionTarget"), ("True".into(), "TerminationByKubelet".into()));
    let mut refused = one("Always").ended();
    refused.verdict = Some(("OutOfcpu".into(), "Pod was rejected".into()));
    refused.rejected = true;
    assert_eq!(refused.status().container_statuses, Some(Vec::new()), "kubectl shows the pod's reason, not a container's");
}

#[test]
fn waiting_reasons_say_what_is_waited_for() {
    assert_eq!(one("Always").state("c"), "waiting ContainerCreating");
    assert_eq!(staged("Always").state("i"), "waiting PodInitializing");
    assert_eq!(staged("Always").state("c"), "waiting PodInitializing");
    assert_eq!(one("Always").waits("c", "ErrImagePull").state("c"), "waiting ErrImagePull");
    let crashing = one("Always").with("c", 2, Is::Exited(3)).waits("c", "CrashLoopBackOff");
    assert_eq!(crashing.state("c"), "waiting CrashLoopBackOff");
    let status = crashing.status();
    assert_eq!(spoken(find(&status, "c").last_state.as_ref().unwrap()), "terminated Error 3");
    assert_eq!(find(&status, "c").restart_count, 2);
}

#[test]
fn the_state_before_is_kept_with_its_last_words() {
    let world = one("Always").with("c", 0, Is::Exited(1)).with("c", 1, Is::Up);
    let status = world.status();
    let container = find(&status, "c");
    assert_eq!((container.restart_count, container.ready, container.started), (1, true, Some(true)));
    let last = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.message.as_deref(), last.container_id.as_deref()), (Some("last words"), Some("rt://c0")));
}

#[test]
fn what_the_runtime_says_of_an_end_comes_before_the_last_words_and_is_not_lost_without_any() {
    for (words, name, expected) in
        [("no such file", "c", "no such file: last words"), ("no such file", "i", "no such file"), ("", "c", "last words")]
    {
        let mut world = world(json!({"restartPolicy": "Never", "containers": [{"name": name}]})).with(name, 0, Is::Exited(128));
        world.observed.containers[0].status.message = words.into();
        let status = world.status();
        let ended = find(&status, name).state.as_ref().and_then(|s| s.terminated.as_ref()).unwrap();
        assert_eq!(ended.message.as_deref(), Some(expected));
    }
}

#[test]
fn containers_that_never_came_to_run_are_lost_only_when_the_pod_had_come_up() {
    let failed = staged("Never").with("i", 0, Is::Exited(1)).ended();
    assert_eq!(failed.state("c"), "waiting PodInitializing", "kubectl says Init:Error");
    assert_eq!(failed.state("i"), "terminated Error 1");
    let cut_short = one("Always").ended();
    assert_eq!(cut_short.state("c"), "terminated ContainerStatusUnknown 137");
    let lost = staged("Always").with("i", 0, Is::Exited(0)).ended();
    assert_eq!(lost.state("c"), "terminated ContainerStatusUnknown 137");
}

#[test]
fn conditions_say_why_not() {
    let no = |reason: &str| ("False".to_owned(), reason.to_owned());
    let yes = ("True".to_owned(), String::new());
    let up = one("Always").with("c", 0, Is::Up);
    for kind in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"] {
        assert_eq!(up.condition(kind), yes, "{kind}");
    }
    assert_eq!(one("Always").with("c", 0, Is::Unready).condition("Ready"), no("ContainersNotReady"));
    assert_eq!(staged("Always").with("i", 0, Is::Up).condition("Initialized"), no("ContainersNotInitialized"));
    assert_eq!(staged("Always").with("i", 0, Is::Exited(0)).condition("Initialized"), yes);
    let done = one("Never").with("c", 0, Is::Exited(0)).ended();
    assert_eq!(done.condition("Ready"), no("PodCompleted"));
    assert_eq!(done.condition("Initialized"), ("True".into(), "PodCompleted".into()));
    assert_eq!(done.condition("PodReadyToStartContainers"), no(""));
    let gated = world(json!({"readinessGates": [{"conditionType": "example/open"}], "containers": [{"name": "c"}]})).with("c", 0, Is::Up);
    assert_eq!((gated.condition("ContainersReady"), gated.condition("Ready")), (yes, no("ReadinessGatesNotReady")));
}

#[test]
fn a_condition_keeps_the_time_since_when_it_holds() {
    let mut world = one("Always").written();
    for condition in world.pod.status.as_mut().unwrap().conditions.as_mut().unwrap() {
        condition.last_transition_time = Some(Time(Timestamp::from_second(7).unwrap()));
    }
    let since = |w: &World, kind: &str| {
        let all = w.status().conditions.unwrap();
        all.into_iter().find(|c| c.type_ == kind).unwrap().last_transition_time.unwrap().0.as_second()
    };
    assert_eq!(since(&world, "Ready"), 7);
    let world = world.with("c", 0, Is::Up);
    assert_eq!((since(&world, "Ready"), since(&world, "PodScheduled")), (100, 7));
}

#[test]
fn the_address_stays_after_the_end() {
    let world = one("Never").with("c", 0, Is::Exited(0)).written().ended();
    assert_eq!(world.status().pod_ip.as_deref(), Some("10.1.0.5"));
    assert_eq!(world.status().pod_ips.unwrap()[0].ip, "10.1.0.5");
    let host = super::tests::world(json!({"hostNetwork": true, "containers": [{"name": "c"}]}));
    assert_eq!(host.status().pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn what_probes_had_found_out_is_carried_over_for_the_same_instances_only() {
    let before = one("Always").with("c", 0, Is::Up).written();
    let ids = |id: &str| BTreeSet::from([id.to_owned()]);
    assert_eq!(carried_over(&before.pod, &before.observed), (ids("c0"), ids("c0")));
    let restarted = World { observed: one("Always").with("c", 1, Is::Up).observed, ..before };
    assert_eq!(carried_over(&restarted.pod, &restarted.observed), (BTreeSet::new(), BTreeSet::new()));
    let unready = one("Always").with("c", 0, Is::Unready).written();
    assert_eq!(carried_over(&unready.pod, &unready.observed), (BTreeSet::new(), ids("c0")));
}

#[test]
fn sidecars_count_for_readiness_and_keep_a_finished_pod_running_while_they_wind_down() {
    let with_sidecar = || {
        world(
            json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]}),
        )
    };
    assert_eq!(with_sidecar().with("s", 0, Is::Unready).with("c", 0, Is::Up).condition("Ready").0, "False");
    assert_eq!(with_sidecar().with("s", 0, Is::Up).with("c", 0, Is::Exited(0)).phase(), "Running");
    assert_eq!(with_sidecar().with("s", 0, Is::Exited(143)).with("c", 0, Is::Exited(0)).phase(), "Succeeded");
}

#[test]
fn a_pod_whose_containers_all_begin_again_still_runs_and_says_so() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let start = || {
        world(json!({
            "restartPolicy": "Never",
            "containers": [{"name": "c", "restartPolicyRules": rule}, {"name": "d"}],
        }))
    };
    let said = |world: &World| {
        let status = world.status();
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == report::RESTARTING).cloned().unwrap();
        (status.phase.unwrap(), condition.status, condition.reason)
    };
    let expect = |phase: &str, state: &str, reason: Option<&str>| (phase.to_owned(), state.to_owned(), reason.map(str::to_owned));
    assert_eq!(said(&start().with("d", 0, Is::Up).with("c", 0, Is::Up)), expect("Running", "False", None));
    let over = start().with("d", 0, Is::Up).with("c", 0, Is::Exited(42));
    assert_eq!(said(&over), expect("Running", "True", Some("RestartAllContainersStarted")));
    let dead = start().with("d", 0, Is::Exited(137)).with("c", 0, Is::Exited(42));
    assert_eq!(said(&dead), expect("Running", "False", None));
    let failed = start().with("d", 0, Is::Exited(1)).with("c", 0, Is::Exited(1)).ended();
    assert_eq!(said(&failed), expect("Failed", "False", Some("PodFailed")));
    assert!(one("Never").status().conditions.iter().flatten().all(|c| c.type_ != report::RESTARTING), "only where a rule may do it");
}

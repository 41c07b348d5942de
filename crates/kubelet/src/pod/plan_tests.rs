//! The plan as tables: a pod, what the runtime shows, and what has to happen.

use super::*;
use crate::pod::spec::containers_of;
use ferrokube_cri::v1 as cri;
use serde_json::{Value, json};

const BOX: &str = "box";

struct Case {
    pod: Pod,
    observed: Observed,
    prepared: bool,
    remains: bool,
    termination: Option<Termination>,
    health: BTreeMap<String, Health>,
    resizes: BTreeMap<String, Change>,
    busy: BTreeSet<String>,
    pod_busy: bool,
    wait: BTreeMap<String, u64>,
}

/// A pod with a ready sandbox and nothing in it.
fn case(spec: Value) -> Case {
    let mut observed = Observed::nothing();
    observed.sandboxes.push(sandbox(BOX, 0, true));
    Case {
        pod: serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": spec})).unwrap(),
        observed,
        prepared: true,
        remains: true,
        termination: None,
        health: BTreeMap::new(),
        resizes: BTreeMap::new(),
        busy: BTreeSet::new(),
        pod_busy: false,
        wait: BTreeMap::new(),
    }
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> cri::PodSandboxStatus {
    let state = if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
    let metadata = Some(cri::PodSandboxMetadata { attempt, ..Default::default() });
    cri::PodSandboxStatus { id: id.into(), state: state.into(), metadata, ..Default::default() }
}

#[derive(Clone, Copy)]
enum Is {
    Running,
    Starting,
    Created,
    Exited(i32),
}

impl Case {
    fn with(self, name: &str, is: Is) -> Self {
        self.instance(BOX, name, 0, is)
    }

    /// Adds an instance, newer than those added before.
    fn instance(self, sandbox: &str, name: &str, restarts: u32, is: Is) -> Self {
        self.in_life(0, sandbox, name, restarts, is)
    }

    fn in_life(mut self, life: u32, sandbox: &str, name: &str, restarts: u32, is: Is) -> Self {
        let id = format!("{name}-{restarts}@{sandbox}");
        let (state, exit_code) = match is {
            Is::Running | Is::Starting => (ContainerState::ContainerRunning, 0),
            Is::Created => (ContainerState::ContainerCreated, 0),
            Is::Exited(code) => (ContainerState::ContainerExited, code),
        };
        let hash = containers_of(&self.pod).iter().find(|s| s.name == name).map(|s| s.hash.clone()).unwrap_or_default();
        let texts = [(annotations::HASH, hash), (annotations::RESTART_COUNT, restarts.to_string()), (annotations::LIFE, life.to_string())];
        let annotations = texts.map(|(name, text)| (name.to_owned(), text)).into();
        if matches!(is, Is::Running | Is::Starting) {
            self.health.insert(id.clone(), Health { started: matches!(is, Is::Running), failed: None });
        }
        let status = cri::ContainerStatus { id, state: state.into(), exit_code, annotations, ..Default::default() };
        self.observed.containers.insert(0, Container { name: name.into(), sandbox: sandbox.into(), status });
        self
    }

    fn no_sandbox(mut self) -> Self {
        self.observed.sandboxes.clear();
        self
    }

    fn unprepared(mut self) -> Self {
        self.prepared = false;
        self
    }

    fn busy(mut self, name: &str) -> Self {
        self.busy.insert(name.into());
        self
    }

    fn ending(mut self, grace: i64) -> Self {
        self.termination = Some(Termination { grace });
        self
    }

    fn failed(mut self, id: &str, probe: &'static str, grace: Option<i64>) -> Self {
        self.health.entry(id.into()).or_default().failed = Some((probe, grace));
        self
    }

    fn wait(mut self, name: &str, seconds: u64) -> Self {
        self.wait.insert(name.into(), seconds);
        self
    }

    fn plan(&self) -> Plan {
        let backoff = |spec: &ContainerSpec, _: Option<&Container>| self.wait.get(&spec.name).map(|s| Duration::from_secs(*s));
        plan(&View {
            pod: &self.pod,
            observed: &self.observed,
            prepared: self.prepared,
            remains: self.remains,
            termination: self.termination.as_ref(),
            health: &self.health,
            busy: &self.busy,
            resizes: &self.resizes,
            resize_due: self.resizes.values().any(|c| *c == Change::InPlace),
            pod_busy: self.pod_busy,
            backoff: &backoff,
        })
    }

    /// The actions in short: `start c 0`, `kill c 30 PodTerminating`, ...
    fn actions(&self) -> Vec<String> {
        let short = |a: &Action| match a {
            Action::Prepare => "prepare".to_owned(),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StopSandbox { id } => format!("stop {id}"),
            Action::Start { name, restarts } => format!("start {name} {restarts}"),
            Action::Kill { name, grace, why, .. } => {
                let grace = grace.map_or_else(|| "-".to_owned(), |g| g.to_string());
                let why = match why {
                    Why::Unhealthy { probe, .. } => (*probe).to_owned(),
                    other => format!("{other:?}"),
                };
                format!("kill {name} {grace} {why}")
            }
            Action::RemoveContainer { id } => format!("remove {id}"),
            Action::RemoveSandbox { id } => format!("remove {id}"),
            Action::Resize => "resize".to_owned(),
            Action::Reclaim => "reclaim".to_owned(),
        };
        self.plan().actions.iter().map(short).collect()
    }
}

fn check(what: &str, case: Case, expected: &[&str]) {
    assert_eq!(case.actions(), expected, "{what}");
}

fn one(policy: &str) -> Case {
    case(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn staged() -> Case {
    case(json!({
        "restartPolicy": "Always",
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    }))
}

#[test]
fn a_new_pod_is_prepared_then_gets_a_sandbox_then_all_its_containers() {
    check("nothing yet", one("Always").no_sandbox().unprepared(), &["prepare"]);
    check("prepared", one("Always").no_sandbox(), &["sandbox 0"]);
    check("sandbox", case(json!({"containers": [{"name": "a"}, {"name": "b"}]})), &["start a 0", "start b 0"]);
    check("one under way", case(json!({"containers": [{"name": "a"}, {"name": "b"}]})).busy("a"), &["start b 0"]);
    check("all run", one("Always").with("c", Is::Running), &[]);
    let mut busy = one("Always").no_sandbox();
    busy.pod_busy = true;
    check("the sandbox is being made", busy, &[]);
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_stay_beside_the_rest() {
    check("first", staged(), &["start i 0"]);
    check("it runs", staged().with("i", Is::Running), &[]);
    check("it is done", staged().with("i", Is::Exited(0)), &["start s 0"]);
    check("the sidecar is not started yet", staged().with("i", Is::Exited(0)).with("s", Is::Starting), &[]);
    let up = || staged().with("i", Is::Exited(0)).with("s", Is::Running);
    check("the sidecar is started", up(), &["start j 0"]);
    check("the sidecar died meanwhile", staged().with("i", Is::Exited(0)).with("s", Is::Exited(0)).with("j", Is::Running), &["start s 1"]);
    check("all done", up().with("j", Is::Exited(0)), &["start a 0", "start b 0"]);
    check("a failed one is tried again", staged().with("i", Is::Exited(1)), &["start i 1"]);
    let running = || up().with("j", Is::Exited(0)).with("a", Is::Running).with("b", Is::Running);
    check("everything runs", running(), &[]);
    check("the sidecar restarts alone", running().instance(BOX, "s", 1, Is::Exited(3)), &["start s 2"]);
    let mut forgotten = running();
    forgotten.observed.containers.retain(|c| c.name != "i" && c.name != "j");
    check("their records may go, they do not run again", forgotten, &[]);
}

#[test]
fn the_restart_policy_says_what_follows_an_exit() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let case = one(policy).with("c", Is::Exited(code));
        let expected: &[&str] = if again { &["start c 1"] } else { &["stop box"] };
        check(&format!("{policy} after {code}"), case, expected);
    }
}

#[test]
fn a_containers_own_rules_come_before_the_policy() {
    let with_rules = |policy: &str, operator: &str| {
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": [42, 43]}}]);
        case(json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": policy, "restartPolicyRules": rules}]}))
    };
    check("listed", with_rules("Never", "In").with("c", Is::Exited(42)), &["start c 1"]);
    check("not listed", with_rules("Never", "In").with("c", Is::Exited(41)), &["stop box"]);
    check("all but the listed", with_rules("Never", "NotIn").with("c", Is::Exited(41)), &["start c 1"]);
    check("the container's policy", with_rules("OnFailure", "In").with("c", Is::Exited(1)), &["start c 1"]);
    check(
        "one done, the other goes on",
        {
            let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}]});
            case(spec).with("a", Is::Exited(0)).with("b", Is::Running)
        },
        &[],
    );
}

#[test]
fn a_container_in_backoff_waits_and_the_others_do_not() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let case = case(spec).with("a", Is::Exited(1)).wait("a", 20);
    assert_eq!(case.actions(), ["start b 0"]);
    assert_eq!(case.plan().waiting, BTreeMap::from([("a".to_owned(), Duration::from_secs(20))]));
}

#[test]
fn a_dead_sandbox_is_replaced_once_nothing_runs_in_it() {
    let dead = || {
        let mut dead = one("Always");
        dead.observed.sandboxes = vec![sandbox(BOX, 2, false)];
        dead
    };
    check("something still runs", dead().with("c", Is::Running), &["kill c - SandboxGone"]);
    check("nothing runs", dead().with("c", Is::Exited(137)), &["sandbox 3"]);
    let mut fresh = dead().with("c", Is::Exited(137));
    fresh.observed.sandboxes.insert(0, sandbox("new", 3, true));
    check("the container counts on in the new one", fresh, &["start c 1"]);
    let mut finished = dead().with("c", Is::Exited(0));
    finished.pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    check("a finished pod needs none", finished, &["reclaim"]);
}

#[test]
fn a_new_sandbox_begins_with_the_init_containers_again() {
    let mut case = staged().instance("old", "i", 0, Is::Exited(0)).instance("old", "a", 0, Is::Exited(137));
    case.observed.sandboxes = vec![sandbox("new", 1, true), sandbox("old", 0, false)];
    check("init first", case, &["start i 1"]);
}

#[test]
fn a_failed_probe_kills_with_its_own_grace() {
    let unwell = |probe, grace| one("Always").with("c", Is::Running).failed("c-0@box", probe, grace);
    check("liveness", unwell("liveness", None), &["kill c - liveness"]);
    check("startup with grace", unwell("startup", Some(5)), &["kill c 5 startup"]);
    check("the kill is under way", unwell("liveness", None).busy("c"), &[]);
}

#[test]
fn a_changed_image_restarts_the_container() {
    let mut case = one("Always").with("c", Is::Running);
    case.pod.spec.as_mut().unwrap().containers[0].image = Some("other".into());
    check("changed", case, &["kill c - Changed"]);
}

#[test]
fn a_terminating_pod_ends_main_containers_then_sidecars_in_reverse_then_the_rest() {
    let two = || {
        case(json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}],
        }))
        .ending(7)
    };
    let up = || two().with("s", Is::Running).with("t", Is::Running);
    let both = up().with("a", Is::Running).with("b", Is::Running);
    let mut killed = both.actions();
    killed.sort();
    assert_eq!(killed, ["kill a 7 PodTerminating", "kill b 7 PodTerminating"]);
    let down = || up().with("a", Is::Exited(0)).with("b", Is::Exited(143));
    check("one main container left", up().with("a", Is::Exited(0)).with("b", Is::Running).busy("b"), &[]);
    check("the last sidecar first", down(), &["kill t 7 PodTerminating"]);
    let first_left = two().with("s", Is::Running).with("t", Is::Exited(0)).with("a", Is::Exited(0)).with("b", Is::Exited(0));
    check("then the first", first_left, &["kill s 7 PodTerminating"]);
    let dead = || two().with("s", Is::Exited(0)).with("t", Is::Exited(0)).with("a", Is::Exited(0)).with("b", Is::Exited(0));
    check("then the sandbox", dead(), &["stop box"]);
    let mut stopped = dead();
    stopped.observed.sandboxes = vec![sandbox(BOX, 0, false)];
    check("then what is on the disk", stopped, &["reclaim"]);
    let mut clean = dead();
    clean.observed.sandboxes = vec![sandbox(BOX, 0, false)];
    clean.remains = false;
    assert_eq!(clean.plan(), Plan { ended: true, ..Plan::default() });
}

#[test]
fn a_pod_that_is_deleted_before_it_began_only_ends() {
    let mut case = one("Always").no_sandbox().unprepared().ending(30);
    case.remains = false;
    assert!(case.plan().ended);
    let mut half = one("Always").no_sandbox().unprepared().ending(30);
    half.pod_busy = true;
    assert_eq!(half.plan(), Plan::default(), "a step under way is waited for");
}

#[test]
fn a_finished_pod_ends_its_sidecars_and_gives_everything_back() {
    let done = || {
        case(json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]}))
            .with("s", Is::Running)
            .with("c", Is::Exited(0))
    };
    check("the sidecar is not needed any more", done(), &["kill s - PodCompleted"]);
    let failed =
        case(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]})).with("i", Is::Exited(1));
    check("an init container that failed for good", failed, &["stop box"]);
}

#[test]
fn after_a_restart_of_the_kubelet_a_running_pod_is_only_prepared_again() {
    check("running", one("Always").with("c", Is::Running).unprepared(), &["prepare"]);
    check("a create that was cut short", one("Always").with("c", Is::Created), &["remove c-0@box"]);
    let mut terminated = one("Never").no_sandbox().unprepared().with("c", Is::Exited(0));
    terminated.remains = true;
    check("finished, with directories left", terminated, &["reclaim"]);
}

#[test]
fn of_dead_instances_the_last_two_are_kept() {
    let case = one("Always").instance(BOX, "c", 0, Is::Exited(1)).instance(BOX, "c", 1, Is::Exited(1)).instance(BOX, "c", 2, Is::Running);
    check("the oldest goes", case, &["remove c-0@box"]);
    let mut boxes = one("Always").with("c", Is::Running);
    boxes.observed.sandboxes.push(sandbox("old", 0, false));
    check("an old empty sandbox", boxes, &["remove old"]);
}

#[test]
fn a_resize_goes_under_the_container_or_restarts_it() {
    let due = |change: Change| {
        let mut case = one("Always").with("c", Is::Running);
        case.resizes.insert(case.observed.containers[0].status.id.clone(), change);
        case
    };
    check("in place", due(Change::InPlace), &["resize"]);
    check("by its policy", due(Change::Restart), &["kill c - Resized"]);
    let mut going = due(Change::InPlace);
    going.termination = Some(Termination { grace: 3 });
    check("a pod that ends is not resized", going, &["kill c 3 PodTerminating"]);
}

#[test]
fn ephemeral_containers_start_beside_the_others_and_never_again() {
    let debugged = || {
        case(json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "d", "targetContainerName": "c"}]}))
            .with("c", Is::Running)
    };
    check("added", debugged(), &["start d 0"]);
    check("ended", debugged().with("d", Is::Exited(1)), &[]);
}

/// `i`, the sidecar `s`, and `a`, whose exit with 42 restarts all, beside `b`, which is done.
fn with_rule() -> Case {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    case(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "b"}],
        "ephemeralContainers": [{"name": "e"}],
    }))
}

#[test]
fn an_exit_that_restarts_all_kills_what_runs_and_begins_with_the_init_containers_in_the_same_sandbox() {
    let first = || with_rule().with("i", Is::Exited(0)).with("s", Is::Running).with("b", Is::Exited(0));
    check("it runs", first().with("e", Is::Running).with("a", Is::Running), &[]);
    let over = || first().with("e", Is::Running).with("a", Is::Exited(42));
    check("what runs is killed at once", over(), &["kill e 0 RestartAll", "kill s 0 RestartAll"]);
    let dead = || with_rule().with("i", Is::Exited(0)).with("s", Is::Exited(137)).with("b", Is::Exited(0)).with("e", Is::Exited(137));
    let dead = || dead().with("a", Is::Exited(42));
    assert!(!finished(&dead().pod, &dead().observed), "nothing of the earlier life counts");
    check("all begins again", dead(), &["start i 1"]);
    let again = |name: &'static str, is: Is| move |case: Case| case.in_life(1, BOX, name, 1, is);
    let (i, s) = (again("i", Is::Exited(0)), again("s", Is::Running));
    check("the sidecar", i(dead()), &["start s 1"]);
    check("all but the ephemeral one", s(i(dead())), &["start a 1", "start b 1"]);
    let up = || s(i(dead()));
    check("the next life runs", again("b", Is::Running)(again("a", Is::Running)(up())), &[]);
    check(
        "and ends like the first",
        again("b", Is::Running)(again("a", Is::Exited(42))(up())),
        &["kill b 0 RestartAll", "kill s 0 RestartAll"],
    );
    let ended = again("b", Is::Exited(0))(again("a", Is::Exited(1))(up()));
    assert!(finished(&ended.pod, &ended.observed), "another exit is judged by the policy");
    let failed = again("i", Is::Exited(1))(dead());
    assert!(finished(&failed.pod, &failed.observed), "so is an init container of the next life");
}

#[test]
fn what_restarts_all_waits_for_its_backoff_and_does_not_outlive_the_pods_end() {
    let dead = || with_rule().with("i", Is::Exited(0)).with("b", Is::Exited(0)).with("a", Is::Exited(42));
    check("back-off", dead().wait("i", 10), &[]);
    check("the pod is deleted", dead().ending(30), &["stop box"]);
}

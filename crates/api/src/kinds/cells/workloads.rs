//! Workloads, autoscalers, budgets.

use super::*;
use crate::kinds::autoscaling;

fn template(o: &Value) -> (String, String) {
    containers(at(o, &["spec", "template", "spec"]))
}

fn status(o: &Value, key: &str) -> i64 {
    int_at(o, &["status", key])
}

pub fn replica_set(o: &Value, c: &HookContext) -> Cells {
    replicas(o, c, selector(at(o, &["spec", "selector"])))
}

pub fn replication_controller(o: &Value, c: &HookContext) -> Cells {
    replicas(o, c, labels(at(o, &["spec", "selector"])))
}

fn replicas(o: &Value, c: &HookContext, selector: String) -> Cells {
    let (names, images) = template(o);
    let wanted = int_at(o, &["spec", "replicas"]);
    cells![name(o), wanted, status(o, "replicas"), status(o, "readyReplicas"), age(o, c), names, images, selector]
}

pub fn deployment(o: &Value, c: &HookContext) -> Cells {
    let (names, images) = template(o);
    cells![
        name(o),
        format!("{}/{}", status(o, "readyReplicas"), int_at(o, &["spec", "replicas"])),
        status(o, "updatedReplicas"),
        status(o, "availableReplicas"),
        age(o, c),
        names,
        images,
        Selector::from_label_selector(at(o, &["spec", "selector"])).map_or("<invalid>".to_owned(), |s| s.to_string()),
    ]
}

pub fn stateful_set(o: &Value, c: &HookContext) -> Cells {
    let (names, images) = template(o);
    let ready = format!("{}/{}", status(o, "readyReplicas"), int_at(o, &["spec", "replicas"]));
    cells![name(o), ready, age(o, c), names, images]
}

pub fn daemon_set(o: &Value, c: &HookContext) -> Cells {
    let (names, images) = template(o);
    cells![
        name(o),
        status(o, "desiredNumberScheduled"),
        status(o, "currentNumberScheduled"),
        status(o, "numberReady"),
        status(o, "updatedNumberScheduled"),
        status(o, "numberAvailable"),
        labels(at(o, &["spec", "template", "spec", "nodeSelector"])),
        age(o, c),
        names,
        images,
        selector(at(o, &["spec", "selector"])),
    ]
}

pub fn controller_revision(o: &Value, c: &HookContext) -> Cells {
    let owner = list_at(o, &["metadata", "ownerReferences"]).iter().find(|r| flag(r, "controller"));
    let shown = owner.map_or(NONE.to_owned(), |r| {
        let group = text(r, "apiVersion").split_once('/').map_or(String::new(), |(g, _)| format!(".{g}"));
        format!("{}{group}/{}", text(r, "kind").to_lowercase(), text(r, "name"))
    });
    cells![name(o), shown, int(o, "revision").unwrap_or_default(), age(o, c)]
}

pub fn job(o: &Value, c: &HookContext) -> Cells {
    let (names, images) = template(o);
    let succeeded = status(o, "succeeded");
    let completions = match (at(o, &["spec", "completions"]).and_then(Value::as_i64), int_at(o, &["spec", "parallelism"])) {
        (Some(n), _) => format!("{succeeded}/{n}"),
        (None, n) if n > 1 => format!("{succeeded}/1 of {n}"),
        (None, _) => format!("{succeeded}/1"),
    };
    cells![name(o), job_state(o), completions, job_duration(o, c), age(o, c), names, images, selector(at(o, &["spec", "selector"])),]
}

fn job_state(o: &Value) -> &'static str {
    let is = |kind: &str| condition(o, kind) == Some("True");
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if deleted(o) {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

fn job_duration(o: &Value, c: &HookContext) -> String {
    let moment = |key: &str| time::parse_time(text_at(o, &["status", key]));
    let Some(start) = moment("startTime") else { return String::new() };
    time::human_duration(time::seconds_since(start, moment("completionTime").unwrap_or(c.now)))
}

pub fn cron_job(o: &Value, c: &HookContext) -> Cells {
    let (names, images) = containers(at(o, &["spec", "jobTemplate", "spec", "template", "spec"]));
    let suspend = match at(o, &["spec", "suspend"]).and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => UNSET,
    };
    let last = at(o, &["status", "lastScheduleTime"]).and_then(Value::as_str);
    cells![
        name(o),
        text_at(o, &["spec", "schedule"]),
        or(text_at(o, &["spec", "timeZone"]), NONE),
        suspend,
        list_at(o, &["status", "active"]).len(),
        last.map_or(NONE.to_owned(), |t| time::age(Some(t), c.now)),
        age(o, c),
        names,
        images,
        selector(at(o, &["spec", "jobTemplate", "spec", "selector"])),
    ]
}

pub fn disruption_budget(o: &Value, c: &HookContext) -> Cells {
    let bound = |key: &str| at(o, &["spec", key]).map_or("N/A".to_owned(), shown);
    cells![name(o), bound("minAvailable"), bound("maxUnavailable"), status(o, "disruptionsAllowed"), age(o, c)]
}

pub fn autoscaler_v1(o: &Value, c: &HookContext) -> Cells {
    let mut v2 = o.clone();
    if let Some(convert) = autoscaling::V1.to_storage {
        convert(&mut v2);
    }
    autoscaler(&v2, c)
}

pub fn autoscaler(o: &Value, c: &HookContext) -> Cells {
    let target = format!("{}/{}", text_at(o, &["spec", "scaleTargetRef", "kind"]), text_at(o, &["spec", "scaleTargetRef", "name"]));
    let least = at(o, &["spec", "minReplicas"]).map_or(UNSET.to_owned(), shown);
    let most = int_at(o, &["spec", "maxReplicas"]);
    cells![name(o), target, metrics(o), least, most, status(o, "currentReplicas"), age(o, c)]
}

fn metrics(o: &Value) -> String {
    const MOST: usize = 2;
    let (specs, current) = (list_at(o, &["spec", "metrics"]), list_at(o, &["status", "currentMetrics"]));
    if specs.is_empty() {
        return NONE.to_owned();
    }
    let list: Vec<String> = specs.iter().enumerate().map(|(i, spec)| metric(spec, current.get(i))).collect();
    let shown = list[..list.len().min(MOST)].join(", ");
    if list.len() > MOST { format!("{shown} + {} more...", list.len() - MOST) } else { shown }
}

fn metric(spec: &Value, current: Option<&Value>) -> String {
    let field = match text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = |key: &str| at(spec, &[field, "target", key]);
    let now = |key: &str| current.and_then(|c| at(c, &[field, "current", key])).map_or(UNKNOWN.to_owned(), shown);
    let label = text_at(spec, &[field, "name"]);
    match field {
        "resource" | "containerResource" => match target("averageValue") {
            Some(value) => format!("{label}: {}/{}", now("averageValue"), shown(value)),
            None => {
                let percent = |v: String| if v == UNKNOWN { v } else { format!("{v}%") };
                let wanted = target("averageUtilization").map_or("<auto>".to_owned(), |v| format!("{v}%"));
                format!("{label}: {}/{wanted}", percent(now("averageUtilization")))
            }
        },
        "pods" => format!("{}/{}", now("averageValue"), target("averageValue").map_or("0".to_owned(), shown)),
        _ => match target("averageValue") {
            Some(value) => format!("{}/{} (avg)", now("averageValue"), shown(value)),
            None => format!("{}/{}", now("value"), target("value").map_or("0".to_owned(), shown)),
        },
    }
}

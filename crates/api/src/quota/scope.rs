//! Which objects a quota is about: its scopes and scope selector. Source: `pkg/quota/v1/evaluator/core`.

use super::list;
use serde_json::Value;

/// One condition on the objects that a quota covers, or that must be covered by some quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `BestEffort`, `PriorityClass`, ...
    pub name: String,
    /// `Exists`, `In`, ...
    pub operator: String,
    /// What `In` and `NotIn` compare with.
    pub values: Vec<String>,
}

impl Scope {
    /// From a term of a scope selector.
    pub fn from_term(term: &Value) -> Scope {
        let text = |key: &str| term[key].as_str().unwrap_or_default().to_owned();
        let values = list(term, "values").filter_map(Value::as_str).map(str::to_owned).collect();
        Scope { name: text("scopeName"), operator: text("operator"), values }
    }

    /// The scopes of a quota's spec: plain ones and those of its selector.
    pub fn of(spec: &Value) -> impl Iterator<Item = Scope> {
        let plain = list(spec, "scopes").filter_map(Value::as_str);
        let plain = plain.map(|name| Scope { name: name.to_owned(), operator: "Exists".to_owned(), values: Vec::new() });
        plain.chain(list(&spec["scopeSelector"], "matchExpressions").map(Scope::from_term))
    }

    /// Whether the object is in the scope. Scopes are about pods only, and about claims with VolumeAttributesClass.
    pub fn holds(&self, group: &str, resource: &str, object: &Value) -> bool {
        let is = |kind: &str| group.is_empty() && resource == kind;
        let text = |field: &str| object["spec"][field].as_str().unwrap_or_default();
        match self.name.as_str() {
            "VolumeAttributesClass" => is("persistentvolumeclaims") && self.compare_any(&attributes_classes(object)),
            _ if !is("pods") => false,
            "Terminating" => object["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
            "NotTerminating" => object["spec"]["activeDeadlineSeconds"].is_null(),
            "BestEffort" => is_best_effort(object),
            "NotBestEffort" => !is_best_effort(object),
            "PriorityClass" => self.compare(text("priorityClassName")),
            "CrossNamespacePodAffinity" => crosses_namespaces(object),
            _ => false,
        }
    }

    /// One of the values is enough; none is the empty one.
    fn compare_any(&self, values: &[&str]) -> bool {
        if values.is_empty() { self.compare("") } else { values.iter().any(|value| self.compare(value)) }
    }

    fn compare(&self, value: &str) -> bool {
        match self.operator.as_str() {
            "In" => self.values.iter().any(|v| v == value),
            "NotIn" => !self.values.iter().any(|v| v == value),
            "Exists" => !value.is_empty(),
            "DoesNotExist" => value.is_empty(),
            _ => false,
        }
    }
}

/// Whether the quota of this spec covers the object.
pub fn covers(spec: &Value, group: &str, resource: &str, object: &Value) -> bool {
    Scope::of(spec).all(|scope| scope.holds(group, resource, object))
}

fn is_best_effort(pod: &Value) -> bool {
    crate::kinds::qos_class(&pod["spec"]) == "BestEffort"
}

/// The classes that a claim asks for, is on its way to, or has.
fn attributes_classes(claim: &Value) -> Vec<&str> {
    let status = &claim["status"];
    let asked = &claim["spec"]["volumeAttributesClassName"];
    let named = [asked, &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"], &status["currentVolumeAttributesClassName"]];
    named.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| list(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").any(|w| crosses(&w["podAffinityTerm"]))
    })
}

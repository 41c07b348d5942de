//! Whether a remote server can be used, in the steps, reasons and words of kube-aggregator's availability controllers.

use super::spec::Spec;
use crate::objects::Objects;
use serde_json::{Value, json};

/// The `Available` condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub available: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    /// Of an APIService without a service.
    pub fn local() -> Condition {
        Condition { available: true, reason: "Local", message: "Local APIServices are always available".into() }
    }

    /// All checks went well.
    pub fn passed() -> Condition {
        Condition { available: true, reason: "Passed", message: "all checks passed".into() }
    }

    /// A check failed.
    pub fn failed(reason: &'static str, message: String) -> Condition {
        Condition { available: false, reason, message }
    }

    /// Puts the condition into an APIService. False when it says so already.
    pub fn put(&self, api_service: &mut Value, now: &str) -> bool {
        let status = if self.available { "True" } else { "False" };
        let mut conditions = api_service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let before = conditions.iter().position(|c| c["type"] == "Available");
        let mut wanted =
            json!({"type": "Available", "status": status, "reason": self.reason, "message": self.message, "lastTransitionTime": now});
        if let Some(before) = before.map(|at| &mut conditions[at]) {
            if before["status"] == status {
                wanted["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            if *before == wanted {
                return false;
            }
            *before = wanted;
        } else {
            conditions.push(wanted);
        }
        api_service["status"]["conditions"] = json!(conditions);
        true
    }
}

/// Whether an APIService says that it is available.
pub(super) fn is_available(api_service: &Value) -> bool {
    list(&api_service["status"], "conditions").any(|c| c["type"] == "Available" && c["status"] == "True")
}

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().into_iter().flatten()
}

/// Addresses and port behind the service, or why there are none. Requests go to endpoints (`--enable-aggregator-routing`):
/// the server does not depend on a service proxy beside it.
pub(super) fn places(objects: &dyn Objects, spec: &Spec) -> Result<Vec<(String, u16)>, Condition> {
    let (namespace, name) = (&spec.namespace, &spec.service);
    let service = objects.get("", "services", namespace, name);
    let missing = || Condition::failed("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    let service: Value = service
        .ok_or_else(missing)?
        .decode()
        .map_err(|e| Condition::failed("ServiceAccessError", format!("service/{name} in {namespace:?} cannot be accessed due to: {e}")))?;
    if service["spec"]["type"] == "ExternalName" {
        return Ok(vec![(service["spec"]["externalName"].as_str().unwrap_or_default().to_owned(), spec.port)]);
    }
    let port = list(&service["spec"], "ports").find(|p| p["port"].as_u64() == Some(spec.port.into()));
    let port = port.ok_or_else(|| {
        let text = format!("service/{name} in {namespace:?} is not listening on port {}", spec.port);
        Condition::failed("ServicePortError", text)
    })?;
    let port_name = port["name"].as_str().unwrap_or_default();
    let slices = objects.list("discovery.k8s.io", "endpointslices", namespace);
    let (mut known, mut found) = (false, Vec::new());
    for slice in slices.iter().filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
        known = true;
        let Ok(slice) = slice.decode::<Value>() else { continue };
        let number = list(&slice, "ports").find(|p| p["name"].as_str().unwrap_or_default() == port_name);
        let Some(number) = number.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else { continue };
        let ready = list(&slice, "endpoints").filter(|e| e["conditions"]["ready"] != false);
        found.extend(ready.filter_map(|e| e["addresses"][0].as_str()).map(|ip| (ip.to_owned(), number)));
    }
    if !known {
        return Err(Condition::failed("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")));
    }
    if found.is_empty() {
        let text = format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
        return Err(Condition::failed("MissingEndpoints", text));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::testing::Map;

    fn spec() -> Spec {
        let object =
            json!({"spec": {"group": "metrics.k8s.io", "version": "v1beta1", "service": {"namespace": "kube-system", "name": "ms"}}});
        Spec::of(&object).expect("a service")
    }

    fn slice(ready: bool, port: &str) -> Value {
        json!({"metadata": {"namespace": "kube-system", "name": "ms-1", "labels": {"kubernetes.io/service-name": "ms"}},
            "ports": [{"name": port, "port": 4443}], "endpoints": [{"addresses": ["10.0.0.7"], "conditions": {"ready": ready}}]})
    }

    #[test]
    fn each_missing_piece_has_its_reason() {
        let map = Map::default();
        let reason = |map: &Map| places(map, &spec()).expect_err("not available").reason;
        assert_eq!(reason(&map), "ServiceNotFound");
        let service = |port: u16| json!({"metadata": {"namespace": "kube-system", "name": "ms"}, "spec": {"ports": [{"name": "https", "port": port}]}});
        map.put("", "services", service(80));
        assert_eq!(reason(&map), "ServicePortError");
        map.put("", "services", service(443));
        assert_eq!(reason(&map), "EndpointsNotFound");
        map.put("discovery.k8s.io", "endpointslices", slice(false, "https"));
        assert_eq!(reason(&map), "MissingEndpoints");
        map.put("discovery.k8s.io", "endpointslices", slice(true, "other"));
        assert_eq!(
            places(&map, &spec()).expect_err("another port").message,
            "endpoints for service/ms in \"kube-system\" have no addresses with port name \"https\""
        );
        map.put("discovery.k8s.io", "endpointslices", slice(true, "https"));
        assert_eq!(places(&map, &spec()), Ok(vec![("10.0.0.7".to_owned(), 4443)]));
        map.put(
            "",
            "services",
            json!({"metadata": {"namespace": "kube-system", "name": "ms"}, "spec": {"type": "ExternalName", "externalName": "else.where"}}),
        );
        assert_eq!(places(&map, &spec()), Ok(vec![("else.where".to_owned(), 443)]));
    }

    #[test]
    fn a_condition_is_written_when_it_says_something_new_and_keeps_its_time_until_the_status_turns() {
        let mut object = json!({});
        assert!(Condition::passed().put(&mut object, "t1"));
        assert!(!Condition::passed().put(&mut object, "t2"));
        assert!(Condition::local().put(&mut object, "t3"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t1");
        assert!(Condition::failed("MissingEndpoints", "none".into()).put(&mut object, "t4"));
        assert_eq!(
            object["status"]["conditions"],
            json!([{"type": "Available", "status": "False", "reason": "MissingEndpoints", "message": "none", "lastTransitionTime": "t4"}])
        );
    }
}

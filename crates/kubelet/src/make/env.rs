//! A container's environment, and `$(VAR)` expansion in its command and arguments.
//!
//! Order as the kubelet's: service variables, then envFrom, then env; later ones win. Everything that has to be looked
//! up comes through [`Lookup`], so that the rules are pure.

use super::resources::request_and_limit;
use ferrokube_api::quantity::Quantity;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, ResourceFieldSelector, Secret, Service};
use std::collections::BTreeMap;

/// Why a container cannot be configured (`CreateContainerConfigError`).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What an environment may refer to, fetched before.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// ConfigMaps of the pod's namespace by name; `None`: it does not exist.
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// Services for the `*_SERVICE_HOST` variables.
    pub services: Vec<Service>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// What a container without a limit may use at most: (milli-CPU, bytes).
    pub allocatable: (i64, i64),
}

/// Names that a container's environment refers to: (config maps, secrets).
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for var in container.env.iter().flatten() {
        let Some(from) = &var.value_from else { continue };
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The environment of a container, in order.
pub fn environment(pod: &Pod, container: &Container, lookup: &Lookup) -> Result<Vec<(String, String)>, ConfigError> {
    let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut env = Env::default();
    service_variables(pod, &lookup.services, links).into_iter().for_each(|(k, v)| env.set(k, v));
    from_sources(pod, container, lookup, &mut env)?;
    let services = env.values.clone();
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (_, Some(_)) => one(pod, container, var, lookup)?,
            (Some(text), None) => Some(expand(text, |name| env.values.get(name).or_else(|| services.get(name)).cloned())),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    Ok(env.ordered())
}

#[derive(Default)]
struct Env {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Env {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn ordered(mut self) -> Vec<(String, String)> {
        let values = &mut self.values;
        self.order.into_iter().filter_map(|name| values.remove(&name).map(|value| (name, value))).collect()
    }
}

fn from_sources(pod: &Pod, container: &Container, lookup: &Lookup, env: &mut Env) -> Result<(), ConfigError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match lookup.config_maps.get(&reference.name).and_then(Option::as_ref) {
                Some(map) => map.data.iter().flatten().for_each(|(k, v)| env.set(format!("{prefix}{k}"), v.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("configmap {:?} not found", reference.name))),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match lookup.secrets.get(&reference.name).and_then(Option::as_ref) {
                Some(secret) => secret.data.iter().flatten().for_each(|(k, v)| env.set(format!("{prefix}{k}"), text(v))),
                None if reference.optional == Some(true) => {}
                None => return Err(ConfigError(format!("secret {:?} not found", reference.name))),
            }
        }
    }
    tracing::trace!(namespace, container = container.name, "environment sources read");
    Ok(())
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

fn one(pod: &Pod, container: &Container, var: &k8s_openapi::api::core::v1::EnvVar, lookup: &Lookup) -> Result<Option<String>, ConfigError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, lookup).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(pod, container, resource, lookup.allocatable).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let Some(map) = lookup.config_maps.get(&key.name).and_then(Option::as_ref) else {
            return absent(key.optional, format!("configmap {:?} not found", key.name));
        };
        return match map.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(key.optional, format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let Some(secret) = lookup.secrets.get(&key.name).and_then(Option::as_ref) else {
            return absent(key.optional, format!("secret {:?} not found", key.name));
        };
        return match secret.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => Ok(Some(text(value))),
            None => absent(key.optional, format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
        };
    }
    Err(ConfigError(format!("environment variable {:?} has a source that this node does not support", var.name)))
}

fn absent(optional: Option<bool>, message: String) -> Result<Option<String>, ConfigError> {
    if optional == Some(true) { Ok(None) } else { Err(ConfigError(message)) }
}

/// A field of the pod by its path, for the environment and for downward API files.
pub fn field_value(pod: &Pod, path: &str, lookup: &Lookup) -> Result<String, ConfigError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |s: Option<&String>| s.cloned().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
        };
        return Ok(text(map.as_ref().and_then(|m| m.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => quoted_lines(meta.labels.as_ref()),
        "metadata.annotations" => quoted_lines(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(lookup.host_ips.first()),
        "status.hostIPs" => lookup.host_ips.join(","),
        "status.podIP" => text(lookup.pod_ips.first()),
        "status.podIPs" => lookup.pod_ips.join(","),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    })
}

/// `key="value"` lines, sorted, values quoted as Go does.
fn quoted_lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A resource of a container by its name (`limits.cpu`), divided and rounded up.
pub fn resource_value(pod: &Pod, own: &Container, field: &ResourceFieldSelector, allocatable: (i64, i64)) -> Result<String, ConfigError> {
    let named = field.container_name.as_deref().filter(|n| !n.is_empty());
    let spec = pod.spec.clone().unwrap_or_default();
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = match named {
        Some(name) => {
            all.into_iter().find(|c| c.name == name).cloned().ok_or_else(|| ConfigError(format!("container {name} not found")))?
        }
        None => own.clone(),
    };
    let (side, name) =
        field.resource.split_once('.').ok_or_else(|| ConfigError(format!("unsupported container resource : {}", field.resource)))?;
    let (request, limit) = request_and_limit(container.resources.as_ref(), name);
    let fallback = match name {
        "cpu" => Some(allocatable.0),
        "memory" => Some(allocatable.1),
        _ => None,
    };
    let amount = match side {
        "limits" => limit.or(fallback),
        "requests" => request.or(Some(0)),
        _ => return Err(ConfigError(format!("unsupported container resource : {}", field.resource))),
    };
    let amount = amount.unwrap_or(0);
    let divisor = field.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| *d != "0").unwrap_or("1");
    let divisor = Quantity::parse(divisor).map_err(|e| ConfigError(e.to_string()))?;
    let divisor = if name == "cpu" { divisor.milli_value() } else { divisor.value() }.max(1);
    Ok(amount.div_euclid(divisor).saturating_add(i64::from(amount % divisor != 0)).to_string())
}

/// Variables for the services that the pod may see: those of its namespace, and the master's.
fn service_variables(pod: &Pod, services: &[Service], links: bool) -> Vec<(String, String)> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let visible = |s: &&Service| {
        let (ns, name) = (s.metadata.namespace.as_deref().unwrap_or_default(), s.metadata.name.as_deref().unwrap_or_default());
        (ns == "default" && name == "kubernetes") || (links && ns == namespace)
    };
    services.iter().filter(visible).flat_map(variables_of).collect()
}

fn variables_of(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if ip.is_empty() || ip == "None" {
        return Vec::new();
    }
    let upper = |s: &str| s.to_uppercase().replace(['-', '.'], "_");
    let prefix = upper(service.metadata.name.as_deref().unwrap_or_default());
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let mut out = vec![(format!("{prefix}_SERVICE_HOST"), ip.to_owned())];
    let ports = spec.ports.clone().unwrap_or_default();
    if let Some(first) = ports.first() {
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
    }
    for port in ports.iter().filter(|p| p.name.as_ref().is_some_and(|n| !n.is_empty())) {
        out.push((format!("{prefix}_SERVICE_PORT_{}", upper(port.name.as_deref().unwrap_or_default())), port.port.to_string()));
    }
    for (at, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if at == 0 {
            out.push((format!("{prefix}_PORT"), url.clone()));
        }
        let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
        out.push((link.clone(), url));
        out.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        out.push((format!("{link}_PORT"), port.port.to_string()));
        out.push((format!("{link}_ADDR"), ip.to_owned()));
    }
    out
}

/// Replaces `$(NAME)` where the name is known; `$$` is a dollar sign; what is unknown stays as written.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_follows_the_kubelets_rules() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        let cases = [("x$(A)y", "x1y"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$", "$"), ("$(A", "$(A"), ("$A", "$A"), ("$$$(A)", "$1")];
        for (text, expected) in cases {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }

    use serde_json::{Value, json};

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"app": "web"}, "annotations": {"n": "a\"b"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [{"name": "c"}]},
        }))
        .unwrap()
    }

    fn lookup() -> Lookup {
        let map = serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "from map", "B": "b"}})).unwrap();
        let secret = serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"pw": "aGlkZGVu"}})).unwrap();
        let service = |namespace: &str, name: &str, ip: &str, ports: Value| {
            serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": ip, "ports": ports}}))
                .unwrap()
        };
        Lookup {
            config_maps: BTreeMap::from([("m".into(), Some(map)), ("gone".into(), None)]),
            secrets: BTreeMap::from([("s".into(), Some(secret)), ("gone".into(), None)]),
            services: vec![
                service("default", "my-db", "10.0.0.7", json!([{"name": "sql", "port": 5432, "protocol": "TCP"}])),
                service("other", "hidden", "10.0.0.8", json!([{"port": 1}])),
                service("default", "headless", "None", json!([{"port": 1}])),
            ],
            pod_ips: vec!["10.1.0.5".into()],
            host_ips: vec!["192.0.2.1".into()],
            allocatable: (2000, 1 << 30),
        }
    }

    fn env_of(container: Value) -> Result<BTreeMap<String, String>, ConfigError> {
        let container: Container = serde_json::from_value(container).unwrap();
        environment(&pod(), &container, &lookup()).map(|list| list.into_iter().collect())
    }

    #[test]
    fn later_sources_win_and_may_use_what_came_before() {
        let env = env_of(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}}, {"secretRef": {"name": "gone", "optional": true}}],
            "env": [
                {"name": "B", "value": "mine"}, {"name": "C", "value": "$(B)/$(k)/$(LATER)"}, {"name": "LATER", "value": "x"},
                {"name": "URL", "value": "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)"},
                {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "none", "optional": true}}},
            ]}))
        .unwrap();
        let expected = [
            ("B", "mine"),
            ("k", "from map"),
            ("S_pw", "hidden"),
            ("C", "mine/from map/$(LATER)"),
            ("URL", "10.0.0.7:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.0.0.7"),
            ("MY_DB_PORT", "tcp://10.0.0.7:5432"),
        ];
        for (name, value) in expected {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        for absent in ["ABSENT", "HIDDEN_SERVICE_HOST", "HEADLESS_SERVICE_HOST"] {
            assert!(!env.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let from = |source: Value| env_of(json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]})).unwrap_err().0;
        assert_eq!(from(json!({"configMapKeyRef": {"name": "gone", "key": "k"}})), "configmap \"gone\" not found");
        assert_eq!(from(json!({"secretKeyRef": {"name": "s", "key": "none"}})), "couldn't find key none in Secret default/s");
        let all = env_of(json!({"name": "c", "envFrom": [{"secretRef": {"name": "gone"}}]})).unwrap_err().0;
        assert_eq!(all, "secret \"gone\" not found");
    }

    #[test]
    fn fields_of_the_pod_are_values() {
        let cases = [
            ("metadata.name", "p"),
            ("metadata.uid", "u"),
            ("spec.nodeName", "n1"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.1.0.5"),
            ("status.hostIP", "192.0.2.1"),
            ("metadata.labels['app']", "web"),
            ("metadata.annotations['none']", ""),
            ("metadata.labels", "app=\"web\""),
            ("metadata.annotations", "n=\"a\\\"b\""),
        ];
        for (path, expected) in cases {
            assert_eq!(field_value(&pod(), path, &lookup()).unwrap(), expected, "{path}");
        }
        assert!(field_value(&pod(), "spec.nope", &lookup()).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up_and_default_to_what_the_node_has() {
        let limited: Container =
            serde_json::from_value(json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}}})).unwrap();
        let free = Container::default();
        let cases = [
            (&limited, "limits.cpu", "0", "2"),
            (&limited, "limits.cpu", "1m", "1500"),
            (&limited, "limits.memory", "1Mi", "100"),
            (&limited, "requests.cpu", "1m", "1500"),
            (&limited, "limits.memory", "1Gi", "1"),
            (&free, "limits.cpu", "0", "2"),
            (&free, "limits.memory", "0", "1073741824"),
            (&free, "requests.memory", "0", "0"),
        ];
        for (container, resource, divisor, expected) in cases {
            let field = serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            assert_eq!(resource_value(&pod(), container, &field, (2000, 1 << 30)).unwrap(), expected, "{resource} / {divisor}");
        }
    }
}

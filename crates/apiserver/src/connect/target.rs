//! Where a stream goes: from pod, service or node to an address and a path there.

use super::kubelet::Kubelets;
use super::passage::{Destination, Way};
use crate::output::Body;
use crate::pipeline::Request;
use crate::verbs::Answer;
use crate::verbs::options::Freshness;
use ferrokube_api::{Object, Reason, Status};
use serde_json::Value;
use std::net::IpAddr;
use std::num::IntErrorKind;
use std::sync::Arc;

/// The kubelet's port when its Node does not say.
const KUBELET_PORT: u16 = 10250;

/// Percent-encodes what must not stand in a query or a path segment.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod["spec"][list].as_array().into_iter().flatten();
    containers.filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
}

/// The container meant. An annotation may name a default one, but reading it is the client's part.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let all: Vec<String> = ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| names(pod, list)).collect();
    if !wanted.is_empty() {
        return if all.iter().any(|n| n == wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    match names(pod, "containers").as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => {
            let text = format!("a container name must be specified for pod {name}, choose one of: [{}]", all.join(" "));
            Err(Status::bad_request(text))
        }
    }
}

fn address(node: &Value) -> Option<(String, u16)> {
    let of = |kind: &str| {
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        addresses.filter(|a| a["type"] == kind).find_map(|a| a["address"].as_str()).map(str::to_owned)
    };
    let host = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|p| u16::try_from(p).ok());
    Some((host, port.filter(|p| *p > 0).unwrap_or(KUBELET_PORT)))
}

/// `[scheme:]name[:port]`, as names of proxied pods, services and nodes are written. `what` is proxied.
fn split_name<'n>(what: &str, name: &'n str) -> Result<(&'n str, &'n str, &'n str), Status> {
    let parts = match name.split(':').collect::<Vec<_>>().as_slice() {
        [name] => Some(("", *name, "")),
        [name, port] => Some(("", *name, *port)),
        [scheme @ ("" | "http" | "https"), name, port] => Some((*scheme, *name, *port)),
        _ => None,
    };
    parts.filter(|(_, name, _)| !name.is_empty()).ok_or_else(|| Status::bad_request(format!("invalid {what} request {name:?}")))
}

/// Addresses of a pod, the first one first.
fn pod_ips(pod: &Value) -> impl Iterator<Item = &str> {
    let status = &pod["status"];
    let list = status["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let alone = status["podIP"].as_str().filter(|ip| list.is_empty() && !ip.is_empty());
    list.iter().filter_map(|ip| ip["ip"].as_str()).chain(alone)
}

/// Whoever may write a pod's status must not lead this server to itself or to its neighbours on the link.
fn is_global_unicast(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !special && !link_local
}

/// The numbers of `ports`, as apimachinery reads lists of them.
pub(super) fn numbers<'q>(values: impl Iterator<Item = &'q str>) -> Result<Vec<u16>, Status> {
    let number = |text: &str| {
        text.parse::<u16>().map_err(|error| {
            let why = if *error.kind() == IntErrorKind::PosOverflow { "value out of range" } else { "invalid syntax" };
            Status::bad_request(format!("cannot convert to []int32: strconv.ParseUint: parsing {text:?}: {why}"))
        })
    };
    values.flat_map(|v| v.split(',')).map(number).collect()
}

/// The kubelet says in plain words why there is no log; clients expect a Status.
async fn refused(answer: http::Response<Body>) -> Status {
    use futures_util::StreamExt;
    const LONGEST: usize = 2048;
    let code = answer.status().as_u16();
    let mut text = Vec::new();
    if let Body::Passage(mut frames) = answer.into_body() {
        while let Some(Ok(frame)) = frames.next().await {
            text.extend_from_slice(&frame);
            if text.len() >= LONGEST {
                break;
            }
        }
    }
    text.truncate(LONGEST);
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    match code {
        400 => Status::bad_request(text),
        404 => Status::failure(404, Reason::NotFound, text),
        _ => Status::internal(text),
    }
}

impl Request<'_> {
    fn kubelets(&self) -> Result<Arc<Kubelets>, Status> {
        self.server.kubelets.load_full().ok_or_else(|| Status::internal("the API server has no credentials for kubelets"))
    }

    fn kubelet_of(&self, node: &str) -> Result<(String, u16), Status> {
        let cache = self.server.caches.get("", "nodes").ok_or_else(Status::no_such_path)?;
        let object = cache.get("", node).ok_or_else(|| Status::not_found("", "nodes", node))?;
        let value: Value = object.decode().map_err(Status::internal)?;
        address(&value).ok_or_else(|| Status::internal(format!("no preferred addresses found; known addresses: [] of node {node}")))
    }

    /// Logs, exec, attach and port-forward: to the kubelet of the pod's node.
    pub(super) async fn pod_stream(&self, verb: &str) -> Result<Answer, Status> {
        let pod = self.current(Freshness::Latest).await?;
        let value: Value = pod.decode().map_err(Status::internal)?;
        let name = &self.info.name;
        let place = format!("{}/{}", escape(self.namespace()), escape(name));
        let path = match verb {
            "portForward" => format!("/portForward/{place}"),
            _ => format!("/{verb}/{place}/{}", escape(&container(&value, name, self.query.get("container"))?)),
        };
        let node = value["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return match verb {
                // The log of a pod that runs nowhere is empty.
                "containerLogs" => Ok(Answer::Raw(crate::server::answer::whole("text/plain", bytes::Bytes::new()))),
                _ => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
            };
        }
        let (host, port) = self.kubelet_of(node)?;
        let destination = Destination { host, port, tls: true, path: format!("{path}{}", self.stream_query(verb)?), name: None };
        let logs = verb == "containerLogs";
        let verify = !(logs && self.query.flag("insecureSkipTLSVerifyBackend"));
        let answer = self.pass(self.kubelets()?.tls(verify), destination, if logs { Way::Fetch } else { Way::Stream }).await?;
        match answer {
            Answer::Raw(refusal) if logs && !refusal.status().is_success() => Err(refused(refusal).await),
            other => Ok(other),
        }
    }

    /// The query in the words of the kubelet.
    fn stream_query(&self, verb: &str) -> Result<String, Status> {
        let mut out: Vec<String> = Vec::new();
        match verb {
            "containerLogs" => {
                for name in ["follow", "previous", "timestamps"] {
                    if self.query.flag(name) {
                        out.push(format!("{name}=true"));
                    }
                }
                for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes"] {
                    if let Some(value) = self.query.find(name).filter(|v| !v.is_empty()) {
                        out.push(format!("{name}={}", escape(value)));
                    }
                }
            }
            "portForward" => out.extend(numbers(self.query.all("ports"))?.iter().map(|port| format!("port={port}"))),
            _ => {
                for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                    if self.query.flag(ours) {
                        out.push(format!("{theirs}=1"));
                    }
                }
                out.extend(self.query.all("command").map(|c| format!("command={}", escape(c))));
            }
        }
        Ok(if out.is_empty() { String::new() } else { format!("?{}", out.join("&")) })
    }

    /// `ValidatePodLogOptions`: looked at before the pod is.
    pub(super) fn check_log_query(&self) -> Result<(), Status> {
        use ferrokube_api::field::{Errors, Path};
        let mut errors = Errors::default();
        let since = self.query.get("sinceTime");
        for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
            match self.query.number(name)? {
                // Two times are refused as such.
                Some(value) if value < least && !(name == "sinceSeconds" && !since.is_empty()) => {
                    let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
                    errors.invalid(&Path::new(name), &value.into(), why);
                }
                _ => {}
            }
        }
        if !matches!(since, "" | "null") && ferrokube_api::time::parse_time(since).is_none() {
            let why = format!("parsing time {since:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {since:?} as \"2006\"");
            return Err(Status::bad_request(why));
        }
        if !since.is_empty() && self.query.find("sinceSeconds").is_some() {
            errors.forbidden(&Path::new(""), "at most one of `sinceTime` or `sinceSeconds` may be specified");
        }
        if self.query.find("stream").is_some() {
            errors.forbidden(&Path::new("stream"), "may not be specified");
        }
        if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "PodLogOptions", &self.info.name, errors.into_causes())) }
    }

    /// The path that the client wants behind a proxy, with its query.
    fn proxied_path(&self) -> String {
        let query = self.query.raw();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/{}{mark}{query}", self.info.rest)
    }

    pub(super) async fn node_proxy(&self) -> Result<Answer, Status> {
        let (_, name, port) = split_name("node", &self.info.name)?;
        let (host, own) = self.kubelet_of(name)?;
        let port = if port.is_empty() {
            own
        } else {
            port.parse().map_err(|_| Status::bad_request(format!("invalid node request {:?}", self.info.name)))?
        };
        let destination = Destination { host, port, tls: true, path: self.proxied_path(), name: None };
        self.pass(self.kubelets()?.tls(true), destination, Way::Proxy).await
    }

    pub(super) async fn pod_proxy(&self) -> Result<Answer, Status> {
        let (scheme, name, port) = split_name("pod", &self.info.name)?;
        let cache = self.server.caches.get("", "pods").ok_or_else(Status::no_such_path)?;
        self.fresh(Freshness::Latest).await?;
        let pod: Arc<Object> = cache.get(self.namespace(), name).ok_or_else(|| Status::not_found("", "pods", name))?;
        let value: Value = pod.decode().map_err(Status::internal)?;
        let ip = pod_ips(&value).next().and_then(|ip| ip.parse().ok()).filter(|ip| is_global_unicast(*ip));
        let host = ip.ok_or_else(|| Status::bad_request("address not allowed"))?.to_string();
        let declared =
            value["spec"]["containers"].as_array().into_iter().flatten().flat_map(|c| c["ports"].as_array().into_iter().flatten());
        let first = declared.filter_map(|p| p["containerPort"].as_u64()).find_map(|p| u16::try_from(p).ok());
        let port = match port {
            "" => first.unwrap_or(80),
            text => text.parse().map_err(|_| Status::bad_request(format!("invalid pod request {:?}", self.info.name)))?,
        };
        let destination = Destination { host, port, tls: scheme == "https", path: self.proxied_path(), name: None };
        self.pass(super::kubelet::unverified(), destination, Way::Proxy).await
    }

    pub(super) async fn service_proxy(&self) -> Result<Answer, Status> {
        let (scheme, name, port) = split_name("service", &self.info.name)?;
        self.fresh(Freshness::Latest).await?;
        let services = self.server.caches.get("", "services").ok_or_else(Status::no_such_path)?;
        let service = services.get(self.namespace(), name).ok_or_else(|| Status::not_found("", "services", name))?;
        let value: Value = service.decode().map_err(Status::internal)?;
        let unavailable = |what: String| Err(Status::failure(503, Reason::ServiceUnavailable, what));
        let port_name = match port.parse::<i64>() {
            Err(_) => port.to_owned(),
            Ok(number) => match value["spec"]["ports"].as_array().into_iter().flatten().find(|p| p["port"] == number) {
                Some(declared) => declared["name"].as_str().unwrap_or_default().to_owned(),
                None => return unavailable(format!("no service port {number} found for service {name:?}")),
            },
        };
        let mut found: Vec<(String, u16)> = Vec::new();
        let caches = &self.server.caches;
        let slices = caches.get("discovery.k8s.io", "endpointslices").ok_or_else(Status::no_such_path)?;
        for slice in slices.list(self.namespace()).iter().filter(|s| s.label("kubernetes.io/service-name") == Some(name)) {
            let slice: Value = slice.decode().map_err(Status::internal)?;
            let port = slice["ports"].as_array().into_iter().flatten().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
            let Some(port) = port.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else { continue };
            let ready = slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] != false);
            found.extend(ready.filter_map(|e| self.address_of_pod(e)).map(|ip| (ip, port)));
        }
        if found.is_empty() {
            return unavailable(format!("no endpoints available for service {:?}", self.info.name));
        }
        let (host, port) = found.swap_remove(rand::random_range(0..found.len()));
        let destination = Destination { host, port, tls: scheme == "https", path: self.proxied_path(), name: None };
        self.pass(super::kubelet::unverified(), destination, Way::Proxy).await
    }

    /// The address of an endpoint, if it is one of the pod that it names: whoever may write endpoints must not lead this server
    /// anywhere else.
    fn address_of_pod(&self, endpoint: &Value) -> Option<String> {
        let ip = endpoint["addresses"][0].as_str()?;
        let target = &endpoint["targetRef"];
        let name = target["name"].as_str().filter(|_| target["namespace"] == self.namespace())?;
        let pod: Value = self.server.caches.get("", "pods")?.get(self.namespace(), name)?.decode().ok()?;
        pod_ips(&pod).any(|own| own == ip).then(|| ip.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_meant_is_found_or_asked_for() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "p", "i").expect("known"), "i");
        let text = container(&pod, "p", "").expect_err("ambiguous").message;
        assert_eq!(text, "a container name must be specified for pod p, choose one of: [i a b]");
        assert_eq!(container(&pod, "p", "x").expect_err("unknown").message, "container x is not valid for pod p");
    }

    #[test]
    fn proxied_names_carry_scheme_and_port() {
        let split = |name| split_name("service", name).map_err(|e| e.message);
        assert_eq!(split("https:web:443"), Ok(("https", "web", "443")));
        assert_eq!(split("web:http"), Ok(("", "web", "http")));
        assert_eq!(split("web"), Ok(("", "web", "")));
        for wrong in ["ftp:web:21", "a:b:c:d", ":80", "https::"] {
            assert_eq!(split(wrong), Err(format!("invalid service request {wrong:?}")));
        }
    }

    #[test]
    fn only_addresses_of_pods_are_gone_to() {
        let allowed = |ip: &str| is_global_unicast(ip.parse().expect("an address"));
        assert!(allowed("10.0.0.7") && allowed("fd00::7") && allowed("192.0.2.1"));
        for ip in [
            "127.0.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "ff02::1",
            "::",
            "::ffff:127.0.0.1",
        ] {
            assert!(!allowed(ip), "{ip}");
        }
    }

    #[test]
    fn ports_are_numbers() {
        let read = |text: &'static str| numbers([text].into_iter()).map_err(|e| e.message);
        assert_eq!(read("80,443"), Ok(vec![80, 443]));
        assert_eq!(read("x"), Err("cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax".to_owned()));
        assert_eq!(read("70000"), Err("cannot convert to []int32: strconv.ParseUint: parsing \"70000\": value out of range".to_owned()));
    }
}

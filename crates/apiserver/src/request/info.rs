//! From method and path to verb, resource, namespace, name and subresource, by the rules of apiserver's RequestInfo.

use super::query::{Query, percent_decode};
use crate::attributes::{Attributes, UserInfo};
use http::Method;

/// What the request line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// As in [`Attributes::verb`].
    pub verb: String,
    /// Whether the path names a resource (else nothing below is set).
    pub resource_request: bool,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Empty for the main resource.
    pub subresource: String,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// What follows the subresource in the path (`pods/x/proxy/REST`), without a slash in front, as sent.
    pub rest: String,
    /// The path as sent (decoded).
    pub path: String,
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Splits off group and version; `None` when the path names no resource.
fn group_version(path: &str) -> Option<(&str, &str, &str)> {
    if let Some(rest) = path.strip_prefix("/api/") {
        let (version, rest) = rest.split_once('/')?;
        return Some(("", version, rest));
    }
    let rest = path.strip_prefix("/apis/")?;
    let (group, rest) = rest.split_once('/')?;
    let (version, rest) = rest.split_once('/')?;
    Some((group, version, rest))
}

/// The end of a path as it was sent, given what it decodes to.
fn as_sent(raw_path: &str, decoded: &str) -> String {
    if decoded.is_empty() || raw_path.ends_with(decoded) {
        return decoded.to_owned();
    }
    let ends = raw_path.rmatch_indices('/').map(|(at, _)| &raw_path[at + 1..]);
    ends.into_iter().find(|end| percent_decode(end, false) == decoded).unwrap_or(decoded).to_owned()
}

impl RequestInfo {
    /// Reads a request line.
    pub fn of(method: &Method, raw_path: &str, query: &Query) -> Self {
        // As in Go, an escaped slash parts like any other.
        let path = percent_decode(raw_path, false);
        let mut info = RequestInfo::default();
        let mut fields = match group_version(&path) {
            Some((group, version, rest)) if !rest.trim_end_matches('/').is_empty() => {
                (info.group, info.version) = (group.to_owned(), version.to_owned());
                rest.splitn(2, '/')
            }
            _ => {
                info.verb = method.as_str().to_ascii_lowercase();
                info.path = path;
                return info;
            }
        };
        info.resource_request = true;
        info.verb = verb_of(method).to_owned();
        let (mut first, mut rest) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if matches!(first, "watch" | "proxy") && !rest.is_empty() {
            info.verb = first.to_owned();
            (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
        }
        if first == "namespaces" && !rest.is_empty() {
            let (namespace, below) = rest.split_once('/').unwrap_or((rest, ""));
            info.namespace = namespace.to_owned();
            let next = below.split('/').next().unwrap_or_default();
            if !below.is_empty() && next != "status" && next != "finalize" {
                (first, rest) = below.split_once('/').unwrap_or((below, ""));
            }
        }
        info.resource = first.to_owned();
        let mut parts = rest.splitn(3, '/');
        info.name = parts.next().unwrap_or_default().to_owned();
        info.subresource = parts.next().unwrap_or_default().to_owned();
        info.rest = as_sent(raw_path, parts.next().unwrap_or_default());
        info.collection_verbs(query);
        info.path = path;
        info
    }

    fn collection_verbs(&mut self, query: &Query) {
        if self.name.is_empty() && self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
        }
        if self.name.is_empty() && self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
        // A list or watch of one name is authorized as such; a deletion of a collection is one of all of it.
        if self.name.is_empty() && matches!(self.verb.as_str(), "list" | "watch") {
            let name = query.get("fieldSelector").split(',').find_map(|term| term.strip_prefix("metadata.name="));
            if let Some(name) = name.map(|n| n.trim_start_matches('=')).filter(|n| !n.is_empty()) {
                self.name = name.to_owned();
            }
        }
    }

    /// Whether the request takes long by nature: such requests have no time limit and no seat among those in flight.
    pub fn long_running(&self) -> bool {
        self.verb == "watch"
            || self.verb == "proxy"
            || self.path.starts_with("/debug/pprof/")
            || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }

    /// As authorization sees it.
    pub fn attributes(&self, user: &UserInfo, query: &Query) -> Attributes {
        let selectors = matches!(self.verb.as_str(), "list" | "watch" | "deletecollection");
        let selector = |name| if selectors { query.get(name).to_owned() } else { String::new() };
        Attributes {
            user: user.clone(),
            verb: self.verb.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: self.path.clone(),
            field_selector: selector("fieldSelector"),
            label_selector: selector("labelSelector"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').map_or((uri, None), |(p, q)| (p, Some(q)));
        RequestInfo::of(&Method::from_bytes(method.as_bytes()).expect("a method"), path, &Query::parse(query))
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // method, uri, verb, group, version, namespace, resource, subresource, name
        let cases = [
            ("GET", "/api/v1/namespaces", "list", "", "v1", "", "namespaces", "", ""),
            ("GET", "/api/v1/namespaces/other", "get", "", "v1", "other", "namespaces", "", "other"),
            ("PUT", "/api/v1/namespaces/other/finalize", "update", "", "v1", "other", "namespaces", "finalize", "other"),
            ("GET", "/api/v1/namespaces/other/pods", "list", "", "v1", "other", "pods", "", ""),
            ("GET", "/api/v1/namespaces/other/pods?watch=true", "watch", "", "v1", "other", "pods", "", ""),
            ("GET", "/api/v1/watch/namespaces/other/pods", "watch", "", "v1", "other", "pods", "", ""),
            ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection", "", "v1", "other", "pods", "", ""),
            ("POST", "/api/v1/namespaces/other/pods/foo/exec", "create", "", "v1", "other", "pods", "exec", "foo"),
            ("GET", "/apis/apps/v1/deployments", "list", "apps", "v1", "", "deployments", "", ""),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", "patch", "apps", "v1", "a", "deployments", "scale", "d"),
            ("GET", "/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dn1", "watch", "", "v1", "", "nodes", "", "n1"),
            ("GET", "/api/v1/nodes/n/proxy/stats/summary", "get", "", "v1", "", "nodes", "proxy", "n"),
            ("GET", "/api/v1/namespaces/other/pods/a%2Fb", "get", "", "v1", "other", "pods", "b", "a"),
            ("GET", "/api/v1/proxy/nodes/n", "proxy", "", "v1", "", "nodes", "", "n"),
            ("DELETE", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1", "deletecollection", "", "v1", "", "nodes", "", ""),
            ("GET", "/api/v1/namespaces//pods/", "list", "", "v1", "", "pods", "", ""),
        ];
        for (method, uri, verb, group, version, namespace, resource, subresource, name) in cases {
            let found = info(method, uri);
            let found = (found.verb, found.group, found.version, found.namespace, found.resource, found.subresource, found.name);
            let wanted = [verb, group, version, namespace, resource, subresource, name].map(str::to_owned);
            assert_eq!(<[String; 7]>::from(found), wanted, "{method} {uri}");
        }
        assert!(!info("GET", "/api/v1").resource_request);
        assert!(!info("GET", "/healthz").resource_request);
        assert_eq!(info("GET", "/api/v1/nodes/n/proxy/stats/summary").rest, "stats/summary");
        assert_eq!(info("GET", "/api/v1/nodes/n/proxy/a%2Fb%20c/").rest, "a%2Fb%20c/");
    }
}

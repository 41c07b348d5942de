//! A method, a path and a query to a question, or to the `Status` that says why it is none. Pure.
//!
//! Selectors are not looked at: they go to the API server as they came, with the list of nodes or pods that they select from.

use crate::{GROUP, VERSION};
use ferrokube_api::Status;
use http::Method;

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether the server is well.
    Health,
    /// `/apis`.
    Groups,
    /// `/apis/metrics.k8s.io`.
    Group,
    /// What the version has.
    Resources,
    /// The selected nodes.
    Nodes(Selectors),
    /// One node.
    Node(String),
    /// The selected pods, of all namespaces when it is empty.
    Pods { namespace: String, selectors: Selectors },
    /// One pod.
    Pod { namespace: String, name: String },
}

/// `labelSelector` and `fieldSelector` as they came, percent-encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors(Vec<String>);

impl Selectors {
    fn of(query: &str) -> Self {
        let ours = |pair: &&str| ["labelSelector=", "fieldSelector="].iter().any(|key| pair.len() > key.len() && pair.starts_with(key));
        Selectors(query.split('&').filter(ours).map(str::to_owned).collect())
    }

    /// The query that selects, `?` included; nothing when all are wanted.
    pub fn query(&self) -> String {
        if self.0.is_empty() { String::new() } else { format!("?{}", self.0.join("&")) }
    }
}

/// In which form objects are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Objects,
    /// As a table for people, with so much of each object.
    Table(Include),
}

/// `includeObject` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing of the object.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

fn value<'q>(query: &'q str, key: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// The form, by the `Accept` header and the query: the first form named that there is.
pub fn form(accept: &str, query: &str) -> Form {
    let table = |part: &str| part.contains("as=Table") && part.contains("g=meta.k8s.io") && part.contains("v=v1");
    let plain = |part: &str| part.trim_start().starts_with("application/json") && !part.contains("as=");
    match accept.split(',').find(|part| table(part) || plain(part)) {
        Some(part) if table(part) => Form::Table(match value(query, "includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        }),
        _ => Form::Objects,
    }
}

/// What a request asks.
///
/// # Errors
/// 404 for a path that is not served, 405 for anything but reading.
pub fn question(method: &Method, path: &str, query: &str) -> Result<Question, Status> {
    let question = asked(path, query).ok_or_else(Status::no_such_path)?;
    let watch = matches!(value(query, "watch"), Some("1" | "true" | "True" | "t" | "T" | "TRUE"));
    if method != Method::GET || watch {
        return Err(Status::method_not_allowed());
    }
    Ok(question)
}

/// A part of a path goes into the path of a request of our own, under our own identity: it must not become several there.
fn is_plain(part: &str) -> bool {
    !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

fn asked(path: &str, query: &str) -> Option<Question> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if !parts.iter().all(|part| is_plain(part)) {
        return None;
    }
    let ours = |group: &str, version: &str| group == GROUP && version == VERSION;
    let question = match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] => Question::Health,
        ["apis"] => Question::Groups,
        ["apis", group] if *group == GROUP => Question::Group,
        ["apis", group, version, rest @ ..] if ours(group, version) => match rest {
            [] => Question::Resources,
            ["nodes"] => Question::Nodes(Selectors::of(query)),
            ["nodes", name] => Question::Node((*name).to_owned()),
            ["pods"] => Question::Pods { namespace: String::new(), selectors: Selectors::of(query) },
            ["namespaces", namespace, "pods"] => Question::Pods { namespace: (*namespace).to_owned(), selectors: Selectors::of(query) },
            ["namespaces", namespace, "pods", name] => Question::Pod { namespace: (*namespace).to_owned(), name: (*name).to_owned() },
            _ => return None,
        },
        _ => return None,
    };
    Some(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_questions() {
        let pods = |namespace: &str, selectors: &[&str]| Question::Pods {
            namespace: namespace.into(),
            selectors: Selectors(selectors.iter().map(|s| (*s).to_owned()).collect()),
        };
        let cases = [
            ("/readyz", "", Question::Health),
            ("/apis", "", Question::Groups),
            ("/apis/metrics.k8s.io", "", Question::Group),
            ("/apis/metrics.k8s.io/", "", Question::Group),
            ("/apis/metrics.k8s.io/v1beta1", "timeout=32s", Question::Resources),
            ("/apis/metrics.k8s.io/v1beta1/nodes", "", Question::Nodes(Selectors::default())),
            ("/apis/metrics.k8s.io/v1beta1/nodes/n1", "", Question::Node("n1".into())),
            ("/apis/metrics.k8s.io/v1beta1/pods", "limit=500", pods("", &[])),
            (
                "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods",
                "labelSelector=app%3Dx&limit=5&fieldSelector=metadata.name%3Dy&labelSelector=",
                pods("a", &["labelSelector=app%3Dx", "fieldSelector=metadata.name%3Dy"]),
            ),
            ("/apis/metrics.k8s.io/v1beta1/namespaces/a/pods/p", "", Question::Pod { namespace: "a".into(), name: "p".into() }),
        ];
        for (path, query, want) in cases {
            assert_eq!(question(&Method::GET, path, query), Ok(want), "{path}?{query}");
        }
        assert_eq!(Selectors::of("labelSelector=a%3Db&x=y").query(), "?labelSelector=a%3Db");
        assert_eq!(Selectors::of("x=y").query(), "");
    }

    #[test]
    fn what_is_not_there_is_404_and_what_is_not_done_405() {
        let code = |method: Method, path: &str, query: &str| question(&method, path, query).map_err(|status| status.code);
        for path in [
            "/",
            "/api",
            "/apis/metrics.k8s.io/v1",
            "/apis/apps/v1",
            "/apis/metrics.k8s.io/v1beta1/namespaces/a/nodes",
            "/openapi/v2",
            "/apis/metrics.k8s.io/v1beta1/nodes/n%2Fproxy",
            "/apis/metrics.k8s.io/v1beta1/nodes/..",
            "/apis/metrics.k8s.io/v1beta1/namespaces/a%3F/pods",
        ] {
            assert_eq!(code(Method::GET, path, ""), Err(404), "{path}");
        }
        let pods = "/apis/metrics.k8s.io/v1beta1/pods";
        assert_eq!(code(Method::POST, pods, ""), Err(405));
        assert_eq!(code(Method::DELETE, pods, ""), Err(405));
        assert_eq!(code(Method::GET, pods, "watch=true"), Err(405));
    }

    #[test]
    fn kubectl_gets_a_table_and_programs_get_objects() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl, ""), Form::Table(Include::Metadata));
        assert_eq!(form(kubectl, "limit=1&includeObject=Object"), Form::Table(Include::Object));
        assert_eq!(
            form(
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=Table;g=meta.k8s.io;v=v1",
                "includeObject=None"
            ),
            Form::Table(Include::None)
        );
        for accept in [
            "application/json",
            "*/*",
            "",
            "application/json, application/json;as=Table;v=v1;g=meta.k8s.io",
            "application/vnd.kubernetes.protobuf,application/json",
        ] {
            assert_eq!(form(accept, ""), Form::Objects, "{accept}");
        }
    }
}

//! The objects that measurements are made with: of the sizes that clusters have.

use bytes::Bytes;

/// A kind that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// 1 KiB of data.
    ConfigMap,
    /// About 200 bytes: what there are very many of.
    SmallConfigMap,
    /// About 1.5 KB, one container; no scheduler takes it.
    Pod,
    /// What every node renews.
    Lease,
}

impl Subject {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Subject::ConfigMap | Subject::SmallConfigMap => "ConfigMap",
            Subject::Pod => "Pod",
            Subject::Lease => "Lease",
        }
    }

    /// Path of its collection in a namespace.
    pub fn path(self, namespace: &str) -> String {
        match self {
            Subject::ConfigMap | Subject::SmallConfigMap => format!("/api/v1/namespaces/{namespace}/configmaps"),
            Subject::Pod => format!("/api/v1/namespaces/{namespace}/pods"),
            Subject::Lease => format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
        }
    }

    /// Its body. `revision` goes into the resourceVersion unless it is empty; `mark` is what a later write changes.
    pub fn body(self, namespace: &str, name: &str, revision: &str, mark: usize) -> String {
        let version = if revision.is_empty() { String::new() } else { format!(r#","resourceVersion":"{revision}""#) };
        let metadata = format!(r#"{{"name":"{name}","namespace":"{namespace}"{version},"labels":{{"app":"bench","mark":"m{mark}"}}}}"#);
        match self {
            Subject::ConfigMap => {
                let filling = "x".repeat(1024);
                format!(
                    r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{metadata},"data":{{"mark":"{mark}","filling":"{filling}"}}}}"#
                )
            }
            Subject::SmallConfigMap => {
                format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{metadata},"data":{{"mark":"{mark}"}}}}"#)
            }
            Subject::Pod => format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata},"spec":{}}}"#, pod_spec()),
            Subject::Lease => {
                let micros = mark % 1_000_000;
                let spec =
                    format!(r#"{{"holderIdentity":"{name}","leaseDurationSeconds":40,"renewTime":"2026-01-01T00:00:00.{micros:06}Z"}}"#);
                format!(r#"{{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{metadata},"spec":{spec}}}"#)
            }
        }
    }

    /// The body of an update of what was `read`; `None` when that is no object.
    pub fn changed(self, namespace: &str, name: &str, read: &[u8], mark: usize) -> Option<Bytes> {
        if self != Subject::Pod {
            return Some(self.body(namespace, name, &revision_of(read)?, mark).into());
        }
        // The server has added to a pod what an update may not take away, so the update is what was read with another mark.
        const MARK: &[u8] = br#""mark":"m"#;
        let from = read.windows(MARK.len()).position(|w| w == MARK)? + MARK.len();
        let len = read[from..].iter().position(|b| *b == b'"')?;
        Some([&read[..from], mark.to_string().as_bytes(), &read[from + len..]].concat().into())
    }

    /// A patch that changes the mark.
    pub fn patch(self, mark: usize) -> String {
        format!(r#"{{"metadata":{{"labels":{{"mark":"m{mark}"}}}}}}"#)
    }
}

fn pod_spec() -> String {
    let env: Vec<String> = (0..8).map(|n| format!(r#"{{"name":"SETTING_{n}","value":"some value of setting {n}"}}"#)).collect();
    let probe = r#"{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":10}"#;
    // No scheduler has this name and no node this label: the pod stays what it is.
    format!(
        concat!(
            r#"{{"schedulerName":"nobody","nodeSelector":{{"ferrokube-bench":"nowhere"}},"terminationGracePeriodSeconds":0,"containers":[{{"#,
            r#""name":"main","image":"registry.invalid/some/application:v1.2.3","args":["--listen=:8080","--verbose=2"],"env":[{env}],"#,
            r#""ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"#,
            r#""resources":{{"requests":{{"cpu":"100m","memory":"128Mi"}},"limits":{{"memory":"256Mi"}}}},"#,
            r#""livenessProbe":{probe},"readinessProbe":{probe},"volumeMounts":[{{"name":"scratch","mountPath":"/scratch"}}]}}],"#,
            r#""volumes":[{{"name":"scratch","emptyDir":{{}}}}]}}"#
        ),
        env = env.join(","),
        probe = probe
    )
}

/// The resourceVersion in an answer, without parsing the rest: the first one is that of the object (or list).
pub(crate) fn revision_of(body: &[u8]) -> Option<String> {
    string_field(body, "resourceVersion")
}

/// The value of the first field of this name, when it is a string without escapes.
pub(crate) fn string_field(body: &[u8], name: &str) -> Option<String> {
    let field = format!("\"{name}\":");
    let at = body.windows(field.len()).position(|w| w == field.as_bytes())? + field.len();
    let rest = &body[at..];
    let open = rest.iter().position(|b| *b == b'"')? + 1;
    let close = open + rest[open..].iter().position(|b| *b == b'"')?;
    Some(String::from_utf8_lossy(&rest[open..close]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_size_they_claim() {
        let sizes =
            [(Subject::ConfigMap, 1024, 1400), (Subject::SmallConfigMap, 150, 250), (Subject::Pod, 1200, 1800), (Subject::Lease, 200, 400)];
        for (subject, least, most) in sizes {
            let body = subject.body("ns", "name", "17", 3);
            let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(value["kind"], subject.name());
            assert_eq!(value["metadata"]["resourceVersion"], "17");
            assert!((least..most).contains(&body.len()), "{subject:?}: {}", body.len());
            assert_eq!(revision_of(body.as_bytes()).as_deref(), Some("17"));
            assert_eq!(revision_of(subject.body("ns", "name", "", 3).as_bytes()), None);
            serde_json::from_str::<serde_json::Value>(&subject.patch(1)).expect("JSON");
            let changed = subject.changed("ns", "name", body.as_bytes(), 4711).expect("an object");
            let changed: serde_json::Value = serde_json::from_slice(&changed).expect("JSON");
            assert_eq!(changed["metadata"]["labels"]["mark"], "m4711");
            assert_eq!(changed["metadata"]["resourceVersion"], "17");
        }
    }
}

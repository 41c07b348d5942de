//! What the API serves, as controllers over all kinds need it: every resource with its verbs, from aggregated discovery.

use ferrokube_client::{Client, Error, Optional, Target};
use http::Method;
use serde_json::Value;

/// A resource in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ApiResource {
    /// Group; empty for core.
    pub group: String,
    /// Preferred version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Kind.
    pub kind: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl ApiResource {
    /// The collection.
    pub fn target(&self) -> Target {
        Target { group: self.group.clone(), version: self.version.clone(), resource: self.resource.clone(), ..Target::default() }
    }

    /// `resource.group`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { format!("{}.", self.resource) } else { format!("{}.{}", self.resource, self.group) }
    }

    /// Whether it has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// A group whose resources could not be learned.
#[derive(Debug)]
pub(crate) struct Undiscovered {
    /// Its name.
    pub group: String,
    version: String,
    error: Error,
}

impl Undiscovered {
    /// The server behind its APIService is away, or this server refuses for a while: they say the same.
    pub fn is_away(&self) -> bool {
        self.error.status().is_some_and(|s| s.code == 503)
    }
}

/// In the words of client-go, which is told of such a group that it is stale.
impl std::fmt::Display for Undiscovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Undiscovered { group, version, error } = self;
        if self.is_away() {
            return write!(f, "{group}/{version}: stale GroupVersion discovery: {group}/{version}");
        }
        write!(f, "{group}/{version}: {error}")
    }
}

/// What is served, and what is not known of it.
pub(crate) type Discovered = (Vec<ApiResource>, Vec<Undiscovered>);

/// Every resource in the preferred version of its group, and the groups whose resources could not be learned.
pub(crate) async fn all(client: &Client) -> Result<Discovered, Error> {
    let mut resources = Vec::new();
    let mut failed = Vec::new();
    read(client, "/api/v1", "", "v1", &mut resources, &mut failed).await;
    let groups = get(client, "/apis").await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        let (name, version) =
            (group["name"].as_str().unwrap_or_default(), group["preferredVersion"]["version"].as_str().unwrap_or_default());
        read(client, &format!("/apis/{name}/{version}"), name, version, &mut resources, &mut failed).await;
    }
    Ok((resources, failed))
}

async fn get(client: &Client, path: &str) -> Result<Value, Error> {
    let response = client.send(Method::GET, path, None, Default::default()).await?;
    serde_json::from_slice(response.body()).map_err(|source| Error::Decode { what: "discovery", source })
}

async fn read(client: &Client, path: &str, group: &str, version: &str, into: &mut Vec<ApiResource>, failed: &mut Vec<Undiscovered>) {
    let document = match get(client, path).await {
        Ok(document) => document,
        Err(error) => return failed.push(Undiscovered { group: group.to_owned(), version: version.to_owned(), error }),
    };
    let entries = document["resources"].as_array().into_iter().flatten();
    into.extend(entries.map(|entry| resource(group, version, entry)).filter(|r| !r.resource.contains('/')));
}

fn resource(group: &str, version: &str, entry: &Value) -> ApiResource {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: text(&entry["name"]),
        kind: text(&entry["kind"]),
        namespaced: entry["namespaced"] == Value::Bool(true),
        verbs: entry["verbs"].as_array().into_iter().flatten().map(text).collect(),
    }
}

/// A resource in the preferred version of its group, or in the next best that has it, with the hash of the version in which it is
/// stored; `None` when nobody serves it.
pub(crate) async fn find(client: &Client, group: &str, wanted: &str) -> Result<Option<(ApiResource, String)>, Error> {
    let roots = if group.is_empty() {
        vec![("/api/v1".to_owned(), "v1".to_owned())]
    } else {
        let Some(known) = get(client, &format!("/apis/{group}")).await.optional()? else { return Ok(None) };
        let versions = known["versions"].as_array().into_iter().flatten().filter_map(|v| v["version"].as_str());
        versions.map(|v| (format!("/apis/{group}/{v}"), v.to_owned())).collect()
    };
    for (path, version) in roots {
        let Some(document) = get(client, &path).await.optional()? else { continue };
        if let Some(entry) = document["resources"].as_array().into_iter().flatten().find(|r| r["name"] == wanted) {
            let hash = entry["storageVersionHash"].as_str().unwrap_or_default().to_owned();
            return Ok(Some((resource(group, &version, entry), hash)));
        }
    }
    Ok(None)
}

/// Namespaced resources that can be listed and deleted.
pub(crate) async fn namespaced(client: &Client) -> Result<Discovered, Error> {
    let (all, failed) = all(client).await?;
    let mut wanted: Vec<ApiResource> = all.into_iter().filter(|r| r.namespaced && r.can("list") && r.can("delete")).collect();
    // Both event groups show the same objects.
    wanted.retain(|r| !(r.group == "events.k8s.io" && r.resource == "events"));
    Ok((wanted, failed))
}

/// Resources that the garbage collector watches.
pub(crate) async fn collectable(client: &Client) -> Result<Discovered, Error> {
    let (all, failed) = all(client).await?;
    let ignored = |r: &ApiResource| r.resource == "events";
    Ok((all.into_iter().filter(|r| !ignored(r) && ["list", "watch", "delete"].iter().all(|v| r.can(v))).collect(), failed))
}

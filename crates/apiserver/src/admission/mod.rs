//! Admission: an ordered table of plugins that change or refuse a write after authorization.
//!
//! The order is that of Kubernetes 1.36. Plugins are functions over a [`Context`]; they read other objects from the
//! caches only. They never write, except that ResourceQuota reserves in memory what a request is about to use. Webhooks,
//! which ask other servers, run after them.

mod certificates;
mod ingress;
mod limits;
mod namespace;
mod node_restriction;
mod pod_security;
mod pods;
mod quota;
mod service_account;
mod storage;
mod usage;
mod webhook;

pub use quota::Reservation;

use crate::attributes::UserInfo;
use crate::authz::Authorizer;
use crate::objects::Objects;
use ferrokube_api::Status;
use serde_json::Value;
use std::sync::Arc;

/// `admissionv1.Operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of admissionv1.Operation")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is to be admitted (`admission.Attributes`). The object itself travels beside it.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// What. Patch and apply are `Update` (`Create` when they create).
    pub operation: Operation,
    /// Group of the resource in the path; empty for core.
    pub group: &'a str,
    /// Version of the resource in the path.
    pub version: &'a str,
    /// Plural of the resource in the path.
    pub resource: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Group and kind of the object that travels (`Scale`, `Eviction`, `Binding`, ... for subresources).
    pub kind: (&'a str, &'a str),
    /// Namespace of the request; empty for cluster-scoped kinds. For a Namespace object its own name.
    pub namespace: &'a str,
    /// Name; may be empty for a create (the name then stands in the object) and for collections.
    pub name: &'a str,
    /// The object as stored, for updates and deletes.
    pub old: Option<&'a Value>,
    /// Create-, Update- or DeleteOptions; `Null` when there are none.
    pub options: &'a Value,
    /// `dryRun=All`.
    pub dry_run: bool,
}

/// What admission leaves behind besides the object.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For `Warning: 299` headers.
    pub warnings: Vec<String>,
    /// For the audit event.
    pub annotations: Vec<(String, String)>,
}

/// What a plugin may look at.
#[derive(Clone, Copy)]
struct Context<'a> {
    review: &'a Review<'a>,
    objects: &'a dyn Objects,
    authorizer: &'a Authorizer,
}

impl<'a> std::ops::Deref for Context<'a> {
    type Target = Review<'a>;

    fn deref(&self) -> &Review<'a> {
        self.review
    }
}

impl Context<'_> {
    /// Whether the request is about this resource itself or one of the given subresources.
    fn is(&self, group: &str, resource: &str, subresources: &[&str]) -> bool {
        self.group == group && self.resource == resource && (self.subresource.is_empty() || subresources.contains(&self.subresource))
    }

    /// Whether this creates an object of the resource.
    fn creates(&self, group: &str, resource: &str) -> bool {
        self.operation == Operation::Create && self.is(group, resource, &[])
    }

    /// 403 in admission's form: names the object, also one that has no name yet.
    fn forbidden(&self, object: Option<&Value>, why: impl AsRef<str>) -> Status {
        let meta = |field: &str| object.and_then(|o| o["metadata"][field].as_str()).filter(|s| !s.is_empty());
        let name = if self.name.is_empty() { meta("name").or_else(|| meta("generateName")).unwrap_or("Unknown") } else { self.name };
        Status::forbidden(self.group, self.resource, name, why.as_ref())
    }
}

type Mutate = fn(&Context<'_>, &mut Value, &mut Outcome) -> Result<(), Status>;
type Validate = fn(&Context<'_>, Option<&Value>, &mut Outcome) -> Result<(), Status>;

/// A plugin: its name as in `--enable-admission-plugins`, and its halves.
struct Plugin {
    name: &'static str,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

const fn plugin(name: &'static str, mutate: Option<Mutate>, validate: Option<Validate>) -> Plugin {
    Plugin { name, mutate, validate }
}

/// In the order of 1.36 (`kubeapiserver/options AllOrderedPlugins`). Plugins that are off by default or belong to
/// alpha features have no row. ResourceQuota comes last and is run by [`Admission::validate`] itself, because it reserves.
const PLUGINS: &[Plugin] = &[
    plugin("NamespaceLifecycle", Some(namespace::mutate), Some(namespace::validate)),
    plugin("LimitRanger", Some(limits::mutate), Some(limits::validate)),
    plugin("ServiceAccount", Some(service_account::mutate), Some(service_account::validate)),
    plugin("NodeRestriction", None, Some(node_restriction::validate)),
    plugin("TaintNodesByCondition", Some(pods::taint_new_node), None),
    plugin("PodSecurity", None, Some(pod_security::validate)),
    plugin("Priority", Some(pods::priority), Some(pods::priority_class)),
    plugin("DefaultTolerationSeconds", Some(pods::tolerations), None),
    plugin("DefaultStorageClass", Some(storage::default_class), None),
    plugin("StorageObjectInUseProtection", Some(storage::protect), None),
    plugin("PersistentVolumeClaimResize", None, Some(storage::resize)),
    plugin("RuntimeClass", Some(pods::runtime_defaults), Some(pods::runtime_overhead)),
    plugin("CertificateApproval", None, Some(certificates::approval)),
    plugin("CertificateSigning", None, Some(certificates::signing)),
    plugin("CertificateSubjectRestriction", None, Some(certificates::subject)),
    plugin("DefaultIngressClass", Some(ingress::mutate), None),
    plugin("PodTopologyLabels", Some(pods::topology_labels), None),
    plugin("PodResizeValidator", None, Some(pods::resize)),
    plugin("AdmissionPolicies", None, Some(webhook::unenforced)),
];

/// The admission chain of the server.
pub struct Admission {
    objects: Arc<dyn Objects>,
    authorizer: Arc<Authorizer>,
    ledger: quota::Ledger,
}

impl Admission {
    /// Over the given caches. The authorizer answers the questions of plugins that check permissions.
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<Authorizer>) -> Self {
        Admission { objects, authorizer, ledger: quota::Ledger::default() }
    }

    fn context<'a>(&'a self, review: &'a Review<'a>) -> Context<'a> {
        Context { review, objects: &*self.objects, authorizer: &self.authorizer }
    }

    /// Runs the mutating half, before defaulting's final run and validation. Called for create, update and connect.
    pub async fn mutate(&self, review: &Review<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
        self.freshen(review, object).await;
        let context = self.context(review);
        run_mutating(&context, object, outcome)?;
        // What webhooks changed is looked at once more by the plugins before them.
        if webhook::mutate(&context, Some(object), outcome).await? {
            run_mutating(&context, object, outcome)?;
        }
        Ok(())
    }

    /// Runs the validating half, after validation and right before the store transaction. `object` is `None` for a delete.
    ///
    /// The reservation holds what the request uses of its quotas: call [`Reservation::commit`] when the store
    /// acknowledged, drop it when the write failed.
    pub async fn validate(&self, review: &Review<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<Reservation, Status> {
        let context = self.context(review);
        for plugin in PLUGINS {
            if let Some(validate) = plugin.validate {
                validate(&context, object, outcome).inspect_err(|e| refused(plugin, e))?;
            }
        }
        if review.operation == Operation::Delete {
            // Deletes have no mutating half; webhooks that ask for them are asked here and cannot change anything.
            webhook::mutate(&context, None, outcome).await?;
        }
        webhook::validate(&context, object, outcome).await?;
        quota::reserve(&self.ledger, &context, object)
    }

    /// Lets the caches catch up when they lack something the request needs: it may have been created a moment ago.
    async fn freshen(&self, review: &Review<'_>, object: &Value) {
        let absent = |resource: &str, namespace: &str, name: &str| self.objects.get("", resource, namespace, name).is_none();
        if !review.namespace.is_empty() && review.kind != ("", "Namespace") && absent("namespaces", "", review.namespace) {
            self.objects.catch_up("", "namespaces").await;
        }
        if review.operation == Operation::Create && (review.group, review.resource, review.subresource) == ("", "pods", "") {
            let account = object["spec"]["serviceAccountName"].as_str().filter(|n| !n.is_empty()).unwrap_or(service_account::DEFAULT);
            if absent("serviceaccounts", review.namespace, account) {
                self.objects.catch_up("", "serviceaccounts").await;
            }
        }
    }
}

fn run_mutating(context: &Context<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
    PLUGINS.iter().try_for_each(|plugin| match plugin.mutate {
        Some(mutate) => mutate(context, object, outcome).inspect_err(|e| refused(plugin, e)),
        None => Ok(()),
    })
}

/// Elements of a list; none when it is absent.
fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

/// A list to push to, made when it is absent. The decoder has seen to it that it is nothing else.
fn array_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let slot = &mut value[field];
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("made an array above")
}

/// Name of the newest object whose annotation marks it as the default; the first by name among equally old ones.
fn newest_default(c: &Context<'_>, group: &str, resource: &str, annotations: &[&str]) -> Option<String> {
    let objects = c.objects.list(group, resource, "").into_iter().filter_map(|o| o.decode::<Value>().ok());
    let mut marked: Vec<(String, String)> = objects
        .filter(|o| annotations.iter().any(|a| o["metadata"]["annotations"][*a] == "true"))
        .map(|o| {
            let text = |f: &str| o["metadata"][f].as_str().unwrap_or_default().to_owned();
            (text("creationTimestamp"), text("name"))
        })
        .collect();
    marked.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    marked.into_iter().next().map(|(_, name)| name)
}

fn refused(plugin: &Plugin, status: &Status) {
    tracing::debug!(plugin = plugin.name, %status, "admission refused a request");
}

#[cfg(test)]
mod tests;

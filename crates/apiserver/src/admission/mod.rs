//! Admission: an ordered table of plugins that change or refuse a write after authorization.
//!
//! The order is that of Kubernetes 1.36. Plugins are functions over a [`Context`]; they read other objects from the
//! caches only. They never write, except that ResourceQuota reserves in memory what a request is about to use and
//! NamespaceAutoProvision makes namespaces. Webhooks, which ask other servers, run after them. Which plugins run is decided at
//! start; those that do not cost nothing.

mod certificates;
mod config;
mod constraints;
mod declared_features;
mod event_rate;
mod image_policy;
mod ingress;
mod kept;
mod limits;
mod metrics;
mod namespace;
mod namespace_defaults;
mod node_restriction;
mod optional;
mod pod_security;
mod pods;
pub mod policy;
mod questions;
mod quota;
mod service_account;
mod storage;
mod versions;
pub(crate) mod webhook;

pub use config::{AdmissionConfig, AdmissionConfigError, TOLERATION};
pub use quota::Reservation;

use crate::attributes::UserInfo;
use crate::authz::Authorizer;
use crate::objects::{Loopback, Objects, Target};
use config::Settings;
use ferrokube_api::field::Errors;
use ferrokube_api::schema::Schema;
use ferrokube_api::{Reason, Status};
use metrics::{Half, Metrics};
use questions::Questions;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use versions::Versions;

/// `admissionv1.Operation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of admissionv1.Operation")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// `admissionv1.Operation` in its spelling.
    fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
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
    /// The type of the object, when it is the one of the resource.
    pub schema: Option<&'a Schema>,
}

/// What a request, admission above all, leaves behind besides its answer.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For `Warning: 299` headers.
    pub warnings: Vec<String>,
    /// For the audit event.
    pub annotations: Vec<(String, String)>,
    /// The flow schema it fell under.
    pub flow: Option<Arc<crate::flowcontrol::Schema>>,
}

/// What a plugin may look at.
#[derive(Clone, Copy)]
struct Context<'a> {
    review: &'a Review<'a>,
    objects: &'a dyn Objects,
    questions: &'a Questions<'a>,
    versions: &'a Versions,
    metrics: &'a Metrics,
    settings: &'a Settings,
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

/// A plugin: its name as in `--enable-admission-plugins`, whether it runs unless it is disabled, and its halves.
struct Plugin {
    name: &'static str,
    on: bool,
    mutate: Option<Mutate>,
    validate: Option<Validate>,
}

/// A plugin that is on by default.
const fn plugin(name: &'static str, mutate: Option<Mutate>, validate: Option<Validate>) -> Plugin {
    Plugin { name, on: true, mutate, validate }
}

/// A plugin that runs when it is asked for.
const fn optional(name: &'static str, mutate: Option<Mutate>, validate: Option<Validate>) -> Plugin {
    Plugin { name, on: false, mutate, validate }
}

/// In the order of 1.36 (`kubeapiserver/options AllOrderedPlugins`). NodeRestriction is on, as kubeadm has it. ResourceQuota
/// comes last and is run by [`Admission::validate`] itself, because it reserves.
const PLUGINS: &[Plugin] = &[
    optional("AlwaysAdmit", None, Some(optional::admit)),
    plugin("NamespaceLifecycle", Some(namespace::mutate), Some(namespace::validate)),
    optional("NamespaceExists", None, Some(optional::namespace_exists)),
    optional("LimitPodHardAntiAffinityTopology", None, Some(optional::anti_affinity)),
    plugin("LimitRanger", Some(limits::mutate), Some(limits::validate)),
    plugin("ServiceAccount", Some(service_account::mutate), Some(service_account::validate)),
    plugin("NodeRestriction", None, Some(node_restriction::validate)),
    plugin("TaintNodesByCondition", Some(pods::taint_new_node), None),
    optional("AlwaysPullImages", Some(optional::pull_always), Some(optional::pulls_always)),
    plugin("PodSecurity", None, Some(pod_security::validate)),
    optional("PodNodeSelector", Some(namespace_defaults::node_selector), Some(namespace_defaults::node_selector_allowed)),
    plugin("Priority", Some(pods::priority), Some(pods::priority_class)),
    plugin("DefaultTolerationSeconds", Some(pods::tolerations), None),
    optional("PodTolerationRestriction", Some(namespace_defaults::tolerations), Some(namespace_defaults::tolerations_allowed)),
    optional("EventRateLimit", None, Some(event_rate::validate)),
    optional("ExtendedResourceToleration", Some(optional::tolerate_devices), None),
    plugin("DefaultStorageClass", Some(storage::default_class), None),
    plugin("StorageObjectInUseProtection", Some(storage::protect), None),
    optional("OwnerReferencesPermissionEnforcement", None, Some(optional::owners)),
    plugin("PersistentVolumeClaimResize", None, Some(storage::resize)),
    plugin("RuntimeClass", Some(pods::runtime_defaults), Some(pods::runtime_overhead)),
    plugin("CertificateApproval", None, Some(certificates::approval)),
    plugin("CertificateSigning", None, Some(certificates::signing)),
    plugin("CertificateSubjectRestriction", None, Some(certificates::subject)),
    plugin("DefaultIngressClass", Some(ingress::mutate), None),
    optional("DenyServiceExternalIPs", None, Some(optional::external_addresses)),
    plugin("PodTopologyLabels", Some(pods::topology_labels), None),
    plugin("NodeDeclaredFeatureValidator", None, Some(declared_features::validate)),
    plugin("PodResizeValidator", None, Some(pods::resize)),
    optional("AlwaysDeny", None, Some(optional::deny)),
];

/// The admission chain of the server.
pub struct Admission {
    objects: Arc<dyn Objects>,
    authorizer: Arc<Authorizer>,
    ledger: quota::Ledger,
    /// The plugins that run, by their place in the table.
    chain: Vec<(usize, &'static Plugin)>,
    metrics: Metrics,
    settings: Settings,
    policies: policy::Policies,
    webhooks: webhook::Webhooks,
    versions: Versions,
    loopback: OnceLock<Arc<dyn Loopback>>,
}

impl Admission {
    /// Over the given caches. The authorizer answers the questions of plugins that check permissions.
    ///
    /// # Errors
    /// When the configuration names plugins that do not exist or tells them what they do not understand.
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<Authorizer>, config: &AdmissionConfig) -> Result<Self, AdmissionConfigError> {
        let chain = PLUGINS.iter().enumerate().filter(|(_, p)| config.runs(p.name, p.on)).collect();
        let settings = config.settings()?;
        Ok(Admission {
            objects,
            authorizer,
            ledger: quota::Ledger::default(),
            chain,
            metrics: Metrics::default(),
            settings,
            policies: policy::Policies::default(),
            webhooks: webhook::Webhooks::default(),
            versions: Versions::default(),
            loopback: OnceLock::new(),
        })
    }

    /// Where NamespaceAutoProvision writes. Without it, it does nothing.
    pub fn write_through(&self, loopback: Arc<dyn Loopback>) {
        let _ = self.loopback.set(loopback);
    }

    /// Nobody has a policy read for them what they may not read: a well-formed policy or binding.
    pub async fn check_parameters(&self, user: &UserInfo, resource: &str, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        policy::check_access(&self.authorizer, &*self.objects, user, resource, object, old, errors).await;
    }

    fn context<'a>(&'a self, review: &'a Review<'a>, questions: &'a Questions<'a>) -> Context<'a> {
        Context { review, objects: &*self.objects, questions, versions: &self.versions, metrics: &self.metrics, settings: &self.settings }
    }

    /// The counters of admission in the text format.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        self.metrics.write(out);
    }

    /// Runs the mutating half, before defaulting's final run and validation. Called for create, update and connect.
    pub async fn mutate(&self, review: &Review<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
        let start = Instant::now();
        let result = self.all_mutating(review, object, outcome).await;
        self.metrics.step(Half::Admit, review.operation, start, &result);
        result
    }

    async fn all_mutating(&self, review: &Review<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
        self.freshen(review, object).await;
        self.provision(review).await?;
        let questions = Questions::new(&self.authorizer);
        let context = self.context(review, &questions);
        self.run_mutating(&context, object, outcome)?;
        if self.settings.mutating_policies && self.policies.mutate(&context, object).await? {
            self.run_mutating(&context, object, outcome)?;
        }
        if !self.settings.mutating_webhooks {
            return Ok(());
        }
        let round = self.webhooks.mutate(&context, Some(object), outcome).await?;
        if !round.changed {
            return Ok(());
        }
        // What webhooks changed is looked at once more by the plugins before them, and what these change then by webhooks.
        let before = object.clone();
        self.run_mutating(&context, object, outcome)?;
        webhook::reinvoke(&context, round, *object != before, object, outcome).await
    }

    /// Runs the validating half, after validation and right before the store transaction. `object` is `None` for a delete.
    ///
    /// The reservation holds what the request uses of its quotas: call [`Reservation::commit`] when the store
    /// acknowledged, drop it when the write failed.
    pub async fn validate(&self, review: &Review<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<Reservation, Status> {
        let start = Instant::now();
        let result = self.all_validating(review, object, outcome).await;
        self.metrics.step(Half::Validate, review.operation, start, &result);
        result
    }

    async fn all_validating(&self, review: &Review<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<Reservation, Status> {
        let questions = Questions::new(&self.authorizer);
        let context = self.context(review, &questions);
        self.run_validating(&context, object, outcome).await?;
        if self.settings.validating_policies {
            self.policies.validate(&context, object, outcome).await?;
        }
        if let Some(policy) = &self.settings.image_policy {
            policy.validate(&context, object, outcome).await?;
        }
        if review.operation == Operation::Delete && self.settings.mutating_webhooks {
            // Deletes have no mutating half; webhooks that ask for them are asked here and cannot change anything.
            self.webhooks.mutate(&context, None, outcome).await?;
        }
        if self.settings.validating_webhooks {
            self.webhooks.validate(&context, object, outcome).await?;
        }
        if self.settings.quota {
            quota::reserve(&self.ledger, &context, object, &self.settings.limited)
        } else {
            Ok(Reservation::default())
        }
    }

    fn run_mutating(&self, context: &Context<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
        for (at, plugin) in &self.chain {
            let Some(mutate) = plugin.mutate else { continue };
            let start = Instant::now();
            let result = mutate(context, object, outcome);
            self.metrics.plugin(*at, Half::Admit, context.operation, start, &result);
            result.inspect_err(|e| refused(plugin, e))?;
        }
        Ok(())
    }

    async fn run_validating(&self, context: &Context<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<(), Status> {
        for (at, plugin) in &self.chain {
            let Some(validate) = plugin.validate else { continue };
            let (start, before) = (Instant::now(), (outcome.warnings.len(), outcome.annotations.len()));
            let mut result = validate(context, object, outcome);
            while context.questions.answer().await {
                // It had to guess: what it said does not count.
                outcome.warnings.truncate(before.0);
                outcome.annotations.truncate(before.1);
                result = validate(context, object, outcome);
            }
            self.metrics.plugin(*at, Half::Validate, context.operation, start, &result);
            result.inspect_err(|e| refused(plugin, e))?;
        }
        Ok(())
    }

    /// NamespaceAutoProvision: who creates something in a namespace that does not exist makes the namespace.
    async fn provision(&self, review: &Review<'_>) -> Result<(), Status> {
        let lacks = || self.objects.get("", "namespaces", "", review.namespace).is_none();
        let creates = review.operation == Operation::Create && !review.namespace.is_empty() && review.kind != ("", "Namespace");
        if !self.settings.auto_provision || !creates || review.dry_run || !lacks() {
            return Ok(());
        }
        let Some(loopback) = self.loopback.get() else { return Ok(()) };
        let target = Target { version: "v1".into(), resource: "namespaces".into(), name: review.namespace.into(), ..Target::default() };
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": review.namespace}});
        match loopback.create(target, namespace).await {
            Err(status) if !status.is(Reason::AlreadyExists) => Err(status),
            _ => Ok(()),
        }
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

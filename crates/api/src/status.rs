//! `metav1.Status`: what a client is told when a request fails (and, rarely, when it succeeds).
//!
//! Source of the rules: apimachinery `api/errors` and `metav1.StatusReason`. Messages are part of the API:
//! kubectl prints them, people search for them. Text for a log does not belong here.

use serde::{Deserialize, Serialize};
use std::fmt;

/// `metav1.StatusReason`, the machine-readable cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of metav1.StatusReason")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// What an admission webhook or another server gives as its reason, which may be any text.
    #[serde(untagged)]
    Other(Box<str>),
}

/// One cause inside `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `metav1.CauseType`: `FieldValueInvalid`, `FieldValueRequired`, `FieldManagerConflict`, ...
    #[serde(rename = "reason", default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// For a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, in the notation of apimachinery `field.Path`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group of the object concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource (or, in validation errors, kind) of the object concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// UID of the object concerned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Causes, in the order found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds to wait before a retry.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// `metav1.Status`. As an error it is what the client gets; it never carries internals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    /// For a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For a program.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some_reason")]
    pub reason: Option<Reason>,
    /// More for a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// An empty reason is none.
fn some_reason<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Reason>, D::Error> {
    Ok(Option::<Reason>::deserialize(d)?.filter(|reason| !matches!(reason, Reason::Other(text) if text.is_empty())))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `resource` or `resource.group`, as `schema.GroupResource` prints itself.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure with a code, a reason and a message, without details.
    pub fn failure(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Status { status: "Failure".into(), message: message.into(), reason: Some(reason), details: None, code }
    }

    /// 500 without a reason: an error that upstream's server lets out as it is.
    pub fn untyped(message: impl Into<String>) -> Self {
        Status { reason: None, ..Self::failure(500, Reason::InternalError, message) }
    }

    /// `Success` with details, as the answer of a delete.
    pub fn success(details: Option<Details>) -> Self {
        Status { status: "Success".into(), message: String::new(), reason: None, details, code: 200 }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        (details.group, details.kind, details.name) = (group.into(), kind.into(), name.into());
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self::failure(404, Reason::NotFound, message).about(group, resource, name)
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_path() -> Self {
        let mut status = Self::failure(404, Reason::NotFound, "the server could not find the requested resource");
        status.details = Some(Details::default());
        status
    }

    /// 409 for a create whose name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Self::failure(409, Reason::AlreadyExists, message).about(group, resource, name)
    }

    /// 409 for a write that lost against another.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
        Self::failure(409, Reason::Conflict, message).about(group, resource, name)
    }

    /// 409 for a stale `resourceVersion`.
    pub fn stale(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 403. `why` is the authorizer's or admission's sentence.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource))
        };
        Self::failure(403, Reason::Forbidden, message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, Reason::BadRequest, message)
    }

    /// 422 with its causes; `kind` is the kind (not the resource). The message lists the causes as apimachinery does.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let line = |c: &Cause| if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) };
        // As Go's aggregate of errors: each text once.
        let mut lines: Vec<String> = Vec::with_capacity(causes.len());
        for text in causes.iter().map(line) {
            if !lines.contains(&text) {
                lines.push(text);
            }
        }
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {list}", qualified(group, kind));
        let mut status = Self::failure(422, Reason::Invalid, message).about(group, kind, name);
        status.details.get_or_insert_default().causes = causes;
        status
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let mut s = Self::failure(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource");
        s.details = Some(Details::default());
        s
    }

    /// 405 of a kind that does not know the action.
    pub fn not_supported(group: &str, resource: &str, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {:?}", qualified(group, resource));
        Self::failure(405, Reason::MethodNotAllowed, message).about(group, resource, "")
    }

    /// 410 for a watch or list position that history no longer covers.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, Reason::Expired, message)
    }

    /// 500. The detail goes to the log, not into the message, unless it was made for clients.
    pub fn internal(message: impl fmt::Display) -> Self {
        let text = format!("Internal error occurred: {message}");
        let mut s = Self::failure(500, Reason::InternalError, text);
        s.details = Some(Details {
            causes: vec![Cause { kind: String::new(), message: message.to_string(), field: String::new() }],
            ..Details::default()
        });
        s
    }

    /// Whether this failure has the given reason.
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == Some(reason)
    }

    /// Encoded with `kind`, `apiVersion` and `metadata`, as it goes over the wire.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            kind: &'static str,
            api_version: &'static str,
            metadata: Empty,
            #[serde(flatten)]
            status: &'a Status,
        }
        #[derive(Serialize)]
        struct Empty {}
        let wire = Wire { kind: "Status", api_version: "v1", metadata: Empty {}, status: self };
        serde_json::to_vec(&wire).expect("a Status holds only strings and numbers")
    }
}

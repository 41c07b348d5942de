//! `CreateOptions`, `UpdateOptions` and `PatchOptions`: the query of a write, checked as apimachinery does.

use crate::request::Query;
use ferrokube_api::Status;
use ferrokube_api::decode::Strictness;
use ferrokube_api::field::{Errors, Path};
use http::HeaderMap;
use serde_json::{Value, json};

/// The options of a write.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// `dryRun=All`.
    pub dry_run: bool,
    /// Whom managed fields name.
    pub manager: String,
    /// Whether the client named the manager.
    pub manager_given: bool,
    /// `fieldValidation`.
    pub strictness: Strictness,
    /// `force` of an apply.
    pub force: bool,
    /// Kind and fields as admission sees them.
    pub value: Value,
}

/// The manager when the client names none: the first part of its user agent.
fn from_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    let printable: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    if printable.is_empty() { "unknown".to_owned() } else { printable }
}

/// Whether Go takes a character for printable: a space is no other than that of ASCII, and marks of layout are none.
fn is_printable(c: char) -> bool {
    let layout = matches!(u32::from(c), 0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x2064 | 0xfeff | 0xe000..=0xf8ff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || layout)
}

/// `ValidateFieldManager`.
fn check_manager(manager: &str, errors: &mut Errors) {
    let path = Path::new("fieldManager");
    if manager.len() > 128 {
        errors.too_long(&path, 128);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
        errors.invalid(&path, &manager.into(), &format!("invalid character U+{:04X} (at position {at})", u32::from(c)));
    }
}

/// `ValidateDryRun`; whether the write is dry.
pub fn dry_run(values: &[&str], errors: &mut Errors) -> bool {
    if values.iter().any(|v| *v != "All") {
        errors.not_supported(&Path::new("dryRun"), &json!(values), &["All"]);
    }
    !values.is_empty()
}

impl WriteOptions {
    /// Reads the query. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; `apply` makes `fieldManager` required.
    pub fn parse(query: &Query, headers: &HeaderMap, kind: &str, apply: bool) -> Result<Self, Status> {
        let manager = query.get("fieldManager");
        let mut errors = Errors::default();
        if query.find("force").is_some() && kind == "PatchOptions" && !apply {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        if apply && manager.is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        check_manager(manager, &mut errors);
        let dry_run = dry_run(&query.all("dryRun").collect::<Vec<_>>(), &mut errors);
        let strictness = match query.get("fieldValidation") {
            "Strict" => Strictness::Strict,
            "" | "Warn" => Strictness::Warn,
            "Ignore" => Strictness::Ignore,
            other => {
                errors.not_supported(&Path::new("fieldValidation"), &other.into(), &["", "Ignore", "Strict", "Warn"]);
                Strictness::Warn
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", errors.into_causes()));
        }
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            value["dryRun"] = json!(["All"]);
        }
        for name in ["fieldManager", "fieldValidation"] {
            if let Some(given) = query.find(name) {
                value[name] = json!(given);
            }
        }
        Ok(WriteOptions {
            dry_run,
            manager_given: !manager.is_empty(),
            manager: if manager.is_empty() { from_agent(headers) } else { manager.to_owned() },
            strictness,
            force: query.flag("force"),
            value,
        })
    }

    /// Options of a write that the server makes itself.
    pub fn internal(manager: &str) -> Self {
        let value = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
        WriteOptions {
            dry_run: false,
            manager: manager.to_owned(),
            manager_given: true,
            strictness: Strictness::Ignore,
            force: false,
            value,
        }
    }
}

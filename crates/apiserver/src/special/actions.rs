//! POSTs that are not creates: bindings, tokens, reviews.

use crate::admission::Operation;
use crate::authz::reviews;
use crate::pipeline::Request;
use crate::request::content::Content;
use crate::verbs::Answer;
use crate::verbs::update::Change;
use crate::write::admit::Act;
use crate::write::{View, WriteOptions, prepare};
use ferrokube_api::schema::{Gvk, Schema};
use ferrokube_api::status::Details;
use ferrokube_api::{Status, time};
use serde_json::{Value, json};

impl Request<'_> {
    /// Decodes a body of another kind than the row's.
    pub async fn decode_other(
        &self,
        group: &str,
        version: &str,
        kind: &str,
        schema: &str,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let gvk = Gvk { group: group.to_owned().into(), version: version.to_owned().into(), kind: kind.to_owned().into() };
        let schema = Schema::builtin(schema).ok_or_else(|| Status::internal(format!("no type {schema}")))?;
        let body = self.take_body().await?;
        let decoded = Content::of(&self.headers)?.decode(&body, &schema, &gvk, options.strictness)?;
        decoded.warnings.into_iter().for_each(|w| self.warn(w));
        self.trail.request_object(&decoded.value);
        Ok(decoded.value)
    }

    /// POST of a review: the body comes back with its status.
    pub async fn review_request(&self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let review = self.decode_own(options.strictness).await?;
        let server = self.server;
        // A permission just granted counts.
        self.fresh(crate::verbs::options::Freshness::Latest).await?;
        let kind = &self.entry.kind.kind;
        let answer = reviews::handle(&server.authenticator, &server.authorizer, kind, &self.info.namespace, review, &self.user).await?;
        Ok(Answer::Value(201, answer))
    }

    /// POST to `serviceaccounts/<name>/token`.
    pub async fn token_request(&self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let mut request =
            self.decode_other("authentication.k8s.io", "v1", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest", &options).await?;
        self.fresh(crate::verbs::options::Freshness::Latest).await?;
        crate::tokens::default_request(&mut request);
        let act = Act { operation: Operation::Create, name: &self.info.name, old: None, options: &options.value, dry_run: options.dry_run };
        let kind = ("authentication.k8s.io", "TokenRequest");
        self.mutate(act, kind, &mut request).await?;
        self.admit(act, kind, Some(&request)).await?;
        let tokens = self.server.authenticator.tokens();
        let (answer, warnings) = tokens.request(&*self.server.caches, self.namespace(), &self.info.name, request, self.now)?;
        warnings.into_iter().for_each(|w| self.warn(w));
        Ok(Answer::Value(201, answer))
    }

    /// POST to `pods/<name>/binding` or to `bindings`.
    pub async fn bind(&self) -> Result<Answer, Status> {
        let options = WriteOptions::parse(&self.query, &self.headers, "CreateOptions", false)?;
        let mut binding = self.decode_other("", "v1", "Binding", "io.k8s.api.core.v1.Binding", &options).await?;
        let name = if self.info.name.is_empty() { prepare::text(&binding, "name").to_owned() } else { self.info.name.clone() };
        if !prepare::text(&binding, "name").is_empty() && prepare::text(&binding, "name") != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let act = Act { operation: Operation::Create, name: &name, old: None, options: &options.value, dry_run: options.dry_run };
        self.mutate(act, ("", "Binding"), &mut binding).await?;
        let mut errors = ferrokube_api::field::Errors::default();
        let target = ferrokube_api::field::Path::new("target");
        match binding["target"]["kind"].as_str().unwrap_or_default() {
            "" | "Node" => {}
            other => errors.not_supported(&target.child("kind"), &other.into(), &["Node", "<empty>"]),
        }
        if binding["target"]["name"].as_str().unwrap_or_default().is_empty() {
            errors.required(&target.child("name"), "");
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Binding", &name, errors.into_causes()));
        }
        self.admit(act, ("", "Binding"), Some(&binding)).await?;
        let pods = self.aimed_at("", "v1", "pods", &name, "binding")?;
        let cache = pods.cache()?;
        let make = |old: &Value| {
            pods.must_be(&cache, "UID", prepare::text(&binding, "uid"), prepare::text(old, "uid"))?;
            pods.must_be(&cache, "ResourceVersion", prepare::text(&binding, "resourceVersion"), prepare::text(old, "resourceVersion"))?;
            bound(old, &binding, &name, self.now)
        };
        let change = Change { view: View::Binding, options: &options, make: &make, applied: false };
        pods.transact(&change).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(Answer::Value(201, status))
    }
}

/// The pod with its node set (`setPodNodeAndMetadata`).
fn bound(old: &Value, binding: &Value, name: &str, now: jiff::Timestamp) -> Result<Value, Status> {
    let refuse = |why: String| {
        let mut status = Status::conflict("", "pods/binding", name, &why);
        status.details = Some(Details { name: name.into(), kind: "pods/binding".into(), ..Details::default() });
        Err(status)
    };
    if old["metadata"].get("deletionTimestamp").is_some() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if let Some(there) = old["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node {there:?}"));
    }
    if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = json!(node);
    for key in ["annotations", "labels"] {
        for (k, v) in binding["metadata"].get(key).and_then(Value::as_object).into_iter().flatten() {
            if !new["metadata"][key].is_object() {
                new["metadata"][key] = json!({});
            }
            new["metadata"][key][k] = v.clone();
        }
    }
    // A hint for those who make room; stale from now on.
    new["status"].as_object_mut().map(|status| status.remove("nominatedNodeName"));
    scheduled(&mut new, now);
    Ok(new)
}

fn scheduled(pod: &mut Value, now: jiff::Timestamp) {
    let generation = pod["metadata"]["generation"].clone();
    let mut condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time::format_time(now)});
    if !generation.is_null() {
        condition["observedGeneration"] = generation;
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
    }
}

impl Request<'_> {
    /// GET of a scale.
    pub async fn get_scale(&self) -> Result<Answer, Status> {
        let object = self.current(crate::verbs::options::Freshness::Latest).await?;
        let object = self.server.converted_one(&self.entry, object).await?;
        let value = crate::output::present::value(&self.entry, &object)?;
        Ok(Answer::Value(200, super::views::scale_of(&self.entry, &value)?))
    }

    /// Decodes the body as a Scale.
    pub async fn decode_scale(&self, strictness: ferrokube_api::decode::Strictness) -> Result<Value, Status> {
        let mut options = WriteOptions::internal("");
        options.strictness = strictness;
        self.decode_other("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale", &options).await
    }
}

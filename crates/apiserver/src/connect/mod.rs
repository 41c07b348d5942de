//! Streams through the server to nodes, pods and services: the request is passed on with the server's own credentials,
//! and after an upgrade the bytes are copied both ways. Client and backend speak the same protocol; nothing here
//! understands it, but for the links of pages that go through a proxy (`page.rs`).

pub mod forwarded;
mod html;
pub mod kubelet;
mod page;
pub mod passage;
mod target;

use crate::admission::Operation;
use crate::pipeline::Request;
use crate::verbs::Answer;
use crate::write::admit::Act;
use ferrokube_api::Status;
use serde_json::{Value, json};

impl Request<'_> {
    /// GET, POST, ... of a connect subresource.
    pub async fn connect(&self) -> Result<Answer, Status> {
        self.may_upgrade().await?;
        let kind = match (self.info.resource.as_str(), self.info.subresource.as_str()) {
            ("pods", "exec") => "PodExecOptions",
            ("pods", "attach") => "PodAttachOptions",
            ("pods", "portforward") => "PodPortForwardOptions",
            ("pods", "log") => return self.log().await,
            ("pods", "proxy") => "PodProxyOptions",
            ("services", "proxy") => "ServiceProxyOptions",
            ("nodes", "proxy") => "NodeProxyOptions",
            _ => return Err(Status::method_not_allowed()),
        };
        let mut options = self.connect_options(kind)?;
        let none = Value::Null;
        let act = Act { operation: Operation::Connect, name: &self.info.name, old: None, options: &none, dry_run: false };
        self.mutate(act, ("", kind), &mut options).await?;
        self.admit(act, ("", kind), Some(&options)).await?;
        match (self.info.resource.as_str(), self.info.subresource.as_str()) {
            ("pods", "exec") => self.pod_stream("exec").await,
            ("pods", "attach") => self.pod_stream("attach").await,
            ("pods", "portforward") => self.pod_stream("portForward").await,
            ("nodes", "proxy") => self.node_proxy().await,
            ("services", "proxy") => self.service_proxy().await,
            _ => self.pod_proxy().await,
        }
    }

    /// The log of a container, over a websocket when the client wants one.
    async fn log(&self) -> Result<Answer, Status> {
        self.check_log_query()?;
        match self.pod_stream("containerLogs").await? {
            Answer::Raw(response) => self.bytes_in_websocket(response).map(Answer::Raw),
            other => Ok(other),
        }
    }

    /// A websocket opens with a GET, but what it does is a create (AuthorizePodWebsocketUpgradeCreatePermission).
    async fn may_upgrade(&self) -> Result<(), Status> {
        if self.info.verb != "get" || !matches!(self.info.subresource.as_str(), "exec" | "attach" | "portforward") {
            return Ok(());
        }
        let mut attributes = self.info.attributes(&self.user, &self.query);
        attributes.verb = "create".to_owned();
        self.server.authorizer.check(&attributes).await
    }

    fn connect_options(&self, kind: &str) -> Result<Value, Status> {
        let mut options = json!({"kind": kind, "apiVersion": "v1"});
        if matches!(kind, "PodExecOptions" | "PodAttachOptions") {
            for name in ["stdin", "stdout", "stderr", "tty"] {
                if self.query.flag(name) {
                    options[name] = json!(true);
                }
            }
            if !self.query.get("container").is_empty() {
                options["container"] = json!(self.query.get("container"));
            }
            if kind == "PodExecOptions" {
                options["command"] = self.query.all("command").collect();
            }
        } else if kind == "PodPortForwardOptions" {
            options["ports"] = json!(target::numbers(self.query.all("ports"))?);
        } else {
            options["path"] = json!(format!("/{}", self.info.rest));
        }
        Ok(options)
    }
}

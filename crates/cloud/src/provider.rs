//! What a place offers. A provider implements the parts it has.
//!
//! Every method may be called again with the same arguments and must then change nothing. Source: `cloudprovider.Interface`.

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, NodeAddress, Service};
use std::collections::BTreeMap;

/// Why the place did not do what was asked; the text is shown to users in events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be done as things are.
    #[error("{0}")]
    Refused(String),
    /// The place could not be asked.
    #[error("the provider {provider} could not be asked: {source}")]
    Unreachable {
        /// Its name.
        provider: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an answer of the place is.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A place in which clusters run.
pub trait Provider: Send + Sync + 'static {
    /// Its name: the scheme of provider IDs.
    fn name(&self) -> &str;
    /// Load balancers, if it has them.
    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        None
    }
    /// Machines, if it knows them.
    fn instances(&self) -> Option<&dyn Instances> {
        None
    }
    /// Routes to pod ranges, if they need any.
    fn routes(&self) -> Option<&dyn Routes> {
        None
    }
}

/// Load balancers of Services.
pub trait LoadBalancers: Send + Sync {
    /// Makes the load balancer of a service, or brings it in line with the service and with the nodes that take its
    /// traffic; says where it listens.
    fn ensure<'a>(&'a self, service: &'a Service, nodes: &'a [Node]) -> Answer<'a, LoadBalancerStatus>;
    /// Removes it; one that does not exist is removed already.
    fn delete<'a>(&'a self, service: &'a Service) -> Answer<'a, ()>;
}

/// What a place knows of a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceMetadata {
    /// `<provider>://...`; empty leaves the node's as it is.
    pub provider_id: String,
    /// Label `node.kubernetes.io/instance-type`.
    pub instance_type: String,
    /// `status.addresses`; empty leaves them to the kubelet.
    pub addresses: Vec<NodeAddress>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: String,
    /// Label `topology.kubernetes.io/region`.
    pub region: String,
    /// More labels.
    pub labels: BTreeMap<String, String>,
}

/// Machines.
pub trait Instances: Send + Sync {
    /// Whether the machine of a node exists.
    fn exists<'a>(&'a self, node: &'a Node) -> Answer<'a, bool>;
    /// Whether it is shut down.
    fn is_shut_down<'a>(&'a self, node: &'a Node) -> Answer<'a, bool>;
    /// What is known of it.
    fn metadata<'a>(&'a self, node: &'a Node) -> Answer<'a, InstanceMetadata>;
}

/// A way to the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Name within the place; empty for one to be made.
    pub name: String,
    /// The node it leads to.
    pub node: String,
    /// Range of pod addresses.
    pub destination: String,
}

/// Routes.
pub trait Routes: Send + Sync {
    /// All routes of a cluster.
    fn list<'a>(&'a self, cluster: &'a str) -> Answer<'a, Vec<Route>>;
    /// Makes one.
    fn create<'a>(&'a self, cluster: &'a str, route: &'a Route) -> Answer<'a, ()>;
    /// Removes one.
    fn delete<'a>(&'a self, cluster: &'a str, route: &'a Route) -> Answer<'a, ()>;
}

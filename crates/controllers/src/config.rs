//! What the controllers are told at start: facts of the cluster and the options of kube-controller-manager that change what
//! a controller does. Keys are PEM text; nothing here is read from files.

use crate::settings::Settings;
use ferrokube_api::features::Features;
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Caches, Client};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The CA that signs certificate requests of the four signers of `kubernetes.io`.
#[derive(Clone)]
pub struct Signing {
    /// `--cluster-signing-cert-file`, PEM.
    pub certificate: String,
    /// `--cluster-signing-key-file`, PEM.
    pub key: String,
    /// Longest life of what is signed: `--cluster-signing-duration`.
    pub duration: Duration,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signing(..)")
    }
}

/// Ranges that nodes get their pod ranges from (`--allocate-node-cidrs`).
#[derive(Clone, Debug)]
pub struct NodeCidrs {
    /// `--cluster-cidr`: one range, or one of each family.
    pub cluster: Vec<String>,
    /// `--service-cluster-ip-range`: what overlaps is never given to a node.
    pub services: Vec<String>,
    /// `--node-cidr-mask-size-ipv4`.
    pub mask_ipv4: u8,
    /// `--node-cidr-mask-size-ipv6`.
    pub mask_ipv6: u8,
}

/// Signs the claims of a service-account token that lives in a Secret; `None` when the key cannot.
pub type SignToken = Arc<dyn Fn(&Value) -> Option<String> + Send + Sync>;

/// What the controllers are given.
#[derive(Clone)]
pub struct Config {
    /// Shared caches, as `system:kube-controller-manager`.
    pub caches: Caches,
    /// A client as a service account of `kube-system`, by its name.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// `*` all that are on by default, `name` this one, `-name` not this one.
    pub controllers: Vec<String>,
    /// CA certificates that `kube-root-ca.crt` and token Secrets publish, PEM.
    pub root_ca: String,
    /// Where the controllers count; whoever serves `/metrics` writes it.
    pub metrics: Metrics,
    /// Signs for each signer that has no CA of its own.
    pub signing: Option<Signing>,
    /// CAs of single signers, by name (`--cluster-signing-<signer>-cert-file`).
    pub signers: HashMap<&'static str, Signing>,
    /// Without it nodes get no pod ranges.
    pub node_cidrs: Option<NodeCidrs>,
    /// `--service-account-private-key-file`; without it Secrets get no tokens.
    pub sign_token: Option<SignToken>,
    /// Workers by name of the work queue, where there are not as many as upstream has (`--concurrent-*-syncs`).
    pub workers: HashMap<&'static str, usize>,
    /// What flags change in single controllers.
    pub settings: Settings,
    /// Which features there are: some controllers only run with theirs.
    pub features: Features,
}

impl Config {
    /// Every controller that is on by default, without keys and ranges.
    pub fn new(caches: Caches, client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>) -> Self {
        Config {
            caches,
            client_for,
            controllers: vec!["*".to_owned()],
            root_ca: String::new(),
            metrics: Metrics::default(),
            signing: None,
            signers: HashMap::new(),
            node_cidrs: None,
            sign_token: None,
            workers: HashMap::new(),
            settings: Settings::default(),
            features: Features::default(),
        }
    }
}

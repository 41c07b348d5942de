//! What a server is told at start. Certificates and keys are PEM text; nothing here is read from files.

use crate::admission::AdmissionConfig;
use crate::audit::AuditConfig;
use crate::authn::{AuthnConfig, RequestHeaders};
use crate::authz::AuthzConfig;
use crate::server::reload::ConfigFile;
use crate::server::serving::ServingConfig;
use crate::tokens::TokenConfig;
use ferrokube_api::features::Features;
use ferrokube_api::kinds::RuntimeConfig;
use ferrokube_store::Store;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Certificate and key of the HTTPS server. Can be replaced while it runs, see [`crate::ApiServer::set_certificate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Chain in PEM, end entity first.
    pub certificate: String,
    /// Private key in PEM.
    pub key: String,
}

/// A certificate for names that clients ask for (`--tls-sni-cert-key`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedCertificate {
    /// Certificate and key.
    pub tls: Tls,
    /// Names and patterns (`*.example.com`); none: those that the certificate itself is for.
    pub names: Vec<String>,
}

/// How the server reaches kubelets. Can be replaced while it runs, see [`crate::ApiServer::set_kubelet_access`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletAccess {
    /// Client certificate in PEM: `--kubelet-client-certificate`.
    pub certificate: String,
    /// Its key: `--kubelet-client-key`.
    pub key: String,
    /// CAs of kubelets' serving certificates in PEM: `--kubelet-certificate-authority`.
    pub ca: String,
}

/// Everything a server needs.
#[derive(Clone)]
pub struct Config {
    /// Where objects are.
    pub store: Arc<dyn Store>,
    /// `--feature-gates`: what is switched otherwise than by default.
    pub features: Features,
    /// `--runtime-config`: which versions are served besides.
    pub runtime_config: RuntimeConfig,
    /// `--encryption-provider-config`: how values are encrypted in the store. `None` leaves them as they are.
    pub encryption: Option<ConfigFile>,
    /// Whether values that were written in another way, or in the clear, are written again after the start.
    pub encryption_rewrite: bool,
    /// Where to listen; port 0 takes any. `None`: only callers of this process.
    pub listen: Option<SocketAddr>,
    /// Required when listening.
    pub tls: Tls,
    /// Certificates for names that clients ask for. Can be replaced while it runs, see [`crate::ApiServer::set_named_certificates`].
    pub named_certificates: Vec<NamedCertificate>,
    /// Which credentials count.
    pub authn: AuthnConfig,
    /// Who decides what they allow.
    pub authz: AuthzConfig,
    /// What is written down about requests.
    pub audit: Option<AuditConfig>,
    /// Which admission plugins run, and what they are told.
    pub admission: AdmissionConfig,
    /// Service-account tokens.
    pub tokens: TokenConfig,
    /// Address ranges of services, one or two.
    pub service_cidrs: Vec<String>,
    /// Ports that services of type NodePort get.
    pub node_ports: RangeInclusive<u16>,
    /// The name of this machine. The identity of the server among those of its cluster is made from it.
    pub hostname: String,
    /// The address that clients in the cluster use; published in `default/kubernetes`.
    pub advertise: IpAddr,
    /// The port that clients in the cluster use, when it is not the one bound.
    pub advertise_port: Option<u16>,
    /// How to reach kubelets; without it logs, exec and the like answer with an error.
    pub kubelet: Option<KubeletAccess>,
    /// Who this server is to the servers behind APIServices: `--proxy-client-cert-file` and `--proxy-client-key-file`.
    pub proxy_client: Option<Tls>,
    /// Address and port by which people reach the server, in OpenID discovery. Empty: advertise address and port.
    pub external_host: String,
    /// Requests that only read, at one time: `--max-requests-inflight`.
    pub max_reading: usize,
    /// Requests that change something, at one time: `--max-mutating-requests-inflight`.
    pub max_mutating: usize,
    /// `--enable-priority-and-fairness`: the two limits together are then the seats of all priority levels.
    pub priority_and_fairness: bool,
    /// `--etcd-compaction-interval`: what is older than this, or twice this, is forgotten; zero: nothing.
    pub compaction: Duration,
    /// `--request-timeout`.
    pub request_timeout: Duration,
    /// `--event-ttl`.
    pub event_ttl: Duration,
    /// `--service-account-jwks-uri`: where OpenID discovery says that the keys are. Empty: at this server.
    pub jwks_uri: String,
    /// TLS, browsers, balance, the end.
    pub serving: ServingConfig,
    /// How long a stop waits for requests under way.
    pub drain: Duration,
}

impl Config {
    /// Defaults of 1.36 for everything but the store and the keys.
    pub fn new(store: Arc<dyn Store>, tokens: TokenConfig) -> Self {
        Config {
            store,
            features: Features::default(),
            runtime_config: RuntimeConfig::default(),
            encryption: None,
            encryption_rewrite: false,
            listen: None,
            tls: Tls::default(),
            named_certificates: Vec::new(),
            authn: AuthnConfig::default(),
            authz: AuthzConfig::default(),
            audit: None,
            admission: AdmissionConfig::default(),
            tokens,
            service_cidrs: vec!["10.0.0.0/24".to_owned()],
            node_ports: 30000..=32767,
            hostname: "localhost".to_owned(),
            advertise: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_port: None,
            kubelet: None,
            proxy_client: None,
            external_host: String::new(),
            max_reading: 400,
            max_mutating: 200,
            priority_and_fairness: true,
            compaction: crate::compactor::INTERVAL,
            request_timeout: Duration::from_secs(60),
            event_ttl: Duration::from_secs(3600),
            jwks_uri: String::new(),
            serving: ServingConfig::default(),
            drain: Duration::from_secs(10),
        }
    }

    /// The front proxy, if there is one.
    pub fn front_proxy(&self) -> Option<RequestHeaders> {
        self.authn.front_proxy.clone()
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config(listen {:?})", self.listen)
    }
}

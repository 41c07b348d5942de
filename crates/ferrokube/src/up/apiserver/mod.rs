//! The flags of the API server that `up` passes on, under kube-apiserver's names and with its defaults.
//!
//! A flag becomes a field of the server's [`Config`] here and nowhere else.

mod access;
mod admission;
mod audit;
mod encryption;
mod serving;

use crate::pki::Pki;
use anyhow::Result;
use clap::Args;
use ferrokube_api::features::Features;
use ferrokube_api::kinds::RuntimeConfig;
use ferrokube_apiserver::authn::{AuthnConfig, RequestHeaders};
use ferrokube_apiserver::server::{Config, ConfigFile, KubeletAccess, NamedCertificate, Tls};
use ferrokube_apiserver::tokens::TokenConfig;
use ferrokube_store::Store;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Flags of the API server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "API server")]
pub struct ApiserverFlags {
    #[command(flatten)]
    authentication: access::AuthenticationFlags,
    #[command(flatten)]
    authorization: access::AuthorizationFlags,
    #[command(flatten)]
    admission: admission::AdmissionFlags,
    #[command(flatten)]
    audit: audit::AuditFlags,
    #[command(flatten)]
    serving: serving::ServingFlags,
    #[command(flatten)]
    encryption: encryption::EncryptionFlags,
    /// Features by name; most may only be set to what they are
    #[arg(long, value_name = "NAME=BOOL,...")]
    feature_gates: Vec<Features>,
    /// Versions that are served besides, such as storagemigration.k8s.io/v1beta1=true
    #[arg(long, value_name = "GROUP/VERSION=BOOL,...")]
    runtime_config: Vec<RuntimeConfig>,
}

/// Certificates and keys of a server, PEM.
#[derive(Default)]
pub struct Material {
    /// What it serves with.
    pub serving: Tls,
    /// What it serves with to those who ask for certain names.
    pub named: Vec<NamedCertificate>,
    /// CA of client certificates.
    pub client_ca: String,
    /// CA of front proxies.
    pub front_proxy_ca: String,
    /// Who it is to the servers behind APIServices.
    pub proxy_client: Option<Tls>,
    /// How it reaches kubelets.
    pub kubelet: Option<KubeletAccess>,
    /// Key of service-account tokens.
    pub signing_key: String,
}

impl Material {
    /// What the cluster's own certificates give.
    pub fn of(pki: &Pki) -> Self {
        let pair = |c: &crate::pki::Credential| Tls { certificate: c.certificate.clone(), key: c.key.clone() };
        let kubelet = pair(&pki.apiserver_kubelet_client);
        Material {
            serving: pair(&pki.apiserver),
            named: Vec::new(),
            client_ca: pki.ca().to_owned(),
            front_proxy_ca: pki.front_proxy_ca().to_owned(),
            proxy_client: Some(pair(&pki.front_proxy_client)),
            kubelet: Some(KubeletAccess { certificate: kubelet.certificate, key: kubelet.key, ca: pki.ca().to_owned() }),
            signing_key: pki.service_account_key.clone(),
        }
    }

    /// The configuration of a server with these keys.
    pub fn config(self, store: Arc<dyn Store>, issuer: String) -> Config {
        let tokens = TokenConfig {
            issuer,
            api_audiences: Vec::new(),
            signing_key: self.signing_key,
            verify_keys: Vec::new(),
            extend_expiration: true,
            max_expiration_seconds: 0,
        };
        let authn = AuthnConfig {
            client_ca: self.client_ca,
            front_proxy: Some(self.front_proxy_ca).filter(|ca| !ca.is_empty()).map(RequestHeaders::standard),
            static_tokens: String::new(),
            bootstrap_tokens: true,
            ..AuthnConfig::default()
        };
        Config {
            hostname: crate::component::hostname(),
            tls: self.serving,
            named_certificates: self.named,
            authn,
            kubelet: self.kubelet,
            proxy_client: self.proxy_client,
            ..Config::new(store, tokens)
        }
    }
}

/// How often files that may change are looked at.
pub const RELOAD: Duration = Duration::from_secs(60);

fn followed(path: Option<&PathBuf>) -> Option<ConfigFile> {
    path.map(|path| ConfigFile { path: path.clone(), reload: Some(RELOAD) })
}

impl ApiserverFlags {
    /// Which features there are; in `up`, for every component.
    pub fn features(&self) -> Features {
        crate::component::gates::of(&self.feature_gates)
    }

    /// Where the CA of front proxies is, if it was said.
    pub fn front_proxy_ca(&self) -> Option<PathBuf> {
        self.authentication.front_proxy_ca()
    }

    /// Puts what was said into the configuration. `pki` is where the keys of the cluster are.
    pub fn apply(&self, config: &mut Config, pki: &Path) -> Result<()> {
        self.authentication.apply(&mut config.authn)?;
        self.authentication.apply_tokens(&mut config.tokens)?;
        config.authz = self.authorization.config()?;
        config.admission = self.admission.config()?;
        config.audit = self.audit.config()?;
        self.serving.apply(config);
        self.encryption.apply(config, pki)?;
        config.features = self.features();
        config.runtime_config = self.runtime_config.iter().fold(RuntimeConfig::default(), RuntimeConfig::and);
        Ok(())
    }
}

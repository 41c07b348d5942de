//! Keys and certificates of a throw-away cluster, and the configuration that uses them.
#![allow(dead_code, missing_docs, reason = "each test uses a part")]

use ferrokube_apiserver::tokens::TokenConfig;
use ferrokube_apiserver::{Config, KubeletAccess, Tls};
use ferrokube_store::Store;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::sync::Arc;

pub struct Pki {
    pub ca: String,
    ca_key: String,
    pub server: Tls,
    pub admin: Tls,
    pub token_key: String,
}

fn issue(issuer: &Issuer<'_, KeyPair>, name: &str, group: &str, client: bool) -> Result<Tls, rcgen::Error> {
    let names: &[&str] = if client { &[] } else { &["localhost", "127.0.0.1"] };
    issue_for(issuer, name, group, names)
}

/// For a server when there are names of hosts, else for a client.
fn issue_for(issuer: &Issuer<'_, KeyPair>, name: &str, group: &str, hosts: &[&str]) -> Result<Tls, rcgen::Error> {
    let key = KeyPair::generate()?;
    let client = hosts.is_empty();
    let mut params = CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![if client { ExtendedKeyUsagePurpose::ClientAuth } else { ExtendedKeyUsagePurpose::ServerAuth }];
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Tls { certificate: certificate.pem(), key: key.serialize_pem() })
}

impl Pki {
    pub fn make() -> Result<Self, rcgen::Error> {
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let server = issue(&issuer, "kube-apiserver", "", false)?;
        let admin = issue(&issuer, "kubernetes-admin", "system:masters", true)?;
        let ca_key = issuer.key().serialize_pem();
        Ok(Pki { ca: ca.pem(), ca_key, server, admin, token_key: KeyPair::generate()?.serialize_pem() })
    }

    /// A client certificate for somebody else.
    pub fn client(&self, name: &str, group: &str) -> Result<Tls, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca, KeyPair::from_pem(&self.ca_key)?)?;
        issue(&issuer, name, group, true)
    }

    /// A certificate for another server.
    pub fn serving(&self, hosts: &[&str]) -> Result<Tls, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca, KeyPair::from_pem(&self.ca_key)?)?;
        issue_for(&issuer, "another server", "", hosts)
    }

    /// Another certificate for the server.
    pub fn server_again(&self) -> Result<Tls, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&self.ca, KeyPair::from_pem(&self.ca_key)?)?;
        issue(&issuer, "kube-apiserver", "", false)
    }

    pub fn config(&self, store: Arc<dyn Store>) -> Config {
        let tokens = TokenConfig {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            api_audiences: Vec::new(),
            signing_key: self.token_key.clone(),
            verify_keys: Vec::new(),
            extend_expiration: true,
            max_expiration_seconds: 0,
        };
        let mut config = Config::new(store, tokens);
        config.tls = self.server.clone();
        config.authn.client_ca = self.ca.clone();
        config.service_cidrs = vec!["10.96.0.0/16".to_owned()];
        config.kubelet =
            Some(KubeletAccess { certificate: self.admin.certificate.clone(), key: self.admin.key.clone(), ca: self.ca.clone() });
        config
    }

    pub fn kubeconfig(&self, address: &str) -> String {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {}\nusers:\n- name: a\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: c\n  context: {{cluster: c, user: a}}\n",
            encode(&self.ca),
            encode(&self.admin.certificate),
            encode(&self.admin.key)
        )
    }
}

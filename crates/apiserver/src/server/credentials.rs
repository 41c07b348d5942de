//! Certificates and CAs that may be replaced while the server runs. Whoever reads the files tells it here.
//!
//! What cannot be used is refused and changes nothing. Source: `dynamiccertificates`, `clusterauthenticationtrust`.

use super::config::{KubeletAccess, NamedCertificate, Tls};
use super::tls::TlsError;
use crate::ApiServer;
use crate::authn::{AuthnConfigError, RequestHeaders};
use crate::connect::kubelet::Kubelets;
use std::sync::Arc;

/// CAs of client certificates, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCas {
    /// Of users: `--client-ca-file`. Empty: there is none.
    pub client: String,
    /// Of front proxies: `--requestheader-client-ca-file`. Empty: there is none.
    pub front_proxy: String,
}

impl ApiServer {
    /// Serves another certificate from the next handshake on.
    pub fn set_certificate(&self, tls: &Tls) -> Result<(), TlsError> {
        self.terms.as_ref().map_or(Ok(()), |terms| terms.serve_with(tls))
    }

    /// The same for the certificates of names.
    pub fn set_named_certificates(&self, named: &[NamedCertificate]) -> Result<(), TlsError> {
        self.terms.as_ref().map_or(Ok(()), |terms| terms.serve_names_with(named))
    }

    /// Believes client certificates of these CAs from the next request on, asks for them from the next handshake on, and publishes
    /// them in ConfigMap `kube-system/extension-apiserver-authentication`.
    pub fn set_client_cas(&self, cas: &ClientCas) -> Result<(), TlsError> {
        let (had, known) =
            self.facts.get().map(|facts| facts.borrow()).map_or_else(Default::default, |f| (f.client_ca.clone(), f.front_proxy.clone()));
        // A file that is being written is empty for a moment, and a server without CAs knows nobody.
        let front_had = known.as_ref().map_or("", |proxy| &proxy.ca);
        for (what, had, now) in [("client CA", had.as_str(), &cas.client), ("requestheader client CA", front_had, &cas.front_proxy)] {
            if now.is_empty() && !had.is_empty() {
                return Err(AuthnConfigError::Ca { what, why: "empty".to_owned() }.into());
            }
        }
        let named = || known.unwrap_or_else(|| RequestHeaders::standard(String::new()));
        let front_proxy = (!cas.front_proxy.is_empty()).then(|| RequestHeaders { ca: cas.front_proxy.clone(), ..named() });
        self.authenticator.trust(&cas.client, front_proxy.clone())?;
        if let Some(terms) = &self.terms {
            terms.ask_for(&[&cas.client, &cas.front_proxy])?;
        }
        if let Some(facts) = self.facts.get() {
            facts.send_modify(|facts| {
                facts.client_ca.clone_from(&cas.client);
                facts.front_proxy = front_proxy;
            });
        }
        Ok(())
    }

    /// Reaches kubelets in another way from the next connection on.
    pub fn set_kubelet_access(&self, access: &KubeletAccess) -> Result<(), TlsError> {
        self.kubelets.store(Some(Arc::new(Kubelets::new(access)?)));
        Ok(())
    }

    /// Shows another certificate to the servers behind APIServices.
    pub fn set_proxy_client(&self, tls: &Tls) -> Result<(), TlsError> {
        self.aggregator.set_identity(tls)
    }
}

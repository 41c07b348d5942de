//! Reading a kubeconfig: where the server is and who we are.

use crate::http::{Credentials, Endpoint};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Why a kubeconfig gives no client.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KubeconfigError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a kubeconfig: {detail}")]
    Parse { path: PathBuf, detail: String },
    #[error("kubeconfig {path} has no {what} {name:?}")]
    Missing { path: PathBuf, what: &'static str, name: String },
    #[error("{what} in the kubeconfig is not valid base64")]
    Base64 { what: &'static str },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
}

/// Reads the current context of a kubeconfig. `parse` turns YAML into JSON (the caller has a YAML parser; JSON is YAML too).
pub fn load(path: &Path, parse: impl Fn(&str) -> Result<serde_json::Value, String>) -> Result<(Endpoint, Credentials), KubeconfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.into(), source })?;
    let unreadable = |detail: String| KubeconfigError::Parse { path: path.into(), detail };
    let value = parse(&text).map_err(unreadable)?;
    let file: File = serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))?;
    Loader { path, file }.current()
}

struct Loader<'a> {
    path: &'a Path,
    file: File,
}

impl Loader<'_> {
    fn missing(&self, what: &'static str, name: &str) -> KubeconfigError {
        KubeconfigError::Missing { path: self.path.into(), what, name: name.into() }
    }

    fn current(&self) -> Result<(Endpoint, Credentials), KubeconfigError> {
        let name = &self.file.current_context;
        let context = self.file.contexts.iter().find(|c| c.name == *name).ok_or_else(|| self.missing("context", name))?;
        let context = &context.context;
        let cluster = self.file.clusters.iter().find(|c| c.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| self.missing("cluster", &context.cluster))?.cluster;
        let user = self.file.users.iter().find(|u| u.name == context.user);
        let user = &user.ok_or_else(|| self.missing("user", &context.user))?.user;
        let endpoint = Endpoint {
            server: cluster.server.clone(),
            ca_pem: self.either("certificate-authority-data", &cluster.certificate_authority_data, &cluster.certificate_authority)?,
            server_name: cluster.tls_server_name.clone(),
            insecure: cluster.insecure_skip_tls_verify,
        };
        let credentials = Credentials {
            cert_pem: self.either("client-certificate-data", &user.client_certificate_data, &user.client_certificate)?,
            key_pem: self.either("client-key-data", &user.client_key_data, &user.client_key)?,
            token: user.token.clone(),
            token_file: user.token_file.as_ref().map(|p| self.beside(p)),
            tokens: None,
        };
        Ok((endpoint, credentials))
    }

    /// Relative paths are relative to the kubeconfig.
    fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(path)
    }

    fn either(&self, what: &'static str, data: &Option<String>, file: &Option<PathBuf>) -> Result<Option<Vec<u8>>, KubeconfigError> {
        if let Some(data) = data {
            return STANDARD.decode(data).map(Some).map_err(|_| KubeconfigError::Base64 { what });
        }
        let Some(file) = file else { return Ok(None) };
        let path = self.beside(file);
        std::fs::read(&path).map(Some).map_err(|source| KubeconfigError::Read { path, source })
    }
}

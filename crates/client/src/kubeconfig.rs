//! Reading a kubeconfig, or what a pod is given: where the server is and who we are.

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
    #[error("this is no pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")]
    NoPod,
}

/// Where a pod finds the token of its service account and the CA of the API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The server of the cluster that this process is a pod of, as the pod's service account.
pub fn in_cluster() -> Result<(Endpoint, Credentials), KubeconfigError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(host), Some(port)) = (set("KUBERNETES_SERVICE_HOST"), set("KUBERNETES_SERVICE_PORT")) else {
        return Err(KubeconfigError::NoPod);
    };
    of_pod(&host, &port, Path::new(ACCOUNT))
}

fn of_pod(host: &str, port: &str, folder: &Path) -> Result<(Endpoint, Credentials), KubeconfigError> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let (ca, token) = (folder.join("ca.crt"), folder.join("token"));
    let read = |path: &Path| std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.into(), source });
    // Without a token it is nobody; what it says later is read when it is used, for kubelets exchange it.
    read(&token)?;
    let endpoint = Endpoint { server: format!("https://{host}:{port}"), ca_pem: Some(read(&ca)?), ..Endpoint::default() };
    Ok((endpoint, Credentials { token_file: Some(token), ..Credentials::default() }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_its_service_account_and_without_a_token_nobody() {
        let folder = std::env::temp_dir().join(format!("ferrokube-in-cluster-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.crt"), "CA").unwrap();
        assert!(matches!(of_pod("10.96.0.1", "443", &folder), Err(KubeconfigError::Read { path, .. }) if path.ends_with("token")));
        std::fs::write(folder.join("token"), "t").unwrap();
        let (endpoint, credentials) = of_pod("fd00::1", "443", &folder).unwrap();
        assert_eq!((endpoint.server.as_str(), endpoint.ca_pem.as_deref()), ("https://[fd00::1]:443", Some(&b"CA"[..])));
        assert_eq!(credentials.token_file, Some(folder.join("token")));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

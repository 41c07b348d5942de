//! The part of a kubeconfig that a webhook client needs: server, trust and credential of the current context.

use super::{Access, OutboundError, config};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<Cluster>,
    contexts: Vec<Context>,
    users: Vec<User>,
}

#[derive(Deserialize)]
struct Cluster {
    name: String,
    cluster: ClusterDetail,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct ClusterDetail {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct Context {
    name: String,
    context: ContextDetail,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContextDetail {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct User {
    name: String,
    user: UserDetail,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct UserDetail {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

/// Text from base64 data or, when there is none, from a file.
fn material(folder: &Path, what: &str, data: &str, file: &str) -> Result<String, OutboundError> {
    if !data.is_empty() {
        let bytes = STANDARD.decode(data).map_err(|_| config(format_args!("{what}-data is not base64")))?;
        return String::from_utf8(bytes).map_err(|_| config(format_args!("{what}-data is not PEM")));
    }
    if file.is_empty() {
        return Ok(String::new());
    }
    let path = folder.join(file);
    std::fs::read_to_string(&path).map_err(|e| config(format_args!("{what} {}: {e}", path.display())))
}

/// URL and access of the current context; of the only cluster and user when no context is current.
pub(super) fn read(text: &str, folder: &Path) -> Result<(String, Access), OutboundError> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| config(format_args!("unreadable kubeconfig: {e}")))?;
    let context = file.contexts.iter().find(|c| c.name == file.current_context);
    let wanted = match (context, file.current_context.as_str(), file.contexts.as_slice()) {
        (Some(context), ..) => &context.context,
        (None, "", [only]) => &only.context,
        (None, name, _) => return Err(config(format_args!("context {name:?} does not exist"))),
    };
    let cluster = file.clusters.iter().find(|c| c.name == wanted.cluster).map(|c| &c.cluster);
    let cluster = cluster.ok_or_else(|| config(format_args!("cluster {:?} does not exist", wanted.cluster)))?;
    if cluster.insecure_skip_tls_verify {
        return Err(config("insecure-skip-tls-verify is not supported towards webhooks: name their CA"));
    }
    let none = UserDetail::default();
    let user = match file.users.iter().find(|u| u.name == wanted.user) {
        Some(user) => &user.user,
        None if wanted.user.is_empty() => &none,
        None => return Err(config(format_args!("user {:?} does not exist", wanted.user))),
    };
    if user.exec.is_some() || user.auth_provider.is_some() {
        return Err(config("credential plugins are not supported towards webhooks"));
    }
    let token = match (user.token.as_str(), user.token_file.as_str()) {
        ("", "") => String::new(),
        ("", file) => material(folder, "tokenFile", "", file)?.trim().to_owned(),
        (token, _) => token.to_owned(),
    };
    let authorization = if !token.is_empty() {
        Some(format!("Bearer {token}"))
    } else if !user.username.is_empty() {
        Some(format!("Basic {}", STANDARD.encode(format!("{}:{}", user.username, user.password))))
    } else {
        None
    };
    let access = Access {
        ca: material(folder, "certificate-authority", &cluster.certificate_authority_data, &cluster.certificate_authority)?,
        certificate: material(folder, "client-certificate", &user.client_certificate_data, &user.client_certificate)?,
        key: material(folder, "client-key", &user.client_key_data, &user.client_key)?,
        server_name: cluster.tls_server_name.clone(),
        authorization,
    };
    Ok((cluster.server.clone(), access))
}

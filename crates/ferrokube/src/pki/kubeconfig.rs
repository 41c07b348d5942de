//! Kubeconfigs: one cluster, one user, one context, everything embedded.

use super::Credential;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The text of a kubeconfig for `user` of `cluster` at `server`, trusting `ca` (PEM).
pub(super) fn kubeconfig(cluster: &str, server: &str, ca: &str, user: &str, credential: &Credential) -> String {
    let (ca, certificate, key) = (STANDARD.encode(ca), STANDARD.encode(&credential.certificate), STANDARD.encode(&credential.key));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: {cluster}\n\
         \x20 cluster:\n\
         \x20   certificate-authority-data: {ca}\n\
         \x20   server: {server}\n\
         users:\n\
         - name: {user}\n\
         \x20 user:\n\
         \x20   client-certificate-data: {certificate}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: {user}@{cluster}\n\
         \x20 context:\n\
         \x20   cluster: {cluster}\n\
         \x20   user: {user}\n\
         current-context: {user}@{cluster}\n\
         preferences: {{}}\n"
    )
}

//! The cluster's own certificates: created on first start, loaded after, renewed before they expire.
//!
//! Files have kubeadm's names, so that its tools and habits apply: `ca`, `apiserver`, `apiserver-kubelet-client`,
//! `front-proxy-ca`, `front-proxy-client`, `sa.key`, `sa.pub`, and one kubeconfig per user beside the directory. A CA
//! or key that is there is never replaced; what it signed is, when it no longer fits. Private keys are ECDSA P-256 and
//! never leave files of mode 0600.

mod authority;
mod files;
mod kubeconfig;

use kubeconfig::kubeconfig;

use authority::{Authority, Leaf, Use};
use files::Folder;
use parking_lot::Mutex;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Facts of the cluster that its certificates carry.
#[derive(Clone, Debug)]
pub struct PkiConfig {
    /// Name of the cluster in kubeconfigs: `kubernetes`.
    pub cluster_name: String,
    /// `cluster.local`.
    pub dns_domain: String,
    /// Name of this node.
    pub node_name: String,
    /// Address of Service `default/kubernetes`: `10.96.0.1`.
    pub service_ip: IpAddr,
    /// Addresses at which the API server is reached.
    pub advertise: Vec<IpAddr>,
    /// Further names and addresses of the API server.
    pub extra_sans: Vec<String>,
    /// URL of the API server in kubeconfigs: `https://127.0.0.1:6443`.
    pub server: String,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Credential {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// What a kubelet needs. Its identity towards the API server, `system:node:<name>`, stands in its kubeconfig.
#[derive(Clone, Debug)]
pub struct NodeCredentials {
    /// Its own server on port 10250.
    pub serving: Credential,
}

/// The cluster's certificates.
#[derive(Debug)]
pub struct Pki {
    folder: Folder,
    ca: Authority,
    front_proxy_ca: Authority,
    config: PkiConfig,
    /// The API server's own certificate.
    pub apiserver: Credential,
    /// The API server towards kubelets.
    pub apiserver_kubelet_client: Credential,
    /// The API server towards extension API servers.
    pub front_proxy_client: Credential,
    /// `kubernetes-admin` in group `kubeadm:cluster-admins`.
    pub admin: Credential,
    /// `kubernetes-super-admin` in group `system:masters`.
    pub super_admin: Credential,
    /// `system:kube-controller-manager`.
    pub controller_manager: Credential,
    /// `system:kube-scheduler`.
    pub scheduler: Credential,
    /// Private key of service-account tokens, PEM.
    pub service_account_key: String,
    /// Where kubeconfigs point.
    server: Mutex<String>,
}

/// Why the certificates are not usable.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that must not be replaced has contents that make no sense.
    #[error("{}: {why}; restore the file, or remove the whole directory to start a new cluster", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("certificate {name:?}: {why}")]
    Sign {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
}

/// Group that ClusterRoleBinding `kubeadm:cluster-admins` makes administrators.
pub const ADMIN_GROUP: &str = "kubeadm:cluster-admins";

/// Creates what is missing below `dir` (`<data>/pki`), renews what no longer fits, and loads everything. Kubeconfigs go
/// into the parent directory: `admin.conf`, `super-admin.conf`, `controller-manager.conf`, `scheduler.conf`.
pub fn ensure(dir: &Path, config: &PkiConfig) -> Result<Pki, PkiError> {
    let folder = Folder::open(dir)?;
    let ca = Authority::ensure(&folder, "ca", "kubernetes")?;
    let front_proxy_ca = Authority::ensure(&folder, "front-proxy-ca", "front-proxy-ca")?;
    let service_account_key = authority::private_key(&folder, "sa")?;
    let client = |file: &str, name: &str, group: &str| {
        ca.leaf(&folder, &Leaf { file, common_name: name, organization: group, sans: Vec::new(), usage: Use::Client })
    };
    let sans = server_names(config);
    let pki = Pki {
        apiserver: ca
            .leaf(&folder, &Leaf { file: "apiserver", common_name: "kube-apiserver", organization: "", sans, usage: Use::Server })?,
        apiserver_kubelet_client: client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ADMIN_GROUP)?,
        front_proxy_client: front_proxy_ca.leaf(
            &folder,
            &Leaf { file: "front-proxy-client", common_name: "front-proxy-client", organization: "", sans: Vec::new(), usage: Use::Client },
        )?,
        admin: client("admin", "kubernetes-admin", ADMIN_GROUP)?,
        super_admin: client("super-admin", "kubernetes-super-admin", "system:masters")?,
        controller_manager: client("controller-manager", "system:kube-controller-manager", "")?,
        scheduler: client("scheduler", "system:kube-scheduler", "")?,
        service_account_key,
        server: Mutex::new(config.server.clone()),
        ca,
        front_proxy_ca,
        config: config.clone(),
        folder,
    };
    pki.write_kubeconfigs()?;
    pki.folder.settle();
    Ok(pki)
}

/// Names and addresses under which the API server answers.
fn server_names(config: &PkiConfig) -> Vec<String> {
    let domain = &config.dns_domain;
    let mut names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.extend([format!("kubernetes.default.svc.{domain}"), "localhost".into(), config.node_name.clone()]);
    names.extend([config.service_ip.to_string(), "127.0.0.1".into(), "::1".into()]);
    names.extend(config.advertise.iter().filter(|a| !a.is_unspecified()).map(IpAddr::to_string));
    names.extend(config.extra_sans.iter().cloned());
    names.sort();
    names.dedup();
    names
}

impl Pki {
    /// The CA of everything in the cluster, PEM: `--client-ca-file`, `kube-root-ca.crt`.
    pub fn ca(&self) -> &str {
        self.ca.certificate()
    }

    /// The private key of the CA, PEM: `--cluster-signing-key-file`.
    pub fn ca_key(&self) -> Result<Option<String>, PkiError> {
        self.folder.read("ca.key")
    }

    /// The CA of front proxies, PEM: `--requestheader-client-ca-file`.
    pub fn front_proxy_ca(&self) -> &str {
        self.front_proxy_ca.certificate()
    }

    /// The certificates of a node, created or renewed as needed, and its kubeconfig: `kubelet.conf` for this node,
    /// `kubelet-<name>.conf` for others. `addresses` are those at which its kubelet is reached.
    pub fn node(&self, name: &str, addresses: &[IpAddr]) -> Result<NodeCredentials, PkiError> {
        let user = format!("system:node:{name}");
        let mut sans = vec![name.to_owned()];
        sans.extend(addresses.iter().filter(|a| !a.is_unspecified()).map(IpAddr::to_string));
        let leaf = |file: &str, sans, usage| {
            self.ca.leaf(&self.folder, &Leaf { file, common_name: &user, organization: "system:nodes", sans, usage })
        };
        let client = leaf(&format!("kubelet-client-{name}"), Vec::new(), Use::Client)?;
        let serving = leaf(&format!("kubelet-server-{name}"), sans, Use::Server)?;
        let file = if name == self.config.node_name { "kubelet".to_owned() } else { format!("kubelet-{name}") };
        self.write_kubeconfig(&file, &user, &client)?;
        self.folder.settle();
        Ok(NodeCredentials { serving })
    }

    /// Writes the kubeconfigs for the URL at which the API server is reached in the end, when that was not known before
    /// it listened.
    pub fn publish(&self, server: &str) -> Result<(), PkiError> {
        server.clone_into(&mut self.server.lock());
        self.write_kubeconfigs()?;
        self.folder.settle();
        Ok(())
    }

    fn write_kubeconfigs(&self) -> Result<(), PkiError> {
        let users = [
            ("admin", "kubernetes-admin", &self.admin),
            ("super-admin", "kubernetes-super-admin", &self.super_admin),
            ("controller-manager", "system:kube-controller-manager", &self.controller_manager),
            ("scheduler", "system:kube-scheduler", &self.scheduler),
        ];
        users.into_iter().try_for_each(|(file, user, credential)| self.write_kubeconfig(file, user, credential))
    }

    fn write_kubeconfig(&self, file: &str, user: &str, credential: &Credential) -> Result<(), PkiError> {
        let text = kubeconfig(&self.config.cluster_name, &self.server.lock(), self.ca(), user, credential);
        self.folder.write_if_changed(&format!("../{file}.conf"), &text)
    }
}

#[cfg(test)]
mod tests;

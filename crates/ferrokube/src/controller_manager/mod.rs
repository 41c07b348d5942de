//! `ferrokube controller-manager`: the controllers alone, beside any API server, elected among their like.
//!
//! Flags have kube-controller-manager's names and defaults. One that changes nothing here is taken ([`Ignored`]); one that asks
//! for what is not here is refused. A flag becomes a field of the controllers' configuration here and nowhere else.

mod signers;
mod syncs;
mod tuning;

use crate::component::ignored::Controllers as Ignored;
use crate::component::{ConnectionFlags, ElectionFlags, ServingFlags, lead};
use crate::flags::{duration, read, read_optional};
use anyhow::{Context, Result, ensure};
use clap::Args;
use ferrokube_apiserver::VERSION;
use ferrokube_apiserver::tokens::Signer;
use ferrokube_client::accounts::AccountTokens;
use ferrokube_client::metrics::Metrics;
use ferrokube_client::{Caches, Client};
use ferrokube_controllers::{NodeCidrs, Signing};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "kube-controller-manager";

/// What it is told.
#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    connection: ConnectionFlags,
    /// Controllers to run: `*` all that are on by default, `name` this one, `-name` not this one
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Name of the cluster
    #[arg(long, default_value = "kubernetes")]
    cluster_name: String,
    /// Let each controller act as a service account of its own. Upstream's default is false; the roles of a cluster are made for true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    signers: signers::SignerFlags,
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    syncs: syncs::SyncFlags,
    #[command(flatten)]
    tuning: tuning::TuningFlags,
    #[command(flatten)]
    objects: tuning::ObjectFlags,
    /// Delete what has lost all its owners
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    enable_garbage_collector: bool,
    /// The cloud: none, or one with a manager of its own
    #[arg(long, value_name = "NAME", hide = true, value_parser = ["", "external"])]
    cloud_provider: Option<String>,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    ignored: Ignored,
    #[command(flatten)]
    election: ElectionFlags,
    #[command(flatten)]
    serving: ServingFlags<10257>,
}

/// Flags that may say only what is so anyway: another value is refused, for it would be noticed.
#[derive(Args, Debug)]
struct Only {
    #[arg(long, hide = true, value_parser = ["false"], num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_hostpath_provisioner: Option<String>,
    #[arg(long, hide = true, value_parser = ["false"], num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_leader_migration: Option<String>,
}

/// Certificates and keys.
#[derive(Args, Debug)]
#[command(next_help_heading = "Certificates and keys")]
struct Keys {
    /// CA that signs certificate requests
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Longest life of a certificate that is signed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "8760h")]
    cluster_signing_duration: Duration,
    /// CA that token Secrets and kube-root-ca.crt publish [default: that of the kubeconfig's cluster]
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// Key that signs the tokens of token Secrets
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
}

/// Ranges of addresses.
#[derive(Args, Debug)]
#[command(next_help_heading = "Pod ranges of nodes")]
struct Network {
    /// Give each node a range of pod addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// Ranges of pod addresses, one or one of each family
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// Ranges of service addresses
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    service_cluster_ip_range: Vec<String>,
    /// How ranges are chosen; there is one way
    #[arg(long, value_name = "KIND", default_value = "RangeAllocator", value_parser = ["RangeAllocator"])]
    cidr_allocator_type: String,
    /// Size of a node's range where there is one family
    #[arg(long, value_name = "BITS", conflicts_with_all = ["node_cidr_mask_size_ipv4", "node_cidr_mask_size_ipv6"])]
    node_cidr_mask_size: Option<u8>,
    /// Size of a node's IPv4 range
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    node_cidr_mask_size_ipv4: u8,
    /// Size of a node's IPv6 range
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,
}

impl Keys {
    fn signing(&self) -> Result<Option<Signing>> {
        let (Some(certificate), Some(key)) = (&self.cluster_signing_cert_file, &self.cluster_signing_key_file) else { return Ok(None) };
        Ok(Some(Signing { certificate: read(certificate)?, key: read(key)?, duration: self.cluster_signing_duration }))
    }

    fn sign_token(&self) -> Result<Option<ferrokube_controllers::SignToken>> {
        let Some(path) = &self.service_account_private_key_file else { return Ok(None) };
        let signer = Signer::new(&read(path)?).with_context(|| format!("the key of service-account tokens {}", path.display()))?;
        Ok(Some(Arc::new(move |claims| Some(signer.sign(claims)))))
    }
}

impl Network {
    fn node_cidrs(&self) -> Result<Option<NodeCidrs>> {
        if !self.allocate_node_cidrs {
            return Ok(None);
        }
        ensure!(!self.cluster_cidr.is_empty(), "--allocate-node-cidrs needs --cluster-cidr");
        Ok(Some(NodeCidrs {
            cluster: self.cluster_cidr.clone(),
            services: self.service_cluster_ip_range.clone(),
            mask_ipv4: self.node_cidr_mask_size.unwrap_or(self.node_cidr_mask_size_ipv4),
            mask_ipv6: self.node_cidr_mask_size.unwrap_or(self.node_cidr_mask_size_ipv6),
        }))
    }
}

/// The User-Agent of a controller's client. What it begins with is the manager of the fields it writes, by which others (Argo CD's
/// `managedFieldsManagers`, for one) tell what controllers wrote; the account at its end shows in the audit log who of them it was.
pub fn agent(account: &str) -> String {
    format!("{NAME}/{VERSION}/system:serviceaccount:kube-system:{account}")
}

impl Options {
    /// A client as a controller's service account, or as ourselves for all of them.
    fn client_for(&self, own: &Client) -> Result<Arc<dyn Fn(&str) -> Client + Send + Sync>> {
        let own = own.clone();
        if !self.use_service_account_credentials {
            return Ok(Arc::new(move |_| own.clone()));
        }
        let server = self.connection.nobody()?;
        Ok(Arc::new(move |account| {
            let tokens = AccountTokens::new(own.clone(), "kube-system", account);
            Client::new(Arc::new(server.acting_with(Arc::new(tokens))), &agent(account))
        }))
    }

    fn config(&self, client: &Client, metrics: Metrics) -> Result<ferrokube_controllers::Config> {
        let root_ca = match &self.keys.root_ca_file {
            Some(path) => read_optional(Some(path))?,
            None => self.connection.ca()?,
        };
        let mut controllers = self.controllers.clone();
        if !self.enable_garbage_collector {
            controllers.push("-garbage-collector-controller".to_owned());
        }
        Ok(ferrokube_controllers::Config {
            controllers,
            root_ca,
            metrics,
            signing: self.keys.signing()?,
            signers: self.signers.signing(self.keys.cluster_signing_duration, self.keys.cluster_signing_cert_file.is_some())?,
            settings: self.objects.change(self.tuning.settings()?)?,
            node_cidrs: self.network.node_cidrs()?,
            sign_token: self.keys.sign_token()?,
            workers: self.syncs.workers(),
            features: self.connection.features(),
            ..ferrokube_controllers::Config::new(Caches::new(client.clone()), self.client_for(client)?)
        })
    }

    /// `/configz`: what of KubeControllerManagerConfiguration has a meaning here.
    fn configuration(&self) -> Value {
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
        let mut shown = self.syncs.configuration();
        self.tuning.show(&mut shown);
        self.objects.show(&mut shown);
        shown["GarbageCollectorController"]["EnableGarbageCollector"] = self.enable_garbage_collector.into();
        shown["Generic"] = json!({
            "Address": self.serving.bind_address, "Port": self.serving.secure_port, "Controllers": self.controllers,
            "LeaderElection": self.election.configuration(NAME),
        });
        shown["KubeCloudShared"] = json!({
            "AllocateNodeCIDRs": self.network.allocate_node_cidrs, "CIDRAllocatorType": self.network.cidr_allocator_type,
            "CloudProvider": {"Name": self.cloud_provider.as_deref().unwrap_or_default()}, "ClusterCIDR": self.network.cluster_cidr.join(","),
            "ClusterName": self.cluster_name, "UseServiceAccountCredentials": self.use_service_account_credentials,
        });
        shown["CSRSigningController"] = json!({
            "ClusterSigningCertFile": path(&self.keys.cluster_signing_cert_file),
            "ClusterSigningKeyFile": path(&self.keys.cluster_signing_key_file),
            "ClusterSigningDuration": format!("{}s", self.keys.cluster_signing_duration.as_secs()),
        });
        self.signers.show(&mut shown["CSRSigningController"]);
        shown["SAController"]["RootCAFile"] = path(&self.keys.root_ca_file).into();
        shown["SAController"]["ServiceAccountKeyFile"] = path(&self.keys.service_account_private_key_file).into();
        json!({"kubecontrollermanager.config.k8s.io": shown})
    }
}

/// Runs until told to stop, or until another is elected.
pub async fn run(options: Options) -> Result<()> {
    ferrokube_controllers::check(&options.controllers).context("--controllers")?;
    let election = options.election.election(NAME)?;
    let component = options.connection.component(NAME, options.configuration())?;
    let config = options.config(&component.client, component.metrics.clone())?;
    options.serving.serve(&component, crate::cli::flags()).await?;
    lead(&component, election.as_ref(), || ferrokube_controllers::run(config)).await
}

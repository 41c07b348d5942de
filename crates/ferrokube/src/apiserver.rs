//! `ferrokube apiserver`: the API server alone, under kube-apiserver's flags.
//!
//! What is not given is made: without certificates and keys it has its own in the data directory, as `up` does, with a
//! kubeconfig for each component that may come; without an etcd the data directory keeps the objects.

use crate::component::ignored;
use crate::flags::{NamedPair, read, read_optional};
use crate::layout::Layout;
use crate::pki::{self, PkiConfig};
use crate::up::apiserver::{ApiserverFlags, Material, RELOAD};
use crate::up::progress::{Progress, spoken};
use crate::up::store::EtcdOptions;
use crate::up::{preflight, server_url};
use anyhow::{Context, Result, ensure};
use clap::Args;
use ferrokube_apiserver::ApiServer;
use ferrokube_apiserver::server::tls::TlsError;
use ferrokube_apiserver::server::{ClientCas, Config, KubeletAccess, NamedCertificate, Tls};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// What it is told.
#[derive(Args, Debug)]
pub struct Options {
    /// Where objects are kept without an etcd, and certificates that are not given
    #[arg(long, value_name = "DIR", env = "FERROKUBE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on; 0 takes any
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address by which others reach it [default: that it listens on, or that of the default route]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
    /// Ranges of service addresses, one or one of each family
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "10.0.0.0/24")]
    service_cluster_ip_range: Vec<String>,
    /// Ports that services of type NodePort get
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = ports)]
    service_node_port_range: RangeInclusive<u16>,
    #[command(flatten)]
    keys: Keys,
    #[command(flatten)]
    etcd: EtcdOptions,
    #[command(flatten)]
    apiserver: ApiserverFlags,
    /// Tell nothing but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    only: Only,
    #[command(flatten)]
    ignored: ignored::Apiserver,
}

/// Flags that may say only what is so anyway: another value is refused, for it would be noticed.
#[derive(Args, Debug)]
struct Only {
    #[arg(long, short = 'v', hide = true, help_heading = ignored::HEADING)]
    v: Option<u8>,
    #[arg(long, hide = true, value_parser = ["lease"])]
    endpoint_reconciler_type: Option<String>,
    #[arg(long, hide = true, value_parser = ["", "etcd3"])]
    storage_backend: Option<String>,
    #[arg(long, hide = true, value_parser = ["application/json"])]
    storage_media_type: Option<String>,
    #[arg(long, hide = true, value_parser = ["true"], num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    enable_garbage_collector: Option<String>,
    #[arg(long, hide = true, value_parser = ["true"], num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    service_account_lookup: Option<String>,
    #[arg(long, hide = true, value_parser = ["true"], num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    aggregator_reject_forwarding_redirect: Option<String>,
}

/// Certificates and keys; what is missing comes from the data directory.
#[derive(Args, Debug)]
#[command(next_help_heading = "Certificates and keys")]
struct Keys {
    /// Certificate to serve with
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Certificate and key for clients that ask for certain names [names: those of the certificate]; may be given several times
    #[arg(long, value_name = "CERT,KEY[:NAME,...]")]
    tls_sni_cert_key: Vec<NamedPair>,
    /// CA of client certificates
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Key that signs service-account tokens
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Client certificate for kubelets
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    kubelet_client_key: Option<PathBuf>,
    /// CA of kubelets
    #[arg(long, value_name = "FILE")]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Client certificate for the servers behind APIServices
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    proxy_client_key_file: Option<PathBuf>,
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    range.filter(|r| !r.is_empty()).ok_or_else(|| format!("{text:?} is no range of ports such as 30000-32767"))
}

/// Gives the server what files have become, and looks again while it cannot use them: certificate and key may not fit each other yet.
async fn follow<T: PartialEq>(
    what: &'static str,
    mut known: T,
    read: impl Fn() -> Result<T> + Send,
    apply: impl Fn(&T) -> Result<(), TlsError> + Send,
) {
    loop {
        tokio::time::sleep(RELOAD).await;
        let Ok(now) = read() else { continue };
        if now == known {
            continue;
        }
        match apply(&now) {
            Ok(()) => {
                tracing::info!("{what} replaced by what its files hold now");
                known = now;
            }
            Err(error) => tracing::warn!(%error, "the new {what} is not used"),
        }
    }
}

/// Follows the files that were named, from what the server began with.
fn follow_files(keys: Arc<Keys>, proxies: Option<PathBuf>, server: &Arc<ApiServer>, began: &Began) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    if keys.tls_cert_file.is_some() {
        let (keys, server) = (keys.clone(), server.clone());
        let read = move || pair(keys.tls_cert_file.as_ref(), keys.tls_private_key_file.as_ref())?.context("no files");
        tasks.push(tokio::spawn(follow("serving certificate", began.serving.clone(), read, move |tls| server.set_certificate(tls))));
    }
    if !keys.tls_sni_cert_key.is_empty() {
        let (keys, server) = (keys.clone(), server.clone());
        let read = move || NamedPair::read_all(&keys.tls_sni_cert_key);
        tasks.push(tokio::spawn(follow("certificates of names", began.named.clone(), read, move |all| server.set_named_certificates(all))));
    }
    if keys.client_ca_file.is_some() || proxies.is_some() {
        let (keys, server, first) = (keys.clone(), server.clone(), began.cas.clone());
        let text = |path: Option<&PathBuf>, otherwise: &String| path.map_or_else(|| Ok(otherwise.clone()), |path| read(path));
        let read = move || {
            let client = text(keys.client_ca_file.as_ref(), &first.client)?;
            Ok(ClientCas { client, front_proxy: text(proxies.as_ref(), &first.front_proxy)? })
        };
        tasks.push(tokio::spawn(follow("CAs of clients", began.cas.clone(), read, move |cas| server.set_client_cas(cas))));
    }
    if let Some(first) = began.kubelet.clone().filter(|_| keys.kubelet_client_certificate.is_some()) {
        let (keys, server) = (keys.clone(), server.clone());
        let read = move || keys.kubelet()?.context("no files");
        tasks.push(tokio::spawn(follow("access to kubelets", first, read, move |access| server.set_kubelet_access(access))));
    }
    if let Some(first) = began.proxy_client.clone().filter(|_| keys.proxy_client_cert_file.is_some()) {
        let server = server.clone();
        let read = move || pair(keys.proxy_client_cert_file.as_ref(), keys.proxy_client_key_file.as_ref())?.context("no files");
        tasks.push(tokio::spawn(follow("client certificate of the front proxy", first, read, move |tls| server.set_proxy_client(tls))));
    }
    tasks
}

/// What a server began with of what files may replace.
struct Began {
    serving: Tls,
    named: Vec<NamedCertificate>,
    cas: ClientCas,
    kubelet: Option<KubeletAccess>,
    proxy_client: Option<Tls>,
}

impl Began {
    fn with(config: &Config) -> Self {
        let front_proxy = config.front_proxy().map_or_else(String::new, |proxy| proxy.ca);
        Began {
            serving: config.tls.clone(),
            named: config.named_certificates.clone(),
            cas: ClientCas { client: config.authn.client_ca.clone(), front_proxy },
            kubelet: config.kubelet.clone(),
            proxy_client: config.proxy_client.clone(),
        }
    }
}

fn pair(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Tls>> {
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    Ok(Some(Tls { certificate: read(certificate)?, key: read(key)? }))
}

impl Keys {
    /// Whether nothing has to be made for a server that serves, knows clients and gives tokens.
    fn suffice(&self) -> bool {
        self.tls_cert_file.is_some() && self.client_ca_file.is_some() && self.service_account_signing_key_file.is_some()
    }

    fn kubelet(&self) -> Result<Option<KubeletAccess>> {
        let Some(given) = pair(self.kubelet_client_certificate.as_ref(), self.kubelet_client_key.as_ref())? else { return Ok(None) };
        let ca = read_optional(self.kubelet_certificate_authority.as_ref())?;
        Ok(Some(KubeletAccess { certificate: given.certificate, key: given.key, ca }))
    }

    /// Puts what was given over what was made.
    fn over(&self, mut made: Material) -> Result<Material> {
        if let Some(given) = pair(self.tls_cert_file.as_ref(), self.tls_private_key_file.as_ref())? {
            made.serving = given;
        }
        made.named = NamedPair::read_all(&self.tls_sni_cert_key)?;
        if let Some(given) = pair(self.proxy_client_cert_file.as_ref(), self.proxy_client_key_file.as_ref())? {
            made.proxy_client = Some(given);
        }
        if let Some(given) = self.kubelet()? {
            made.kubelet = Some(given);
        }
        for (given, field) in [(&self.client_ca_file, &mut made.client_ca), (&self.service_account_signing_key_file, &mut made.signing_key)]
        {
            if let Some(path) = given {
                *field = read(path)?;
            }
        }
        Ok(made)
    }
}

impl Options {
    fn advertise(&self) -> IpAddr {
        let usual =
            || if self.bind_address.is_unspecified() { preflight::node_address(Ipv4Addr::LOCALHOST.into()) } else { self.bind_address };
        self.advertise_address.unwrap_or_else(usual)
    }

    fn pki(&self, folder: &Path) -> Result<Option<pki::Pki>> {
        if self.keys.suffice() {
            return Ok(None);
        }
        let first: ferrokube_network::Cidr = self.service_cluster_ip_range[0].parse().context("--service-cluster-ip-range")?;
        let host = nix::unistd::gethostname().map(|n| n.to_string_lossy().trim().to_lowercase()).context("cannot read the host name")?;
        let made = pki::ensure(
            folder,
            &PkiConfig {
                cluster_name: "kubernetes".to_owned(),
                dns_domain: "cluster.local".to_owned(),
                node_name: host,
                service_ip: first.nth(1).map_or(Ipv4Addr::UNSPECIFIED.into(), IpAddr::V4),
                advertise: vec![self.advertise(), self.bind_address],
                extra_sans: Vec::new(),
                server: server_url(SocketAddr::new(self.bind_address, self.secure_port)),
            },
        )?;
        Ok(Some(made))
    }
}

/// Runs until told to stop.
pub async fn run(options: Options) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    ensure!(!options.service_cluster_ip_range.is_empty(), "--service-cluster-ip-range names no range");
    let progress = Progress::new(options.quiet);
    let layout = Layout::new(options.data_dir.clone(), nix::unistd::geteuid().is_root());
    let _instance = preflight::take(&layout)?;
    let began = Instant::now();
    let own = options.pki(&layout.pki())?;
    let material = options.keys.over(own.as_ref().map(Material::of).unwrap_or_default())?;
    progress.done("certificates", began, "");
    let began = Instant::now();
    let store = options.etcd.open(&layout.store()).await?;
    progress.done("store", began, &options.etcd.spoken());
    let began = Instant::now();
    let mut config = Config {
        listen: Some(SocketAddr::new(options.bind_address, options.secure_port)),
        service_cidrs: options.service_cluster_ip_range.clone(),
        node_ports: options.service_node_port_range.clone(),
        advertise: options.advertise(),
        ..material.config(store, "https://kubernetes.default.svc.cluster.local".to_owned())
    };
    options.apiserver.apply(&mut config, &layout.pki())?;
    let began_with = Began::with(&config);
    let running = ApiServer::start(config).await?;
    let following = follow_files(Arc::new(options.keys), options.apiserver.front_proxy_ca(), &running.server, &began_with);
    let url = server_url(running.address.context("the API server listens nowhere")?);
    if let Some(own) = &own {
        own.publish(&url)?;
    }
    progress.done("API server", began, &url);
    progress.line(&format!("API server ready in {}. Press Ctrl-C to stop.", spoken(progress.elapsed())));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    following.iter().for_each(JoinHandle::abort);
    running.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn flags_that_change_nothing_are_taken_and_those_that_would_be_missed_are_refused() {
        let read = |flag: &str| Line::try_parse_from(["x", flag]).map(|line| line.options);
        for flag in [
            "-v=2",
            "--v=2",
            "--watch-cache=true",
            "--delete-collection-workers=4",
            "--enable-aggregator-routing",
            "--endpoint-reconciler-type=lease",
            "--storage-backend=etcd3",
            "--service-account-lookup=true",
            "--etcd-healthcheck-timeout=9s",
            "--logging-format=text",
            "--audit-log-format=json",
            "--event-ttl=2h",
            "--default-not-ready-toleration-seconds=30",
        ] {
            assert!(read(flag).is_ok(), "{flag}");
        }
        for flag in [
            "--endpoint-reconciler-type=none",
            "--storage-media-type=application/vnd.kubernetes.protobuf",
            "--service-account-lookup=false",
            "--enable-garbage-collector=false",
            "--audit-log-format=legacy",
            "--egress-selector-config-file=x",
            "--emulated-version=1.35",
            "--nonsense",
        ] {
            assert!(read(flag).is_err(), "{flag}");
        }
    }

    #[test]
    fn a_range_of_ports_has_a_first_and_a_last() {
        assert_eq!(ports("30000-30010"), Ok(30000..=30010));
        for wrong in ["", "30000", "30010-30000", "a-b", "1-70000"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}

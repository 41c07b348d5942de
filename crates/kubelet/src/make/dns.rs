//! `/etc/resolv.conf` and `/etc/hosts` of a pod.

use crate::config::Config;
use ferrokube_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;
use std::fmt::Write;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// A resolv.conf, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolv {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The last `options` line.
    pub options: Vec<String>,
}

impl Resolv {
    /// Reads a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut resolv = Resolv::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolv.servers.extend(words.next()),
                Some("search") => resolv.searches = words.collect(),
                Some("options") => resolv.options = words.collect(),
                _ => {}
            }
        }
        resolv
    }
}

/// The pod's DNS configuration by its `dnsPolicy` and `dnsConfig`.
pub fn dns(pod: &Pod, config: &Config, host: &Resolv) -> DnsConfig {
    let Some(spec) = &pod.spec else { return DnsConfig::default() };
    let host_network = spec.host_network.unwrap_or(false);
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !host_network && !config.cluster_dns.is_empty(),
        "ClusterFirstWithHostNet" => !config.cluster_dns.is_empty(),
        _ => false,
    };
    let mut made = if spec.dns_policy.as_deref() == Some("None") {
        DnsConfig::default()
    } else if cluster {
        let (namespace, domain) = (pod.metadata.namespace.as_deref().unwrap_or("default"), &config.cluster_domain);
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        DnsConfig {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: own.into_iter().chain(host.searches.iter().cloned()).collect(),
            options: vec!["ndots:5".into()],
        }
    } else {
        DnsConfig { servers: host.servers.clone(), searches: host.searches.clone(), options: host.options.clone() }
    };
    if let Some(own) = &spec.dns_config {
        made.servers.extend(own.nameservers.iter().flatten().cloned());
        made.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            made.options.retain(|o| o.split(':').next() != Some(&name));
            made.options.push(option.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    let mut seen = std::collections::HashSet::new();
    made.servers.retain(|s| seen.insert(s.clone()));
    seen.clear();
    made.searches.retain(|s| seen.insert(s.clone()));
    made.servers.truncate(MAX_SERVERS);
    made.searches.truncate(MAX_SEARCHES);
    made
}

/// The host name inside the pod (truncated to 63 characters) and its domain.
pub fn hostname(pod: &Pod, config: &Config) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    if let Some(given) = spec.and_then(|s| s.hostname_override.clone()) {
        return (given, None);
    }
    let name = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty()).or(pod.metadata.name.clone()).unwrap_or_default();
    let host = name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = spec.and_then(|s| s.subdomain.clone()).filter(|s| !s.is_empty());
    let domain = subdomain.map(|s| format!("{s}.{namespace}.svc.{}", config.cluster_domain));
    (host, domain)
}

/// The pod's `/etc/hosts`.
pub fn hosts_file(pod: &Pod, ips: &[String], config: &Config) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let (host, domain) = hostname(pod, config);
    for ip in ips {
        let line = match &domain {
            Some(domain) => format!("{ip}\t{host}.{domain}\t{host}\n"),
            None => format!("{ip}\t{host}\n"),
        };
        text.push_str(&line);
    }
    text + &aliases(pod)
}

/// The lines of `hostAliases`.
pub fn aliases(pod: &Pod) -> String {
    let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.as_ref());
    let mut text = String::new();
    for alias in aliases.into_iter().flatten() {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
        if text.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        writeln!(text, "{}\t{names}", alias.ip).expect("writing to a string");
    }
    text
}

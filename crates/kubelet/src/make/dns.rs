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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn host() -> Resolv {
        Resolv::parse("# comment\nnameserver 192.0.2.53\nsearch old\nsearch lan.example\noptions timeout:1\n")
    }

    #[test]
    fn the_policy_says_who_is_asked() {
        let cluster = ["10.96.0.10"];
        let own = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan.example"];
        let of_host = (vec!["192.0.2.53"], vec!["lan.example"], vec!["timeout:1"]);
        let of_cluster = (cluster.to_vec(), own.to_vec(), vec!["ndots:5"]);
        let cases = [
            (json!({"dnsPolicy": "ClusterFirst"}), of_cluster.clone()),
            (json!({"dnsPolicy": "Default"}), of_host.clone()),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), of_host),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), of_cluster),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                (vec!["1.1.1.1"], vec!["a"], vec!["ndots:2", "edns0"]),
            ),
            (
                json!({"dnsConfig": {"nameservers": ["10.96.0.10", "9.9.9.9"], "options": [{"name": "ndots", "value": "1"}]}}),
                (vec!["10.96.0.10", "9.9.9.9"], own.to_vec(), vec!["ndots:1"]),
            ),
        ];
        for (spec, (servers, searches, options)) in cases {
            let made = dns(&pod(spec.clone()), &config(), &host());
            assert_eq!((made.servers, made.searches, made.options), (owned(servers), owned(searches), owned(options)), "{spec}");
        }
    }

    fn owned(list: Vec<&str>) -> Vec<String> {
        list.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn host_names_are_cut_and_get_a_domain_with_a_subdomain() {
        let long = pod(json!({"hostname": format!("{}-tail", "h".repeat(62))}));
        assert_eq!(hostname(&long, &config()), ("h".repeat(62), None), "63 characters, none of them a dash at the end");
        let named = pod(json!({"hostname": "web-0", "subdomain": "web"}));
        assert_eq!(hostname(&named, &config()), ("web-0".into(), Some("web.ns.svc.cluster.local".into())));
        assert_eq!(hostname(&pod(json!({"hostnameOverride": "any", "subdomain": "web"})), &config()), ("any".into(), None));
    }

    #[test]
    fn the_hosts_file_has_the_pod_and_its_aliases() {
        let spec =
            json!({"hostname": "web-0", "subdomain": "web", "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a.example", "b.example"]}]});
        let text = hosts_file(&pod(spec), &["10.1.0.5".to_owned()], &config());
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.1.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.9\ta.example\tb.example\n"), "{text}");
    }
}

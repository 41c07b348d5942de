//! `/etc/resolv.conf`, `/etc/hostname` and `/etc/hosts` of a pod.

use std::fmt::Write as _;
use std::io::Result;
use std::path::Path;

use ferrokube_cri::v1::DnsConfig;

/// Writes the pod's files into a directory. Without a DNS config the pod gets the node's.
pub fn write(directory: &Path, hostname: &str, dns: Option<&DnsConfig>) -> Result<()> {
    std::fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    let resolv_conf = match dns.map(resolv_conf).filter(|text| !text.is_empty()) {
        Some(text) => text.into_bytes(),
        None => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
    };
    std::fs::write(directory.join("resolv.conf"), resolv_conf)?;
    let hosts = std::fs::read("/etc/hosts").unwrap_or_else(|_| b"127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_vec());
    std::fs::write(directory.join("hosts"), hosts)
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_a_line_per_server_and_one_for_the_rest() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let dns = DnsConfig { servers: list(&["10.0.0.10", "10.0.0.11"]), searches: list(&["a.b", "b"]), options: list(&["ndots:5"]) };
        assert_eq!(resolv_conf(&dns), "search a.b b\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n");
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}

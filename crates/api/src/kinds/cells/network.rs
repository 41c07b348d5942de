//! Services, endpoints, ingresses and the rest of networking.

use super::*;

pub fn service(o: &Value, c: &HookContext) -> Cells {
    let empty = Value::Null;
    let spec = o.get("spec").unwrap_or(&empty);
    let ip = list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or(NONE);
    let ports: Vec<String> = list(spec, "ports").iter().map(port).collect();
    cells![name(o), text(spec, "type"), ip, external_ip(o, spec), or(&ports.join(","), NONE), age(o, c), labels(spec.get("selector")),]
}

fn port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port").unwrap_or_default(), text(port, "protocol"));
    match int(port, "nodePort").unwrap_or_default() {
        n if n > 0 => format!("{number}:{n}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

/// Addresses or names of the points where a load balancer listens, sorted.
fn balancer(o: &Value) -> Vec<String> {
    let points = list_at(o, &["status", "loadBalancer", "ingress"]);
    let mut all: Vec<String> = points.iter().map(|i| or(text(i, "ip"), text(i, "hostname")).to_owned()).filter(|s| !s.is_empty()).collect();
    all.sort();
    all.dedup();
    all
}

fn external_ip(o: &Value, spec: &Value) -> String {
    let own = texts(spec, "externalIPs").map(str::to_owned);
    let (mut all, nothing) = match text(spec, "type") {
        "ClusterIP" | "NodePort" => (Vec::new(), NONE),
        "LoadBalancer" => (balancer(o), "<pending>"),
        "ExternalName" => return text(spec, "externalName").to_owned(),
        _ => return UNKNOWN.to_owned(),
    };
    all.extend(own);
    or(&all.join(","), nothing).to_owned()
}

pub fn endpoints(o: &Value, c: &HookContext) -> Cells {
    let mut all = Vec::new();
    for subset in list(o, "subsets") {
        let ips = || list(subset, "addresses").iter().map(|a| text(a, "ip"));
        if list(subset, "ports").is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in list(subset, "ports") {
            let number = int(port, "port").unwrap_or_default();
            all.extend(ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }));
        }
    }
    let nothing = if list(o, "subsets").is_empty() { NONE } else { "" };
    cells![name(o), some_of(&all, 3, nothing), age(o, c)]
}

pub fn endpoint_slice(o: &Value, c: &HookContext) -> Cells {
    let port = |p: &Value| int(p, "port").map_or_else(|| or(text(p, "name"), "*").to_owned(), |n| n.to_string());
    let ports: Vec<String> = list(o, "ports").iter().map(port).collect();
    let addresses = list(o, "endpoints").iter().flat_map(|e| texts(e, "addresses"));
    let addresses: Vec<String> = addresses.map(str::to_owned).collect();
    cells![name(o), text(o, "addressType"), some_of(&ports, 3, UNSET), some_of(&addresses, 3, UNSET), age(o, c)]
}

pub fn ingress(o: &Value, c: &HookContext) -> Cells {
    let rules = list_at(o, &["spec", "rules"]);
    let named: Vec<&str> = rules.iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
    let hosts = match named.len() {
        0 => "*".to_owned(),
        1..=3 => named.join(","),
        _ => format!("{} + {} more...", named[..3].join(","), rules.len() - 3),
    };
    let ports = if list_at(o, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    let class = or(text_at(o, &["spec", "ingressClassName"]), NONE);
    cells![name(o), class, hosts, balancer(o).join(","), ports, age(o, c)]
}

pub fn ingress_class(o: &Value, c: &HookContext) -> Cells {
    let parameters = at(o, &["spec", "parameters"]).map_or(NONE.to_owned(), |p| {
        let group = get(p, "apiGroup").map_or(String::new(), |g| format!(".{}", shown(g)));
        format!("{}{group}/{}", text(p, "kind"), text(p, "name"))
    });
    cells![name(o), text_at(o, &["spec", "controller"]), parameters, age(o, c)]
}

pub fn network_policy(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), selector(at(o, &["spec", "podSelector"])), age(o, c)]
}

pub fn ip_address(o: &Value, _: &HookContext) -> Cells {
    let parent = at(o, &["spec", "parentRef"]).map_or(NONE.to_owned(), |p| {
        let group = match text(p, "group") {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let namespace = match text(p, "namespace") {
            "" => String::new(),
            namespace => format!("/{namespace}"),
        };
        format!("{}{}{namespace}/{}", text(p, "resource").to_lowercase(), group.to_lowercase(), text(p, "name"))
    });
    cells![name(o), parent]
}

pub fn service_cidr(o: &Value, c: &HookContext) -> Cells {
    let cidrs: Vec<&str> = list_at(o, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    cells![name(o), cidrs.join(","), age(o, c)]
}

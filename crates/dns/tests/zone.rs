//! Questions and answers of the Kubernetes DNS specification, as a table.

use ferrokube_client::ObjectKey;
use ferrokube_dns::records::{Records, ServiceFacts};
use ferrokube_dns::zone::{Outcome, Zone};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

fn add(records: &mut Records, name: &str, spec: Value, endpoints: Value) {
    let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 9, "protocol": "UDP"}]);
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": ports});
    let service = serde_json::from_value(service).expect("a service");
    let slice = serde_json::from_value(slice).expect("a slice");
    records.set_service(ObjectKey::new("default", name), Some(ServiceFacts::new(&service, &[slice])));
}

fn records() -> Records {
    let mut out = Records::default();
    out.set_namespace("default", true);
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "UDP"}]);
    add(&mut out, "web", json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00::20"], "ports": ports}), json!([]));
    let ready =
        |address: &str, hostname: Option<&str>| json!({"addresses": [address], "hostname": hostname, "conditions": {"ready": true}});
    let db = json!([
        ready("10.244.0.5", Some("db-0")),
        ready("10.244.0.6", None),
        {"addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    add(&mut out, "db", json!({"clusterIP": "None", "ports": ports}), db);
    add(&mut out, "empty", json!({"clusterIP": "None"}), json!([]));
    add(&mut out, "far", json!({"type": "ExternalName", "externalName": "example.org"}), json!([]));
    add(&mut out, "alias", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}), json!([]));
    add(&mut out, "ring", json!({"type": "ExternalName", "externalName": "ring.default.svc.cluster.local"}), json!([]));
    out
}

fn zone() -> Zone {
    Zone {
        origin: Name::from_ascii("cluster.local.").expect("a name"),
        ttl: 5,
        server_addresses: vec!["10.96.0.10".parse().expect("an address")],
        reverse_networks: vec![("10.96.0.0".parse().expect("an address"), 12)],
    }
}

/// The outcome in one line: answers, then additionals.
fn ask(records: &Records, name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(format!("{name}.")).expect("a name");
    let show = |records: &[hickory_proto::rr::Record]| {
        records.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect::<Vec<_>>().join(", ")
    };
    match zone().lookup(records, &name, kind) {
        Outcome::Found(answer) if answer.additionals.is_empty() => show(&answer.answers),
        Outcome::Found(answer) => format!("{} + {}", show(&answer.answers), show(&answer.additionals)),
        Outcome::Elsewhere(alias, target) => format!("{} -> {target}", show(&[*alias])),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_kind_of_name_has_the_answer_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
    let records = records();
    let table = [
        ("cluster.local", A, "NoData"),
        ("cluster.local", NS, "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local", A, "A 10.96.0.10"),
        ("dns-version.cluster.local", TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local", A, "NoData"),
        ("svc.cluster.local", A, "NoData"),
        ("default.svc.cluster.local", A, "NoData"),
        ("other.svc.cluster.local", A, "NxDomain"),
        ("nothing.cluster.local", A, "NxDomain"),
        // A service with a cluster address.
        ("web.default.svc.cluster.local", A, "A 10.96.0.20"),
        ("WEB.Default.SVC.cluster.LOCAL", A, "A 10.96.0.20"),
        ("web.default.svc.cluster.local", AAAA, "AAAA fd00::20"),
        ("web.default.svc.cluster.local", TXT, "NoData"),
        ("web.other.svc.cluster.local", A, "NxDomain"),
        ("no.default.svc.cluster.local", A, "NxDomain"),
        ("x.web.default.svc.cluster.local", A, "NxDomain"),
        ("_http._tcp.web.default.svc.cluster.local", SRV, "SRV 0 100 80 web.default.svc.cluster.local. + A 10.96.0.20, AAAA fd00::20"),
        ("_http._tcp.web.default.svc.cluster.local", A, "NoData"),
        ("_tcp.web.default.svc.cluster.local", A, "NoData"),
        ("_udp.web.default.svc.cluster.local", A, "NxDomain"),
        ("_no._tcp.web.default.svc.cluster.local", SRV, "NxDomain"),
        ("_http._udp.web.default.svc.cluster.local", SRV, "NxDomain"),
        ("http.tcp.web.default.svc.cluster.local", SRV, "NxDomain"),
        ("20.0.96.10.in-addr.arpa", PTR, "PTR web.default.svc.cluster.local."),
        ("20.0.96.10.in-addr.arpa", A, "NoData"),
        ("0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", PTR, "PTR web.default.svc.cluster.local."),
        // A headless one.
        ("db.default.svc.cluster.local", A, "A 10.244.0.5, A 10.244.0.6"),
        ("db.default.svc.cluster.local", AAAA, "NoData"),
        ("db-0.db.default.svc.cluster.local", A, "A 10.244.0.5"),
        ("10-244-0-6.db.default.svc.cluster.local", A, "A 10.244.0.6"),
        ("db-2.db.default.svc.cluster.local", A, "NxDomain"),
        (
            "_http._tcp.db.default.svc.cluster.local",
            SRV,
            "SRV 0 50 8080 10-244-0-6.db.default.svc.cluster.local., SRV 0 50 8080 db-0.db.default.svc.cluster.local. + A 10.244.0.6, A 10.244.0.5",
        ),
        ("5.0.244.10.in-addr.arpa", PTR, "PTR db-0.db.default.svc.cluster.local."),
        ("6.0.244.10.in-addr.arpa", PTR, "PTR 10-244-0-6.db.default.svc.cluster.local."),
        ("empty.default.svc.cluster.local", A, "NxDomain"),
        // Other names.
        ("far.default.svc.cluster.local", CNAME, "CNAME example.org."),
        ("far.default.svc.cluster.local", A, "CNAME example.org. -> example.org."),
        ("alias.default.svc.cluster.local", A, "CNAME web.default.svc.cluster.local., A 10.96.0.20"),
        ("ring.default.svc.cluster.local", A, "CNAME ring.default.svc.cluster.local."),
        // Pods.
        ("10-244-0-9.default.pod.cluster.local", A, "A 10.244.0.9"),
        ("10-244-0-9.default.pod.cluster.local", AAAA, "NoData"),
        ("fd00--9.default.pod.cluster.local", AAAA, "AAAA fd00::9"),
        ("10-244-0-900.default.pod.cluster.local", A, "NxDomain"),
        ("10-244-0-9.other.pod.cluster.local", A, "NxDomain"),
        // Not ours, and ours without a service.
        ("example.org", A, "NotOurs"),
        ("1.2.3.4.in-addr.arpa", PTR, "NotOurs"),
        ("99.0.96.10.in-addr.arpa", PTR, "NxDomain"),
        ("96.10.in-addr.arpa", PTR, "NotOurs"),
    ];
    for (name, kind, want) in table {
        assert_eq!(ask(&records, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn records_follow_changes_in_both_directions() {
    let mut records = records();
    add(&mut records, "web", json!({"clusterIP": "10.96.0.21", "ports": []}), json!([]));
    assert_eq!(ask(&records, "web.default.svc.cluster.local", RecordType::A), "A 10.96.0.21");
    assert_eq!(ask(&records, "20.0.96.10.in-addr.arpa", RecordType::PTR), "NxDomain");
    records.set_service(ObjectKey::new("default", "web"), None);
    assert_eq!(ask(&records, "web.default.svc.cluster.local", RecordType::A), "NxDomain");
    assert_eq!(ask(&records, "21.0.96.10.in-addr.arpa", RecordType::PTR), "NxDomain");
}

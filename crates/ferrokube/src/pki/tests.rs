//! What `ensure` promises: stable, private, renewed when it must be.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn config() -> PkiConfig {
    PkiConfig {
        cluster_name: "kubernetes".into(),
        dns_domain: "cluster.local".into(),
        node_name: "node-1".into(),
        service_ip: "10.96.0.1".parse().expect("an address"),
        advertise: vec!["192.0.2.7".parse().expect("an address")],
        extra_sans: vec![],
        server: "https://127.0.0.1:6443".into(),
    }
}

fn temp() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("ferrokube-pki-{}", uuid::Uuid::new_v4()));
    dir.join("pki")
}

#[test]
fn a_second_start_finds_everything_as_it_was() {
    let dir = temp();
    let first = ensure(&dir, &config()).expect("first start");
    let node = first.node("node-1", &["192.0.2.7".parse().expect("an address")]).expect("node");
    let started = std::time::Instant::now();
    let second = ensure(&dir, &config()).expect("second start");
    println!("second start took {:?}", started.elapsed());
    assert_eq!(first.ca(), second.ca());
    assert_eq!(first.apiserver.certificate, second.apiserver.certificate);
    assert_eq!(first.service_account_key, second.service_account_key);
    let again = second.node("node-1", &["192.0.2.7".parse().expect("an address")]).expect("node");
    assert_eq!(node.serving.certificate, again.serving.certificate);
    for file in ["ca.key", "sa.key", "apiserver.key", "../admin.conf"] {
        let mode = std::fs::metadata(dir.join(file)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    std::fs::remove_dir_all(dir.parent().expect("has a parent")).expect("clean up");
}

#[test]
fn a_new_address_renews_the_server_certificate_only() {
    let dir = temp();
    let first = ensure(&dir, &config()).expect("first start");
    let mut moved = config();
    moved.advertise.push("192.0.2.8".parse().expect("an address"));
    let second = ensure(&dir, &moved).expect("second start");
    assert_ne!(first.apiserver.certificate, second.apiserver.certificate);
    assert_eq!(first.admin.certificate, second.admin.certificate);
    assert_eq!(first.ca(), second.ca());
    std::fs::remove_dir_all(dir.parent().expect("has a parent")).expect("clean up");
}

#[test]
fn a_lost_ca_key_is_an_error_and_not_a_new_ca() {
    let dir = temp();
    ensure(&dir, &config()).expect("first start");
    std::fs::remove_file(dir.join("ca.key")).expect("remove");
    let error = ensure(&dir, &config()).expect_err("must not start");
    assert!(error.to_string().contains("its key is missing"), "{error}");
    std::fs::remove_dir_all(dir.parent().expect("has a parent")).expect("clean up");
}

#[test]
fn clients_and_servers_trust_each_other() {
    let dir = temp();
    let pki = ensure(&dir, &config()).expect("start");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pki.ca().as_bytes()).expect("pem")).expect("a CA");
    let roots = std::sync::Arc::new(roots);
    let server = rustls::pki_types::CertificateDer::from_pem_slice(pki.apiserver.certificate.as_bytes()).expect("pem");
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().expect("verifier");
    use rustls::client::danger::ServerCertVerifier;
    for name in ["kubernetes.default.svc.cluster.local", "127.0.0.1", "10.96.0.1", "::1", "192.0.2.7", "node-1", "localhost"] {
        let name = rustls::pki_types::ServerName::try_from(name).expect("a name");
        verifier.verify_server_cert(&server, &[], &name, &[], rustls::pki_types::UnixTime::now()).expect("trusted");
    }
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build().expect("verifier");
    let client = rustls::pki_types::CertificateDer::from_pem_slice(pki.admin.certificate.as_bytes()).expect("pem");
    verifier.verify_client_cert(&client, &[], rustls::pki_types::UnixTime::now()).expect("trusted");
    std::fs::remove_dir_all(dir.parent().expect("has a parent")).expect("clean up");
}

//! Whom API servers believe, as ConfigMap `kube-system/extension-apiserver-authentication` tells it to the servers behind them.
//!
//! Several API servers write it, perhaps with different CAs while these are being exchanged: each adds its own and takes away
//! only what has expired. Source: `clusterauthenticationtrust`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fmt::Write;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What stands there together with what is wanted.
pub(super) fn join(existing: &mut Value, wanted: &Value) -> bool {
    join_at(existing, wanted, jiff::Timestamp::now().as_second())
}

/// `now` in seconds since the epoch.
fn join_at(existing: &mut Value, wanted: &Value, now: i64) -> bool {
    let mut changed = false;
    for (key, value) in wanted["data"].as_object().into_iter().flatten() {
        let (old, new) = (existing["data"][key].as_str().unwrap_or_default(), value.as_str().unwrap_or_default());
        let joined = if key.ends_with("-ca-file") { certificates(old, new, now) } else { names(old, new) };
        if joined != old {
            existing["data"][key] = json!(joined);
            changed = true;
        }
    }
    changed
}

/// Certificates of both bundles, each once, without those that have expired.
fn certificates(old: &str, new: &str, now: i64) -> String {
    let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect::<Vec<_>>();
    let holds = |der: &CertificateDer<'_>| X509Certificate::from_der(der).is_ok_and(|(_, c)| c.validity().not_after.timestamp() >= now);
    let known = read(old);
    let mut all: Vec<CertificateDer<'_>> = Vec::new();
    for der in known.iter().cloned().chain(read(new)).filter(holds) {
        if !all.contains(&der) {
            all.push(der);
        }
    }
    if all == known {
        return old.to_owned();
    }
    all.iter().fold(String::new(), |mut pem, der| {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    })
}

/// Both lists, in JSON, each name once. What is no list is replaced.
fn names(old: &str, new: &str) -> String {
    let read = |text: &str| serde_json::from_str::<Vec<String>>(text).ok();
    let (Some(mut all), Some(more)) = (read(old), read(new)) else { return new.to_owned() };
    let before = all.len();
    for name in more {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    if all.len() == before { old.to_owned() } else { json!(all).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pem(name: &str, until: i32) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem()
    }

    fn map(ca: &str, names: &[&str]) -> Value {
        json!({"data": {"client-ca-file": ca, "requestheader-allowed-names": json!(names).to_string()}})
    }

    #[test]
    fn servers_add_their_cas_and_names_and_take_away_what_has_expired() {
        let (old, mine, expired) = (pem("old", 2090), pem("mine", 2090), pem("expired", 2020));
        let now = 1_800_000_000;
        let mut there = map(&format!("{expired}{old}"), &["a"]);
        assert!(join_at(&mut there, &map(&mine, &["a", "b"]), now));
        let read = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().expect("PEM");
        assert_eq!(read(there["data"]["client-ca-file"].as_str().expect("text")), read(&format!("{old}{mine}")));
        assert_eq!(there["data"]["requestheader-allowed-names"], r#"["a","b"]"#);
        // Another server, which has the old one only, has nothing to add.
        assert!(!join_at(&mut there, &map(&old, &["b"]), now));
        // What stands as somebody wrote it is let alone.
        let mut foreign = map(&format!("# ours\n{old}"), &[]);
        assert!(!join_at(&mut foreign, &map(&old, &[]), now));
    }
}

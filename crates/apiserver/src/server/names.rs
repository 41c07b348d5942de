//! Which certificate a client is shown, by the name that it asks for (SNI).
//!
//! What a flag says of a certificate's names counts more than what stands in certificates, an earlier one more than a later one, and a name
//! more than a pattern. Who asks for nothing, or for a name that nobody has, sees the usual one. Source: `dynamiccertificates`.
//! Upstream also looks at the address of the connection when no name is asked for; the TLS library here does not tell it.

use super::config::{NamedCertificate, Tls};
use super::tls::{TlsError, read};
use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

type Names = HashMap<String, Arc<CertifiedKey>>;

/// The certificates of a server. All of them can be replaced while it runs.
#[derive(Debug)]
pub struct Certificates {
    usual: ArcSwap<CertifiedKey>,
    named: ArcSwap<Names>,
}

impl Certificates {
    /// The usual one, and those for names.
    pub fn new(usual: &Tls, named: &[NamedCertificate]) -> Result<Self, TlsError> {
        Ok(Certificates { usual: ArcSwap::from(read(usual)?), named: ArcSwap::from_pointee(by_name(named)?) })
    }

    /// Another usual one.
    pub(super) fn replace(&self, usual: &Tls) -> Result<(), TlsError> {
        self.usual.store(read(usual)?);
        Ok(())
    }

    /// Others for names.
    pub(super) fn replace_named(&self, named: &[NamedCertificate]) -> Result<(), TlsError> {
        self.named.store(Arc::new(by_name(named)?));
        Ok(())
    }

    fn find(&self, asked: Option<&str>) -> Arc<CertifiedKey> {
        let named = self.named.load();
        let found = asked.filter(|_| !named.is_empty()).and_then(|name| lookup(&named, &name.to_ascii_lowercase()));
        found.unwrap_or_else(|| self.usual.load_full())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()))
    }
}

fn lookup(named: &Names, name: &str) -> Option<Arc<CertifiedKey>> {
    let name = name.trim_end_matches('.');
    let labels: Vec<&str> = name.split('.').collect();
    let pattern = |stars: usize| (0..labels.len()).map(|at| if at < stars { "*" } else { labels[at] }).collect::<Vec<_>>().join(".");
    (0..=labels.len()).find_map(|stars| named.get(&pattern(stars)).cloned())
}

fn by_name(named: &[NamedCertificate]) -> Result<Names, TlsError> {
    let read = named.iter().map(|certificate| Ok((read(&certificate.tls)?, &certificate.names))).collect::<Result<Vec<_>, TlsError>>()?;
    let said = read.iter().flat_map(|(key, names)| names.iter().map(move |name| (name.clone(), key)));
    let own =
        read.iter().filter(|(_, names)| names.is_empty()).flat_map(|(key, _)| own_names(key).into_iter().map(move |name| (name, key)));
    let mut all = Names::new();
    for (name, key) in said.chain(own) {
        all.entry(name.to_ascii_lowercase()).or_insert_with(|| key.clone());
    }
    Ok(all)
}

/// The names that a certificate is for: its common name and those of the host.
fn own_names(key: &CertifiedKey) -> Vec<String> {
    let Some(Ok((_, cert))) = key.cert.first().map(|der| X509Certificate::from_der(der)) else { return Vec::new() };
    let common = cert.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned));
    let mut names: Vec<String> = common.filter(|name| !name.is_empty()).collect();
    if let Ok(Some(alternatives)) = cert.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::generate_simple_self_signed;

    fn tls(names: &[&str]) -> Tls {
        let made = generate_simple_self_signed(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("names");
        Tls { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn named(tls: &Tls, names: &[&str]) -> NamedCertificate {
        NamedCertificate { tls: tls.clone(), names: names.iter().map(|n| (*n).to_owned()).collect() }
    }

    #[test]
    fn each_name_gets_its_certificate_and_everybody_else_the_usual_one() {
        let (usual, said, own, wild) = (tls(&["usual"]), tls(&["whatever"]), tls(&["own.com", "api.foo.com"]), tls(&["*.bar.com"]));
        let all = [named(&own, &[]), named(&said, &["*.foo.com", "API.foo.com"]), named(&wild, &[]), named(&usual, &["late.bar.com"])];
        let certificates = Certificates::new(&usual, &all).expect("pairs");
        let shown = |asked: Option<&str>| certificates.find(asked).cert[0].clone();
        let is = |tls: &Tls| read(tls).expect("a pair").cert[0].clone();
        for (asked, expected) in [
            (None, &usual),
            (Some("nobody.com"), &usual),
            (Some("own.com"), &own),
            (Some("OWN.com."), &own),
            (Some("x.foo.com"), &said),
            // What is said counts more than what stands in a certificate.
            (Some("api.foo.com"), &said),
            (Some("x.bar.com"), &wild),
            (Some("late.bar.com"), &usual),
            (Some("x.y.bar.com"), &usual),
        ] {
            assert_eq!(shown(asked), is(expected), "{asked:?}");
        }
        let renewed = tls(&["own.com"]);
        certificates.replace_named(&[named(&renewed, &[])]).expect("a pair");
        assert_eq!(certificates.find(Some("own.com")).cert[0], is(&renewed));
        certificates.replace_named(&[named(&Tls::default(), &["own.com"])]).expect_err("no PEM");
        assert_eq!(certificates.find(Some("own.com")).cert[0], is(&renewed), "what cannot be used changes nothing");
    }
}

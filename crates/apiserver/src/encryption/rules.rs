//! Which providers a key of the store has: by the resource whose objects stand below its prefix.

use super::config::{Configuration, Provider as Written};
use super::kms::KmsProvider;
use super::local::Local;
use super::{EncryptionError, PREFIX, SealError};
use crate::registry::Registry;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

enum Provider {
    Identity,
    Local(Local),
    Kms(Arc<KmsProvider>),
}

/// The providers of some resources: the first writes, all read.
struct Transformer {
    providers: Vec<Provider>,
}

struct Entry {
    resources: Vec<String>,
    transformer: Arc<Transformer>,
}

/// A configuration, ready for use.
pub struct Rules {
    entries: Vec<Entry>,
    /// By the path below `/registry/` that the objects of a built-in resource share.
    builtin: HashMap<Box<[u8]>, Option<Arc<Transformer>>>,
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (all of core), `*.*`.
fn matches(pattern: &str, group: &str, resource: &str) -> bool {
    let (name, of) = pattern.split_once('.').unwrap_or((pattern, ""));
    pattern == "*.*" || (of == group && (name == "*" || name == resource))
}

async fn provider(written: &Written) -> Result<Provider, EncryptionError> {
    let local = |made: Result<Local, String>| made.map(Provider::Local).map_err(EncryptionError::Config);
    match written {
        Written { aesgcm: Some(keys), .. } => local(Local::aesgcm(keys)),
        Written { aescbc: Some(keys), .. } => local(Local::aescbc(keys)),
        Written { secretbox: Some(keys), .. } => local(Local::secretbox(keys)),
        Written { kms: Some(kms), .. } => Ok(Provider::Kms(KmsProvider::start(kms).await?)),
        _ => Ok(Provider::Identity),
    }
}

impl Rules {
    /// Reads a file. KMS plug-ins must answer.
    pub async fn load(path: &Path, registry: &Registry) -> Result<Self, EncryptionError> {
        let text = std::fs::read_to_string(path).map_err(|source| EncryptionError::Read { path: path.to_owned(), source })?;
        let configuration = Configuration::parse(&text)?;
        let mut entries = Vec::new();
        for entry in &configuration.resources {
            let mut providers = Vec::new();
            for written in &entry.providers {
                providers.push(provider(written).await?);
            }
            entries.push(Entry { resources: entry.resources.clone(), transformer: Arc::new(Transformer { providers }) });
        }
        let mut rules = Rules { entries, builtin: HashMap::new() };
        let table = registry.table();
        let rows = table.entries().iter().filter(|e| e.custom.is_none() && e.kind.stored_as.is_none());
        for (prefix, row) in rows.filter_map(|e| Some((e.kind.storage_prefix.as_deref()?, &e.kind))) {
            let found = rules.find(&row.group, &row.resource);
            rules.builtin.insert(prefix.as_bytes().into(), found);
        }
        Ok(rules)
    }

    /// The first entry that names the resource.
    fn find(&self, group: &str, resource: &str) -> Option<Arc<Transformer>> {
        let entry = self.entries.iter().find(|e| e.resources.iter().any(|r| matches(r, group, resource)));
        entry.map(|e| e.transformer.clone())
    }

    fn transformer(&self, key: &[u8]) -> Option<Arc<Transformer>> {
        let path = key.strip_prefix(b"/registry/")?;
        let mut ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        let (first, second) = (ends.next()?, ends.next());
        let known = |end: usize| self.builtin.get(&path[..end]);
        if let Some(found) = second.and_then(known).or_else(|| known(first)) {
            return found.clone();
        }
        // Objects of a CustomResourceDefinition stand below their group and resource.
        let text = |part: &'_ [u8]| String::from_utf8_lossy(part).into_owned();
        self.find(&text(&path[..first]), &text(&path[first + 1..second?]))
    }

    /// Whether a key's values are encrypted.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        self.transformer(key).is_some()
    }

    pub(super) fn seal(&self, key: &[u8], plain: Bytes) -> Result<Bytes, SealError> {
        let Some(transformer) = self.transformer(key) else { return Ok(plain) };
        match transformer.providers.first() {
            None | Some(Provider::Identity) => Ok(plain),
            Some(Provider::Local(local)) => Ok(local.seal(key, &plain)?.into()),
            Some(Provider::Kms(kms)) => Ok(kms.seal(key, &plain)?.into()),
        }
    }

    /// The plaintext, or `None` when the value is plain already.
    pub(super) async fn open(&self, key: &[u8], value: &Bytes) -> Result<Option<Bytes>, SealError> {
        let sealed = value.starts_with(PREFIX);
        let Some(transformer) = self.transformer(key) else {
            return if sealed { Err(SealError::Encrypted) } else { Ok(None) };
        };
        for provider in &transformer.providers {
            match provider {
                Provider::Identity if !sealed => return Ok(None),
                Provider::Local(local) if local.knows(value) => return Ok(Some(local.open(key, value)?.into())),
                Provider::Kms(kms) if kms.knows(value) => return Ok(Some(kms.open(key, value).await?.into())),
                _ => {}
            }
        }
        Err(if sealed { SealError::NoProvider } else { SealError::NoKey("configured") })
    }

    pub(super) fn is_stale(&self, key: &[u8], value: &[u8]) -> bool {
        let Some(transformer) = self.transformer(key) else { return false };
        match transformer.providers.first() {
            None | Some(Provider::Identity) => value.starts_with(PREFIX),
            Some(Provider::Local(local)) => !local.is_current(value),
            Some(Provider::Kms(kms)) => !kms.is_current(value),
        }
    }

    pub(super) fn has_kms(&self) -> bool {
        self.entries.iter().flat_map(|e| &e.transformer.providers).any(|p| matches!(p, Provider::Kms(_)))
    }

    pub(super) fn unhealthy(&self) -> Option<String> {
        let all = self.entries.iter().flat_map(|e| &e.transformer.providers);
        all.filter_map(|p| if let Provider::Kms(kms) = p { kms.trouble() } else { None }).next()
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rules({})", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    const KEY: &[u8] = b"/registry/secrets/default/s";

    fn key(byte: u8, length: usize) -> String {
        STANDARD.encode(vec![byte; length])
    }

    async fn rules(text: &str) -> Result<Rules, EncryptionError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n";
        std::fs::write(file.path(), format!("{head}{text}")).expect("written");
        Rules::load(file.path(), &Registry::serving(ferrokube_api::kinds::builtin().iter())).await
    }

    fn one(resources: &str, providers: &[String]) -> String {
        format!("- resources: [{resources}]\n  providers: [{}]\n", providers.join(", "))
    }

    fn provider(kind: &str, keys: &[(&str, u8, usize)]) -> String {
        let keys: Vec<String> = keys.iter().map(|(name, byte, len)| format!("{{name: {name}, secret: {}}}", key(*byte, *len))).collect();
        format!("{{{kind}: {{keys: [{}]}}}}", keys.join(", "))
    }

    #[tokio::test]
    async fn every_provider_reads_what_it_wrote_under_upstreams_prefix_and_nothing_else() {
        let cases = [("aesgcm", 16), ("aesgcm", 24), ("aesgcm", 32), ("aescbc", 16), ("aescbc", 24), ("aescbc", 32), ("secretbox", 32)];
        for (kind, length) in cases {
            let rules = rules(&one("secrets", &[provider(kind, &[("k1", 7, length)])])).await.expect("a configuration");
            let sealed = rules.seal(KEY, Bytes::from_static(b"plain text")).expect("sealed");
            assert!(sealed.starts_with(format!("k8s:enc:{kind}:v1:k1:").as_bytes()), "{kind}");
            assert!(memchr::memmem::find(&sealed, b"plain").is_none());
            assert_ne!(sealed, rules.seal(KEY, Bytes::from_static(b"plain text")).expect("sealed"), "no nonce twice");
            assert_eq!(rules.open(KEY, &sealed).await.expect("opened").as_deref(), Some(&b"plain text"[..]));
            let mut forged = sealed.to_vec();
            *forged.last_mut().expect("not empty") ^= 1;
            let opened = rules.open(KEY, &forged.into()).await;
            assert!(kind == "aescbc" || opened.is_err(), "{kind}: a changed value is not opened");
            if kind == "aesgcm" {
                assert!(rules.open(b"/registry/secrets/default/other", &sealed).await.is_err(), "a value is tied to its key");
            }
            assert!(rules.open(KEY, &Bytes::from_static(b"plain")).await.is_err(), "without identity nothing plain is read");
        }
    }

    #[tokio::test]
    async fn the_first_key_writes_and_all_read() {
        let old = rules(&one("secrets", &[provider("aesgcm", &[("k1", 1, 32)])])).await.expect("a configuration");
        let sealed = old.seal(KEY, Bytes::from_static(b"x")).expect("sealed");
        assert!(!old.is_stale(KEY, &sealed));
        let both = rules(&one("secrets", &[provider("aesgcm", &[("k2", 2, 32), ("k1", 1, 32)]), "{identity: {}}".into()])).await;
        let both = both.expect("a configuration");
        assert_eq!(both.open(KEY, &sealed).await.expect("opened").as_deref(), Some(&b"x"[..]));
        assert!(both.is_stale(KEY, &sealed) && both.is_stale(KEY, b"plain"));
        assert!(both.seal(KEY, Bytes::from_static(b"x")).expect("sealed").starts_with(b"k8s:enc:aesgcm:v1:k2:"));
        let new = rules(&one("secrets", &[provider("aesgcm", &[("k2", 2, 32)])])).await.expect("a configuration");
        assert!(matches!(new.open(KEY, &sealed).await, Err(SealError::NoKey(_))));
    }

    #[tokio::test]
    async fn the_first_entry_that_names_a_resource_counts() {
        let text = [
            one("secrets", &[provider("secretbox", &[("s", 1, 32)])]),
            one("configmaps", &["{identity: {}}".to_owned()]),
            one("\"*.apps\"", &[provider("aescbc", &[("a", 1, 32)])]),
            one("\"*.\"", &[provider("aescbc", &[("core", 1, 32)])]),
            one("\"*.*\"", &[provider("aescbc", &[("rest", 1, 32)])]),
        ];
        let rules = rules(&text.concat()).await.expect("a configuration");
        let cases = [
            ("/registry/secrets/a/b", "k8s:enc:secretbox:v1:s:"),
            ("/registry/configmaps/a/b", "x"),
            ("/registry/deployments/a/b", "k8s:enc:aescbc:v1:a:"),
            ("/registry/pods/a/b", "k8s:enc:aescbc:v1:core:"),
            ("/registry/services/specs/a/b", "k8s:enc:aescbc:v1:core:"),
            ("/registry/leases/a/b", "k8s:enc:aescbc:v1:rest:"),
            ("/registry/example.com/widgets/a/b", "k8s:enc:aescbc:v1:rest:"),
        ];
        for (key, prefix) in cases {
            let sealed = rules.seal(key.as_bytes(), Bytes::from_static(b"x")).expect("sealed");
            assert!(sealed.starts_with(prefix.as_bytes()), "{key}: {}", String::from_utf8_lossy(&sealed));
        }
    }

    #[tokio::test]
    async fn a_configuration_that_would_not_protect_is_refused() {
        let good = provider("aescbc", &[("k", 1, 32)]);
        for text in [
            one("secrets", &[]),
            one("Secrets", std::slice::from_ref(&good)),
            one("secrets, \"*.*\"", std::slice::from_ref(&good)),
            one("secrets, \"*.\"", std::slice::from_ref(&good)),
            one("\"*\"", std::slice::from_ref(&good)),
            one("secrets", &[provider("aescbc", &[("k", 1, 31)])]),
            one("secrets", &[provider("secretbox", &[("k", 1, 16)])]),
            one("secrets", &[provider("aescbc", &[("k", 1, 32), ("k", 2, 32)])]),
            one("secrets", &["{kms: {name: a, endpoint: 'unix:///tmp/x.sock'}}".to_owned()]),
            one("secrets", &["{kms: {apiVersion: v2, name: a, endpoint: 'https://x'}}".to_owned()]),
        ] {
            assert!(rules(&text).await.is_err(), "{text}");
        }
    }
}

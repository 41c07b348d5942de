//! The user's kubeconfig: our cluster, user and context are merged in and out; everything else stays as it is.
//!
//! It is never clobbered: a file that cannot be read as a kubeconfig is left alone, and writing replaces the file at once.

use crate::pki::Credential;
use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file that kubectl changes: the first of `$KUBECONFIG`, else `~/.kube/config`.
pub fn default_path() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").and_then(|v| std::env::split_paths(&v).find(|p| !p.as_os_str().is_empty()));
    listed.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config")))
}

/// What is merged in.
pub struct Entry<'a> {
    /// Name of cluster, user and context.
    pub name: &'a str,
    /// `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// CA, PEM.
    pub ca: &'a str,
    /// Client certificate and key.
    pub credential: &'a Credential,
}

/// Adds or replaces our entries and makes our context the current one. Returns whether the file changed.
pub fn merge(path: &Path, entry: &Entry<'_>) -> Result<bool> {
    let before = read(path)?;
    let mut config = before.clone();
    guard_foreign(&config, entry, path)?;
    let name = entry.name;
    let encoded = |text: &str| STANDARD.encode(text);
    put(&mut config, "clusters", name, "cluster", json!({"server": entry.server, "certificate-authority-data": encoded(entry.ca)}));
    let user = json!({
        "client-certificate-data": encoded(&entry.credential.certificate),
        "client-key-data": encoded(&entry.credential.key),
    });
    put(&mut config, "users", name, "user", user);
    put(&mut config, "contexts", name, "context", json!({"cluster": name, "user": name}));
    config["current-context"] = name.into();
    if config == before {
        return Ok(false);
    }
    write(path, &config)?;
    Ok(true)
}

/// Takes our entries out again.
pub fn remove(path: &Path, name: &str) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let before = read(path)?;
    let mut config = before.clone();
    for list in ["clusters", "users", "contexts"] {
        if let Some(list) = config.get_mut(list).and_then(Value::as_array_mut) {
            list.retain(|e| e["name"] != name);
        }
    }
    if config["current-context"] == name {
        config["current-context"] = "".into();
    }
    if config == before {
        return Ok(false);
    }
    write(path, &config)?;
    Ok(true)
}

/// An entry of our name that points somewhere else belongs to another cluster.
fn guard_foreign(config: &Value, entry: &Entry<'_>, path: &Path) -> Result<()> {
    let clusters = config["clusters"].as_array();
    let taken = clusters.into_iter().flatten().find(|c| c["name"] == entry.name);
    let Some(server) = taken.and_then(|c| c["cluster"]["server"].as_str()) else { return Ok(()) };
    let local = ["https://127.0.0.1:", "https://localhost:", "https://[::1]:"].iter().any(|p| server.starts_with(p));
    if server != entry.server && !local {
        bail!("{} already has a cluster {:?} at {server}; choose another name with --name", path.display(), entry.name);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Value> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
    };
    if text.trim().is_empty() {
        return Ok(json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "users": [], "contexts": []}));
    }
    let value = parse_yaml(&text).map_err(|e| anyhow::anyhow!("{} is not a kubeconfig: {e}", path.display()))?;
    if !value.is_object() {
        bail!("{} is not a kubeconfig", path.display());
    }
    Ok(value)
}

/// YAML as JSON.
pub fn parse_yaml(text: &str) -> std::result::Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|e| e.to_string())
}

fn put(config: &mut Value, list: &str, name: &str, inner: &str, value: Value) {
    if !config[list].is_array() {
        config[list] = json!([]);
    }
    let Some(entries) = config[list].as_array_mut() else { return };
    match entries.iter_mut().find(|e| e["name"] == name) {
        Some(entry) => entry[inner] = value,
        None => entries.push(json!({"name": name, inner: value})),
    }
}

fn write(path: &Path, config: &Value) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    // A link (into a synchronised folder, say) is followed, not replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let temporary = path.with_extension(format!("ferrokube-{}", std::process::id()));
    let text = serde_saphyr::to_string(config).context("writing YAML")?;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(credential: &'a Credential, server: &'a str) -> Entry<'a> {
        Entry { name: "ferrokube", server, ca: "CA", credential }
    }

    fn credential() -> Credential {
        Credential { certificate: "CERT".into(), key: "KEY".into() }
    }

    const OTHER: &str = "apiVersion: v1\nkind: Config\ncurrent-context: prod\nclusters:\n- name: prod\n  cluster: {server: \"https://prod:443\"}\n\
        users:\n- name: me\n  user: {token: abc}\ncontexts:\n- name: prod\n  context: {cluster: prod, user: me, namespace: x}\n";

    #[test]
    fn another_cluster_in_the_file_survives_merging_and_removing() {
        let dir = std::env::temp_dir().join(format!("ferrokube-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config");
        std::fs::write(&path, OTHER).unwrap();
        let credential = credential();
        assert!(merge(&path, &entry(&credential, "https://127.0.0.1:6443")).unwrap());
        assert!(!merge(&path, &entry(&credential, "https://127.0.0.1:6443")).unwrap());
        let merged = read(&path).unwrap();
        assert_eq!(merged["current-context"], "ferrokube");
        assert_eq!(merged["contexts"][0]["context"]["namespace"], "x");
        assert_eq!(merged["clusters"].as_array().unwrap().len(), 2);
        assert!(remove(&path, "ferrokube").unwrap());
        let left = read(&path).unwrap();
        assert_eq!(left["clusters"][0]["cluster"]["server"], "https://prod:443");
        assert_eq!(left["users"].as_array().unwrap().len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn an_entry_of_our_name_for_another_server_is_not_overwritten() {
        let dir = std::env::temp_dir().join(format!("ferrokube-kubeconfig-foreign-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config");
        std::fs::write(&path, OTHER.replace("prod", "ferrokube")).unwrap();
        let credential = credential();
        assert!(merge(&path, &entry(&credential, "https://127.0.0.1:6443")).is_err());
        assert!(std::fs::read_to_string(&path).unwrap().contains("https://ferrokube:443"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}

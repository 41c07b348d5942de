//! Configuration lists: which one is in force, and what of it each plug-in is given.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::CniError;

/// A network configuration list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkList {
    /// Specification version of the list.
    pub cni_version: String,
    /// Name of the network.
    pub name: String,
    /// CHECK must not be called.
    #[serde(default)]
    pub disable_check: bool,
    /// Plug-in configurations, in the order of ADD.
    pub plugins: Vec<Value>,
}

impl NetworkList {
    /// What a plug-in reads from stdin.
    pub fn plugin_config(&self, plugin: &Value, capabilities: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = json!(self.cni_version);
        config["name"] = json!(self.name);
        if let Some(declared) = plugin.get("capabilities").and_then(Value::as_object) {
            let wanted = |name: &String| declared.get(name) == Some(&Value::Bool(true));
            let runtime: Map<String, Value> =
                capabilities.iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
            if !runtime.is_empty() {
                config["runtimeConfig"] = Value::Object(runtime);
            }
        }
        if let Some(object) = config.as_object_mut() {
            object.remove("capabilities");
        }
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        config
    }
}

/// Loads the first usable list of a directory, by file name.
pub fn load(directory: &Path) -> Result<NetworkList, CniError> {
    let none = |why: String| CniError::NotInitialized(why);
    let entries = std::fs::read_dir(directory).map_err(|error| none(format!("{}: {error}", directory.display())))?;
    let known = ["conflist", "conf", "json"];
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| known.contains(&extension)))
        .collect();
    files.sort();
    let mut problem = format!("no network config found in {}", directory.display());
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string());
        match text.and_then(|text| parse(&text)) {
            Ok(list) => return Ok(list),
            Err(error) => problem = format!("{}: {error}", file.display()),
        }
    }
    Err(none(problem))
}

/// Reads a list, or a single plug-in's configuration as a list of one.
pub fn parse(text: &str) -> Result<NetworkList, String> {
    let document: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let plugins = match document.get("plugins") {
        Some(plugins) => plugins.as_array().cloned().ok_or("plugins is not a list")?,
        None if document.get("type").is_some() => vec![document.clone()],
        None => return Err("neither plugins nor a type".to_owned()),
    };
    if plugins.is_empty() || plugins.iter().any(|plugin| plugin["type"].as_str().is_none_or(str::is_empty)) {
        return Err("a plugin without a type".to_owned());
    }
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    // Both spellings of the flag are in use.
    let disable_check = matches!(&document["disableCheck"], Value::Bool(true)) || document["disableCheck"] == "true";
    Ok(NetworkList {
        cni_version: text("cniVersion").unwrap_or_else(|| "0.2.0".to_owned()),
        name: text("name").filter(|name| !name.is_empty()).ok_or("the network has no name")?,
        disable_check,
        plugins,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[
        {"type":"bridge","mtu":1450},{"type":"portmap","capabilities":{"portMappings":true,"other":false}}]}"#;

    #[test]
    fn a_plugin_gets_what_it_declares_and_the_previous_result() {
        let list = parse(LIST).expect("a list");
        let capabilities = json!({"portMappings": [{"hostPort": 80}], "other": 1, "dns": {}});
        let capabilities = capabilities.as_object().expect("an object");
        let bridge = list.plugin_config(&list.plugins[0], capabilities, None);
        assert_eq!(bridge, json!({"type": "bridge", "mtu": 1450, "cniVersion": "1.0.0", "name": "pods"}));
        let portmap = list.plugin_config(&list.plugins[1], capabilities, Some(&json!({"ips": []})));
        let expected = json!({
            "type": "portmap", "cniVersion": "1.0.0", "name": "pods",
            "runtimeConfig": {"portMappings": [{"hostPort": 80}]}, "prevResult": {"ips": []},
        });
        assert_eq!(portmap, expected);
    }

    #[test]
    fn the_first_usable_file_by_name_is_in_force() {
        let directory = tempfile::tempdir().expect("a folder");
        assert!(load(directory.path()).is_err());
        std::fs::write(directory.path().join("00-broken.conflist"), "{").expect("written");
        assert!(load(directory.path()).is_err());
        std::fs::write(directory.path().join("10-pods.conflist"), LIST).expect("written");
        std::fs::write(directory.path().join("20-other.conf"), r#"{"name":"other","type":"loopback"}"#).expect("written");
        std::fs::write(directory.path().join("05-ignored.txt"), "x").expect("written");
        assert_eq!(load(directory.path()).expect("a list").name, "pods");
        assert_eq!(parse(r#"{"name":"other","type":"loopback"}"#).expect("a list").plugins.len(), 1);
        assert!(parse(r#"{"name":"x","plugins":[{}]}"#).is_err());
    }
}

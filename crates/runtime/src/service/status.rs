//! Version and Status: what the kubelet asks before it trusts a runtime with pods.

use ferrokube_cri::v1;
use serde_json::json;

use crate::config::Config;
use crate::engine::HANDLERS;

/// The name under which nodes report this runtime.
const NAME: &str = "ferrokube";

pub fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: NAME.to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

pub fn status(config: &Config, verbose: bool) -> v1::StatusResponse {
    let condition = |kind: &str, problem: Option<(&str, String)>| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status: problem.is_none(),
        reason: problem.as_ref().map(|(reason, _)| (*reason).to_owned()).unwrap_or_default(),
        message: problem.map(|(_, message)| message).unwrap_or_default(),
    };
    let network = config.cni.as_ref().and_then(|cni| cni.current().err());
    let network = network.map(|error| ("NetworkPluginNotReady", format!("Network plugin returns error: {error}")));
    let info = json!({
        "root": config.root,
        "state": config.state,
        "cgroupDriver": "cgroupfs",
        "cni": config.cni.as_ref().map(|cni| json!({"confDir": cni.conf_dir, "binDirs": cni.bin_dirs})),
    });
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions: vec![condition("RuntimeReady", None), condition("NetworkReady", network)] }),
        info: if verbose { [("config".to_owned(), info.to_string())].into() } else { Default::default() },
        runtime_handlers: HANDLERS.map(handler).into(),
        features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
    }
}

fn handler(name: &str) -> v1::RuntimeHandler {
    let features = v1::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false };
    v1::RuntimeHandler { name: name.to_owned(), features: Some(features) }
}

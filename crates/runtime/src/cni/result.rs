//! What plug-ins answer.

use serde_json::Value;

use super::INTERFACE;

/// A result, or null for a plug-in that says nothing.
pub fn parse(output: &[u8]) -> Result<Value, String> {
    if output.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(output).map_err(|error| format!("unreadable result: {error}"))
}

/// The words of a plug-in that failed: its error document, else what it printed.
pub fn error_text(output: &[u8], complaint: &[u8]) -> String {
    if let Ok(document) = serde_json::from_slice::<Value>(output)
        && let Some(message) = document["msg"].as_str()
    {
        return match document["details"].as_str().filter(|details| !details.is_empty()) {
            Some(details) => format!("{message}: {details}"),
            None => message.to_owned(),
        };
    }
    let text = [output, complaint].map(String::from_utf8_lossy).join(" ");
    let text = text.trim();
    if text.is_empty() { "no error message".to_owned() } else { text.chars().take(2000).collect() }
}

/// The pod's addresses: those of its interface, or all when the plug-in does not say which interface has them.
///
/// Results of 0.3 and later list `ips`, with an index into `interfaces`; those of 0.2 and before have `ip4` and `ip6`.
pub fn addresses(result: &Value) -> Vec<String> {
    let without_prefix = |text: &str| text.split('/').next().unwrap_or(text).to_owned();
    let Some(ips) = result["ips"].as_array() else {
        return ["ip4", "ip6"].iter().filter_map(|family| result[family]["ip"].as_str()).map(without_prefix).collect();
    };
    let interfaces = result["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_pod = |ip: &Value| match ip["interface"].as_u64().and_then(|index| interfaces.get(usize::try_from(index).ok()?)) {
        Some(interface) => interface["name"] == INTERFACE && interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()),
        None => true,
    };
    ips.iter().filter(|ip| of_pod(ip)).filter_map(|ip| ip["address"].as_str()).map(without_prefix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_those_of_the_pods_interface() {
        let result = json!({
            "interfaces": [{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/ns"}],
            "ips": [{"address": "10.1.0.5/24", "interface": 2}, {"address": "fd00::5/64", "interface": 2}, {"address": "10.1.0.1/24", "interface": 0}],
        });
        assert_eq!(addresses(&result), ["10.1.0.5", "fd00::5"]);
        assert_eq!(addresses(&json!({"ips": [{"address": "10.1.0.6/24"}]})), ["10.1.0.6"]);
        assert_eq!(addresses(&json!({"ip4": {"ip": "10.1.0.7/16"}})), ["10.1.0.7"]);
        assert!(addresses(&Value::Null).is_empty());
    }

    #[test]
    fn an_error_document_is_told_in_its_own_words() {
        assert_eq!(error_text(br#"{"code":11,"msg":"no address","details":"pool is full"}"#, b""), "no address: pool is full");
        assert_eq!(error_text(b"", b"panic: x\n"), "panic: x");
        assert_eq!(error_text(b"", b""), "no error message");
        assert!(parse(b"{").is_err());
        assert_eq!(parse(b" \n").expect("nothing"), Value::Null);
    }
}

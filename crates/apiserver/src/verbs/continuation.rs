//! The `continue` token of a list: where the next page starts, and at which revision. Opaque to clients; the same shape
//! as upstream's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ferrokube_api::Status;
use serde::{Deserialize, Serialize};

/// A position in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The revision of the first page; `None` to go on at whatever is current.
    pub revision: Option<u64>,
    /// Namespace of the last object seen; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name of the last object seen.
    pub name: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v")]
    version: String,
    #[serde(rename = "rv")]
    revision: i64,
    start: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl Position {
    /// As a token.
    pub fn encode(&self) -> String {
        let start = if self.namespace.is_empty() { format!("{}\0", self.name) } else { format!("{}/{}\0", self.namespace, self.name) };
        let token = Token { version: VERSION.into(), revision: self.revision.map_or(-1, |r| r as i64), start };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token is text and a number"))
    }

    /// From a token.
    pub fn decode(text: &str) -> Result<Self, Status> {
        let wrong = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| wrong(e.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if token.version != VERSION {
            return Err(wrong(format!("server does not recognize this encoded version {}", token.version)));
        }
        if token.revision == 0 {
            return Err(wrong(format!("incorrect encoded start resourceVersion (version {VERSION})")));
        }
        if token.start.is_empty() {
            return Err(wrong(format!("encoded start key empty (version {VERSION})")));
        }
        // A position names an object of the collection and nothing above or beside it.
        if token.start.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong(token.start));
        }
        let start = token.start.strip_suffix('\0').unwrap_or(&token.start);
        let (namespace, name) = start.split_once('/').unwrap_or(("", start));
        Ok(Position { revision: u64::try_from(token.revision).ok(), namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_token() {
        for (revision, namespace) in [(Some(7), "ns"), (None, ""), (Some(u64::from(u32::MAX)), "a-b")] {
            let position = Position { revision, namespace: namespace.into(), name: "x.y".into() };
            assert_eq!(Position::decode(&position.encode()).expect("valid"), position);
        }
        let token = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let cases = [
            (token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#), "encoded start key empty (version meta.k8s.io/v1)"),
            (token(r#"{"v":"v2","rv":1,"start":"a"}"#), "server does not recognize this encoded version v2"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#), "../secrets"),
        ];
        for (text, why) in cases {
            let refused = Position::decode(&text).expect_err("refused");
            assert_eq!((refused.code, refused.message), (400, format!("invalid continue token: continue key is not valid: {why}")));
        }
        assert_eq!(Position::decode("!!!").expect_err("refused").code, 400);
    }
}

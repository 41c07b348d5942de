//! The `continue` token of a list: where the next page starts, and at which revision. Opaque to clients; the same shape
//! as upstream's.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use ferrokube_api::{Status, decode};
use serde::Serialize;
use serde_json::Value;

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

#[derive(Default, Serialize)]
struct Token {
    #[serde(rename = "v")]
    version: String,
    #[serde(rename = "rv")]
    revision: i64,
    start: String,
}

impl Token {
    /// From JSON; the error is that of Go's decoder.
    fn read(json: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(json).map_err(|e| decode::explain(json, &e))?;
        match &value {
            Value::Null => return Ok(Self::default()),
            Value::Object(_) => {}
            other => return Err(misfit(other, "value of type storage.continueToken")),
        }
        let text = |field: &str| match &value[field] {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            other => Err(misfit(other, &format!("struct field continueToken.{field} of type string"))),
        };
        let revision = match &value["rv"] {
            Value::Null => 0,
            other => other.as_i64().ok_or_else(|| misfit(other, "struct field continueToken.rv of type int64"))?,
        };
        Ok(Token { version: text("v")?, revision, start: text("start")? })
    }
}

fn misfit(value: &Value, target: &str) -> String {
    format!("json: cannot unmarshal {} into Go {target}", decode::go_kind(value))
}

const VERSION: &str = "meta.k8s.io/v1";

/// As lenient about the last bits as Go is.
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Where Go's decoder stops reading: at the first character that is none of the alphabet, else at one that is alone in the last group.
fn illegal_at(text: &str) -> usize {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    text.bytes().position(|b| !known(b)).unwrap_or(text.len().saturating_sub(1))
}

impl Position {
    /// As a token.
    pub fn encode(&self) -> String {
        let start = if self.namespace.is_empty() { format!("{}\0", self.name) } else { format!("{}/{}\0", self.namespace, self.name) };
        let token = Token { version: VERSION.into(), revision: self.revision.map_or(-1, |r| r as i64), start };
        BASE64.encode(serde_json::to_vec(&token).expect("a token is text and a number"))
    }

    /// From a token.
    pub fn decode(text: &str) -> Result<Self, Status> {
        let wrong = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = BASE64.decode(text).map_err(|_| wrong(format!("illegal base64 data at input byte {}", illegal_at(text))))?;
        let token = Token::read(&bytes).map_err(wrong)?;
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
        if token.start.strip_prefix('/').unwrap_or(&token.start).split('/').any(|part| matches!(part, "" | "." | "..")) {
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
        let token = |json: &str| BASE64.encode(json);
        let cases = [
            (token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#), "incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#), "encoded start key empty (version meta.k8s.io/v1)"),
            (token(r#"{"v":"v2","rv":1,"start":"a"}"#), "server does not recognize this encoded version v2"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#), "../secrets"),
            (token(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#), "a//b"),
            (token("{}"), "server does not recognize this encoded version "),
            (token(r#"{"v":1}"#), "json: cannot unmarshal number into Go struct field continueToken.v of type string"),
            (token("[]"), "json: cannot unmarshal array into Go value of type storage.continueToken"),
            (token("hello"), "invalid character 'h' looking for beginning of value"),
            ("abc!".to_owned(), "illegal base64 data at input byte 3"),
            ("abcde".to_owned(), "illegal base64 data at input byte 4"),
        ];
        for (text, why) in cases {
            let refused = Position::decode(&text).expect_err("refused");
            assert_eq!((refused.code, refused.message), (400, format!("invalid continue token: continue key is not valid: {why}")));
        }
    }
}

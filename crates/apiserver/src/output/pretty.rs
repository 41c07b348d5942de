//! Indented JSON for people: with `?pretty`, and for the programs that people look through.

use crate::request::Query;
use http::HeaderMap;

/// Whether the answer shall be indented: what `pretty` says, else by the client (`isPrettyPrint`).
pub fn wanted(query: &Query, headers: &HeaderMap) -> bool {
    match query.get("pretty") {
        "" => {
            let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| agent.starts_with(program))
        }
        said => matches!(said, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// Compact JSON with line breaks and two spaces per level, as Go's `json.MarshalIndent` writes it.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut at) = (0usize, 0);
    let break_line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at);
                out.extend_from_slice(&json[at..end]);
                at = end;
                continue;
            }
            b'{' | b'[' => {
                out.push(*byte);
                if matches!(json.get(at + 1), Some(b'}' | b']')) {
                    out.push(json[at + 1]);
                    at += 1;
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut out, depth);
                out.push(*byte);
            }
            b',' => {
                out.push(b',');
                break_line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            other => out.push(*other),
        }
        at += 1;
    }
    out
}

/// Where the text that starts at `at` ends.
fn string_end(json: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(byte) = json.get(end) {
        match byte {
            b'"' => return end + 1,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_is_that_of_an_encoder() {
        for text in [r#"{"a":[1,{"b":"x,{\"}:"}],"c":{},"d":[],"e":null}"#, "[]", "\"\\\\\"", "1"] {
            let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(String::from_utf8(indent(text.as_bytes())).expect("text"), serde_json::to_string_pretty(&value).expect("JSON"));
        }
        indent(b"\"\\");
    }

    #[test]
    fn the_query_goes_before_the_client() {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static("curl/8.0"));
        assert!(wanted(&Query::parse(None), &headers) && !wanted(&Query::parse(Some("pretty=false")), &headers));
        assert!(wanted(&Query::parse(Some("pretty=1")), &HeaderMap::new()) && !wanted(&Query::parse(None), &HeaderMap::new()));
    }
}

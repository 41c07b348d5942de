//! What a registry asks for in `WWW-Authenticate` (RFC 9110, 11.6.1). Pure.

use std::collections::BTreeMap;

/// One scheme a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// The challenges of one header line. What does not parse is left out.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    for item in split(header) {
        let item = item.trim();
        // `Scheme name=value` begins a challenge, `name=value` continues one, a lone `Scheme` is one without parameters.
        let (scheme, parameter) = match item.split_once(char::is_whitespace) {
            Some((scheme, rest)) if is_token(scheme) => (Some(scheme), rest.trim()),
            _ if is_token(item) => (Some(item), ""),
            _ => (None, item),
        };
        if let Some(scheme) = scheme {
            challenges.push(Challenge { scheme: scheme.to_ascii_lowercase(), parameters: BTreeMap::new() });
        }
        if let (Some(challenge), Some((name, value))) = (challenges.last_mut(), parameter.split_once('=')) {
            challenge.parameters.insert(name.trim().to_ascii_lowercase(), unquote(value.trim()));
        }
    }
    challenges
}

/// Splits at commas outside quotes.
fn split(header: &str) -> Vec<&str> {
    let (mut items, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&header[start..]);
    items
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_parse() {
        let table: [(&str, &[(&str, &[(&str, &str)])]); 5] = [
            (
                r#"Bearer realm="https://auth.example/token?a=b,c",service="reg",scope="repository:a/b:pull,push""#,
                &[("bearer", &[("realm", "https://auth.example/token?a=b,c"), ("scope", "repository:a/b:pull,push"), ("service", "reg")])],
            ),
            (r#"Basic realm="it is \"here\"""#, &[("basic", &[("realm", "it is \"here\"")])]),
            ("Basic", &[("basic", &[])]),
            (
                r#"Negotiate, BASIC Realm=x , bearer realm="y""#,
                &[("negotiate", &[]), ("basic", &[("realm", "x")]), ("bearer", &[("realm", "y")])],
            ),
            (r#"realm="nobody's""#, &[]),
        ];
        for (header, expected) in table {
            let expected: Vec<_> = expected
                .iter()
                .map(|(scheme, parameters)| Challenge {
                    scheme: (*scheme).to_owned(),
                    parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                })
                .collect();
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}

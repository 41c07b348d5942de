//! The forms that names, labels, ports and addresses must have, in the words of apimachinery's `validation` package.
//!
//! Every check returns the list of what is wrong, empty when all is well. Messages are part of the API. The patterns
//! are simple enough to be walked by hand; no regular expression engine is involved.

mod addresses;
pub use addresses::*;

/// Longest DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

/// `must be no more than N bytes`.
pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} bytes")
}

/// `must be between LO and HI, inclusive`.
pub fn inclusive_range(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}

/// A message about a pattern, with examples, as `validation.RegexError` composes it.
fn pattern(message: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{regex}')");
    }
    let list = examples.iter().map(|e| format!("'{e}', ")).collect::<Vec<_>>().join(" or ");
    format!("{message} (e.g. {list}regex used for validation is '{regex}')")
}

/// The message about a DNS-1123 label.
fn label_message() -> String {
    pattern(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
        "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        &["my-name", "123-abc"],
    )
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Starts and ends with `edge`, consists of `edge` and `inner`; not empty.
fn shaped(text: &str, edge: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let b = text.as_bytes();
    let (Some(first), Some(last)) = (b.first(), b.last()) else { return false };
    edge(*first) && edge(*last) && b.iter().all(|c| edge(*c) || inner.contains(c))
}

fn is_label(text: &str) -> bool {
    shaped(text, lower_alnum, b"-")
}

/// A DNS-1123 label: `my-name`.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len(LABEL_MAX));
    }
    if !is_label(value) {
        let longer_is_fine = value.split('.').all(is_label);
        errors.push(if longer_is_fine { "must not contain dots".to_owned() } else { label_message() });
    }
    errors
}

/// A DNS-1123 subdomain: `example.com`.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(is_label) {
        errors.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// A DNS-1123 subdomain whose labels may hold underscores.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let edge = |c: u8| lower_alnum(c) || c == b'_';
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(|l| shaped(l, edge, b"-")) {
        errors.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*",
            &["example.com"],
        ));
    }
    errors
}

/// A DNS-1035 label: `my-name`, not starting with a digit.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len(LABEL_MAX));
    }
    if !(is_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A subdomain below `*.`: `*.example.com`.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        errors.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    errors
}

fn qualified_name_message() -> String {
    pattern(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
        "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
        &["MyName", "my.name", "123-abc"],
    )
}

/// A label key or the like: `[prefix/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let message = qualified_name_message();
            errors.push(format!("a qualified name {message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return errors;
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !shaped(name, |c| c.is_ascii_alphanumeric(), b"-_.") {
        errors.push(format!("name part {}", qualified_name_message()));
    }
    errors
}

/// A label value; empty is fine.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > LABEL_MAX {
        errors.push(max_len(LABEL_MAX));
    }
    if !value.is_empty() && !shaped(value, |c| c.is_ascii_alphanumeric(), b"-_.") {
        errors.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A name that is one segment of a path (RBAC and others): `path/validation.IsValidPathSegmentName`.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// The name of an environment variable (relaxed rules, always on in 1.36).
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if value.chars().any(|c| !matches!(c, ' '..='~') || c == '=') {
        errors.push("a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned());
    }
    errors
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        errors.push(max_len(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
        errors.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        v if v.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![pattern("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The reason of a condition: `MinimumReplicasAvailable`.
pub fn condition_reason(value: &str) -> Vec<String> {
    let b = value.as_bytes();
    let word = |c: &u8| c.is_ascii_alphanumeric() || *c == b'_';
    let fine =
        b.first().is_some_and(u8::is_ascii_alphabetic) && b.last().is_some_and(word) && b.iter().all(|c| word(c) || b",:".contains(c));
    if fine {
        return Vec::new();
    }
    vec![pattern(
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

/// An identifier of C: `my_name`.
pub fn c_identifier(value: &str) -> Vec<String> {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    if value.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_') && value.bytes().all(word) {
        return Vec::new();
    }
    vec![pattern(
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'",
        "[A-Za-z_][A-Za-z0-9_]*",
        &["my_name", "MY_NAME", "MyName"],
    )]
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![inclusive_range(1, 65535)] }
}

/// The name of a port: `http-alt`.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(max_len(15));
    }
    if value.is_empty() || !value.bytes().all(|c| lower_alnum(c) || c == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// Whether the text is digits and a final `%`.
pub fn parse_percent(value: &str) -> Option<i64> {
    let digits = value.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) { None } else { digits.parse().ok() }
}

/// A percentage: `93%`.
pub fn percent(value: &str) -> Vec<String> {
    if value.strip_suffix('%').is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
        return Vec::new();
    }
    vec![pattern("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", &["1%", "93%"])]
}

/// A domain of at least two labels, as finalizers and signers use it.
pub fn fully_qualified_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["must be non-empty".to_owned()];
    }
    let errors = dns1123_subdomain(value);
    if !errors.is_empty() {
        return errors;
    }
    if value.split('.').count() < 3 {
        return vec!["should be a domain with at least three segments separated by dots".to_owned()];
    }
    Vec::new()
}

/// A domain of at least two labels, with or without the dot of the root.
pub fn fully_qualified_domain(value: &str) -> Result<(), (String, String)> {
    let name = value.strip_suffix('.').unwrap_or(value);
    let labels: Vec<&str> = name.split('.').collect();
    let wrong = dns1123_subdomain(name);
    if !wrong.is_empty() {
        return Err((name.to_owned(), wrong.join(",")));
    }
    if labels.len() < 2 {
        return Err((name.to_owned(), "should be a domain with at least two segments separated by dots".to_owned()));
    }
    match labels.iter().map(|label| (label, dns1123_label(label))).find(|(_, wrong)| !wrong.is_empty()) {
        Some((label, wrong)) => Err(((*label).to_owned(), wrong.join(","))),
        None => Ok(()),
    }
}

/// A domain, a slash and a path: `acme.io/foo`.
pub fn domain_prefixed_path(value: &str) -> Vec<String> {
    const WHAT: &str = "must be a domain-prefixed path (such as \"acme.io/foo\")";
    if value.is_empty() {
        return vec!["must be non-empty".to_owned()];
    }
    match value.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            let mut errors: Vec<String> = dns1123_subdomain(host).into_iter().map(|m| format!("prefix part {m}")).collect();
            let allowed = |c: u8| c.is_ascii_alphanumeric() || b"/%:@&=+$,;-_.!~*'()".contains(&c);
            if !path.bytes().all(allowed) {
                errors.push(pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]));
            }
            errors
        }
        _ => vec![WHAT.to_owned()],
    }
}

/// Removes what `generateName` may end with and names may not: one trailing dash.
pub fn mask_trailing_dash(prefix: &str) -> String {
    if prefix.len() > 1 && prefix.ends_with('-') { format!("{}a", &prefix[..prefix.len() - 2]) } else { prefix.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_apimachinery() {
        assert_eq!(
            dns1123_label("Bad"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }

    #[test]
    fn forms_are_accepted_and_refused() {
        type Check = fn(&str) -> Vec<String>;
        let cases: [(Check, &[&str], &[&str]); 8] = [
            (dns1123_label, &["a", "a-b", "1"], &["", "-a", "a-", "a.b", "A", "a_b"]),
            (dns1123_subdomain, &["a", "a.b-c", "1.2"], &["", ".a", "a.", "a..b", "a_b"]),
            (dns1035_label, &["a", "a-1"], &["", "1a", "a-"]),
            (qualified_name, &["a", "A.b_c", "example.com/x"], &["", "a/b/c", "Ex.com/x", "x/", "-a"]),
            (label_value, &["", "a", "A_b.c"], &["-", "a b", "a/"]),
            (port_name, &["http", "p-1"], &["", "-a", "a--b", "1", "aaaaaaaaaaaaaaaa"]),
            (config_map_key, &["a.b", "A_-"], &["", ".", "..", "..a", "a/b"]),
            (
                cidr,
                &["10.0.0.0/8", "fd00::/64", "0.0.0.0/0", "10.0.0.1/32", "::/0"],
                &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "x/8", "10.0.0.1/24", "::ffff:10.0.0.0/120"],
            ),
        ];
        for (check, good, bad) in cases {
            good.iter().for_each(|v| assert_eq!(check(v), Vec::<String>::new(), "{v}"));
            bad.iter().for_each(|v| assert_ne!(check(v), Vec::<String>::new(), "{v}"));
        }
    }
}

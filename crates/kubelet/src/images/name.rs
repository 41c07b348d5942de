//! The grammar of image references (distribution's `reference` package): `[host[:port]/]path[:tag][@algorithm:hex]`.

/// Longest repository name.
const LONGEST: usize = 255;

/// Whether a reference is well formed; the error is what is wrong, in the words of the reference parser.
pub fn check(reference: &str) -> Result<(), &'static str> {
    const FORMAT: &str = "invalid reference format";
    let (named, digest) = match reference.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|d| !is_digest(d)) {
        return Err(FORMAT);
    }
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err(FORMAT);
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) => {
            (Some(first), rest)
        }
        _ => (None, name),
    };
    if path.len() > LONGEST {
        return Err("repository name must not be more than 255 characters");
    }
    if path.split('/').all(|c| is_component(&c.to_lowercase())) && path.chars().any(char::is_uppercase) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    let fine = path.split('/').all(is_component) && host.is_none_or(is_host);
    if fine { Ok(()) } else { Err(FORMAT) }
}

fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        let known = algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
            && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || "+._-".contains(c));
        known && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Lower-case letters and digits, separated by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = text.chars().all(|c| plain(c) || "._-".contains(c));
    let separators: Vec<&str> = text.split(plain).filter(|s| !s.is_empty()).collect();
    let separated = separators.iter().all(|s| matches!(*s, "." | "_" | "__") || s.chars().all(|c| c == '-'));
    inside && separated && text.starts_with(plain) && text.ends_with(plain)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label =
        |l: &str| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let v6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    port.is_none_or(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit())) && (v6 || host.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn references_are_accepted_and_refused_as_by_the_reference_parser() {
        let hex = "0123456789abcdef".repeat(4);
        let good = [
            "app".to_owned(),
            "app:1".into(),
            "team/app:v1.2-rc_3".into(),
            "localhost:5000/app".into(),
            "registry.example/a/b__c--d:x".into(),
            format!("app@sha256:{hex}"),
            format!("r.example:80/app:1@sha256:{hex}"),
            "[::1]:5000/app".into(),
            hex.clone(),
        ];
        for reference in good {
            assert_eq!(check(&reference), Ok(()), "{reference}");
        }
        let bad = ["", ":1", "app:", "app:a b", "a//b", "app@sha256:12", "a..b", "-a", "a-", "r.example:x/app", "a___b", "Bad//Name:::"];
        for reference in bad {
            assert!(check(reference).is_err(), "{reference}");
        }
        assert_eq!(check("App:1"), Err("invalid reference format: repository name must be lowercase"));
    }
}

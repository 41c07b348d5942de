//! The formats of text in structural schemas: what 1.36 checks, as it checks it. A format that is not here means nothing.
//!
//! Sources of the rules: `apiextensions-apiserver/pkg/apiserver/validation/formats.go` and the Go packages that it names.

use ferrokube_api::names;
use regex::Regex;
use std::sync::LazyLock;

type Check = fn(&str) -> bool;

/// By name without dashes: `date-time` and `datetime` are one.
const FORMATS: &[(&str, Check)] = &[
    ("bsonobjectid", |s| s.len() == 24 && is_hex(s)),
    ("uri", is_request_uri),
    ("email", is_email),
    ("hostname", is_hostname),
    ("ipv4", |s| s.contains('.') && is_address(s)),
    ("ipv6", |s| s.contains(':') && is_address(s)),
    ("cidr", |s| names::parse_cidr(s).is_some()),
    ("mac", is_mac),
    ("uuid", |s| uuid_digits(s).is_some()),
    ("uuid3", |s| is_uuid(s, '3', false)),
    ("uuid4", |s| is_uuid(s, '4', true)),
    ("uuid5", |s| is_uuid(s, '5', true)),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("creditcard", is_credit_card),
    ("ssn", is_ssn),
    ("hexcolor", |s| {
        let digits = s.strip_prefix('#').unwrap_or(s);
        matches!(digits.len(), 3 | 6) && is_hex(digits)
    }),
    ("rgbcolor", is_rgb_color),
    ("byte", is_base64),
    ("password", |_| true),
    ("date", is_date),
    ("duration", is_duration),
    ("datetime", is_date_time),
    ("k8sshortname", |s| names::dns1123_label(s).is_empty()),
    ("k8slongname", |s| names::dns1123_subdomain(s).is_empty()),
];

/// Whether text has a format.
pub fn fits(format: &str, text: &str) -> bool {
    let format = format.replace('-', "");
    FORMATS.iter().find(|(name, _)| *name == format).is_none_or(|(_, check)| check(text))
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// `url.ParseRequestURI`: an absolute URI or an absolute path.
fn is_request_uri(text: &str) -> bool {
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let (scheme, rest) = match text.split_once(':') {
        Some(("", _)) => return false,
        Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
        _ => ("", text),
    };
    let path = rest.split('?').next().unwrap_or_default();
    match (scheme.is_empty(), path.strip_prefix("//")) {
        (true, _) => text == "*" || (path.starts_with('/') && escapes_are_whole(path)),
        (false, Some(after)) => {
            let (authority, path) = after.split_once('/').unwrap_or((after, ""));
            is_authority(authority) && escapes_are_whole(path)
        }
        // Without a slash the rest means what the scheme says.
        (false, None) => !path.starts_with('/') || escapes_are_whole(path),
    }
}

/// Every `%` is followed by two hexadecimal digits.
fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|after| after.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
}

fn is_authority(authority: &str) -> bool {
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user_fits = user.chars().all(|c| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c)) && escapes_are_whole(user);
    let port_fits = |after: &str| after.is_empty() || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let name_fits = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    let host_fits = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').is_some_and(|(_, after)| port_fits(after)),
        None => port_fits(host.rfind(':').map_or("", |at| &host[at..])),
    };
    user_fits && host_fits && host.chars().all(name_fits) && escapes_are_whole(host)
}

/// `mail.ParseAddress` without comments: an address, or a name and an address in angle brackets.
fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((name, address)) => is_phrase(name.trim_matches([' ', '\t'])) && is_address_spec(address),
        None => is_address_spec(text),
    }
}

fn is_atom(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c))
}

fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).filter(|_| text.len() >= 2) else { return false };
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c == '"' || c.is_ascii_control() || (c == '\\' && chars.next().is_none()) {
            return false;
        }
    }
    true
}

/// A name before an address; there may be none.
fn is_phrase(name: &str) -> bool {
    name.is_empty()
        || is_quoted(name)
        || name.split([' ', '\t']).filter(|w| !w.is_empty()).all(|word| word.split('.').all(|w| w.is_empty() || is_atom(w)))
}

fn is_address_spec(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let is_dotted = |t: &str| t.split('.').all(is_atom);
    let is_literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).is_some_and(|d| !d.contains(['[', ']', '\\']));
    (is_dotted(local) || (is_quoted(local) && local.len() > 2)) && (is_dotted(domain) || is_literal)
}

/// A name of one label without dashes inside, or of several of which the last has two characters at least.
static HOSTNAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let x = r"[a-zA-Z0-9\p{S}\p{L}]";
    let one = format!(r"{x}(-?{x}{{0,62}})?");
    let several = format!(r"({x}([a-zA-Z0-9\p{{S}}\p{{L}}-]{{0,61}}{x})?\.)+{x}(-?{x}){{1,62}}");
    Regex::new(&format!("^({one}|{several})$")).ok()
});

fn is_hostname(text: &str) -> bool {
    let matches = HOSTNAME.as_ref().is_some_and(|r| r.is_match(text));
    matches && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63)
}

/// `net.ParseMAC`: 6, 8 or 20 bytes, by twos with colons or dashes, or by fours with dots.
fn is_mac(text: &str) -> bool {
    let by = |separator: char, width: usize| {
        let groups: Vec<&str> = text.split(separator).collect();
        groups.iter().all(|g| g.len() == width && is_hex(g)) && matches!(groups.len() * width / 2, 6 | 8 | 20)
    };
    by(':', 2) || by('-', 2) || by('.', 4)
}

/// The 32 digits; each dash may be missing.
fn uuid_digits(text: &str) -> Option<String> {
    let mut rest = text;
    let mut digits = String::new();
    for (at, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        digits.push_str(rest.get(..length).filter(|group| is_hex(group))?);
        rest = &rest[length..];
    }
    rest.is_empty().then_some(digits)
}

fn is_uuid(text: &str, version: char, checks_variant: bool) -> bool {
    let Some(digits) = uuid_digits(text) else { return false };
    let digit = |at: usize| digits.chars().nth(at).unwrap_or_default();
    digit(12) == version && (!checks_variant || "89abAB".contains(digit(16)))
}

/// Digits of a book number, without blanks and dashes.
fn book_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = book_digits(text);
    let body = digits.strip_suffix('X').unwrap_or(&digits);
    let last_is_ten = body.len() < digits.len();
    if digits.len() != 10 || !is_digits(body) {
        return false;
    }
    let sum: u32 = (1..).zip(body.bytes()).map(|(weight, b)| weight * u32::from(b - b'0')).sum();
    (sum + if last_is_ten { 100 } else { 0 }) % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let digits = book_digits(text);
    let weighted = digits.bytes().enumerate().map(|(at, b)| u32::from(b.wrapping_sub(b'0')) * if at % 2 == 0 { 1 } else { 3 });
    digits.len() == 13 && is_digits(&digits) && weighted.sum::<u32>() % 10 == 0
}

/// A number that an issuer gives, with its check digit; anything may stand between the digits.
fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let prefix = |n: usize| digits.iter().take(n).fold(0, |all, d| all * 10 + d);
    let issued = match digits.len() {
        13 => prefix(1) == 4,
        14 => matches!(prefix(3), 300..=305 | 360..=369 | 380..=389),
        15 => matches!(prefix(2), 34 | 37) || matches!(prefix(4), 2131 | 1800),
        16 => prefix(1) == 4 || matches!(prefix(2), 51..=55 | 62 | 65 | 67 | 35) || matches!(prefix(4), 2221..=2720 | 6011),
        _ => false,
    };
    let doubled = |(at, d): (usize, &u32)| if at % 2 == 0 { *d } else { d * 2 / 10 + d * 2 % 10 };
    issued && digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

fn is_ssn(text: &str) -> bool {
    let groups: Vec<&str> = text.split(['-', ' ']).collect();
    matches!(groups[..], [a, b, c] if [(a, 3), (b, 2), (c, 4)].iter().all(|(group, length)| group.len() == *length && is_digits(group)))
}

fn is_rgb_color(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let is_byte = |t: &str| is_digits(t) && (t == "0" || !t.starts_with('0')) && t.parse::<u8>().is_ok();
    inner.split(',').count() == 3 && inner.split(',').all(|part| is_byte(part.trim()))
}

/// Base64 with padding; nothing at all is none.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    !text.is_empty() && text.len() % 4 == 0 && padding <= 2 && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

/// Date and time with an offset, as RFC 3339 has them.
fn is_date_time(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((date, time)) = text.split_once('t') else { return false };
    let is_two = |t: &str, most: u8| t.len() == 2 && is_digits(t) && t.parse::<u8>().is_ok_and(|n| n <= most);
    let is_clock = |t: &str| {
        let (clock, fraction) = t.split_once('.').map_or((t, None), |(clock, fraction)| (clock, Some(fraction)));
        let parts: Vec<&str> = clock.split(':').collect();
        fraction.is_none_or(is_digits) && matches!(parts[..], [h, m, s] if is_two(h, 23) && is_two(m, 59) && is_two(s, 59))
    };
    let is_offset = |t: &str| t.split_once(':').is_some_and(|(h, m)| is_two(h, 99) && is_two(m, 99));
    let rest = match time.strip_suffix('z') {
        Some(clock) => is_clock(clock),
        None => time.rfind(['+', '-']).is_some_and(|at| is_clock(&time[..at]) && is_offset(&time[at + 1..])),
    };
    is_date(date) && rest
}

/// What `time.ParseDuration` takes, or amounts with units in words: `3 weeks`, `1 day 2 hours`.
fn is_duration(text: &str) -> bool {
    is_go_duration(text) || is_spoken_duration(text)
}

fn is_go_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |at| number + at);
        let amount = &rest[..number];
        let is_amount = amount.matches('.').count() <= 1 && amount.bytes().any(|b| b.is_ascii_digit());
        if !is_amount || !UNITS.contains(&&rest[number..unit]) {
            return false;
        }
        (any, rest) = (true, &rest[unit..]);
    }
    any
}

fn is_spoken_duration(text: &str) -> bool {
    const WORDS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    const SHORT: [&str; 10] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w"];
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == 'µ';
    let (mut rest, mut known) = (text.trim_start(), false);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let amount = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let after = rest[amount..].trim_start();
        let word = after.find(|c| !is_letter(c)).unwrap_or(after.len());
        if amount == 0 || word == 0 {
            return false;
        }
        let unit = after[..word].to_lowercase();
        known |= unit == "wk" || SHORT.contains(&unit.as_str()) || WORDS.iter().any(|w| unit.starts_with(w));
        rest = after[word..].trim_start();
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Format, what has it, what does not.
    const CASES: &[(&str, &[&str], &[&str])] = &[
        ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f1f77bcf86cd79943901", "507f1f77bcf86cd79943901g"]),
        (
            "uri",
            &["http://a.example/x?y=%zz#z", "https://u:p@[::1]:8443/", "/path only", "mailto:a@b", "urn:isbn:1", "*", "http://a:/"],
            &["", "a.example", "//%zz", "http://a:b/", "http://a b/", "/x%2", ":x", "http://[::1/", "a\nb"],
        ),
        (
            "email",
            &["a@b", "a.b+c@d.example", "Ann <a@b.example>", "\"A, B\" <a@b>", "\"a b\"@c"],
            &["", "a", "a@", "@b", "a..b@c", "a b@c", "a@b c"],
        ),
        (
            "hostname",
            &["localhost", "a", "a-b.example.com", "example.co-m", "1.example", "é.example"],
            &["", "-a", "a.-b.com", "a_b", "a.b", "my-host"],
        ),
        ("ipv4", &["10.0.0.1"], &["10.0.0", "::1", "10.0.0.256"]),
        ("ipv6", &["::1", "2001:db8::7"], &["10.0.0.1", ":::"]),
        ("cidr", &["10.0.0.0/8", "2001:db8::/32"], &["10.0.0.0", "10.0.0.0/33"]),
        (
            "mac",
            &["01:02:03:04:05:06", "01-02-03-04-05-06-07-08", "0102.0304.0506"],
            &["01:02:03:04:05", "01:02:03:04:05:0g", "010203040506"],
        ),
        (
            "uuid",
            &["123e4567-e89b-12d3-A456-426614174000", "123e4567e89b12d3a456426614174000"],
            &["123e4567", "123e4567-e89b-12d3-a456-42661417400g"],
        ),
        ("uuid3", &["123e4567-e89b-32d3-0456-426614174000"], &["123e4567-e89b-12d3-a456-426614174000"]),
        ("uuid4", &["123e4567-e89b-42d3-a456-426614174000"], &["123e4567-e89b-42d3-c456-426614174000"]),
        ("uuid5", &["123e4567-e89b-52d3-B456-426614174000"], &["123e4567-e89b-42d3-a456-426614174000"]),
        ("isbn", &["0321751043", "978-0321751041"], &["0321751044", "x"]),
        ("isbn10", &["0321751043", "080442957X"], &["978-0321751041", "0804429579"]),
        ("isbn13", &["978-0321751041", "978 3 16 148410 0"], &["978-0321751042", "0321751043"]),
        (
            "creditcard",
            &["4111-1111-1111-1111", "5555 5555 5555 4444", "378282246310005"],
            &["4111-1111-1111-1112", "1111-1111-1111-1117", ""],
        ),
        ("ssn", &["111-11-1111", "111 11 1111"], &["111111111", "11-111-1111"]),
        ("hexcolor", &["#FFFFFF", "fff"], &["#ffff", "ggg", ""]),
        ("rgbcolor", &["rgb(0,100, 255)"], &["rgb(0,100,256)", "rgb(1,2)", "rgb(01,2,3)", "(1,2,3)"]),
        ("byte", &["YQ==", "YWJj", "YW+/"], &["", "YQ=", "YQ", "Y===", "YQ-_"]),
        ("password", &["", "anything"], &[]),
        ("date", &["2026-02-28"], &["2026-02-30", "2026-2-3", "2026-02-28T00:00:00Z"]),
        (
            "date-time",
            &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
            &["2014-12-15", "2014-12-15T19:30:20", "2014-12-15T24:30:20Z"],
        ),
        ("datetime", &["2014-12-15T19:30:20Z"], &["yesterday"]),
        (
            "duration",
            &["1h30m", "-1.5s", "0", "22 ns", "3 weeks", "1 day 2 hours", "5us", "1W"],
            &["", "1", "h", "1 fortnight", "1h 2", "1.2.3s", "."],
        ),
        ("k8s-short-name", &["a-b"], &["a.b", "A"]),
        ("k8s-long-name", &["a.b-c"], &["a_b", "A"]),
        ("no-such-format", &["anything", ""], &[]),
    ];

    #[test]
    fn text_has_its_format_or_not() {
        for (format, good, bad) in CASES {
            good.iter().for_each(|text| assert!(fits(format, text), "{text:?} is {format}"));
            bad.iter().for_each(|text| assert!(!fits(format, text), "{text:?} is no {format}"));
        }
        assert!(FORMATS.iter().map(|(name, _)| *name).eq(ferrokube_api::kinds::TEXT_FORMATS), "the table is that of the known formats");
        for (name, _) in FORMATS {
            assert!(CASES.iter().any(|(format, ..)| format.replace('-', "") == *name), "{name} has no case");
        }
    }
}

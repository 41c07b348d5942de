//! Just enough of DER to write a certificate. Pure.
//!
//! Subject and key of a certificate are the very bytes of the request: libraries that take a subject apart drop what they do
//! not model (several organizations, which are a user's groups).

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const BOOLEAN: u8 = 0x01;

/// A value with its tag and length.
pub(super) fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n @ 0..0x80 => out.push(n as u8),
        n => {
            let bytes = n.to_be_bytes();
            let significant = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1)..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A sequence of parts.
pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(SEQUENCE, &parts.concat())
}

/// An object identifier.
pub(super) fn oid(parts: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = parts[0] * 40 + parts[1];
    for part in std::iter::once(first).chain(parts[2..].iter().copied()) {
        let digits = (64 - part.leading_zeros()).div_ceil(7).max(1);
        for digit in (0..digits).rev() {
            let low = (part >> (7 * digit)) as u8 & 0x7f;
            content.push(if digit == 0 { low } else { low | 0x80 });
        }
    }
    tagged(0x06, &content)
}

/// A positive integer of big-endian bytes.
pub(super) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
    if content.first().is_none_or(|b| b & 0x80 != 0) {
        content.insert(0, 0);
    }
    tagged(INTEGER, &content)
}

/// Bits, all bytes used.
pub(super) fn bits(bytes: &[u8]) -> Vec<u8> {
    tagged(BIT_STRING, &[&[0], bytes].concat())
}

/// Named bits by number, shortened as DER wants it.
pub(super) fn named_bits(set: &[u8]) -> Vec<u8> {
    let Some(last) = set.iter().max() else { return tagged(BIT_STRING, &[0]) };
    let mut bytes = vec![0_u8; usize::from(last / 8) + 1];
    for bit in set {
        bytes[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    tagged(BIT_STRING, &[&[7 - last % 8][..], &bytes].concat())
}

/// A time of X.509: two-digit years until 2049.
pub(super) fn time(at: jiff::Timestamp) -> Vec<u8> {
    let zoned = at.to_zoned(jiff::tz::TimeZone::UTC);
    let (tag, format) = if (1950..2050).contains(&zoned.year()) { (0x17, "%y%m%d%H%M%SZ") } else { (0x18, "%Y%m%d%H%M%SZ") };
    tagged(tag, zoned.strftime(format).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_x690_says() {
        assert_eq!(oid(&[1, 2, 840, 10045, 4, 3, 2]), [0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
        assert_eq!(unsigned(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0]), [2, 1, 0]);
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0xa0]);
        assert_eq!(tagged(4, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(tagged(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(time("2026-01-02T03:04:05Z".parse().unwrap())[2..], *b"260102030405Z");
        assert_eq!(time("2050-01-02T03:04:05Z".parse().unwrap())[2..], *b"20500102030405Z");
    }
}

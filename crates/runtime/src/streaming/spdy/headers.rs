//! SPDY/3.1 header blocks: name-value pairs in one zlib stream per direction, with a dictionary that both sides know.

use std::io::{Error, Result};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// No block is longer once decompressed, in bytes.
const MAX_BLOCK: usize = 64 * 1024;

/// Header pairs, names in lower case.
pub type Headers = Vec<(String, String)>;

/// The words of the dictionary that come with a length before them, in order.
const WORDS: [&str; 45] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
];

/// The second part of the words.
const MORE_WORDS: [&str; 20] = [
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// And the end of it, which is plain text.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary of the specification.
pub fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in WORDS.iter().chain(&MORE_WORDS) {
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Writes blocks.
pub struct Encoder(Compress);

impl Encoder {
    /// A fresh stream.
    pub fn new() -> Result<Self> {
        let mut stream = Compress::new(Compression::fast(), true);
        stream.set_dictionary(&dictionary()).map_err(Error::other)?;
        Ok(Self(stream))
    }

    /// One block.
    pub fn encode(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>> {
        let length = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = length(headers.len()).to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend_from_slice(&length(text.len()));
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let before = self.0.total_in();
        loop {
            let consumed = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            block.reserve(256);
            let room = block.capacity();
            self.0.compress_vec(&plain[consumed.min(plain.len())..], &mut block, FlushCompress::Sync).map_err(Error::other)?;
            let consumed = usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            if consumed >= plain.len() && block.len() < room {
                return Ok(block);
            }
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads blocks.
pub struct Decoder {
    stream: Decompress,
    dictionary_given: bool,
}

impl Decoder {
    /// A fresh stream.
    pub fn new() -> Self {
        Self { stream: Decompress::new(true), dictionary_given: false }
    }

    /// One block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers> {
        let mut plain = Vec::with_capacity(block.len() * 4 + 64);
        let start = self.stream.total_in();
        loop {
            let consumed = usize::try_from(self.stream.total_in() - start).unwrap_or(usize::MAX).min(block.len());
            plain.reserve(1024);
            let (before_in, before_out) = (self.stream.total_in(), plain.len());
            match self.stream.decompress_vec(&block[consumed..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !self.dictionary_given => {
                    self.stream.set_dictionary(&dictionary()).map_err(Error::other)?;
                    self.dictionary_given = true;
                    continue;
                }
                Err(error) => return Err(Error::other(error)),
            }
            if plain.len() > MAX_BLOCK {
                return Err(Error::other("a header block of more than 64 KiB"));
            }
            let consumed = usize::try_from(self.stream.total_in() - start).unwrap_or(usize::MAX);
            let stuck = self.stream.total_in() == before_in && plain.len() == before_out;
            if (consumed >= block.len() && plain.len() < plain.capacity()) || stuck {
                break;
            }
        }
        parse(&plain)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers> {
    let truncated = || Error::other("a truncated header block");
    let number = |plain: &mut &[u8]| -> Result<usize> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or_else(truncated)?;
        *plain = rest;
        Ok(u32::from_be_bytes(*head) as usize)
    };
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut pair = [String::new(), String::new()];
        for text in &mut pair {
            let length = number(&mut plain)?;
            let (value, rest) = plain.split_at_checked(length).ok_or_else(truncated)?;
            *text = String::from_utf8_lossy(value).into_owned();
            plain = rest;
        }
        let [name, value] = pair;
        headers.push((name.to_ascii_lowercase(), value));
    }
    Ok(headers)
}

/// The value of a header.
pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        let bytes = dictionary();
        assert_eq!(bytes.len(), 1423);
        // Adler-32, by which both sides of a zlib stream recognise it.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in bytes {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_survive_the_way_there_in_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::new().expect("a stream"), Decoder::new());
        let long = "x".repeat(5000);
        for round in 0..20 {
            let headers: Headers =
                vec![("streamtype".into(), "stdout".into()), ("port".into(), round.to_string()), ("x".into(), long.clone())];
            let block = encoder.encode(&headers).expect("encodes");
            assert_eq!(decoder.decode(&block).expect("decodes"), headers);
        }
        assert_eq!(decoder.decode(&encoder.encode(&[]).expect("encodes")).expect("decodes"), Headers::new());
    }

    #[test]
    fn a_broken_block_is_an_error() {
        assert!(Decoder::new().decode(b"not zlib").is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']).is_err());
    }
}

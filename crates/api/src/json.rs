//! The JSON of an object, kept small while nobody looks at it.
//!
//! Objects of a kind say nearly the same: of two Pods of one Deployment a few names, times and addresses differ, one part in thirty
//! of the bytes. [`Json::pack`] keeps what differs from a [`Template`], which many objects share, as an LZ4 block with the template as its
//! dictionary; unpacking costs little more than copying. What was packed reads the same, byte for byte, whoever holds the object:
//! that is what must never change here.

use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is shorter is not worth a block of its own.
const SHORT: usize = 384;
/// Of a longer template only the beginning is kept: an LZ4 block reaches back no further than twice this.
const LONG: usize = 32 << 10;

/// An object's bytes that others are packed against.
#[derive(Debug)]
pub struct Template {
    bytes: Box<[u8]>,
    /// Where `metadata` begins: all that is packed against this begins with the same bytes up to there.
    head: usize,
}

impl Template {
    /// Of the JSON of a typical object; none if it is too short, or if there is no `metadata`.
    pub fn new(json: &[u8]) -> Option<Arc<Template>> {
        if json.len() < SHORT {
            return None;
        }
        let bytes: Box<[u8]> = json[..json.len().min(LONG)].into();
        let head = memchr::memmem::find(&bytes, b"\"metadata\":")?;
        Some(Arc::new(Template { bytes, head }))
    }

    fn head(&self) -> &[u8] {
        &self.bytes[..self.head]
    }
}

/// Bytes packed against a template.
pub struct Packed {
    template: Arc<Template>,
    /// An LZ4 block behind its length unpacked.
    block: Box<[u8]>,
}

impl Packed {
    /// `None`: the bytes are too short, or not even half like the template.
    pub fn new(json: &[u8], template: &Arc<Template>) -> Option<Packed> {
        if json.len() < SHORT || u32::try_from(json.len()).is_err() || !json.starts_with(template.head()) {
            return None;
        }
        let block = lz4_flex::block::compress_prepend_size_with_dict(json, &template.bytes);
        (block.len() <= json.len() / 2).then(|| Packed { template: template.clone(), block: block.into() })
    }

    /// How many bytes keeping them takes, apart from the template.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.block.len()
    }

    fn plain_len(&self) -> usize {
        self.block.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize)
    }

    /// Appends the bytes.
    fn unpack(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + self.plain_len(), 0);
        let unpacked = lz4_flex::block::decompress_into_with_dict(&self.block[4..], &mut out[at..], &self.template.bytes);
        assert_eq!(unpacked.ok(), Some(out.len() - at), "a block was made by this process from as many bytes");
    }

    fn unpacked(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.unpack(&mut out);
        out
    }
}

enum State {
    Plain(Bytes),
    Packed(Packed),
}

/// See the module.
pub struct Json {
    state: RwLock<State>,
    /// 0: not counted.
    wire: AtomicU32,
}

impl Json {
    /// The bytes.
    pub fn bytes(&self) -> Bytes {
        match &*self.state.read() {
            State::Plain(bytes) => bytes.clone(),
            State::Packed(packed) => packed.unpacked().into(),
        }
    }

    /// Does something with the bytes. Packed ones are unpacked into `scratch`, which serves one object after the other.
    pub fn with<T>(&self, scratch: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> T) -> T {
        let state = self.state.read();
        match &*state {
            State::Plain(bytes) => {
                let bytes = bytes.clone();
                drop(state);
                read(&bytes)
            }
            State::Packed(packed) => {
                scratch.clear();
                packed.unpack(scratch);
                drop(state);
                read(scratch)
            }
        }
    }

    /// How many bytes they are.
    #[expect(clippy::len_without_is_empty, reason = "an object is never empty")]
    pub fn len(&self) -> usize {
        match &*self.state.read() {
            State::Plain(bytes) => bytes.len(),
            State::Packed(packed) => packed.plain_len(),
        }
    }

    /// How many bytes its message in protobuf is, once somebody has counted them: in a list that length stands far before the message.
    pub fn wire_len(&self) -> Option<usize> {
        Some(self.wire.load(Ordering::Relaxed) as usize).filter(|len| *len > 0)
    }

    /// They were counted. The bytes never change, so there is nothing else that they could be.
    pub fn count_wire(&self, len: usize) {
        self.wire.store(u32::try_from(len).unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether the bytes begin so.
    pub fn starts_with(&self, start: &[u8]) -> bool {
        match &*self.state.read() {
            State::Plain(bytes) => bytes.starts_with(start),
            State::Packed(packed) if start.len() <= packed.template.head => packed.template.head().starts_with(start),
            State::Packed(packed) => packed.unpacked().starts_with(start),
        }
    }

    /// What the bytes are packed against, if they are.
    pub fn template(&self) -> Option<Arc<Template>> {
        match &*self.state.read() {
            State::Plain(_) => None,
            State::Packed(packed) => Some(packed.template.clone()),
        }
    }

    /// Packs the bytes where they stand, for all who hold them: with what `how` makes of them, unless that is nothing.
    pub fn pack(&self, how: impl FnOnce(&[u8]) -> Option<Packed>) {
        let plain = match &*self.state.read() {
            State::Plain(bytes) => bytes.clone(),
            State::Packed(_) => return,
        };
        if let Some(packed) = how(&plain) {
            let before = std::mem::replace(&mut *self.state.write(), State::Packed(packed));
            drop(before); // Outside the lock.
        }
    }
}

impl From<Bytes> for Json {
    fn from(bytes: Bytes) -> Json {
        Json { state: RwLock::new(State::Plain(bytes)), wire: AtomicU32::new(0) }
    }
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const HEAD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":""#;

    fn pod(name: &str, filling: &str) -> Bytes {
        format!(r#"{HEAD}{name}"}},"spec":{{"containers":[{{"name":"main","image":"{filling}","args":["--listen=:8080","--verbose=2"]}}]}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True"}}],"podIP":"10.0.0.1"}},"more":"{filling}{filling}{filling}"}}"#).into()
    }

    fn template(json: &[u8]) -> Arc<Template> {
        Template::new(json).expect("long enough")
    }

    #[test]
    fn objects_that_say_nearly_the_same_take_little() {
        let filling: String = (0..400).map(|n| char::from(b'!' + (n * 7 % 90) as u8)).filter(|c| !"\\\"".contains(*c)).collect();
        let (plain, template) = (pod("b", &filling), template(&pod("a", &filling)));
        assert!(Packed::new(&plain, &template).expect("like the template").len() < 60);
        let json = Json::from(plain.clone());
        json.pack(|bytes| Packed::new(bytes, &template));
        assert!(json.template().is_some_and(|known| Arc::ptr_eq(&known, &template)));
        assert_eq!((json.bytes(), json.len()), (plain.clone(), plain.len()));
        for (start, so) in [(&HEAD[..10], true), (HEAD, true), ("{\"kind\":\"Po-", false), ("", true)] {
            assert_eq!(json.starts_with(start.as_bytes()), so, "{start}");
        }
    }

    #[test]
    fn what_is_short_or_unlike_or_of_another_version_stays_as_it_is() {
        let filling = "x".repeat(300);
        let template = template(&pod("a", &filling));
        assert!(Template::new(b"{}").is_none());
        assert!(Template::new("x".repeat(1000).as_bytes()).is_none(), "no metadata");
        let mut random = StdRng::seed_from_u64(3);
        let noise: String = (0..2000).map(|_| char::from(random.random_range(b'0'..=b'Z'))).collect();
        let other = String::from_utf8(pod("b", &filling).to_vec()).expect("text").replace("\"v1\"", "\"v2\"");
        for json in [
            Bytes::from("{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{}}"),
            format!("{HEAD}{noise}\"}}}}").into(),
            Bytes::from(other),
        ] {
            let kept = Json::from(json.clone());
            kept.pack(|bytes| Packed::new(bytes, &template));
            assert!(kept.template().is_none());
            assert_eq!(kept.bytes(), json);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_packed_comes_back_as_it_was(
            seed in proptest::collection::vec(any::<u8>(), 0..40_000),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 0..60), 0usize..60), 0..40),
        ) {
            let mut first = HEAD.as_bytes().to_vec();
            first.resize(SHORT, b'-');
            first.extend_from_slice(&seed);
            let mut second = first.clone();
            for (at, new, gone) in edits {
                let at = HEAD.len() + at.index(second.len() - HEAD.len());
                let end = (at + gone).min(second.len());
                second.splice(at..end, new);
            }
            let template = template(&first);
            let json = Json::from(Bytes::from(second.clone()));
            json.pack(|bytes| Packed::new(bytes, &template));
            prop_assert_eq!(json.bytes(), &second[..]);
            prop_assert_eq!(json.len(), second.len());
            prop_assert!(json.with(&mut vec![1, 2, 3], |bytes| bytes == second));
            prop_assert!(json.starts_with(&second) && json.starts_with(HEAD.as_bytes()));
        }
    }
}

//! How the log looks on disk. Pure: bytes in, bytes out, no files.
//!
//! A segment is a [`Header`] and then frames. A frame is what one sync made durable: either all of it counts or none.
//! A frame holds records; a record is one revision, one older revision copied forward by the cleaner, or a note.
//! All numbers are little-endian. A change of anything here raises [`VERSION`].
//!
//! The checksum of a frame covers the segment's salt and the frame's own offset, so bytes that look like a frame (in a
//! value, or left over from an earlier life of the disk block) are never taken for one.

use crate::Revision;

/// Version of this format. A build reads its own version only.
pub(super) const VERSION: u32 = 1;
/// Length of a segment's header.
pub(super) const HEADER_LEN: usize = 64;
/// Length of a frame's header.
pub(super) const FRAME_LEN: usize = 16;
/// Length of a record's header; the key and then the value follow.
pub(super) const RECORD_LEN: usize = 44;
/// Longest key.
pub(super) const MAX_KEY: usize = u16::MAX as usize;
/// Longest value. Far above what the API server lets through; it keeps every offset within 32 bits.
pub(super) const MAX_VALUE: usize = 64 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"FERROLOG";
/// First bytes of a frame.
pub(super) const FRAME_MAGIC: [u8; 4] = [0xf5, 0x4b, 0x8e, 0x01];
const MOVED: u8 = 0x80;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What a segment says of itself and of the store at the moment it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Number of the segment; they are contiguous.
    pub id: u32,
    /// Random; part of every frame's checksum.
    pub salt: u64,
    /// Current revision when the segment was made: earlier segments may go, the revision may not go back.
    pub revision: Revision,
    /// Compacted revision when the segment was made.
    pub compacted: Revision,
    /// Oldest segment when this one was made.
    pub oldest: u32,
}

impl Header {
    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.salt.to_le_bytes());
        out[24..32].copy_from_slice(&self.revision.to_le_bytes());
        out[32..40].copy_from_slice(&self.compacted.to_le_bytes());
        out[40..44].copy_from_slice(&self.oldest.to_le_bytes());
        let sum = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Header, String> {
        if bytes.len() < HEADER_LEN || bytes[..8] != SEGMENT_MAGIC {
            return Err("not a segment of a Ferrokube store".into());
        }
        // The version comes before the checksum: a later format may well move the checksum.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("format version {version}; this build reads version {VERSION}"));
        }
        if u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return Err("checksum of the segment header does not match".into());
        }
        Ok(Header {
            id: u32_at(bytes, 12),
            salt: u64_at(bytes, 16),
            revision: u64_at(bytes, 24),
            compacted: u64_at(bytes, 32),
            oldest: u32_at(bytes, 40),
        })
    }
}

/// Length of the records in a frame, when `header` starts like a frame.
pub(super) fn frame_payload_len(header: &[u8]) -> Option<usize> {
    (header.len() >= FRAME_LEN && header[..4] == FRAME_MAGIC && header[12..16] == [0; 4]).then(|| u32_at(header, 4) as usize)
}

fn frame_sum(salt: u64, offset: u64, len: u32, payload: &[u8]) -> u32 {
    let mut seed = [0; 20];
    seed[..8].copy_from_slice(&salt.to_le_bytes());
    seed[8..16].copy_from_slice(&offset.to_le_bytes());
    seed[16..].copy_from_slice(&len.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), payload)
}

/// Fills in the header of a frame whose records start at [`FRAME_LEN`] in `frame`.
pub(super) fn seal_frame(frame: &mut [u8], salt: u64, offset: u64) {
    let len = (frame.len() - FRAME_LEN) as u32;
    let sum = frame_sum(salt, offset, len, &frame[FRAME_LEN..]);
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[4..8].copy_from_slice(&len.to_le_bytes());
    frame[8..12].copy_from_slice(&sum.to_le_bytes());
    frame[12..16].copy_from_slice(&[0; 4]);
}

/// Whether a whole frame (header and records) found at `offset` is sound.
pub(super) fn frame_is_sound(frame: &[u8], salt: u64, offset: u64) -> bool {
    match frame_payload_len(frame) {
        Some(len) if frame.len() == FRAME_LEN + len => u32_at(frame, 8) == frame_sum(salt, offset, len as u32, &frame[FRAME_LEN..]),
        _ => false,
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key got a value.
    Put,
    /// A key went.
    Delete,
    /// `revision` is the new compacted revision.
    Compacted,
    /// `revision` is the number of a segment in which nothing counts any more, nor in any before it.
    Dropped,
    /// The store was closed in an orderly way; `revision` is the current one.
    Closed,
}

/// One record, borrowed from the bytes it was read from or is to be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// What it says.
    pub kind: Kind,
    /// Copied forward by the cleaner: the revision happened earlier than its place in the log tells.
    pub moved: bool,
    /// The revision (or the number a note is about).
    pub revision: Revision,
    /// Revision that created the key; 0 in a delete.
    pub create: Revision,
    /// When the key expires, in milliseconds since the epoch; 0: never.
    pub expiry: u64,
    /// In a moved record: the revision that superseded this one, 0 when none had. Once that is compacted the record is
    /// void, even though what superseded it may have left the log before.
    pub until: Revision,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record that is a note about `number`.
    pub fn note(kind: Kind, number: u64) -> Record<'static> {
        Record { kind, moved: false, revision: number, create: 0, expiry: 0, until: 0, key: &[], value: &[] }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        RECORD_LEN + self.key.len() + self.value.len()
    }

    /// Appends the record. Key and value are within [`MAX_KEY`] and [`MAX_VALUE`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let kind = match self.kind {
            Kind::Put => 1,
            Kind::Delete => 2,
            Kind::Compacted => 3,
            Kind::Dropped => 4,
            Kind::Closed => 5,
        };
        out.reserve(self.len());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        out.extend_from_slice(&[kind | if self.moved { MOVED } else { 0 }, 0]);
        for number in [self.revision, self.create, self.expiry, self.until] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
        let sum = crc32c::crc32c(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads the record at the start of `bytes` without checking its sum (the frame's sum has been checked).
    pub fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        if bytes.len() < RECORD_LEN {
            return None;
        }
        let key_end = RECORD_LEN + usize::from(u16_at(bytes, 8));
        let end = key_end + u32_at(bytes, 4) as usize;
        let kind = match bytes[10] & !MOVED {
            1 => Kind::Put,
            2 => Kind::Delete,
            3 => Kind::Compacted,
            4 => Kind::Dropped,
            5 => Kind::Closed,
            _ => return None,
        };
        Some(Record {
            kind,
            moved: bytes[10] & MOVED != 0,
            revision: u64_at(bytes, 12),
            create: u64_at(bytes, 20),
            expiry: u64_at(bytes, 28),
            until: u64_at(bytes, 36),
            key: bytes.get(RECORD_LEN..key_end)?,
            value: bytes.get(key_end..end)?,
        })
    }

    /// Reads a record that fills `bytes` exactly and checks its sum: for reads by position.
    pub fn decode_checked(bytes: &'a [u8]) -> Option<Record<'a>> {
        let record = Record::decode(bytes)?;
        (record.len() == bytes.len() && u32_at(bytes, 0) == crc32c::crc32c(&bytes[4..])).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record { kind: Kind::Put, moved: true, revision: 7, create: 3, expiry: 99, until: 12, key: b"a/b", value: b"value" }
    }

    #[test]
    fn a_record_reads_back_as_written_and_any_flipped_bit_is_noticed() {
        let mut bytes = Vec::new();
        record().encode(&mut bytes);
        assert_eq!(bytes.len(), record().len());
        assert_eq!(Record::decode_checked(&bytes), Some(record()));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode_checked(&bytes), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_frame_is_sound_only_where_it_was_written() {
        let mut frame = vec![0; FRAME_LEN];
        record().encode(&mut frame);
        seal_frame(&mut frame, 5, 64);
        assert!(frame_is_sound(&frame, 5, 64));
        assert!(!frame_is_sound(&frame, 5, 65));
        assert!(!frame_is_sound(&frame, 6, 64));
        assert!(!frame_is_sound(&frame[..frame.len() - 1], 5, 64));
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(!frame_is_sound(&frame, 5, 64), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_header_of_another_version_says_so() {
        let header = Header { id: 3, salt: 1, revision: 9, compacted: 4, oldest: 2 };
        let mut bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes), Err("format version 2; this build reads version 1".into()));
        bytes[8] = 1;
        bytes[30] ^= 1;
        assert!(Header::decode(&bytes).is_err_and(|e| e.contains("checksum")));
    }
}

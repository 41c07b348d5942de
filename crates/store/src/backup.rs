//! Backups: the present value of every key in one file that ends with its checksum.
//!
//! The format is that of no engine, so that a backup outlives changes of the engines and can be restored into either. Secrets are in it
//! as they are in the store: encrypted at rest or not. A file is a header (magic, version, revision, number of entries, time), the
//! entries in key order, and the SHA-256 of everything before it. All numbers are little-endian.
//!
//! A restored store goes on at a revision far above the backup's and knows no history: whoever watched the old one is told that its
//! position is gone (410) and lists again, and no revision is ever given twice for different things.
//!
//! etcd's own backups are its snapshots ([`crate::etcd::Etcd::snapshot`]); they are known here only to be verified.

use crate::{Error, Expect, KeyValue, Result, Revision, Store};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::time::Duration;

const MAGIC: [u8; 8] = *b"FERROBAK";
const VERSION: u32 = 1;
const HEADER: usize = 36;
const ENTRY: usize = 32;
const SUM: usize = 32;
/// No key and no value is larger; what says so is damaged.
const MOST: u32 = 64 << 20;
/// Writes under way at once when a backup is restored through the trait.
const TOGETHER: usize = 64;
/// etcd's database (bbolt) has this behind the header of its first page.
const BOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// How far a restored store's revision is above the backup's: more writes than happened between backup and restore.
pub const BUMP: u64 = 1_000_000_000;

/// What a backup says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The revision it shows.
    pub revision: Revision,
    /// Keys in it.
    pub entries: u64,
    /// When it was made, in milliseconds since the epoch.
    pub taken: u64,
}

/// A key with what else must be known to restore it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key, value, revisions.
    pub kv: KeyValue,
    /// When it expires, in milliseconds since the epoch; 0: never.
    pub expiry: u64,
}

fn failed(doing: &str, e: &std::io::Error) -> Error {
    Error::Unavailable(format!("{doing} the backup: {e}"))
}

fn damaged(detail: impl Into<String>) -> Error {
    Error::Corrupted { path: "the backup".into(), detail: detail.into() }
}

/// Writes a backup.
pub struct Writer<W> {
    to: W,
    sum: Sha256,
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with what is to come.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be written.
    pub fn new(to: W, summary: Summary) -> Result<Self> {
        let mut writer = Writer { to, sum: Sha256::new(), left: summary.entries };
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        for number in [summary.revision, summary.entries, summary.taken] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes).map_err(|e| failed("writing", &e))
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be written.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        let kv = &entry.kv;
        let mut head = [0; ENTRY];
        head[..4].copy_from_slice(&(kv.key.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(kv.value.len() as u32).to_le_bytes());
        head[8..16].copy_from_slice(&kv.create_revision.to_le_bytes());
        head[16..24].copy_from_slice(&kv.mod_revision.to_le_bytes());
        head[24..].copy_from_slice(&entry.expiry.to_le_bytes());
        self.put(&head)?;
        self.put(&kv.key)?;
        self.put(&kv.value)?;
        self.left = self.left.checked_sub(1).ok_or_else(|| damaged("more entries than announced"))?;
        Ok(())
    }

    /// Ends with the checksum; gives the writer back, flushed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it cannot be written, [`Error::Corrupted`] when entries are missing.
    pub fn finish(mut self) -> Result<W> {
        if self.left != 0 {
            return Err(damaged(format!("{} entries less than announced", self.left)));
        }
        self.to.write_all(&self.sum.finalize()).and_then(|()| self.to.flush()).map_err(|e| failed("writing", &e))?;
        Ok(self.to)
    }
}

/// Reads a backup. Nothing of it may be used for good before the end has been reached: only there its checksum is known.
pub struct Reader<R> {
    from: R,
    sum: Sha256,
    summary: Summary,
    left: u64,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

fn short(bytes: &[u8], at: usize) -> u32 {
    number(bytes, at) as u32
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Corrupted`] when it is no backup of a known version.
    pub fn new(from: R) -> Result<Self> {
        let summary = Summary { revision: 0, entries: 0, taken: 0 };
        let mut reader = Reader { from, sum: Sha256::new(), summary, left: 0 };
        let header = reader.take(HEADER)?;
        if header[..8] != MAGIC {
            let etcd = header[16..20] == BOLT_MAGIC;
            return Err(damaged(if etcd {
                "it is a snapshot of etcd: restore it with `etcdutl snapshot restore --bump-revision 1000000000 --mark-compacted`"
            } else {
                "it is not a backup of Ferrokube"
            }));
        }
        let version = short(&header, 8);
        if version != VERSION {
            return Err(damaged(format!("format version {version}; this build reads version {VERSION}")));
        }
        reader.summary = Summary { revision: number(&header, 12), entries: number(&header, 20), taken: number(&header, 28) };
        reader.left = reader.summary.entries;
        Ok(reader)
    }

    /// What it says of itself.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    fn read(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.from.read_exact(&mut bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged("it ends early"),
            _ => failed("reading", &e),
        })?;
        Ok(bytes)
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let bytes = self.read(count)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    /// The next entry; `None` at the end, when the checksum holds.
    ///
    /// # Errors
    /// [`Error::Corrupted`] when the file is damaged.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.left == 0 {
            let sum = self.read(SUM)?;
            return if sum == self.sum.clone().finalize()[..] { Ok(None) } else { Err(damaged("its checksum does not match")) };
        }
        self.left -= 1;
        let head = self.take(ENTRY)?;
        let (key, value) = (short(&head, 0), short(&head, 4));
        if key > MOST || value > MOST {
            return Err(damaged("an entry is larger than any can be"));
        }
        let kv = KeyValue {
            key: self.take(key as usize)?.into(),
            value: self.take(value as usize)?.into(),
            create_revision: number(&head, 8),
            mod_revision: number(&head, 16),
        };
        Ok(Some(Entry { kv, expiry: number(&head, 24) }))
    }
}

/// What a verified file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A backup of ours.
    Backup(Summary),
    /// A snapshot of etcd of so many bytes.
    EtcdSnapshot(u64),
}

/// Reads a file to its end and checks its checksum.
///
/// # Errors
/// [`Error::Corrupted`] when it is damaged or neither a backup nor a snapshot, [`Error::Unavailable`] when it cannot be read.
pub fn verify(file: &mut (impl Read + std::io::Seek)) -> Result<Verified> {
    let mut start = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut start).map_err(|e| failed("reading", &e))?;
    file.rewind().map_err(|e| failed("reading", &e))?;
    if start.get(16..20) == Some(&BOLT_MAGIC) {
        return verify_snapshot(file).map(Verified::EtcdSnapshot);
    }
    let mut reader = Reader::new(std::io::BufReader::with_capacity(1 << 20, file))?;
    while reader.next_entry()?.is_some() {}
    Ok(Verified::Backup(reader.summary()))
}

/// etcd appends the SHA-256 of the database.
fn verify_snapshot(file: &mut impl Read) -> Result<u64> {
    let (mut sum, mut tail, mut buffer, mut total) = (Sha256::new(), Vec::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut buffer).map_err(|e| failed("reading", &e))?;
        if count == 0 {
            break;
        }
        total += count as u64;
        tail.extend_from_slice(&buffer[..count]);
        let known = tail.len().saturating_sub(SUM);
        sum.update(&tail[..known]);
        tail.drain(..known);
    }
    if tail[..] == sum.finalize()[..] { Ok(total) } else { Err(damaged("the checksum of the snapshot does not match")) }
}

/// Writes a backup into an empty store through the trait, that is into etcd. Objects get new revisions there.
///
/// # Errors
/// [`Error::Unavailable`] when the store is not empty, and what reading and writing fail with. What was written until then stays.
pub async fn restore_into(store: &dyn Store, mut reader: Reader<impl Read>, now: u64) -> Result<Summary> {
    let (start, end) = (Bytes::from_static(b"/registry/"), crate::prefix_end(b"/registry/"));
    let present = store.range(start, end, None, 1).await?.count;
    if present > 0 {
        return Err(Error::Unavailable(format!("the store is not empty: {present} keys")));
    }
    let summary = reader.summary();
    let entries = std::iter::from_fn(|| reader.next_entry().transpose());
    let write = |entry: Result<Entry>| async move {
        let Entry { kv, expiry } = entry?;
        let ttl = (expiry != 0).then(|| Duration::from_millis(expiry.saturating_sub(now).max(1000)));
        store.put(kv.key, kv.value, Expect::Absent, ttl).await.map(drop)
    };
    stream::iter(entries).map(write).buffer_unordered(TOGETHER).try_collect::<()>().await?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        let kv = KeyValue { key: format!("/k/{n}").into(), value: vec![n as u8; 100].into(), create_revision: n, mod_revision: n + 1 };
        Entry { kv, expiry: n * 7 }
    }

    fn backup() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), Summary { revision: 9, entries: 3, taken: 5 }).expect("begins");
        (0..3).for_each(|n| writer.entry(&entry(n)).expect("an entry"));
        writer.finish().expect("ends")
    }

    #[test]
    fn a_backup_reads_back_as_written() {
        let bytes = backup();
        let mut reader = Reader::new(&bytes[..]).expect("a header");
        assert_eq!(reader.summary(), Summary { revision: 9, entries: 3, taken: 5 });
        for n in 0..3 {
            assert_eq!(reader.next_entry().expect("sound"), Some(entry(n)));
        }
        assert_eq!(reader.next_entry().expect("sound"), None);
    }

    #[test]
    fn any_changed_byte_and_any_missing_end_is_noticed() {
        let bytes = backup();
        let check = |bytes: &[u8]| verify(&mut std::io::Cursor::new(bytes));
        assert!(matches!(check(&bytes), Ok(Verified::Backup(_))));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(check(&changed).is_err(), "byte {at}");
            assert!(check(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn entries_are_as_many_as_announced() {
        let mut writer = Writer::new(Vec::new(), Summary { revision: 9, entries: 1, taken: 5 }).expect("begins");
        writer.entry(&entry(1)).expect("one");
        assert!(writer.entry(&entry(2)).is_err());
        let none = Writer::new(Vec::new(), Summary { revision: 9, entries: 1, taken: 5 }).expect("begins");
        assert!(none.finish().is_err());
    }
}

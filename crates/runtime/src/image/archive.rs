//! Archives of images: OCI layouts (folder or tar) and `docker save` tars, also gzipped.
//!
//! A tar is indexed once and then read by offset, so that layers are unpacked straight from it. Names inside an
//! archive come from strangers: nothing outside the archive is ever read for them.

use super::compression::decompress;
use super::error::{Error, IoContext as _, Result};
use super::reference::{Digest, Reference};
use super::spec::{Descriptor, Index, decode};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Largest manifest, index or config taken, in bytes.
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Where an annotation names an image: the full name first, then the OCI one, which may be a bare tag.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An opened archive.
pub struct Archive {
    source: Source,
    /// The decompressed copy of a compressed tar, deleted in the end.
    temporary: Option<PathBuf>,
}

enum Source {
    Folder(PathBuf),
    Tar { path: PathBuf, entries: HashMap<PathBuf, Entry> },
}

enum Entry {
    File { offset: u64, size: u64 },
    Link(PathBuf),
}

/// An image found in an archive.
pub struct Found {
    /// What it is called, if the archive says.
    pub names: Vec<Reference>,
    /// Where it starts.
    pub start: Start,
}

/// How an archive leads to an image.
pub enum Start {
    /// A manifest or index of an OCI layout.
    Oci(Descriptor),
    /// File names of config and layers of a `docker save` archive.
    Docker {
        /// Of the config document.
        config: String,
        /// Of the layers, bottom first.
        layers: Vec<String>,
    },
}

impl Archive {
    /// Opens a folder or file. `scratch` is where a compressed tar is unpacked to meanwhile.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let found = fs::metadata(path).doing(|| format!("open {}", path.display()))?;
        if found.is_dir() {
            let folder = fs::canonicalize(path).doing(|| format!("open {}", path.display()))?;
            return Ok(Self { source: Source::Folder(folder), temporary: None });
        }
        let mut file = BufReader::new(File::open(path).doing(|| format!("open {}", path.display()))?);
        let plain = is_tar(file.fill_buf().doing(|| format!("read {}", path.display()))?);
        let mut archive = Self { source: Source::Tar { path: path.to_owned(), entries: HashMap::new() }, temporary: None };
        if !plain {
            archive.temporary = Some(scratch.to_owned());
            let copy = || -> io::Result<()> {
                io::copy(&mut decompress(file)?, &mut File::create(scratch)?)?;
                Ok(())
            };
            copy().doing(|| format!("failed to decompress {}", path.display()))?;
            archive.source = Source::Tar { path: scratch.to_owned(), entries: HashMap::new() };
        }
        archive.index().map_err(|e| Error::io(format!("{} is neither an OCI layout nor a docker archive", path.display()), e))?;
        Ok(archive)
    }

    fn index(&mut self) -> io::Result<()> {
        let Source::Tar { path, entries } = &mut self.source else { return Ok(()) };
        let mut tar = tar::Archive::new(File::open(path)?);
        for entry in tar.entries_with_seek()? {
            let entry = entry?;
            let Ok(name) = inside(&entry.path()?) else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                entries.insert(name, Entry::File { offset: entry.raw_file_position(), size: entry.size() });
            } else if let (true, Some(target)) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?) {
                let base = if kind.is_symlink() { name.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                if let Some(target) = join(base, &target) {
                    entries.insert(name, Entry::Link(target));
                }
            }
        }
        Ok(())
    }

    /// A stream over one file of the archive.
    pub fn open_file(&self, name: &str) -> Result<Box<dyn BufRead + Send>> {
        let failed = |e: io::Error| Error::io(format!("read {name:?} of the archive"), e);
        let mut wanted = inside(Path::new(name)).map_err(|()| Error::Invalid(format!("{name:?} leads out of the archive")))?;
        match &self.source {
            Source::Folder(folder) => {
                let path = fs::canonicalize(folder.join(&wanted)).map_err(|e| missing(name, e))?;
                if !path.starts_with(folder) {
                    return Err(Error::Invalid(format!("{name:?} leads out of the archive")));
                }
                Ok(Box::new(BufReader::with_capacity(64 * 1024, File::open(path).map_err(failed)?)))
            }
            Source::Tar { path, entries } => {
                for _ in 0..8 {
                    match entries.get(&wanted) {
                        Some(Entry::File { offset, size }) => {
                            let mut file = File::open(path).map_err(failed)?;
                            file.seek(SeekFrom::Start(*offset)).map_err(failed)?;
                            return Ok(Box::new(BufReader::with_capacity(64 * 1024, file.take(*size))));
                        }
                        Some(Entry::Link(target)) => wanted = target.clone(),
                        None => break,
                    }
                }
                Err(missing(name, io::ErrorKind::NotFound.into()))
            }
        }
    }

    /// A whole small file.
    pub fn document(&self, name: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut stream = self.open_file(name)?.take(DOCUMENT_LIMIT + 1);
        stream.read_to_end(&mut bytes).doing(|| format!("read {name:?} of the archive"))?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(Error::Invalid(format!("{name:?} of the archive is larger than {DOCUMENT_LIMIT} bytes")));
        }
        Ok(bytes)
    }

    /// The images inside. `name` is what an image is called whose archive gives at most a bare tag.
    pub fn images(&self, name: Option<&Reference>) -> Result<Vec<Found>> {
        match self.document("index.json") {
            Ok(bytes) => oci_images(&decode::<Index>(&bytes, "index.json")?, name),
            Err(Error::NotFound(_)) => match self.document("manifest.json") {
                Ok(bytes) => docker_images(&bytes, name),
                Err(Error::NotFound(_)) => {
                    Err(Error::Invalid("neither an OCI layout nor a docker archive: no index.json and no manifest.json".into()))
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = fs::remove_file(path);
        }
    }
}

/// The file of a blob in an OCI layout.
pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn missing(name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(format!("{name:?} in the archive")),
        _ => Error::io(format!("read {name:?} of the archive"), error),
    }
}

/// A tar starts with a header that says so (or with zeros, when it is empty).
fn is_tar(start: &[u8]) -> bool {
    start.get(257..262).is_some_and(|magic| magic == b"ustar") || start.get(..512).is_some_and(|block| block.iter().all(|b| *b == 0))
}

/// A name as a clean relative path, or an error when it leads outside.
fn inside(path: &Path) -> Result<PathBuf, ()> {
    join(Path::new(""), path).ok_or(())
}

fn join(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut joined = base.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => joined.push(name),
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(joined)
}

fn oci_images(index: &Index, name: Option<&Reference>) -> Result<Vec<Found>> {
    let mut by_name: BTreeMap<Option<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for manifest in &index.manifests {
        by_name.entry(annotated_name(manifest, name)?).or_default().push(manifest.clone());
    }
    let mut found = Vec::new();
    for (name, manifests) in by_name {
        let names: Vec<_> = name.into_iter().collect();
        let several_platforms = manifests.len() > 1 && manifests.iter().all(|m| m.platform.is_some());
        if several_platforms {
            let index = Index { manifests };
            let best = super::platform::select(&index, &super::platform::Platform::host())?.clone();
            found.push(Found { names, start: Start::Oci(best) });
            continue;
        }
        found.extend(manifests.into_iter().map(|m| Found { names: names.clone(), start: Start::Oci(m) }));
    }
    Ok(found)
}

fn annotated_name(manifest: &Descriptor, base: Option<&Reference>) -> Result<Option<Reference>> {
    let Some(written) = NAME_ANNOTATIONS.iter().find_map(|key| manifest.annotations.get(*key)) else {
        return Ok(base.cloned());
    };
    let bare = !written.contains(['/', ':']);
    match (bare, base) {
        (true, Some(base)) => Reference::parse(&format!("{}:{written}", base.repository())).map(Some),
        _ => Reference::parse(written).map(Some),
    }
}

fn docker_images(bytes: &[u8], name: Option<&Reference>) -> Result<Vec<Found>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        #[serde(default)]
        layers: Option<Vec<String>>,
    }
    let saved: Vec<Saved> = decode(bytes, "manifest.json")?;
    let image = |saved: Saved| {
        let names = saved.repo_tags.unwrap_or_default().iter().map(|tag| Reference::parse(tag)).collect::<Result<Vec<_>>>()?;
        let names = if names.is_empty() { name.cloned().into_iter().collect() } else { names };
        Ok(Found { names, start: Start::Docker { config: saved.config, layers: saved.layers.unwrap_or_default() } })
    };
    saved.into_iter().map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_the_archive() {
        for name in ["../x", "a/../../x", "/etc/passwd", ".."] {
            assert!(inside(Path::new(name)).is_err(), "{name}");
        }
        assert_eq!(inside(Path::new("./a/../b")).expect("inside"), Path::new("b"));
    }

    #[test]
    fn a_bare_tag_needs_a_name_to_go_with() {
        let mut manifest = Descriptor {
            media_type: String::new(),
            digest: Digest::of(b""),
            size: 0,
            platform: None,
            annotations: BTreeMap::from([(NAME_ANNOTATIONS[1].to_owned(), "v1".to_owned())]),
        };
        let base = Reference::parse("localhost/app").expect("valid");
        let named = |m: &Descriptor, base| annotated_name(m, base).expect("valid").map(|r| r.to_string());
        assert_eq!(named(&manifest, Some(&base)).as_deref(), Some("localhost/app:v1"));
        manifest.annotations.insert(NAME_ANNOTATIONS[0].to_owned(), "localhost/other:v2".to_owned());
        assert_eq!(named(&manifest, Some(&base)).as_deref(), Some("localhost/other:v2"), "the full name wins");
        manifest.annotations.clear();
        assert_eq!(named(&manifest, None), None);
    }
}

//! Container images made from nothing: layers entry by entry, then a manifest, then wherever they should go.
//!
//! Deliberately able to make images that no honest tool would: tests need those most.

use crate::registry::Registry;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use tar::{EntryType, Header};

/// Media type of OCI manifests.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of OCI indexes.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of Docker schema 2 manifests.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// `sha256:<hex>` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// What nearly everybody uses.
    Gzip,
}

/// One layer under construction: a tar stream.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

impl Layer {
    /// Without entries.
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), xattrs: Vec::new() }
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, mode, (0, 0), b"", None)
    }

    /// A regular file owned by root.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, mode, (0, 0), content.as_ref(), None)
    }

    /// A regular file of somebody.
    #[must_use]
    pub fn owned_file(self, path: &str, mode: u32, owner: (u64, u64), content: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, mode, owner, content.as_ref(), None)
    }

    /// A symbolic link; the target is taken as it is.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, (0, 0), b"", Some(target))
    }

    /// A hard link to an earlier path.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o644, (0, 0), b"", Some(target))
    }

    /// Deletes a path of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{name}"), 0o644, b"")
    }

    /// Hides everything below in a directory; empty is the root.
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        let separator = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{separator}.wh..wh..opq"), 0o644, b"")
    }

    /// A character device.
    #[must_use]
    pub fn char_device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, path, 0o600, (0, 0), 0, None);
        header.set_device_major(major).and_then(|()| header.set_device_minor(minor)).expect("ustar headers have device numbers");
        header.set_cksum();
        self.tar.append(&header, &b""[..]).expect("memory does not fail");
        self
    }

    /// An extended attribute for the next entry.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    /// An entry of any kind with any path, honest or not.
    #[must_use]
    pub fn entry(mut self, kind: EntryType, path: &str, mode: u32, owner: (u64, u64), content: &[u8], link: Option<&str>) -> Self {
        let xattrs = std::mem::take(&mut self.xattrs);
        if !xattrs.is_empty() {
            let pairs = xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            self.tar.append_pax_extensions(pairs).expect("memory does not fail");
        }
        if path.len() > 100 {
            self.long_name(path);
        }
        let header = header(kind, path, mode, owner, content.len() as u64, link);
        self.tar.append(&header, content).expect("memory does not fail");
        self
    }

    fn long_name(&mut self, path: &str) {
        let mut header = header(EntryType::GNULongName, "././@LongLink", 0o644, (0, 0), path.len() as u64 + 1, None);
        header.set_cksum();
        let content = [path.as_bytes(), b"\0"].concat();
        self.tar.append(&header, content.as_slice()).expect("memory does not fail");
    }

    /// The tar stream.
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("memory does not fail")
    }
}

/// A header whose names are written as they are: the `tar` crate refuses those that tests need.
fn header(kind: EntryType, path: &str, mode: u32, owner: (u64, u64), size: u64, link: Option<&str>) -> Header {
    let mut header = Header::new_gnu();
    let put = |field: &mut [u8], text: &str| {
        let text = &text.as_bytes()[..text.len().min(field.len())];
        field[..text.len()].copy_from_slice(text);
    };
    put(&mut header.as_old_mut().name, path);
    put(&mut header.as_old_mut().linkname, link.unwrap_or_default());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

/// An image under construction.
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, Compression)>,
    config: Value,
    architecture: String,
    docker: bool,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// An OCI image for this machine without layers.
    pub fn new() -> Self {
        Self { layers: Vec::new(), config: json!({}), architecture: goarch().to_owned(), docker: false }
    }

    /// Adds a gzipped layer on top.
    #[must_use]
    pub fn layer(self, layer: Layer) -> Self {
        self.layer_as(layer, Compression::Gzip)
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer_as(mut self, layer: Layer, compression: Compression) -> Self {
        self.layers.push((layer.finish(), compression));
        self
    }

    /// Sets one field of the container defaults, e.g. `("Cmd", json!(["sh"]))`.
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// For another CPU, by GOARCH.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        self.architecture = architecture.to_owned();
        self
    }

    /// With Docker's media types instead of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Compresses, hashes and writes the documents.
    pub fn build(self) -> BuiltImage {
        let layers: Vec<_> = self.layers.into_iter().map(|(tar, compression)| BuiltLayer::new(&tar, compression)).collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z", "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let (media_type, config_type, layer_type) = match self.docker {
            true => {
                (DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip")
            }
            false => (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        };
        let descriptors: Vec<_> =
            layers.iter().map(|layer| json!({ "mediaType": layer_type, "digest": layer.digest, "size": layer.bytes.len() })).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": descriptors,
            "config": { "mediaType": config_type, "digest": digest(&config), "size": config.len() },
        });
        BuiltImage { media_type, manifest: manifest.to_string().into_bytes(), config, layers, architecture: self.architecture }
    }
}

/// A compressed layer with its digests.
#[derive(Clone)]
pub struct BuiltLayer {
    /// What a registry serves.
    pub bytes: Vec<u8>,
    /// Of `bytes`.
    pub digest: String,
    /// Of the tar stream.
    pub diff_id: String,
}

impl BuiltLayer {
    fn new(tar: &[u8], compression: Compression) -> Self {
        let bytes = match compression {
            Compression::None => tar.to_vec(),
            Compression::Gzip => gzip(tar),
        };
        Self { digest: digest(&bytes), diff_id: digest(tar), bytes }
    }
}

/// Gzips bytes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not fail")
}

/// A finished image.
#[derive(Clone)]
pub struct BuiltImage {
    /// Of the manifest.
    pub media_type: &'static str,
    /// The manifest document.
    pub manifest: Vec<u8>,
    /// The config document.
    pub config: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<BuiltLayer>,
    architecture: String,
}

impl BuiltImage {
    /// The image id: digest of the config.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// Digest of the manifest.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Puts the image into a registry and returns the reference to pull it by.
    pub fn push(&self, registry: &Registry, repository: &str, tag: &str) -> String {
        registry.put_blob(&self.config);
        for layer in &self.layers {
            registry.put_blob(&layer.bytes);
        }
        registry.put_manifest(repository, tag, self.media_type, &self.manifest);
        format!("{}/{repository}:{tag}", registry.host())
    }

    /// Puts several images under one tag, each for its platform.
    pub fn push_index(images: &[&Self], registry: &Registry, repository: &str, tag: &str) -> String {
        for image in images {
            image.push(registry, repository, &image.digest());
        }
        let manifests: Vec<_> = images.iter().map(|image| image.descriptor(None)).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        registry.put_manifest(repository, tag, OCI_INDEX, index.to_string().as_bytes());
        format!("{}/{repository}:{tag}", registry.host())
    }

    fn descriptor(&self, name: Option<&str>) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type, "digest": self.digest(), "size": self.manifest.len(),
            "platform": { "os": "linux", "architecture": self.architecture },
        });
        if let Some(name) = name {
            descriptor["annotations"] = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
        }
        descriptor
    }

    /// The files of an OCI layout with this one image.
    fn oci_files(&self, name: Option<&str>) -> Vec<(String, Vec<u8>)> {
        let blob = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let index = json!({ "schemaVersion": 2, "manifests": [self.descriptor(name)] });
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            (blob(&self.digest()), self.manifest.clone()),
            (blob(&self.id()), self.config.clone()),
        ];
        files.extend(self.layers.iter().map(|layer| (blob(&layer.digest), layer.bytes.clone())));
        files
    }

    /// Writes an OCI layout folder.
    pub fn write_oci_dir(&self, dir: &Path, name: Option<&str>) -> Result<()> {
        for (path, bytes) in self.oci_files(name) {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes an OCI layout tar.
    pub fn write_oci_tar(&self, path: &Path, name: Option<&str>) -> Result<()> {
        fs::write(path, tar_of(self.oci_files(name))).with_context(|| format!("write {}", path.display()))
    }

    /// Writes what `docker save` writes.
    pub fn write_docker_tar(&self, path: &Path, tags: &[&str]) -> Result<()> {
        fs::write(path, self.docker_tar(tags)).with_context(|| format!("write {}", path.display()))
    }

    /// What `docker save` writes, as bytes. Layers are stored the way they were built.
    pub fn docker_tar(&self, tags: &[&str]) -> Vec<u8> {
        let config = format!("{}.json", self.id().trim_start_matches("sha256:"));
        let names: Vec<_> = (0..self.layers.len()).map(|index| format!("layer{index}/layer.tar")).collect();
        let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": names }]);
        let mut files = vec![("manifest.json".to_owned(), manifest.to_string().into_bytes()), (config, self.config.clone())];
        files.extend(names.into_iter().zip(self.layers.iter().map(|layer| layer.bytes.clone())));
        tar_of(files)
    }
}

fn tar_of(files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    files.into_iter().fold(Layer::new(), |tar, (path, bytes)| tar.file(&path, 0o644, bytes)).finish()
}

/// GOARCH of this machine.
pub fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A base system out of a static busybox: its applets, `/etc/passwd`, `/tmp`, a web root with a CGI script that says
/// which pod answers (`busybox httpd -f -p PORT -h /www`).
pub fn busybox() -> Result<ImageBuilder> {
    let busybox = crate::tools::busybox()?;
    let content = fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
    let applets = crate::tools::run(std::process::Command::new(&busybox).arg("--list"))?;
    let mut layer = Layer::new();
    for (dir, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("root", 0o700),
        ("home", 0o755),
        ("var", 0o755),
        ("www", 0o755),
        ("www/cgi-bin", 0o755),
    ] {
        layer = layer.dir(dir, mode);
    }
    layer = layer.file("bin/busybox", 0o755, content);
    for applet in applets.split_whitespace().filter(|applet| *applet != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    let whoami = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n%s\\n' \"$(hostname)\"\n";
    layer = layer
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        .file("etc/group", 0o644, "root:x:0:\nnobody:x:65534:\n")
        .file("www/index.html", 0o644, "ok\n")
        .file("www/cgi-bin/hostname", 0o755, whoami);
    Ok(ImageBuilder::new().layer(layer).config("Env", json!(["PATH=/bin"])).config("Cmd", json!(["sh"])))
}

//! Archives, layers, mounts and garbage, on a real file system with real overlay mounts in a private mount namespace.

mod image_common;

use ferrokube_runtime::image::{Config, ImageStore};
use ferrokube_testkit::image::{BuiltImage, Compression, ImageBuilder, Layer, gzip};
use ferrokube_testkit::tools::is_root;
use image_common::{TestStore, private_mounts, text};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use tar::EntryType;

fn import(test: &TestStore, image: &BuiltImage) -> Result<String, ferrokube_runtime::image::Error> {
    let path = test.root().join("image.tar");
    image.write_oci_tar(&path, Some("localhost/app:v1")).expect("a writable folder");
    test.store.import_archive(&path, None).map(|images| images[0].id.clone())
}

fn image_of(layers: impl IntoIterator<Item = Layer>) -> BuiltImage {
    layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

/// Imports an image and mounts it for a container.
fn mounted(test: &TestStore, image: &BuiltImage, container: &str) -> PathBuf {
    let id = import(test, image).expect("imports");
    let image = test.store.resolve(&id).expect("was imported");
    test.store.prepare_rootfs(&image, container).expect("mounts")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_kind_of_archive_imports_to_the_same_image() {
    if !is_root("every_kind_of_archive_imports_to_the_same_image") {
        return;
    }
    let test = TestStore::new();
    let dir = tempfile::tempdir().expect("a folder");
    let image = ImageBuilder::new()
        .layer_as(Layer::new().file("a", 0o644, "a"), Compression::None)
        .layer(Layer::new().file("b", 0o644, "b"))
        .config("Env", json!(["A=b"]))
        .build();
    let path = |name: &str| dir.path().join(name);
    image.write_oci_tar(&path("oci.tar"), Some("localhost/oci:v1")).expect("written");
    image.write_oci_dir(&path("layout"), Some("localhost/layout:v1")).expect("written");
    image.write_docker_tar(&path("docker.tar"), &["localhost/docker:v1", "localhost/docker:v2"]).expect("written");
    fs::write(path("docker.tar.gz"), gzip(&image.docker_tar(&["localhost/gzipped:v1"]))).expect("written");
    image.write_oci_tar(&path("nameless.tar"), None).expect("written");
    for (name, given) in
        [("oci.tar", None), ("layout", None), ("docker.tar", None), ("docker.tar.gz", None), ("nameless.tar", Some("localhost/named"))]
    {
        let images = test.store.import_archive(&path(name), given).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(images.len(), 1, "{name}");
        assert_eq!(images[0].id, image.id(), "{name}");
    }
    let all = test.store.list();
    assert_eq!(all.len(), 1);
    let expected = ["docker:v1", "docker:v2", "gzipped:v1", "layout:v1", "named:latest", "oci:v1"].map(|name| format!("localhost/{name}"));
    assert_eq!(all[0].repo_tags, expected);
    assert_eq!(all[0].config.env, ["A=b"]);
    assert!(names(&test.root().join("content/ingest")).is_empty(), "no scratch file is left over");
}

#[test]
fn what_is_not_an_archive_is_said_clearly() {
    let test = TestStore::new();
    let path = test.root().join("x");
    assert!(text(test.store.import_archive(&path, None)).contains("No such file"));
    fs::write(&path, "this is not a tar file").expect("written");
    assert!(text(test.store.import_archive(&path, None)).contains("failed to import"));
    fs::write(&path, Layer::new().file("hello", 0o644, "x").finish()).expect("written");
    assert!(text(test.store.import_archive(&path, None)).contains("neither an OCI layout nor a docker archive"));
    let mut broken = image_of([Layer::new().file("a", 0o644, "a")]);
    broken.layers[0].bytes = gzip(&Layer::new().file("a", 0o644, "changed").finish());
    let error = text(import(&test, &broken));
    assert!(
        error.contains("wrong diff id calculated on extraction") || error.contains("needs root") || error.contains("not permitted"),
        "{error}"
    );
    assert!(test.store.list().is_empty());
    assert!(test.layers().is_empty(), "nothing half-unpacked is left");
}

#[test]
fn layers_stack_with_everything_tar_can_say() {
    if !private_mounts("layers_stack_with_everything_tar_can_say") {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // cap_net_bind_service, version 2
    let long = format!("deep/{}/{}", "x".repeat(90), "y".repeat(90));
    let base = Layer::new()
        .dir("./", 0o755)
        .dir("bin", 0o755)
        .file("./bin/tool", 0o4755, "tool")
        .hardlink("bin/same", "bin/tool")
        .symlink("bin/link", "/bin/tool")
        .dir("gone", 0o755)
        .file("gone/file", 0o644, "x")
        .dir("covered", 0o755)
        .file("covered/old", 0o644, "old")
        .file("replaced", 0o644, "file")
        .dir("dir-then-file", 0o755)
        .file("dir-then-file/x", 0o644, "x")
        .dir("special", 0o1777)
        .char_device("special/null", 1, 3)
        .entry(EntryType::Fifo, "special/fifo", 0o600, (0, 0), b"", None)
        .owned_file("special/owned", 0o640, (1000, 70_000), "mine")
        .xattr("security.capability", &capability)
        .file("special/capable", 0o755, "x")
        .xattr("user.note", b"kept")
        .xattr("trusted.overlay.redirect", b"/etc")
        .file("special/noted", 0o644, "x")
        .dir("deep", 0o755)
        .file(&long, 0o644, "deep");
    let top = Layer::new()
        .whiteout("gone")
        .dir("covered", 0o700)
        .opaque("covered")
        .file("covered/new", 0o644, "new")
        .dir("replaced", 0o755)
        .file("replaced/inside", 0o644, "in")
        .file("dir-then-file", 0o644, "file now")
        .file("bin/tool2", 0o755, "tool2");
    let test = TestStore::new();
    let root = mounted(&test, &image_of([base, top]), "c1");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(names(&root), ["bin", "covered", "deep", "dir-then-file", "replaced", "special"]);
    assert_eq!(names(&root.join("covered")), ["new"]);
    assert_eq!(names(&root.join("replaced")), ["inside"]);
    assert_eq!(names(&root.join("bin")), ["link", "same", "tool", "tool2"]);
    assert_eq!((read("dir-then-file"), read("bin/tool2"), read(&long)), ("file now".into(), "tool2".into(), "deep".into()));
    let tool = fs::metadata(root.join("bin/tool")).expect("there");
    assert_eq!((tool.mode() & 0o7777, tool.nlink(), tool.mtime()), (0o4755, 2, 1_700_000_000));
    assert_eq!(fs::read_link(root.join("bin/link")).expect("a link"), Path::new("/bin/tool"));
    assert_eq!(fs::metadata(root.join("covered")).expect("there").mode() & 0o7777, 0o700);
    let null = fs::metadata(root.join("special/null")).expect("there");
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    assert!(fs::metadata(root.join("special/fifo")).expect("there").file_type().is_fifo());
    let owned = fs::metadata(root.join("special/owned")).expect("there");
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1000, 70_000, 0o640));
    let xattr = |path: &str, name: &str| {
        let mut value = [0; 64];
        rustix::fs::lgetxattr(root.join(path), name, &mut value[..]).map(|length| value[..length].to_vec())
    };
    assert_eq!(xattr("special/capable", "security.capability").expect("kept"), capability);
    assert_eq!(xattr("special/noted", "user.note").expect("kept"), b"kept");
    assert_eq!(fs::metadata(root.join("special")).expect("there").mtime(), 1_700_000_000, "times of directories survive their content");
    test.store.remove_rootfs("c1").expect("unmounts");
}

#[test]
fn whiteouts_hide_older_layers_and_nothing_else() {
    if !private_mounts("whiteouts_hide_older_layers_and_nothing_else") {
        return;
    }
    let base = || Layer::new().dir("d", 0o755).file("d/old", 0o644, "old").file("f", 0o644, "old");
    let table: [(&str, Layer, &[&str]); 7] = [
        ("file whiteout", Layer::new().whiteout("f"), &["d", "d/old"]),
        ("whiteout, then the file again", Layer::new().whiteout("f").file("f", 0o644, "new"), &["d", "d/old", "f"]),
        ("the file, then its whiteout", Layer::new().file("f", 0o644, "new").whiteout("f"), &["d", "d/old", "f"]),
        ("whiteout, then a directory", Layer::new().whiteout("d").dir("d", 0o755).file("d/new", 0o644, ""), &["d", "d/new", "f"]),
        ("whiteout, then an entry below it", Layer::new().whiteout("d").file("d/new", 0o644, ""), &["d", "d/new", "f"]),
        ("directory, then its whiteout", Layer::new().dir("d", 0o755).file("d/new", 0o644, "").whiteout("d"), &["d", "d/new", "f"]),
        ("opaque root", Layer::new().opaque("").file("g", 0o644, ""), &["g"]),
    ];
    for (index, (what, layer, expected)) in table.into_iter().enumerate() {
        let test = TestStore::new();
        let container = format!("c{index}");
        let root = mounted(&test, &image_of([base(), layer]), &container);
        let mut found = Vec::new();
        for name in names(&root) {
            let path = root.join(&name);
            found.push(name.clone());
            if path.is_dir() {
                found.extend(names(&path).into_iter().map(|inner| format!("{name}/{inner}")));
            }
        }
        assert_eq!(found, expected, "{what}");
        test.store.remove_rootfs(&container).expect("unmounts");
    }
}

#[test]
fn layers_take_from_below_what_they_leave_out() {
    if !private_mounts("layers_take_from_below_what_they_leave_out") {
        return;
    }
    let base = Layer::new().dir("tmp", 0o1777).file("lib", 0o751, "library");
    let top = Layer::new().file("tmp/x", 0o644, "x").hardlink("lib2", "lib");
    let test = TestStore::new();
    let root = mounted(&test, &image_of([base, top]), "c1");
    assert_eq!(fs::metadata(root.join("tmp")).expect("there").mode() & 0o7777, 0o1777, "an unlisted parent keeps its mode");
    assert_eq!(fs::read_to_string(root.join("lib2")).expect("there"), "library");
    assert_eq!(fs::metadata(root.join("lib2")).expect("there").mode() & 0o7777, 0o751);
    test.store.remove_rootfs("c1").expect("unmounts");
    let dangling = image_of([Layer::new().hardlink("x", "nowhere")]);
    assert!(text(import(&test, &dangling)).contains("the target of the hard link is in no layer"));
}

#[test]
fn a_layer_cannot_write_outside_of_itself() {
    if !is_root("a_layer_cannot_write_outside_of_itself") {
        return;
    }
    let victim = tempfile::tempdir().expect("a folder");
    let outside = victim.path().join("file");
    fs::write(&outside, "untouched").expect("written");
    let target = victim.path().to_str().expect("ASCII");
    let mode = fs::metadata(victim.path()).expect("there").mode();
    let up = format!("../../../../../../../../../../../..{target}");
    let table = [
        ("absolute link as a parent", Layer::new().symlink("d", target).file("d/file", 0o644, "evil")),
        ("relative link as a parent", Layer::new().symlink("d", &up).file("d/file", 0o644, "evil")),
        ("link over a link", Layer::new().symlink("a", "b").symlink("b", target).file("a/file", 0o644, "evil")),
        ("file through a link of its own name", Layer::new().symlink("f", &format!("{target}/file")).file("f", 0o644, "evil")),
        ("hard link to the outside", Layer::new().hardlink("h", &format!("{target}/file")).file("h", 0o644, "evil")),
        ("hard link through a link", Layer::new().symlink("d", target).hardlink("h", "d/file").file("h", 0o644, "evil")),
        ("whiteout through a link", Layer::new().symlink("d", target).whiteout("d/file")),
        ("parent components", Layer::new().file(&format!("{up}/file"), 0o644, "evil")),
        ("parent components in a hard link", Layer::new().hardlink("h", &format!("{up}/file"))),
        ("whiteout of the parent", Layer::new().file("d/.wh...", 0o644, "")),
        ("device over a link", Layer::new().symlink("d", target).char_device("d/file", 1, 3)),
        ("directory over a link", Layer::new().symlink("d", target).dir("d", 0o711)),
    ];
    for (what, layer) in table {
        let test = TestStore::new();
        let result = import(&test, &image_of([layer])); // Refused or contained, either is safe.
        assert_eq!(fs::read_to_string(&outside).expect("still there"), "untouched", "{what}: {result:?}");
        assert_eq!(names(victim.path()), ["file"], "{what}");
        assert_eq!(fs::metadata(victim.path()).expect("there").mode(), mode, "{what}");
        assert!(!fs::metadata(&outside).expect("there").file_type().is_char_device(), "{what}");
    }
}

#[test]
fn a_link_inside_the_layer_stays_inside() {
    if !private_mounts("a_link_inside_the_layer_stays_inside") {
        return;
    }
    // `var/run -> /run` means the layer's own /run.
    let layer = Layer::new().dir("run", 0o755).dir("var", 0o755).symlink("var/run", "/run").file("var/run/pid", 0o644, "1");
    let test = TestStore::new();
    let root = mounted(&test, &image_of([layer]), "c1");
    assert_eq!(fs::read_to_string(root.join("run/pid")).expect("there"), "1");
    assert!(root.join("var/run").is_symlink());
    test.store.remove_rootfs("c1").expect("unmounts");
}

#[test]
fn a_rootfs_is_writable_counted_and_mounted_again() {
    if !private_mounts("a_rootfs_is_writable_counted_and_mounted_again") {
        return;
    }
    let test = TestStore::new();
    let built = image_of([Layer::new().dir("data", 0o755).file("data/f", 0o644, "image")]);
    let id = import(&test, &built).expect("imports");
    let image = test.store.resolve(&id).expect("known");
    let root = test.store.prepare_rootfs(&image, "c1").expect("mounts");
    assert_eq!(test.store.prepare_rootfs(&image, "c1").expect("is mounted"), root);
    fs::write(root.join("data/f"), "container").expect("writable");
    fs::write(root.join("data/big"), vec![7; 100_000]).expect("writable");
    let usage = test.store.writable_layer_usage("c1").expect("known");
    assert!(usage.bytes >= 100_000 && usage.bytes < 300_000 && usage.inodes >= 3, "{usage:?}");
    let info = test.store.fs_info();
    assert!(info.images.bytes > 0 && info.containers.bytes >= 100_000, "{info:?}");

    // A restart of the machine takes mounts away and nothing else.
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).expect("is mounted");
    let store = ImageStore::open(test.root(), Config::default()).expect("opens");
    let again = store.prepare_rootfs(&image, "c1").expect("mounts again");
    assert_eq!(fs::read_to_string(again.join("data/f")).expect("there"), "container");
    let other = store.prepare_rootfs(&image, "c2").expect("mounts");
    assert_eq!(fs::read_to_string(other.join("data/f")).expect("there"), "image", "containers do not see each other");

    let volume = store.prepare_image_volume(&image, "v1").expect("mounts");
    assert_eq!(fs::read_to_string(volume.join("data/f")).expect("there"), "image");
    assert!(fs::write(volume.join("data/x"), "").is_err(), "an image volume is read-only");

    for container in ["c1", "c2", "c2", "never-there"] {
        store.remove_rootfs(container).expect("goes");
    }
    store.remove_image_volume("v1").expect("goes");
    assert!(store.writable_layer_usage("c1").is_err());
    assert!(names(&test.root().join("rootfs")).is_empty() && names(&test.root().join("volumes")).is_empty());
    for bad in ["", "../x", "a/b", ".hidden", "a,b", "a:b"] {
        assert!(store.prepare_rootfs(&image, bad).is_err(), "{bad}");
    }
}

#[test]
fn images_of_any_depth_mount() {
    if !private_mounts("images_of_any_depth_mount") {
        return;
    }
    let test = TestStore::new();
    let deep = image_of((0..127).map(|index| Layer::new().file(&format!("f{index}"), 0o644, index.to_string())));
    let root = mounted(&test, &deep, &"c".repeat(64));
    assert_eq!(names(&root).len(), 127);
    test.store.remove_rootfs(&"c".repeat(64)).expect("unmounts");

    let empty = ImageBuilder::new().config("Cmd", json!(["/x"])).build();
    let image = test.store.resolve(&import(&test, &empty).expect("imports")).expect("known");
    let root = test.store.prepare_rootfs(&image, "empty").expect("mounts");
    fs::write(root.join("x"), "").expect("writable");
    let volume = test.store.prepare_image_volume(&image, "empty").expect("mounts");
    assert!(names(&volume).is_empty());
    test.store.remove_image_volume("empty").expect("unmounts");
    test.store.remove_rootfs("empty").expect("unmounts");

    let twice = image_of([Layer::new().file("a", 0o644, "a"), Layer::new().file("b", 0o644, "b"), Layer::new().file("a", 0o644, "a")]);
    let root = mounted(&test, &twice, "twice");
    assert_eq!(names(&root), ["a", "b"], "the same layer twice is no obstacle");
    test.store.remove_rootfs("twice").expect("unmounts");
}

#[test]
fn a_layer_that_an_image_has_many_times_is_unpacked_once() {
    let test = TestStore::new();
    for round in 0..20 {
        let layer = || Layer::new().file("a", 0o644, round.to_string());
        import(&test, &image_of((0..8).map(|_| layer()))).expect("imports");
    }
    assert_eq!(test.layers().len(), 20);
}

#[test]
fn removal_keeps_what_is_in_use_and_deletes_the_rest() {
    if !private_mounts("removal_keeps_what_is_in_use_and_deletes_the_rest") {
        return;
    }
    let test = TestStore::new();
    let shared = || Layer::new().file("shared", 0o644, "s");
    let one = image_of([shared(), Layer::new().file("one", 0o644, "1")]);
    let two = image_of([shared(), Layer::new().file("two", 0o644, "2")]);
    let (one, two) = (import(&test, &one).expect("imports"), import(&test, &two).expect("imports"));
    assert_eq!(test.layers().len(), 3);
    let image = test.store.resolve(&two).expect("known");
    let root = test.store.prepare_rootfs(&image, "c1").expect("mounts");
    test.store.set_pinned(&two, true).expect("known");
    assert!(test.store.resolve(&two).expect("known").pinned);

    test.store.remove(&one).expect("goes");
    test.store.collect_garbage().expect("collects");
    assert!(test.store.resolve(&one).is_none());
    assert_eq!(test.layers().len(), 2, "the shared layer stays");

    test.store.remove(&two).expect("goes");
    test.store.collect_garbage().expect("collects");
    assert!(test.store.list().is_empty());
    assert_eq!(test.layers().len(), 2, "a container still uses them");
    assert_eq!(fs::read_to_string(root.join("two")).expect("there"), "2");

    test.store.remove_rootfs("c1").expect("goes");
    test.store.collect_garbage().expect("collects");
    assert!(test.layers().is_empty());
    assert!(names(&test.root().join("content/blobs/sha256")).is_empty());
    test.store.remove(&two).expect("removing nothing is fine");
}

#[test]
fn leftovers_of_a_crash_go_when_the_store_is_opened() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let half = dir.path().join("layers/tmp-0123-abc/fs");
    fs::create_dir_all(&half).expect("writable");
    fs::create_dir_all(dir.path().join("leases")).expect("writable");
    fs::write(half.join("x"), "x").expect("writable");
    fs::write(dir.path().join("leases/0123"), "{}").expect("writable");
    fs::write(dir.path().join("metadata.tmp-1"), "half a fi").expect("writable");
    let store = ImageStore::open(dir.path(), Config::default()).expect("opens");
    let test = TestStore { store, dir };
    let gone = || test.layers().is_empty() && names(&test.root().join("leases")).is_empty() && !test.root().join("metadata.tmp-1").exists();
    let began = std::time::Instant::now();
    while !gone() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "left over: {:?}", test.layers());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_damaged_catalog_is_an_error_and_not_an_empty_store() {
    let test = TestStore::new();
    fs::write(test.root().join("metadata.json"), "{\"format\":1,\"images\":").expect("writable");
    let error = text(ImageStore::open(test.root(), Config::default()));
    assert!(error.contains("the image store is damaged"), "{error}");
}

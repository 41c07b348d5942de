//! Writes an OCI archive of a static busybox, under the name the examples use:
//! `cargo run -p ferrokube-testkit --example busybox_image -- /tmp/busybox.tar`.

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "busybox.tar".to_owned());
    ferrokube_testkit::image::busybox()?.build().write_oci_tar(path.as_ref(), Some("busybox:1.36"))
}

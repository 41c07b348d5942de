//! Compiles our own definition of the interface without `protoc`, which a fresh machine lacks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/kms_v2.proto");
    let descriptors = protox::compile(["proto/kms_v2.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(true).build_server(true).btree_map(".").compile_fds(descriptors)?;
    Ok(())
}

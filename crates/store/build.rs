//! Compiles our own definition of etcd's protocol without `protoc`, which a fresh machine lacks.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/etcd_v3.proto");
    let descriptors = protox::compile(["proto/etcd_v3.proto"], ["proto"])?;
    // Keys and values are slices of the message they came in, not copies.
    tonic_prost_build::configure().build_client(true).build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}

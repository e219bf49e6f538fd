//! Makes the code of the build RPC from its .proto, without a protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../schemas/proto/build.proto");
    let files = protox::compile(["build.proto"], ["../schemas/proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}

//! Makes the code of the query RPC from its .proto, without a protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../schemas/proto/query.proto");
    let files = protox::compile(["query.proto"], ["../../schemas/proto"])?;
    // Bodies are large; as `Bytes` they are not copied out of the message.
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}

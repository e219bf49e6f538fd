//! The block file format: writer, reader, stream table; knows nothing of Kafka.

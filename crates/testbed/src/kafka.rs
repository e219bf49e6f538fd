//! Apache Kafka brokers as child processes.

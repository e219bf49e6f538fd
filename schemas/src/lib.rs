//! Formats on the wire and in the log, and their versions.

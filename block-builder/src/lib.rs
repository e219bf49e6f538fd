//! Cuts to blocks to object store to head.

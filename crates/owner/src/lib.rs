//! What a partition's owner answers: requests, replies and the trait between readers and owners.

//! The push protocols. A new one is a file here and its name in the list: see [`protocol`](crate::protocol).

mod legacy;
mod loki;
mod media_types;
mod otlp;

pub(crate) use otlp::Otlp;

use crate::protocol::Protocol;

/// Every protocol that the gateway serves.
pub(crate) const PROTOCOLS: &[&dyn Protocol] = &[&loki::Loki, &legacy::LegacyLoki, &Otlp];

//! The server roles. A role is a value: its name and help on the command line, and the parts it runs.
//!
//! A new role is a file in `roles/` and a line in [`ROLES`].

mod all;
mod builder;
mod consumer;
mod gateway;
mod query_service;
mod role;

pub(crate) use role::Role;

/// All roles, in the order in which the help lists them. The first one runs when no command is given.
pub(crate) static ROLES: [&Role; 5] =
    [&all::ROLE, &gateway::ROLE, &consumer::ROLE, &builder::ROLE, &query_service::ROLE];

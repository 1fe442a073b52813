//! The embedded API server: store, REST, watch, TLS, authentication.
//!
//! [`serve`] starts a server on listening sockets; [`run`] is the command. What a request means is in `rest`, what an object of a
//! kind may be in `seaway-apis`; here is the state, the network, and who is asking.

mod alloc;
mod app;
mod args;
mod auth;
mod body;
mod bootstrap;
mod config;
mod discovery;
mod expiry;
mod form;
mod metrics;
mod negotiate;
pub mod pki;
mod protobuf;
mod proxy;
mod reply;
mod request;
mod rest;
mod server;
mod store;
mod token;
mod watch;

pub use args::{ApiserverArgs, run};
pub use config::{Config, NodePorts};
pub use pki::Pki;
pub use server::{ServeError, Server, serve};
pub use store::DiskError;

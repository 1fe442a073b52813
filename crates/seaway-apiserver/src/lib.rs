//! The embedded API server: store, REST, watch, TLS, authentication.
//!
//! [`serve`] starts a server on listening sockets; [`run`] is the command. What a request means is in `rest`, what an object of a
//! kind may be in `seaway-apis`; here is the state, the network, and who is asking.

mod args;
mod config;
pub mod pki;
mod store;

pub use args::{ApiserverArgs, run};
pub use config::{Config, NodePorts};
pub use pki::Pki;
pub use server::{ServeError, Server, serve};
pub use store::DiskError;

mod server;

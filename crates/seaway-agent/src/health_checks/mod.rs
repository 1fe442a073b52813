//! Health checks for load balancers: a port of the node for each Service that has a `healthCheckNodePort`, which says
//! whether this node has endpoints of it.

mod server;
mod table;

pub(crate) use server::keep;

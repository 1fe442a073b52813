//! The network stack of Kubernetes in one binary.
fn main() {}

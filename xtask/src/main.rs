//! The developer's tasks behind the Makefile.
fn main() {}

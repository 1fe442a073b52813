//! Assembling a root file system.

//! Processes in namespaces and file systems of their own.

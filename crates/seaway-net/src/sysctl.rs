//! Kernel parameters of the calling thread's namespace.

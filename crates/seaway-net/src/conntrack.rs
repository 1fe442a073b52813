//! Connection tracking: list, delete, watch.

//! The few controllers that a lab needs, against any API server

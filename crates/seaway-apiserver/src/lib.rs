//! The embedded Kubernetes API server: store, REST, watch, TLS

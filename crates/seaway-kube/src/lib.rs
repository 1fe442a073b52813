//! Watches the Kubernetes API, builds Snapshots, writes status

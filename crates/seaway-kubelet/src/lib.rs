//! Runs a node's pods: sandboxes, CNI, volumes, probes, logs, exec

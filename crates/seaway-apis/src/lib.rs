//! What the API server knows of each Kubernetes kind: defaults, validation, tables, patches, OpenAPI; pure functions over JSON

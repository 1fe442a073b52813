//! What the API server knows of each Kubernetes kind: discovery, defaults, validation, tables, patches, OpenAPI.
//!
//! Pure functions over [`serde_json::Value`]: no I/O, no clock, no randomness; the caller passes time and random
//! strings in. A request to create goes through, in this order:
//!
//! 1. [`json::parse`]: the body, with the fields that appear twice;
//! 2. [`schema::conform`]: nulls and unknown fields go; [`schema::Report::judge`] says whether that is an error or a warning;
//! 3. [`defaults::set_defaults`];
//! 4. [`strategy::prepare_create`]: identity and generation set, status dropped; then for pods [`admission::service_account`];
//! 5. [`validate::create`]; then [`strategy::to_storage`].
//!
//! An update: [`patch::strategic_merge`] or another patch, then 2, 3, [`strategy::prepare_update`], [`validate::update`].
//! Refusals are [`status::StatusError`]s; lists for people are made by [`tables::table`].

pub mod admission;
pub mod defaults;
pub mod discovery;
pub mod duration;
pub mod field_error;
pub mod json;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod resource;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod strategy;
pub mod tables;
pub mod validate;
mod value;

pub use field_error::{ErrorKind, FieldError};
pub use resource::{Registry, Resource, resources};
pub use status::StatusError;

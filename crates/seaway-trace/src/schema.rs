//! `docs/trace.schema.json` is made of the types that are written, so neither can change without the other.

use std::borrow::Cow;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::hop::{Trace, Verified};

impl JsonSchema for Verified {
    fn schema_name() -> Cow<'static, str> {
        "Verified".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "true: every hop was seen as predicted; false: some were seen otherwise; null: some could not be seen.",
            "enum": [true, false, null],
        })
    }
}

/// Set in the environment, the file is written anew.
const UPDATE: &str = "SEAWAY_UPDATE_SCHEMA";

#[test]
fn the_documented_schema_is_that_of_the_types() {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Trace>();
    schema.insert("title".to_owned(), "seaway trace -o json".into());
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/trace.schema.json");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let documented = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(documented == text, "{} is not of these types: {UPDATE}=1 cargo test writes it", file.display());
}

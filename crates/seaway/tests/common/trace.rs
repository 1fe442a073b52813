//! `seaway trace` as a script uses it.

use std::path::Path;
use std::process::Command;

use boon::{Compiler, Schemas};
use serde_json::Value;

use super::{Lab, SEAWAY};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The exit code.
    pub(crate) code: Option<i32>,
    /// The JSON.
    pub(crate) json: Value,
}

/// What `seaway trace` answers; its JSON is as `docs/trace.schema.json` says.
pub(crate) fn trace(lab: &Lab, ask: &[&str]) -> Answer {
    let mut command = Command::new(SEAWAY);
    let output = command.args(["trace", "--name", &lab.name, "-o", "json"]).args(ask).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{ask:?}: {errors}"));
    assert_valid(&json);
    Answer { code: output.status.code(), json }
}

fn assert_valid(json: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/trace.schema.json");
    let mut schemas = Schemas::new();
    let schema = Compiler::new().compile(file.to_str().unwrap(), &mut schemas).unwrap();
    if let Err(error) = schemas.validate(json, schema) {
        panic!("{error:#}\n{json:#}");
    }
}

/// Asks for the prediction, then for the proof; what is wrong with either.
pub(crate) fn problems(lab: &Lab, ask: &[&str], verdict: &str, seen_as: &[&str]) -> Option<String> {
    let told = trace(lab, ask);
    let proved = trace(lab, &[ask, &["--verify"]].concat());
    let mut wrong = Vec::new();
    for (what, json) in [("told", &told.json), ("proved", &proved.json)] {
        if json["verdict"] != verdict {
            wrong.push(format!("{what}: {}: {}", json["verdict"], json["reason"]));
        }
        if json["sourceSeenByDestination"] != serde_json::json!(seen_as) {
            wrong.push(format!("{what}: seen as {}", json["sourceSeenByDestination"]));
        }
    }
    wrong.extend((told.code != Some(0)).then(|| format!("exit code {:?}", told.code)));
    wrong.extend(differences(&proved));
    (!wrong.is_empty()).then(|| format!("{ask:?}\n  {}", wrong.join("\n  ")))
}

/// What was not seen as it was told, of an answer with `--verify`.
pub(crate) fn differences(proved: &Answer) -> Vec<String> {
    let mut wrong = Vec::new();
    if proved.code != Some(0) || proved.json["verified"] != true {
        wrong.push(format!("exit code {:?}, verified {}", proved.code, proved.json["verified"]));
    }
    let hops = proved.json["hops"].as_array().into_iter().flatten();
    wrong.extend(hops.filter(|hop| hop["result"] != "ok").map(|hop| {
        format!(
            "{} at {}: {}: {} | {}",
            hop["kind"], hop["where"], hop["result"], hop["observed"], hop["note"]
        )
    }));
    wrong
}

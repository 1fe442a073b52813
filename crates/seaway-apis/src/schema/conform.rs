//! Brings an object into the form of its type, as decoding into the typed object and encoding it again would.

use base64::Engine;
use serde_json::{Map, Value};

use super::{definitions, reference, resolve};
use crate::json::MAX_REPORTED;
use crate::quantity;
use crate::resource::Resource;
use crate::status::StatusError;

/// What an object had that its type does not allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Wrong JSON types and unreadable times, quantities and base64, in the API's words
    /// (`json: cannot unmarshal string into Go struct field …`); always refused.
    pub type_errors: Vec<String>,
    /// Paths of fields that the type does not have, such as `spec.containers[0].foo`, all of which are removed.
    pub unknown_fields: Vec<String>,
}

/// The query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Unknown and duplicate fields are dropped in silence.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// They are refused.
    Strict,
}

impl FieldValidation {
    /// The mode that a query parameter's value names; the empty value is `Warn`.
    pub fn parse(value: &str) -> Option<FieldValidation> {
        match value {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }
}

impl Report {
    /// The warnings to send with the answer (`Warning: 299 - "…"`), or the refusal. `duplicates` are the paths that
    /// [`crate::json::parse`] found twice.
    pub fn judge(
        &self,
        resource: &Resource,
        duplicates: &[String],
        mode: FieldValidation,
    ) -> Result<Vec<String>, StatusError> {
        let refuse = |why: &str| {
            let (kind, version) = (&resource.kind, &resource.version);
            StatusError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
            ))
        };
        if let Some(first) = self.type_errors.first() {
            return Err(refuse(first));
        }
        let texts: Vec<String> = duplicates
            .iter()
            .map(|path| format!("duplicate field \"{path}\""))
            .chain(self.unknown_fields.iter().map(|path| format!("unknown field \"{path}\"")))
            .collect();
        match mode {
            FieldValidation::Strict if !texts.is_empty() => {
                Err(refuse(&format!("strict decoding error: {}", texts.join(", "))))
            }
            FieldValidation::Ignore => Ok(Vec::new()),
            _ => Ok(texts),
        }
    }
}

/// Removes nulls and unknown fields, brings quantities into their canonical form, and reports what did not fit.
/// An object whose resource has no schema is left alone.
pub fn conform(resource: &Resource, object: &mut Value) -> Report {
    let mut walk = Walk::default();
    if let Some(schema) = definitions().get(resource.schema.as_ref()) {
        let top = Place {
            path: String::new(),
            go_path: String::new(),
            owner: short_name(&resource.schema).to_owned(),
        };
        walk.value(schema, object, &top);
    }
    walk.report
}

/// Where in the object the walk is.
struct Place {
    /// With list indices, for unknown fields.
    path: String,
    /// Without, as Go's messages have it.
    go_path: String,
    /// Name of the struct that has the field.
    owner: String,
}

#[derive(Default)]
struct Walk {
    report: Report,
}

impl Walk {
    fn value(&mut self, schema: &'static Value, value: &mut Value, place: &Place) {
        let name = reference(schema);
        let target = resolve(schema);
        if name.is_some_and(|n| n.ends_with(".Quantity")) {
            self.quantity(value, place);
            return;
        }
        if let Some(format) = name.and_then(time_format) {
            self.time(value, format, place);
            return;
        }
        if target.get("x-kubernetes-int-or-string").is_some() {
            if !(value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())) {
                self.wrong(value, "intstr.IntOrString", place);
            }
            return;
        }
        match target.get("type").and_then(Value::as_str) {
            Some("object") => self.object(target, name, value, place),
            Some("array") => self.array(target, value, place),
            Some("string") => self.string(target, value, place),
            Some("integer") => {
                let format = target.get("format").and_then(Value::as_str).unwrap_or("int64");
                let fits = value.as_i64().is_some_and(|n| format != "int32" || i32::try_from(n).is_ok());
                if !fits {
                    self.wrong(value, format, place);
                }
            }
            Some("number") if !value.is_number() => self.wrong(value, "float64", place),
            Some("boolean") if !value.is_boolean() => self.wrong(value, "bool", place),
            _ => {}
        }
    }

    fn object(&mut self, schema: &'static Value, name: Option<&str>, value: &mut Value, place: &Place) {
        let Value::Object(map) = value else {
            let go = match name {
                Some(name) => go_type(name),
                None => "map[string]interface {}".to_owned(),
            };
            self.wrong(value, &go, place);
            return;
        };
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let owner = name.map_or_else(|| place.owner.clone(), |n| short_name(n).to_owned());
            self.fields(properties, &owner, map, place);
        } else if let Some(values) = schema.get("additionalProperties").filter(|s| s.is_object()) {
            for (key, item) in map.iter_mut() {
                fill_null(values, item);
                let inner = Place {
                    path: join(&place.path, key),
                    go_path: place.go_path.clone(),
                    owner: place.owner.clone(),
                };
                self.value(values, item, &inner);
            }
        }
    }

    fn fields(
        &mut self,
        properties: &'static Map<String, Value>,
        owner: &str,
        map: &mut Map<String, Value>,
        place: &Place,
    ) {
        let mut drop = Vec::new();
        for (key, item) in map.iter_mut() {
            let Some(field) = properties.get(key) else {
                if self.report.unknown_fields.len() < MAX_REPORTED {
                    self.report.unknown_fields.push(join(&place.path, key));
                }
                drop.push(key.clone());
                continue;
            };
            if item.is_null() {
                drop.push(key.clone());
                continue;
            }
            let inner = Place {
                path: join(&place.path, key),
                go_path: join(&place.go_path, key),
                owner: owner.to_owned(),
            };
            self.value(field, item, &inner);
        }
        for key in drop {
            map.shift_remove(&key);
        }
    }

    fn array(&mut self, schema: &'static Value, value: &mut Value, place: &Place) {
        let items = schema.get("items");
        let Value::Array(list) = value else {
            let element = items.map_or_else(
                || "interface {}".to_owned(),
                |i| match reference(i) {
                    Some(name) => go_type(name),
                    None => i.get("type").and_then(Value::as_str).unwrap_or("interface {}").to_owned(),
                },
            );
            self.wrong(value, &format!("[]{element}"), place);
            return;
        };
        let Some(items) = items else { return };
        for (at, item) in list.iter_mut().enumerate() {
            fill_null(items, item);
            let inner = Place {
                path: format!("{}[{at}]", place.path),
                go_path: place.go_path.clone(),
                owner: place.owner.clone(),
            };
            self.value(items, item, &inner);
        }
    }

    fn string(&mut self, schema: &'static Value, value: &mut Value, place: &Place) {
        let Value::String(text) = &*value else {
            self.wrong(value, "string", place);
            return;
        };
        if schema.get("format").and_then(Value::as_str) == Some("byte")
            && let Err(error) = base64::engine::general_purpose::STANDARD.decode(text)
        {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
                _ => text.len(),
            };
            self.type_error(format!("illegal base64 data at input byte {at}"));
        }
    }

    /// Instants are written in UTC, in the precision of their type.
    fn time(&mut self, value: &mut Value, format: &str, place: &Place) {
        match value.as_str().map(str::parse::<jiff::Timestamp>) {
            Some(Ok(instant)) => *value = instant.strftime(format).to_string().into(),
            Some(Err(_)) => self.type_error(format!(
                "parsing time {value} as \"2006-01-02T15:04:05Z07:00\": cannot parse {value} as \"2006\""
            )),
            None => self.wrong(value, "string", place),
        }
    }

    fn quantity(&mut self, value: &mut Value, place: &Place) {
        let text = match &*value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                self.wrong(value, "resource.Quantity", place);
                return;
            }
        };
        match quantity::canonical(&text) {
            Ok(canonical) => *value = canonical.into(),
            Err(error) => self.type_error(error.to_string()),
        }
    }

    fn type_error(&mut self, error: String) {
        if self.report.type_errors.len() < MAX_REPORTED {
            self.report.type_errors.push(error);
        }
    }

    fn wrong(&mut self, value: &Value, go: &str, place: &Place) {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if go.starts_with("int") => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let target = if place.go_path.is_empty() {
            "value".to_owned()
        } else {
            format!("struct field {}.{}", place.owner, place.go_path)
        };
        self.type_error(format!("json: cannot unmarshal {found} into Go {target} of type {go}"));
    }
}

/// How values of a time type are written.
fn time_format(name: &str) -> Option<&'static str> {
    match short_name(name) {
        "Time" => Some("%Y-%m-%dT%H:%M:%SZ"),
        "MicroTime" => Some("%Y-%m-%dT%H:%M:%S.%6fZ"),
        _ => None,
    }
}

/// A null in a list or map is the type's zero value.
fn fill_null(schema: &'static Value, value: &mut Value) {
    if !value.is_null() {
        return;
    }
    *value = match resolve(schema).get("type").and_then(Value::as_str) {
        Some("object") => Value::Object(Map::new()),
        Some("array") => Value::Array(Vec::new()),
        Some("string") => "".into(),
        Some("integer" | "number") => 0.into(),
        Some("boolean") => false.into(),
        _ if reference(schema).is_some_and(|n| n.ends_with(".Quantity")) => "0".into(),
        _ => return,
    };
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short_name(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn go_type(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let kind = parts.next().unwrap_or(name);
    match parts.next() {
        Some(package) => format!("{package}.{kind}"),
        None => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::resources;

    fn report(plural: &str, group: &str, mut object: Value) -> (Report, Value) {
        let report = conform(resources().lookup(group, "v1", plural).unwrap(), &mut object);
        (report, object)
    }

    #[test]
    fn unknown_fields_and_nulls_go() {
        let (report, object) = report(
            "deployments",
            "apps",
            json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"foo": 1, "template": {"spec": {"containers": [{"name": "c", "imag": "x"}]}}}}),
        );
        assert_eq!(report.unknown_fields, ["spec.foo", "spec.template.spec.containers[0].imag"]);
        assert!(report.type_errors.is_empty());
        assert_eq!(
            object,
            json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}})
        );
    }

    #[test]
    fn wrong_types_are_named() {
        let cases = [
            (
                "deployments",
                "apps",
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "pods",
                "",
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "pods",
                "",
                json!({"spec": {"containers": [{"image": 1}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
            ),
            (
                "pods",
                "",
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            ("secrets", "", json!({"data": {"a": "!"}}), "illegal base64 data at input byte 0"),
            (
                "pods",
                "",
                json!([]),
                "json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
        ];
        for (plural, group, object, text) in cases {
            assert_eq!(report(plural, group, object).0.type_errors, [text]);
        }
    }

    #[test]
    fn quantities_become_canonical() {
        let (report, object) = report(
            "pods",
            "",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": "0.5"}}}]}}),
        );
        assert_eq!(report, Report::default());
        let resources = &object["spec"]["containers"][0]["resources"];
        assert_eq!(resources, &json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}));
    }

    #[test]
    fn times_become_canonical() {
        let (found, object) = report(
            "leases",
            "coordination.k8s.io",
            json!({"metadata": {"creationTimestamp": "2026-01-01T08:00:00.5+08:00"}, "spec": {"renewTime": "2026-01-01T00:00:00Z"}}),
        );
        assert_eq!(found, Report::default());
        assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(object["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
        let (found, _) = report("leases", "coordination.k8s.io", json!({"spec": {"renewTime": "today"}}));
        assert!(found.type_errors[0].starts_with("parsing time \"today\" as"));
    }

    #[test]
    fn judgement_follows_field_validation() {
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let report = Report { unknown_fields: vec!["spec.foo".into()], ..Report::default() };
        let refused = report.judge(pods, &[], FieldValidation::Strict).unwrap_err();
        assert_eq!(
            refused.message,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.foo\""
        );
        assert_eq!(report.judge(pods, &[], FieldValidation::Warn).unwrap(), ["unknown field \"spec.foo\""]);
        assert!(report.judge(pods, &[], FieldValidation::Ignore).unwrap().is_empty());
    }
}

//! A value and where it is in its object, and the checks that many fields share.

use std::net::IpAddr;

use serde_json::Value;

use super::names::{self, port_number_problem};
use crate::field_error::FieldError;
use crate::json::MAX_REPORTED;
use crate::value::{flag, int, list, text};

/// What the API says of a text that is no address.
const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// What the API says of a text that is no network.
const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
/// What the API says of a negative number.
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
/// What the API says of a changed field that may not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// The errors found so far, up to [`MAX_REPORTED`]: a small object can have as many as it has fields.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<FieldError>);

impl Errors {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_REPORTED {
            self.0.push(error);
        }
    }
}

impl Extend<FieldError> for Errors {
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        let room = MAX_REPORTED - self.0.len();
        self.0.extend(errors.into_iter().take(room));
    }
}

impl From<Errors> for Vec<FieldError> {
    fn from(errors: Errors) -> Self {
        errors.0
    }
}

/// A value, and its path in the object.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

impl<'a> At<'a> {
    /// The object itself.
    pub(super) fn root(value: &'a Value) -> At<'a> {
        At { value, path: String::new() }
    }

    /// Path of a field.
    pub(super) fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    /// A field; null when it is absent.
    pub(super) fn field(&self, field: &str) -> At<'a> {
        At { value: self.value.get(field).unwrap_or(&Value::Null), path: self.path_of(field) }
    }

    /// A field that is there.
    pub(super) fn given(&self, field: &str) -> Option<At<'a>> {
        self.value.get(field).filter(|v| !v.is_null()).map(|value| At { value, path: self.path_of(field) })
    }

    /// The entries of the list in a field.
    pub(super) fn items(&self, field: &str) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path_of(field);
        list(self.value, &format!("/{field}"))
            .iter()
            .enumerate()
            .map(move |(at, value)| At { value, path: format!("{path}[{at}]") })
    }

    /// The text in a field, or the empty one.
    pub(super) fn text(&self, field: &str) -> &'a str {
        text(self.value, &format!("/{field}"))
    }

    /// The integer in a field.
    pub(super) fn int(&self, field: &str) -> Option<i64> {
        int(self.value, &format!("/{field}"))
    }

    /// The flag in a field.
    pub(super) fn flag(&self, field: &str) -> bool {
        flag(self.value, &format!("/{field}"))
    }

    /// The value itself as text.
    pub(super) fn as_text(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// How many entries the list in a field has.
    pub(super) fn count(&self, field: &str) -> usize {
        list(self.value, &format!("/{field}")).len()
    }

    /// Whether the value is absent or an empty text, list or object.
    pub(super) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// The value is wrong for a reason.
    pub(super) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path.clone(), self.value.clone(), detail)
    }

    /// The value is missing.
    pub(super) fn required(&self, detail: &str) -> FieldError {
        FieldError::required(self.path.clone(), detail)
    }

    /// The value may not be there.
    pub(super) fn forbidden(&self, detail: &str) -> FieldError {
        FieldError::forbidden(self.path.clone(), detail)
    }

    /// The value is there a second time.
    pub(super) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path.clone(), self.value.clone())
    }

    /// The text of the value has a form; what is wrong otherwise is what `problem` says.
    pub(super) fn form(&self, errors: &mut Errors, problem: fn(&str) -> Option<String>) {
        if let Some(problem) = problem(self.as_text()) {
            errors.push(self.invalid(problem));
        }
    }

    /// The same for a value that must be there.
    pub(super) fn required_form(&self, errors: &mut Errors, problem: fn(&str) -> Option<String>) {
        if self.is_empty() { errors.push(self.required("")) } else { self.form(errors, problem) }
    }

    /// The text is one of some; the empty one is missing.
    pub(super) fn one_of(&self, errors: &mut Errors, supported: &[&str]) {
        if self.is_empty() {
            errors.push(self.required(""));
        } else {
            self.if_given_one_of(errors, supported);
        }
    }

    /// The text, if it is there, is one of some.
    pub(super) fn if_given_one_of(&self, errors: &mut Errors, supported: &[&str]) {
        if !self.is_empty() && !supported.contains(&self.as_text()) {
            errors.push(FieldError::not_supported(self.path.clone(), self.value.clone(), supported));
        }
    }

    /// The integer, if it is there, is not negative.
    pub(super) fn not_negative(&self, errors: &mut Errors) {
        if self.value.as_i64().is_some_and(|n| n < 0) {
            errors.push(self.invalid(NEGATIVE));
        }
    }

    /// The integer is a port.
    pub(super) fn port(&self, errors: &mut Errors) {
        match self.value.as_i64() {
            None | Some(0) => errors.push(self.required("")),
            Some(n) => errors.extend(port_number_problem(n).map(|p| self.invalid(p))),
        }
    }

    /// The value is a port's number or name.
    pub(super) fn port_or_name(&self, errors: &mut Errors) {
        match self.value {
            Value::String(name) => {
                errors.extend(names::port_name_problems(name).into_iter().map(|p| self.invalid(p)))
            }
            _ => {
                errors.extend(port_number_problem(self.value.as_i64().unwrap_or(0)).map(|p| self.invalid(p)))
            }
        }
    }

    /// The value is a protocol.
    pub(super) fn protocol(&self, errors: &mut Errors) {
        self.one_of(errors, &["TCP", "UDP", "SCTP"]);
    }

    /// The text is an address.
    pub(super) fn ip(&self, errors: &mut Errors) -> Option<IpAddr> {
        match self.as_text().parse() {
            Ok(ip) => Some(ip),
            Err(_) => {
                errors.push(self.invalid(NOT_AN_IP));
                None
            }
        }
    }

    /// The text is a network.
    pub(super) fn cidr(&self, errors: &mut Errors) -> Option<ipnet::IpNet> {
        match self.as_text().parse() {
            Ok(net) => Some(net),
            Err(_) => {
                errors.push(self.invalid(NOT_A_CIDR));
                None
            }
        }
    }

    /// The value is a map of labels.
    pub(super) fn labels(&self, errors: &mut Errors) {
        for (key, value) in self.value.as_object().into_iter().flatten() {
            if let Some(problem) = names::qualified_name_problem(key) {
                errors.push(FieldError::invalid(self.path.clone(), key.as_str(), problem));
            }
            let value = value.as_str().unwrap_or("");
            if let Some(problem) = names::label_value_problem(value) {
                errors.push(FieldError::invalid(self.path.clone(), value, problem));
            }
        }
    }

    /// The value is a `metav1.LabelSelector`.
    pub(super) fn label_selector(&self, errors: &mut Errors) {
        self.field("matchLabels").labels(errors);
        for expression in self.items("matchExpressions") {
            expression.field("key").form(errors, names::qualified_name_problem);
            let values = expression.field("values");
            match expression.text("operator") {
                "In" | "NotIn" if values.is_empty() => {
                    errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    errors.push(
                        values
                            .forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                    );
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => errors.push(expression.field("operator").invalid("not a valid selector operator")),
            }
            for value in expression.items("values") {
                value.form(errors, names::label_value_problem);
            }
        }
    }

    /// The value equals the old one.
    pub(super) fn same(&self, errors: &mut Errors, old: &At<'_>) {
        if self.value != old.value && !(self.is_empty() && old.is_empty()) {
            errors.push(self.invalid(IMMUTABLE));
        }
    }
}

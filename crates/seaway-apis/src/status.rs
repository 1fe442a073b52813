//! `metav1.Status` values for every refusal of the server.

use serde_json::{Value, json};

use crate::field_error::FieldError;
use crate::resource::Resource;

/// An error answer: the HTTP code and what the Status says.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// The `details` object, or null.
    pub details: Value,
}

impl StatusError {
    /// An error without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> StatusError {
        StatusError { code, reason, message: message.into(), details: Value::Null }
    }

    fn of(mut self, resource: &Resource, name: &str) -> StatusError {
        self.details = details(resource, &resource.plural, name);
        self
    }

    /// The Status object to answer with.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        value["code"] = self.code.into();
        value
    }

    /// 404: the object does not exist.
    pub fn not_found(resource: &Resource, name: &str) -> StatusError {
        StatusError::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
            .of(resource, name)
    }

    /// 404: there is no such path or resource.
    pub fn no_such_path() -> StatusError {
        let mut error = StatusError::new(404, "NotFound", "the server could not find the requested resource");
        error.details = json!({});
        error
    }

    /// 409: an object of that name exists.
    pub fn already_exists(resource: &Resource, name: &str) -> StatusError {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        StatusError::new(409, "AlreadyExists", message).of(resource, name)
    }

    /// 409: the operation cannot be fulfilled; `why` says the reason.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> StatusError {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        StatusError::new(409, "Conflict", message).of(resource, name)
    }

    /// 409: the `resourceVersion` of an update is not the stored one.
    pub fn stale(resource: &Resource, name: &str) -> StatusError {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        StatusError::conflict(resource, name, why)
    }

    /// 409: a precondition of a deletion or update names another uid or version (`field` is `UID` or `ResourceVersion`).
    pub fn precondition(
        resource: &Resource,
        name: &str,
        field: &str,
        wanted: &str,
        found: &str,
    ) -> StatusError {
        let why = format!(
            "Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {found}"
        );
        StatusError::conflict(resource, name, &why)
    }

    /// 422: fields of the object are wrong.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> StatusError {
        StatusError::invalid_kind(&resource.group, &resource.kind, name, errors)
    }

    /// [`StatusError::invalid`] of a kind that is no resource of its own, such as Scale.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> StatusError {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        texts.dedup();
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut error =
            StatusError::new(422, "Invalid", format!("{qualified} \"{name}\" is invalid: {text}"));
        let causes: Vec<Value> = errors.iter().map(FieldError::cause).collect();
        error.details = json!({"name": name, "group": group, "kind": kind, "causes": causes});
        if group.is_empty() {
            remove(&mut error.details, "group");
        }
        error
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> StatusError {
        StatusError::new(400, "BadRequest", message)
    }

    /// 401: the caller is nobody that the server knows.
    pub fn unauthorized() -> StatusError {
        StatusError::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `user` may not do `verb` to `resource` (`namespace` is empty for the cluster scope).
    pub fn forbidden_user(
        resource: &Resource,
        sub: Option<&str>,
        name: &str,
        user: &str,
        verb: &str,
        namespace: &str,
    ) -> StatusError {
        let plural = match sub {
            Some(sub) => format!("{}/{sub}", resource.plural),
            None => resource.plural.to_string(),
        };
        let scope = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        let why = format!(
            "User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{}\" {scope}",
            resource.group
        );
        StatusError::forbidden(resource, name, &why)
    }

    /// 403: the request is understood and refused, `why` says the reason.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> StatusError {
        let head = if name.is_empty() {
            format!("{} is forbidden", resource.qualified())
        } else {
            format!("{} \"{name}\" is forbidden", resource.qualified())
        };
        StatusError::new(403, "Forbidden", format!("{head}: {why}")).of(resource, name)
    }

    /// 403: objects cannot be created in a namespace that is going away.
    pub fn namespace_terminating(resource: &Resource, name: &str, namespace: &str) -> StatusError {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = StatusError::forbidden(resource, name, &why);
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        error
    }

    /// 410: a watch or a continued list asks for a version that is compacted away.
    pub fn expired(requested: u64, oldest: u64) -> StatusError {
        StatusError::new(410, "Expired", format!("too old resource version: {requested} ({oldest})"))
    }

    /// 410: the continue token of a list is too old.
    pub fn continue_expired() -> StatusError {
        StatusError::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. \
             You must start a new list without the continue parameter.",
        )
    }

    /// 504: the version asked for does not exist yet.
    pub fn too_large_resource_version(requested: u64, current: u64) -> StatusError {
        let mut error = StatusError::new(
            504,
            "Timeout",
            format!("Too large resource version: {requested}, current: {current}"),
        );
        error.details = json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        });
        error
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> StatusError {
        let mut error = StatusError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        error.details = json!({});
        error
    }

    /// 406: none of the accepted media types can be made.
    pub fn not_acceptable(accepted: &[&str]) -> StatusError {
        StatusError::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 415: the body's media type is not understood.
    pub fn unsupported_media_type(accepted: &[&str]) -> StatusError {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        StatusError::new(415, "UnsupportedMediaType", message)
    }

    /// 413: the body is larger than the server takes.
    pub fn too_large(limit: usize) -> StatusError {
        StatusError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 429: try again later.
    pub fn too_many_requests(message: &str, retry_after_seconds: u32) -> StatusError {
        let mut error = StatusError::new(429, "TooManyRequests", message);
        error.details = json!({"retryAfterSeconds": retry_after_seconds});
        error
    }

    /// 500: the server failed.
    pub fn internal(message: impl AsRef<str>) -> StatusError {
        let message = message.as_ref();
        let mut error = StatusError::new(500, "InternalError", format!("Internal error occurred: {message}"));
        error.details = json!({"causes": [{"message": message}]});
        error
    }
}

impl std::fmt::Display for StatusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StatusError {}

/// The Status that answers a deletion which is done (`uid` of the object that went).
pub fn deleted(resource: &Resource, name: &str, uid: &str) -> Value {
    let mut details = details(resource, &resource.plural, name);
    details["uid"] = uid.into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The Status that answers a request which has nothing else to say, such as a binding (HTTP `code`).
pub fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

fn details(resource: &Resource, kind: &str, name: &str) -> Value {
    let mut details = json!({"name": name, "group": resource.group, "kind": kind});
    if name.is_empty() {
        remove(&mut details, "name");
    }
    if resource.group.is_empty() {
        remove(&mut details, "group");
    }
    details
}

fn remove(value: &mut Value, key: &str) {
    if let Some(map) = value.as_object_mut() {
        map.shift_remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::resources;

    #[test]
    fn texts_have_the_api_form() {
        let deployments = resources().lookup("apps", "v1", "deployments").unwrap();
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let invalid = [FieldError::required("spec.selector", "")];
        let two = [FieldError::required("a", ""), FieldError::required("b", "")];
        let cases = [
            (StatusError::not_found(deployments, "web"), 404, "deployments.apps \"web\" not found"),
            (StatusError::already_exists(pods, "a"), 409, "pods \"a\" already exists"),
            (
                StatusError::invalid(deployments, "web", &invalid),
                422,
                "Deployment.apps \"web\" is invalid: spec.selector: Required value",
            ),
            (
                StatusError::invalid(pods, "p", &two),
                422,
                "Pod \"p\" is invalid: [a: Required value, b: Required value]",
            ),
            (StatusError::expired(1, 5), 410, "too old resource version: 1 (5)"),
            (
                StatusError::forbidden_user(pods, None, "", "jane", "list", "default"),
                403,
                "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
            ),
        ];
        for (error, code, text) in cases {
            assert_eq!((error.code, error.message.as_str()), (code, text));
            assert_eq!(error.to_value()["code"], code);
        }
        let value = StatusError::invalid(deployments, "web", &invalid).to_value();
        assert_eq!(value["details"]["causes"][0]["field"], "spec.selector");
        assert_eq!(value["details"]["kind"], "Deployment");
        assert_eq!(
            StatusError::not_found(pods, "a").to_value()["details"],
            json!({"name": "a", "kind": "pods"})
        );
    }
}

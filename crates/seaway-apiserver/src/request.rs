//! What a request's URL asks for.

use std::sync::Arc;

use http::Method;
use seaway_apis::{Registry, Resource, StatusError};

/// Longer URLs are refused.
const MAX_URI_BYTES: usize = 64 << 10;

/// The query's parameters, decoded, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Query(pairs.collect())
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// All parameters.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// `true`, `1`, and a parameter without value.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(n, _)| n == name)?;
        Some(!matches!(value.as_str(), "false" | "0" | "False" | "F" | "f"))
    }

    /// A number; anything else is an error of the caller.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, StatusError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = || {
            StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax ({name})"))
        };
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// Percent decoding (RFC 3986); in queries `+` is a space.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if plus => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Percent encoding of a query's or path's part.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A path below `/api/v1` or `/apis/GROUP/VERSION` that names a resource.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources, and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for the collection.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) sub: String,
    /// The old `/watch/` form of the path.
    pub(crate) watch: bool,
}

impl Target {
    /// Parses a path; nothing when it isn't one of a served resource.
    pub(crate) fn parse(path: &str, registry: &Registry) -> Option<Target> {
        if path.len() > MAX_URI_BYTES {
            return None;
        }
        let mut parts: Vec<String> =
            path.split('/').filter(|p| !p.is_empty()).map(|part| decode(part, false)).collect();
        let prefix = match parts.first().map(String::as_str) {
            Some("api") if parts.len() > 2 => 2,
            Some("apis") if parts.len() > 3 => 3,
            _ => return None,
        };
        let rest = parts.split_off(prefix);
        let (group, version) = match &parts[1..] {
            [version] => ("", version.as_str()),
            [group, version] => (group.as_str(), version.as_str()),
            _ => return None,
        };
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let (rest, watch) = match rest.as_slice() {
            ["watch", more @ ..] => (more, true),
            all => (all, false),
        };
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, more @ ..] if !more.is_empty() => (*namespace, more),
            _ => ("", rest),
        };
        let (plural, name, sub) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, sub] => (*plural, *name, *sub),
            _ => return None,
        };
        let resource = registry.lookup(group, version, plural)?.clone();
        if !resource.namespaced && !namespace.is_empty() {
            return None;
        }
        if !sub.is_empty() && resource.subresource(sub).is_none() {
            return None;
        }
        Some(Target {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            sub: sub.to_owned(),
            watch,
        })
    }

    /// The API's verb for a method here.
    pub(crate) fn verb(&self, method: &Method, query: &Query) -> Option<&'static str> {
        let collection = self.name.is_empty();
        Some(match method.as_str() {
            "GET" | "HEAD" if !self.sub.is_empty() => "get",
            "GET" | "HEAD" if self.watch || query.flag("watch") == Some(true) => "watch",
            "GET" | "HEAD" if collection => "list",
            "GET" | "HEAD" => "get",
            "POST" if collection || !self.sub.is_empty() => "create",
            "PUT" if !collection => "update",
            "PATCH" if !collection => "patch",
            "DELETE" if !self.sub.is_empty() => return None,
            "DELETE" if collection => "deletecollection",
            "DELETE" => "delete",
            _ => return None,
        })
    }

    /// Whether the resource, or the subresource, has a verb here.
    pub(crate) fn allows(&self, verb: &str) -> bool {
        let collection = self.name.is_empty();
        if self.resource.namespaced && self.namespace.is_empty() && (!collection || verb == "create") {
            return false;
        }
        match self.resource.subresource(&self.sub) {
            Some(sub) => sub.verbs.iter().any(|v| v == verb),
            None => self.resource.can(verb),
        }
    }

    /// The kind under which the objects are stored: `GROUP/PLURAL`.
    pub(crate) fn kind(&self) -> String {
        storage_kind(&self.resource)
    }

    /// The subresource, if it is one.
    pub(crate) fn subresource(&self) -> Option<&str> {
        Some(self.sub.as_str()).filter(|sub| !sub.is_empty())
    }
}

/// The kind under which a resource's objects are stored: `GROUP/PLURAL`.
pub(crate) fn storage_kind(resource: &Resource) -> String {
    let (group, plural) = resource.storage();
    format!("{group}/{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use seaway_apis::resources;

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(text in ".*") {
            prop_assert_eq!(decode(&encode(&text), true), text);
        }

        #[test]
        fn any_path_and_query_is_understood_or_not(path in "/(api/v1|apis/apps/v1)(/[a-z%0-9]{0,12}){0,6}", query in ".{0,60}") {
            let target = Target::parse(&path, resources());
            let query = Query::parse(&query);
            if let Some(target) = target {
                prop_assert!(target.verb(&Method::GET, &query).is_some());
            }
        }
    }

    #[test]
    fn paths() {
        let cases = [
            ("/api/v1/pods", Some(("pods", "", "", ""))),
            ("/api/v1/namespaces/a/pods/b/log", Some(("pods", "a", "b", "log"))),
            ("/api/v1/namespaces", Some(("namespaces", "", "", ""))),
            ("/api/v1/namespaces/a", Some(("namespaces", "", "a", ""))),
            ("/api/v1/namespaces/a/finalize", Some(("namespaces", "", "a", "finalize"))),
            ("/apis/apps/v1/namespaces/a/deployments/b/scale", Some(("deployments", "a", "b", "scale"))),
            ("/apis/apps/v1/namespaces/a/deployments/b/nothing", None),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/nodes/a%2Fb", Some(("nodes", "", "a/b", ""))),
            ("/apis/apps/v1", None),
            ("/apis", None),
            ("/", None),
            ("/api/v1/namespaces/a/pods/b/c/d", None),
        ];
        for (path, wanted) in cases {
            let got = Target::parse(path, resources());
            let got = got.as_ref().map(|t| (&*t.resource.plural, &*t.namespace, &*t.name, &*t.sub));
            assert_eq!(got, wanted, "{path}");
        }
        assert!(Target::parse("/api/v1/watch/namespaces/a/pods", resources()).unwrap().watch);
    }

    #[test]
    fn queries() {
        let query = Query::parse("a=1&b=%3Dx+y&c&d=&e=false&bad=%zz%");
        assert_eq!(query.get("b"), Some("=x y"));
        assert_eq!(query.get("d"), None);
        assert_eq!((query.flag("c"), query.flag("e"), query.flag("f")), (Some(true), Some(false), None));
        assert_eq!(query.number("a"), Ok(Some(1)));
        assert!(query.number("b").is_err());
        assert_eq!(query.get("bad"), Some("%zz%"));
        assert_eq!(decode(&encode("a b/ü%"), false), "a b/ü%");
    }

    #[test]
    fn verbs() {
        let verb = |path: &str, method: Method, query: &str| {
            Target::parse(path, resources()).unwrap().verb(&method, &Query::parse(query))
        };
        assert_eq!(verb("/api/v1/pods", Method::GET, ""), Some("list"));
        assert_eq!(verb("/api/v1/pods", Method::GET, "watch=1"), Some("watch"));
        assert_eq!(verb("/api/v1/pods", Method::GET, "watch=false"), Some("list"));
        assert_eq!(verb("/api/v1/nodes/a", Method::PUT, ""), Some("update"));
        assert_eq!(verb("/api/v1/nodes", Method::PUT, ""), None);
        assert!(!Target::parse("/api/v1/pods", resources()).unwrap().allows("create"));
        assert!(Target::parse("/api/v1/namespaces/a/pods/b/exec", resources()).unwrap().allows("create"));
    }
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::resource::resources;

fn apply(plural: &str, group: &str, current: Value, patch: Value) -> Result<Value, PatchError> {
    strategic_merge(resources().lookup(group, "v1", plural).unwrap(), &current, &patch)
}

fn pod(spec: Value) -> Value {
    json!({ "spec": spec })
}

#[test]
fn merges_pods() {
    let cases = [
        // Objects merge, null deletes.
        (
            json!({"a": 1, "nodeSelector": {"x": "1", "y": "2"}}),
            json!({"nodeSelector": {"x": null, "z": "3"}}),
            json!({"a": 1, "nodeSelector": {"y": "2", "z": "3"}}),
        ),
        // Lists with a key merge by it; new entries go last.
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "2"}]}),
        ),
        // Nested keys.
        (
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "$patch": "delete"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}]}]}),
        ),
        // Lists without a key are replaced.
        (
            json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "args": ["1"]}]}),
            json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["2"]}]}),
            json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "args": ["2"]}]}),
        ),
        // The order directive.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "x"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}, {"name": "x"}]}),
        ),
        // Replacing a whole list.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        // Retained keys change a volume's source.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}, "$retainKeys": ["name", "configMap"]}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}]}),
        ),
        // Replacing an object.
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
    ];
    for (current, patch, expected) in cases {
        assert_eq!(apply("pods", "", pod(current), pod(patch.clone())).unwrap(), pod(expected), "{patch}");
    }
}

#[test]
fn merges_other_kinds() {
    let finalizers = apply(
        "configmaps",
        "",
        json!({"metadata": {"finalizers": ["a", "b"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}),
    );
    assert_eq!(finalizers.unwrap(), json!({"metadata": {"finalizers": ["b", "c"]}}));
    let ports = apply(
        "services",
        "",
        json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443}]}}),
        json!({"spec": {"ports": [{"port": 80, "$patch": "delete"}, {"port": 443, "name": "https"}]}}),
    );
    assert_eq!(ports.unwrap(), json!({"spec": {"ports": [{"port": 443, "name": "https"}]}}));
    let strategy = apply(
        "deployments",
        "apps",
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(strategy.unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let conditions = apply(
        "nodes",
        "",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
    );
    // No order is given: the condition that is patched goes after those that are not, unless it was before them.
    let expected =
        json!([{"type": "Ready", "status": "Unknown"}, {"type": "DiskPressure", "status": "False"}]);
    assert_eq!(conditions.unwrap()["status"]["conditions"], expected);
}

#[test]
fn refuses() {
    for patch in [
        json!([]),
        json!(1),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"$retainKeys": 1}}),
        json!({"spec": {"$setElementOrder/containers": 1}}),
        json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
    ] {
        assert!(
            matches!(apply("pods", "", json!({"spec": {}}), patch.clone()), Err(PatchError::Malformed(_))),
            "{patch}"
        );
    }
}

#[test]
fn json_merge_patch() {
    // The examples of RFC 7396, appendix A, that are about objects and lists.
    let cases = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
    ];
    for (current, patch, expected) in cases {
        assert_eq!(merge(&current, &patch), expected);
    }
}

/// A pod with lists of distinct keys.
fn any_pod() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[A-E]", "[0-9]", 0..4)
        .prop_map(|m| {
            m.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
        })
        .prop_shuffle();
    let container = ("[a-d]", "[x-z]", env, prop::collection::vec("[a-c]", 1..3))
        .prop_map(|(name, image, env, args)| json!({"name": name, "image": image, "env": env, "args": args}));
    let containers = prop::collection::vec(container, 1..4).prop_map(|mut list| {
        let mut seen = std::collections::HashSet::new();
        list.retain(|c: &Value| seen.insert(c["name"].to_string()));
        list
    });
    let labels = prop::collection::btree_map("[a-c]", "[0-9]", 0..3);
    let finalizers = prop::collection::btree_set("[a-d]", 0..4)
        .prop_map(|s| s.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    (containers, labels, finalizers).prop_map(|(containers, labels, finalizers)| {
        json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers}})
    })
}

/// The patch that makes `new` of `old`, as clients compute it.
fn diff(old: &Value, new: &Value, schema: Schema) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut patch = Map::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let before = old.get(key).unwrap_or(&Value::Null);
        if before == value {
            continue;
        }
        let of = field(schema, key);
        let strategy = of.map(strategy).unwrap_or_default();
        match value {
            Value::Object(_) => {
                patch.insert(key.clone(), Value::Object(diff(before, value, of)));
            }
            Value::Array(list) if strategy.merge => {
                let before = before.as_array().cloned().unwrap_or_default();
                let items = of.and_then(|s| resolve(s).get("items"));
                diff_list(&mut patch, key, &before, list, strategy.key, items);
            }
            _ => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch
}

fn diff_list(
    patch: &mut Map<String, Value>,
    key: &str,
    before: &[Value],
    list: &[Value],
    merge_key: Option<&str>,
    items: Schema,
) {
    let Some(merge_key) = merge_key else {
        let gone: Vec<Value> = before.iter().filter(|b| !list.contains(b)).cloned().collect();
        patch.insert(format!("{DELETE_PRIMITIVES}{key}"), gone.into());
        patch.insert(format!("{ELEMENT_ORDER}{key}"), list.to_vec().into());
        patch.insert(
            key.to_owned(),
            list.iter().filter(|l| !before.contains(l)).cloned().collect::<Vec<_>>().into(),
        );
        return;
    };
    let mut entries = Vec::new();
    for item in list {
        let old = before.iter().find(|b| b[merge_key] == item[merge_key]).cloned().unwrap_or(Value::Null);
        let mut entry = diff(&old, item, items);
        if !entry.is_empty() {
            entry.insert(merge_key.to_owned(), item[merge_key].clone());
            entries.push(Value::Object(entry));
        }
    }
    for gone in before.iter().filter(|b| !list.iter().any(|l| l[merge_key] == b[merge_key])) {
        entries.push(json!({merge_key: gone[merge_key], DIRECTIVE: "delete"}));
    }
    patch.insert(
        format!("{ELEMENT_ORDER}{key}"),
        list.iter().map(|l| json!({merge_key: l[merge_key]})).collect::<Vec<_>>().into(),
    );
    patch.insert(key.to_owned(), entries.into());
}

proptest! {
    #[test]
    fn an_object_patched_with_itself_is_itself(pod in any_pod()) {
        prop_assert_eq!(apply("pods", "", pod.clone(), pod.clone()).unwrap(), pod);
    }

    #[test]
    fn a_difference_makes_the_new_object(old in any_pod(), new in any_pod()) {
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let patch = Value::Object(diff(&old, &new, definitions().get(pods.schema.as_ref())));
        let result = strategic_merge(pods, &old, &patch).unwrap();
        prop_assert_eq!(&result, &new, "{}", patch);
        // A second time changes nothing.
        prop_assert_eq!(strategic_merge(pods, &result, &patch).unwrap(), new);
    }

    #[test]
    fn others_entries_survive(mut current in any_pod(), old in any_pod(), new in any_pod()) {
        // What neither the old nor the new configuration names stays.
        current["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "sidecar"}));
        let pods = resources().lookup("", "v1", "pods").unwrap();
        let patch = Value::Object(diff(&old, &new, definitions().get(pods.schema.as_ref())));
        let result = strategic_merge(pods, &current, &patch).unwrap();
        let sidecar = json!({"name": "sidecar"});
        prop_assert!(result["spec"]["containers"].as_array().unwrap().contains(&sidecar));
    }
}

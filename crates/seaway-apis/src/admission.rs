//! What admission adds to a pod.

use serde_json::{Value, json};

use crate::value::{child, default_text, each, list, text};

/// Where every container finds its token, the cluster's CA and its namespace.
pub const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Seconds for which a projected token is valid: an hour, and the seven seconds that tell it from one asked for by hand.
const TOKEN_SECONDS: i64 = 3607;

/// Gives a pod its service account (`default` when none is named), and mounts the account's token, the cluster's CA
/// and the namespace at [`MOUNT_PATH`] in every container, unless `automountServiceAccountToken` of the pod or of the
/// account (`account`, when it exists) is off. `suffix` ends the volume's name (5 characters). Call after the defaults.
pub fn service_account(pod: &mut Value, account: Option<&Value>, suffix: &str) {
    let Some(spec) = child(pod, "spec") else { return };
    default_text(spec, "serviceAccountName", "default");
    let name = text(spec, "/serviceAccountName").to_owned();
    spec["serviceAccount"] = name.into();
    let wish = |value: Option<&Value>| {
        value.and_then(|v| v.get("automountServiceAccountToken")).and_then(Value::as_bool)
    };
    if !wish(Some(spec)).or(wish(account)).unwrap_or(true) {
        return;
    }
    let taken = list(spec, "/volumes")
        .iter()
        .find_map(|v| text(v, "/name").strip_prefix("kube-api-access-").map(str::to_owned));
    let volume = format!("kube-api-access-{}", taken.as_deref().unwrap_or(suffix));
    let mut mounted = false;
    for kind in ["/initContainers", "/containers"] {
        for container in each(spec, kind) {
            if list(container, "/volumeMounts").iter().any(|m| text(m, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            push(container, "volumeMounts", mount);
            mounted = true;
        }
    }
    if mounted && taken.is_none() {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn push(object: &mut Value, key: &str, item: Value) {
    let Some(map) = object.as_object_mut() else { return };
    match map.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            map.insert(key.to_owned(), json!([item]));
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
            "defaultMode": 420,
        },
    })
}

/// Tolerates a node that is not ready or unreachable for five minutes, and sets the priority of pods without a
/// priority class, as the admission plugins that are on by default do.
pub fn pod_defaults(pod: &mut Value) {
    let Some(spec) = child(pod, "spec") else { return };
    crate::value::default(spec, "priority", 0);
    crate::value::default(spec, "preemptionPolicy", "PreemptLowerPriority");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(spec, "/tolerations").iter().any(|t| {
            (text(t, "/key").is_empty() || text(t, "/key") == key)
                && matches!(text(t, "/effect"), "" | "NoExecute")
        });
        if !tolerated {
            push(
                spec,
                "tolerations",
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_the_token() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        service_account(&mut pod, None, "abcde");
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let once = pod.clone();
        service_account(&mut pod, None, "fghij");
        assert_eq!(pod, once);
    }

    #[test]
    fn automount_can_be_off() {
        let cases = [
            (json!({"containers": [{}], "automountServiceAccountToken": false}), json!({}), false),
            (json!({"containers": [{}]}), json!({"automountServiceAccountToken": false}), false),
            (
                json!({"containers": [{}], "automountServiceAccountToken": true}),
                json!({"automountServiceAccountToken": false}),
                true,
            ),
        ];
        for (spec, account, mounted) in cases {
            let mut pod = json!({"spec": spec});
            service_account(&mut pod, Some(&account), "abcde");
            assert_eq!(pod["spec"].get("volumes").is_some(), mounted, "{pod}");
        }
    }

    #[test]
    fn tolerations_are_added_once() {
        let mut pod =
            json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]}});
        pod_defaults(&mut pod);
        pod_defaults(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        pod_defaults(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}

//! From security contexts to what a container's processes may do.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use seaway_net::sandbox::{Capabilities, Credentials};

/// What a container has that asks for nothing: containerd's default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What a container's processes run with: its own and those that probes, hooks and exec start.
pub(super) fn credentials(pod: &PodSpec, container: &Container) -> Result<Credentials, String> {
    let (uid, gid) = identity(pod, container)?;
    let context = container.security_context.as_ref();
    Ok(Credentials {
        uid,
        gid,
        capabilities: capabilities(container)?,
        no_new_privileges: context.and_then(|context| context.allow_privilege_escalation) == Some(false),
    })
}

/// The user and group of the container's security context, or the pod's.
fn identity(pod: &PodSpec, container: &Container) -> Result<(Option<u32>, Option<u32>), String> {
    let own = container.security_context.as_ref();
    let shared = pod.security_context.as_ref();
    let user = own
        .and_then(|context| context.run_as_user)
        .or_else(|| shared.and_then(|context| context.run_as_user));
    let group = own
        .and_then(|context| context.run_as_group)
        .or_else(|| shared.and_then(|context| context.run_as_group));
    let non_root = own
        .and_then(|context| context.run_as_non_root)
        .or_else(|| shared.and_then(|context| context.run_as_non_root));
    if non_root == Some(true) && user.unwrap_or(0) == 0 {
        return Err("container has runAsNonRoot and image will run as root".to_owned());
    }
    let number = |what: &str, id: Option<i64>| {
        id.map(|id| u32::try_from(id).map_err(|_| format!("{what} {id} is out of range"))).transpose()
    };
    let user = number("runAsUser", user)?;
    let group = number("runAsGroup", group)?;
    // A user without a group has group 0, as runtimes do it for users that the image does not know.
    Ok((user, group.or(user.map(|_| 0))))
}

/// The capabilities of a container; `None`, all that the node has, for a privileged one.
fn capabilities(container: &Container) -> Result<Option<Capabilities>, String> {
    let context = container.security_context.as_ref();
    if context.and_then(|context| context.privileged) == Some(true) {
        return Ok(None);
    }
    let lists = context.and_then(|context| context.capabilities.clone()).unwrap_or_default();
    let (add, drop) = (lists.add.unwrap_or_default(), lists.drop.unwrap_or_default());
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    // As containerd has it: ALL first, so that single ones can be taken from all, or added to none.
    let start = if drop.iter().any(is_all) {
        Capabilities::NONE
    } else if add.iter().any(is_all) {
        Capabilities::ALL
    } else {
        named("default", &DEFAULT.map(str::to_owned))?
    };
    let single =
        |names: Vec<String>| -> Vec<String> { names.into_iter().filter(|name| !is_all(name)).collect() };
    Ok(Some(start.with(named("add", &single(add))?).without(named("drop", &single(drop))?)))
}

/// The capabilities of these names, which stand in `securityContext.capabilities.LIST`.
fn named(list: &str, names: &[String]) -> Result<Capabilities, String> {
    names.iter().try_fold(Capabilities::NONE, |set, name| {
        let one = Capabilities::named(name);
        let one = one.ok_or_else(|| {
            format!("securityContext.capabilities.{list}: {name:?} is no capability such as NET_ADMIN")
        })?;
        Ok(set.with(one))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn credentials_of(pod: serde_json::Value, container: serde_json::Value) -> Result<Credentials, String> {
        let spec =
            json!({"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]});
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        credentials(&spec, &spec.containers[0])
    }

    #[test]
    fn identities() {
        for (pod, container, expected) in [
            (json!({}), json!({}), Ok((None, None))),
            (json!({"runAsUser": 7}), json!({}), Ok((Some(7), Some(0)))),
            (json!({"runAsUser": 7, "runAsGroup": 8}), json!({"runAsUser": 9}), Ok((Some(9), Some(8)))),
            (json!({"runAsUser": -1}), json!({}), Err("runAsUser -1 is out of range")),
            (
                json!({"runAsNonRoot": true}),
                json!({}),
                Err("container has runAsNonRoot and image will run as root"),
            ),
        ] {
            let ids = credentials_of(pod, container).map(|credentials| (credentials.uid, credentials.gid));
            assert_eq!(ids.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text));
        }
    }

    #[test]
    fn capabilities_are_the_defaults_with_what_is_added_and_dropped() {
        let default = named("default", &DEFAULT.map(str::to_owned)).unwrap();
        let some = |names: &[&str]| {
            named("", &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        for (context, expected) in [
            (json!({}), Some(default)),
            (json!({"privileged": false}), Some(default)),
            (json!({"privileged": true, "capabilities": {"drop": ["ALL"]}}), None),
            (json!({"capabilities": {"add": ["NET_ADMIN"]}}), Some(default.with(some(&["NET_ADMIN"])))),
            (
                json!({"capabilities": {"drop": ["NET_RAW", "chown"]}}),
                Some(default.without(some(&["NET_RAW", "CHOWN"]))),
            ),
            (
                json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}),
                Some(some(&["NET_BIND_SERVICE"])),
            ),
            (
                json!({"capabilities": {"add": ["ALL"], "drop": ["KILL"]}}),
                Some(Capabilities::ALL.without(some(&["KILL"]))),
            ),
        ] {
            let text = context.to_string();
            assert_eq!(credentials_of(json!({}), context).unwrap().capabilities, expected, "{text}");
        }
        let error = credentials_of(json!({}), json!({"capabilities": {"add": ["NET-ADMIN"]}})).unwrap_err();
        assert_eq!(
            error,
            "securityContext.capabilities.add: \"NET-ADMIN\" is no capability such as NET_ADMIN"
        );
        for (context, off) in [(json!({}), false), (json!({"allowPrivilegeEscalation": false}), true)] {
            assert_eq!(credentials_of(json!({}), context).unwrap().no_new_privileges, off);
        }
    }
}

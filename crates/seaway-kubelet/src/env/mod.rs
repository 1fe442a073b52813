//! A container's environment, command and arguments.

mod downward;
mod expand;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};

pub(crate) use downward::{Addresses, Machine, container_named, field, resource};
pub(crate) use expand::expand;
pub(crate) use services::service_env;

/// Where programs are looked for unless the container says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The ConfigMaps and Secrets of the pod's namespace that its containers' environments name; absent ones are absent.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

/// What one container's environment is made from.
pub(crate) struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub addresses: &'a Addresses,
    pub machine: Machine,
    pub hostname: &'a str,
    pub services: &'a BTreeMap<String, String>,
    pub sources: &'a Sources,
}

/// The names of the ConfigMaps and Secrets that a container's environment needs.
pub(crate) fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
    }
    (config_maps, secrets)
}

/// The whole environment; an error names what is missing, which kubelet calls CreateContainerConfigError.
pub(crate) fn environment(inputs: &Inputs<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut own = from_whole_objects(inputs)?;
    for variable in inputs.container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => {
                let lookup = |name: &str| own.get(name).or_else(|| inputs.services.get(name)).cloned();
                Some(expand(variable.value.as_deref().unwrap_or_default(), lookup))
            }
            Some(_) => referenced(inputs, variable)?,
        };
        if let Some(value) = value {
            own.insert(variable.name.clone(), value);
        }
    }
    let mut env = inputs.services.clone();
    env.insert("PATH".to_owned(), PATH.to_owned());
    env.insert("HOSTNAME".to_owned(), inputs.hostname.to_owned());
    env.insert("HOME".to_owned(), "/root".to_owned());
    if inputs.container.tty == Some(true) {
        env.insert("TERM".to_owned(), "xterm".to_owned());
    }
    env.append(&mut own);
    Ok(env)
}

/// `envFrom`: every entry of a ConfigMap or Secret whose name can be a variable's.
fn from_whole_objects(inputs: &Inputs<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for from in inputs.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut add = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
                env.insert(name, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match inputs.sources.config_maps.get(&reference.name) {
                Some(map) => map.data.iter().flatten().for_each(|(key, value)| add(key, value.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match inputs.sources.secrets.get(&reference.name) {
                Some(secret) => {
                    secret.data.iter().flatten().for_each(|(key, value)| add(key, lossy(&value.0)))
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    Ok(env)
}

/// The value of a variable with `valueFrom`; `None` where an optional source is absent.
fn referenced(inputs: &Inputs<'_>, variable: &EnvVar) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else { return Ok(None) };
    if let Some(reference) = &from.field_ref {
        return field(inputs.pod, inputs.addresses, &reference.field_path).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let of = match named {
            Some(name) => container_named(inputs.pod, name)?,
            None => inputs.container,
        };
        return resource(of, selector, inputs.machine).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let map = inputs.sources.config_maps.get(&reference.name);
        let value = map.and_then(|map| map.data.as_ref()?.get(&reference.key)).cloned();
        let missing = || missing_key("configmap", map.is_some(), &reference.name, &reference.key);
        return optional(value, reference.optional, missing);
    }
    if let Some(reference) = &from.secret_key_ref {
        let secret = inputs.sources.secrets.get(&reference.name);
        let value =
            secret.and_then(|secret| secret.data.as_ref()?.get(&reference.key)).map(|bytes| lossy(&bytes.0));
        let missing = || missing_key("secret", secret.is_some(), &reference.name, &reference.key);
        return optional(value, reference.optional, missing);
    }
    Err(format!("env {}: valueFrom has no source that is supported here", variable.name))
}

fn optional(
    value: Option<String>,
    optional: Option<bool>,
    missing: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    match value {
        None if optional != Some(true) => Err(missing()),
        // NUL ends a variable in the kernel's eyes.
        value => Ok(value.map(|value| value.replace('\0', ""))),
    }
}

fn missing_key(kind: &str, exists: bool, name: &str, key: &str) -> String {
    match exists {
        true => format!("couldn't find key {key} in {kind} {name:?}"),
        false => format!("{kind} {name:?} not found"),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources() -> Sources {
        let map = serde_json::from_value(json!({"data": {"color": "blue", "size": "10"}})).unwrap();
        let secret = serde_json::from_value(json!({"data": {"password": "c2VjcmV0"}})).unwrap();
        Sources {
            config_maps: BTreeMap::from([("settings".to_owned(), map)]),
            secrets: BTreeMap::from([("login".to_owned(), secret)]),
        }
    }

    fn env_of(container: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"containers": []}})).unwrap();
        environment(&Inputs {
            pod: &pod,
            container: &container,
            addresses: &Addresses { pod_ips: vec!["10.0.0.9".into()], host_ips: vec![] },
            machine: Machine { cpus: 1.0, memory: 1.0 },
            hostname: "web",
            services: &BTreeMap::from([("SVC_SERVICE_HOST".to_owned(), "10.96.0.9".to_owned())]),
            sources: &sources(),
        })
    }

    #[test]
    fn later_sources_win_and_values_may_refer_to_earlier_ones() {
        let env = env_of(json!({
            "name": "c",
            "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "CFG_"}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "HOST", "value": "$(SVC_SERVICE_HOST):80"},
                {"name": "URL", "value": "http://$(HOST)/$(CFG_color)/$(NOT_YET)"},
                {"name": "NOT_YET", "value": "x"},
                {"name": "CFG_size", "value": "11"},
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "none", "optional": true}}}
            ]
        }))
        .unwrap();
        for (name, value) in [
            ("HOST", Some("10.96.0.9:80")),
            ("URL", Some("http://10.96.0.9:80/blue/$(NOT_YET)")),
            ("CFG_size", Some("11")),
            ("PASSWORD", Some("secret")),
            ("IP", Some("10.0.0.9")),
            ("ABSENT", None),
            ("HOSTNAME", Some("web")),
            ("HOME", Some("/root")),
            ("PATH", Some(PATH)),
        ] {
            assert_eq!(env.get(name).map(String::as_str), value, "{name}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (env, message) in [
            (
                json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}]),
                "configmap \"none\" not found",
            ),
            (
                json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "k"}}}]),
                "couldn't find key k in secret \"login\"",
            ),
        ] {
            assert_eq!(env_of(json!({"name": "c", "env": env})).unwrap_err(), message);
        }
    }
}

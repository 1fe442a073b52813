//! What a volume of files holds: ConfigMaps, Secrets, the downward API, tokens; pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapProjection, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretProjection, Volume,
};

use crate::env::{Addresses, Machine, container_named, field, resource};

/// A file of a volume: its bytes and permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// The files of a volume by their paths in it.
pub(crate) type Files = BTreeMap<String, FileContent>;

/// Where some of a volume's files come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    ConfigMap { name: String, items: Option<Vec<KeyToPath>>, optional: bool },
    Secret { name: String, items: Option<Vec<KeyToPath>>, optional: bool },
    Downward(Vec<DownwardAPIVolumeFile>),
    Token { audience: Option<String>, expiration_seconds: i64, path: String },
}

/// A volume of files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileVolume {
    pub name: String,
    pub sources: Vec<Source>,
    pub mode: u32,
}

const DEFAULT_MODE: i32 = 0o644;
/// A token's lifetime where the volume does not say (core/v1 ServiceAccountTokenProjection).
const TOKEN_SECONDS: i64 = 3600;

/// What kind of volume this is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Empty,
    Host { path: String, kind: String },
    Files(FileVolume),
}

/// Reads a volume; an error names a type that is not supported.
pub(crate) fn kind_of(volume: &Volume) -> Result<Kind, String> {
    let files = |sources, mode: Option<i32>| {
        let mode = u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777;
        Ok(Kind::Files(FileVolume { name: volume.name.clone(), sources, mode }))
    };
    if volume.empty_dir.is_some() {
        return Ok(Kind::Empty);
    }
    if let Some(host) = &volume.host_path {
        return Ok(Kind::Host { path: host.path.clone(), kind: host.type_.clone().unwrap_or_default() });
    }
    if let Some(map) = &volume.config_map {
        let optional = map.optional == Some(true);
        return files(
            vec![Source::ConfigMap { name: map.name.clone(), items: map.items.clone(), optional }],
            map.default_mode,
        );
    }
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        let source =
            Source::Secret { name, items: secret.items.clone(), optional: secret.optional == Some(true) };
        return files(vec![source], secret.default_mode);
    }
    if let Some(downward) = &volume.downward_api {
        return files(
            vec![Source::Downward(downward.items.clone().unwrap_or_default())],
            downward.default_mode,
        );
    }
    if let Some(projected) = &volume.projected {
        let mut sources = Vec::new();
        for projection in projected.sources.iter().flatten() {
            sources.extend(projection.config_map.clone().map(of_config_map));
            sources.extend(projection.secret.clone().map(of_secret));
            let downward = projection.downward_api.clone();
            sources.extend(downward.map(|downward| Source::Downward(downward.items.unwrap_or_default())));
            sources.extend(projection.service_account_token.clone().map(|token| Source::Token {
                audience: token.audience.filter(|audience| !audience.is_empty()),
                expiration_seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS),
                path: token.path,
            }));
        }
        return files(sources, projected.default_mode);
    }
    // A volume that names no source is an emptyDir by default.
    let others = serde_json::to_value(volume).ok().and_then(|value| {
        value
            .as_object()?
            .iter()
            .find(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.clone())
    });
    match others {
        None => Ok(Kind::Empty),
        Some(other) => Err(format!("volume {:?}: {other} volumes are not supported here", volume.name)),
    }
}

fn of_config_map(projection: ConfigMapProjection) -> Source {
    Source::ConfigMap {
        name: projection.name,
        items: projection.items,
        optional: projection.optional == Some(true),
    }
}

fn of_secret(projection: SecretProjection) -> Source {
    Source::Secret {
        name: projection.name,
        items: projection.items,
        optional: projection.optional == Some(true),
    }
}

/// A ConfigMap's entries, text and binary.
pub(crate) fn config_map_entries(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    text.chain(binary).collect()
}

/// A Secret's entries.
pub(crate) fn secret_entries(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
}

/// Adds `entries` to `files`: all of them by their keys, or the listed `items` at their paths.
pub(crate) fn add_entries(
    files: &mut Files,
    what: &str,
    entries: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in entries {
            files.insert(checked(key)?, FileContent { bytes: bytes.to_vec(), mode });
        }
        return Ok(());
    };
    for item in items {
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode) & 0o777;
        match entries.get(item.key.as_str()) {
            Some(bytes) => {
                files.insert(checked(&item.path)?, FileContent { bytes: bytes.to_vec(), mode });
            }
            None if optional => {}
            None => return Err(format!("{what} has no key {:?}", item.key)),
        }
    }
    Ok(())
}

/// Adds the downward API's `items` to `files`.
pub(crate) fn add_downward(
    files: &mut Files,
    pod: &Pod,
    addresses: &Addresses,
    machine: Machine,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            field(pod, addresses, &reference.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            resource(container_named(pod, name)?, selector, machine)?
        } else {
            return Err(format!(
                "downwardAPI item {:?} has neither fieldRef nor resourceFieldRef",
                item.path
            ));
        };
        let mode = item.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(mode) & 0o777;
        files.insert(checked(&item.path)?, FileContent { bytes: text.into_bytes(), mode });
    }
    Ok(())
}

/// A path that stays in its volume.
pub(crate) fn checked(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = !path.is_empty()
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
        && !path.starts_with("..");
    match fits && !path.contains('\0') {
        true => Ok(path.to_owned()),
        false => Err(format!("path {path:?} must be relative and without \"..\"")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_are_told_apart() {
        for (volume, expected) in [
            (json!({"name": "v", "emptyDir": {}}), Ok(Kind::Empty)),
            (json!({"name": "v"}), Ok(Kind::Empty)),
            (
                json!({"name": "v", "hostPath": {"path": "/run"}}),
                Ok(Kind::Host { path: "/run".into(), kind: String::new() }),
            ),
            (
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
                Err("volume \"v\": persistentVolumeClaim volumes are not supported here".to_owned()),
            ),
            (
                json!({"name": "v", "configMap": {"name": "c", "defaultMode": 0o400}}),
                Ok(Kind::Files(FileVolume {
                    name: "v".into(),
                    sources: vec![Source::ConfigMap { name: "c".into(), items: None, optional: false }],
                    mode: 0o400,
                })),
            ),
            (
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}),
                Ok(Kind::Files(FileVolume {
                    name: "v".into(),
                    sources: vec![Source::Token {
                        audience: None,
                        expiration_seconds: 3607,
                        path: "token".into(),
                    }],
                    mode: 0o644,
                })),
            ),
        ] {
            let volume: Volume = serde_json::from_value(volume).unwrap();
            assert_eq!(kind_of(&volume), expected, "{volume:?}");
        }
    }

    #[test]
    fn items_choose_and_rename() {
        let entries = BTreeMap::from([("a", &b"1"[..]), ("b", b"2")]);
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "dir/x", "mode": 0o600}])).unwrap();
        let mut files = Files::new();
        add_entries(&mut files, "configmap \"c\"", &entries, Some(&items), false, 0o644).unwrap();
        assert_eq!(
            files,
            Files::from([("dir/x".to_owned(), FileContent { bytes: b"1".to_vec(), mode: 0o600 })])
        );
        let missing: Vec<KeyToPath> = serde_json::from_value(json!([{"key": "z", "path": "z"}])).unwrap();
        let error =
            add_entries(&mut files, "configmap \"c\"", &entries, Some(&missing), false, 0o644).unwrap_err();
        assert_eq!(error, "configmap \"c\" has no key \"z\"");
        add_entries(&mut files, "configmap \"c\"", &entries, Some(&missing), true, 0o644).unwrap();
    }

    #[test]
    fn paths_stay_in_the_volume() {
        for (path, fits) in [
            ("a", true),
            ("a/b", true),
            ("a..b", true),
            ("", false),
            ("/a", false),
            ("../a", false),
            ("a/../b", false),
            ("..data", false),
            ("a//b", false),
        ] {
            assert_eq!(checked(path).is_ok(), fits, "{path}");
        }
    }
}

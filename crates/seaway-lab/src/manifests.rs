//! Manifests: reading them from files and folders, and applying them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery;
use serde_json::Value;

use crate::file::{self, LabFile};

/// What `-f` named.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// The lab file, where there is one.
    pub(crate) lab: Option<LabFile>,
    /// The Kubernetes objects with the files that they stand in, in order.
    pub(crate) objects: Vec<(PathBuf, Value)>,
}

/// Reads files and folders (their `.yaml`, `.yml` and `.json` files in order of name).
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut manifests = Manifests::default();
    for path in paths {
        for file in files(path)? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            for document in documents(&text) {
                add(&mut manifests, &file, document)?;
            }
        }
    }
    Ok(manifests)
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_manifest = |file: &PathBuf| {
        file.extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    Ok(files)
}

/// The documents of a YAML stream, each with what it needs to be read alone.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            documents.push(&text[start..position]);
            start = position + line.len();
        }
        position += line.len();
    }
    documents.push(&text[start..]);
    let says_something = |document: &&str| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.into_iter().filter(says_something).collect()
}

fn add(manifests: &mut Manifests, file: &Path, document: &str) -> anyhow::Result<()> {
    let name = file.display().to_string();
    let value: Value = serde_saphyr::from_str(document).with_context(|| format!("{name}: not YAML"))?;
    let is_lab = value.get("kind").and_then(Value::as_str) == Some(file::KIND)
        && value
            .get("apiVersion")
            .and_then(Value::as_str)
            .is_some_and(|version| version.starts_with("lab.seaway.dev/"));
    if is_lab {
        let lab = file::parse(&name, document)?;
        anyhow::ensure!(manifests.lab.is_none(), "{name}: this is the second lab file; there can be one");
        manifests.lab = Some(lab);
    } else if value.get("kind").and_then(Value::as_str) == Some("List") {
        let items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        manifests.objects.extend(items.into_iter().map(|item| (file.to_owned(), item)));
    } else {
        manifests.objects.push((file.to_owned(), value));
    }
    Ok(())
}

/// Creates the objects, or changes those that are there to what they say; namespaces first.
pub(crate) async fn apply(client: &kube::Client, objects: &[(PathBuf, Value)]) -> anyhow::Result<()> {
    let is_namespace =
        |(_, object): &&(PathBuf, Value)| object.get("kind").and_then(Value::as_str) == Some("Namespace");
    let (namespaces, rest): (Vec<_>, Vec<_>) = objects.iter().partition(is_namespace);
    for (file, object) in namespaces.into_iter().chain(rest) {
        apply_one(client, object)
            .await
            .with_context(|| format!("{}: {}", file.display(), describe(object)))?;
    }
    Ok(())
}

fn describe(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

async fn apply_one(client: &kube::Client, object: &Value) -> anyhow::Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone()).context("not a Kubernetes object")?;
    let types = object.types.clone().context("apiVersion and kind are needed")?;
    let kind = GroupVersionKind::try_from(types)?;
    let (resource, capabilities) =
        discovery::pinned_kind(client, &kind).await.context("no such kind at the API server")?;
    let name = object.metadata.name.clone().context("metadata.name is needed")?;
    let api: Api<DynamicObject> = if capabilities.scope == discovery::Scope::Namespaced {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await?;
        }
        created => {
            created?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_without_content_are_left_out() {
        assert_eq!(documents("# only a comment\n---\na: 1\n---\n\n--- # two\nb: 2\n"), ["a: 1\n", "b: 2\n"]);
    }

    #[test]
    fn the_lab_file_is_told_from_manifests() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec: {nodes: 2}\n";
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "not: read").unwrap();
        let manifests = read(&[folder.path().to_owned()]).unwrap();
        assert_eq!(manifests.lab.unwrap().spec.nodes, Some(2));
        assert_eq!(manifests.objects.len(), 1);
    }
}

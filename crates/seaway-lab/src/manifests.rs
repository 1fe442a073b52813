//! Manifests: reading them from files and folders, and applying them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery;
use serde_json::Value;
use serde_saphyr::Spanned;

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
///
/// # Errors
/// The file and what is wrong in it: line and column where it is no YAML, the object where one lacks something.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut manifests = Manifests::default();
    for path in paths {
        for file in files(path)? {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            read_stream(&mut manifests, &file, &text)?;
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
    anyhow::ensure!(!files.is_empty(), "{} has no .yaml, .yml or .json file", path.display());
    files.sort();
    Ok(files)
}

/// Reads all documents of a YAML stream.
fn read_stream(manifests: &mut Manifests, file: &Path, text: &str) -> anyhow::Result<()> {
    let name = file.display();
    let documents: Vec<Spanned<Value>> =
        serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let lines: Vec<u64> = documents.iter().map(|document| document.defined.line()).collect();
    for (i, Spanned { value, .. }) in documents.into_iter().enumerate() {
        if is_lab(&value) {
            let lab = file::parse(&name.to_string(), &alone(text, lines[i], lines.get(i + 1).copied()))?;
            anyhow::ensure!(manifests.lab.is_none(), "{name}: this is the second lab file; there can be one");
            manifests.lab = Some(lab);
            continue;
        }
        for object in objects_of(value) {
            if let Some(missing) = missing(&object) {
                anyhow::bail!("{name}: the object that begins on line {}: {missing} is needed", lines[i]);
            }
            manifests.objects.push((file.to_owned(), object));
        }
    }
    Ok(())
}

fn is_lab(document: &Value) -> bool {
    let text = |key| document.get(key).and_then(Value::as_str);
    text("kind") == Some(file::KIND)
        && text("apiVersion").is_some_and(|version| version.starts_with("lab.seaway.dev/"))
}

/// The document whose contents begin on line `begin` (from 1), without what stands before and after it but on the
/// lines that it has in the whole `text`, so that errors count them right.
fn alone(text: &str, begin: u64, next: Option<u64>) -> String {
    let next = next.unwrap_or(u64::MAX);
    let is_marker = |line: &str| line.trim_end() == "---" || line.starts_with("--- ");
    // Up to the next document's contents there may be its comments, which begin with its marker.
    let own = (1..)
        .zip(text.lines())
        .take_while(|(number, line)| *number < next && (*number <= begin || !is_marker(line)));
    own.map(|(number, line)| if number < begin { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

/// The objects of a document: its own, or those of a list of any kind (`List`, `ConfigMapList`).
fn objects_of(mut document: Value) -> Vec<Value> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some(of) = kind.as_deref().and_then(|kind| kind.strip_suffix("List")) else { return vec![document] };
    let Some(Value::Array(items)) = document.get_mut("items").map(Value::take) else { return vec![document] };
    let complete = |mut item: Value| {
        // The items of a list of one kind need not say which.
        if let (Value::Object(item), false, Some(version)) = (&mut item, of.is_empty(), &version) {
            item.entry("apiVersion").or_insert_with(|| version.clone().into());
            item.entry("kind").or_insert_with(|| of.into());
        }
        item
    };
    items.into_iter().map(complete).collect()
}

/// What an object lacks to be one.
fn missing(object: &Value) -> Option<&'static str> {
    let is_missing = |path: &&str| object.pointer(path).and_then(Value::as_str).is_none_or(str::is_empty);
    let path = ["/apiVersion", "/kind", "/metadata/name"].into_iter().find(is_missing)?;
    Some(match path {
        "/metadata/name" => "metadata.name",
        other => &other[1..],
    })
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
    let (resource, capabilities) = match discovery::pinned_kind(client, &kind).await {
        Ok(found) => found,
        Err(kube::Error::Discovery(_) | kube::Error::Api(_)) => anyhow::bail!(
            "the API server has no kind {} in {} (`kubectl api-resources` lists what it has)",
            kind.kind,
            kind.api_version()
        ),
        Err(error) => return Err(error.into()),
    };
    let name = object.metadata.name.clone().context("metadata.name is needed")?;
    let api: Api<DynamicObject> = if capabilities.scope == discovery::Scope::Namespaced {
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    };
    let applied = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&object)).await
        }
        created => created,
    };
    match applied {
        // What the API server says is all that there is to say; the error itself has it twice, and as a structure too.
        Err(kube::Error::Api(status)) => anyhow::bail!("{}", status.message),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> anyhow::Result<Manifests> {
        let mut manifests = Manifests::default();
        read_stream(&mut manifests, Path::new("f.yaml"), text)?;
        Ok(manifests)
    }

    fn described(text: &str) -> Vec<String> {
        stream(text).unwrap().objects.iter().map(|(_, object)| describe(object)).collect()
    }

    #[test]
    fn streams_are_read_document_by_document() {
        let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
        for (text, expected) in [
            (String::new(), vec![]),
            ("# only a comment\n---\n# and another\n".into(), vec![]),
            (format!("{}--- # second\n{}---\n", map("a"), map("b")), vec!["ConfigMap a", "ConfigMap b"]),
            (format!("---\n\n---\n{}...\n---\n{}", map("a"), map("b")), vec!["ConfigMap a", "ConfigMap b"]),
            (format!("{}data:\n  text: |\n    ---\n    x\n", map("a")), vec!["ConfigMap a"]),
            (
                "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: s}}\n".into(),
                vec!["Secret s"],
            ),
            (
                "apiVersion: v1\nkind: ConfigMapList\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]\n".into(),
                vec!["ConfigMap a", "ConfigMap b"],
            ),
            (
                "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Secret\", \"metadata\": {\"name\": \"s\"}}\n".into(),
                vec!["Secret s"],
            ),
        ] {
            assert_eq!(described(&text), expected, "{text}");
        }
    }

    #[test]
    fn anchors_stand_for_what_they_name() {
        let text =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: &l {app: x}}\nspec: {selector: *l}\n";
        let manifests = stream(text).unwrap();
        assert_eq!(manifests.objects[0].1["spec"]["selector"]["app"], "x");
    }

    #[test]
    fn errors_say_where() {
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let lab = "apiVersion: lab.seaway.dev/v1alpha1\nkind: Lab\nspec:\n";
        for (text, words) in [
            (format!("{map}---\na: b: c\n"), vec!["f.yaml", "line 5"]),
            (format!("{map}---\n# x\n{lab}  nods: 3\n---\n{map}"), vec!["f.yaml", "line 9", "nods", "nodes"]),
            (format!("{map}---\n{lab}  nodes: many\n"), vec!["f.yaml", "line 8", "many"]),
            (format!("{map}---\napiVersion: v1\nkind: Pod\n"), vec!["f.yaml", "line 5", "metadata.name"]),
            ("just text\n".into(), vec!["line 1", "apiVersion is needed"]),
            (
                format!("--- {{apiVersion: lab.seaway.dev/v1alpha1, kind: Lab, spec: {{n: 1}}}}\n---\n{map}"),
                vec!["line 1", "`n`"],
            ),
            (format!("{lab}  nodes: 2\n---\n{lab}  nodes: 2\n"), vec!["second lab file"]),
        ] {
            let error = format!("{:#}", stream(&text).unwrap_err());
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
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

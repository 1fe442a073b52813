//! A pod's network through CNI plugins, as a container runtime calls them (CNI specification 1.1.0).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// How long one plugin may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The interface's name in the pod.
const INTERFACE: &str = "eth0";

/// Why a pod's network could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error("cni plugin not initialized: no network configuration in {dir}")]
    NotInitialized { dir: PathBuf },
    #[error("network configuration {file}: {problem}")]
    Configuration { file: PathBuf, problem: String },
    #[error("plugin type={plugin:?} failed ({command}): {problem}")]
    Plugin { plugin: String, command: &'static str, problem: String },
}

/// A configuration list: the plugins of a network, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    #[serde(rename = "cniVersion")]
    pub version: String,
    pub name: String,
    pub plugins: Vec<Map<String, Value>>,
}

/// Who the network is for.
#[derive(Debug, Clone)]
pub(crate) struct Attachment<'a> {
    pub container_id: &'a str,
    pub netns: &'a Path,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub uid: &'a str,
}

/// The plugins' directories.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    pub dirs: Vec<PathBuf>,
}

impl Network {
    /// The first configuration by name in `dir`: a `.conflist`, or a `.conf` or `.json` with one plugin.
    pub(crate) fn load(dir: &Path) -> Result<Self, CniError> {
        let absent = || CniError::NotInitialized { dir: dir.to_owned() };
        let entries = std::fs::read_dir(dir).map_err(|_| absent())?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| {
            file.extension().is_some_and(|kind| kind == "conflist" || kind == "conf" || kind == "json")
        });
        files.sort();
        let file = files.into_iter().next().ok_or_else(absent)?;
        let problem = |problem: String| CniError::Configuration { file: file.clone(), problem };
        let text = std::fs::read(&file).map_err(|error| problem(error.to_string()))?;
        Self::parse(&text).map_err(problem)
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let network = if value.get("plugins").is_some() {
            serde_json::from_value(value).map_err(|error| error.to_string())?
        } else {
            let plugin = value.as_object().cloned().ok_or("must be a JSON object")?;
            let text = |key: &str| plugin.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            Self { version: text("cniVersion"), name: text("name"), plugins: vec![plugin] }
        };
        if network.plugins.is_empty() {
            return Err("plugins must not be empty".to_owned());
        }
        match network.plugins.iter().all(|plugin| plugin.get("type").is_some_and(Value::is_string)) {
            true => Ok(network),
            false => Err("every plugin must have a type".to_owned()),
        }
    }

    /// What a plugin reads on its standard input.
    fn input(&self, plugin: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        input.insert("cniVersion".to_owned(), json!(self.version));
        input.insert("name".to_owned(), json!(self.name));
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        // Capabilities that a plugin asks for are given empty: the pod runner has no port mappings and no shaping.
        let wanted = input.remove("capabilities");
        let runtime: Map<String, Value> = wanted
            .as_ref()
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(name, on)| *name == "portMappings" && on.as_bool() == Some(true))
            .map(|(name, _)| (name.clone(), json!([])))
            .collect();
        if !runtime.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        Value::Object(input)
    }
}

impl Plugins {
    /// Attaches a pod: each plugin in order, with the result of the one before it. The last result is the network's.
    pub(crate) async fn add(&self, network: &Network, to: &Attachment<'_>) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &network.plugins {
            let input = network.input(plugin, result.as_ref());
            let answer = self.call("ADD", plugin, to, &input).await?;
            result = Some(answer.unwrap_or(Value::Null));
        }
        Ok(result.unwrap_or(Value::Null))
    }

    /// Detaches a pod: each plugin in reverse order. All are called; the first error comes back.
    pub(crate) async fn delete(
        &self,
        network: &Network,
        from: &Attachment<'_>,
        result: Option<&Value>,
    ) -> Result<(), CniError> {
        let mut first_error = Ok(());
        for plugin in network.plugins.iter().rev() {
            let input = network.input(plugin, result);
            if let Err(error) = self.call("DEL", plugin, from, &input).await
                && first_error.is_ok()
            {
                first_error = Err(error);
            }
        }
        first_error
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &Map<String, Value>,
        to: &Attachment<'_>,
        input: &Value,
    ) -> Result<Option<Value>, CniError> {
        let name = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let failed = |problem: String| CniError::Plugin { plugin: name.to_owned(), command, problem };
        let program = self.find(name).ok_or_else(|| failed(format!("not found in {:?}", self.dirs)))?;
        let mut child = Command::new(program)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", to.container_id)
            .env("CNI_NETNS", to.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", std::env::join_paths(&self.dirs).map_err(|error| failed(error.to_string()))?)
            .env("CNI_ARGS", cni_args(to))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdin = child.stdin.take();
        let talking = async {
            if let Some(mut stdin) = stdin {
                // A plugin that ends without reading says why on stdout.
                let _ = stdin.write_all(input.to_string().as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PATIENCE, talking)
            .await
            .map_err(|_| failed(format!("no answer in {} s", PATIENCE.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return match output.stdout.trim_ascii() {
                [] => Ok(None),
                text => serde_json::from_slice(text)
                    .map(Some)
                    .map_err(|error| failed(format!("bad result: {error}"))),
            };
        }
        Err(failed(refusal(&output.stdout, &output.stderr)))
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        if name.is_empty() || name.contains('/') {
            return None;
        }
        self.dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
    }
}

/// The extra arguments that containerd and CRI-O pass for Kubernetes.
fn cni_args(to: &Attachment<'_>) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        to.namespace, to.pod, to.container_id, to.uid
    )
}

/// A plugin's error: the JSON object of the specification, or whatever it wrote.
fn refusal(stdout: &[u8], stderr: &[u8]) -> String {
    let structured: Option<Value> = serde_json::from_slice(stdout).ok();
    let text = |key: &str| structured.as_ref().and_then(|error| error.get(key)?.as_str());
    match (text("msg"), text("details")) {
        (Some(msg), Some(details)) if !details.is_empty() => format!("{msg}; {details}"),
        (Some(msg), _) => msg.to_owned(),
        _ => {
            let written = String::from_utf8_lossy(if stdout.is_empty() { stderr } else { stdout });
            written.trim().chars().take(1024).collect()
        }
    }
}

/// The pod's addresses in a result, without their prefix lengths, in order.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let address = |ip: &Value| Some(ip.get("address")?.as_str()?.split('/').next()?.to_owned());
    ips.iter().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn configurations() {
        for (text, plugins) in [
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}"#, Ok(2)),
            (r#"{"cniVersion":"1.0.0","name":"n","type":"a"}"#, Ok(1)),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, Err("plugins must not be empty")),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, Err("every plugin must have a type")),
            ("[]", Err("must be a JSON object")),
        ] {
            let parsed = Network::parse(text.as_bytes()).map(|network| network.plugins.len());
            assert_eq!(
                parsed.as_ref().map_err(String::as_str),
                plugins.as_ref().map_err(|text| *text),
                "{text}"
            );
        }
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Network::load(dir.path()), Err(CniError::NotInitialized { .. })));
        std::fs::write(dir.path().join("20-b.conf"), r#"{"cniVersion":"1.0.0","name":"b","type":"b"}"#)
            .unwrap();
        std::fs::write(dir.path().join("10-a.conf"), r#"{"cniVersion":"1.0.0","name":"a","type":"a"}"#)
            .unwrap();
        std::fs::write(dir.path().join("00-notes.txt"), "").unwrap();
        assert_eq!(Network::load(dir.path()).unwrap().name, "a");
    }

    /// A plugin that appends its input and environment to a file and answers with an address.
    fn script(dir: &Path, name: &str, body: &str) {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn plugins_are_chained_and_undone_in_reverse() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let body = |ip: &str| {
            format!(
                "cat >> {log}; echo \" $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >> {log}\n[ $CNI_COMMAND = DEL ] || echo '{{\"ips\":[{{\"address\":\"{ip}/32\"}}]}}'",
                log = log.display()
            )
        };
        script(dir.path(), "one", &body("10.0.0.1"));
        script(dir.path(), "two", &body("10.0.0.2"));
        let network = Network::parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"one"},{"type":"two","capabilities":{"portMappings":true}}]}"#).unwrap();
        let plugins = Plugins { dirs: vec![dir.path().to_owned()] };
        let to = Attachment {
            container_id: "id",
            netns: Path::new("/run/netns/x"),
            namespace: "ns",
            pod: "p",
            uid: "u",
        };
        let result = plugins.add(&network, &to).await.unwrap();
        assert_eq!(addresses(&result), ["10.0.0.2"]);
        plugins.delete(&network, &to, Some(&result)).await.unwrap();
        let calls = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = calls.lines().collect();
        assert!(lines[0].contains("\"type\":\"one\"") && !lines[0].contains("prevResult"), "{calls}");
        assert!(lines[0].ends_with("ADD id eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u"));
        assert!(
            lines[1].contains("10.0.0.1/32") && lines[1].contains("\"runtimeConfig\":{\"portMappings\":[]}"),
            "{calls}"
        );
        assert!(lines[2].contains("\"type\":\"two\"") && lines[2].contains("DEL"), "{calls}");
        assert!(lines[3].contains("\"type\":\"one\"") && lines[3].contains("10.0.0.2/32"), "{calls}");
    }

    #[tokio::test]
    async fn refusals_are_told_in_the_plugins_words() {
        let dir = tempfile::tempdir().unwrap();
        script(
            dir.path(),
            "bad",
            "echo '{\"code\":11,\"msg\":\"no addresses left\",\"details\":\"pool 10.0.0.0/24\"}'; exit 1",
        );
        let network = Network::parse(br#"{"cniVersion":"1.0.0","name":"n","type":"bad"}"#).unwrap();
        let plugins = Plugins { dirs: vec![dir.path().to_owned()] };
        let to =
            Attachment { container_id: "id", netns: Path::new("/x"), namespace: "ns", pod: "p", uid: "u" };
        let error = plugins.add(&network, &to).await.unwrap_err().to_string();
        assert_eq!(error, "plugin type=\"bad\" failed (ADD): no addresses left; pool 10.0.0.0/24");
    }
}

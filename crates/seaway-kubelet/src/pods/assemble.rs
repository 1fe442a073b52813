//! From a container of a pod's spec to the sandbox that it runs in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use seaway_images::{BINARY, Image};
use seaway_net::sandbox::{Mount, Ns, Root, Spec};

use super::credentials::credentials;
use crate::env::expand;

/// Everything that a container's world is made of.
pub(crate) struct World<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: Image,
    pub env: BTreeMap<String, String>,
    /// The mounts of its volumes.
    pub volumes: Vec<Mount>,
    pub hostname: &'a str,
    pub hosts: &'a str,
    pub resolv_conf: &'a str,
    pub nsswitch: &'a str,
    /// Where the pod's network namespace is bound; `None` for the node's.
    pub netns: Option<&'a Path>,
    /// An existing empty directory, on which the root is assembled.
    pub root: &'a Path,
    /// The file behind `terminationMessagePath`.
    pub termination_log: &'a Path,
}

/// The sandbox's specification.
pub(crate) fn sandbox_spec(world: World<'_>) -> Result<Spec, String> {
    let World { pod, container, image, env, .. } = &world;
    let empty = PodSpec::default();
    let pod_spec = pod.spec.as_ref().unwrap_or(&empty);
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, |name| env.get(name).cloned())).collect()
    };
    let argv = image.argv(&expanded(&container.command), &expanded(&container.args));
    let meta = &pod.metadata;
    let (namespace, name) =
        (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let mut spec = Spec::new(format!("pod/{namespace}/{name}/{}", container.name), argv);
    spec.net = world.netns.map_or(Ns::Inherit, |path| Ns::Path(path.to_owned()));
    (spec.mount, spec.uts) = (Ns::New, Ns::New);
    spec.ipc = if pod_spec.host_ipc == Some(true) { Ns::Inherit } else { Ns::New };
    spec.pid = if pod_spec.host_pid == Some(true) { Ns::Inherit } else { Ns::New };
    spec.hostname = Some(world.hostname.to_owned());
    spec.tty = container.tty == Some(true);
    spec.cwd = match container.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        Some(dir) => Path::new("/").join(dir),
        None => PathBuf::from("/"),
    };
    spec.credentials = credentials(pod_spec, container)?;
    spec.env = env.clone().into_iter().collect();
    spec.root = Some(Root { dir: world.root.to_owned(), mounts: mounts(world) });
    Ok(spec)
}

fn mounts(world: World<'_>) -> Vec<Mount> {
    let file = |target: &str, contents: &str| Mount::File {
        target: target.into(),
        contents: contents.to_owned(),
        mode: 0o644,
    };
    let mut mounts = vec![
        Mount::HostUserland,
        Mount::Proc,
        Mount::Sysfs,
        Mount::Dev,
        Mount::SelfExe { target: BINARY.into() },
        file("/etc/resolv.conf", world.resolv_conf),
        file("/etc/hosts", world.hosts),
        file("/etc/hostname", &format!("{}\n", world.hostname)),
        file("/etc/nsswitch.conf", world.nsswitch),
    ];
    mounts.extend(world.image.launchers.iter().map(|launcher| Mount::File {
        target: launcher.path.into(),
        contents: launcher.script(),
        mode: 0o755,
    }));
    let message_path =
        world.container.termination_message_path.as_deref().filter(|path| path.starts_with('/'));
    mounts.push(Mount::Bind {
        source: world.termination_log.to_owned(),
        target: message_path.unwrap_or("/dev/termination-log").into(),
        read_only: false,
    });
    let mut volumes = world.volumes;
    // A volume below another one's mount point comes after it.
    volumes.sort_by_key(|mount| match mount {
        Mount::Bind { target, .. } => target.components().count(),
        _ => 0,
    });
    mounts.extend(volumes);
    mounts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec_of(pod: serde_json::Value) -> Result<Spec, String> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        sandbox_spec(World {
            pod: &pod,
            container: &container,
            image: seaway_images::find(container.image.as_deref().unwrap()).unwrap(),
            env: BTreeMap::from([("WHO".to_owned(), "world".to_owned())]),
            volumes: vec![
                Mount::Bind { source: "/b".into(), target: "/data/sub".into(), read_only: false },
                Mount::Bind { source: "/a".into(), target: "/data".into(), read_only: false },
            ],
            hostname: "web",
            hosts: "",
            resolv_conf: "",
            nsswitch: "",
            netns: Some(Path::new("/run/netns/x")),
            root: Path::new("/root-dir"),
            termination_log: Path::new("/log"),
        })
    }

    #[test]
    fn commands_are_expanded_and_the_pod_is_named() {
        let spec = spec_of(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["echo", "hello $(WHO) $(NOBODY)"], "workingDir": "/tmp"}]}
        }))
        .unwrap();
        assert_eq!(spec.argv, ["echo", "hello world $(NOBODY)"]);
        assert_eq!(spec.label, "pod/shop/web/c");
        assert_eq!(spec.cwd, Path::new("/tmp"));
        assert_eq!(spec.net, Ns::Path("/run/netns/x".into()));
        let targets: Vec<PathBuf> = spec
            .root
            .unwrap()
            .mounts
            .into_iter()
            .filter_map(|mount| match mount {
                Mount::Bind { target, .. } => Some(target),
                _ => None,
            })
            .collect();
        assert_eq!(targets, [Path::new("/dev/termination-log"), Path::new("/data"), Path::new("/data/sub")]);
    }
}

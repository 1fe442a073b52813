//! `seaway lab exec`: a program in a place of the lab.

use std::process::ExitCode;

use anyhow::Context;
use seaway_net::sandbox::{self, Credentials, Entry, Namespaces, Sandbox, Stdio};

use crate::boxes;
use crate::state::LabState;

/// Runs `command` at `target`; its exit code is the result, or the shell's 126 or 127 where it can't be executed.
pub(crate) fn run(
    lab: &str,
    target: &str,
    container: Option<&str>,
    command: Vec<String>,
) -> anyhow::Result<ExitCode> {
    let (_, state) = LabState::running(lab)?;
    let sandboxes = sandbox::find_sandboxes(state.init.pid)?;
    let labels: Vec<&str> = sandboxes.iter().map(|sandbox| sandbox.label.as_str()).collect();
    let label = choose(target, container, &labels).map_err(anyhow::Error::msg)?;
    if let Some(others) = others(&label, container, &labels) {
        eprintln!("seaway: {label}; -c chooses among {others}");
    }
    let place: &Sandbox =
        sandboxes.iter().find(|sandbox| sandbox.label == label).context("it has just ended")?;
    let env = match target_kind(target) {
        Kind::Pod => sandbox::environment(place.pid)?,
        Kind::Box => boxes::environment(),
    };
    let terminal = std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term));
    let entry = Entry {
        label: format!("exec/{label}"),
        namespaces: Namespaces::ALL,
        argv: command,
        env: env.into_iter().filter(|(name, _)| name != "TERM").chain(terminal).collect(),
        cwd: "/".into(),
        tty: false,
        new_session: false,
        keep_fds: vec![],
        credentials: Credentials::default(),
    };
    let code = match sandbox::enter(place.pid, &entry, Stdio::inherit()?) {
        Ok(mut running) => running.wait()?,
        Err(error) => {
            let Some(code) = error.shell_exit_code() else { return Err(error.into()) };
            eprintln!("seaway: {error}");
            code.into()
        }
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Box,
}

fn target_kind(target: &str) -> Kind {
    let is_box = matches!(target, "gateway" | "control-plane")
        || matches!(target.split_once('/'), Some(("node" | "internet", _)));
    if is_box { Kind::Box } else { Kind::Pod }
}

/// The label of the sandbox that `target` means, or what is wrong and what there is.
fn choose(target: &str, container: Option<&str>, labels: &[&str]) -> Result<String, String> {
    let exact = match target {
        "control-plane" => "control-plane/apiserver".to_owned(),
        other => other.to_owned(),
    };
    if target_kind(target) == Kind::Box {
        let kind = target.split('/').next().unwrap_or_default();
        let same: Vec<&str> = labels.iter().copied().filter(|label| is_same_kind(label, kind)).collect();
        return if labels.contains(&exact.as_str()) {
            Ok(exact)
        } else {
            Err(format!("there is no {target}; there are: {}", list(&same)))
        };
    }
    let prefix = format!("pod/{target}/");
    let containers: Vec<&str> = labels.iter().filter_map(|label| label.strip_prefix(&prefix)).collect();
    match container {
        _ if target.split('/').count() != 2 => Err(format!(
            "{target:?}: give a pod as NAMESPACE/NAME, node/NAME, internet/HOST, gateway or control-plane"
        )),
        _ if containers.is_empty() => {
            let pods: Vec<&str> = labels
                .iter()
                .filter_map(|label| label.strip_prefix("pod/")?.rsplit_once('/').map(|(pod, _)| pod))
                .collect();
            Err(format!("pod {target} does not run; there are: {}", list(&pods)))
        }
        None => Ok(format!("{prefix}{}", containers[0])),
        Some(wanted) if containers.contains(&wanted) => Ok(format!("{prefix}{wanted}")),
        Some(wanted) => {
            Err(format!("pod {target} has no container {wanted:?}; it has: {}", list(&containers)))
        }
    }
}

/// The containers of the pod that was meant, where nobody said which of several.
fn others(label: &str, container: Option<&str>, labels: &[&str]) -> Option<String> {
    let (pod, _) = label.strip_prefix("pod/").filter(|_| container.is_none())?.rsplit_once('/')?;
    let prefix = format!("pod/{pod}/");
    let all: Vec<&str> = labels.iter().filter_map(|label| label.strip_prefix(&prefix)).collect();
    (all.len() > 1).then(|| list(&all))
}

/// `node/node-1` and not `node/node-1/agent`.
fn is_same_kind(label: &str, kind: &str) -> bool {
    label.split('/').next() == Some(kind) && label.matches('/').count() <= 1
}

fn list(names: &[&str]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_found_by_what_people_call_them() {
        let labels = [
            "node/node-1",
            "node/node-1/agent",
            "gateway",
            "internet/google.com",
            "control-plane/apiserver",
            "pod/default/web/nginx",
            "pod/default/web/sidecar",
        ];
        for (target, container, label) in [
            ("node/node-1", None, Ok("node/node-1")),
            ("gateway", None, Ok("gateway")),
            ("control-plane", None, Ok("control-plane/apiserver")),
            ("internet/google.com", None, Ok("internet/google.com")),
            ("default/web", None, Ok("pod/default/web/nginx")),
            ("default/web", Some("sidecar"), Ok("pod/default/web/sidecar")),
            ("default/web", Some("x"), Err("pod default/web has no container \"x\"; it has: nginx, sidecar")),
            ("default/none", None, Err("pod default/none does not run; there are: default/web")),
            ("node/node-2", None, Err("there is no node/node-2; there are: node/node-1")),
        ] {
            let seen = choose(target, container, &labels);
            assert_eq!(seen.as_deref().map_err(String::as_str), label, "{target}");
        }
        assert!(choose("web", None, &labels).is_err());
        for (label, container, others_there) in [
            ("pod/default/web/nginx", None, Some("nginx, sidecar")),
            ("pod/default/web/nginx", Some("nginx"), None),
            ("node/node-1", None, None),
        ] {
            assert_eq!(others(label, container, &labels).as_deref(), others_there, "{label}");
        }
    }
}

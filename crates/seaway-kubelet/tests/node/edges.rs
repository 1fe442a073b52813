//! Cases at the edges: TLS, much output, long waits, terminals that are open when the kubelet ends.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{LogParams, PostParams};
use serde_json::json;

use crate::cases::wait_for;
use crate::world::{World, is_ready};

/// Answers by TLS with whatever certificate: kubelet checks none.
const HTTPS_SERVER: &str = "
import http.server, ssl
server = http.server.HTTPServer(('', 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/tls/crt', '/tls/key')
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

pub(crate) async fn https_is_probed(world: &mut World) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "default");
    let pair = json!({"crt": std::fs::read_to_string("/root/kubelet.crt")?, "key": std::fs::read_to_string("/root/kubelet.key")?});
    let secret = serde_json::from_value(json!({"metadata": {"name": "tls"}, "stringData": pair}))?;
    secrets.create(&PostParams::default(), &secret).await?;
    let pod = |scheme: &str| {
        json!({
            "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
            "containers": [{
                "name": "c", "image": "busybox", "command": ["python3", "-c", HTTPS_SERVER],
                "volumeMounts": [{"name": "tls", "mountPath": "/tls"}],
                "readinessProbe": {"httpGet": {"port": 8443, "scheme": scheme}, "periodSeconds": 1},
                "startupProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1, "failureThreshold": 60},
            }],
        })
    };
    world.create("https", pod("HTTPS")).await?;
    world.create("plain", pod("HTTP")).await?;
    world.ready("https").await?;
    world.until("plain", "started", has_started).await?;
    wait_for("the failed probe", async || {
        let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(world.client.clone(), "default");
        let about = kube::api::ListParams::default().fields("involvedObject.name=plain,reason=Unhealthy");
        let events = events.list(&about).await?;
        Ok(events
            .iter()
            .any(|event| event.message.iter().any(|text| text.contains("Readiness probe failed"))))
    })
    .await?;
    ensure!(!is_ready(&world.pods().get("plain").await?), "a request without TLS is no success");
    world.delete("https").await?;
    world.delete("plain").await?;
    Ok(())
}

fn has_started(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| status.started == Some(true))
}

/// 25,000 lines of 1,000 bytes and more: two files are full with them, and a third begun.
pub(crate) async fn logs_are_put_aside_and_given_up(world: &mut World) -> anyhow::Result<()> {
    const LINES: usize = 25_000;
    let script = format!("read go; seq -f \"%.0f $(printf %01000d 0)\" 1 {LINES}; sleep 1000");
    world
        .create(
            "chatty",
            json!({"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "c", "image": "busybox", "stdin": true, "command": ["sh", "-c", script],
            }]}),
        )
        .await?;
    world.ready("chatty").await?;
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = world.pods().log_stream("chatty", &follow).await?.lines();
    let (code, said) = world.exec("chatty", &["sh", "-c", "echo > /proc/1/fd/0"]).await?;
    ensure!(code == 0, "{said}");
    let number = |line: &str| line.split(' ').next().and_then(|word| word.parse::<usize>().ok());
    let mut last = 0;
    while last < LINES {
        let line = lines.next().await.context("the log ended")??;
        let next = number(&line).with_context(|| format!("line {line:?}"))?;
        ensure!(next > last, "line {next} after {last}");
        last = next;
    }
    let text = world.pods().logs("chatty", &LogParams::default()).await?;
    let kept: Vec<usize> = text.lines().filter_map(number).collect();
    let first = *kept.first().context("an empty log")?;
    ensure!(first > 1 && kept.iter().copied().eq(first..=LINES), "lines {first} to {:?}", kept.last());
    let uid = world.pods().get("chatty").await?.metadata.uid.context("uid")?;
    let folder = format!("/var/lib/kubelet/pods/{uid}/logs/c");
    let files: Vec<u64> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .collect::<std::io::Result<_>>()?;
    ensure!(files.len() == 2 && files.iter().all(|size| *size <= 10 << 20), "{files:?}");
    world.delete("chatty").await?;
    Ok(())
}

pub(crate) async fn last_words_have_a_limit(world: &mut World) -> anyhow::Result<()> {
    let words = "head -c 50000000 /dev/zero | tr '\\0' x > /dev/termination-log; echo end >> /dev/termination-log; exit 1";
    let silent = "for i in 1 2 3; do echo line $i; done; exit 1";
    let pod = |script: &str, policy: &str| {
        json!({"restartPolicy": "Never", "containers": [{
            "name": "c", "image": "busybox", "command": ["sh", "-c", script], "terminationMessagePolicy": policy,
        }]})
    };
    world.create("words", pod(words, "File")).await?;
    world.create("log", pod(silent, "FallbackToLogsOnError")).await?;
    world.create("none", pod(silent, "File")).await?;
    for (name, message) in
        [("words", Some("end\n")), ("log", Some("line 1\nline 2\nline 3\n")), ("none", None)]
    {
        let pod = world.until(name, "failed", |pod| phase(pod) == Some("Failed")).await?;
        let ended = pod
            .status
            .and_then(|status| status.container_statuses?.into_iter().next()?.state?.terminated?.message);
        let fits = match (&ended, message) {
            (Some(ended), Some(message)) => ended.ends_with(message) && ended.len() <= 4096,
            (ended, message) => ended.is_none() && message.is_none(),
        };
        ensure!(fits, "{name}: {:?}", ended.map(|ended| ended.len()));
        world.delete(name).await?;
    }
    Ok(())
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

pub(crate) async fn a_pod_may_be_given_all_the_time_there_is(world: &mut World) -> anyhow::Result<()> {
    // Process 1 does not hear SIGTERM before it says that it listens.
    let script = "trap 'exit 0' TERM; touch /tmp/up; while :; do sleep 0.1; done";
    let patient = json!({"terminationGracePeriodSeconds": i64::MAX, "containers": [{
        "name": "c", "image": "busybox", "command": ["sh", "-c", script],
        "readinessProbe": {"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1},
    }]});
    world.create("patient", patient).await?;
    world.ready("patient").await?;
    let took = world.delete("patient").await?;
    ensure!(took < Duration::from_secs(10), "{took:?}");
    Ok(())
}

pub(crate) async fn a_terminal_does_not_keep_the_kubelet(world: &mut World) -> anyhow::Result<()> {
    let terminal = json!({"terminationGracePeriodSeconds": 0, "containers": [{
        "name": "c", "image": "busybox", "command": ["sleep", "1000"], "tty": true, "stdin": true,
    }]});
    world.create("terminal", terminal).await?;
    world.ready("terminal").await?;
    let pid = world.kubelet_pid().context("no kubelet")?;
    ensure!(Command::new("kill").arg(pid.to_string()).status()?.success());
    wait_for("the kubelet's end", async || world.kubelet_has_ended()).await?;
    world.start_kubelet()?;
    world.until("terminal", "ready again", |pod| is_ready(pod) && restarted(pod)).await?;
    world.delete("terminal").await?;
    Ok(())
}

fn restarted(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().any(|status| status.restart_count == 1)
}

//! What a node does, case by case; they share one kubelet and run one after another.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::edges::{
    a_pod_may_be_given_all_the_time_there_is, a_terminal_does_not_keep_the_kubelet, https_is_probed,
    last_words_have_a_limit, logs_are_put_aside_and_given_up,
};
use crate::world::{PATIENCE, World, is_ready};

macro_rules! run {
    ($world:ident, $filter:ident, $failed:ident, $($case:ident),* $(,)?) => {
        $(if $filter.is_none_or(|part| stringify!($case).contains(part)) {
            let began = Instant::now();
            match tokio::time::timeout(PATIENCE * 3, $case($world)).await.unwrap_or_else(|_| Err(anyhow::anyhow!("took too long"))) {
                Ok(()) => println!("test {} ... ok ({} ms)", stringify!($case), began.elapsed().as_millis()),
                Err(error) => {
                    println!("test {} ... FAILED: {error:?}", stringify!($case));
                    $failed += 1;
                }
            }
        })*
    };
}

/// Runs the cases whose names contain `filter`; how many failed.
pub(crate) async fn run_all(world: &mut World, filter: Option<&str>) -> usize {
    let mut failed = 0;
    run!(
        world,
        filter,
        failed,
        the_node_is_registered_and_becomes_ready_with_its_network,
        a_pod_starts_serves_and_goes,
        a_pod_knows_who_and_where_it_is,
        volumes_hold_what_they_should_and_follow,
        init_containers_run_in_order,
        a_crashing_container_is_restarted_with_backoff,
        readiness_and_liveness_are_probed,
        unknown_images_are_explained,
        sessions_have_exit_codes_and_terminals,
        ports_are_forwarded_for_client_libraries,
        logs_are_kept_and_followed,
        pods_that_end_are_succeeded_or_failed,
        servers_drain_and_the_deaf_are_killed,
        forced_deletion_kills,
        containers_have_the_rights_that_they_ask_for,
        https_is_probed,
        logs_are_put_aside_and_given_up,
        last_words_have_a_limit,
        a_pod_may_be_given_all_the_time_there_is,
        a_terminal_does_not_keep_the_kubelet,
        a_killed_kubelet_leaves_nothing_behind,
    );
    failed
}

async fn the_node_is_registered_and_becomes_ready_with_its_network(world: &mut World) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|condition| condition.status.clone())
    };
    wait_for("the node", async || {
        Ok(nodes.get_opt("node-1").await?.is_some_and(|node| ready(&node).as_deref() == Some("False")))
    })
    .await?;
    let conflist = json!({
        "cniVersion": "1.0.0", "name": "test",
        "plugins": [{"type": "seaway", "mtu": 1500, "ipam": {"type": "seaway", "ranges": [[{"subnet": "10.244.1.0/24"}]], "dataDir": "/var/lib/ipam"}}],
    });
    std::fs::write("/etc/cni/net.d/10-test.conflist", conflist.to_string())?;
    wait_for("Ready", async || Ok(ready(&nodes.get("node-1").await?).as_deref() == Some("True"))).await?;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let renewed = async || {
        Ok::<_, anyhow::Error>(leases.get_opt("node-1").await?.and_then(|lease| lease.spec?.renew_time))
    };
    wait_for("the lease", async || Ok(renewed().await?.is_some())).await?;
    let first = renewed().await?;
    wait_for("its renewal", async || Ok(renewed().await? != first)).await?;
    nodes.delete("node-1", &DeleteParams::default()).await?;
    wait_for("registration again", async || {
        Ok(nodes.get_opt("node-1").await?.is_some_and(|node| ready(&node).as_deref() == Some("True")))
    })
    .await
}

async fn a_pod_starts_serves_and_goes(world: &mut World) -> anyhow::Result<()> {
    let began = Instant::now();
    let spec = json!({"containers": [{
        "name": "web", "image": "agnhost", "args": ["netexec"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    }]});
    world.create("web", spec).await?;
    let pod = world.ready("web").await?;
    println!("  ready after {} ms", began.elapsed().as_millis());
    let status = pod.status.context("status")?;
    ensure!(status.phase.as_deref() == Some("Running"));
    let ip = status.pod_ip.context("pod IP")?;
    ensure!(ip.starts_with("10.244.1."), "{ip}");
    let (code, text) = world.exec("web", &["curl", "-s", &format!("http://{ip}:8080/hostname")]).await?;
    ensure!((code, text.as_str()) == (0, "web"), "{code} {text}");
    let took = world.delete("web").await?;
    ensure!(took >= Duration::from_secs(5), "a built-in server serves on for 5 s: {took:?}");
    ensure!(std::fs::read_dir("/run/netns")?.count() == 0, "no network namespace is left");
    ensure!(std::fs::read_dir("/var/lib/kubelet/pods")?.count() == 0, "no pod directory is left");
    ensure!(
        std::fs::read_dir("/var/lib/ipam/test").map_or(0, |dir| dir
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
            .count())
            == 0
    );
    Ok(())
}

async fn a_pod_knows_who_and_where_it_is(world: &mut World) -> anyhow::Result<()> {
    let services: Api<Service> = Api::namespaced(world.client.clone(), "default");
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    let service = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let cluster_ip = service.spec.and_then(|spec| spec.cluster_ip).context("cluster IP")?;
    // The kubelet hears of Services by a watch of its own: a pod tells when it has.
    let scout = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "1000"]}],
    });
    let mut heard = false;
    while !heard {
        world.create("scout", scout.clone()).await?;
        world.ready("scout").await?;
        heard = world.exec("scout", &["printenv", "DB_SERVICE_HOST"]).await?.0 == 0;
        world.delete("scout").await?;
    }
    let spec = json!({
        "hostname": "first", "subdomain": "sub", "terminationGracePeriodSeconds": 0,
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["seven.example"]}],
        "containers": [{
            "name": "c", "image": "busybox", "command": ["sleep", "1000"], "workingDir": "/tmp",
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "URL", "value": "pg://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)"},
            ],
        }],
    });
    world.create("who", spec).await?;
    let ip = world.ready("who").await?.status.and_then(|status| status.pod_ip).context("pod IP")?;
    let script = "hostname; pwd; echo $IP; echo $URL; getent ahostsv4 seven.example; getent ahostsv4 first.sub.default.svc.cluster.local; \
                  cat /etc/resolv.conf; echo $KUBERNETES_SERVICE_HOST; ls /proc | grep -c '^[0-9]'; \
                  cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; echo; head -c 3 /var/run/secrets/kubernetes.io/serviceaccount/token";
    let (code, text) = world.exec("who", &["sh", "-c", script]).await?;
    let lines: Vec<&str> = text.lines().collect();
    let url = format!("pg://{cluster_ip}:5432");
    for (at, expected) in [(0, "first"), (1, "/tmp"), (2, ip.as_str()), (3, url.as_str())] {
        ensure!(lines.get(at) == Some(&expected), "line {at} of {text}");
    }
    ensure!(code == 0, "{code} {text}");
    for expected in [
        "192.0.2.7       STREAM seven.example",
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "options ndots:5",
        "10.96.0.1",
        "default",
        "eyJ",
    ] {
        ensure!(text.lines().any(|line| line == expected), "{expected}: {text}");
    }
    ensure!(
        text.contains(&format!("{ip} ")) && text.contains("first.sub.default.svc.cluster.local"),
        "{text}"
    );
    world.delete("who").await.map(drop)
}

async fn volumes_hold_what_they_should_and_follow(world: &mut World) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "shared", "emptyDir": {}},
            {"name": "about", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ],
        "containers": [
            {"name": "a", "image": "busybox", "command": ["sh", "-c", "echo from-a > /shared/a; exec sleep 1000"],
             "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
            {"name": "b", "image": "busybox", "command": ["sleep", "1000"], "volumeMounts": [
                {"name": "conf", "mountPath": "/etc/conf"},
                {"name": "conf", "mountPath": "/usr/share/one/file.txt", "subPath": "color"},
                {"name": "shared", "mountPath": "/shared"},
                {"name": "about", "mountPath": "/about"},
            ], "envFrom": [{"configMapRef": {"name": "conf"}}]},
        ],
    });
    world.create("volumes", spec).await?;
    event(world, "volumes", "FailedMount").await?;
    let map = json!({"metadata": {"name": "conf"}, "data": {"color": "blue"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    world.ready("volumes").await?;
    let exec = async |script: &str| {
        let params = kube::api::AttachParams::default().container("b").stdin(false);
        let mut session = world.pods().exec("volumes", ["sh", "-c", script], &params).await?;
        let mut text = String::new();
        if let Some(mut stdout) = session.stdout() {
            tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut text).await?;
        }
        Ok::<_, anyhow::Error>(text)
    };
    let text = exec("cat /etc/conf/color /usr/share/one/file.txt; echo; echo $color; cat /shared/a /about/labels; touch /etc/conf/x 2>/dev/null || echo ro").await?;
    ensure!(text == "blueblue\nblue\nfrom-a\napp=\"volumes\"ro\n", "{text}");
    let change = Patch::Merge(json!({"data": {"color": "green", "more": "x"}}));
    maps.patch("conf", &PatchParams::default(), &change).await?;
    wait_for("the change", async || Ok(exec("cat /etc/conf/color /etc/conf/more").await? == "greenx"))
        .await?;
    world.delete("volumes").await.map(drop)
}

async fn init_containers_run_in_order(world: &mut World) -> anyhow::Result<()> {
    let say = |name: &str| json!({"name": name, "image": "busybox", "command": ["sh", "-c", format!("echo {name} >> /w/order")], "volumeMounts": [{"name": "w", "mountPath": "/w"}]});
    let spec = json!({
        "volumes": [{"name": "w", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 0,
        "initContainers": [
            say("one"),
            {"name": "side", "image": "agnhost", "args": ["netexec"], "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 8080}}},
            say("two"),
        ],
        "containers": [{"name": "app", "image": "busybox", "command": ["sleep", "1000"], "volumeMounts": [{"name": "w", "mountPath": "/w"}]}],
    });
    world.create("init", spec).await?;
    let pod = world.ready("init").await?;
    let statuses = pod.status.and_then(|status| status.init_container_statuses).context("init statuses")?;
    ensure!(statuses.iter().all(|status| status.ready), "{statuses:?}");
    let params = kube::api::AttachParams::default().container("app").stdin(false);
    let mut session = world.pods().exec("init", ["cat", "/w/order"], &params).await?;
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut session.stdout().context("stdout")?, &mut text).await?;
    ensure!(text == "one\ntwo\n", "{text}");
    world.delete("init").await.map(drop)
}

async fn a_crashing_container_is_restarted_with_backoff(world: &mut World) -> anyhow::Result<()> {
    let spec = json!({"containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "echo words > /dev/termination-log; exit 3"]}]});
    world.create("crash", spec).await?;
    let pod = world.until("crash", "restarted twice", |pod| restarts(pod) >= 2).await?;
    let pod = match container_state(&pod, "CrashLoopBackOff") {
        true => pod,
        false => world.until("crash", "in back-off", |pod| container_state(pod, "CrashLoopBackOff")).await?,
    };
    let status =
        pod.status.and_then(|status| status.container_statuses?.into_iter().next()).context("status")?;
    let last = status.last_state.and_then(|state| state.terminated).context("last state")?;
    ensure!((last.exit_code, last.message.as_deref()) == (3, Some("words\n")), "{last:?}");
    event(world, "crash", "BackOff").await?;
    world.delete("crash").await.map(drop)
}

async fn readiness_and_liveness_are_probed(world: &mut World) -> anyhow::Result<()> {
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "c", "image": "busybox", "command": ["sh", "-c", "touch /tmp/live; exec sleep 1000"],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 1},
            "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/live"]}, "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1},
        }],
    });
    world.create("probed", spec).await?;
    world.until("probed", "running", |pod| phase(pod) == "Running").await?;
    ensure!(!is_ready(&world.pods().get("probed").await?));
    event(world, "probed", "Unhealthy").await?;
    world.exec("probed", &["touch", "/tmp/ready"]).await?;
    world.ready("probed").await?;
    world.exec("probed", &["rm", "/tmp/ready"]).await?;
    world.until("probed", "unready", |pod| !is_ready(pod)).await?;
    world.exec("probed", &["rm", "/tmp/live"]).await?;
    world.until("probed", "restarted", |pod| restarts(pod) == 1).await?;
    world.delete("probed").await.map(drop)
}

async fn unknown_images_are_explained(world: &mut World) -> anyhow::Result<()> {
    world
        .create(
            "redis",
            json!({"containers": [{"name": "c", "image": "redis:7", "command": ["sleep", "1"]}]}),
        )
        .await?;
    world.until("redis", "without its image", |pod| container_state(pod, "ErrImagePull")).await?;
    world.until("redis", "backing off", |pod| container_state(pod, "ImagePullBackOff")).await?;
    let message = event(world, "redis", "Failed").await?;
    ensure!(message.contains("available are agnhost, alpine, busybox"), "{message}");
    world.delete("redis").await.map(drop)
}

async fn sessions_have_exit_codes_and_terminals(world: &mut World) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    world
        .create(
            "session",
            json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause"}]}),
        )
        .await?;
    world.ready("session").await?;
    ensure!(
        world.exec("session", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await?
            == (3, "out\nerr\n".to_owned())
    );
    let (_, text) = world.exec("session", &["nonexistent"]).await.unwrap_or_default();
    ensure!(text.is_empty());
    let params = kube::api::AttachParams::interactive_tty();
    let mut session = world.pods().exec("session", ["sh"], &params).await?;
    let mut stdin = session.stdin().context("stdin")?;
    let mut stdout = session.stdout().context("stdout")?;
    let mut size = session.terminal_size().context("size")?;
    futures::SinkExt::send(&mut size, kube::api::TerminalSize { width: 101, height: 33 }).await?;
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("33 101") {
        stdin.write_all(b"stty size\n").await?;
        let length = stdout.read(&mut buffer).await?;
        ensure!(length > 0, "the terminal ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    stdin.write_all(b"exit 7\n").await?;
    while stdout.read(&mut buffer).await? > 0 {}
    let status = session.take_status().context("status")?.await.context("a status")?;
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");
    // `cat` ends when its input does: v5 says so in the protocol.
    let params = kube::api::AttachParams::default().stdin(true);
    let mut session = world.pods().exec("session", ["cat"], &params).await?;
    let mut stdin = session.stdin().context("stdin")?;
    stdin.write_all(b"all of it").await?;
    stdin.shutdown().await?;
    drop(stdin);
    let mut text = String::new();
    session.stdout().context("stdout")?.read_to_string(&mut text).await?;
    ensure!(text == "all of it", "{text}");
    world.delete("session").await.map(drop)
}

async fn ports_are_forwarded_for_client_libraries(world: &mut World) -> anyhow::Result<()> {
    let spec = json!({"containers": [{
        "name": "web", "image": "agnhost", "args": ["netexec"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    }]});
    world.create("ports", spec).await?;
    world.ready("ports").await?;
    let mut forward = world.pods().portforward("ports", &[8080, 81]).await?;
    let mut stream = forward.take_stream(8080).context("a stream")?;
    stream.write_all(b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("\r\n\r\nports"), "{answer}");
    let refused = forward.take_error(81).context("the errors")?.await.unwrap_or_default();
    ensure!(refused.contains("port 81 to pod default/ports: dial tcp 127.0.0.1:81"), "{refused}");
    world.delete("ports").await.map(drop)
}

async fn logs_are_kept_and_followed(world: &mut World) -> anyhow::Result<()> {
    let script = "for i in 1 2 3; do echo line $i; done; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo last; exec sleep 1000";
    world.create("logs", json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", script]}]})).await?;
    world.ready("logs").await?;
    let pods = world.pods();
    wait_for("three lines", async || {
        Ok(pods.logs("logs", &LogParams::default()).await? == "line 1\nline 2\nline 3\n")
    })
    .await?;
    let tail = LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() };
    let text = pods.logs("logs", &tail).await?;
    ensure!(text.ends_with("Z line 3\n") && text.lines().count() == 1, "{text}");
    let follow = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
    let stream = pods.log_stream("logs", &follow).await?;
    let mut lines = futures::AsyncBufReadExt::lines(stream);
    let mut next =
        async || Ok::<_, anyhow::Error>(futures::StreamExt::next(&mut lines).await.context("a line")??);
    ensure!(next().await? == "line 3");
    world.exec("logs", &["touch", "/tmp/go"]).await?;
    ensure!(next().await? == "last");
    let previous = LogParams { previous: true, ..LogParams::default() };
    let error = pods.logs("logs", &previous).await.err().context("there is no previous run")?;
    ensure!(error.to_string().contains("previous terminated container"), "{error}");
    world.delete("logs").await.map(drop)
}

async fn pods_that_end_are_succeeded_or_failed(world: &mut World) -> anyhow::Result<()> {
    for (name, policy, command, expected) in [
        ("good", "Never", "exit 0", "Succeeded"),
        ("bad", "Never", "exit 1", "Failed"),
        ("retry", "OnFailure", "[ -e /w/x ] || { touch /w/x; exit 1; }", "Succeeded"),
    ] {
        let spec = json!({
            "restartPolicy": policy, "volumes": [{"name": "w", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", command], "volumeMounts": [{"name": "w", "mountPath": "/w"}]}],
        });
        world.create(name, spec).await?;
        world.until(name, expected, |pod| phase(pod) == expected).await?;
        wait_for("its network to go", async || Ok(std::fs::read_dir("/run/netns")?.count() == 0)).await?;
        world.delete(name).await?;
    }
    Ok(())
}

async fn servers_drain_and_the_deaf_are_killed(world: &mut World) -> anyhow::Result<()> {
    let deaf = json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "c", "image": "busybox", "command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1"]}}},
    }]});
    world.create("deaf", deaf).await?;
    world.ready("deaf").await?;
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = futures::AsyncBufReadExt::lines(world.pods().log_stream("deaf", &follow).await?);
    let took = world.delete("deaf").await?;
    ensure!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    ensure!(futures::StreamExt::next(&mut lines).await.context("the hook's line")?? == "hook");
    Ok(())
}

async fn forced_deletion_kills(world: &mut World) -> anyhow::Result<()> {
    world.create("forced", json!({"containers": [{"name": "c", "image": "nginx"}]})).await?;
    world.ready("forced").await?;
    ensure!(std::fs::read_dir("/run/netns")?.count() == 1);
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    world.pods().delete("forced", &params).await?;
    wait_for("its network to go", async || Ok(std::fs::read_dir("/run/netns")?.count() == 0)).await?;
    wait_for("its processes to go", async || Ok(containers()? == 0)).await
}

async fn containers_have_the_rights_that_they_ask_for(world: &mut World) -> anyhow::Result<()> {
    // Effective and bounding set, and NoNewPrivs (proc_pid_status(5)).
    let own = rights("/proc/self/status")?;
    let none = "0".repeat(16);
    // linux/capability.h: containerd's default set; NET_BIND_SERVICE is bit 10, NET_ADMIN bit 12.
    let (default, service) = ("00000000a80425fb".to_owned(), "0000000000000400".to_owned());
    let with_admin = "00000000a80435fb".to_owned();
    let cases = [
        ("plain", json!({}), [&default, &default, "0"]),
        ("admin", json!({"capabilities": {"add": ["NET_ADMIN"]}}), [&with_admin, &with_admin, "0"]),
        (
            "service",
            json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": false}),
            [&service, &service, "1"],
        ),
        ("user", json!({"runAsUser": 65534}), [&none, &default, "0"]),
        ("privileged", json!({"privileged": true}), [&own[0], &own[1], "0"]),
    ];
    for (name, context, _) in &cases {
        let container = json!({
            "name": "c", "image": "pause", "securityContext": context,
            "readinessProbe": {"periodSeconds": 1, "exec": {"command": ["sh", "-c", "cp /proc/self/status /tmp/probe"]}},
        });
        world.create(name, json!({"terminationGracePeriodSeconds": 0, "containers": [container]})).await?;
    }
    for (name, _, expected) in &cases {
        world.ready(name).await?;
        for file in ["/proc/1/status", "/proc/self/status", "/tmp/probe"] {
            let (code, text) = world.exec(name, &["cat", file]).await?;
            ensure!(code == 0, "{name} {file}: {text}");
            let found = rights_in(&text)?;
            ensure!(found == *expected, "{name} {file}: {found:?}");
        }
        world.delete(name).await?;
    }
    world
        .create("wrong", json!({"containers": [{"name": "c", "image": "pause", "securityContext": {"capabilities": {"add": ["NETADMIN"]}}}]}))
        .await?;
    world.until("wrong", "refused", |pod| container_state(pod, "CreateContainerConfigError")).await?;
    world.delete("wrong").await.map(drop)
}

fn rights(file: &str) -> anyhow::Result<[String; 3]> {
    rights_in(&std::fs::read_to_string(file)?)
}

fn rights_in(status: &str) -> anyhow::Result<[String; 3]> {
    let line = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.map(str::to_owned).with_context(|| format!("no {name} in {status}"))
    };
    Ok([line("CapEff")?, line("CapBnd")?, line("NoNewPrivs")?])
}

async fn a_killed_kubelet_leaves_nothing_behind(world: &mut World) -> anyhow::Result<()> {
    let keep = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause"}]});
    let mut once = keep.clone();
    once["restartPolicy"] = json!("Never");
    world.create("keep", keep).await?;
    world.create("once", once.clone()).await?;
    world.create("lost", once).await?;
    world.ready("lost").await?;
    let before = world.ready("keep").await?.status.and_then(|status| status.pod_ip);
    world.ready("once").await?;
    world.kill_kubelet()?;
    wait_for("containers to end with it", async || Ok(containers()? == 0)).await?;
    ensure!(std::fs::read_dir("/run/netns")?.count() == 3);
    let forced = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    world.pods().delete("lost", &forced).await?;
    world.start_kubelet()?;
    let pod = world.until("keep", "restarted", |pod| restarts(pod) == 1 && is_ready(pod)).await?;
    ensure!(before.is_some() && pod.status.is_some_and(|status| status.pod_ip.is_some()));
    world.until("once", "failed", |pod| phase(pod) == "Failed").await?;
    ensure!(std::fs::read_dir("/run/netns")?.count() == 1);
    world.delete("keep").await?;
    world.delete("once").await?;
    // A grace period of nothing takes the pods out of the API before the kubelet hears of it.
    wait_for("networks to go", async || Ok(std::fs::read_dir("/run/netns")?.count() == 0)).await?;
    wait_for("directories to go", async || Ok(std::fs::read_dir("/var/lib/kubelet/pods")?.count() == 0)).await
}

/// How many containers run.
fn containers() -> anyhow::Result<usize> {
    let all = seaway_net::sandbox::find_sandboxes(1)?;
    Ok(all.iter().filter(|sandbox| sandbox.label.starts_with("pod/")).count())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn restarts(pod: &Pod) -> i32 {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|status| status.restart_count)
        .sum()
}

/// Whether a container of the pod waits for this reason.
fn container_state(pod: &Pod, reason: &str) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut reasons =
        statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    reasons.any(|found| found == reason)
}

/// Waits for an event of this reason about the pod; its message.
async fn event(world: &World, pod: &str, reason: &str) -> anyhow::Result<String> {
    let events: Api<Event> = Api::namespaced(world.client.clone(), "default");
    let began = Instant::now();
    loop {
        let all = events.list(&ListParams::default()).await?;
        let mut about =
            all.items.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(pod));
        if let Some(found) = about.find(|event| event.reason.as_deref() == Some(reason)) {
            return Ok(found.message.unwrap_or_default());
        }
        ensure!(began.elapsed() < PATIENCE, "no event {reason} about {pod}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn wait_for(
    what: &str,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds().await? {
        ensure!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

//! kubectl's commands against a lab: what each must do, with the kubectl that is in PATH.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

mod common;

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Lab, checked, eventually};

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]}
";

/// A `kubectl` that must fail; what it says.
fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.kubectl_command().args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// A `kubectl` with something on its standard input, however it ends: exit code, output and errors.
fn fed(lab: &Lab, arguments: &[&str], input: &str) -> (i32, String) {
    let mut kubectl = lab.kubectl_command();
    kubectl.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut kubectl = kubectl.spawn().unwrap();
    let mut stdin = kubectl.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        kubectl.wait_with_output().unwrap()
    });
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn get(lab: &Lab, what: &str, path: &str) -> String {
    lab.kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
}

#[test]
fn objects_are_written_watched_and_checked() {
    let lab = Lab::up("kubectl-objects", &[]);
    let rolled = || lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let mut watch = lab.kubectl_command();
    let watch = watch.args(["get", "pods", "-l", "app=web", "-w", "--request-timeout=60s"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();

    lab.apply(WEB);
    rolled();
    assert_eq!(get(&lab, "deploy/web", "{.metadata.generation} {.status.readyReplicas}"), "1 2");
    lab.kubectl(&["set", "image", "deployment/web", "nginx=nginx:1.27"]);
    rolled();
    lab.kubectl(&["rollout", "undo", "deployment/web"]);
    rolled();
    assert_eq!(get(&lab, "deploy/web", "{.spec.template.spec.containers[0].image}"), "nginx");
    lab.kubectl(&["rollout", "restart", "deployment/web"]);
    rolled();
    let history = lab.kubectl(&["rollout", "history", "deployment/web"]);
    assert_eq!(history.lines().filter(|line| line.ends_with("<none>")).count(), 3, "{history}");
    lab.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    lab.kubectl(&["wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=30s"]);

    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"nginx","env":[{"name":"A","value":"b"}]}]}}}}"#;
    lab.kubectl(&["patch", "deploy", "web", "-p", strategic]);
    lab.kubectl(&["patch", "deploy", "web", "--type=merge", "-p", r#"{"spec":{"replicas":1}}"#]);
    let json = r#"[{"op":"add","path":"/metadata/labels/tier","value":"front"}]"#;
    lab.kubectl(&["patch", "deploy", "web", "--type=json", "-p", json]);
    let path = "{.spec.template.spec.containers[0].image}{.spec.template.spec.containers[0].env[0].value}{.spec.replicas}{.metadata.labels.tier}";
    assert_eq!(get(&lab, "deploy/web", path), "nginxb1front");
    lab.kubectl(&["label", "deploy/web", "tier-"]);
    lab.kubectl(&["annotate", "deploy/web", "note=kept"]);
    rolled();
    let described = lab.kubectl(&["describe", "deploy/web"]);
    assert!(described.contains("note: kept") && described.contains("ScalingReplicaSet"), "{described}");

    refusals(&lab);

    lab.kubectl(&["delete", "deploy/web"]);
    lab.kubectl(&["wait", "pod", "-l", "app=web", "--for=delete", "--timeout=30s"]);
    watch.kill().unwrap();
    let seen = String::from_utf8(watch.wait_with_output().unwrap().stdout).unwrap();
    for state in ["Pending", "ContainerCreating", "Running", "Terminating"] {
        assert!(seen.contains(state), "{state} in:\n{seen}");
    }
}

/// What the server does not take, and that it says why.
fn refusals(lab: &Lab) {
    lab.kubectl(&["create", "configmap", "stale", "--from-literal=a=b"]);
    let old = lab.kubectl(&["get", "configmap", "stale", "-o", "yaml"]);
    lab.kubectl(&["label", "configmap", "stale", "x=y"]);
    let (code, said) = fed(lab, &["replace", "-f", "-"], &old.replace("a: b", "a: c"));
    assert!(code == 1 && said.contains("the object has been modified"), "{said}");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad}\nspec: {restartPolicy: Sometimes, containers: []}\n";
    let (_, said) = fed(lab, &["create", "-f", "-"], pod);
    for path in ["metadata.name", "spec.containers: Required value", "spec.restartPolicy: Unsupported value"]
    {
        assert!(said.contains(path), "{said}");
    }
    let (_, said) = fed(lab, &["create", "-f", "-"], &pod.replace("containers", "contaners"));
    assert!(said.contains("unknown field \"spec.contaners\""), "{said}");
    assert!(refused(lab, &["get", "pod", "none"]).contains("pods \"none\" not found"));
    assert!(refused(lab, &["top", "pod"]).contains("Metrics API not available"));
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: server-side}\n";
    let (code, said) = fed(lab, &["apply", "--server-side", "-f", "-"], map);
    assert!(code == 1 && said.contains("server-side apply is not supported"), "{said}");

    assert_eq!(lab.kubectl(&["auth", "can-i", "create", "pods"]).trim(), "yes");
    assert!(lab.kubectl(&["explain", "pod.spec.dnsPolicy"]).contains("ClusterFirst"));
    assert!(lab.kubectl(&["api-resources"]).contains("endpointslices"));
    let whole = lab.kubectl(&["get", "pods", "-A", "-o", "name"]);
    assert_eq!(lab.kubectl(&["get", "pods", "-A", "-o", "name", "--chunk-size=1"]), whole);
    lab.kubectl(&["create", "namespace", "short"]);
    lab.kubectl(&["delete", "namespace", "short", "--timeout=30s"]);
    assert!(refused(lab, &["get", "namespace", "short"]).contains("not found"));
}

/// A terminal for a command: types, waits for texts, changes its size; ends with the command's exit code.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""
def size(rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.kill(pid, signal.SIGWINCH)
def until(text, asked=None):
    global seen
    deadline = time.time() + 30
    while text not in seen:
        if asked:
            os.write(terminal, asked)
        if time.time() > deadline:
            sys.exit("no %r in %r" % (text, seen))
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096)
size(30, 100)
until(b"is 42", b"echo is $((6 * 7))\n")
size(41, 121)
until(b"41 121", b"stty size\n")
seen = b""
# What was typed before may still be read: only what the shell makes of it shows that it has come to this line.
os.write(terminal, b"echo go $((1 + 1)); sleep 1000\n")
until(b"go 2")
until(b"on 42", b"\x03echo on $((6 * 7))\n")
os.write(terminal, b"exit 7\n")
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

fn in_terminal(lab: &Lab, arguments: &[&str]) {
    let mut python = Command::new("python3");
    for (name, value) in lab.kubectl_command().get_envs() {
        python.env(name, value.unwrap());
    }
    let output = python.args(["-c", TERMINAL, "kubectl"]).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What sessions must do, whichever way kubectl speaks; the pod is a busybox.
fn sessions(lab: &Lab, pod: &str) {
    let (code, said) = fed(lab, &["exec", "-i", pod, "--", "sh", "-c", "cat; exit 42"], "through\n");
    assert!(code == 42 && said.starts_with("through\n"), "{code} {said}");
    assert!(refused(lab, &["exec", pod, "--", "no-such-program"]).contains("not found"));
    // A program that answers what it reads, longer than all that lies between.
    let long = "0123456789abcdef\n".repeat(300_000);
    let (code, said) = fed(lab, &["exec", "-i", pod, "--", "cat"], &long);
    assert!(code == 0 && said == long, "{code}, {} of {} bytes", said.len(), long.len());
    in_terminal(lab, &["exec", "-it", pod, "--", "sh"]);
    in_terminal(lab, &["run", "brief", "--rm", "-it", "--restart=Never", "--image=busybox", "--", "sh"]);

    let folder = tempfile::tempdir().unwrap();
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    let content: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&here, &content).unwrap();
    lab.kubectl(&["cp", here.to_str().unwrap(), &format!("{pod}:/tmp/there")]);
    lab.kubectl(&["cp", &format!("{pod}:/tmp/there"), back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == content, "the copy differs");
}

/// Who attaches gets all that a container writes, however fast.
fn attaching(lab: &Lab, pod: &str) {
    let script = "read go; seq 1000000";
    lab.kubectl(&[
        "run",
        pod,
        "--image=busybox",
        "--restart=Never",
        "--stdin",
        "--attach=false",
        "--",
        "sh",
        "-c",
        script,
    ]);
    lab.kubectl(&["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=30s"]);
    let (code, said) = fed(lab, &["attach", "-q", "-i", pod], "go\n");
    let lines = said.lines().filter(|line| line.parse::<u32>().is_ok()).count();
    assert!(code == 0 && lines == 1_000_000, "{code}, {lines} lines");
}

/// A `kubectl port-forward` and the ports here that it listens on.
struct Forward {
    kubectl: Child,
    ports: Vec<u16>,
    /// It goes on talking, and ends where nobody listens.
    _said: Lines<BufReader<ChildStdout>>,
}

impl Forward {
    fn start(lab: &Lab, pod: &str, ports: &[&str]) -> Self {
        let mut kubectl = lab.kubectl_command();
        kubectl.args(["port-forward", pod, "--address", "127.0.0.1"]).args(ports);
        let mut kubectl = kubectl.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(kubectl.stdout.take().unwrap()).lines();
        let port =
            |line: String| line.split(" -> ").next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        let ports = said.by_ref().map(|line| port(line.unwrap())).take(ports.len()).collect();
        Self { kubectl, ports, _said: said }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.kubectl.kill().unwrap();
        self.kubectl.wait().unwrap();
    }
}

/// Sends `request` and says that this is all; the answer.
fn ask(port: u16, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Many connections at a time to two ports of a pod; then one to a port on which nobody listens, which ends kubectl.
fn ports(lab: &Lab) {
    let mut forward = Forward::start(lab, "pod/web", &[":80", ":8080", ":81"]);
    let [http, netexec, nobody] = forward.ports[..] else { panic!("{:?}", forward.ports) };
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let page = ask(http, b"GET / HTTP/1.0\r\n\r\n");
                assert!(page.starts_with(b"HTTP/1.0 200") || page.starts_with(b"HTTP/1.1 200"), "{page:?}");
                let name = ask(netexec, b"GET /hostname HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                assert!(name.ends_with(b"\r\n\r\nweb"), "{}", String::from_utf8_lossy(&name));
            });
        }
    });
    assert_eq!(ask(nobody, b"anyone?"), b"");
    assert!(!forward.kubectl.wait().unwrap().success());
}

#[test]
fn sessions_ports_and_logs() {
    let mut lab = Lab::up("kubectl-sessions", &["--nodes", "1"]);
    let loops = "for i in 1 2 3; do echo line $i; done; exit 3";
    lab.kubectl(&["run", "shell", "--image=busybox", "--", "sleep", "1000"]);
    lab.kubectl(&["run", "fails", "--image=busybox", "-l", "log=yes", "--", "sh", "-c", loops]);
    lab.kubectl(&["run", "once", "--image=busybox", "--restart=Never", "--", "sh", "-c", loops]);
    lab.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: nginx, image: nginx}, {name: netexec, image: agnhost, args: [netexec]}]}
",
    );
    lab.kubectl(&["wait", "pod/shell", "pod/web", "--for=condition=Ready", "--timeout=30s"]);
    for spdy in [false, true] {
        lab.spdy = spdy;
        attaching(&lab, if spdy { "talker-spdy" } else { "talker" });
        sessions(&lab, "shell");
        ports(&lab);
    }

    assert_eq!(lab.kubectl(&["logs", "-f", "once"]), "line 1\nline 2\nline 3\n");
    assert_eq!(lab.kubectl(&["logs", "once", "--tail=1"]), "line 3\n");
    lab.kubectl(&["wait", "pod/once", "--for=jsonpath={.status.phase}=Failed", "--timeout=30s"]);
    eventually("logs of a run before", || {
        let output = lab.kubectl_command().args(["logs", "fails", "--previous"]).output().unwrap();
        (output.stdout == b"line 1\nline 2\nline 3\n").then_some(())
    });
    let prefixed = lab.kubectl(&["logs", "-l", "log=yes", "--prefix"]);
    assert!(prefixed.contains("[pod/fails/fails] line 1"), "{prefixed}");

    let debug = refused(&lab, &["debug", "pod/shell", "--image=busybox"]);
    assert!(debug.contains("ephemeral containers are disabled"), "{debug}");
    lab.kubectl(&["delete", "pod", "shell", "--force", "--grace-period=0"]);
    assert!(refused(&lab, &["get", "pod", "shell"]).contains("not found"));
}

#[test]
fn pods_leave_and_come_back_with_their_nodes() {
    let lab = Lab::up("kubectl-nodes", &["--nodes", "2"]);
    lab.apply(WEB);
    lab.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: prepared}
spec:
  nodeName: node-2
  volumes: [{name: shared, emptyDir: {}}]
  initContainers: [{name: first, image: busybox, command: [sh, -c, echo done > /shared/by], volumeMounts: [{name: shared, mountPath: /shared}]}]
  containers: [{name: c, image: busybox, command: [sleep, '1000'], volumeMounts: [{name: shared, mountPath: /shared}]}]
",
    );
    lab.kubectl(&["wait", "pod/prepared", "--for=condition=Ready", "--timeout=30s"]);
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    lab.kubectl(&["drain", "node-1", "--timeout=60s"]);
    let left = ["get", "pods", "-A", "--field-selector", "spec.nodeName=node-1", "-o", "name"];
    assert_eq!(lab.kubectl(&left), "");
    assert!(lab.kubectl(&["get", "node", "node-1"]).contains("Ready,SchedulingDisabled"));
    lab.kubectl(&["uncordon", "node-1"]);

    let runs = |count: &str| {
        eventually(&format!("restart {count}"), || {
            let path = "{.status.containerStatuses[0].restartCount} {.status.conditions[?(@.type==\"Ready\")].status}";
            (get(&lab, "pod/prepared", path) == format!("{count} True")).then_some(())
        });
        assert!(lab.kubectl(&["get", "pod", "prepared"]).contains("Running"));
        let by = ["exec", "prepared", "-c", "c", "--", "cat", "/shared/by"];
        assert_eq!(lab.kubectl(&by), "done\n");
    };
    let kubelet = lab.pid("node/node-2/kubelet").to_string();
    checked(Command::new("kill").args(["-9", &kubelet]));
    runs("1");
    lab.seaway(&["node", "stop", "node-2"]);
    lab.kubectl(&["wait", "node/node-2", "--for=condition=Ready=unknown", "--timeout=30s"]);
    lab.seaway(&["node", "start", "node-2"]);
    lab.kubectl(&["wait", "node/node-2", "--for=condition=Ready", "--timeout=30s"]);
    runs("2");

    let objects = ["get", "pods,services,configmaps,deployments", "-A", "-o", "name"];
    let before = lab.kubectl(&objects);
    for process in ["control-plane/apiserver", "control-plane/controllers"] {
        checked(Command::new("kill").args(["-9", &lab.pid(process).to_string()]));
    }
    eventually("the API server is back", || {
        let ready = lab.kubectl_command().args(["get", "--raw", "/readyz"]).output().unwrap();
        ready.status.success().then_some(())
    });
    assert_eq!(lab.kubectl(&objects), before);
    lab.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    lab.kubectl(&["wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=30s"]);
}

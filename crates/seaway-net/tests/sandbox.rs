//! Sandboxed processes on the real kernel. Needs root.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seaway_net::netns::NetNs;
use seaway_net::sandbox::{
    self, Capabilities, Credentials, Entry, Mount, Namespaces, Ns, Root, Running, SandboxError, Signal, Spec,
    Stdio, WindowSize,
};

/// Runs before the test harness's `main`, so that this binary can be its own shim.
// SAFETY: an init_array entry is a function without arguments that the loader calls once.
#[unsafe(link_section = ".init_array")]
#[used]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    sandbox::run_shim_if_asked();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("__nest") => nest(&arguments[2]),
        Some("__deleted") => {
            fs::remove_file(std::env::current_exe().unwrap()).unwrap();
            nest("0")
        }
        Some("__parent") => parent(),
        _ => {}
    }
}

/// Runs in a sandbox and starts another one in it, which says what it sees.
fn nest(depth: &str) -> ! {
    let depth: u32 = depth.parse().unwrap();
    let argv = if depth == 0 {
        shell(
            "echo pid $$; hostname; ls /etc/ssl >/dev/null && echo ssl; head -1 /etc/passwd; echo x > /tmp/x && echo tmp",
        )
    } else {
        vec!["/nested/test".to_owned(), "__nest".to_owned(), (depth - 1).to_string()]
    };
    fs::create_dir_all("/run/roots").unwrap();
    let mut spec = isolated(&format!("nested-{depth}"), Path::new("/run/roots"), argv);
    spec.reaper = depth > 0;
    let mut running = sandbox::spawn(&spec, Stdio::inherit().unwrap()).unwrap();
    std::process::exit(running.wait().unwrap());
}

/// Starts a sandbox, says its pids, and waits to be killed.
fn parent() -> ! {
    let dir = tempfile::tempdir().unwrap();
    let spec = isolated("orphan", dir.path(), words(&["sleep", "1000"]));
    let running = sandbox::spawn(&spec, Stdio::default()).unwrap();
    println!("{} {}", running.shim_pid(), running.pid());
    loop {
        std::thread::park();
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn shell(script: &str) -> Vec<String> {
    words(&["sh", "-c", script])
}

/// A sandbox with everything of its own.
fn isolated(label: &str, dir: &Path, argv: Vec<String>) -> Spec {
    let mut spec = Spec::new(label, argv);
    for ns in [&mut spec.net, &mut spec.mount, &mut spec.uts, &mut spec.ipc, &mut spec.pid] {
        *ns = Ns::New;
    }
    spec.hostname = Some(label.to_owned());
    spec.env = vec![("PATH".to_owned(), "/usr/sbin:/usr/bin:/bin".to_owned())];
    let target = PathBuf::from("/nested/test");
    let mounts = vec![Mount::HostUserland, Mount::Proc, Mount::Sysfs, Mount::Dev, Mount::SelfExe { target }];
    spec.root = Some(Root { dir: dir.to_owned(), mounts });
    spec
}

/// Runs to the end; what it wrote to both outputs, and its exit code.
fn output(spec: &Spec) -> (String, i32) {
    let (mut reader, stdio) = piped();
    let mut running = sandbox::spawn(spec, stdio).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, running.wait().unwrap())
}

fn piped() -> (std::io::PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    let stderr = OwnedFd::from(writer.try_clone().unwrap());
    (reader, Stdio { stdin: None, stdout: Some(writer.into()), stderr: Some(stderr) })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[test]
fn exit_codes_and_signals() {
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        assert_eq!(output(&Spec::new("codes", shell(script))).1, code, "{script}");
    }
}

#[test]
fn own_root_without_the_hosts_names() {
    let dir = tempfile::tempdir().unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script = "hostname; echo $$; ls /etc; touch /usr/x; id -u; ls -d /proc/1; readlink /var/run; \
                  cat /sys/class/net/lo/ifindex; echo y > /dev/null; test -c /dev/urandom && echo dev; ls /run; \
                  test -w /dev/ptmx && echo ptmx; grep -c : /proc/net/dev; ls /proc/self/fd | tr '\\n' ' '";
    let spec = isolated("alone", dir.path(), shell(script));
    let (text, code) = output(&spec);
    assert_eq!(code, 0, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["alone", "1"]);
    for name in ["resolv.conf", "hosts", "nsswitch.conf", "hostname", "host.conf"] {
        assert!(!lines.contains(&name), "{name} is there");
    }
    for line in ["passwd", "ssl", "0", "/proc/1", "/run", "dev", "lock", "ptmx", "1", "0 1 2 3 "] {
        assert!(lines.contains(&line), "{line} is missing in {text}");
    }
    assert!(text.contains("touch: cannot touch '/usr/x': Read-only file system"), "{text}");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn mounts_of_all_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "from outside").unwrap();
    let mut spec = isolated(
        "mounts",
        dir.path(),
        shell(
            "cat /var/run/secrets/token /run/secrets/token /usr/share/doc/new/file /opt/rw/file /etc/hosts; \
             echo changed > /opt/rw/file; echo no > /usr/share/doc/new/file; stat -c %a /etc/hosts /data /work; \
             df --output=size /data | tail -1; readlink /etc/link; ls /usr/share/doc | grep -cx bash",
        ),
    );
    let path = PathBuf::from;
    spec.root.as_mut().unwrap().mounts.extend([
        Mount::File { target: path("/var/run/secrets/token"), contents: "secret\n".to_owned(), mode: 0o600 },
        Mount::Bind { source: source.path().into(), target: path("/usr/share/doc/new"), read_only: true },
        Mount::Bind { source: source.path().into(), target: path("/opt/rw"), read_only: false },
        Mount::File { target: path("/etc/hosts"), contents: "hosts\n".to_owned(), mode: 0o644 },
        Mount::Tmpfs { target: path("/data"), mode: 0o700, size_bytes: Some(1 << 20) },
        Mount::Dir { target: path("/work"), mode: 0o1777 },
        Mount::Symlink { target: path("/etc/link"), to: path("hosts") },
    ]);
    let (text, code) = output(&spec);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("secret\nsecret\nfrom outsidefrom outsidehosts\n"), "{text}");
    assert!(text.contains("cannot create /usr/share/doc/new/file: Read-only file system"), "{text}");
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.ends_with(&["644", "700", "1777", "1024", "hosts", "1"]), "{text}");
    assert_eq!(fs::read_to_string(source.path().join("file")).unwrap(), "changed\n");
}

#[test]
fn failures_say_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    let error = sandbox::spawn(&isolated("x", dir.path(), words(&["no-such-program"])), Stdio::default())
        .unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(
        error.to_string(),
        "sandbox x: cannot execute no-such-program: No such file or directory (os error 2)"
    );
    let mut spec = isolated("x", dir.path(), words(&["true"]));
    let bind = Mount::Bind { source: "/absent".into(), target: "/here".into(), read_only: true };
    spec.root.as_mut().unwrap().mounts.push(bind);
    let error = sandbox::spawn(&spec, Stdio::default()).unwrap_err();
    assert_eq!(error.to_string(), "sandbox x: cannot bind /absent: No such file or directory (os error 2)");
    let mut spec = Spec::new("x", words(&["true"]));
    spec.net = Ns::Path("/proc/self/status".into());
    let error = sandbox::spawn(&spec, Stdio::default()).unwrap_err();
    assert!(matches!(error, SandboxError::Setup { .. }), "{error}");
    let mut spec = Spec::new("x", words(&["true"]));
    spec.hostname = Some("host".to_owned());
    assert!(matches!(sandbox::spawn(&spec, Stdio::default()), Err(SandboxError::Invalid { .. })));
}

#[test]
fn program_dies_with_its_shim() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = isolated("dies", dir.path(), shell("sleep 1000 & sleep 1000"));
    for (pid, reaper) in [(Ns::New, false), (Ns::New, true), (Ns::Inherit, false)] {
        (spec.pid, spec.reaper) = (pid, reaper);
        if spec.pid == Ns::Inherit {
            spec.argv = words(&["sleep", "1000"]);
        }
        let mut running = sandbox::spawn(&spec, Stdio::default()).unwrap();
        assert!(is_alive(running.pid()));
        sandbox::kill(running.shim_pid(), Signal::KILL).unwrap();
        assert_eq!(running.wait().unwrap(), 137);
        wait_until("the program ends", || !is_alive(running.pid()));
    }
}

#[test]
fn shim_dies_with_its_parent() {
    let mut parent = std::process::Command::new("/proc/self/exe")
        .arg("__parent")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut line)
        .unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("shim and program end", || !pids.iter().any(|&pid| is_alive(pid)));
}

#[test]
fn a_thread_that_ends_takes_nothing_along() {
    let spawned = std::thread::spawn(|| {
        sandbox::spawn(&Spec::new("thread", words(&["sleep", "1000"])), Stdio::default())
    });
    let mut running = spawned.join().unwrap().unwrap();
    // The sandbox of another thread ends after this one's thread has: it would have been gone by then.
    assert_eq!(output(&Spec::new("other", words(&["true"]))).1, 0);
    assert_eq!(running.try_wait().unwrap(), None);
    running.kill(Signal::TERM).unwrap();
    assert_eq!(running.wait().unwrap(), 143);
}

#[test]
fn reaper_forwards_reaps_and_ends_with_its_program() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo got it; exit 5' TERM; (sleep 0.01 &); (exit 3 &); echo ready; while :; do sleep 0.01; done";
    let mut spec = isolated("reaper", dir.path(), shell(script));
    spec.reaper = true;
    let (reader, stdio) = piped();
    let mut running = sandbox::spawn(&spec, stdio).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader));
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    running.kill(Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    assert_eq!(running.wait().unwrap(), 5);
}

#[test]
fn kept_descriptors_keep_their_numbers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let mut spec = Spec::new("fds", shell("readlink /proc/self/fd/$FD; ls /proc/self/fd | wc -l"));
    spec.env = vec![("FD".to_owned(), fd.to_string())];
    spec.keep_fds = vec![fd];
    let (text, _) = output(&spec);
    assert!(text.starts_with("socket:["), "{text}");
    // 0, 1, 2, the kept one, and the directory that ls reads.
    assert!(text.ends_with("\n5\n"), "{text}");
}

#[test]
fn terminal_becomes_the_controlling_one() {
    let size = WindowSize { rows: 33, columns: 77 };
    let pty = sandbox::open_pty(Some(size)).unwrap();
    let ends = || Some(pty.slave.try_clone().unwrap());
    let stdio = Stdio { stdin: ends(), stdout: ends(), stderr: ends() };
    let mut spec = Spec::new("tty", shell("stty size; read line; echo \"<$line>\"; read more"));
    spec.tty = true;
    let mut running = sandbox::spawn(&spec, stdio).unwrap();
    drop(pty.slave);
    let mut master = fs::File::from(pty.master);
    let mut text = String::new();
    let mut read_until = |end: &str, master: &mut fs::File| {
        let mut bytes = [0; 256];
        while !text.contains(end) {
            let count = master.read(&mut bytes).unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    };
    read_until("33 77", &mut master);
    master.write_all(b"hello\n").unwrap();
    read_until("<hello>", &mut master);
    master.write_all(b"\x03").unwrap();
    assert_eq!(running.wait().unwrap(), 130);
}

fn entry(argv: Vec<String>) -> Entry {
    Entry {
        label: "exec".to_owned(),
        namespaces: Namespaces::ALL,
        argv,
        env: vec![("PATH".to_owned(), "/usr/bin".to_owned())],
        cwd: "/tmp".into(),
        tty: false,
        new_session: true,
        keep_fds: Vec::new(),
        credentials: Credentials::default(),
    }
}

#[test]
fn entering_shares_everything() {
    let dir = tempfile::tempdir().unwrap();
    let argv = shell("echo marked > /tmp/mark; echo ready; read forever < /dev/ptmx");
    let mut spec = isolated("entered", dir.path(), argv);
    spec.env.push(("MARK".to_owned(), "of the program".to_owned()));
    let (mut reader, stdio) = piped();
    let mut running = sandbox::spawn(&spec, stdio).unwrap();
    let mut ready = [0; 6];
    reader.read_exact(&mut ready).unwrap();
    let (mut inside, stdio) = piped();
    let argv =
        shell("hostname; cat mark; tr '\\0' ' ' < /proc/1/cmdline; readlink /proc/self/ns/net; exit 9");
    let mut entered = sandbox::enter(running.pid(), &entry(argv), stdio).unwrap();
    let mut text = String::new();
    inside.read_to_string(&mut text).unwrap();
    assert_eq!(entered.wait().unwrap(), 9);
    assert!(text.starts_with("entered\nmarked\nsh -c echo marked"), "{text}");
    let inode = NetNs::of_process(running.pid()).unwrap().inode().unwrap();
    assert!(text.ends_with(&format!("net:[{inode}]\n")), "{text}");
    let environment = sandbox::environment(running.pid()).unwrap();
    assert!(environment.contains(&("MARK".to_owned(), "of the program".to_owned())));
    let error =
        sandbox::enter(running.pid(), &entry(words(&["no-such-program"])), Stdio::default()).unwrap_err();
    assert!(error.is_not_found());
    running.kill(Signal::KILL).unwrap();
    assert_eq!(running.wait().unwrap(), 137);
    let error = sandbox::enter(running.pid(), &entry(words(&["true"])), Stdio::default()).unwrap_err();
    assert!(error.to_string().contains("enter process"), "{error}");
}

#[test]
fn sandboxes_nest_and_are_found_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let argv = words(&["/nested/test", "__nest", "2"]);
    let mut spec = isolated("outermost", dir.path(), argv.clone());
    spec.reaper = true;
    let (text, code) = output(&spec);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text, "pid 1\nnested-0\nssl\nroot:x:0:0:root:/root:/bin/bash\ntmp\n");

    // A binary that was deleted, or built anew, while it runs goes on starting sandboxes.
    spec.argv = shell("cp /nested/test /tmp/copy && exec /tmp/copy __deleted");
    let (again, code) = output(&spec);
    assert_eq!((again, code), (text, 0));

    spec.argv = words(&["sleep", "1000"]);
    let mut outer: Running = sandbox::spawn(&spec, Stdio::default()).unwrap();
    let entered = sandbox::enter(outer.pid(), &entry(words(&["/nested/test", "__parent"])), Stdio::default());
    let mut entered = entered.unwrap();
    let own = std::process::id().cast_signed();
    let labels = |pid| -> Vec<String> {
        sandbox::find_sandboxes(pid).unwrap().into_iter().map(|sandbox| sandbox.label).collect()
    };
    wait_until("the nested sandbox is there", || labels(entered.shim_pid()).contains(&"orphan".to_owned()));
    assert_eq!(labels(entered.shim_pid()), ["exec", "orphan"]);
    let found = sandbox::find_sandboxes(own).unwrap();
    let same = found.iter().find(|sandbox| sandbox.shim_pid == outer.shim_pid()).unwrap();
    assert_eq!((same.label.as_str(), same.pid), ("outermost", outer.pid()));
    assert_eq!(found.iter().filter(|sandbox| sandbox.label == "outermost").count(), 1);
    outer.kill(Signal::KILL).unwrap();
    outer.wait().unwrap();
    assert_eq!(entered.wait().unwrap(), 137);
}

#[test]
fn keeps_the_root_but_not_proc() {
    let script = "echo $$; readlink /proc/self | grep -c '^[1-9]$'; head -c 2 /proc/1/cmdline";
    let mut spec = Spec::new("kept", shell(script));
    (spec.mount, spec.pid) = (Ns::New, Ns::New);
    assert_eq!(output(&spec).0, "1\n1\nsh");
}

#[test]
fn runs_as_another_user() {
    let mut spec = Spec::new("user", shell("id -u; id -g; id -G"));
    (spec.credentials.uid, spec.credentials.gid) = (Some(65534), Some(65533));
    assert_eq!(output(&spec).0, "65534\n65533\n65533\n");
}

/// The capability sets and NoNewPrivs of /proc/self/status (proc_pid_status(5)), in its order.
const PRIVILEGES: &str = "sed -n 's/^\\(Cap...\\|NoNewPrivs\\):\\t//p' /proc/self/status";

#[test]
fn has_the_capabilities_that_are_left() {
    let named = |name| Capabilities::named(name).unwrap();
    let some = named("NET_RAW").with(named("CHOWN"));
    let credentials = |uid, capabilities, no_new_privileges| Credentials {
        uid,
        gid: uid,
        capabilities: Some(capabilities),
        no_new_privileges,
    };
    // Inheritable, permitted, effective, bounding, ambient, and whether new privileges are off.
    let (none, both) = ("0".repeat(16), "0000000000002001".to_owned());
    for (credentials, expected) in [
        (credentials(None, some, false), [&none, &both, &both, &both, &none, "0"]),
        (credentials(Some(65534), some, true), [&none, &none, &none, &both, &none, "1"]),
        (credentials(None, Capabilities::NONE, true), [&none, &none, &none, &none, &none, "1"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = isolated("limited", dir.path(), shell(PRIVILEGES));
        spec.credentials = credentials.clone();
        let lines = format!("{}\n", expected.join("\n"));
        assert_eq!(output(&spec).0, lines, "{credentials:?}");
        // The reaper is not limited, its child is.
        spec.reaper = true;
        assert_eq!(output(&spec).0, lines, "{credentials:?} below a reaper");
    }
}

#[test]
fn a_limited_program_dies_with_its_shim_and_keeps_out_who_enters_limited() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = isolated("limited", dir.path(), shell("echo ready; exec sleep 1000"));
    spec.credentials.capabilities = Some(Capabilities::NONE);
    let (mut reader, stdio) = piped();
    let mut running = sandbox::spawn(&spec, stdio).unwrap();
    let mut ready = [0; 6];
    reader.read_exact(&mut ready).unwrap();
    for (capabilities, effective) in [
        (Some(Capabilities::named("KILL").unwrap()), "0000000000000020\n".to_owned()),
        (None, format!("{}\n", own_effective())),
    ] {
        let mut entry = entry(shell("sed -n 's/^CapEff:\\t//p' /proc/self/status"));
        entry.credentials.capabilities = capabilities;
        let (mut inside, stdio) = piped();
        let mut entered = sandbox::enter(running.pid(), &entry, stdio).unwrap();
        let mut text = String::new();
        inside.read_to_string(&mut text).unwrap();
        assert_eq!((entered.wait().unwrap(), text), (0, effective));
    }
    assert!(sandbox::kill(running.shim_pid(), Signal::KILL).unwrap());
    // The pipe's other end is closed when the program has ended.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    running.wait().unwrap();
}

fn own_effective() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap().to_owned()
}

#[test]
fn joins_a_namespace_behind_a_path() {
    let net = NetNs::new().unwrap();
    let mut spec = Spec::new("joined", shell("readlink /proc/self/ns/net"));
    let fd = std::os::fd::AsFd::as_fd(&net).as_raw_fd();
    spec.net = Ns::Path(format!("/proc/{}/fd/{fd}", std::process::id()).into());
    assert_eq!(output(&spec).0, format!("net:[{}]\n", net.inode().unwrap()));
}

//! What a pod asks of its DNS server, by `tcpdump`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{Lab, SEAWAY};

/// The questions that leave the pod while it runs `command`, as tcpdump prints them: `A? name.`
pub(crate) fn queries_of(lab: &Lab, client: &str, command: &[&str]) -> Vec<String> {
    let dump = ["tcpdump", "-n", "-t", "-l", "--immediate-mode", "-i", "eth0", "udp dst port 53"];
    let mut tcpdump = Command::new(SEAWAY)
        .args(["lab", "exec", "--name", &lab.name, client, "--"])
        .args(dump)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(tcpdump.stderr.take().unwrap()).lines();
    assert!(errors.any(|line| line.unwrap().starts_with("listening on")), "tcpdump does not listen");
    let ran = lab.try_exec(client, command);
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stdout));
    // A last question of our own marks the end of what the command asked.
    lab.try_exec(client, &["dig", "+tries=1", "end.of.test."]);
    let lines = BufReader::new(tcpdump.stdout.take().unwrap()).lines().map_while(Result::ok);
    let questions = lines.map(|line| question(&line)).take_while(|q| q != "A? end.of.test.").collect();
    stop(&mut tcpdump);
    questions
}

/// `A? www.baidu.com.` of `IP 10.244.0.5.40127 > 10.96.0.10.53: 22685+ A? www.baidu.com. (31)`
fn question(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let at =
        words.iter().position(|word| word.ends_with('?')).unwrap_or_else(|| panic!("no question in {line}"));
    format!("{} {}", words[at], words[at + 1])
}

fn stop(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

//! Which program an image's name stands for.

use crate::BINARY;

/// A program file that an image brings along, for manifests and `kubectl exec` that name it by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launcher {
    /// Where the image has it, absolute.
    pub path: &'static str,
    /// What it starts; its own arguments come after these.
    pub argv: &'static [&'static str],
}

impl Launcher {
    /// The file's text: a script of the host's shell that becomes the program.
    pub fn script(&self) -> String {
        format!("#!/bin/sh\nexec {} \"$@\"\n", self.argv.join(" "))
    }
}

/// What an image's configuration says, as a container runtime would read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// The name it is known by: the last path element, without tag.
    pub name: &'static str,
    /// What runs unless the container has a `command`.
    pub entrypoint: &'static [&'static str],
    /// The arguments unless the container has a `command` or `args`.
    pub cmd: &'static [&'static str],
    /// Program files that the image's root has beside the host's.
    pub launchers: &'static [Launcher],
    /// What it is, for people.
    pub about: &'static str,
}

impl Image {
    /// The whole command line for a container's `command` and `args`: `command` replaces entrypoint and cmd, `args`
    /// replaces cmd.
    pub fn argv(&self, command: &[String], args: &[String]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        let mut argv = if command.is_empty() { owned(self.entrypoint) } else { command.to_vec() };
        if !args.is_empty() {
            argv.extend_from_slice(args);
        } else if command.is_empty() {
            argv.extend(owned(self.cmd));
        }
        argv
    }
}

const AGNHOST: &[&str] = &[BINARY, "image", "agnhost"];
const SERVE_HOSTNAME: &[&str] = &[BINARY, "image", "serve_hostname"];
const NGINX: &[&str] = &[BINARY, "image", "nginx"];
const PAUSE: &[&str] = &[BINARY, "image", "pause"];
/// The socket is where `seaway trace` asks why a name is answered as it is.
const COREDNS: &[&str] = &[BINARY, "dns", "--explain-socket", "/run/seaway/dns.sock"];

const IMAGES: &[Image] = &[
    Image {
        name: "agnhost",
        entrypoint: AGNHOST,
        cmd: &["pause"],
        launchers: &[Launcher { path: "/agnhost", argv: AGNHOST }],
        about: "netexec, serve-hostname, connect, pause",
    },
    Image {
        name: "alpine",
        entrypoint: &[],
        cmd: &["/bin/sh"],
        launchers: &[],
        about: "the host's shell and tools",
    },
    Image {
        name: "busybox",
        entrypoint: &[],
        cmd: &["sh"],
        launchers: &[],
        about: "the host's shell and tools",
    },
    Image {
        name: "coredns",
        entrypoint: COREDNS,
        cmd: &[],
        launchers: &[Launcher { path: "/coredns", argv: COREDNS }],
        about: "seaway dns",
    },
    Image {
        name: "nginx",
        entrypoint: NGINX,
        cmd: &[],
        launchers: &[Launcher { path: "/docker-entrypoint.sh", argv: NGINX }],
        about: "a web server on port 80 with the files of /usr/share/nginx/html",
    },
    Image {
        name: "pause",
        entrypoint: PAUSE,
        cmd: &[],
        launchers: &[Launcher { path: "/pause", argv: PAUSE }],
        about: "does nothing until it is told to end",
    },
    Image {
        name: "serve_hostname",
        entrypoint: SERVE_HOSTNAME,
        cmd: &[],
        launchers: &[Launcher { path: "/serve_hostname", argv: SERVE_HOSTNAME }],
        about: "answers with the pod's name on port 9376",
    },
];

/// The program that `image` stands for; registry, repository prefix, tag and digest do not matter.
pub fn find(image: &str) -> Option<Image> {
    let name = base_name(image);
    let name = if name == "serve-hostname" { "serve_hostname" } else { name };
    IMAGES.iter().find(|known| known.name == name).copied()
}

/// Every image there is, by name.
pub fn available() -> impl Iterator<Item = Image> {
    IMAGES.iter().copied()
}

/// `registry:5000/path/name:tag@sha256:…` → `name`.
fn base_name(image: &str) -> &str {
    let without_digest = image.split('@').next().unwrap_or(image);
    let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
    last.split(':').next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whatever_surrounds_them() {
        for (image, expected) in [
            ("nginx", Some("nginx")),
            ("nginx:1.25", Some("nginx")),
            ("docker.io/library/nginx:1.25-alpine", Some("nginx")),
            ("localhost:5000/nginx", Some("nginx")),
            ("nginx@sha256:0011", Some("nginx")),
            ("mirrorgooglecontainers/serve_hostname", Some("serve_hostname")),
            ("registry.k8s.io/serve-hostname:1.4", Some("serve_hostname")),
            ("registry.k8s.io/e2e-test-images/agnhost:2.40", Some("agnhost")),
            ("registry.k8s.io/pause:3.9", Some("pause")),
            ("coredns/coredns:1.12.0", Some("coredns")),
            ("busybox", Some("busybox")),
            ("alpine:3", Some("alpine")),
            ("nginx/exporter", None),
            ("my-nginx", None),
            ("redis:7", None),
            ("", None),
        ] {
            assert_eq!(find(image).map(|found| found.name), expected, "{image}");
        }
    }

    #[test]
    fn command_and_args_replace_what_the_image_says() {
        let agnhost = find("agnhost").unwrap();
        let list = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        for (command, args, expected) in [
            (&[][..], &[][..], &[BINARY, "image", "agnhost", "pause"][..]),
            (
                &[],
                &["netexec", "--http-port=8080"],
                &[BINARY, "image", "agnhost", "netexec", "--http-port=8080"],
            ),
            (&["sleep"], &[], &["sleep"]),
            (&["sleep"], &["5"], &["sleep", "5"]),
        ] {
            assert_eq!(agnhost.argv(&list(command), &list(args)), list(expected));
        }
    }

    #[test]
    fn launchers_pass_their_arguments_on() {
        let script = find("agnhost").unwrap().launchers[0].script();
        assert_eq!(script, "#!/bin/sh\nexec /.seaway/seaway image agnhost \"$@\"\n");
    }
}

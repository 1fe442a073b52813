//! The files by which others learn of a node's pod network: flannel's `subnet.env`, the CNI configuration,
//! and the plugin itself.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use seaway_model::{NetConf, OverlayPlan};
use serde_json::json;

/// Where flannel's CNI plugin and others read a node's pod network.
pub const SUBNET_ENV: &str = "/run/flannel/subnet.env";
/// Where container runtimes read what plugin to call.
pub const CONFLIST: &str = "/etc/cni/net.d/10-seaway.conflist";
/// Where container runtimes find the plugin.
pub const PLUGIN: &str = "/opt/cni/bin/seaway";
/// Where the plugin keeps which pod has which address.
pub const IPAM_DIR: &str = "/var/lib/seaway/ipam";
/// The network's name in the CNI configuration.
pub const NETWORK_NAME: &str = "seaway";

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// The text of `subnet.env`. The subnet is written with the node's own address in it, as flannel does.
pub fn subnet_env(conf: &NetConf, plan: &OverlayPlan) -> String {
    let subnet = |v4: bool| plan.subnets.iter().find(|net| net.addr().is_ipv4() == v4);
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("FLANNEL_{name}={value}\n"));
    if let (Some(network), Some(subnet)) = (conf.network, subnet(true)) {
        line("NETWORK", network.to_string());
        line("SUBNET", first_host(subnet));
    }
    if let (Some(network), Some(subnet)) = (conf.ipv6_network, subnet(false)) {
        line("IPV6_NETWORK", network.to_string());
        line("IPV6_SUBNET", first_host(subnet));
    }
    line("MTU", plan.mtu.to_string());
    // The node's agent masquerades; a plugin that did it too would do it twice.
    line("IPMASQ", "true".to_owned());
    text
}

/// The subnet's address after its first, with the prefix.
fn first_host(subnet: &IpNet) -> String {
    let first = match subnet.network() {
        std::net::IpAddr::V4(address) => {
            std::net::IpAddr::from(u32::from(address).saturating_add(1).to_be_bytes())
        }
        std::net::IpAddr::V6(address) => {
            std::net::IpAddr::from(u128::from(address).saturating_add(1).to_be_bytes())
        }
    };
    format!("{first}/{}", subnet.prefix_len())
}

/// The text of the CNI configuration; `None` where the node has no podCIDR yet: without a file the runtime
/// waits.
pub fn conflist(plan: &OverlayPlan) -> Option<String> {
    if plan.subnets.is_empty() {
        return None;
    }
    let ranges: Vec<_> = plan.subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK_NAME,
        "plugins": [{
            "type": "seaway",
            "mtu": plan.mtu,
            "ipam": { "type": "seaway", "ranges": ranges, "dataDir": IPAM_DIR },
        }],
    });
    Some(format!("{list:#}\n"))
}

/// Replaces the file in one step, where it holds something else; `true` where it did.
pub fn write_if_different(path: &Path, contents: &[u8]) -> Result<bool, FileError> {
    if fs::read(path).is_ok_and(|current| current == contents) {
        return Ok(false);
    }
    replace(path, 0o644, |file| file.write_all(contents))
        .map_err(|source| FileError { path: path.to_owned(), source })?;
    Ok(true)
}

/// Puts this binary at [`PLUGIN`] below `root`, where it is not there already; `true` where it was put.
///
/// A file that is being executed is replaced, never written to; where `root` and the binary share a file
/// system it becomes a second name of the same file.
pub fn install_plugin(root: &Path) -> Result<bool, FileError> {
    let path = root.join(PLUGIN.trim_start_matches('/'));
    install(Path::new("/proc/self/exe"), &path).map_err(|source| FileError { path: path.clone(), source })
}

fn install(binary: &Path, path: &Path) -> io::Result<bool> {
    let wanted = fs::metadata(binary)?;
    if let Ok(current) = fs::metadata(path)
        && (same_file(&current, &wanted) || is_copy(&current, &wanted))
    {
        return Ok(false);
    }
    if let (Some(dir), Ok(named)) = (path.parent(), fs::read_link(binary)) {
        fs::create_dir_all(dir)?;
        let temporary = temporary_name(path);
        let _ = fs::remove_file(&temporary);
        if fs::hard_link(named, &temporary).is_ok() {
            return rename(&temporary, path).map(|()| true);
        }
    }
    replace(path, 0o755, |file| {
        io::copy(&mut File::open(binary)?, file)?;
        file.set_modified(wanted.modified()?)
    })?;
    Ok(true)
}

fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Copies get the time of what they were copied from, so that nobody has to read both to compare.
fn is_copy(copy: &fs::Metadata, of: &fs::Metadata) -> bool {
    copy.len() == of.len()
        && copy.modified().ok() == of.modified().ok()
        && copy.permissions().mode() & 0o111 != 0
}

/// Writes a new file beside `path` and renames it: readers see the old one or the new one, whole.
fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let temporary = temporary_name(path);
    let _ = fs::remove_file(&temporary);
    // create_new follows no link that someone else put there.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let written = write(&mut file).and_then(|()| file.sync_data());
    // Closed before the rename: a program that is still open for writing cannot be executed (ETXTBSY).
    drop(file);
    written.and_then(|()| rename(&temporary, path)).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    // Where both names were the same file already, rename leaves both (rename(2)).
    match fs::remove_file(from) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Hidden, and without an extension that container runtimes look for.
fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan(subnets: &[&str]) -> OverlayPlan {
        OverlayPlan {
            mtu: 1450,
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            devices: Vec::new(),
            routes: Vec::new(),
            neighbors: Vec::new(),
            forwards: Vec::new(),
            sysctls: BTreeMap::new(),
            annotations: BTreeMap::new(),
            unreachable: Vec::new(),
        }
    }

    fn conf(more: &str) -> NetConf {
        let text = format!(r#"{{"Network":"10.244.0.0/16",{more}"Backend":{{"Type":"vxlan"}}}}"#);
        NetConf::parse(&text).unwrap()
    }

    #[test]
    fn files_as_others_read_them() {
        let env = subnet_env(&conf(""), &plan(&["10.244.1.0/24"]));
        let lines = [
            "FLANNEL_NETWORK=10.244.0.0/16",
            "FLANNEL_SUBNET=10.244.1.1/24",
            "FLANNEL_MTU=1450",
            "FLANNEL_IPMASQ=true",
        ];
        assert_eq!(env.lines().collect::<Vec<_>>(), lines);
        let both = conf(r#""EnableIPv6":true,"IPv6Network":"fd00::/48","#);
        let env = subnet_env(&both, &plan(&["10.244.1.0/24", "fd00:0:0:1::/64"]));
        assert!(
            env.contains("FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n"),
            "{env}"
        );

        let text = conflist(&plan(&["10.244.1.0/24"])).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&json!("seaway"), &json!("seaway")));
        let mut plugin = list["plugins"][0].clone();
        (plugin["name"], plugin["cniVersion"]) = (list["name"].clone(), list["cniVersion"].clone());
        let config = crate::plugin::NetworkConfig::parse(plugin.to_string().as_bytes()).unwrap();
        assert_eq!((config.mtu, config.ipam.ranges), (Some(1450), vec!["10.244.1.0/24".parse().unwrap()]));
        assert_eq!(conflist(&plan(&[])), None);
    }

    #[test]
    fn the_last_network_of_all_has_a_first_host() {
        let last = |net: &str| first_host(&net.parse().unwrap());
        assert_eq!(last("255.255.255.255/32"), "255.255.255.255/32");
        assert_eq!(
            last("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127"
        );
    }

    #[test]
    fn files_are_written_only_if_different() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/subnet.env");
        assert!(write_if_different(&path, b"one").unwrap());
        assert!(!write_if_different(&path, b"one").unwrap());
        assert!(write_if_different(&path, b"two").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write_if_different(&path.join("below-a-file"), b"").is_err());
    }

    #[test]
    fn plugin_is_put_once_and_never_written_in_place() {
        let root = tempfile::tempdir().unwrap();
        let (binary, target) = (root.path().join("binary"), root.path().join("opt/cni/bin/seaway"));
        fs::write(&binary, "one").unwrap();
        fs::set_permissions(&binary, Permissions::from_mode(0o755)).unwrap();
        assert!(install(&binary, &target).unwrap());
        assert!(!install(&binary, &target).unwrap());
        let first = fs::metadata(&target).unwrap();
        assert_eq!(first.permissions().mode() & 0o777, 0o755);
        fs::write(&binary, "three").unwrap();
        assert!(install(&binary, &target).unwrap());
        assert_eq!(fs::read_to_string(&target).unwrap(), "three");
        assert_ne!(fs::metadata(&target).unwrap().ino(), first.ino());
        assert!(install_plugin(root.path()).unwrap());
        assert!(!install_plugin(root.path()).unwrap());
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
    }
}

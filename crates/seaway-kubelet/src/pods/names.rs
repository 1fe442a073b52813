//! A pod's hostname and the files that tell it who it is.

use k8s_openapi::api::core::v1::{HostAlias, Pod};

/// The longest name that the kernel takes (`HOST_NAME_MAX`, include/uapi/linux/utsname.h).
const MAX_HOSTNAME: usize = 63;

/// Where name lookups go: files first, then DNS, as in a container image.
pub(crate) const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n";

/// What a pod is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    /// The short name.
    pub hostname: String,
    /// `hostname.subdomain.namespace.svc.domain`, where the pod has a subdomain.
    pub fqdn: Option<String>,
    /// What the kernel says: the FQDN with setHostnameAsFQDN, else the short name.
    pub kernel: String,
}

/// The names of `pod` in a cluster of domain `domain`; hostNetwork pods have their node's.
pub(crate) fn names(pod: &Pod, domain: &str, node_hostname: &str) -> Result<Names, String> {
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network) == Some(true) {
        return Ok(Names {
            hostname: node_hostname.to_owned(),
            fqdn: None,
            kernel: node_hostname.to_owned(),
        });
    }
    let wanted = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let hostname = match wanted {
        Some(name) => name,
        None => shortened(pod.metadata.name.as_deref().unwrap_or_default()),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
    let fqdn = subdomain.map(|subdomain| format!("{hostname}.{subdomain}.{namespace}.svc.{domain}"));
    let as_fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let kernel = match &fqdn {
        Some(fqdn) if as_fqdn && fqdn.len() > 64 => {
            return Err(format!(
                "the pod's FQDN {fqdn:?} is longer than 64 characters, and setHostnameAsFQDN is set"
            ));
        }
        Some(fqdn) if as_fqdn => fqdn.clone(),
        _ => hostname.clone(),
    };
    Ok(Names { hostname, fqdn, kernel })
}

/// A pod's name as a hostname: cut to what fits, without a dash or dot at the end.
fn shortened(name: &str) -> String {
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `/etc/hosts` of a pod with its own network.
pub(crate) fn hosts_file(names: &Names, pod_ips: &[String], aliases: &[HostAlias]) -> String {
    let mut file = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in pod_ips {
        match &names.fqdn {
            Some(fqdn) => file.push_str(&format!("{ip}\t{fqdn}\t{}\n", names.hostname)),
            None => file.push_str(&format!("{ip}\t{}\n", names.hostname)),
        }
    }
    file.push_str(&alias_lines(aliases));
    file
}

/// `/etc/hosts` of a pod in its node's network: the node's own, and the aliases.
pub(crate) fn host_network_hosts_file(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut lines = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default();
        lines.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names_of(spec: serde_json::Value) -> Result<Names, String> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod = json!({"metadata": {"name": "web-0", "namespace": "shop"}, "spec": spec});
        names(&serde_json::from_value(pod).unwrap(), "cluster.local", "node-1")
    }

    #[test]
    fn hostname_subdomain_and_fqdn() {
        for (spec, hostname, fqdn, kernel) in [
            (json!({}), "web-0", None, "web-0"),
            (json!({"hostname": "db"}), "db", None, "db"),
            (
                json!({"hostname": "db", "subdomain": "sub"}),
                "db",
                Some("db.sub.shop.svc.cluster.local"),
                "db",
            ),
            (
                json!({"subdomain": "sub", "setHostnameAsFQDN": true}),
                "web-0",
                Some("web-0.sub.shop.svc.cluster.local"),
                "web-0.sub.shop.svc.cluster.local",
            ),
            (json!({"setHostnameAsFQDN": true}), "web-0", None, "web-0"),
            (json!({"hostNetwork": true, "hostname": "x"}), "node-1", None, "node-1"),
        ] {
            let names = names_of(spec.clone()).unwrap();
            assert_eq!(
                (names.hostname.as_str(), names.fqdn.as_deref(), names.kernel.as_str()),
                (hostname, fqdn, kernel),
                "{spec}"
            );
        }
        let long = "s".repeat(60);
        assert!(names_of(json!({"subdomain": long, "setHostnameAsFQDN": true})).is_err());
    }

    #[test]
    fn long_names_are_cut() {
        let name = format!("{}-.-tail", "a".repeat(61));
        assert_eq!(shortened(&name), "a".repeat(61));
    }

    #[test]
    fn hosts_has_addresses_and_aliases() {
        let names = names_of(json!({"subdomain": "sub"})).unwrap();
        let aliases: Vec<HostAlias> =
            serde_json::from_value(json!([{"ip": "192.0.2.1", "hostnames": ["a.example", "b.example"]}]))
                .unwrap();
        let file = hosts_file(&names, &["10.0.0.2".to_owned(), "fd00::2".to_owned()], &aliases);
        for line in [
            "127.0.0.1\tlocalhost",
            "10.0.0.2\tweb-0.sub.shop.svc.cluster.local\tweb-0",
            "fd00::2\tweb-0.sub.shop.svc.cluster.local\tweb-0",
            "192.0.2.1\ta.example\tb.example",
        ] {
            assert!(file.lines().any(|found| found == line), "{line}: {file}");
        }
        assert!(host_network_hosts_file("127.0.0.1\tlocalhost\n", &[]).ends_with("127.0.0.1\tlocalhost\n"));
    }
}

//! Which settings of kube-proxy's have no effect here, and why: told at the start for those that are set, so that nobody
//! relies on them.

use serde_json::Value;

use super::configuration::KubeProxyConfiguration;
use super::flags::ProxyArgs;

/// Of the settings of kube-proxy's logging.
pub(crate) const LOGGING: &str = "SEAWAY_LOG and SEAWAY_LOG_FORMAT set what is logged, and how";
const JSON: &str = "the API is read as JSON";
const FEW_REQUESTS: &str = "each kind is listed once and watched, which needs no limit";
const NO_MARKS: &str = "packets are not marked";
const NO_IPVS: &str = "IPVS is not used: nf_tables is programmed";
const WINDOWS: &str = "this is not Windows";
const UNUSED: &str = "kube-proxy has not used it either since Kubernetes 1.26";

/// A field and all below it, and why it has no effect.
pub(crate) const IDLE: &[(&str, &str)] = &[
    ("featureGates", "they are gates of kube-proxy's code"),
    ("clientConnection.acceptContentTypes", JSON),
    ("clientConnection.contentType", JSON),
    ("clientConnection.qps", FEW_REQUESTS),
    ("clientConnection.burst", FEW_REQUESTS),
    ("logging", LOGGING),
    ("enableProfiling", "there are no profiles of Go's; perf and bpftrace work on this program"),
    ("showHiddenMetricsForVersion", "no metrics are hidden"),
    ("iptables.masqueradeBit", NO_MARKS),
    ("nftables.masqueradeBit", NO_MARKS),
    (
        "iptables.localhostNodePorts",
        "node ports are not served at loopback addresses, as in kube-proxy's nftables mode",
    ),
    (
        "iptables.snatNodeInternalIP",
        "the kernel chooses the node's address by the route, as kube-proxy does by default",
    ),
    ("ipvs.scheduler", NO_IPVS),
    ("ipvs.excludeCIDRs", NO_IPVS),
    ("ipvs.strictARP", NO_IPVS),
    ("ipvs.tcpTimeout", NO_IPVS),
    ("ipvs.tcpFinTimeout", NO_IPVS),
    ("ipvs.udpTimeout", NO_IPVS),
    ("winkernel", WINDOWS),
    ("windowsRunAsService", WINDOWS),
    ("configSyncPeriod", "changes come by watches; nothing is asked anew by the clock"),
    ("portRange", UNUSED),
    ("udpIdleTimeout", UNUSED),
];

/// Why the field at `path` has no effect; `None` where it has one.
pub(crate) fn why_idle(path: &str) -> Option<&'static str> {
    let covers =
        |field: &str| path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    IDLE.iter().find(|(field, _)| covers(field)).map(|(_, why)| *why)
}

/// The fields that `configuration` sets and that have no effect, with the reason.
pub(crate) fn idle_fields(configuration: &KubeProxyConfiguration) -> Vec<(&'static str, &'static str)> {
    let json = |configuration| serde_json::to_value(configuration).unwrap_or_default();
    let (set, empty) = (json(configuration), json(&KubeProxyConfiguration::empty()));
    fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
        path.split('.').try_fold(value, |place, name| place.get(name))
    }
    let is_set = |path: &str| {
        // Go's default, written out, asks for nothing.
        let quiet = matches!(at(&set, path), Some(Value::Bool(false)))
            || QUIET.iter().any(|(field, value)| {
                *field == path && at(&set, path).and_then(Value::as_str) == Some(value)
            });
        !quiet && at(&set, path) != at(&empty, path)
    };
    IDLE.iter().copied().filter(|(path, _)| is_set(path)).collect()
}

/// Defaults that files often have written out.
const QUIET: &[(&str, &str)] =
    &[("clientConnection.contentType", "application/vnd.kubernetes.protobuf"), ("configSyncPeriod", "15m0s")];

/// The flags that were given and that have no effect, with the reason.
pub(crate) fn idle_flags(arguments: &ProxyArgs) -> Vec<(&'static str, &'static str)> {
    let why = |flag: &super::flags::Flag| {
        flag.idle.or_else(|| flag.fields.iter().find_map(|field| why_idle(field)))
    };
    arguments.given().filter_map(|flag| Some((flag.name, why(flag)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_fields_exist() {
        let empty = serde_json::to_value(KubeProxyConfiguration::empty()).unwrap();
        for (path, _) in IDLE {
            let found = path.split('.').try_fold(&empty, |place, name| place.get(name));
            assert!(found.is_some(), "{path}");
        }
        assert_eq!(why_idle("logging.verbosity"), Some(LOGGING));
        assert_eq!(why_idle("mode"), None);
        assert_eq!(why_idle("loggings"), None);
    }

    /// A line of the table in docs/services.md.
    fn documented(flag: &super::super::flags::Flag) -> String {
        let fields: Vec<String> = flag.fields.iter().map(|field| format!("`{field}`")).collect();
        let why = flag.idle.or_else(|| flag.fields.iter().find_map(|field| why_idle(field)));
        let effect = match why {
            Some(why) => format!("none: {why}"),
            None => flag.help.to_owned(),
        };
        format!("| `--{}` | {} | {} |\n", flag.name, fields.join(", "), effect.replace('|', "\\|"))
    }

    #[test]
    fn docs_tell_each_flag() {
        const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/services.md");
        let text = std::fs::read_to_string(PATH).unwrap();
        let begin = text.find("<!-- flags").unwrap();
        let begin = begin + text[begin..].find("-->\n").unwrap() + 4;
        let end = text.find("<!-- end of flags -->").unwrap();
        let rows: String = super::super::flags::FLAGS.iter().map(documented).collect();
        let table = format!("| flag | field | effect |\n| --- | --- | --- |\n{rows}");
        if std::env::var_os("SEAWAY_WRITE_DOCS").is_some() {
            let written = format!("{}{table}{}", &text[..begin], &text[end..]);
            std::fs::write(PATH, written).unwrap();
            return;
        }
        assert_eq!(text[begin..end], table, "SEAWAY_WRITE_DOCS=1 writes it anew");
    }

    #[test]
    fn only_what_is_set_is_told() {
        let mut configuration = KubeProxyConfiguration::empty();
        configuration.client_connection.content_type = "application/vnd.kubernetes.protobuf".into();
        configuration.iptables.localhost_node_ports = Some(false);
        assert_eq!(idle_fields(&configuration), []);
        configuration.iptables.localhost_node_ports = Some(true);
        configuration.ipvs.scheduler = "rr".into();
        let told: Vec<&str> = idle_fields(&configuration).iter().map(|(path, _)| *path).collect();
        assert_eq!(told, ["iptables.localhostNodePorts", "ipvs.scheduler"]);
    }
}

//! kube-proxy's command line (1.36): one table of its flags, from which the parser, the help and the documentation follow.
//!
//! A flag is a field of the configuration by another name: it sets the field, and what is wrong with its value is what
//! would be wrong in the file.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Map, Value};

use super::configuration::KubeProxyConfiguration;
use super::options::check;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Text, which durations and addresses are.
    Text,
    /// A number.
    Number,
    /// Nothing, or `=true` or `=false`.
    Switch,
    /// Texts with commas between them; may be repeated.
    List,
    /// `name=true` and `name=false` with commas between them; may be repeated.
    Gates,
}

/// A flag of kube-proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Its name, without dashes.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) takes: Takes,
    /// The fields of the configuration that it sets.
    pub(crate) fields: &'static [&'static str],
    /// What it is for.
    pub(crate) help: &'static str,
    /// Why it has no effect, where it sets no field that could say so.
    pub(crate) idle: Option<&'static str>,
}

const fn flag(name: &'static str, takes: Takes, fields: &'static [&'static str], help: &'static str) -> Flag {
    Flag { name, takes, fields, help, idle: None }
}

const fn log_flag(name: &'static str, takes: Takes) -> Flag {
    Flag { name, takes, fields: &[], help: "Of kube-proxy's logging", idle: Some(super::effects::LOGGING) }
}

use Takes::{Gates, List, Number, Switch, Text};

/// All flags, in kube-proxy's own order; those of its logging at the end.
pub(crate) const FLAGS: &[Flag] = &[
    flag(
        "config",
        Text,
        &[],
        "The configuration file; the flags that stand for its fields are not used then",
    ),
    flag(
        "write-config-to",
        Text,
        &[],
        "Write the configuration that the flags amount to into this file, and end",
    ),
    flag("cleanup", Switch, &[], "Remove what this proxy has programmed into the kernel, and end"),
    flag("feature-gates", Gates, &["featureGates"], "Feature gates of kube-proxy"),
    flag(
        "kubeconfig",
        Text,
        &["clientConnection.kubeconfig"],
        "How to reach the API server; without it, the pod's service account",
    ),
    flag("master", Text, &[], "The API server's URL, in the place of the kubeconfig's"),
    flag("kube-api-content-type", Text, &["clientConnection.contentType"], "The encoding of API requests"),
    flag("kube-api-burst", Number, &["clientConnection.burst"], "API requests in one go"),
    flag("kube-api-qps", Number, &["clientConnection.qps"], "API requests a second"),
    flag("hostname-override", Text, &[], "This node's name in the API, where it is not the host's name"),
    flag(
        "bind-address",
        Text,
        &["bindAddress"],
        "The node's primary address; an IPv6 one moves health and metrics to [::] and [::1]",
    ),
    flag(
        "healthz-bind-address",
        Text,
        &["healthzBindAddress"],
        "Where /healthz and /livez are [default: 0.0.0.0:10256]",
    ),
    flag(
        "metrics-bind-address",
        Text,
        &["metricsBindAddress"],
        "Where /metrics, /proxyMode and /configz are [default: 127.0.0.1:10249]",
    ),
    flag(
        "bind-address-hard-fail",
        Switch,
        &["bindAddressHardFail"],
        "End where one of these addresses cannot be listened on, instead of trying again",
    ),
    flag("profiling", Switch, &["enableProfiling"], "Serve /debug/pprof"),
    flag(
        "show-hidden-metrics-for-version",
        Text,
        &["showHiddenMetricsForVersion"],
        "Show metrics that this version hid",
    ),
    flag("init-only", Switch, &[], "Do what needs all privileges (connection tracking's limits), and end"),
    flag(
        "proxy-mode",
        Text,
        &["mode"],
        "nftables, iptables or ipvs; whatever is asked for, nf_tables is programmed",
    ),
    flag(
        "iptables-masquerade-bit",
        Number,
        &["iptables.masqueradeBit"],
        "The bit of packet marks that asks for masquerade",
    ),
    flag(
        "masquerade-all",
        Switch,
        &["iptables.masqueradeAll", "nftables.masqueradeAll"],
        "Masquerade all callers of cluster IPs",
    ),
    flag(
        "iptables-localhost-nodeports",
        Switch,
        &["iptables.localhostNodePorts"],
        "Serve node ports at loopback addresses",
    ),
    flag(
        "iptables-sync-period",
        Text,
        &["iptables.syncPeriod", "nftables.syncPeriod"],
        "A change that waits for twice this long makes the proxy unhealthy [default: 30s]",
    ),
    flag(
        "iptables-min-sync-period",
        Text,
        &["iptables.minSyncPeriod", "nftables.minSyncPeriod"],
        "The least time between two changes of the kernel [default: 0s]",
    ),
    flag("ipvs-sync-period", Text, &["ipvs.syncPeriod"], "As --iptables-sync-period, with --proxy-mode=ipvs"),
    flag(
        "ipvs-min-sync-period",
        Text,
        &["ipvs.minSyncPeriod"],
        "As --iptables-min-sync-period, with --proxy-mode=ipvs",
    ),
    flag("ipvs-scheduler", Text, &["ipvs.scheduler"], "IPVS's scheduler"),
    flag("ipvs-exclude-cidrs", List, &["ipvs.excludeCIDRs"], "Networks whose IPVS services are left alone"),
    flag(
        "ipvs-strict-arp",
        Switch,
        &["ipvs.strictARP"],
        "Answer ARP requests only for addresses of the link",
    ),
    flag("ipvs-tcp-timeout", Text, &["ipvs.tcpTimeout"], "IPVS's timeout of idle TCP connections"),
    flag("ipvs-tcpfin-timeout", Text, &["ipvs.tcpFinTimeout"], "IPVS's timeout of TCP connections that end"),
    flag("ipvs-udp-timeout", Text, &["ipvs.udpTimeout"], "IPVS's timeout of UDP flows"),
    flag(
        "detect-local-mode",
        Text,
        &["detectLocalMode"],
        "How pods are told from others: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
    ),
    flag(
        "pod-bridge-interface",
        Text,
        &["detectLocal.bridgeInterface"],
        "The bridge that pods are on, for BridgeInterface",
    ),
    flag(
        "pod-interface-name-prefix",
        Text,
        &["detectLocal.interfaceNamePrefix"],
        "How the names of pods' interfaces begin, for InterfaceNamePrefix",
    ),
    flag(
        "cluster-cidr",
        Text,
        &["clusterCIDR"],
        "The pods' network, or one of each IP family with a comma between them, for ClusterCIDR",
    ),
    flag(
        "nodeport-addresses",
        List,
        &["nodePortAddresses"],
        "Where node ports are: primary, or networks of the node's addresses [default: all, with --proxy-mode=nftables primary]",
    ),
    flag(
        "oom-score-adj",
        Number,
        &["oomScoreAdj"],
        "How soon the kernel ends this process where memory runs out, -1000 to 1000 [default: -999]",
    ),
    flag(
        "conntrack-max-per-core",
        Number,
        &["conntrack.maxPerCore"],
        "Tracked connections for each core [default: 32768]; 0 leaves the limit as it is",
    ),
    flag(
        "conntrack-min",
        Number,
        &["conntrack.min"],
        "The least number of tracked connections [default: 131072]",
    ),
    flag(
        "conntrack-tcp-timeout-established",
        Text,
        &["conntrack.tcpEstablishedTimeout"],
        "How long an idle TCP connection is kept [default: 24h]; 0 leaves it as it is",
    ),
    flag(
        "conntrack-tcp-timeout-close-wait",
        Text,
        &["conntrack.tcpCloseWaitTimeout"],
        "How long a TCP connection in CLOSE_WAIT is kept [default: 1h]",
    ),
    flag(
        "conntrack-tcp-be-liberal",
        Switch,
        &["conntrack.tcpBeLiberal"],
        "TCP packets out of the window are tracked all the same",
    ),
    flag(
        "conntrack-udp-timeout",
        Text,
        &["conntrack.udpTimeout"],
        "How long a UDP flow without an answer is kept",
    ),
    flag(
        "conntrack-udp-timeout-stream",
        Text,
        &["conntrack.udpStreamTimeout"],
        "How long a UDP flow with answers is kept",
    ),
    flag("config-sync-period", Text, &["configSyncPeriod"], "How often the API is asked anew"),
    flag(
        "cleanup-kube-proxy",
        Text,
        &[],
        "Whether what a kube-proxy left is removed once Services are served from here: auto or never; not kube-proxy's",
    ),
    flag(
        "run-dir",
        Text,
        &[],
        "Directory of the socket that `seaway status` asks [default: /run/seaway]; not kube-proxy's",
    ),
    flag("healthz-port", Number, &[], "The port of --healthz-bind-address; 0: none (deprecated)"),
    flag("metrics-port", Number, &[], "The port of --metrics-bind-address; 0: none (deprecated)"),
    log_flag("v", Number),
    log_flag("vmodule", Text),
    log_flag("logging-format", Text),
    log_flag("log-flush-frequency", Text),
    log_flag("log-text-info-buffer-size", Text),
    log_flag("log-text-split-stream", Switch),
    log_flag("log-json-info-buffer-size", Text),
    log_flag("log-json-split-stream", Switch),
    log_flag("add-dir-header", Switch),
    log_flag("alsologtostderr", Switch),
    log_flag("log-backtrace-at", Text),
    log_flag("log-dir", Text),
    log_flag("log-file", Text),
    log_flag("log-file-max-size", Number),
    log_flag("logtostderr", Switch),
    log_flag("one-output", Switch),
    log_flag("skip-headers", Switch),
    log_flag("skip-log-headers", Switch),
    log_flag("stderrthreshold", Text),
];

/// Options of `seaway proxy`: the flags that were given, in the table's order, with their values.
#[derive(Clone, Debug, Default)]
pub struct ProxyArgs {
    given: Vec<(&'static Flag, Vec<String>)>,
}

/// A flag whose value cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub(crate) struct FlagError {
    flag: &'static str,
    problem: String,
}

impl ProxyArgs {
    /// The flags that were given.
    pub(crate) fn given(&self) -> impl Iterator<Item = &'static Flag> {
        self.given.iter().map(|(flag, _)| *flag)
    }

    /// The value of the flag called `name`, where it was given and is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let (_, values) = self.given.iter().find(|(flag, _)| flag.name == name)?;
        values.last().map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The switch called `name` is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// The number that the flag called `name` was given.
    pub(crate) fn port(&self, name: &'static str) -> Result<Option<u16>, FlagError> {
        let problem =
            |text| FlagError { flag: name, problem: format!("{text:?} is not a port from 0 to 65535") };
        self.text(name).map(|text| text.parse().map_err(|_| problem(text))).transpose()
    }

    /// The configuration that the flags amount to.
    pub(crate) fn configuration(&self) -> Result<KubeProxyConfiguration, FlagError> {
        let mut all = serde_json::to_value(KubeProxyConfiguration::empty()).unwrap_or_default();
        for (flag, values) in &self.given {
            let problem = |problem: String| FlagError { flag: flag.name, problem };
            for field in flag.fields {
                set(&mut all, field, value(flag.takes, values).map_err(problem)?);
                let read: Result<KubeProxyConfiguration, _> = serde_json::from_value(all.clone());
                read.map_err(|error| problem(error.to_string()))?;
            }
        }
        let whole = "the flags together";
        let problem = |problem: String| FlagError { flag: whole, problem };
        let configuration: KubeProxyConfiguration =
            serde_json::from_value(all).map_err(|error| problem(error.to_string()))?;
        check(&configuration).map_err(|wrong| {
            let of_field = |flag: &&Flag| flag.fields.contains(&wrong.field.as_str());
            let flag = self.given().find(|flag| of_field(flag)).map_or(whole, |flag| flag.name);
            FlagError { flag, problem: wrong.problem }
        })?;
        Ok(configuration)
    }
}

/// The value of a field.
fn value(takes: Takes, values: &[String]) -> Result<Value, String> {
    let last = values.last().map(|text| text.trim()).unwrap_or_default();
    let items =
        || values.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty());
    match takes {
        Text => Ok(last.into()),
        Switch => Ok((last == "true").into()),
        Number => serde_json::from_str::<serde_json::Number>(last)
            .map(Value::Number)
            .map_err(|_| format!("{last:?} is not a number")),
        List => Ok(items().collect()),
        Gates => {
            let mut gates = Map::new();
            for item in items() {
                let (name, on) = item
                    .split_once('=')
                    .and_then(|(name, on)| Some((name, on.parse::<bool>().ok()?)))
                    .ok_or_else(|| format!("{item:?} is not NAME=true or NAME=false"))?;
                gates.insert(name.into(), on.into());
            }
            Ok(Value::Object(gates))
        }
    }
}

/// Sets the field at `path`.
fn set(all: &mut Value, path: &str, value: Value) {
    let mut place = all;
    for name in path.split('.') {
        place = &mut place[name];
    }
    *place = value;
}

impl clap::Args for ProxyArgs {
    fn augment_args(command: Command) -> Command {
        let command = command.args_override_self(true).after_help(
            "\
Examples:
  seaway proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=$NODE_NAME
  seaway proxy --kubeconfig=/etc/seaway/kubeconfig --cluster-cidr=10.244.0.0/16
  seaway proxy --cleanup                         # remove all that it has programmed

The flags are kube-proxy's; docs/services.md tells which of them have no effect here, and why. The proxy needs
CAP_NET_ADMIN in the node's network namespace. When it ends, by whatever signal, it leaves the kernel as it is, so that
traffic goes on; when it starts it takes over what it finds.",
        );
        command.args(FLAGS.iter().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(flag: &'static Flag) -> Arg {
    let argument = Arg::new(flag.name).long(flag.name).help(flag.help).hide(flag.idle.is_some());
    let argument = if flag.name == "v" { argument.short('v') } else { argument };
    // Empty values are kube-proxy's way to say "not set", and negative numbers are no flags.
    let argument = argument.allow_hyphen_values(flag.takes == Number);
    match flag.takes {
        Switch => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .value_parser(["true", "false"]),
        List | Gates => argument.action(ArgAction::Append).value_name("LIST"),
        Number => argument.value_name("NUMBER"),
        Text => argument.value_name("VALUE"),
    }
}

impl FromArgMatches for ProxyArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |flag: &Flag| -> Option<Vec<String>> {
            matches.get_many::<String>(flag.name).map(|values| values.cloned().collect())
        };
        Ok(Self { given: FLAGS.iter().filter_map(|flag| Some((flag, values(flag)?))).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `seaway proxy` with kube-proxy's flags, in which `_` may stand for `-`, as clap takes them.
pub fn kube_proxy_flags(arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let with_dashes = |argument: std::ffi::OsString| match argument.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            format!("{}{value}", name.replace('_', "-")).into()
        }
        _ => argument,
    };
    arguments.into_iter().map(with_dashes).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::proxy) fn parse(arguments: &[&str]) -> Result<ProxyArgs, clap::Error> {
        let arguments = std::iter::once("proxy").chain(arguments.iter().copied()).map(Into::into).collect();
        let command = <ProxyArgs as clap::Args>::augment_args(Command::new("proxy"));
        ProxyArgs::from_arg_matches(&command.try_get_matches_from(kube_proxy_flags(arguments))?)
    }

    fn configuration(arguments: &[&str]) -> Result<KubeProxyConfiguration, FlagError> {
        parse(arguments).unwrap().configuration()
    }

    #[test]
    fn the_table_is_sound() {
        <ProxyArgs as clap::Args>::augment_args(Command::new("proxy")).debug_assert();
        let empty = serde_json::to_value(KubeProxyConfiguration::empty()).unwrap();
        for flag in FLAGS {
            for field in flag.fields {
                let found = field.split('.').try_fold(&empty, |place, name| place.get(name));
                assert!(found.is_some(), "--{}: there is no field {field}", flag.name);
            }
        }
    }

    #[test]
    fn flags_are_fields() {
        let found = configuration(&[
            "--proxy-mode=ipvs",
            "--masquerade-all",
            "--cluster_cidr",
            "10.0.0.0/8",
            "--nodeport-addresses=10.0.0.0/8,192.168.0.0/16",
            "--nodeport-addresses=all",
            "--conntrack-min=5",
            "--conntrack-min=7",
            "--oom-score-adj",
            "-5",
            "--feature-gates=A=true,B=false",
            "--healthz-bind-address=",
            "--iptables-localhost-nodeports=false",
            "-v=4",
            "--logtostderr=true",
            "--kube-api-qps=1.5",
        ])
        .unwrap();
        let json = serde_json::to_value(&found).unwrap();
        for (pointer, value) in [
            ("/mode", serde_json::json!("ipvs")),
            ("/iptables/masqueradeAll", true.into()),
            ("/nftables/masqueradeAll", true.into()),
            ("/iptables/localhostNodePorts", false.into()),
            ("/clusterCIDR", "10.0.0.0/8".into()),
            ("/nodePortAddresses", serde_json::json!(["10.0.0.0/8", "192.168.0.0/16", "all"])),
            ("/conntrack/min", 7.into()),
            ("/oomScoreAdj", serde_json::json!(-5)),
            ("/featureGates", serde_json::json!({"A": true, "B": false})),
            ("/clientConnection/qps", 1.5.into()),
            ("/healthzBindAddress", "".into()),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
        }
        assert_eq!(configuration(&[]), Ok(KubeProxyConfiguration::empty()));
    }

    #[test]
    fn wrong_values_name_the_flag() {
        for (arguments, told) in [
            (&["--proxy-mode=x"][..], "--proxy-mode: \"x\" is none of the accepted modes"),
            (&["--conntrack-min=x"], "--conntrack-min: \"x\" is not a number"),
            (&["--conntrack-min=-1"], "--conntrack-min: "),
            (&["--iptables-sync-period=5"], "--iptables-sync-period: \"5\" is not a duration"),
            (&["--iptables-min-sync-period=1h"], "--iptables-min-sync-period: 1h0m0s is longer than"),
            (&["--detect-local-mode=BridgeInterface"], "--detect-local-mode: BridgeInterface needs"),
            (&["--feature-gates=A"], "--feature-gates: \"A\" is not NAME=true"),
        ] {
            let error = configuration(arguments).unwrap_err().to_string();
            assert!(error.starts_with(told), "{arguments:?}: {error}");
        }
        assert!(parse(&["--healthz-port=70000"]).unwrap().port("healthz-port").is_err());
    }

    #[test]
    fn unknown_flags_are_refused_with_the_nearest_one() {
        for (argument, nearest) in [
            ("--nodeport-address=primary", "--nodeport-addresses"),
            ("--masquerade=true", "--masquerade-all"),
            ("--ipvs-schedular=rr", "--ipvs-scheduler"),
        ] {
            let error = parse(&[argument]).unwrap_err().to_string();
            assert!(error.contains(nearest), "{argument}: {error}");
        }
        assert!(parse(&["--masquerade-all=yes"]).is_err());
        assert!(parse(&["stray"]).is_err());
    }
}

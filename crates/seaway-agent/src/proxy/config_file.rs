//! Reads a KubeProxyConfiguration, and says what is wrong with one and where.

use std::fmt;

use seaway_model::nearest;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DefaultMessageFormatter, Location, MessageFormatter, Spanned};

use super::configuration::{API_VERSION, KIND, KubeProxyConfiguration};
use super::options::check;

/// A configuration file that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    file: String,
    /// Line and column, from 1.
    at: Option<(usize, usize)>,
    message: String,
    /// The line.
    text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((line, column)) = self.at else { return write!(f, "{}: {}", self.file, self.message) };
        let margin = line.to_string().len();
        write!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
        write!(f, "\n{:margin$} |\n{line} | {}\n{:margin$} | ", "", self.text.replace('\t', " "), "")?;
        write!(f, "{:>column$}", "^")
    }
}

impl std::error::Error for ConfigError {}

/// Reads the file called `file`, whose contents are `text`: YAML or JSON.
///
/// # Errors
/// The place of what is wrong, and what is accepted there.
pub(crate) fn parse(file: &str, text: &str) -> Result<KubeProxyConfiguration, ConfigError> {
    let fail = |location: Option<Location>, message: String| {
        let place = |number: u64| usize::try_from(number).ok().filter(|number| *number > 0);
        let at = location.and_then(|at| Some((place(at.line())?, place(at.column())?)));
        let line = at.and_then(|(line, _)| text.lines().nth(line - 1)).unwrap_or_default();
        ConfigError { file: file.into(), at, message, text: line.into() }
    };
    let parsed: Result<KubeProxyConfiguration, _> = serde_saphyr::from_str(text);
    let configuration = parsed.map_err(|error| {
        let error = error.without_snippet();
        fail(error.location(), explain(error))
    })?;
    let identity = |field: &str, value: &str, wanted: &str| {
        (value != wanted).then(|| {
            let message = if value.is_empty() {
                format!("{field} is missing; it must be {wanted:?}")
            } else {
                format!("{field} is {value:?}; accepted: {wanted:?}")
            };
            fail(locate(text, field), message)
        })
    };
    let wrong = identity("apiVersion", &configuration.api_version, API_VERSION)
        .or_else(|| identity("kind", &configuration.kind, KIND));
    if let Some(error) = wrong {
        return Err(error);
    }
    check(&configuration)
        .map_err(|wrong| fail(locate(text, &wrong.field), format!("{}: {}", wrong.field, wrong.problem)))?;
    Ok(configuration)
}

/// What is wrong, without the place.
fn explain(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::SerdeUnknownField { field, expected, .. } = error {
        let accepted = expected.join(", ");
        return match nearest(field, expected.iter().copied()) {
            Some(name) => format!("unknown field {field:?}; did you mean {name:?}? Accepted: {accepted}"),
            None => format!("unknown field {field:?}; accepted: {accepted}"),
        };
    }
    DefaultMessageFormatter.format_message(error).into_owned()
}

/// Where the value of `path` (names with dots between them) stands.
fn locate(text: &str, path: &str) -> Option<Location> {
    let mut tree: Tree = serde_saphyr::from_str(text).ok()?;
    let mut found = None;
    for name in path.split('.') {
        let Tree::Map(entries) = tree else { return None };
        let (_, value) = entries.into_iter().find(|(key, _)| key == name)?;
        found = Some(value.referenced);
        tree = value.value;
    }
    found
}

/// A document reduced to where its fields stand.
enum Tree {
    Map(Vec<(String, Spanned<Tree>)>),
    Other,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Tree::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubeadm writes, zero values and all.
    pub(crate) const KUBEADM: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: \"\"
  burst: 0
  contentType: \"\"
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
enableProfiling: false
healthzBindAddress: \"\"
hostnameOverride: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: \"\"
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
    text:
      infoBufferSize: \"0\"
  verbosity: 0
metricsBindAddress: \"\"
mode: \"\"
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: \"\"
showHiddenMetricsForVersion: \"\"
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: \"\"
  rootHnsEndpointName: \"\"
  sourceVip: \"\"
";

    #[test]
    fn kubeadms_file_is_read() {
        let configuration = parse("config.conf", KUBEADM).unwrap();
        assert_eq!(configuration.client_connection.kubeconfig, "/var/lib/kube-proxy/kubeconfig.conf");
        assert_eq!(configuration.cluster_cidr.to_string(), "10.244.0.0/16");
        let json = serde_json::to_string(&configuration).unwrap();
        assert_eq!(parse("the same as JSON", &json), Ok(configuration));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let head = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
        for (text, at, part) in [
            ("mod: nftables\n", (3, 1), "did you mean \"mode\"?"),
            ("mode: iptable\n", (3, 7), "nftables, iptables, ipvs"),
            ("iptables:\n  syncperiod: 30s\n", (4, 3), "did you mean \"syncPeriod\"?"),
            ("iptables:\n  minSyncPeriod: 40s\n", (4, 18), "longer than syncPeriod"),
            ("conntrack: {maxPerCore: -1}\n", (3, 25), ""),
            ("conntrack:\n  tcpEstablishedTimeout: 24\n", (4, 26), "not a duration"),
            ("healthzBindAddress: localhost:10256\n", (3, 21), "not an IP address"),
            ("nodePortAddresses:\n- 10.0.0.0/8\n- second\n", (5, 3), "primary, all, localhost"),
            ("nodePortAddresses: [primary, 10.0.0.0/8]\n", (3, 20), "primary stands alone"),
            ("detectLocalMode: BridgeInterface\n", (3, 18), "detectLocal.bridgeInterface"),
            ("oomScoreAdj: 2000\n", (3, 14), "-1000 to 1000"),
            ("iptables: {masqueradeBit: 32}\n", (3, 27), "0 to 31"),
            ("mode: [\n", (3, 7), ""),
        ] {
            let error = parse("f.yaml", &format!("{head}{text}")).unwrap_err();
            assert_eq!(error.at, Some(at), "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(error.to_string().starts_with(&format!("f.yaml:{}:{}: ", at.0, at.1)), "{error}");
        }
        for (text, part) in [
            ("kind: KubeProxyConfiguration\n", "apiVersion is missing"),
            (
                "apiVersion: v1\nkind: KubeProxyConfiguration\n",
                "f.yaml:1:13: apiVersion is \"v1\"; accepted:",
            ),
        ] {
            let error = parse("f.yaml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

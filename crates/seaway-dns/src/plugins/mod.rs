//! The plugins, and which of CoreDNS's there are.

pub(crate) mod cache;
pub(crate) mod errors;
pub(crate) mod health;
pub(crate) mod hosts;
pub(crate) mod loadbalance;
pub(crate) mod log;
pub(crate) mod loop_detection;
pub(crate) mod reload;
pub(crate) mod whoami;

use crate::corefile::{CorefileError, Directive, Word};
use crate::name::ZoneName;

/// The plugins that this server has, in CoreDNS's order (its plugin.cfg), which is the order of the chain whatever the
/// Corefile's.
pub(crate) const BUILT: [&str; 15] = [
    "reload",
    "bind",
    "ready",
    "health",
    "prometheus",
    "errors",
    "log",
    "loadbalance",
    "cache",
    "hosts",
    "kubernetes",
    "loop",
    "forward",
    "whoami",
    "import",
];

/// The plugins that CoreDNS has and this server does not have yet.
const NOT_BUILT: [&str; 43] = [
    "root",
    "metadata",
    "geoip",
    "cancel",
    "tls",
    "quic",
    "timeouts",
    "multisocket",
    "nsid",
    "bufsize",
    "debug",
    "trace",
    "pprof",
    "dnstap",
    "local",
    "dns64",
    "any",
    "chaos",
    "tsig",
    "rewrite",
    "acl",
    "header",
    "dnssec",
    "autopath",
    "minimal",
    "template",
    "transfer",
    "route53",
    "azure",
    "clouddns",
    "k8s_external",
    "file",
    "auto",
    "secondary",
    "etcd",
    "grpc",
    "erratic",
    "on",
    "sign",
    "view",
    "nomad",
    "grpc_server",
    "https",
];

/// The error for a plugin that is not there: not yet, or not known at all.
pub(crate) fn no_such_plugin(name: &Word) -> CorefileError {
    if name.text == "debug" {
        return CorefileError::at(name, "the plugin `debug` is not supported")
            .help("remove it; with SEAWAY_LOG=debug in its environment the server says more");
    }
    if NOT_BUILT.contains(&name.text.as_str()) {
        return CorefileError::at(name, format!("the plugin `{}` is not supported yet", name.text))
            .help("remove it, or keep CoreDNS for this server block");
    }
    CorefileError::unknown(name, "plugin", BUILT)
}

/// Which names that a plugin does not have go on to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallthrough {
    /// None: the plugin answers that the name does not exist.
    #[default]
    Never,
    /// All.
    Always,
    /// Those in these zones.
    Zones(Vec<ZoneName>),
}

impl Fallthrough {
    /// Reads `fallthrough [ZONES…]`.
    pub(crate) fn parse(property: &Directive) -> Result<Self, CorefileError> {
        property.no_block()?;
        Ok(match &property.zones()?[..] {
            [] => Self::Always,
            zones => Self::Zones(zones.to_vec()),
        })
    }

    /// Whether `name`, in lower case, goes on.
    pub(crate) fn applies_to(&self, name: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Zones(zones) => zones.iter().any(|zone| zone.contains(name)),
        }
    }
}

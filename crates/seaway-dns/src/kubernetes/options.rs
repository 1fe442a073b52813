//! The `kubernetes` directive.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::corefile::args::zones;
use crate::corefile::{CorefileError, Directive};
use crate::name::ZoneName;
use crate::plugins::Fallthrough;

/// Which names below `pod.<zone>` exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// None.
    #[default]
    Disabled,
    /// Any address, in any namespace there is.
    Insecure,
    /// The addresses of the namespace's pods.
    Verified,
}

/// The directive's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The zones, reverse ones too.
    pub zones: Vec<ZoneName>,
    /// Names of pods.
    pub pods: PodMode,
    /// Seconds that answers may be kept.
    pub ttl: u32,
    /// An endpoint without hostname goes by its pod's name.
    pub endpoint_pod_names: bool,
    /// Only these namespaces; empty: all.
    pub namespaces: BTreeSet<String>,
    /// Answer nothing that needs endpoints.
    pub no_endpoints: bool,
    /// A Service without ready endpoints does not exist.
    pub ignore_empty_service: bool,
    /// Which names that do not exist go on to the next plugin.
    pub fallthrough: Fallthrough,
    /// The kubeconfig file; the pod's service account without one.
    pub kubeconfig: Option<String>,
    /// The API server's URL.
    pub endpoint: Option<String>,
    /// How long the start waits for the first lists.
    pub startup_timeout: Duration,
}

const PROPERTIES: [&str; 10] = [
    "endpoint",
    "kubeconfig",
    "namespaces",
    "pods",
    "endpoint_pod_names",
    "ttl",
    "noendpoints",
    "fallthrough",
    "ignore",
    "startup_timeout",
];

impl Default for Options {
    fn default() -> Self {
        Self {
            zones: Vec::new(),
            pods: PodMode::default(),
            ttl: 5,
            endpoint_pod_names: false,
            namespaces: BTreeSet::new(),
            no_endpoints: false,
            ignore_empty_service: false,
            fallthrough: Fallthrough::default(),
            kubeconfig: None,
            endpoint: None,
            startup_timeout: Duration::from_secs(5),
        }
    }
}

impl Options {
    /// Reads the directive; without zones it serves `block_zones`.
    pub(crate) fn parse(directive: &Directive, block_zones: &[ZoneName]) -> Result<Self, CorefileError> {
        let mut options = Self { zones: zones(&directive.args)?, ..Self::default() };
        if options.zones.is_empty() {
            options.zones = block_zones.to_vec();
        }
        if options.zones.iter().all(ZoneName::is_reverse) {
            return Err(CorefileError::at(
                &directive.name,
                "`kubernetes` needs a zone that is not a reverse zone",
            )
            .help("such as `kubernetes cluster.local in-addr.arpa ip6.arpa`"));
        }
        for property in &directive.block {
            options.property(directive, property)?;
        }
        Ok(options)
    }

    fn property(&mut self, directive: &Directive, property: &Directive) -> Result<(), CorefileError> {
        if property.name.text != "fallthrough" {
            property.no_block()?;
        }
        match property.name.text.as_str() {
            "pods" => {
                self.pods = property.one("a mode: disabled, insecure or verified")?.choice(
                    "mode of pods",
                    &[
                        ("disabled", PodMode::Disabled),
                        ("insecure", PodMode::Insecure),
                        ("verified", PodMode::Verified),
                    ],
                )?;
            }
            "ttl" => self.ttl = property.one("a number of seconds")?.number(0, 3600)?,
            "endpoint_pod_names" => {
                property.no_args()?;
                self.endpoint_pod_names = true;
            }
            "namespaces" => {
                let names = property.at_least_one("namespaces")?;
                self.namespaces.extend(names.iter().map(|word| word.text.clone()));
            }
            "noendpoints" => {
                property.no_args()?;
                self.no_endpoints = true;
            }
            "ignore" => {
                property
                    .one("what to ignore: empty_service")?
                    .choice("thing to ignore", &[("empty_service", ())])?;
                self.ignore_empty_service = true;
            }
            "fallthrough" => self.fallthrough = Fallthrough::parse(property)?,
            "kubeconfig" => {
                let args = property.at_least_one("a file")?;
                if let Some(context) = args.get(1) {
                    return Err(CorefileError::at(context, "a kubeconfig context is not supported yet")
                        .help("set current-context in the file"));
                }
                self.kubeconfig = Some(args[0].text.clone());
            }
            "endpoint" => {
                let url = property.one("the API server's URL")?;
                if !url.text.starts_with("http://") && !url.text.starts_with("https://") {
                    return Err(CorefileError::at(
                        url,
                        format!("`{}` is no http:// or https:// URL", url.text),
                    ));
                }
                self.endpoint = Some(url.text.clone());
            }
            "startup_timeout" => self.startup_timeout = property.one("a duration")?.duration()?,
            // CoreDNS ignores it since 1.7: external names are looked up by the server itself.
            "upstream" => {}
            "tls" | "namespace_labels" | "labels" => return Err(directive.unsupported(property)),
            _ => return Err(directive.unknown_property(property, &PROPERTIES)),
        }
        Ok(())
    }

    /// The first zone that is not a reverse zone: PTR records point into it.
    pub fn primary_zone(&self) -> Option<&ZoneName> {
        self.zones.iter().find(|zone| !zone.is_reverse())
    }
}

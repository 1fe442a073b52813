//! `seaway proxy`: kube-proxy's command line and configuration file, and the service proxy alone.

mod cleanup;
mod config_file;
mod configuration;
mod conntrack;
mod effects;
mod flags;
mod options;
mod run;
mod values;

pub(crate) use configuration::KubeProxyConfiguration;
pub use flags::{ProxyArgs, kube_proxy_flags};
pub(crate) use options::Options;
pub(crate) use run::read;
pub use run::run_proxy;
pub(crate) use values::Mode;

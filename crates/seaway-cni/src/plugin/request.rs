//! What a container runtime asks: its environment and the configuration, checked.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{CniError, Code};
use crate::files::IPAM_DIR;

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// 0.3.1
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// 0.4.0
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// 1.0.0
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// 1.1.0
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// All that the plugin speaks.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest of them.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version of this name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0.3.1" => Some(Self::V0_3_1),
            "0.4.0" => Some(Self::V0_4_0),
            "1.0.0" => Some(Self::V1_0_0),
            "1.1.0" => Some(Self::V1_1_0),
            _ => None,
        }
    }
}

/// The plugin's configuration.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The version to answer in.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// The pods' MTU in bytes; `None` for the kernel's default.
    pub mtu: Option<u32>,
    /// Where addresses come from.
    pub ipam: Ipam,
}

/// Where addresses come from.
#[derive(Clone, Debug)]
pub struct Ipam {
    /// The ranges, one a family at most.
    pub ranges: Vec<IpNet>,
    /// Where it is kept which are taken.
    pub data_dir: PathBuf,
}

/// A call, checked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; may be absent in DEL.
    pub netns: Option<String>,
    /// The configuration.
    pub config: NetworkConfig,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(rename = "cniVersion", default)]
    version: String,
    #[serde(default)]
    name: String,
    mtu: Option<u32>,
    #[serde(default)]
    ipam: RawIpam,
}

/// As `host-local` has it, or with the Node's `podCIDRs` as they are.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIpam {
    #[serde(default)]
    ranges: Vec<Vec<RawRange>>,
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Vec<String>,
    data_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct RawRange {
    subnet: String,
}

impl Request {
    /// Reads a call of ADD or DEL.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, config: &[u8]) -> Result<Self, CniError> {
        let wrong =
            |name: &str, problem: String| CniError::new(Code::Environment, format!("{name}{problem}"));
        let needed = |name: &str| variable(name).ok_or_else(|| wrong(name, " is not set".to_owned()));
        let container = needed("CNI_CONTAINERID")?;
        if !is_identifier(&container) {
            let problem =
                format!(" {container:?}: expected a letter or digit, then letters, digits, '_', '.' and '-'");
            return Err(wrong("CNI_CONTAINERID", problem));
        }
        let ifname = needed("CNI_IFNAME")?;
        if !is_interface_name(&ifname) {
            let problem =
                format!(" {ifname:?}: expected 1 to 15 characters without '/', ':' and white space");
            return Err(wrong("CNI_IFNAME", problem));
        }
        let netns = variable("CNI_NETNS");
        if variable("CNI_COMMAND").as_deref() == Some("ADD") && netns.is_none() {
            return Err(wrong("CNI_NETNS", " is not set".to_owned()));
        }
        Ok(Self { container, ifname, netns, config: NetworkConfig::parse(config)? })
    }
}

impl NetworkConfig {
    /// Reads the configuration.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let raw: RawConfig = serde_json::from_slice(text).map_err(|error| {
            CniError::new(Code::Decode, format!("the configuration cannot be read: {error}"))
        })?;
        let wrong = |problem: String| CniError::new(Code::Config, problem);
        let version = Version::parse(&raw.version).ok_or_else(|| {
            let text = format!("cniVersion {:?}: expected one of 0.3.1, 0.4.0, 1.0.0, 1.1.0", raw.version);
            CniError::new(Code::Version, text)
        })?;
        if !is_identifier(&raw.name) {
            return Err(wrong(format!("name {:?}: expected letters, digits, '_', '.' and '-'", raw.name)));
        }
        // The kernel's limits for a veth (linux/if_ether.h, ETH_MIN_MTU and ETH_MAX_MTU).
        if let Some(mtu) = raw.mtu.filter(|mtu| !(68..=65_535).contains(mtu)) {
            return Err(wrong(format!("mtu {mtu}: expected 68 to 65535 bytes")));
        }
        let mut ranges = Vec::new();
        let nested = raw.ipam.ranges.iter().enumerate().flat_map(|(i, set)| {
            set.iter()
                .enumerate()
                .map(move |(j, range)| (format!("ipam.ranges[{i}][{j}].subnet"), range.subnet.as_str()))
        });
        let flat = raw
            .ipam
            .pod_cidrs
            .iter()
            .enumerate()
            .map(|(i, text)| (format!("ipam.podCIDRs[{i}]"), text.as_str()));
        for (field, text) in nested.chain(flat) {
            let net = text.parse::<IpNet>().map_err(|_| {
                wrong(format!("{field} {text:?}: expected an address range such as 10.244.1.0/24"))
            })?;
            if ranges.iter().any(|other: &IpNet| other.addr().is_ipv4() == net.addr().is_ipv4()) {
                return Err(wrong(format!(
                    "{field} {text}: a pod gets one address a family; give one range of each"
                )));
            }
            ranges.push(net.trunc());
        }
        if ranges.is_empty() {
            return Err(wrong(
                "ipam.ranges: at least one range is needed, such as [[{\"subnet\":\"10.244.1.0/24\"}]]"
                    .to_owned(),
            ));
        }
        let data_dir = raw.ipam.data_dir.unwrap_or_else(|| PathBuf::from(IPAM_DIR));
        Ok(Self { version, name: raw.name, mtu: raw.mtu, ipam: Ipam { ranges, data_dir } })
    }
}

/// The specification's pattern of container ids and network names; also safe as a file name.
fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && text.len() <= 255
}

/// As the kernel has it (`dev_valid_name`, net/core/dev.c).
fn is_interface_name(text: &str) -> bool {
    (1..16).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':') || byte.is_ascii_whitespace() || byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"cniVersion":"1.0.0","name":"n","type":"seaway","mtu":1450,
        "ipam":{"ranges":[[{"subnet":"10.244.1.7/24"}],[{"subnet":"fd00:1::/64"}]],"dataDir":"/tmp/d"},
        "prevResult":{},"runtimeConfig":{}}"#;

    fn parse(environment: &[(&str, &str)], config: &str) -> Result<Request, CniError> {
        let find = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Request::parse(find, config.as_bytes())
    }

    #[test]
    fn good_request() {
        let environment = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "a.b-c_9"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/n"),
        ];
        let request = parse(&environment, GOOD).unwrap();
        let config = request.config;
        assert_eq!((config.version, config.name.as_str(), config.mtu), (Version::V1_0_0, "n", Some(1450)));
        assert_eq!(
            config.ipam.ranges,
            ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse::<IpNet>().unwrap()]
        );
        assert_eq!(config.ipam.data_dir, PathBuf::from("/tmp/d"));
        let flat = GOOD.replace(
            r#""ranges":[[{"subnet":"10.244.1.7/24"}],[{"subnet":"fd00:1::/64"}]]"#,
            r#""podCIDRs":["10.9.0.0/24"]"#,
        );
        assert_eq!(parse(&environment, &flat).unwrap().config.ipam.ranges, ["10.9.0.0/24".parse().unwrap()]);
    }

    #[test]
    fn bad_requests() {
        let good =
            [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/n")];
        let with = |name, value| {
            let mut changed = good;
            changed.iter_mut().find(|(key, _)| *key == name).unwrap().1 = value;
            changed
        };
        let bad_names: [(_, &str); 5] = [
            (with("CNI_CONTAINERID", "../x"), "CNI_CONTAINERID \"../x\": expected a letter or digit"),
            (with("CNI_IFNAME", "a-name-too-long-"), "CNI_IFNAME \"a-name-too-long-\": expected 1 to 15"),
            (with("CNI_IFNAME", "a/b"), "CNI_IFNAME \"a/b\""),
            (with("CNI_IFNAME", ".."), "CNI_IFNAME \"..\""),
            (with("CNI_IFNAME", "a b"), "CNI_IFNAME \"a b\""),
        ];
        for (environment, message) in bad_names {
            let error = parse(&environment, GOOD).unwrap_err();
            assert_eq!(error.code, Code::Environment);
            assert!(error.message.starts_with(message), "{error}");
        }
        assert_eq!(parse(&good[..3], GOOD).unwrap_err().message, "CNI_NETNS is not set");
        assert_eq!(parse(&good[..1], GOOD).unwrap_err().message, "CNI_CONTAINERID is not set");
        for (from, to, code, message) in [
            ("\"mtu\":1450", "\"mtu\":-1", Code::Decode, "the configuration cannot be read: invalid value"),
            ("1.0.0", "0.2.0", Code::Version, "cniVersion \"0.2.0\": expected one of"),
            ("\"n\"", "\"../n\"", Code::Config, "name \"../n\": expected letters"),
            ("1450", "10", Code::Config, "mtu 10: expected 68 to 65535 bytes"),
            (
                "10.244.1.7/24",
                "10.244.1.7",
                Code::Config,
                "ipam.ranges[0][0].subnet \"10.244.1.7\": expected",
            ),
            (
                "fd00:1::/64",
                "10.0.0.0/8",
                Code::Config,
                "ipam.ranges[1][0].subnet 10.0.0.0/8: a pod gets one",
            ),
            ("\"ranges\"", "\"none\"", Code::Config, "ipam.ranges: at least one range is needed"),
        ] {
            let error = parse(&good, &GOOD.replace(from, to)).unwrap_err();
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.starts_with(message), "{error}");
        }
    }

    proptest! {
        /// A good configuration with a piece of it replaced by anything.
        #[test]
        fn any_configuration_is_read_without_panic(from in 0..GOOD.len(), length in 0..40_usize, text in "\\PC{0,20}") {
            let to = (from + length).min(GOOD.len());
            let config = format!("{}{text}{}", &GOOD[..from], &GOOD[to..]);
            if let Ok(config) = NetworkConfig::parse(config.as_bytes()) {
                prop_assert!((1..=2).contains(&config.ipam.ranges.len()));
            }
        }

        #[test]
        fn any_environment_is_read_without_panic(container in ".{0,20}", ifname in ".{0,20}") {
            let environment = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", &container), ("CNI_IFNAME", &ifname)];
            if let Ok(request) = parse(&environment, GOOD) {
                prop_assert!(!request.container.contains('/') && request.ifname.len() < 16);
            }
        }
    }
}

//! The IP families of a Service, as kube-apiserver settles them (KEP-563).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::FieldError;
use crate::value::{list, text};

/// The family of an address, as the API calls it.
#[must_use]
pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Settles `ipFamilyPolicy` and `ipFamilies` of a Service that is created, or changed from `old`, in a cluster that has addresses of the
/// families `cluster`, the first one being the default. Addresses that are no longer asked for are taken out of `clusterIPs`; none are added.
pub fn settle(service: &mut Value, old: Option<&Value>, cluster: &[&'static str]) -> Vec<FieldError> {
    let old = old.map(Facts::of);
    let mut new = Facts::of(service);
    if new.external_name || old.as_ref().is_some_and(|old| new.repeats(old)) {
        return Vec::new();
    }
    let errors = new.settle(old.as_ref(), cluster);
    if errors.is_empty()
        && let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("ipFamilyPolicy".to_owned(), new.policy.into());
        spec.insert("ipFamilies".to_owned(), json!(new.families));
        if !new.ips.is_empty() {
            spec.insert("clusterIPs".to_owned(), json!(new.ips));
        }
    }
    errors
}

/// What of a Service says which families it has.
struct Facts {
    external_name: bool,
    headless: bool,
    has_selector: bool,
    /// Empty where it is not given.
    policy: String,
    families: Vec<String>,
    ips: Vec<String>,
}

impl Facts {
    fn of(service: &Value) -> Facts {
        let texts = |pointer: &str| {
            list(service, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        Facts {
            external_name: text(service, "/spec/type") == "ExternalName",
            headless: text(service, "/spec/clusterIP") == "None",
            has_selector: service
                .pointer("/spec/selector")
                .and_then(Value::as_object)
                .is_some_and(|s| !s.is_empty()),
            policy: text(service, "/spec/ipFamilyPolicy").to_owned(),
            families: texts("/spec/ipFamilies"),
            ips: texts("/spec/clusterIPs"),
        }
    }

    /// A Service that prefers two stacks gains or loses none because the cluster did: only if it is changed itself.
    fn repeats(&self, old: &Facts) -> bool {
        let prefers = |facts: &Facts| facts.policy == "PreferDualStack";
        prefers(self)
            && prefers(old)
            && !old.external_name
            && self.families == old.families
            && self.ips == old.ips
    }

    fn single(&self) -> bool {
        self.policy == "SingleStack"
    }

    fn invalid_policy(&self, detail: &str) -> FieldError {
        FieldError::invalid("spec.ipFamilyPolicy", self.policy.as_str(), detail)
    }

    fn settle(&mut self, old: Option<&Facts>, cluster: &[&'static str]) -> Vec<FieldError> {
        if self.policy.is_empty() {
            self.policy = match old.map(|old| old.policy.as_str()) {
                Some(policy) if !policy.is_empty() => policy,
                // Its addresses are somebody else's, who may have both.
                _ if self.headless && !self.has_selector => "RequireDualStack",
                _ => "SingleStack",
            }
            .to_owned();
        }
        let mut errors = Vec::new();
        if let Some(old) = old {
            self.give_up_second(old, &mut errors);
        }
        for (several, what) in [(self.ips.len() > 1, "cluster IPs"), (self.families.len() > 1, "IP families")]
        {
            if several && self.single() {
                errors.push(self.invalid_policy(&format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                )));
            }
        }
        if !self.headless {
            self.follow_addresses(cluster, &mut errors);
        }
        if errors.is_empty() {
            self.complete(cluster, &mut errors);
        }
        errors
    }

    /// `SingleStack` alone gives the second address up; leaving the address out alone does not.
    fn give_up_second(&mut self, old: &Facts, errors: &mut Vec<FieldError>) {
        if self.single() {
            if self.ips == old.ips {
                self.ips.truncate(1);
            }
            if self.families == old.families {
                self.families.truncate(1);
            }
            return;
        }
        let reduced = |new: &[String], old: &[String]| !new.is_empty() && new.len() < old.len();
        if reduced(&self.ips, &old.ips) && !self.headless {
            errors.push(self.invalid_policy("must be 'SingleStack' to release the secondary cluster IP"));
        }
        if reduced(&self.families, &old.families) {
            errors.push(self.invalid_policy("must be 'SingleStack' to release the secondary IP family"));
        }
    }

    /// Addresses that are named say their families.
    fn follow_addresses(&mut self, cluster: &[&'static str], errors: &mut Vec<FieldError>) {
        for (at, ip) in self.ips.iter().enumerate().skip(self.families.len()) {
            let Ok(ip) = ip.parse::<IpAddr>() else { continue };
            let family = family_of(ip);
            if cluster.contains(&family) {
                self.families.push(family.to_owned());
            } else {
                let detail = format!("{family} is not configured on this cluster");
                errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), json!(self.ips), detail));
            }
        }
    }

    fn complete(&mut self, cluster: &[&'static str], errors: &mut Vec<FieldError>) {
        let free_choice = self.headless && !self.has_selector;
        if !free_choice {
            if self.policy == "RequireDualStack" && cluster.len() < 2 {
                errors.push(self.invalid_policy("this cluster is not configured for dual-stack services"));
            }
            for (at, family) in self.families.iter().enumerate() {
                if !cluster.contains(&family.as_str()) {
                    let field = format!("spec.ipFamilies[{at}]");
                    errors.push(FieldError::invalid(
                        field,
                        family.as_str(),
                        "not configured on this cluster",
                    ));
                }
            }
        }
        if self.families.is_empty() {
            self.families.extend(cluster.first().map(|family| (*family).to_owned()));
        }
        if !self.single() && self.families.len() == 1 && (free_choice || cluster.len() > 1) {
            let other = if self.families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            self.families.push(other.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `policy families ips`, or the error's start.
    fn settled(spec: Value, old: Option<Value>, cluster: &[&'static str]) -> String {
        let mut service = json!({ "spec": spec });
        let old = old.map(|spec| json!({ "spec": spec }));
        let errors = settle(&mut service, old.as_ref(), cluster);
        if let Some(error) = errors.first() {
            return error.to_string();
        }
        let spec = &service["spec"];
        let texts = |key: &str| {
            let all: Vec<&str> = list(spec, key).iter().filter_map(Value::as_str).collect();
            all.join(",")
        };
        format!("{} {} {}", text(spec, "/ipFamilyPolicy"), texts("/ipFamilies"), texts("/clusterIPs"))
    }

    const V4: &[&str] = &["IPv4"];
    const V6: &[&str] = &["IPv6"];
    const BOTH: &[&str] = &["IPv4", "IPv6"];
    const SIX_FIRST: &[&str] = &["IPv6", "IPv4"];

    #[test]
    fn new_services() {
        let selector = json!({"a": "b"});
        for (spec, cluster, expected) in [
            (json!({}), V4, "SingleStack IPv4 "),
            (json!({}), V6, "SingleStack IPv6 "),
            (json!({}), SIX_FIRST, "SingleStack IPv6 "),
            (json!({"ipFamilies": ["IPv6"]}), BOTH, "SingleStack IPv6 "),
            (
                json!({"ipFamilies": ["IPv6"]}),
                V4,
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured",
            ),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), V4, "PreferDualStack IPv4 "),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), BOTH, "PreferDualStack IPv4,IPv6 "),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}),
                BOTH,
                "PreferDualStack IPv6,IPv4 ",
            ),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), SIX_FIRST, "RequireDualStack IPv6,IPv4 "),
            (
                json!({"ipFamilyPolicy": "RequireDualStack"}),
                V6,
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                BOTH,
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be",
            ),
            (json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}), BOTH, "SingleStack IPv6 fd00::1"),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                V4,
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured",
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["fd00::1"]}),
                BOTH,
                "PreferDualStack IPv6,IPv4 fd00::1",
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector}),
                BOTH,
                "SingleStack IPv4 None",
            ),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), V4, "RequireDualStack IPv4,IPv6 None"),
            (json!({"type": "ExternalName"}), BOTH, "  "),
        ] {
            let seen = settled(spec.clone(), None, cluster);
            assert!(
                seen == expected || (expected.contains(':') && seen.starts_with(expected)),
                "{spec}: {seen}"
            );
        }
    }

    #[test]
    fn changes() {
        let single =
            || json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.1"]});
        let dual = |policy: &str| json!({"ipFamilyPolicy": policy, "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]});
        for (spec, old, cluster, expected) in [
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.1"]}),
                single(),
                BOTH,
                "PreferDualStack IPv4,IPv6 10.96.0.1",
            ),
            (
                json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"]}),
                dual("RequireDualStack"),
                BOTH,
                "SingleStack IPv4 10.96.0.1",
            ),
            (
                json!({"ipFamilies": ["IPv4"], "clusterIPs": ["10.96.0.1"]}),
                dual("PreferDualStack"),
                BOTH,
                "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary cluster IP",
            ),
            // The cluster has lost a family; the Service keeps what it has.
            (
                dual("PreferDualStack"),
                dual("PreferDualStack"),
                V4,
                "PreferDualStack IPv4,IPv6 10.96.0.1,fd00::1",
            ),
            (
                json!({"clusterIPs": ["10.96.0.1", "fd00::1"]}),
                dual("PreferDualStack"),
                BOTH,
                "PreferDualStack IPv4,IPv6 10.96.0.1,fd00::1",
            ),
            (json!({}), json!({"type": "ExternalName"}), BOTH, "SingleStack IPv4 "),
        ] {
            let seen = settled(spec.clone(), Some(old), cluster);
            assert!(seen == expected, "{spec}: {seen}");
        }
    }
}

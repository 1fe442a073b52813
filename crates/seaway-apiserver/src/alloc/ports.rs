//! Node ports of Services: those that they serve on, and the one at which a node says whether it has endpoints.

use std::collections::HashMap;

use seaway_apis::FieldError;
use serde_json::Value;

use super::pick;
use crate::NodePorts;
use crate::app::text;

/// Which ports a Service needs and has.
pub(super) struct PortAllocator<'a> {
    pub(super) range: NodePorts,
    /// With the keys of the Services that have them. A port is one Service's for all protocols.
    pub(super) taken: &'a HashMap<u16, String>,
    /// The Service's own key.
    pub(super) key: &'a str,
    /// What it was before.
    pub(super) old: Option<&'a Value>,
}

impl PortAllocator<'_> {
    /// Gives the Service what its type needs and it does not name, and checks what it names.
    pub(super) fn assign(&self, service: &mut Value, errors: &mut Vec<FieldError>) {
        let kind = text(service, &["spec", "type"]);
        let balanced = kind == "LoadBalancer";
        let wanted = kind == "NodePort"
            || (balanced && service["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false));
        let own_health = balanced && service["spec"]["externalTrafficPolicy"] == "Local";
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
        let ports =
            spec.get_mut("ports").and_then(Value::as_array_mut).map_or(&mut [][..], Vec::as_mut_slice);
        // What is asked for by number comes first, so that none of it is given away here.
        let mut mine: Vec<u16> = ports.iter().filter_map(node_port).collect();
        for at in 0..ports.len() {
            match self.port_of(ports, at, wanted, &mine) {
                Ok(None) => {}
                Ok(Some(number)) => {
                    mine.push(number);
                    if let Some(port) = ports.get_mut(at).and_then(Value::as_object_mut) {
                        port.insert("nodePort".to_owned(), number.into());
                    }
                }
                Err((number, detail)) => {
                    errors.push(FieldError::invalid(format!("spec.ports[{at}].nodePort"), number, detail));
                }
            }
        }
        if own_health {
            let asked = spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0);
            let found = if asked == 0 {
                self.free(&mine).map_err(|e| (0, e))
            } else {
                self.check_health(asked, &mine)
            };
            match found {
                Ok(port) => drop(spec.insert("healthCheckNodePort".to_owned(), port.into())),
                Err((asked, detail)) => {
                    errors.push(FieldError::invalid("spec.healthCheckNodePort", asked, detail));
                }
            }
        }
    }

    /// The node port of one port: the one it names if that may be, a free one if it needs one.
    fn port_of(
        &self,
        ports: &[Value],
        at: usize,
        wanted: bool,
        mine: &[u16],
    ) -> Result<Option<u16>, (i64, String)> {
        let port = &ports[at];
        let asked = port["nodePort"].as_i64().unwrap_or(0);
        if asked == 0 {
            if !wanted {
                return Ok(None);
            }
            // The same port by another protocol, as DNS has it, shares the node port.
            let twin = ports.iter().find(|twin| twin["port"] == port["port"] && node_port(twin).is_some());
            let given = twin.and_then(node_port).map_or_else(|| self.free(mine), Ok);
            return given.map(Some).map_err(|detail| (0, detail));
        }
        let number = self.in_range(asked)?;
        let twice = ports[..at].iter().any(|other| {
            other["nodePort"] == port["nodePort"] && text(other, &["protocol"]) == text(port, &["protocol"])
        });
        if twice || self.is_others(number) {
            return Err((asked, ALLOCATED.to_owned()));
        }
        Ok(Some(number))
    }

    fn check_health(&self, asked: i64, mine: &[u16]) -> Result<u16, (i64, String)> {
        let failed = |detail: String| {
            (asked, format!("failed to allocate requested HealthCheck NodePort {asked}: {detail}"))
        };
        let number = self.in_range(asked).map_err(|(_, detail)| failed(detail))?;
        if self.is_others(number) || mine.contains(&number) {
            return Err(failed(ALLOCATED.to_owned()));
        }
        Ok(number)
    }

    fn is_others(&self, number: u16) -> bool {
        self.taken.get(&number).is_some_and(|owner| owner != self.key)
    }

    /// A port of the range, or one that the Service had before the range was another.
    fn in_range(&self, asked: i64) -> Result<u16, (i64, String)> {
        let NodePorts { first, last } = self.range;
        let had = |number: u16| self.old.is_some_and(|old| super::ports_of(old).any(|port| port == number));
        u16::try_from(asked).ok().filter(|n| (first..=last).contains(n) || had(*n)).ok_or_else(|| {
            let range = self.range;
            (asked, format!("provided port is not in the valid range. The range of valid ports is {range}"))
        })
    }

    fn free(&self, mine: &[u16]) -> Result<u16, String> {
        let NodePorts { first, last } = self.range;
        let size = u32::from(last - first) + 1;
        let reserved = (size / 32).clamp(16, 128).min(size);
        let taken = |port: u128| {
            u16::try_from(port).map_or(true, |port| self.taken.contains_key(&port) || mine.contains(&port))
        };
        let (first, last) = (u128::from(first), u128::from(last));
        pick(first + u128::from(reserved), last, taken)
            .or_else(|| pick(first, last, taken))
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| format!("failed to allocate a nodePort: the range {} is full", self.range))
    }
}

const ALLOCATED: &str = "provided port is already allocated";

fn node_port(port: &Value) -> Option<u16> {
    u16::try_from(port["nodePort"].as_u64()?).ok().filter(|number| *number != 0)
}

//! Amounts of CPU, memory and what else nodes have and pods ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths; `None` if it is none.
fn thousandths(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor: f64 = match suffix {
        "n" => 1e-6,
        "u" => 1e-3,
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "P" => 1e18,
        "E" => 1e21,
        "Ki" => 1024e3,
        "Mi" => 1024f64.powi(2) * 1e3,
        "Gi" => 1024f64.powi(3) * 1e3,
        "Ti" => 1024f64.powi(4) * 1e3,
        "Pi" => 1024f64.powi(5) * 1e3,
        "Ei" => 1024f64.powi(6) * 1e3,
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?) * 1e3,
    };
    let value = (number * factor).ceil();
    // Beyond this no node has anything; and the conversion stays exact enough.
    (value.is_finite() && value.abs() < 1e30).then_some(value as i128)
}

/// Amounts by resource name, in thousandths.
pub(super) type Amounts = BTreeMap<String, i128>;

fn amounts(of: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    of.into_iter().flatten().filter_map(|(name, q)| Some((name.clone(), thousandths(q)?))).collect()
}

/// What a node has to give.
pub(super) fn allocatable(node: &k8s_openapi::api::core::v1::Node) -> Option<Amounts> {
    Some(amounts(Some(node.status.as_ref()?.allocatable.as_ref()?)))
}

/// What a pod asks for: the sum of its containers, or its largest init container if that is more.
pub(super) fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let of = |c: &k8s_openapi::api::core::v1::Container| {
        amounts(c.resources.as_ref().and_then(|r| r.requests.as_ref()))
    };
    let mut sum = Amounts::new();
    for (name, amount) in spec.containers.iter().flat_map(of) {
        *sum.entry(name).or_default() += amount;
    }
    for (name, amount) in spec.init_containers.iter().flatten().flat_map(of) {
        let known = sum.entry(name).or_default();
        *known = (*known).max(amount);
    }
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        *sum.entry(name).or_default() += amount;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let cases = [
            ("1", Some(1_000)),
            ("250m", Some(250)),
            ("1.5", Some(1_500)),
            ("1Ki", Some(1_024_000)),
            ("2e3", Some(2_000_000)),
            ("0.5u", Some(1)),
            ("", None),
            ("x", None),
            ("1Q", None),
            ("1e99", None),
        ];
        for (text, expected) in cases {
            assert_eq!(thousandths(&Quantity(text.into())), expected, "{text}");
        }
    }
}

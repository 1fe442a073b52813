//! What is taken out of an iptables table, whichever of iptables' two kinds it is.

use std::collections::{BTreeMap, BTreeSet};

use super::names;

/// A chain of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain<'a> {
    pub(super) name: &'a str,
    /// Attached to a hook.
    pub(super) builtin: bool,
    /// Its policy is to drop.
    pub(super) drops: bool,
    /// The chains that each rule sends packets to.
    pub(super) rules: Vec<Vec<&'a str>>,
}

/// What is kube-proxy's in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Chains to remove, with their rules.
    pub(super) chains: BTreeSet<String>,
    /// Rules of others' chains to remove, by chain and index.
    pub(super) jumps: BTreeSet<(String, usize)>,
    /// Chains that stay, and why.
    pub(super) kept: BTreeMap<String, String>,
}

impl Decision {
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }
}

/// Says what to take out of `table`.
///
/// Of others' rules only built-in chains' jumps to where kube-proxy's way begins go. A chain of its that anything else jumps
/// to stays, with all that it needs: someone relies on it.
pub(super) fn decide(table: &str, chains: &[Chain<'_>]) -> Decision {
    let mut decision = Decision::default();
    let (own, others): (Vec<_>, Vec<_>) =
        chains.iter().partition(|chain| !chain.builtin && names::is_chain(table, chain.name));
    let own: BTreeMap<&str, &Chain<'_>> = own.into_iter().map(|chain| (chain.name, chain)).collect();
    let mut jumps = BTreeMap::new();
    for chain in others {
        let rules = chain.rules.iter().enumerate();
        for (index, target) in rules.flat_map(|(index, targets)| targets.iter().map(move |to| (index, *to))) {
            if !own.contains_key(target) {
                continue;
            }
            if chain.builtin && names::is_entry(table, target) {
                jumps.insert((chain.name.to_owned(), index), target);
            } else {
                decision.kept.insert(target.to_owned(), format!("chain {} goes to it", chain.name));
            }
        }
        // It may be what lets answers to established connections pass.
        if chain.drops && chain.name == "FORWARD" && own.contains_key(names::FORWARD) {
            let why = "the policy of FORWARD is DROP, and this chain lets connections pass";
            decision.kept.insert(names::FORWARD.to_owned(), why.to_owned());
        }
    }
    keep_what_is_needed(&own, &mut decision.kept);
    decision.chains = own
        .keys()
        .filter(|name| !decision.kept.contains_key(**name))
        .map(|name| (*name).to_owned())
        .collect();
    decision.jumps = jumps
        .into_iter()
        .filter(|(_, target)| !decision.kept.contains_key(*target))
        .map(|(at, _)| at)
        .collect();
    decision
}

/// What kept chains go to stays, too, and what makes use of the mark that they set.
fn keep_what_is_needed(own: &BTreeMap<&str, &Chain<'_>>, kept: &mut BTreeMap<String, String>) {
    let mut next: Vec<String> = kept.keys().cloned().collect();
    while let Some(name) = next.pop() {
        let Some(chain) = own.get(name.as_str()) else { continue };
        let marked = (name == names::MARK_MASQ).then_some(names::POSTROUTING);
        for target in chain.rules.iter().flatten().copied().chain(marked) {
            if own.contains_key(target) && !kept.contains_key(target) {
                kept.insert(target.to_owned(), format!("{name}, which stays, needs it"));
                next.push(target.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain<'a>(name: &'a str, rules: &[&[&'a str]]) -> Chain<'a> {
        let builtin = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&name);
        Chain { name, builtin, drops: false, rules: rules.iter().map(|rule| rule.to_vec()).collect() }
    }

    fn names(decision: &Decision) -> Vec<&str> {
        decision.chains.iter().map(String::as_str).collect()
    }

    const SVC: &str = "KUBE-SVC-AAAAAAAAAAAAAAAA";
    const SEP: &str = "KUBE-SEP-BBBBBBBBBBBBBBBB";

    fn nat<'a>() -> Vec<Chain<'a>> {
        vec![
            chain("PREROUTING", &[&["DOCKER"], &["KUBE-SERVICES"], &[]]),
            chain("OUTPUT", &[&["KUBE-SERVICES"]]),
            chain("POSTROUTING", &[&["CNI-HOSTPORT-MASQ"], &["KUBE-POSTROUTING"]]),
            chain("DOCKER", &[&[]]),
            chain("CNI-HOSTPORT-MASQ", &[&[]]),
            chain("KUBE-SERVICES", &[&[SVC], &["KUBE-NODEPORTS"]]),
            chain("KUBE-NODEPORTS", &[]),
            chain("KUBE-POSTROUTING", &[&[]]),
            chain("KUBE-MARK-MASQ", &[&[]]),
            chain("KUBE-KUBELET-CANARY", &[]),
            chain(SVC, &[&["KUBE-MARK-MASQ"], &[SEP]]),
            chain(SEP, &[&["KUBE-MARK-MASQ"], &[]]),
        ]
    }

    #[test]
    fn everything_of_kube_proxys_goes_and_nothing_else() {
        let decision = decide("nat", &nat());
        let expected = ["KUBE-MARK-MASQ", "KUBE-NODEPORTS", "KUBE-POSTROUTING", SEP, "KUBE-SERVICES", SVC];
        assert_eq!(names(&decision), expected);
        let jumps: Vec<_> = decision.jumps.iter().map(|(chain, index)| (chain.as_str(), *index)).collect();
        assert_eq!(jumps, [("OUTPUT", 0), ("POSTROUTING", 1), ("PREROUTING", 1)]);
        assert!(decision.kept.is_empty());
    }

    #[test]
    fn what_others_go_to_stays_with_what_it_needs() {
        let mut chains = nat();
        chains.push(chain("CNI-DN-0123", &[&["KUBE-MARK-MASQ"]]));
        let decision = decide("nat", &chains);
        assert_eq!(names(&decision), ["KUBE-NODEPORTS", SEP, "KUBE-SERVICES", SVC]);
        let kept: Vec<_> = decision.kept.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        assert_eq!(
            kept,
            [
                "KUBE-MARK-MASQ: chain CNI-DN-0123 goes to it",
                "KUBE-POSTROUTING: KUBE-MARK-MASQ, which stays, needs it",
            ]
        );
        assert!(!decision.jumps.contains(&("POSTROUTING".to_owned(), 1)));
        // A rule of someone's own in a built-in chain is as good.
        let mut chains = nat();
        chains[0].rules.push(vec![SVC]);
        let decision = decide("nat", &chains);
        assert_eq!(names(&decision), ["KUBE-NODEPORTS", "KUBE-SERVICES"]);
    }

    #[test]
    fn forwarding_goes_on_where_it_would_end() {
        let filter = |drops| {
            let forward = Chain { drops, ..chain("FORWARD", &[&["KUBE-FORWARD"], &["KUBE-SERVICES"]]) };
            decide("filter", &[forward, chain("KUBE-FORWARD", &[&[]]), chain("KUBE-SERVICES", &[&[]])])
        };
        assert_eq!(names(&filter(false)), ["KUBE-FORWARD", "KUBE-SERVICES"]);
        assert_eq!(names(&filter(true)), ["KUBE-SERVICES"]);
        assert_eq!(filter(true).jumps, [("FORWARD".to_owned(), 1)].into());
    }

    #[test]
    fn what_was_removed_already_leaves_nothing_to_do() {
        assert!(decide("nat", &[chain("PREROUTING", &[&["DOCKER"]]), chain("DOCKER", &[])]).is_empty());
        assert!(decide("filter", &[chain("KUBE-FIREWALL", &[&[]])]).is_empty());
    }
}

//! The plan in force beside the kernel's state: reads, and changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seaway_cni::{files, overlay, pods};
use seaway_model::{Difference, Differences, Foreign, NotCompared, PlanPart};
use seaway_net::nft::{Kernel, OtherChain};
use seaway_proxy::{ServiceDriver, TABLE};

use crate::kernel;
use crate::status::{AppliedPlan, Shared};

/// As many differences as are told: a table that is gone differs in tens of thousands of elements no more than in one.
const MOST: usize = 1000;
/// How often what differs is looked at again where the agent was about to change it.
const LOOKS: usize = 20;
/// How long between two looks.
const BETWEEN: Duration = Duration::from_millis(50);

/// Compares; `None` as long as no plan is in force. Blocks. What differs only because the agent is about to bring the
/// kernel up to a new plan is looked at again until it has.
pub(crate) fn compare(shared: &Shared) -> Option<Differences> {
    let mut applied = shared.applied_plan()?;
    for _ in 0..LOOKS {
        let found = compare_once(&applied);
        let now = shared.applied_plan()?;
        // What is being put right at this moment is in the log when that is done.
        let settled = (found.differences.is_empty() || is_same(&applied, &now)) && !shared.is_pending();
        if settled {
            return Some(Differences { mended: shared.mended.recent(), ..found });
        }
        std::thread::sleep(BETWEEN);
        applied = shared.applied_plan()?;
    }
    Some(Differences { mended: shared.mended.recent(), ..compare_once(&applied) })
}

fn is_same(one: &AppliedPlan, other: &AppliedPlan) -> bool {
    Arc::ptr_eq(&one.plan, &other.plan) && one.overlay == other.overlay && one.underlay == other.underlay
}

fn compare_once(applied: &AppliedPlan) -> Differences {
    let mut found = Differences { generation: applied.generation, ..Differences::default() };
    let services = kernel::service_driver()
        .map_err(|error| error.to_string())
        .and_then(|mut driver| driver.differences(&applied.plan).map_err(|error| error.to_string()));
    found.take(PlanPart::Services, services);
    found.take_foreign(PlanPart::Services, foreign_chains());
    if let (Some(plan), Some(underlay)) = (&applied.overlay, &applied.underlay) {
        match overlay::differences(plan, underlay) {
            Ok((differences, foreign)) => {
                found.take(PlanPart::Overlay, Ok(differences));
                found.foreign.extend(foreign);
            }
            Err(error) => found.take(PlanPart::Overlay, Err(error.to_string())),
        }
        let pods = pods::differences(Path::new(files::IPAM_DIR), plan.mtu);
        found.take(PlanPart::Pods, pods.map_err(|error| error.to_string()));
    }
    found
}

/// How results are collected.
trait Take {
    fn take(&mut self, part: PlanPart, found: Result<Vec<Difference>, String>);
    fn take_foreign(&mut self, part: PlanPart, found: Result<Vec<Foreign>, String>);
}

impl Take for Differences {
    fn take(&mut self, part: PlanPart, found: Result<Vec<Difference>, String>) {
        match found {
            Ok(found) => {
                let room = MOST.saturating_sub(self.differences.len());
                self.more += found.len().saturating_sub(room);
                self.differences.extend(found.into_iter().take(room));
            }
            Err(error) => self.not_compared.push(NotCompared { part, error }),
        }
    }

    fn take_foreign(&mut self, part: PlanPart, found: Result<Vec<Foreign>, String>) {
        match found {
            Ok(found) => self.foreign.extend(found),
            Err(error) => self.not_compared.push(NotCompared { part, error }),
        }
    }
}

/// Chains of others that may do something to a packet.
fn foreign_chains() -> Result<Vec<Foreign>, String> {
    let mut kernel = Kernel::open().map_err(|error| error.to_string())?;
    let chains = kernel.others(TABLE).map_err(|error| error.to_string())?;
    Ok(chains.iter().filter_map(foreign_chain).take(MOST).collect())
}

/// What `chain` may do; `None` for one that only looks on.
fn foreign_chain(chain: &OtherChain) -> Option<Foreign> {
    let drops = chain.base.is_some_and(|base| !base.accept);
    let rules: Vec<String> = chain
        .rules
        .iter()
        .filter(|rule| !rule.actions.is_empty())
        .map(|rule| {
            let comment = rule.comment.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
            format!("rule {}{comment}: {}", rule.handle, rule.actions.join(", "))
        })
        .collect();
    if rules.is_empty() && !drops {
        return None;
    }
    let attached = chain.base.map_or_else(|| "called by other chains".to_owned(), |base| base.to_string());
    let what = if rules.is_empty() { attached } else { format!("{attached} {}", rules.join("; ")) };
    Some(Foreign {
        part: PlanPart::Services,
        kernel: format!("chain {} of table {}", chain.name, chain.table),
        what,
    })
}

#[cfg(test)]
mod tests {
    use seaway_net::nft::{Base, ChainKind, Family, Hook, OtherRule, TableId};

    use super::*;

    #[test]
    fn only_chains_that_do_something_are_told() {
        let base = Base { kind: ChainKind::Nat, hook: Hook::Output, priority: -100, accept: true };
        let rule = |actions: &[&str]| OtherRule {
            handle: 7,
            comment: Some("mine".into()),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
            targets: Vec::new(),
        };
        let chain = |rules: Vec<OtherRule>, base: Option<Base>| OtherChain {
            table: TableId::new(Family::Ip, "nat"),
            name: "c".into(),
            base,
            rules,
        };
        assert_eq!(foreign_chain(&chain(vec![rule(&[])], Some(base))), None);
        let told = foreign_chain(&chain(vec![rule(&["dnat"])], Some(base))).unwrap();
        assert_eq!(told.kernel, "chain c of table ip nat");
        assert_eq!(told.what, "type nat hook output priority -100; policy accept; rule 7 (mine): dnat");
        assert!(foreign_chain(&chain(vec![], Some(Base { accept: false, ..base }))).is_some());
    }
}

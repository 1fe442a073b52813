//! Clients that are remembered with an endpoint that is gone.
//!
//! The kernel learns by itself where a client was sent, and forgets by itself when the time is over. What it cannot know is
//! that an endpoint is gone, or that a Service has no affinity any more: so after such changes what it has learned is gone
//! through. A client whose first packet is under way at that very moment may be learned after it; its flow, too, began with the
//! endpoint that is gone.

use seaway_model::{Backend, Caller, LocalSources, NodePlan, Origin, PlanDiff, PortPlan};
use seaway_net::nft::{Element, Nft, NftError, TableId, Transaction, Value};

use crate::programmed::{Programmed, parse_backend, parse_client};
use crate::ruleset::{self, IpFamily, SetId};

/// How often it is tried again when an element that was to be deleted has timed out meanwhile.
const ATTEMPTS: usize = 5;

/// Something of `diff` makes it necessary to look.
pub(crate) fn concerns(diff: &PlanDiff, family: IpFamily) -> bool {
    diff.ports.iter().filter(|change| IpFamily::of(&change.address.ip) == family).any(|change| {
        let Some(before) = change.before.as_deref().filter(|before| before.affinity.is_some()) else {
            return false;
        };
        match change.after.as_deref() {
            None => true,
            Some(after) => {
                after.affinity.is_none()
                    || after.policy != before.policy
                    || after.local != before.local
                    || before.backends.iter().any(|backend| !after.backends.contains(backend))
            }
        }
    })
}

/// Makes the kernel forget clients that would be sent where they should not; tells how many.
///
/// # Errors
/// The kernel cannot be read, or refuses.
pub(crate) fn forget(
    nft: &mut impl Nft,
    family: IpFamily,
    programmed: &Programmed,
    plan: &NodePlan,
) -> Result<usize, NftError> {
    let id = TableId::new(family.family(), ruleset::TABLE);
    let Some(spec) = programmed.spec(SetId::Affinity) else { return Ok(0) };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let learned = nft.read_elements(&id, SetId::Affinity.name())?.unwrap_or_default();
        let mut transaction = Transaction::new(id.clone());
        let mut count = 0;
        for (key, element) in learned {
            if !holds(family, plan, &key, &element) {
                transaction.delete_element(spec, key, Element::default());
                count += 1;
            }
        }
        match nft.commit(&transaction) {
            Ok(()) => return Ok(count),
            Err(error) if error.not_found() && attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the kernel has learned leads where the plan lets it.
fn holds(family: IpFamily, plan: &NodePlan, key: &Value, element: &Element) -> bool {
    let (Some((client, address)), Some(backend)) =
        (parse_client(family, key), parse_backend(family, element))
    else {
        return false;
    };
    // What no Service has was one of the node's addresses when it was learned.
    let port = plan.services.port_at(&address, true);
    port.is_some_and(|port| port.affinity.is_some() && may_have(plan, port, &client, &backend))
}

/// `client` may be sent to `backend`. Where only the link by which it comes would tell whether it is a pod, it may.
fn may_have(plan: &NodePlan, port: &PortPlan, client: &std::net::IpAddr, backend: &Backend) -> bool {
    let told_by_link = !matches!(plan.proxy.local_sources, LocalSources::Networks(_));
    let outside = port.tells_callers_apart()
        && !told_by_link
        && !plan.proxy.is_local(&Origin::Unknown, client)
        && !plan.proxy.node_addresses.contains(client);
    if outside { port.candidates(Caller::Outside).contains(backend) } else { port.backends.contains(backend) }
}

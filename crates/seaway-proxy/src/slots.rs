//! Which endpoint stands at which index of a service address.
//!
//! The plan says which endpoints an address has; their order is the driver's own affair, except that this node's come
//! first. An endpoint keeps its index for as long as it can, so that a change touches few elements, and an order found
//! in the kernel is taken over, so that a restart touches none.

use std::collections::HashSet;

use seaway_model::Backend;

/// The order for `wanted`, of which the first `local` are this node's, that departs least from `old`.
///
/// Within each part a leaver's place is taken by whoever has to move anyway (the last ones, when there are fewer now),
/// then by newcomers in their own order.
pub(crate) fn arrange(old: &[Backend], wanted: &[Backend], local: usize) -> Vec<Backend> {
    if old == wanted {
        return old.to_vec();
    }
    let local = local.min(wanted.len());
    let (locals, remotes) = wanted.split_at(local);
    let mut slots: Vec<Option<Backend>> = vec![None; wanted.len()];
    for (part, range) in [(locals, 0..local), (remotes, local..wanted.len())] {
        let members: HashSet<Backend> = part.iter().copied().collect();
        let mut placed: HashSet<Backend> = HashSet::with_capacity(part.len());
        for index in range.clone().take_while(|index| *index < old.len()) {
            if members.contains(&old[index]) && placed.insert(old[index]) {
                slots[index] = Some(old[index]);
            }
        }
        let movers = old.iter().filter(|backend| members.contains(backend));
        let mut rest = movers.chain(part).filter(|backend| placed.insert(**backend));
        for slot in slots[range].iter_mut().filter(|slot| slot.is_none()) {
            *slot = rest.next().copied();
        }
    }
    slots.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;

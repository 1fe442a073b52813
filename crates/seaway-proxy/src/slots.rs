//! Which endpoint stands at which index of a service address.
//!
//! The plan says which endpoints an address has and in which part of the order each is, for callers may have a part of them
//! only; the order within a part is the driver's own affair. An endpoint keeps its index for as long as it can, so that a change
//! touches few elements, and an order found in the kernel is taken over, so that a restart touches none.

use std::collections::HashSet;

use seaway_model::Backend;

/// The order for `wanted`, in which parts begin at `bounds` (ascending), that departs least from `old`.
///
/// Within each part a leaver's place is taken by whoever has to move anyway (the last ones, when there are fewer now),
/// then by newcomers in their own order.
pub(crate) fn arrange(old: &[Backend], wanted: &[Backend], bounds: [usize; 2]) -> Vec<Backend> {
    if old == wanted {
        return old.to_vec();
    }
    let bounds = bounds.map(|bound| bound.min(wanted.len()));
    let parts = [0..bounds[0], bounds[0]..bounds[1], bounds[1]..wanted.len()];
    let mut slots: Vec<Option<Backend>> = vec![None; wanted.len()];
    for range in parts {
        let Some(part) = wanted.get(range.clone()) else { continue };
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

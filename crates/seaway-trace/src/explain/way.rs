//! Ways: what one choice at each random point leads to; and how many ways are told as one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::hop::{Hop, State, Verdict};

/// One way from the sender to the end, all random choices made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Way {
    /// The choices that lead here.
    pub(crate) choice: Choice,
    /// The hops.
    pub(crate) hops: Vec<Hop>,
    /// What it comes to.
    pub(crate) end: End,
}

/// The random choices of a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Which of the name's addresses is called.
    pub(crate) address: Option<IpAddr>,
    /// Which endpoint the Service's address becomes.
    pub(crate) backend: Option<SocketAddr>,
}

/// What a way comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// Why, in words.
    pub(crate) reason: String,
    /// What the destination may see as the source.
    pub(crate) sources: BTreeSet<IpAddr>,
    /// Where the knowledge ends.
    pub(crate) unknown_beyond: Option<String>,
}

impl Way {
    fn labels(&self) -> BTreeSet<String> {
        let backend = self.choice.backend.map(|backend| backend.to_string());
        backend.or_else(|| self.choice.address.map(|address| address.to_string())).into_iter().collect()
    }
}

/// The hops of all `ways` in one list: what they share first, then what depends on the choice, marked with it.
pub(crate) fn told(ways: &[Way]) -> Vec<Hop> {
    let mut groups: Vec<(BTreeSet<String>, Vec<Hop>)> = Vec::new();
    for way in ways {
        let same = groups.iter_mut().find(|(_, hops)| all_alike(hops, &way.hops));
        match same {
            Some((labels, hops)) => {
                labels.extend(way.labels());
                hops.iter_mut().zip(&way.hops).for_each(|(hop, other)| join(hop, other));
            }
            None => groups.push((way.labels(), way.hops.clone())),
        }
    }
    let Some((first, others)) = groups.split_first() else { return Vec::new() };
    if others.is_empty() {
        return first.1.clone();
    }
    let shared = (0..first.1.len())
        .take_while(|&i| {
            others.iter().all(|(_, hops)| hops.get(i).is_some_and(|hop| alike(hop, &first.1[i])))
        })
        .count();
    let mut hops = first.1[..shared].to_vec();
    for (_, more) in others {
        hops.iter_mut().zip(more).for_each(|(hop, other)| join(hop, other));
    }
    for (labels, group) in groups {
        hops.extend(group.into_iter().skip(shared).map(|hop| Hop { when: labels.clone(), ..hop }));
    }
    hops
}

fn all_alike(one: &[Hop], other: &[Hop]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| alike(a, b))
}

/// They differ in destinations alone.
fn alike(a: &Hop, b: &Hop) -> bool {
    let rest = |state: &Option<State>| {
        state.as_ref().map(|state| (state.protocol, state.source.clone(), state.outer.clone()))
    };
    a.kind == b.kind
        && a.place == b.place
        && a.object == b.object
        && a.note == b.note
        && a.fault == b.fault
        && rest(&a.before) == rest(&b.before)
        && rest(&a.after) == rest(&b.after)
}

fn join(hop: &mut Hop, other: &Hop) {
    for (state, more) in [(&mut hop.before, &other.before), (&mut hop.after, &other.after)] {
        if let (Some(state), Some(more)) = (state, more) {
            state.destination.extend(more.destination.iter().cloned());
            state.source.extend(more.source.iter().copied());
        }
    }
}

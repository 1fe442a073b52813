//! Tests.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn backends(hosts: &[u8]) -> Vec<Backend> {
    hosts.iter().map(|host| Backend { ip: [10, 244, 0, *host].into(), port: 8080 }).collect()
}

#[test]
fn orders() {
    type Hosts = &'static [u8];
    // Found in the kernel, wanted, how many of them local; what comes of it.
    let cases: &[(Hosts, Hosts, usize, Hosts)] = &[
        (&[], &[1, 2, 3], 0, &[1, 2, 3]),
        (&[3, 1, 2], &[1, 2, 3], 0, &[3, 1, 2]),
        // The last one moves into the gap.
        (&[3, 1, 2, 4], &[2, 3, 4], 0, &[3, 4, 2]),
        (&[3, 1, 2], &[1, 2, 3, 9], 0, &[3, 1, 2, 9]),
        (&[3, 1, 2], &[2, 3, 9], 0, &[3, 9, 2]),
        // Local ones stand in front, and one remote one makes room.
        (&[1, 2, 3], &[9, 1, 2, 3], 1, &[9, 2, 3, 1]),
        (&[9, 2, 3, 1], &[1, 2, 3], 0, &[1, 2, 3]),
        (&[1, 2], &[], 0, &[]),
    ];
    for (old, wanted, local, expected) in cases {
        let got = arrange(&backends(old), &backends(wanted), [0, *local]);
        assert_eq!(got, backends(expected), "{old:?} to {wanted:?}");
    }
}

proptest! {
    #[test]
    fn keeps_what_it_can(
        old in proptest::collection::btree_set(0..30_u8, 0..20).prop_flat_map(|set| Just(set.into_iter().collect::<Vec<_>>()).prop_shuffle()),
        wanted in proptest::collection::btree_set(0..30_u8, 0..20),
        first in 0..20_usize,
        second in 0..20_usize,
    ) {
        let old = backends(&old);
        let wanted = backends(&wanted.into_iter().collect::<Vec<_>>());
        let first = first.min(wanted.len());
        let second = second.clamp(first, wanted.len());
        let got = arrange(&old, &wanted, [first, second]);
        prop_assert_eq!(got.len(), wanted.len());
        let set = |part: &[Backend]| part.iter().copied().collect::<BTreeSet<_>>();
        for part in [0..first, first..second, second..wanted.len()] {
            prop_assert_eq!(set(&got[part.clone()]), set(&wanted[part.clone()]));
            // Whoever may keep its index keeps it.
            for index in part.clone().take_while(|index| *index < old.len()) {
                if wanted[part.clone()].contains(&old[index]) {
                    prop_assert_eq!(&got[index], &old[index]);
                }
            }
        }
        // Arranging again changes nothing.
        prop_assert_eq!(arrange(&got, &wanted, [first, second]), got.clone());
    }
}

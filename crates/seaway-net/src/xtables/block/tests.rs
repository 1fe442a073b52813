use proptest::prelude::*;

use super::*;

/// A rule for a table of the tests.
#[derive(Clone, Debug)]
enum Target {
    Jump(usize),
    Nothing,
    Drop,
    Extension,
}

/// Writes tables as iptables-legacy does.
#[derive(Default)]
struct Maker {
    bytes: Vec<u8>,
    /// Verdicts that are to become a chain's place.
    jumps: Vec<(usize, usize)>,
    chains: Vec<usize>,
}

impl Maker {
    fn entry(&mut self, family: Family, name: &[u8], data: &[u8], matches: usize) {
        let layout = Layout::of(family);
        let (target, size) = (layout.header + matches * 8, TARGET + data.len().next_multiple_of(8));
        let mut entry = vec![7; target + size];
        entry[layout.target_offset..][..2].copy_from_slice(&(target as u16).to_ne_bytes());
        entry[layout.target_offset + 2..][..2].copy_from_slice(&((target + size) as u16).to_ne_bytes());
        entry[target..].fill(0);
        entry[target..target + 2].copy_from_slice(&(size as u16).to_ne_bytes());
        entry[target + 2..][..name.len()].copy_from_slice(name);
        entry[target + TARGET..][..data.len()].copy_from_slice(data);
        self.bytes.extend(entry);
    }

    fn verdict(&mut self, family: Family, verdict: i32) {
        self.entry(family, b"", &verdict.to_ne_bytes(), 0);
    }

    fn error(&mut self, family: Family, name: &str) {
        let mut text = [0; ERROR_NAME];
        text[..name.len()].copy_from_slice(name.as_bytes());
        self.entry(family, ERROR, &text, 0);
    }

    fn rule(&mut self, family: Family, target: &Target) {
        match target {
            Target::Jump(chain) => {
                self.verdict(family, 0);
                self.jumps.push((self.bytes.len() - 8, *chain));
            }
            Target::Nothing => {
                self.verdict(family, 0);
                let end = self.bytes.len();
                self.bytes[end - 8..end - 4].copy_from_slice(&(end as u32).to_ne_bytes());
            }
            Target::Drop => self.verdict(family, -1),
            Target::Extension => self.entry(family, b"MARK", &[1; 12], 3),
        }
    }

    fn finish(mut self, family: Family) -> Vec<u8> {
        self.error(family, "ERROR");
        for (at, chain) in std::mem::take(&mut self.jumps) {
            let to = self.chains[chain % self.chains.len()] as u32;
            self.bytes[at..at + 4].copy_from_slice(&to.to_ne_bytes());
        }
        self.bytes
    }
}

/// A table `filter` with these rules in INPUT and OUTPUT, and user chains C0, C1, …
fn table(family: Family, builtin: [&[Target]; 2], chains: &[Vec<Target>]) -> Table {
    let mut maker = Maker::default();
    let (mut hook_entry, mut underflow) = ([0; 5], [0; 5]);
    for (hook, rules) in [1, 3].into_iter().zip(builtin) {
        hook_entry[hook] = maker.bytes.len() as u32;
        rules.iter().for_each(|rule| maker.rule(family, rule));
        underflow[hook] = maker.bytes.len() as u32;
        maker.verdict(family, if hook == 1 { -1 } else { ACCEPT });
    }
    for (index, rules) in chains.iter().enumerate() {
        maker.error(family, &format!("C{index}"));
        maker.chains.push(maker.bytes.len());
        rules.iter().for_each(|rule| maker.rule(family, rule));
        maker.verdict(family, -5);
    }
    let bytes = maker.finish(family);
    Table::parse(family, "filter", 0b1010, hook_entry, underflow, bytes).unwrap()
}

fn cut(chains: &[&str], rules: &[(&str, usize)]) -> Cut {
    Cut {
        chains: chains.iter().map(|name| (*name).to_owned()).collect(),
        rules: rules.iter().map(|(chain, index)| ((*chain).to_owned(), *index)).collect(),
    }
}

#[test]
fn chains_and_rules_are_taken_out_and_the_rest_goes_where_it_went() {
    use Target::{Drop, Extension, Jump, Nothing};
    for family in [Family::V4, Family::V6] {
        let full = table(
            family,
            [&[Jump(0), Nothing, Jump(1)], &[Jump(0)]],
            &[vec![Extension, Jump(2)], vec![Drop, Jump(3)], vec![], vec![Nothing, Extension]],
        );
        assert_eq!(full.chains()[0].builtin, Some(Policy::Drop));
        assert_eq!(full.chains()[1].builtin, Some(Policy::Accept));
        let shorter = full.without(&cut(&["C0", "C2"], &[("INPUT", 0), ("OUTPUT", 0)])).unwrap();
        let expected =
            table(family, [&[Nothing, Jump(0)], &[]], &[vec![Drop, Jump(1)], vec![Nothing, Extension]]);
        let mut names = shorter.table.chains().to_vec();
        assert_eq!(names[2].name, "C1");
        assert_eq!(names[2].targets, [None, Some("C3".to_owned())]);
        // But for the names of the chains it is the table that was never larger.
        for (at, chain) in names.iter_mut().filter(|chain| chain.builtin.is_none()).enumerate() {
            chain.name = format!("C{at}");
        }
        assert_eq!(shorter.table.hook_entry, expected.hook_entry);
        assert_eq!(shorter.table.underflow, expected.underflow);
        let unnamed = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.replace("C1", "C?").replace("C3", "C?").replace("C0", "C?")
        };
        assert_eq!(unnamed(&shorter.table.bytes), unnamed(&expected.bytes));
        assert_eq!(shorter.origins, [1, 2, 3, 5, 10, 11, 12, 13, 16, 17, 18, 19, 20]);
    }
}

#[test]
fn a_chain_that_is_still_used_stays() {
    let full = table(Family::V4, [&[Target::Jump(0)], &[]], &[vec![]]);
    let error = full.without(&cut(&["C0"], &[])).unwrap_err();
    assert!(error.to_string().ends_with("goes to a chain that is to be removed"), "{error}");
    assert_eq!(full.without(&cut(&["C7", "INPUT"], &[("OUTPUT", 3)])).unwrap().table.bytes, full.bytes);
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        any::<usize>().prop_map(Target::Jump),
        Just(Target::Nothing),
        Just(Target::Drop),
        Just(Target::Extension),
    ]
}

proptest! {
    #[test]
    fn any_table_can_be_cut_again_and_again(
        rules in prop::collection::vec(target(), 0..5),
        chains in prop::collection::vec(prop::collection::vec(target(), 0..4), 1..5),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let full = table(Family::V4, [&rules, &[]], &chains);
        prop_assert_eq!(&full.without(&Cut::default()).unwrap().table.bytes, &full.bytes);
        let name = |index: &prop::sample::Index| format!("C{}", index.index(chains.len()));
        let gone: BTreeSet<String> = gone.iter().map(name).collect();
        let used = |chain: &Chain| {
            let rules = chain.targets.iter().enumerate();
            rules
                .filter(|(_, target)| target.as_ref().is_some_and(|target| gone.contains(target)))
                .map(|(index, _)| (chain.name.clone(), index))
                .collect::<Vec<_>>()
        };
        let all = Cut { chains: gone.clone(), rules: full.chains().iter().flat_map(used).collect() };
        let less = full.without(&all).unwrap();
        prop_assert_eq!(less.origins.len(), less.table.count());
        let expected: Vec<Chain> = full
            .chains()
            .iter()
            .filter(|chain| !gone.contains(&chain.name))
            .map(|chain| {
                let mut chain = chain.clone();
                chain.targets.retain(|target| target.as_ref().is_none_or(|target| !gone.contains(target)));
                chain
            })
            .collect();
        prop_assert_eq!(less.table.chains(), &expected[..]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        hooks in any::<u32>(),
        entry in any::<[u32; 5]>(),
    ) {
        let _ = Table::parse(Family::V4, "nat", hooks, entry, entry, bytes.clone()).is_ok();
        let _ = Table::parse(Family::V6, "nat", hooks, entry, entry, bytes).is_ok();
    }

    #[test]
    fn any_damage_is_read_without_panic(
        rules in prop::collection::vec(target(), 0..4),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
        hooks in 0..32_u32,
    ) {
        let full = table(Family::V4, [&rules, &rules], &[rules.clone(), vec![]]);
        let mut bytes = full.bytes.clone();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        for bytes in [bytes[..end.index(bytes.len() + 1)].to_vec(), bytes.clone()] {
            let read = Table::parse(Family::V4, "filter", hooks, full.hook_entry, full.underflow, bytes);
            if let Ok(read) = read {
                let _ = read.without(&cut(&["C0"], &[("INPUT", 0)])).is_ok();
            }
        }
    }
}

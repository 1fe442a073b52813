//! `loadbalance`: puts address and MX records in a random order, after the CNAMEs that lead to them.

use futures::future::BoxFuture;
use hickory_proto::rr::{Record, RecordType};
use rand::seq::SliceRandom;

use crate::corefile::{CorefileError, Directive};
use crate::message::Query;
use crate::plugin::{Next, Outcome, Plugin};

/// Reads the directive.
pub(crate) fn parse(directive: &Directive) -> Result<(), CorefileError> {
    directive.no_block()?;
    if let Some(policy) = directive.at_most(1)?.first() {
        if policy.text == "weighted" {
            return Err(CorefileError::at(policy, "the policy weighted is not supported yet"));
        }
        policy.choice("policy of loadbalance", &[("round_robin", ())])?;
    }
    Ok(())
}

/// The plugin.
#[derive(Debug)]
pub(crate) struct LoadBalance;

impl Plugin for LoadBalance {
    fn name(&self) -> &'static str {
        "loadbalance"
    }

    fn serve<'a>(&'a self, query: &'a Query, next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let mut reply = next.run(query).await?;
            shuffle(&mut reply.answers);
            shuffle(&mut reply.additionals);
            Ok(reply)
        })
    }
}

fn shuffle(records: &mut [Record]) {
    let rank = |record: &Record| match record.record_type() {
        RecordType::CNAME => 0,
        RecordType::A | RecordType::AAAA => 2,
        RecordType::MX => 3,
        _ => 1,
    };
    if records.iter().filter(|r| rank(r) >= 2).count() < 2 {
        return;
    }
    records.sort_by_key(rank);
    let first = records.partition_point(|r| rank(r) < 2);
    let mx = records.partition_point(|r| rank(r) < 3);
    let mut rng = rand::rng();
    records[first..mx].shuffle(&mut rng);
    records[mx..].shuffle(&mut rng);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use hickory_proto::rr::rdata::CNAME;
    use hickory_proto::rr::{Name, RData};

    use super::*;

    #[test]
    fn addresses_change_places_and_a_cname_stays_first() {
        let name = Name::root();
        let record = |data| Record::from_rdata(name.clone(), 5, data);
        let records: Vec<Record> = std::iter::once(record(RData::CNAME(CNAME(name.clone()))))
            .chain((0..4).map(|i| record(RData::A(Ipv4Addr::new(10, 0, 0, i).into()))))
            .collect();
        let mut orders = HashSet::new();
        for _ in 0..200 {
            let mut shuffled = records.clone();
            shuffle(&mut shuffled);
            assert_eq!(shuffled[0], records[0]);
            orders.insert(shuffled.iter().map(|r| r.data.to_string()).collect::<Vec<_>>());
        }
        assert!(orders.len() > 10, "only {} orders", orders.len());
    }
}

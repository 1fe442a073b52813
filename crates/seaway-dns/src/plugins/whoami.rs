//! `whoami`: tells the client its own address and port.

use std::net::IpAddr;

use futures::future::BoxFuture;
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record};

use crate::explain::DataOrigin;
use crate::message::{Origin, Query, Reply, Transport};
use crate::plugin::{Explanation, Next, Outcome, Plugin};

/// The plugin.
#[derive(Debug)]
pub(crate) struct Whoami;

impl Plugin for Whoami {
    fn name(&self) -> &'static str {
        "whoami"
    }

    fn serve<'a>(&'a self, query: &'a Query, _next: Next) -> BoxFuture<'a, Outcome> {
        Box::pin(std::future::ready(Ok(who(query))))
    }

    fn explain(&self, query: &Query, _next: &Next) -> Explanation {
        Explanation::answer(self.name(), DataOrigin::default(), Ok(who(query)))
    }
}

/// The client's address and port, in the additional section.
fn who(query: &Query) -> Reply {
    let data = match query.client.ip().to_canonical() {
        IpAddr::V4(ip) => RData::A(ip.into()),
        IpAddr::V6(ip) => RData::AAAA(ip.into()),
    };
    let mut additionals = vec![Record::from_rdata(query.name.clone(), 0, data)];
    let label = match query.transport {
        Transport::Udp => "_udp",
        Transport::Tcp => "_tcp",
    };
    // A name that is already as long as names get has no room for one more label.
    if let Ok(owner) = query.name.prepend_label(label) {
        let srv = SRV::new(0, 0, query.client.port(), Name::root());
        additionals.push(Record::from_rdata(owner, 0, RData::SRV(srv)));
    }
    Reply { authoritative: true, additionals, origin: Origin::Local, ..Reply::default() }
}

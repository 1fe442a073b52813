//! kube-proxy's nftables layout: a chain per service and per endpoint (pkg/proxy/nftables of Kubernetes 1.31 and later).

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use seaway_net::nft::{
    Chain, ChainKind, Comparison, DataType, Element, Family, Field, Hook, Kernel, NatFlags, NatKind,
    NatTarget, Nft, Operation, Reject, Rule, Set, SetSpec, Statement, TCP, Table, TableId, Transaction,
    Value, Verdict, ct_state, priority,
};

use crate::cluster::{Cluster, PORT};
use crate::measure::{Outcome, Parts, children, cost, median};

const TABLE: &str = "kube-proxy";
const MARK_CHAIN: &str = "mark-for-masquerade";
/// kube-proxy's mark for packets to be masqueraded.
const MARK: u32 = 0x4000;
const SERVICE_KEY: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];

/// The layout through `nft -f -`, as kube-proxy does it.
pub(crate) fn run_by_nft(cluster: &Cluster, rounds: u32) -> anyhow::Result<Outcome> {
    let load = |build: &dyn Fn() -> Transaction| -> anyhow::Result<Parts> {
        let before = children();
        let start = Instant::now();
        let mut generate = start.elapsed();
        let mut bytes = 0;
        let (result, total) = cost(|| {
            let text = build().to_string();
            generate = start.elapsed();
            bytes = text.len();
            nft(&text)
        });
        result?;
        let after = children();
        let (user, system) = (after.0 - before.0, after.1 - before.1);
        Ok(Parts { generate, parse: Some(user), encode: None, kernel: system, bytes, total })
    };
    let (full, one_more) = run(cluster, rounds, load)?;
    Ok(Outcome { name: "kube-proxy's layout, nft", full, one_more, adopt: None })
}

/// The same layout through our own netlink encoder: what remains is what the layout itself costs.
pub(crate) fn run_by_netlink(cluster: &Cluster, rounds: u32) -> anyhow::Result<Outcome> {
    let mut kernel = Kernel::open()?;
    let load = |build: &dyn Fn() -> Transaction| -> anyhow::Result<Parts> {
        let start = Instant::now();
        let mut generate = start.elapsed();
        let (result, total) = cost(|| {
            let transaction = build();
            generate = start.elapsed();
            kernel.commit(&transaction)
        });
        result?;
        let commit = kernel.last_commit();
        Ok(Parts {
            generate,
            parse: None,
            encode: Some(commit.encode),
            kernel: commit.kernel,
            bytes: commit.bytes,
            total,
        })
    };
    let (full, one_more) = run(cluster, rounds, load)?;
    Ok(Outcome { name: "kube-proxy's layout, netlink", full, one_more, adopt: None })
}

fn run(
    cluster: &Cluster,
    rounds: u32,
    mut load: impl FnMut(&dyn Fn() -> Transaction) -> anyhow::Result<Parts>,
) -> anyhow::Result<(Parts, Parts)> {
    let full = load(&|| everything(cluster))?;
    let mut more = Vec::new();
    for round in 0..rounds {
        let index = cluster.services + round;
        more.push(load(&|| {
            let mut transaction = Transaction::new(id());
            services(cluster, index..index + 1, &mut transaction);
            transaction
        })?);
    }
    Ok((full, median(more)))
}

/// All services, and what they rest on.
pub(crate) fn everything(cluster: &Cluster) -> Transaction {
    let mut transaction = base();
    services(cluster, 0..cluster.services, &mut transaction);
    transaction
}

fn nft(text: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("running nft (Debian package nftables)")?;
    child.stdin.take().context("nft's standard input")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

fn id() -> TableId {
    TableId::new(Family::Ip, TABLE)
}

fn by_address(name: &str) -> SetSpec {
    SetSpec::of_types(name, [DataType::Ipv4Addr, DataType::InetProto, DataType::InetService]).to_verdict()
}

fn by_port(name: &str) -> SetSpec {
    SetSpec::of_types(name, [DataType::InetProto, DataType::InetService]).to_verdict()
}

fn service_ips() -> Arc<SetSpec> {
    Arc::new(by_address("service-ips"))
}

fn cluster_ips() -> Arc<SetSpec> {
    Arc::new(SetSpec::of_types("cluster-ips", [DataType::Ipv4Addr]))
}

/// The checks of new connections: for Services without endpoints, source ranges, and addresses that no Service has.
fn checks(table: Table) -> Table {
    const PORT_KEY: [Field; 2] = [Field::L4Proto, Field::ThDport];
    // kube-proxy has them at filter's priority less 110, and after its translation at dstnat's and 10.
    let chain = |name: &str, hook, priority, jumps: &[&str]| {
        let new = |chain: &&str| Rule::new().any_bit(Field::CtState, ct_state::NEW).jump(*chain);
        let base = Chain::base(name, ChainKind::Filter, hook, priority);
        jumps.iter().map(new).fold(base, Chain::rule)
    };
    let (endpoints, node_ports, firewall, ips) =
        ("service-endpoints-check", "nodeport-endpoints-check", "firewall-check", "cluster-ips-check");
    table
        .set(Set::new(cluster_ips()))
        .set(Set::new(SetSpec::of_types("nodeport-ips", [DataType::Ipv4Addr])))
        .set(Set::new(by_port("service-nodeports")))
        .set(Set::new(by_port("no-endpoint-nodeports")))
        .set(Set::new(by_address("no-endpoint-services")))
        .set(Set::new(by_address("firewall-ips")))
        .chain(Chain::new(endpoints).rule(Rule::new().vmap(SERVICE_KEY, "no-endpoint-services")))
        .chain(Chain::new(firewall).rule(Rule::new().vmap(SERVICE_KEY, "firewall-ips")))
        .chain(Chain::new(node_ports).rule(
            Rule::new().in_set([Field::IpDaddr], "nodeport-ips").vmap(PORT_KEY, "no-endpoint-nodeports"),
        ))
        .chain(
            Chain::new(ips)
                .rule(Rule::new().in_set([Field::IpDaddr], "cluster-ips").reject(Reject::PortUnreachable))
                .rule(Rule::new().in_prefix(Field::IpDaddr, Cluster::service_network(), false).drop()),
        )
        .chain(chain("filter-prerouting", Hook::Prerouting, -110, &[firewall]))
        .chain(chain("filter-input", Hook::Input, -110, &[node_ports, endpoints]))
        .chain(chain("filter-forward", Hook::Forward, -110, &[endpoints, ips]))
        .chain(chain("filter-output", Hook::Output, -110, &[endpoints, firewall]))
        .chain(chain("filter-output-post-dnat", Hook::Output, -90, &[ips]))
}

/// What is there before any service: base chains, the map of services, masquerade by a mark.
fn base() -> Transaction {
    let nat = |name: &str, hook, priority| Chain::base(name, ChainKind::Nat, hook, priority);
    let masked = Statement::Compare {
        field: Field::Mark,
        mask: Some(Value::new().number(MARK)),
        comparison: Comparison::NotEqual,
        value: Value::new().number(MARK),
    };
    let table = Table::new(Family::Ip, TABLE)
        .set(Set::new(service_ips()))
        .chain(
            Chain::new("services").rule(Rule::new().vmap(SERVICE_KEY, "service-ips")).rule(
                Rule::new()
                    .in_set([Field::IpDaddr], "nodeport-ips")
                    .vmap([Field::L4Proto, Field::ThDport], "service-nodeports"),
            ),
        )
        .chain(
            Chain::new("masquerading")
                .rule(Rule::new().statement(masked).return_())
                .rule(Rule::new().statement(Statement::SetMark(0)))
                .rule(Rule::new().masquerade(NatFlags::FULLY_RANDOM)),
        )
        .chain(Chain::new(MARK_CHAIN).rule(Rule::new().statement(Statement::SetMark(MARK))))
        .chain(nat("nat-prerouting", Hook::Prerouting, priority::DSTNAT).rule(Rule::new().jump("services")))
        .chain(nat("nat-output", Hook::Output, priority::DSTNAT).rule(Rule::new().jump("services")))
        .chain(
            nat("nat-postrouting", Hook::Postrouting, priority::SRCNAT)
                .rule(Rule::new().jump("masquerading")),
        );
    Transaction::create(&checks(table))
}

fn services(cluster: &Cluster, indices: std::ops::Range<u32>, transaction: &mut Transaction) {
    let map = service_ips();
    for index in indices.clone() {
        transaction.add_chain(&Chain::new(service_chain(index)));
        for endpoint in cluster.endpoints(index) {
            transaction.add_chain(&Chain::new(endpoint_chain(index, endpoint)));
        }
    }
    for index in indices {
        service(cluster, index, &map, transaction);
    }
}

fn service(cluster: &Cluster, index: u32, map: &Arc<SetSpec>, transaction: &mut Transaction) {
    let address = Cluster::cluster_ip(index);
    let chain = service_chain(index);
    let key = Value::new().ipv4(address).protocol(TCP).port(PORT);
    let element = Element::data(Verdict::Goto(chain.clone()));
    // An `add element` command each, as kube-proxy writes them.
    transaction.push(Operation::AddElements(Arc::clone(map), vec![(key, element)]));
    let ip = (Value::new().ipv4(address), Element::default());
    transaction.push(Operation::AddElements(cluster_ips(), vec![ip]));
    let from_outside = Rule::new()
        .equal(Field::IpDaddr, address)
        .l4proto(TCP)
        .equal(Field::ThDport, Value::new().port(PORT))
        .in_prefix(Field::IpSaddr, Cluster::pod_network(), true)
        .jump(MARK_CHAIN);
    transaction.add_rule(&chain, from_outside);
    let endpoints: Vec<_> = cluster.endpoints(index).collect();
    let verdicts = (0..).zip(&endpoints).map(|(number, endpoint)| {
        (Value::new().number(number), Verdict::Goto(endpoint_chain(index, *endpoint)))
    });
    let field = Field::random(endpoints.len() as u32);
    let pick = Statement::VerdictOf { field, verdicts: verdicts.collect() };
    transaction.add_rule(&chain, Rule::new().statement(pick));
    for endpoint in endpoints {
        let chain = endpoint_chain(index, endpoint);
        transaction.add_rule(&chain, Rule::new().equal(Field::IpSaddr, endpoint).jump(MARK_CHAIN));
        let to =
            NatTarget::Addresses { first: endpoint.into(), last: endpoint.into(), ports: Some((PORT, PORT)) };
        let dnat =
            Statement::Nat { kind: NatKind::Destination, family: Family::Ip, to, flags: NatFlags::default() };
        transaction.add_rule(&chain, Rule::new().l4proto(TCP).statement(dnat));
    }
}

/// A letter first, then what stands for a hash of the rest.
fn service_chain(index: u32) -> String {
    format!("service-{:08X}-default/{}/tcp/http", index.wrapping_mul(0x9e37_79b1), Cluster::name(index))
}

fn endpoint_chain(index: u32, endpoint: Ipv4Addr) -> String {
    let hash = (index ^ endpoint.to_bits()).wrapping_mul(0x9e37_79b1);
    format!("endpoint-{hash:08X}-default/{}/tcp/http__{endpoint}/{PORT}", Cluster::name(index))
}

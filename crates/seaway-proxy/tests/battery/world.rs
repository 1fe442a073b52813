//! A scenario's cluster on a real network.

use std::collections::BTreeSet;
use std::sync::Arc;

use seaway_model::{Changes, Node as NodeObject, NodePlan, ObjectName, PlanDiff, ProxySettings, Snapshot};
use seaway_net::conntrack::{Conntrack, Filter, Tuple};
use seaway_net::netns::NetNs;
use seaway_net::nft::Kernel;
use seaway_proxy::{FlowCleaner, NftablesDriver, Report, ServiceDriver, leaves_flows};

use crate::addresses::*;
use crate::calls::{Call, check_all};
use crate::objects::{Svc, node_object};
use crate::plan;
use crate::topology::Loan;

/// A driver of the kind under test that knows nothing yet.
pub(crate) fn new_driver(node: &NetNs) -> Box<dyn ServiceDriver> {
    Box::new(NftablesDriver::new(node.run(|| Kernel::open().unwrap()).unwrap()))
}

pub(crate) struct World {
    pub(crate) topology: Loan,
    pub(crate) snapshot: Snapshot,
    pub(crate) settings: ProxySettings,
    pub(crate) plan: NodePlan,
    changes: Changes,
    driver: Option<Box<dyn ServiceDriver>>,
    cleaner: FlowCleaner,
}

impl World {
    /// A cluster of two nodes without any Service.
    pub(crate) fn new() -> Self {
        Self::with(plan::settings())
    }

    pub(crate) fn with(settings: ProxySettings) -> Self {
        let topology = Loan::new();
        let cleaner = || FlowCleaner::start(Conntrack::open().unwrap()).unwrap();
        let cleaner = topology.node().run(cleaner).unwrap();
        let mut world = Self {
            topology,
            settings,
            cleaner,
            snapshot: Snapshot::default(),
            plan: plan::empty(),
            changes: Changes::everything(),
            driver: None,
        };
        world.set_node(Node, node_object(Node));
        world.set_node(OtherNode, node_object(OtherNode));
        world.set_service_networks(&[SERVICE_NETWORK]);
        world
    }

    pub(crate) fn set_node(&mut self, host: Host, object: NodeObject) {
        let name: Arc<str> = host.node_name().unwrap().into();
        self.snapshot.nodes.insert_mut(name.clone(), Arc::new(object));
        self.changes.nodes.insert(name);
    }

    /// Sets the networks that cluster IPs come from.
    pub(crate) fn set_service_networks(&mut self, networks: &[&str]) {
        let both = networks.iter().flat_map(|net| Family::BOTH.map(|family| family.net(net)));
        let name: Arc<str> = "kubernetes".into();
        self.snapshot.service_cidrs.insert_mut(name.clone(), both.collect());
        self.changes.service_cidrs.insert(name);
    }

    /// Sets a Service and its EndpointSlices.
    pub(crate) fn set(&mut self, service: &Svc) -> &mut Self {
        let name = service.name.clone();
        self.snapshot.services.insert_mut(name.clone(), Arc::new(service.complete()));
        let slices = service.slices().into_iter().map(|(name, slice)| (name.into(), Arc::new(slice)));
        self.snapshot.slices.insert_mut(name.clone(), slices.collect());
        self.changes.services.insert(name);
        self
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.snapshot.services.contains_key(&ObjectName::new("default", name))
    }

    /// Deletes a Service and its EndpointSlices.
    pub(crate) fn delete(&mut self, name: &str) -> &mut Self {
        let name = ObjectName::new("default", name);
        assert!(self.snapshot.services.remove_mut(&name));
        self.snapshot.slices.remove_mut(&name);
        self.changes.services.insert(name);
        self
    }

    /// Brings what changed into the kernel.
    pub(crate) fn apply(&mut self) -> Report {
        let first = self.driver.is_none();
        let diff = self.follow();
        let driver = self.driver.get_or_insert_with(|| new_driver(self.topology.node()));
        let report = driver.apply(&self.plan, &diff).unwrap();
        assert_eq!(report.refused, []);
        if !first {
            let changed = diff.ports.iter().filter(|change| leaves_flows(change));
            self.cleaner.check(changed.map(|change| change.address), &self.plan);
        }
        report
    }

    /// Brings the plan up to date, and not the kernel.
    pub(crate) fn follow(&mut self) -> PlanDiff {
        self.snapshot.generation += 1;
        let changes = std::mem::take(&mut self.changes);
        plan::follow(&mut self.plan, &self.settings, &self.snapshot, &changes)
    }

    /// The driver ends, and another begins that knows nothing.
    pub(crate) fn restart(&mut self) -> Report {
        self.driver = None;
        let mut driver = new_driver(self.topology.node());
        let report = driver.sync(&self.plan).unwrap();
        self.driver = Some(driver);
        report
    }

    pub(crate) fn driver(&mut self) -> &mut dyn ServiceDriver {
        self.driver.get_or_insert_with(|| new_driver(self.topology.node())).as_mut()
    }

    /// Tells the calls that the plan has a say in, each with what it says.
    pub(crate) fn predicted(&self, calls: Vec<Call>) -> Vec<Call> {
        let predict = |mut call: Call| {
            let expected =
                call.each().map(|one| plan::predict(&self.plan, &one)).collect::<Option<Vec<_>>>()?;
            call.expected = expected.into_iter().next()?;
            Some(call)
        };
        calls.into_iter().filter_map(predict).collect()
    }

    /// Makes the calls, all at once, and panics where one does not lead to what is expected, or where the plan says
    /// something else, or where the kernel is not what the plan says.
    #[track_caller]
    pub(crate) fn expect(&mut self, calls: impl Into<Vec<Call>>) {
        let calls = calls.into();
        if !self.changes.is_empty() {
            self.apply();
        }
        let mut wrong = self.not_planned(&calls);
        wrong.extend(check_all(&self.topology, &calls));
        let plan = self.plan.clone();
        wrong.extend(self.driver().differences(&plan).unwrap().iter().map(ToString::to_string));
        self.judge(&wrong);
    }

    /// Panics if anything was wrong, and tells what is in the kernel.
    #[track_caller]
    pub(crate) fn judge(&self, wrong: &[String]) {
        if !wrong.is_empty() {
            let wrong: BTreeSet<&String> = wrong.iter().collect();
            let wrong: Vec<_> = wrong.into_iter().map(String::as_str).collect();
            panic!("{}\n\n{}\n", self.state(), wrong.join("\n"));
        }
    }

    /// Where the plan does not say what is expected.
    fn not_planned(&self, calls: &[Call]) -> Vec<String> {
        let each = calls.iter().flat_map(Call::each);
        each.filter_map(|call| {
            let planned = plan::predict(&self.plan, &call)?;
            (planned != call.call.expected)
                .then(|| format!("{call}: {:?} is expected, but planned is {planned:?}", call.call.expected))
        })
        .collect()
    }

    /// What the node's kernel has.
    fn state(&self) -> String {
        let mut text = self.topology.run("nft", "list ruleset");
        let mut conntrack = self.topology.node().run(|| Conntrack::open().unwrap()).unwrap();
        for flow in conntrack.list(&Filter::default()).unwrap() {
            let of =
                |tuple: &Tuple| format!("{:?} → {:?}", tuple.source_socket(), tuple.destination_socket());
            text += &format!(
                "\n{} {}, answers {}, status {:#x}",
                flow.original.protocol,
                of(&flow.original),
                of(&flow.reply),
                flow.status
            );
        }
        text
    }
}

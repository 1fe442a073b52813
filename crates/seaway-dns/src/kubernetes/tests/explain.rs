//! What is explained is what is served.

use super::*;
use crate::config;
use crate::metrics::{BlockLabels, Metrics};
use crate::plugins::cache::Cache;
use crate::plugins::hosts::Hosts;
use crate::plugins::loadbalance::LoadBalance;

const HOSTS: &str = "hosts {\n 192.0.2.1 a.example nginx-svc.default.svc.cluster.local\n fallthrough\n}";

/// A server's chain, with the outside world or nobody behind it.
fn chain(cache: &str, settings: Options, outside: bool, metrics: &Arc<Metrics>) -> Chain {
    let block = BlockLabels { server: "dns://:53".into(), zone: ".".into(), view: "".into() };
    let config = config(&format!(". {{\n{HOSTS}\n{cache}\n}}\n"));
    let mut plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(LoadBalance)];
    plugins
        .extend(config.cache.map(|it| Arc::new(Cache::new(it, metrics.clone(), &block)) as Arc<dyn Plugin>));
    plugins.push(Arc::new(Hosts::new(config.hosts.unwrap())));
    plugins.push(Arc::new(plugin(settings, &cluster())));
    if outside {
        plugins.push(Arc::new(Outside));
    }
    Chain::new(plugins)
}

fn config(corefile: &str) -> config::BlockConfig {
    let blocks = crate::corefile::parse("Corefile", corefile, &|_| None, &crate::corefile::Disk).unwrap();
    let outside = config::Outside { port: 53, read_file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    config::read(&blocks, &outside).unwrap().remove(0)
}

/// Without order, which is random, and times to live, which run down in between.
fn essence(outcome: Outcome) -> Result<Reply, Failure> {
    outcome.map(|mut reply| {
        reply.records_mut().for_each(|record| record.ttl = 0);
        reply.answers.sort_by_key(ToString::to_string);
        reply.additionals.sort_by_key(ToString::to_string);
        reply
    })
}

fn names() -> impl Strategy<Value = String> {
    let known = [
        "nginx-svc",
        "dual",
        "web",
        "web-0",
        "lonely",
        "eager",
        "site",
        "inner",
        "circle",
        "number",
        "default",
        "monitoring",
        "empty",
        "prometheus-k8s",
        "svc",
        "pod",
        "cluster",
        "local",
        "_http",
        "_tcp",
        "a",
        "example",
        "172-41-10-200",
        "200",
        "10",
        "41",
        "172",
        "in-addr",
        "ip6",
        "arpa",
        "*",
        "dns-version",
    ];
    let label =
        prop_oneof![9 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-z]{1,3}"];
    let end = proptest::sample::select(vec![
        "",
        "cluster.local.",
        "svc.cluster.local.",
        "default.svc.cluster.local.",
        "10.41.172.in-addr.arpa.",
        "default.pod.cluster.local.",
        "example.",
    ]);
    (proptest::collection::vec(label, 0..4), end).prop_map(|(labels, end)| {
        let front: String = labels.iter().map(|label| format!("{label}.")).collect();
        let name = format!("{front}{end}");
        if name.is_empty() { ".".to_owned() } else { name }
    })
}

proptest! {
    #[test]
    fn explained_is_served(
        names in proptest::collection::vec(names(), 1..20),
        kinds in proptest::collection::vec(0usize..8, 20),
        cache in proptest::sample::select(vec!["", "cache 30", "cache 5 example", "cache {\n keepttl\n}"]),
        pods in proptest::sample::select(vec![PodMode::Disabled, PodMode::Insecure, PodMode::Verified]),
        fallthrough in proptest::sample::select(vec![Fallthrough::Never, Fallthrough::Always]),
        outside in any::<bool>(),
    ) {
        use RecordType::{A, AAAA, ANY, AXFR, MX, PTR, SOA, SRV};
        let metrics = Arc::new(Metrics::new());
        let chain = chain(cache, Options { pods, fallthrough, ..options() }, outside, &metrics);
        // The second time some are out of the cache.
        for (name, kind) in names.iter().zip(&kinds).chain(names.iter().zip(&kinds)) {
            let query = query(name, [A, AAAA, ANY, AXFR, MX, PTR, SOA, SRV][*kind]);
            let before = metrics.text();
            let explained = chain.start().explain(&query);
            prop_assert_eq!(&explained.outcome.clone().map(essence), &chain.start().explain(&query).outcome.map(essence));
            prop_assert_eq!(before, metrics.text(), "explaining counts nothing");
            let served = futures::executor::block_on(async { chain.start().run(&query).await });
            prop_assert_eq!(explained.outcome.map(essence), Some(essence(served)), "{} {}", name, query.record_type);
        }
    }
}

#[test]
fn where_it_comes_from() {
    use crate::explain::OriginKind;
    let metrics = Arc::new(Metrics::new());
    let chain = chain("cache 30", options(), true, &metrics);
    let ask = |name: &str| {
        futures::executor::block_on(async { chain.start().run(&query(name, RecordType::A)).await })
    };
    let explain = |name: &str| chain.start().explain(&query(name, RecordType::A));
    for (name, kind, plugin) in [
        ("dual.default.svc.cluster.local.", OriginKind::Cluster, "kubernetes"),
        ("none.default.svc.cluster.local.", OriginKind::Cluster, "kubernetes"),
        ("a.example.", OriginKind::Hosts, "hosts"),
        ("www.example.com.", OriginKind::None, "outside"),
    ] {
        let it = explain(name);
        assert_eq!((it.origin.kind, it.plugin), (kind, plugin), "{name}");
    }
    ask("www.example.com.").unwrap();
    let cached = explain("www.example.com.");
    assert_eq!((cached.origin.kind, cached.origin.negative), (OriginKind::Cache, Some(false)));
    assert!(cached.origin.ttl_left.is_some_and(|left| left <= 30));
    // What stands for google.com in the cluster: an alias out of it, and what is kept of the name behind.
    let alias = explain("site.default.svc.cluster.local.").alias.unwrap();
    assert_eq!((&*alias.0.lower, alias.1.origin.kind), ("www.example.com.", OriginKind::Cache));
}

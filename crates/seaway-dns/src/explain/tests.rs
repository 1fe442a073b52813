use super::*;
use crate::config::{Outside, read};
use crate::corefile::{Disk, parse};
use crate::instance::{Instance, Shared};
use crate::kubernetes::Clusters;
use crate::metrics::Metrics;

async fn routes(corefile: &str) -> (Vec<Route>, Instance) {
    let metrics = Arc::new(Metrics::new());
    let (fatal, _) = tokio::sync::mpsc::channel(1);
    let shared = Shared { metrics: metrics.clone(), clusters: Clusters::new(None, metrics), fatal };
    let blocks = parse("Corefile", corefile, &|_| None, &Disk).unwrap();
    let read_file = |path: &str| std::fs::read_to_string(path);
    let configs = read(&blocks, &Outside { port: 53, read_file: &read_file }).unwrap();
    let instance = Instance::new(configs, &shared).await.unwrap();
    (instance.routes.clone(), instance)
}

fn asked(name: &str, kind: &str, server: Option<&str>) -> Asked {
    let server = server.map(|server| server.parse().unwrap());
    Asked { name: name.to_owned(), kind: kind.to_owned(), client: None, server }
}

#[tokio::test]
async fn blocks_and_plugins_are_named() {
    let corefile = "\
example.org {
    hosts {
        192.0.2.1 a.example.org
    }
}
. {
    bind 127.0.0.1
    cache
    forward . 192.0.2.53 192.0.2.54
}
other:1053 {
    whoami
}
";
    let (routes, _instance) = routes(corefile).await;
    let told = |name: &str, kind: &str, server: Option<&str>| {
        let it = explained(&routes, &asked(name, kind, server)).unwrap();
        let data: Vec<&str> = it.answers.iter().map(|record| record.data.as_str()).collect();
        let to: Vec<String> = it.origin.to.iter().map(ToString::to_string).collect();
        let rcode = it.rcode.as_deref().unwrap_or("?");
        let words = [rcode, &data.join(","), &it.plugin, it.block.as_deref().unwrap_or("-"), &to.join(",")];
        words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
    };
    let table = [
        ("a.example.org.", "A", Some("[::1]:53"), "NOERROR 192.0.2.1 hosts dns://:53 example.org."),
        ("A.example.org", "aaaa", Some("10.0.0.1:53"), "NOERROR hosts dns://:53 example.org."),
        ("b.example.org.", "A", Some("10.0.0.1:53"), "NXDOMAIN hosts dns://:53 example.org."),
        ("x.", "A", Some("10.0.0.1:53"), "REFUSED -"),
        ("x.", "A", None, "? forward dns://127.0.0.1:53 . 192.0.2.53:53,192.0.2.54:53"),
        ("x.other.", "A", Some("10.0.0.1:1053"), "NOERROR whoami dns://:1053 other."),
        ("x.other.", "A", Some("10.0.0.1:99"), "REFUSED -"),
    ];
    for (name, kind, server, expected) in table {
        assert_eq!(told(name, kind, server), expected, "{name} {kind} {server:?}");
    }
    for (name, kind) in [("x.", "NONE"), (&*"x".repeat(64), "A"), ("a..b", "A")] {
        assert!(explained(&routes, &asked(name, kind, None)).is_err(), "{name} {kind}");
    }
}

#[tokio::test]
async fn served_on_a_socket() {
    let (routes, _instance) = routes(". {\n    cache\n    forward . 192.0.2.53\n}\n").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/dns.sock");
    let router = router(Arc::new(ArcSwap::from_pointee(routes)));
    let listener = seaway_http::unix::bind(&path).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let it: Explained =
        seaway_http::unix::get(&path, "/v1/explain?name=google.com.&type=A&client=10.244.1.2").await.unwrap();
    assert_eq!((it.rcode, it.origin.kind), (None, OriginKind::Forward));
    let status: Status = seaway_http::unix::get(&path, "/v1/status").await.unwrap();
    let plugins: Vec<&str> = status.blocks[0].plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    assert_eq!(plugins, ["cache", "forward"]);
    assert!(!status.blocks[0].plugins[1].upstreams[0].down);
    server.abort();
}

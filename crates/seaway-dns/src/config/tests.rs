use super::*;
use crate::corefile::{Disk, parse};

fn read_text(text: &str) -> Result<Vec<BlockConfig>, CorefileError> {
    let env = |_: &str| None;
    let blocks = parse("Corefile", text, &env, &Disk)?;
    let read_file = |path: &str| match path {
        "/etc/resolv.conf" => Ok("nameserver 192.0.2.53\nnameserver fd00::53\nsearch x\n".to_owned()),
        "/empty" => Ok(String::new()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    read(&blocks, &Outside { port: 53, read_file: &read_file })
}

/// What kubeadm installs, and the seeds show.
const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

#[test]
fn what_kubeadm_installs() {
    let configs = read_text(KUBEADM).unwrap();
    let [config] = &configs[..] else { panic!("{configs:?}") };
    assert_eq!(
        config.plugin_names(),
        [
            "reload",
            "ready",
            "health",
            "prometheus",
            "errors",
            "loadbalance",
            "cache",
            "kubernetes",
            "loop",
            "forward"
        ]
    );
    let health = config.health.unwrap();
    assert_eq!((health.address.port(), health.lameduck.as_secs()), (8080, 5));
    assert_eq!(config.ready.unwrap().port(), 8181);
    assert_eq!(config.prometheus.unwrap().to_string(), "[::]:9153");
    let kubernetes = config.kubernetes.as_ref().unwrap();
    assert_eq!((kubernetes.pods, kubernetes.ttl), (kubernetes::PodMode::Insecure, 30));
    assert_eq!(kubernetes.primary_zone().unwrap().as_str(), "cluster.local.");
    let forward = &config.forward[0];
    assert_eq!(forward.max_concurrent, 1000);
    let to: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
    assert_eq!(to, ["192.0.2.53:53", "[fd00::53]:53"]);
}

#[test]
fn other_files_that_are_right() {
    for text in [
        ". {\n}\n",
        "a.example:1053 b.example {\n log\n whoami\n}\n. {\n forward . 192.0.2.1:5353 [fd00::1]:53 dns://192.0.2.2\n}\n",
        ". {\n bind 127.0.0.1 ::1\n}\n",
        ". {\n bind 127.0.0.1\n}\n. {\n bind 127.0.0.2\n}\n",
        ". {\n forward a.example 192.0.2.1\n forward . 192.0.2.2 {\n  policy sequential\n  health_check 1s no_rec domain a.\n  except b.example\n  failover SERVFAIL REFUSED\n }\n}\n",
        ". {\n cache 3600 a.example {\n  success 5000 60 5\n  denial 2500 30\n  prefetch 10 1m 10%\n  serve_stale 1h verify\n  servfail 10s\n  keepttl\n }\n}\n",
        ". {\n log . {combined}\n log a.example \"{type} {name}\" {\n  class denial error\n }\n}\n",
        ". {\n hosts /etc/hosts a.example {\n  192.0.2.1 x.a.example y\n  ttl 60\n  no_reverse\n  reload 1s\n  fallthrough\n }\n}\n",
        ". {\n kubernetes cluster.local {\n  endpoint https://192.0.2.1\n  namespaces a b\n  endpoint_pod_names\n  noendpoints\n  ignore empty_service\n  startup_timeout 1s\n }\n}\n",
        "10.0.0.0/8 {\n whoami\n}\n",
        ". {\n health :8081\n ready 127.0.0.1:8182\n prometheus localhost:9154\n reload 10s 5s\n errors\n loop\n loadbalance round_robin\n}\n",
    ] {
        if let Err(error) = read_text(text) {
            panic!("{}", error.render());
        }
    }
}

#[test]
fn errors_say_where_and_what_is_accepted() {
    for (text, expected) in [
        (". {\n kubernets\n}\n", "Corefile:2:2: unknown plugin `kubernets` (did you mean `kubernetes`?"),
        (". {\n rewrite name a b\n}\n", "Corefile:2:2: the plugin `rewrite` is not supported yet"),
        (
            ". {\n kubernetes cluster.local {\n  tll 5\n }\n}\n",
            "Corefile:3:3: unknown property of kubernetes `tll` (did you mean `ttl`? Accepted: endpoint, kubeconfig",
        ),
        (
            ". {\n kubernetes cluster.local {\n  pods insecur\n }\n}\n",
            "Corefile:3:8: unknown mode of pods `insecur` (did you mean `insecure`? Accepted: disabled, insecure, verified)",
        ),
        (
            ". {\n kubernetes cluster.local {\n  ttl 3601\n }\n}\n",
            "Corefile:3:7: `3601` is not a number from 0 to 3600",
        ),
        (
            ". {\n kubernetes in-addr.arpa\n}\n",
            "Corefile:2:2: `kubernetes` needs a zone that is not a reverse zone",
        ),
        (
            ". {\n kubernetes cluster.local {\n  labels a=b\n }\n}\n",
            "Corefile:3:3: the property `labels` of kubernetes is not supported yet",
        ),
        (". {\n forward .\n}\n", "Corefile:2:2: `forward` needs an upstream"),
        (". {\n forward . /none\n}\n", "Corefile:2:12: `/none` is no address, and no file that can be read"),
        (". {\n forward . /empty\n}\n", "Corefile:2:12: /empty has no nameserver"),
        (". {\n forward . tls://192.0.2.1\n}\n", "Corefile:2:12: the transport tls:// is not supported yet"),
        (
            ". {\n forward . 192.0.2.1 {\n  policy best\n }\n}\n",
            "Corefile:3:10: unknown policy `best` (accepted: random, round_robin, sequential)",
        ),
        (". {\n forward . 192.0.2.1 {\n  max_concurrent x\n }\n}\n", "Corefile:3:18: `x` is not a number"),
        (
            ". {\n cache 30 {\n  disable succes\n }\n}\n",
            "Corefile:3:11: unknown kind of answer `succes` (did you mean `success`?",
        ),
        (
            ". {\n health {\n  lameduck 5x\n }\n}\n",
            "Corefile:3:12: `5x` is not a duration (accepted: a number with a unit",
        ),
        (". {\n errors\n errors\n}\n", "Corefile:3:2: `errors` is there twice"),
        (". {\n loop x\n}\n", "Corefile:2:7: `loop` takes no arguments"),
        (". {\n prometheus nowhere\n}\n", "Corefile:2:13: `nowhere` is no address to listen at"),
        (". {\n bind eth0\n}\n", "Corefile:2:7: `eth0` is not an IP address"),
        (". {\n}\n. {\n}\n", "Corefile:3:1: .:53 is served twice"),
        (". {\n log . \"{nam}\"\n}\n", "Corefile:2:8: unknown placeholder {nam} (accepted: type"),
        ("https://. {\n}\n", "Corefile:1:1: the transport https:// is not supported yet"),
    ] {
        let error = read_text(text).expect_err(text).to_string();
        assert!(error.starts_with(expected), "{text:?}\n got {error}\nwant {expected}");
    }
}

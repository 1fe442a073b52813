//! The objects of `kube-system` that a lab starts with: cluster DNS, and flannel's configuration for people who look for it.

use serde_json::{Value, json};

use crate::state::Design;

/// The Corefile that kubeadm installs, as far as `seaway dns` is concerned.
const COREFILE: &str = "\
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
    cache 30
    loop
    reload
    loadbalance
}
";

/// flannel's net-conf.json for the lab's pod network.
pub(crate) fn net_conf(design: &Design) -> String {
    let of = |v6: bool| design.pod_cidrs.iter().find(|net| net.addr().is_ipv6() == v6);
    let mut conf = json!({
        "EnableIPv4": of(false).is_some(),
        "EnableIPv6": of(true).is_some(),
        "Backend": {"Type": design.backend.name()},
    });
    for (name, network) in [("Network", of(false)), ("IPv6Network", of(true))] {
        if let Some(network) = network {
            conf[name] = json!(network);
        }
    }
    format!("{conf:#}\n")
}

/// The objects that can be created before there are nodes.
pub(crate) fn objects(design: &Design) -> Vec<Value> {
    vec![
        service_account(),
        config_map("coredns", json!({"Corefile": COREFILE})),
        config_map("kube-flannel-cfg", json!({"net-conf.json": net_conf(design)})),
        dns_service(design),
    ]
}

/// What is created when all nodes are ready, for the scheduler to spread it.
pub(crate) fn workloads() -> Vec<Value> {
    vec![dns_deployment()]
}

fn service_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns", "namespace": "kube-system"}})
}

fn config_map(name: &str, data: Value) -> Value {
    let metadata = json!({"name": name, "namespace": "kube-system"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}

fn dns_labels() -> Value {
    json!({"k8s-app": "kube-dns"})
}

fn dns_service(design: &Design) -> Value {
    let addresses = design.service_addresses(10);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilyPolicy": if addresses.len() > 1 { "PreferDualStack" } else { "SingleStack" },
            "selector": dns_labels(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                {"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": 9153},
            ],
        },
    })
}

fn dns_deployment() -> Value {
    let container = json!({
        "name": "coredns", "image": "registry.k8s.io/coredns/coredns:v1.13.1",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": 8080}, "initialDelaySeconds": 60, "timeoutSeconds": 5, "failureThreshold": 5,
        },
        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": true}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": dns_labels()},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": dns_labels()},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": dns_labels()},
                "spec": {
                    "serviceAccountName": "coredns",
                    // The DNS pods must not ask themselves.
                    "dnsPolicy": "Default",
                    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
                    "containers": [container],
                    "volumes": [{
                        "name": "config-volume",
                        "configMap": {"name": "coredns", "items": [{"key": "Corefile", "path": "Corefile"}]},
                    }],
                },
            },
        },
    })
}

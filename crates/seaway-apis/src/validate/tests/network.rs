use serde_json::json;

use super::*;

#[test]
fn services() {
    check(
        &[
            (json!({"ports": [{"port": 80}]}), ""),
            (json!({}), "spec.ports: Required value"),
            (json!({"clusterIP": "None"}), ""),
            (
                json!({"type": "X", "ports": [{"port": 80}]}),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
                "spec.ports[1].name: Required value",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}),
                "spec.ports[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: ",
            ),
            (json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}]}), ""),
            (
                json!({"ports": [{"port": 0, "targetPort": 1}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "targetPort": 70000}]}),
                "spec.ports[0].targetPort: Invalid value: 70000",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30080}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (json!({"type": "ExternalName", "externalName": "example.com."}), ""),
            (
                json!({"type": "ExternalName", "externalName": "a b"}),
                "spec.externalName: Invalid value: \"a b\"",
            ),
            (
                json!({"ports": [{"port": 80}], "sessionAffinity": "X"}),
                "spec.sessionAffinity: Unsupported value: \"X\"",
            ),
            (
                json!({"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIP": "x", "clusterIPs": ["x"]}),
                "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range",
            ),
            (
                json!({"ports": [{"port": 80}], "selector": {"a": "b c"}}),
                "spec.selector: Invalid value: \"b c\"",
            ),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": [{"port": 80}], "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible",
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0"]}),
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR",
            ),
            (json!({"ports": [{"port": 80}], "trafficDistribution": "PreferSameNode"}), ""),
            (
                json!({"ports": [{"port": 80}], "trafficDistribution": "Near"}),
                "spec.trafficDistribution: Unsupported value: \"Near\"",
            ),
            (
                json!({"ports": [{"port": 80}], "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
                "spec.loadBalancerSourceRanges: Forbidden: may only be used when",
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 80}], "healthCheckNodePort": 30000}),
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when",
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIPs": ["10.0.0.1", "10.0.0.2"], "clusterIP": "10.0.0.1"}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP",
            ),
            (
                json!({"ports": [{"port": 80}], "clusterIPs": ["fd00::1"], "clusterIP": "fd00::1", "ipFamilies": ["IPv4"]}),
                "spec.clusterIPs[0]: Invalid value: \"fd00::1\": expected an IPv4 value",
            ),
            (
                json!({"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv4"]}),
                "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
            ),
        ],
        of_service,
    );
}

#[test]
fn network() {
    check(
        &[
            (json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}), ""),
            (
                json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}]}]}),
                "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"subsets": [{"ports": [{"port": 80}]}]}),
                "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            ),
        ],
        |object| of("", "endpoints", object),
    );
    check(
        &[
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
                "",
            ),
            (json!({"endpoints": []}), "addressType: Required value"),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": ["fd00::1"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": [{"addresses": []}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            (
                json!({"addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
                "endpoints: Too many: 1001: must have at most 1000 items",
            ),
        ],
        |object| of("discovery.k8s.io", "endpointslices", object),
    );
    let path = |kind: &str, path: &str| json!({"rules": [{"http": {"paths": [{"path": path, "pathType": kind, "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]});
    check(
        &[
            (path("Prefix", "/"), ""),
            (json!({}), "spec: Invalid value: {}: either `defaultBackend` or `rules` must be specified"),
            (
                path("", "/"),
                "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
            ),
            (
                path("Exact", "a"),
                "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            ),
            (
                json!({"defaultBackend": {"service": {"name": "s", "port": {}}}}),
                "spec.defaultBackend.service.port: Required value: port name or number is required",
            ),
            (
                json!({"rules": [{"host": "1.2.3.4"}]}),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ),
        ],
        |spec| of("networking.k8s.io", "ingresses", json!({ "spec": spec })),
    );
    let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
    check(
        &[
            (json!({"podSelector": {}}), ""),
            (from(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (json!({"policyTypes": ["X"]}), "spec.policyTypes[0]: Unsupported value: \"X\""),
            (
                json!({"egress": [{"ports": [{"port": 80, "endPort": 70}]}]}),
                "spec.egress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`",
            ),
        ],
        |spec| of("networking.k8s.io", "networkpolicies", json!({ "spec": spec })),
    );
}

use serde_json::json;

use super::*;

#[test]
fn pods() {
    check(
        &[
            (json!({}), ""),
            (json!({"containers": []}), "spec.containers: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (json!({"dnsPolicy": "X"}), "spec.dnsPolicy: Unsupported value: \"X\""),
            (
                json!({"dnsPolicy": "None"}),
                "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {}}),
                "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": [".", "a.b."], "options": [{"name": "ndots"}]}}),
                "",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
                "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\"",
            ),
            (
                json!({"dnsConfig": {"nameservers": ["x"]}}),
                "spec.dnsConfig.nameservers[0]: Invalid value: \"x\": must be a valid IP address",
            ),
            (
                json!({"dnsConfig": {"searches": ["A_b"]}}),
                "spec.dnsConfig.searches[0]: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
            ),
            (json!({"dnsConfig": {"searches": vec!["a"; 33]}}), "spec.dnsConfig.searches: Invalid value: "),
            (
                json!({"dnsConfig": {"options": [{}]}}),
                "spec.dnsConfig.options[0]: Required value: must not be empty",
            ),
            (
                json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
                "spec.hostAliases[0].ip: Invalid value: \"x\"",
            ),
            (
                json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["A"]}]}),
                "spec.hostAliases[0].hostnames[0]: Invalid value: \"A\"",
            ),
            (
                json!({"volumes": [{"name": "v"}, {"name": "v"}]}),
                "spec.volumes[1].name: Duplicate value: \"v\"",
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]}),
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"volumes": [{"name": "v", "configMap": {}}]}),
                "spec.volumes[0].configMap.name: Required value",
            ),
            (
                json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512}}]}),
                "spec.volumes[0].secret.defaultMode: Invalid value: 512",
            ),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "../t"}}]}}]}),
                "spec.volumes[0].projected.sources[0].serviceAccountToken.path: Invalid value: \"../t\": must not contain '..'",
            ),
            (
                json!({"tolerations": [{"operator": "Equal", "value": "x"}]}),
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists",
            ),
            (json!({"hostname": "a.b"}), "spec.hostname: Invalid value: \"a.b\""),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (json!({"nodeSelector": {"a": "b c"}}), "spec.nodeSelector: Invalid value: \"b c\""),
            (json!({"initContainers": [{"name": "i"}]}), "spec.initContainers[0].image: Required value"),
        ],
        of_pod,
    );
}

#[test]
fn containers() {
    check(
        &[
            (json!({"name": ""}), "spec.containers[0].name: Required value"),
            (
                json!({"name": "A"}),
                "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist",
            ),
            (json!({"image": ""}), "spec.containers[0].image: Required value"),
            (
                json!({"image": " x"}),
                "spec.containers[0].image: Invalid value: \" x\": must not have leading or trailing whitespace",
            ),
            (
                json!({"imagePullPolicy": "No"}),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"No\"",
            ),
            (
                json!({"ports": [{"containerPort": 0}]}),
                "spec.containers[0].ports[0].containerPort: Required value",
            ),
            (
                json!({"ports": [{"containerPort": 65536}]}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
                "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"ports": [{"containerPort": 1, "name": "1"}]}),
                "spec.containers[0].ports[0].name: Invalid value: \"1\": must contain at least one letter",
            ),
            (
                json!({"ports": [{"containerPort": 1, "protocol": "X"}]}),
                "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\"",
            ),
            (json!({"env": [{"name": ""}]}), "spec.containers[0].env[0].name: Required value"),
            (
                json!({"securityContext": {"allowPrivilegeEscalation": false, "privileged": true}}),
                "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set",
            ),
            (
                json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}}),
                "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false: cannot set",
            ),
            (json!({"env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name: Invalid value: \"a=b\""),
            (
                json!({"env": [{"name": "A", "valueFrom": {}}]}),
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of",
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value",
            ),
            (
                json!({"envFrom": [{}]}),
                "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of",
            ),
            (json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}), ""),
            (
                json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}]}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/x"}]}),
                "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"/x\": must be a relative path",
            ),
            (
                json!({"readinessProbe": {}}),
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ),
            (
                json!({"readinessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
                "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (
                json!({"readinessProbe": {"httpGet": {"port": 0}}}),
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"livenessProbe": {"tcpSocket": {"port": "http"}, "successThreshold": 2}}),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"resources": {"limits": {"memory": "x"}, "requests": {"memory": "1"}}}),
                "spec.containers[0].resources.limits[memory]: Invalid value: \"x\": quantities must match",
            ),
        ],
        of_container,
    );
}

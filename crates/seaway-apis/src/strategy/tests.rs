use super::*;
use crate::resource::resources;

fn creation(namespace: &str) -> Creation<'_> {
    Creation { now: "2026-01-01T00:00:00.5Z".parse().unwrap(), uid: "u-1", suffix: "x2z4b", namespace }
}

#[test]
fn creation_sets_identity_and_drops_status() {
    let deployments = resources().lookup("apps", "v1", "deployments").unwrap();
    let mut object = json!({
        "metadata": {"generateName": "web-", "resourceVersion": "9", "uid": "mine", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"replicas": 1}, "status": {"replicas": 7},
    });
    prepare_create(deployments, &mut object, &creation("d")).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "generateName": "web-", "name": "web-x2z4b", "namespace": "d", "uid": "u-1",
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
            },
            "spec": {"replicas": 1}, "status": {},
        })
    );
}

#[test]
fn creation_refuses_other_kinds_and_namespaces() {
    let pods = resources().lookup("", "v1", "pods").unwrap();
    for object in [
        json!({"apiVersion": "apps/v1"}),
        json!({"kind": "Service"}),
        json!({"metadata": {"namespace": "other"}}),
        json!({"metadata": 1}),
        json!([]),
        json!("x"),
    ] {
        assert_eq!(
            prepare_create(pods, &mut object.clone(), &creation("d")).unwrap_err().code,
            400,
            "{object}"
        );
    }
}

#[test]
fn namespaces_and_secrets() {
    let namespaces = resources().lookup("", "v1", "namespaces").unwrap();
    let mut object = json!({"metadata": {"name": "a"}});
    prepare_create(namespaces, &mut object, &creation("")).unwrap();
    assert_eq!(object["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    assert_eq!(
        (&object["spec"], &object["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    let secrets = resources().lookup("", "v1", "secrets").unwrap();
    let mut object = json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}, "data": {"o": "eA=="}});
    prepare_create(secrets, &mut object, &creation("d")).unwrap();
    assert_eq!(object["data"], json!({"o": "eA==", "k": "dg=="}));
    assert!(object.get("stringData").is_none());
}

#[test]
fn updates_keep_status_and_count_generations() {
    let deployments = resources().lookup("apps", "v1", "deployments").unwrap();
    let old = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "uid": "u-1", "generation": 1, "resourceVersion": "5"},
        "spec": {"replicas": 1}, "status": {"replicas": 1},
    });
    let mut new = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    prepare_update(deployments, None, &old, &mut new).unwrap();
    assert_eq!(new["metadata"]["generation"], 2);
    assert_eq!(new["status"], old["status"]);
    assert_eq!((&new["metadata"]["uid"], &new["metadata"]["resourceVersion"]), (&json!("u-1"), &json!("5")));

    let mut new = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    prepare_update(deployments, Some("status"), &old, &mut new).unwrap();
    assert_eq!(
        (&new["spec"], &new["status"], &new["metadata"]),
        (&old["spec"], &json!({"replicas": 9}), &old["metadata"])
    );

    let mut same = old.clone();
    prepare_update(deployments, None, &old, &mut same).unwrap();
    assert!(unchanged(&old, &same));

    let mut other = json!({"metadata": {"name": "db"}});
    assert_eq!(prepare_update(deployments, None, &old, &mut other).unwrap_err().code, 400);
    let mut other = json!({"metadata": {"name": "web", "uid": "u-2"}});
    assert_eq!(prepare_update(deployments, None, &old, &mut other).unwrap_err().code, 409);
}

#[test]
fn services_keep_their_addresses() {
    let services = resources().lookup("", "v1", "services").unwrap();
    let old = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
        "status": {"loadBalancer": {}},
    });
    let mut new = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
    prepare_update(services, None, &old, &mut new).unwrap();
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    let mut new = old.clone();
    new["spec"]["type"] = "ClusterIP".into();
    prepare_update(services, None, &old, &mut new).unwrap();
    assert!(
        new["spec"]["ports"][0].get("nodePort").is_none()
            && new["spec"].get("externalTrafficPolicy").is_none()
    );
    let mut new = old.clone();
    new["spec"]["type"] = "ExternalName".into();
    prepare_update(services, None, &old, &mut new).unwrap();
    assert!(new["spec"].get("clusterIP").is_none() && new["spec"].get("ipFamilies").is_none());
}

#[test]
fn services_carry_ports_only_while_they_need_them() {
    let services = resources().lookup("", "v1", "services").unwrap();
    let old = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001, "loadBalancerClass": "a/b",
            "allocateLoadBalancerNodePorts": true, "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    });
    let changed = |change: Value| {
        let mut new = crate::patch::merge(&old, &json!({ "spec": change }));
        prepare_update(services, None, &old, &mut new).unwrap();
        new
    };
    let without = json!([{"port": 80, "protocol": "TCP"}]);
    let same = changed(json!({"ports": without, "healthCheckNodePort": null}));
    assert_eq!((&same["spec"], &same["status"]), (&old["spec"], &old["status"]));
    let own = changed(json!({"ports": without, "allocateLoadBalancerNodePorts": false}));
    assert_eq!(own["spec"]["ports"], without);
    let cluster = changed(json!({"externalTrafficPolicy": "Cluster"}));
    assert!(cluster["spec"].get("healthCheckNodePort").is_none());
    let plain = changed(json!({"type": "ClusterIP"}));
    assert_eq!(plain["spec"], json!({"type": "ClusterIP", "ports": without}));
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
}

#[test]
fn deletion_has_a_grace_period_that_only_shrinks() {
    let pods = resources().lookup("", "v1", "pods").unwrap();
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
    assert_eq!(grace_period(pods, &pod, None), 30);
    assert_eq!(grace_period(pods, &pod, Some(5)), 5);
    assert_eq!(grace_period(pods, &json!({"spec": {}}), None), 0);
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let going = begin_deletion(pods, &pod, now, 30);
    assert_eq!(going["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(begin_deletion(pods, &going, now, 60), going);
    assert_eq!(begin_deletion(pods, &going, now, 1)["metadata"]["deletionGracePeriodSeconds"], 1);
}

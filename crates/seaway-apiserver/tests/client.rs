//! kube-rs against the server: what controllers rely on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something fails")]

mod common;

use std::collections::BTreeMap;

use common::TestServer;
use futures::{StreamExt as _, TryStreamExt as _};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str, labels: Value) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": labels}}))
}

fn pod(name: &str, node: Option<&str>) -> Pod {
    object(json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "a", "image": "pause"}]},
    }))
}

fn code(error: &kube::Error) -> (u16, String, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("{other:?}"),
    }
}

async fn create<K>(api: &Api<K>, object: &K) -> K
where
    K: Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), object).await.unwrap()
}

/// A request by hand; the answer's text.
async fn raw(client: &Client, method: &str, path: &str, body: &Value) -> Result<String, kube::Error> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    client.request_text(request.body(body.to_string().into_bytes()).unwrap()).await
}

#[test]
fn optimistic_concurrency() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let first = create(&api, &config_map("a", json!({}))).await;
        let mut second = first.clone();
        second.data = Some(BTreeMap::from([("k".to_owned(), "v".to_owned())]));
        let second = api.replace("a", &PostParams::default(), &second).await.unwrap();
        assert_ne!(first.resource_version(), second.resource_version());
        // Nothing changed: nothing is written.
        let same = api.replace("a", &PostParams::default(), &second).await.unwrap();
        assert_eq!(same.resource_version(), second.resource_version());
        let error = api.replace("a", &PostParams::default(), &first).await.unwrap_err();
        let (status, reason, message) = code(&error);
        assert_eq!((status, reason.as_str()), (409, "Conflict"));
        assert!(
            message.contains("the object has been modified; please apply your changes to the latest version")
        );
        let error = api.create(&PostParams::default(), &config_map("a", json!({}))).await.unwrap_err();
        assert_eq!(code(&error).1, "AlreadyExists");
        let stale = json!({"metadata": {"resourceVersion": first.resource_version()}, "data": {"x": "y"}});
        let error = api.patch("a", &PatchParams::default(), &Patch::Merge(&stale)).await.unwrap_err();
        assert_eq!(code(&error).0, 409);
        let wrong = DeleteParams {
            preconditions: Some(Preconditions { uid: Some("x".to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        assert_eq!(code(&api.delete("a", &wrong).await.unwrap_err()).0, 409);
        let apply = PatchParams::apply("test");
        let error = api.patch("a", &apply, &Patch::Apply(&config_map("a", json!({})))).await.unwrap_err();
        assert_eq!(code(&error).0, 415);
    });
}

#[test]
fn generated_names_and_dry_run() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let generated: ConfigMap = object(json!({"metadata": {"generateName": "g-"}}));
        let name = create(&api, &generated).await.name_any();
        assert_eq!((name.len(), &name[..2]), (7, "g-"));
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let shown = api.create(&dry, &config_map("dry", json!({}))).await.unwrap();
        assert!(shown.uid().is_some());
        assert!(api.get_opt("dry").await.unwrap().is_none());
    });
}

#[test]
fn pages_show_one_moment() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        for n in 0..7 {
            create(&api, &config_map(&format!("c{n}"), json!({"odd": (n % 2).to_string()}))).await;
        }
        let first = api.list(&ListParams::default().limit(3)).await.unwrap();
        assert_eq!(first.metadata.remaining_item_count, Some(4));
        create(&api, &config_map("c35", json!({}))).await;
        api.delete("c6", &DeleteParams::default()).await.unwrap();
        let mut names: Vec<String> = first.iter().map(|c| c.name_any()).collect();
        let mut token = first.metadata.continue_.clone().unwrap();
        loop {
            let page = api.list(&ListParams::default().limit(3).continue_token(&token)).await.unwrap();
            assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
            names.extend(page.iter().map(|c| c.name_any()));
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => token = next,
                _ => break,
            }
        }
        assert_eq!(names, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
        let odd = api.list(&ListParams::default().labels("odd in (1,2)").limit(2)).await.unwrap();
        assert_eq!(odd.items.len(), 2);
        assert_eq!(odd.metadata.remaining_item_count, None);
        let one = api.list(&ListParams::default().fields("metadata.name=c2")).await.unwrap();
        assert_eq!(one.items.len(), 1);
        let error = api.list(&ListParams::default().continue_token("nonsense")).await.unwrap_err();
        assert_eq!(code(&error).0, 400);
        let past = ListParams::default().at("2").matching(kube::api::VersionMatch::Exact);
        let (status, reason, _) = code(&api.list(&past).await.unwrap_err());
        assert_eq!((status, reason.as_str()), (410, "Expired"));
    });
    let future = "get --raw /api/v1/pods?resourceVersion=99999999&resourceVersionMatch=NotOlderThan";
    assert!(server.fails(future).contains("Too large resource version"));
}

#[test]
fn watches_follow_and_selectors_see_transitions() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let start = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let blue = WatchParams::default().labels("color=blue");
        let mut watch = api.watch(&blue, &start).await.unwrap().boxed();
        create(&api, &config_map("red", json!({"color": "red"}))).await;
        create(&api, &config_map("a", json!({"color": "blue"}))).await;
        for color in ["blue", "red", "blue"] {
            let patch = json!({"metadata": {"labels": {"color": color}, "annotations": {"to": color}}});
            api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        }
        api.delete("a", &DeleteParams::default()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.push(match watch.try_next().await.unwrap().unwrap() {
                WatchEvent::Added(o) => ("ADDED", o),
                WatchEvent::Modified(o) => ("MODIFIED", o),
                WatchEvent::Deleted(o) => ("DELETED", o),
                other => panic!("{other:?}"),
            });
        }
        let kinds: Vec<_> = seen.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]);
        let versions: Vec<u64> =
            seen.iter().map(|(_, o)| o.resource_version().unwrap().parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        // What left the selection is shown as it was in it.
        assert_eq!(seen[2].1.labels()["color"], "blue");
    });
}

#[test]
fn streaming_lists_end_with_a_bookmark() {
    use kube::runtime::watcher::{Config, Event, watcher};
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        for name in ["a", "b"] {
            create(&api, &config_map(name, json!({}))).await;
        }
        let mut events = watcher(api.clone(), Config::default().streaming_lists()).boxed();
        let mut names = Vec::new();
        loop {
            match events.next().await.unwrap().unwrap() {
                Event::Init => {}
                Event::InitApply(o) => names.push(o.name_any()),
                Event::InitDone => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(names, ["a", "b"]);
        create(&api, &config_map("c", json!({}))).await;
        assert!(matches!(events.next().await.unwrap().unwrap(), Event::Apply(o) if o.name_any() == "c"));
    });
}

#[test]
fn versions_beyond_the_history_are_gone() {
    let server = TestServer::start();
    let client = server.client();
    let old = server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let first = create(&api, &config_map("a", json!({}))).await.resource_version().unwrap();
        let patches = (0..2100).map(|n| {
            let api = api.clone();
            async move {
                let patch = json!({"data": {"n": n.to_string()}});
                api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
            }
        });
        futures::stream::iter(patches).buffer_unordered(100).collect::<Vec<()>>().await;
        expect_gone(&api, &first).await;
        api.get("a").await.unwrap().resource_version().unwrap()
    });
    create_another(&server);
    // A restart forgets the history.
    let server = server.restart();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        assert_eq!(api.get("a").await.unwrap().resource_version().unwrap(), old);
        expect_gone(&api, &old).await;
        let now = api.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        let mut watch = api.watch(&WatchParams::default(), &now).await.unwrap().boxed();
        create(&api, &config_map("new", json!({}))).await;
        assert!(
            matches!(watch.try_next().await.unwrap().unwrap(), WatchEvent::Added(o) if o.name_any() == "new")
        );
    });
}

fn create_another(server: &TestServer) {
    let client = server.client();
    server.runtime.block_on(async {
        create(&Api::<ConfigMap>::default_namespaced(client), &config_map("b", json!({}))).await;
    });
}

async fn expect_gone(api: &Api<ConfigMap>, version: &str) {
    let mut watch = api.watch(&WatchParams::default(), version).await.unwrap().boxed();
    match watch.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(watch.try_next().await.unwrap().is_none());
}

#[test]
fn validation_names_the_fields() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "c"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}},
            },
        });
        let cases = [
            ("/apis/apps/v1/namespaces/default/deployments", deployment, "spec.template.metadata.labels"),
            (
                "/api/v1/namespaces/default/services",
                json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "clusterIP": "1.2.3.4"}}),
                "spec.clusterIPs",
            ),
            (
                "/api/v1/namespaces/default/services",
                json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}}),
                "spec.ports[0].nodePort",
            ),
            ("/api/v1/namespaces/default/pods", json!({"metadata": {"name": "p"}, "spec": {"containers": []}}), "spec.containers"),
        ];
        for (path, body, field) in cases {
            let error = raw(&client, "POST", path, &body).await.unwrap_err();
            let kube::Error::Api(status) = error else { panic!("{error:?}") };
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"), "{path}: {status:?}");
            let causes = status.details.unwrap().causes;
            assert!(causes.iter().any(|cause| cause.field == field), "{path}: {causes:?}");
        }
        let wrong_type = json!({"metadata": {"name": "c"}, "data": 7});
        let error = raw(&client, "POST", "/api/v1/namespaces/default/configmaps", &wrong_type).await.unwrap_err();
        assert_eq!(code(&error).0, 400);
        let error = raw(&client, "PUT", "/api/v1/namespaces/default/configmaps", &json!({})).await.unwrap_err();
        assert_eq!(code(&error).0, 405);
        for (method, path) in [("GET", "/apis/nothing/v1/x"), ("POST", "/apis/nothing/v1/namespaces/default/x")] {
            assert_eq!(code(&raw(&client, method, path, &json!({})).await.unwrap_err()).0, 404);
        }
    });
}

#[test]
fn services_get_addresses_and_ports_and_give_them_back() {
    let server = TestServer::start();
    let client = server.client();
    let service = |name: &str, ip: Option<&str>, port: Option<i32>| -> Service {
        object(json!({
            "metadata": {"name": name},
            "spec": {"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": port}]},
        }))
    };
    let spec = |service: &Service| {
        let spec = service.spec.clone().unwrap();
        (spec.cluster_ip.unwrap(), spec.ports.unwrap()[0].node_port.unwrap())
    };
    let given = server.runtime.block_on(async {
        let api: Api<Service> = Api::default_namespaced(client.clone());
        let kubernetes = api.get("kubernetes").await.unwrap();
        assert_eq!(kubernetes.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
        let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
        assert_eq!(slices.get("kubernetes").await.unwrap().endpoints.unwrap()[0].addresses, ["127.0.0.1"]);
        let asked = create(&api, &service("a", Some("10.96.0.10"), Some(30053))).await;
        assert_eq!(spec(&asked), ("10.96.0.10".to_owned(), 30053));
        let error =
            api.create(&PostParams::default(), &service("b", Some("10.96.0.10"), None)).await.unwrap_err();
        assert_eq!(code(&error).0, 422);
        let given = spec(&create(&api, &service("c", None, None)).await);
        api.delete("a", &DeleteParams::default()).await.unwrap();
        create(&api, &service("b", Some("10.96.0.10"), Some(30053))).await;
        let to_cluster_ip = json!({"spec": {"type": "ClusterIP"}});
        let changed =
            api.patch("b", &PatchParams::default(), &Patch::Strategic(&to_cluster_ip)).await.unwrap();
        assert_eq!(changed.spec.unwrap().ports.unwrap()[0].node_port, None);
        create(&api, &service("d", None, Some(30053))).await;
        given
    });
    let server = server.restart();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<Service> = Api::default_namespaced(client);
        let error =
            api.create(&PostParams::default(), &service("e", Some(&given.0), None)).await.unwrap_err();
        assert_eq!(code(&error).0, 422);
        let error = api.create(&PostParams::default(), &service("e", None, Some(given.1))).await.unwrap_err();
        assert_eq!(code(&error).0, 422);
    });
}

#[test]
fn the_service_kubernetes_is_kept() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<Endpoints> = Api::default_namespaced(client);
        let before = api.get("kubernetes").await.unwrap();
        let mut watch =
            api.watch(&WatchParams::default(), &before.resource_version().unwrap()).await.unwrap().boxed();
        api.delete("kubernetes", &DeleteParams::default()).await.unwrap();
        loop {
            if let WatchEvent::Added(again) = watch.try_next().await.unwrap().unwrap() {
                assert_eq!(again.subsets, before.subsets);
                break;
            }
        }
    });
}

#[test]
fn pods_on_nodes_leave_in_two_steps() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<Pod> = Api::default_namespaced(client.clone());
        create(&api, &pod("unbound", None)).await;
        api.delete("unbound", &DeleteParams::default()).await.unwrap();
        assert!(api.get_opt("unbound").await.unwrap().is_none());

        create(&api, &pod("bound", None)).await;
        let binding = json!({"metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "node-1"}});
        raw(&client, "POST", "/api/v1/namespaces/default/pods/bound/binding", &binding).await.unwrap();
        let error = raw(&client, "POST", "/api/v1/namespaces/default/pods/bound/binding", &binding)
            .await
            .unwrap_err();
        assert_eq!(code(&error).0, 409);
        api.delete("bound", &DeleteParams::default()).await.unwrap();
        let marked = api.get("bound").await.unwrap();
        assert!(marked.metadata.deletion_timestamp.is_some());
        assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
        assert_eq!(marked.spec.unwrap().node_name.as_deref(), Some("node-1"));
        api.delete("bound", &DeleteParams::default().grace_period(0)).await.unwrap();
        assert!(api.get_opt("bound").await.unwrap().is_none());

        let mut finalized = config_map("f", json!({}));
        finalized.metadata.finalizers = Some(vec!["example.org/x".to_owned()]);
        let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
        create(&maps, &finalized).await;
        maps.delete("f", &DeleteParams::default()).await.unwrap();
        assert!(maps.get("f").await.unwrap().metadata.deletion_timestamp.is_some());
        let free = json!({"metadata": {"finalizers": null}});
        maps.patch("f", &PatchParams::default(), &Patch::Merge(&free)).await.unwrap();
        assert!(maps.get_opt("f").await.unwrap().is_none());
        let eviction = json!({"metadata": {"name": "evicted"}});
        create(&api, &pod("evicted", None)).await;
        raw(&client, "POST", "/api/v1/namespaces/default/pods/evicted/eviction", &eviction).await.unwrap();
        assert!(api.get_opt("evicted").await.unwrap().is_none());
    });
}

#[test]
fn namespaces_leave_when_finalized() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<Namespace> = Api::all(client.clone());
        let name = "leaving";
        create(&api, &object(json!({"metadata": {"name": name}}))).await;
        api.delete(name, &DeleteParams::default()).await.unwrap();
        let mut marked = serde_json::to_value(api.get(name).await.unwrap()).unwrap();
        assert_eq!(marked["spec"]["finalizers"], json!(["kubernetes"]));
        marked["spec"]["finalizers"] = json!([]);
        raw(&client, "PUT", "/api/v1/namespaces/leaving/finalize", &marked).await.unwrap();
        assert!(api.get_opt(name).await.unwrap().is_none());
    });
}

#[test]
fn status_and_scale_are_apart() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let api: Api<Deployment> = Api::default_namespaced(client);
        create(
            &api,
            &object(json!({
                "metadata": {"name": "w"},
                "spec": {
                    "selector": {"matchLabels": {"a": "b"}},
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}},
                },
            })),
        )
        .await;
        let both = json!({"spec": {"replicas": 7}, "status": {"replicas": 3}});
        let status = api.patch_status("w", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
        assert_eq!(status.spec.unwrap().replicas, Some(1));
        assert_eq!(status.status.unwrap().replicas, Some(3));
        assert_eq!(status.metadata.generation, Some(1));
        let spec = api.patch("w", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
        assert_eq!((spec.spec.unwrap().replicas, spec.metadata.generation), (Some(7), Some(2)));
        let mut scale = api.get_scale("w").await.unwrap();
        assert_eq!(scale.spec.as_ref().unwrap().replicas, Some(7));
        scale.spec.as_mut().unwrap().replicas = Some(2);
        let scale = api.replace_scale("w", &PostParams::default(), &scale).await.unwrap();
        assert_eq!(scale.spec.unwrap().replicas, Some(2));
        let patch = json!({"spec": {"replicas": 4}});
        api.patch_scale("w", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        assert_eq!(api.get("w").await.unwrap().spec.unwrap().replicas, Some(4));
    });
}

#[test]
fn service_accounts_are_identities() {
    let server = TestServer::start();
    let client = server.client();
    let config = server.runtime.block_on(server.client_config());
    server.runtime.block_on(async {
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        create(&accounts, &object(json!({"metadata": {"name": "bot"}}))).await;
        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let mut mine = pod("mine", None);
        mine.spec.as_mut().unwrap().service_account_name = Some("bot".to_owned());
        create(&pods, &mine).await;
        let request: TokenRequest = object(json!({
            "spec": {"audiences": [], "expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "mine"}},
        }));
        let token = accounts.create_token_request("bot", &PostParams::default(), &request).await.unwrap();
        let token = token.status.unwrap().token.unwrap();

        let mut as_bot = config.clone();
        as_bot.auth_info = kube::config::AuthInfo { token: Some(token.clone().into()), ..Default::default() };
        let bot = Client::try_from(as_bot).unwrap();
        let review: Value = serde_json::from_str(
            &raw(&bot, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.unwrap(),
        )
        .unwrap();
        assert_eq!(review["status"]["userInfo"]["username"], "system:serviceaccount:default:bot");
        assert_eq!(
            review["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"],
            json!(["mine"])
        );
        let reviews: Api<TokenReview> = Api::all(client.clone());
        let asked: TokenReview = object(json!({"metadata": {}, "spec": {"token": token}}));
        let answer = create(&reviews, &asked).await;
        assert_eq!(answer.status.unwrap().authenticated, Some(true));

        // A token dies with its pod.
        pods.delete("mine", &DeleteParams::default()).await.unwrap();
        let bots: Api<Pod> = Api::default_namespaced(bot);
        assert_eq!(code(&bots.list(&ListParams::default()).await.unwrap_err()).0, 401);

        // Nobody may see nothing but the server's health.
        let mut nobody = config.clone();
        nobody.auth_info = Default::default();
        let nobody = Client::try_from(nobody).unwrap();
        assert!(nobody.apiserver_version().await.is_ok());
        assert_eq!(raw(&nobody, "GET", "/readyz", &json!({})).await.unwrap(), "ok");
        let error = Api::<Node>::all(nobody).list(&ListParams::default()).await.unwrap_err();
        let (status, _, message) = code(&error);
        assert_eq!(status, 403);
        assert_eq!(message, "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope");
    });
}

#[test]
fn tables_and_metadata_by_accept() {
    let server = TestServer::start();
    let client = server.client();
    server.runtime.block_on(async {
        let get = async |accept: &str| -> Result<Value, kube::Error> {
            let request = Request::builder().uri("/api/v1/namespaces").header("accept", accept);
            let text = client.request_text(request.body(Vec::new()).unwrap()).await?;
            Ok(serde_json::from_str(&text).unwrap())
        };
        let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.unwrap();
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(table["rows"].as_array().unwrap().len(), 4);
        let partial = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.unwrap();
        assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
        assert!(partial["items"][0]["spec"].is_null());
        let plain = get("application/vnd.kubernetes.protobuf,application/json").await.unwrap();
        assert_eq!(plain["kind"], "NamespaceList");
        assert_eq!(code(&get("application/vnd.kubernetes.protobuf").await.unwrap_err()).0, 406);
        let large = json!({"metadata": {"name": "x"}, "data": {"x": "y".repeat(3 << 20)}});
        let error = raw(&client, "POST", "/api/v1/namespaces/default/configmaps", &large).await.unwrap_err();
        assert_eq!(code(&error).0, 413);
    });
}

//! Discovery documents: which groups, versions and resources a server has.

use serde_json::{Value, json};

use crate::resource::{Registry, Resource, api_version};

/// Media type of the aggregated documents of [`aggregated`], without its `;g=…;v=…;as=…` parameters' order.
pub const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The same for the beta version, which has the same content.
pub const AGGREGATED_V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// `GET /api`: versions of the core group. `address` is `host:port` as clients reach the server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`: the named groups (`APIGroupList`).
pub fn api_group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> =
        registry.groups().iter().map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/GROUP`: one group (`APIGroup`).
pub fn api_group(registry: &Registry, group: &str) -> Option<Value> {
    let (name, versions) = registry.groups().into_iter().find(|(name, _)| name == group)?;
    let mut value = group_value(&name, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": api_version(name, v), "version": v})).collect();
    let preferred = versions.first().cloned().unwrap_or(Value::Null);
    json!({"name": name, "versions": versions, "preferredVersion": preferred})
}

/// `GET /api/v1` and `GET /apis/GROUP/VERSION`: the resources and subresources (`APIResourceList`).
pub fn api_resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in in_version(registry, group, version) {
        list.push(resource_value(resource));
        list.extend(resource.subresources.iter().map(|sub| {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind,
                "verbs": sub.verbs,
            });
            if sub.group != resource.group || sub.version != resource.version {
                value["group"] = sub.group.as_ref().into();
                value["version"] = sub.version.as_ref().into();
            }
            value
        }));
    }
    if list.is_empty() {
        return None;
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": list,
    }))
}

fn resource_value(resource: &Resource) -> Value {
    let mut value = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    value
}

/// `GET /api` or `GET /apis` with an aggregated media type: all at once (`APIGroupDiscoveryList`).
/// `core` chooses the core group (`/api`) or the named ones (`/apis`); `version` is `v2` or `v2beta1`.
pub fn aggregated(registry: &Registry, core: bool, version: &str) -> Value {
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { registry.groups() };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> =
                        in_version(registry, group, v).map(aggregated_resource).collect();
                    json!({"version": v, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subs: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| json!({"subresource": sub.name, "responseKind": kind(&sub.group, &sub.version, &sub.kind), "verbs": sub.verbs}))
            .collect();
        value["subresources"] = subs.into();
    }
    value
}

fn in_version<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    registry.resources().iter().map(|r| &**r).filter(move |r| r.group == group && r.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::resources;

    #[test]
    fn lists_groups_and_resources() {
        let groups = api_group_list(resources());
        assert_eq!(groups["groups"][0]["name"], "apps");
        assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "apps/v1");
        let apps = api_resource_list(resources(), "apps", "v1").unwrap();
        let names: Vec<&str> =
            apps["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
        assert!(names.contains(&"deployments/scale") && names.contains(&"deployments"));
        let scale =
            apps["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
        assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
        assert!(api_resource_list(resources(), "none", "v1").is_none());
        assert!(api_group(resources(), "none").is_none());
    }

    #[test]
    fn aggregated_has_the_same_resources() {
        let all = aggregated(resources(), false, "v2");
        let count: usize = all["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g["versions"][0]["resources"].as_array().unwrap().len())
            .sum();
        let named = resources().resources().iter().filter(|r| !r.group.is_empty()).count();
        assert_eq!(count, named);
        assert_eq!(aggregated(resources(), true, "v2beta1")["items"][0]["versions"][0]["version"], "v1");
    }
}

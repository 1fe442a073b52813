//! Pods and pod templates.

use std::collections::HashSet;

use serde_json::Value;

use super::at::{At, Errors};
use super::containers::{self, PodFacts};
use super::{meta, names, volumes};
use crate::field_error::FieldError;
use crate::value::{copy, list, remove};

/// Limits of `dnsConfig`, which are those of resolvers (resolv.conf(5), MAXNS) and of the API.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

pub(super) fn pod(pod: &At<'_>, errors: &mut Errors) {
    spec(&pod.field("spec"), errors);
}

/// A pod template: metadata and spec.
pub(super) fn template(template: &At<'_>, errors: &mut Errors) {
    let metadata = template.field("metadata");
    metadata.field("labels").labels(errors);
    meta::annotations(&metadata.field("annotations"), errors);
    spec(&template.field("spec"), errors);
}

fn spec(spec: &At<'_>, errors: &mut Errors) {
    let facts = PodFacts { volumes: volumes::list(spec, errors), host_network: spec.flag("hostNetwork") };
    if spec.count("containers") == 0 {
        errors.push(spec.field("containers").required(""));
    }
    let mut seen = HashSet::new();
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        containers::list(spec, field, &facts, &mut seen, errors);
    }
    spec.field("restartPolicy").one_of(errors, &["Always", "OnFailure", "Never"]);
    dns(spec, errors);
    host_aliases(spec, errors);
    spec.field("nodeSelector").labels(errors);
    tolerations(spec, errors);
    for (field, form) in [
        ("serviceAccountName", names::subdomain_problem as fn(&str) -> Option<String>),
        ("nodeName", names::subdomain_problem),
        ("hostname", names::label_problem),
        ("subdomain", names::label_problem),
    ] {
        if let Some(name) = spec.given(field).filter(|n| !n.is_empty()) {
            name.form(errors, form);
        }
    }
    spec.field("terminationGracePeriodSeconds").not_negative(errors);
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.value.as_i64().is_some_and(|s| !(1..=i64::from(i32::MAX)).contains(&s)) {
        errors.push(deadline.invalid("must be between 1 and 2147483647, inclusive"));
    }
    for gate in spec.items("readinessGates") {
        gate.field("conditionType").form(errors, names::qualified_name_problem);
    }
}

fn dns(spec: &At<'_>, errors: &mut Errors) {
    let policy = spec.field("dnsPolicy");
    policy.one_of(errors, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    let config = spec.field("dnsConfig");
    if policy.as_text() == "None" {
        if config.value.is_null() {
            errors.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if config.count("nameservers") == 0 {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(config.field("nameservers").required(detail));
        }
    }
    if config.count("nameservers") > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(config.field("nameservers").invalid(detail));
    }
    for server in config.items("nameservers") {
        server.ip(errors);
    }
    let searches = config.field("searches");
    if config.count("searches") > MAX_SEARCHES {
        errors.push(searches.invalid(format!("must not have more than {MAX_SEARCHES} search paths")));
    }
    let texts: Vec<&str> = list(searches.value, "").iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > MAX_SEARCH_LENGTH {
        let detail = format!(
            "must not have more than {MAX_SEARCH_LENGTH} characters (including spaces) in the search list"
        );
        errors.push(searches.invalid(detail));
    }
    for search in config.items("searches").filter(|s| s.as_text() != ".") {
        if let Some(problem) =
            names::subdomain_problem(search.as_text().strip_suffix('.').unwrap_or(search.as_text()))
        {
            errors.push(search.invalid(problem));
        }
    }
    for option in config.items("options") {
        if option.text("name").is_empty() {
            // The API names the list's entry, not its field.
            errors.push(FieldError::required(option.path.clone(), "must not be empty"));
        }
    }
}

fn host_aliases(spec: &At<'_>, errors: &mut Errors) {
    for alias in spec.items("hostAliases") {
        alias.field("ip").ip(errors);
        for name in alias.items("hostnames") {
            name.form(errors, names::subdomain_problem);
        }
    }
}

fn tolerations(spec: &At<'_>, errors: &mut Errors) {
    for toleration in spec.items("tolerations") {
        let (key, operator) = (toleration.field("key"), toleration.field("operator"));
        if !key.is_empty() {
            key.form(errors, names::qualified_name_problem);
        } else if operator.as_text() != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(operator.invalid(detail));
        }
        operator.if_given_one_of(errors, &["Equal", "Exists"]);
        if operator.as_text() == "Exists" && !toleration.text("value").is_empty() {
            errors.push(operator.invalid("value must be empty when `operator` is 'Exists'"));
        }
        let effect = toleration.field("effect");
        effect.if_given_one_of(errors, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if toleration.given("tolerationSeconds").is_some() && effect.as_text() != "NoExecute" {
            errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
    }
}

/// What a change of a pod may touch, in the API's words.
const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn change(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    if spec.value == before.value {
        return;
    }
    let mut settled = spec.value.clone();
    for (field, old_list) in
        [("containers", before.items("containers")), ("initContainers", before.items("initContainers"))]
            .map(|(field, items)| (field, items.map(|i| i.value).collect::<Vec<_>>()))
    {
        let containers = settled.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, old) in containers.zip(old_list) {
            copy(old, container, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations"] {
        copy(before.value, &mut settled, field);
    }
    let gates = |at: &At<'_>| at.items("schedulingGates").map(|g| g.value.clone()).collect::<Vec<_>>();
    if gates(&spec).iter().all(|g| gates(&before).contains(g)) {
        copy(before.value, &mut settled, "schedulingGates");
    }
    if settled != *before.value {
        errors.push(FieldError::forbidden("spec", CHANGEABLE));
    }
    let kept: Vec<&Value> = spec.items("tolerations").map(|t| t.value).collect();
    // Only the time that a toleration lasts may change.
    let same = |a: &Value, b: &Value| {
        let plain = |v: &Value| {
            let mut v = v.clone();
            remove(&mut v, "tolerationSeconds");
            v
        };
        plain(a) == plain(b)
    };
    if before.items("tolerations").any(|t| !kept.iter().any(|k| same(k, t.value))) {
        errors.push(
            spec.field("tolerations")
                .forbidden("existing toleration can not be modified except its tolerationSeconds"),
        );
    }
}

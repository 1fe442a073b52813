//! Deployments and the other owners of pods.

use serde_json::Value;

use super::at::{At, Errors};
use super::pods;
use crate::field_error::FieldError;
use crate::selector::LabelSelector;

/// Selector, template and replicas, as all owners of pods have them.
fn owner(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    spec.field("replicas").not_negative(errors);
    spec.field("minReadySeconds").not_negative(errors);
    spec.field("revisionHistoryLimit").not_negative(errors);
    let selector = spec.field("selector");
    if selector.value.is_null() {
        errors.push(selector.required(""));
    } else {
        selector.label_selector(errors);
        if selector.field("matchLabels").is_empty() && selector.field("matchExpressions").is_empty() {
            errors.push(selector.invalid(format!("empty selector is invalid for {kind}")));
        }
    }
    let template = spec.field("template");
    let labels = template.field("metadata").field("labels");
    if let Ok(parsed) = LabelSelector::from_value(selector.value)
        && !parsed.is_empty()
        && !parsed.matches(labels.value)
    {
        errors.push(labels.invalid("`selector` does not match template `labels`"));
    }
    pods::template(&template, errors);
}

/// The pods of a long-running owner are restarted always.
fn restarts_always(spec: &At<'_>, errors: &mut Errors) {
    let policy = spec.field("template").field("spec").field("restartPolicy");
    if matches!(policy.as_text(), "OnFailure" | "Never") {
        errors.push(FieldError::not_supported(policy.path.clone(), policy.as_text(), &["Always"]));
    }
}

pub(super) fn deployment(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    owner(&spec, "deployment", errors);
    restarts_always(&spec, errors);
    strategy(&spec.field("strategy"), errors);
    let deadline = spec.field("progressDeadlineSeconds");
    deadline.not_negative(errors);
    if deadline.value.as_i64().is_some_and(|s| s <= spec.int("minReadySeconds").unwrap_or(0)) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
}

fn strategy(strategy: &At<'_>, errors: &mut Errors) {
    strategy.field("type").one_of(errors, &["Recreate", "RollingUpdate"]);
    let Some(rolling) = strategy.given("rollingUpdate") else { return };
    if strategy.text("type") == "Recreate" {
        errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
        return;
    }
    let (surge, unavailable) = (rolling.field("maxSurge"), rolling.field("maxUnavailable"));
    amount(&surge, errors);
    amount(&unavailable, errors);
    if is_zero(surge.value) && is_zero(unavailable.value) {
        errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
    }
    if percent(unavailable.value).is_some_and(|p| p > 100) {
        errors.push(unavailable.invalid("must not be greater than 100%"));
    }
}

fn percent(value: &Value) -> Option<u64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(value) == Some(0)
}

/// A count that is not negative, or a percentage.
pub(super) fn amount(amount: &At<'_>, errors: &mut Errors) {
    match amount.value {
        Value::String(_) if percent(amount.value).is_none() => {
            errors.push(amount.invalid(
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ));
        }
        _ => amount.not_negative(errors),
    }
}

pub(super) fn replica_set(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    owner(&spec, "replicaset", errors);
    restarts_always(&spec, errors);
}

pub(super) fn daemon_set(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    owner(&spec, "daemonset", errors);
    restarts_always(&spec, errors);
    spec.field("updateStrategy").field("type").one_of(errors, &["OnDelete", "RollingUpdate"]);
}

pub(super) fn stateful_set(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    owner(&spec, "statefulset", errors);
    restarts_always(&spec, errors);
    spec.field("podManagementPolicy").one_of(errors, &["OrderedReady", "Parallel"]);
    spec.field("updateStrategy").field("type").one_of(errors, &["OnDelete", "RollingUpdate"]);
}

/// What of a StatefulSet may change.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn change_stateful_set(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let fixed = |at: &At<'_>| {
        let mut spec = at.field("spec").value.as_object().cloned().unwrap_or_default();
        spec.retain(|key, _| !CHANGEABLE.contains(&key.as_str()));
        spec
    };
    if fixed(new) != fixed(old) {
        let fields: Vec<String> = CHANGEABLE.iter().map(|f| format!("'{f}'")).collect();
        let (last, first) =
            fields.split_last().map_or((String::new(), String::new()), |(l, f)| (l.clone(), f.join(", ")));
        let detail =
            format!("updates to statefulset spec for fields other than {first} and {last} are forbidden");
        errors.push(FieldError::forbidden("spec", detail));
    }
}

pub(super) fn job(object: &At<'_>, errors: &mut Errors) {
    job_spec(&object.field("spec"), errors);
}

fn job_spec(spec: &At<'_>, errors: &mut Errors) {
    for field in
        ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"]
    {
        spec.field(field).not_negative(errors);
    }
    spec.field("completionMode").if_given_one_of(errors, &["Indexed", "NonIndexed"]);
    let template = spec.field("template");
    pods::template(&template, errors);
    let policy = template.field("spec").field("restartPolicy");
    if policy.as_text() == "Always" {
        errors.push(FieldError::not_supported(policy.path.clone(), "Always", &["OnFailure", "Never"]));
    }
}

pub(super) fn cron_job(object: &At<'_>, errors: &mut Errors) {
    let spec = object.field("spec");
    let schedule = spec.field("schedule");
    if schedule.is_empty() {
        errors.push(schedule.required(""));
    } else if !schedule.as_text().starts_with('@') && schedule.as_text().split_whitespace().count() != 5 {
        let detail = format!(
            "expected exactly 5 fields, found {}: {:?}",
            schedule.as_text().split_whitespace().count(),
            schedule.as_text()
        );
        errors.push(schedule.invalid(detail));
    }
    spec.field("concurrencyPolicy").one_of(errors, &["Allow", "Forbid", "Replace"]);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        spec.field(field).not_negative(errors);
    }
    job_spec(&spec.field("jobTemplate").field("spec"), errors);
}

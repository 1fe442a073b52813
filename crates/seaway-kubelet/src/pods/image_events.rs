//! What people are told of what a lab can't do.

use k8s_openapi::api::core::v1::Pod;

use crate::events::{Recorder, Severity};

/// Why an image can't be had, and which ones can.
pub(crate) fn unknown(image: &str) -> String {
    let names: Vec<&str> = seaway_images::available().map(|image| image.name).collect();
    format!(
        "no image {image:?} is built in, and nothing can be pulled here; available are {}",
        names.join(", ")
    )
}

/// Says what of the pod's spec has no effect here.
pub(crate) fn unsupported(events: &Recorder, pod: &Pod) {
    let Some(spec) = &pod.spec else { return };
    let host_port =
        |port: &k8s_openapi::api::core::v1::ContainerPort| port.host_port.is_some_and(|port| port != 0);
    let own_network = spec.host_network != Some(true);
    if own_network
        && spec.containers.iter().flat_map(|container| container.ports.iter().flatten()).any(host_port)
    {
        events.pod(
            pod,
            None,
            Severity::Warning,
            "HostPortIgnored",
            "hostPort has no effect here: use a Service or hostNetwork",
        );
    }
}

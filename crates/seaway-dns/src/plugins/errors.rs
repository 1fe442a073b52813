//! `errors`: writes down why a query failed.

use crate::corefile::{CorefileError, Directive};
use crate::message::Query;
use crate::plugin::Failure;

/// Reads the directive.
pub(crate) fn parse(directive: &Directive) -> Result<(), CorefileError> {
    directive.no_args()?;
    match directive.block.first() {
        None => Ok(()),
        Some(property)
            if matches!(property.name.text.as_str(), "consolidate" | "stacktrace" | "show_first") =>
        {
            Err(directive.unsupported(property))
        }
        Some(property) => Err(directive.unknown_property(property, &[])),
    }
}

/// Writes `failure` down, as `<code> <name> <type>: <plugin>: <reason>`.
pub(crate) fn log(query: &Query, failure: &Failure) {
    tracing::error!(
        target: "plugin/errors",
        "{} {} {}: {failure}",
        u16::from(failure.code),
        query.name,
        query.record_type,
    );
}

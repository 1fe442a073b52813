//! The proof: the request is sent from the caller's own namespaces, and each hop of the prediction is compared with what the
//! observers saw.

mod collect;
mod deviations;
mod evidence;
mod judge;
mod names;
mod passage;
mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use seaway_lab::Lab;
use seaway_observe::api::Packets;

use crate::ask::read_files;
use crate::explain::{Caller, Choice, Prediction, Question};
use crate::hop::{Expect, Hop, HopKind, Outcome, Trace, Verdict, Verified};
use crate::world::World;
use collect::{Wanted, Watcher, collect, stop, watch};
use evidence::{Evidence, Files, Program, Seen, translated_to, tuple};
use passage::passage;
pub(crate) use probe::Request;

/// Sends the request and compares: the trace of the way that it took.
///
/// # Errors
/// The probe cannot be started.
pub(crate) async fn verify(
    lab: &Lab,
    world: &World,
    question: &Question,
    prediction: &Prediction,
    request: Request,
) -> anyhow::Result<Trace> {
    let wanted = Wanted::of(prediction, question.proto, question.port);
    let first = first_place(world, &question.caller);
    let own = own_addresses(world, &question.caller);
    let watchers = watch(lab, &wanted, (&first, &own)).await;
    let token = request.token.clone();
    let (watchers, program) = probe::send(lab, &question.caller, request, (watchers, wanted.clone())).await;
    let evidence = match program {
        Ok(program) => {
            gather_evidence(lab, world, question, prediction, (&watchers, &wanted), program, &token).await
        }
        Err(error) => {
            stop(&watchers).await;
            return Err(error);
        }
    };
    stop(&watchers).await;
    Ok(compare(world, question, prediction, &evidence))
}

/// Where the caller's packets are first seen.
fn first_place(world: &World, caller: &Caller) -> String {
    match caller {
        Caller::Pod(name) => {
            format!("node/{}", world.pods.get(name).map(|pod| pod.node.as_str()).unwrap_or_default())
        }
        other => other.place(),
    }
}

async fn gather_evidence(
    lab: &Lab,
    world: &World,
    question: &Question,
    prediction: &Prediction,
    (watchers, wanted): (&[Watcher], &Wanted),
    program: Program,
    token: &str,
) -> Evidence {
    let first = first_place(world, &question.caller);
    let asked: BTreeSet<String> = prediction
        .names
        .iter()
        .filter_map(|hop| match &hop.expect {
            Expect::Dns(expected) => Some(expected.name.clone()),
            _ => None,
        })
        .collect();
    let own = own_addresses(world, &question.caller);
    let watcher = watchers.iter().find(|watcher| watcher.place == first);
    let dns = match watcher {
        _ if asked.is_empty() => Ok(Packets::default()),
        Some(watcher) => watcher.dns(&asked).await.map(|mut seen| {
            let is_ours = |ip: Option<IpAddr>| ip.is_some_and(|ip| own.contains(&ip));
            seen.packets.retain(|packet| is_ours(packet.ip.source) || is_ours(packet.ip.destination));
            seen
        }),
        None => Err(format!("there is no observer at {first}")),
    };
    let place = match &question.caller {
        Caller::Pod(name) => lab.pod(&name.namespace, &name.name),
        other => lab.place(&other.place()),
    };
    let files = place.ok_or_else(|| "the caller does not run any more".to_owned()).and_then(|place| {
        let files = read_files(place)?;
        Ok(Files { hosts: files.hosts, nsswitch: files.nsswitch, resolv_conf: files.resolv_conf })
    });
    let places = match program.socket {
        Some((source, destination)) => {
            collect(lab, watchers, &first, tuple(question.proto, source, destination), wanted, token).await
        }
        // It was not sent; the name service's way begins at the same node.
        None => {
            let blind = watcher.and_then(|watcher| watcher.blind());
            let has_plan = blind.is_none() && !matches!(question.caller, Caller::Host(_));
            let mut seen = Seen { blind, ..Seen::default() };
            if has_plan {
                collect::compare(lab, &first, &mut seen).await;
            }
            BTreeMap::from([(first, seen)])
        }
    };
    Evidence { places, program, files, dns }
}

fn own_addresses(world: &World, caller: &Caller) -> Vec<IpAddr> {
    match caller {
        Caller::Pod(name) => world.pods.get(name).map(|pod| pod.addresses.clone()).unwrap_or_default(),
        Caller::Node(name) => world
            .nodes
            .get(name)
            .map(|node| {
                let devices = node.overlay().into_iter().flat_map(|overlay| overlay.devices.iter());
                node.addresses.iter().copied().chain(devices.map(|device| device.address.addr())).collect()
            })
            .unwrap_or_default(),
        Caller::Host(name) => {
            let host = world.hosts.iter().find(|host| host.name == *name);
            host.map(|host| host.addresses.clone()).unwrap_or_default()
        }
    }
}

/// The way that the request took, each hop beside what was seen.
fn compare(world: &World, question: &Question, prediction: &Prediction, evidence: &Evidence) -> Trace {
    let first = first_place(world, &question.caller);
    let mut trace = prediction.trace(question);
    let mut hops = prediction.names.clone();
    let seen = evidence.places.get(&first);
    let called = evidence.program.socket.map(|(_, to)| to);
    let by_first = || seen.and_then(|seen| seen.connection.as_ref()).map(translated_to);
    let backend = chosen_elsewhere(prediction, evidence, &first).or_else(by_first).filter(|to| {
        called.is_some_and(|called| {
            to.ip() != called.ip() || (to.port() != called.port() && question.port != 0)
        })
    });
    let choice = Choice { address: called.map(|to| to.ip()), backend };
    match prediction.chosen(choice) {
        Some(way) => {
            trace.verdict = way.end.verdict;
            trace.reason = way.end.reason.clone();
            hops.extend(way.hops.iter().cloned());
        }
        None => hops.extend(as_far_as_known(prediction, called)),
    }
    let mut verified = judge::judge(&mut hops, evidence, &first);
    check_lookup(prediction, evidence, &mut hops, &mut verified);
    if let Some(to) = called
        && !prediction.ways.iter().any(|way| way.choice.address == Some(to.ip()))
    {
        let outcome = if names_are_unknown(prediction) { Outcome::Unknown } else { Outcome::Differs };
        hops.push(not_predicted(&question.caller, to, outcome));
        verified = verified.and(outcome);
    }
    trace.hops = hops;
    trace.verified = Some(verified);
    trace
}

/// Which endpoint another node than the caller's chose, where one does: a node port is translated at its node.
fn chosen_elsewhere(prediction: &Prediction, evidence: &Evidence, first: &str) -> Option<SocketAddr> {
    let hops = prediction.ways.iter().flat_map(|way| &way.hops);
    let choosing = hops.filter(|hop| {
        let chooses = matches!(&hop.expect, Expect::Translate { backends } if !backends.is_empty());
        chooses && hop.kind == HopKind::Service && hop.place != first
    });
    let places: BTreeSet<&str> = choosing.map(|hop| hop.place.as_str()).collect();
    places.into_iter().find_map(|place| Some(passage(evidence.places.get(place)?)?.left.1))
}

/// The hops before the random choice that came out as it should not have, the choice included.
fn as_far_as_known(prediction: &Prediction, called: Option<SocketAddr>) -> Vec<Hop> {
    let way = prediction.ways.iter().find(|way| called.is_none_or(|to| way.choice.address == Some(to.ip())));
    let Some(way) = way else { return Vec::new() };
    if called.is_none() {
        return way.hops.clone();
    }
    let last = way.hops.iter().rposition(|hop| hop.kind == HopKind::Service).unwrap_or(way.hops.len());
    way.hops.iter().take(last + 1).cloned().collect()
}

/// It was said that the addresses are not known before the name servers are asked.
fn names_are_unknown(prediction: &Prediction) -> bool {
    prediction.failed.as_ref().is_some_and(|(verdict, _)| *verdict == Verdict::Unknown)
}

fn not_predicted(caller: &Caller, to: SocketAddr, outcome: Outcome) -> Hop {
    let mut hop = Hop::new(
        HopKind::Route,
        caller.place(),
        "none",
        "the program called an address that was not predicted",
    );
    hop.observed = Some(format!("called {to}"));
    hop.result = Some(outcome);
    hop
}

/// What getaddrinfo gave must be what was predicted, too.
fn check_lookup(prediction: &Prediction, evidence: &Evidence, hops: &mut [Hop], verified: &mut Verified) {
    let Some(last) = hops.iter_mut().rfind(|hop| crate::explain::is_about_names(hop.kind)) else { return };
    let program = &evidence.program;
    let predicted: BTreeSet<IpAddr> = prediction.ways.iter().filter_map(|way| way.choice.address).collect();
    let found: BTreeSet<IpAddr> = program.addresses.iter().copied().collect();
    let text = match (&program.lookup_error, predicted == found) {
        (None, true) => return,
        (Some(_), _) if predicted.is_empty() => return,
        (Some(error), _) => format!("getaddrinfo: {error}"),
        (None, false) => {
            let list: Vec<String> = found.iter().map(ToString::to_string).collect();
            format!("getaddrinfo gave {}", list.join(", "))
        }
    };
    let before = last.observed.take().map(|text| format!("{text}; ")).unwrap_or_default();
    last.observed = Some(format!("{before}{text}"));
    if verified.0 != Outcome::Differs && !names_are_unknown(prediction) {
        last.result = Some(Outcome::Differs);
        *verified = Verified(Outcome::Differs);
    }
}

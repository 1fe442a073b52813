//! `seaway capture`: the same flow on every link that it crosses.

mod filter;
mod follow;
mod pcapng;
mod places;
mod show;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use seaway_http::unix;
use seaway_lab::Lab;
use seaway_observe::api::{Capture, Captured, PacketFilter, Streamed};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::OutputArg;
use filter::Filter;
use follow::Follower;
use places::{Links, Target};

/// Bytes of a packet that are kept where only its headers are shown.
const HEADERS: u32 = 512;
/// How long a packet waits for earlier ones of other places.
const ORDER: Duration = Duration::from_millis(150);
/// Packets on their way from the places.
const AHEAD: usize = 10_000;

/// Packets of a flow on every link that it crosses, live or as a file for Wireshark.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  seaway capture default/app                              all that the pod sends and receives, wherever it goes
  seaway capture default/app --filter 'dns'               its DNS, through Service, node and overlay to the DNS pod
  seaway capture node/node-1 --filter 'tcp port 80'       on the links of one node
  seaway capture default/app -w app.pcapng --seconds 10   a file with an interface for each link of each place
  seaway capture internet/google.com -o json | jq .source

TARGET is a pod as NAMESPACE/NAME or an ADDRESS: its packets on every link of the lab, also where NAT gave them other
addresses (known by TCP's first sequence number, or by a datagram's payload);
or node/NAME, internet/HOST or gateway: all packets on the links of that place.

FILTER is made of tcp, udp, icmp, dns, [src|dst] host ADDRESS, [src|dst] net PREFIX, [src|dst] port NUMBER, and, or, not
and parentheses. Of a pod's packets it says where a flow begins; what becomes of the flow is shown all the same.")]
pub struct CaptureArgs {
    /// Whose packets
    target: String,
    /// The lab
    #[arg(long, env = "SEAWAY_LAB", default_value = "default")]
    name: String,
    /// Which packets
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Write whole packets to a pcapng file
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// End after so many packets
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The form of the output
    #[arg(long, short, value_enum, default_value = "text")]
    output: OutputArg,
}

/// Captures until it is interrupted.
///
/// # Errors
/// The target or the filter cannot be read, there is no such lab, or nobody observes in it.
pub fn run(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let filter = args.filter.as_deref().map(filter::parse).transpose().map_err(anyhow::Error::msg)?;
    let lab = Lab::open(&args.name)?;
    let target = places::target(&args.target, &lab)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(capture(args, &lab, target, filter))?;
    Ok(ExitCode::SUCCESS)
}

/// A packet of a place.
struct Arrived {
    /// `node-1`
    place: String,
    packet: Captured,
    data: Vec<u8>,
}

async fn capture(
    args: &CaptureArgs,
    lab: &Lab,
    target: Target,
    filter: Option<Filter>,
) -> anyhow::Result<()> {
    let links = places::links(lab);
    let mut sink = Sink::open(args)?;
    let snap = if args.write.is_some() { 65_535 } else { HEADERS };
    let (sender, mut arrived) = mpsc::channel(AHEAD);
    let mut observers = Vec::new();
    for place in places::observed(lab, &target) {
        let path = place.observer();
        let request = Capture { packets: vec![PacketFilter::default()], snap };
        match unix::post_for_lines(&path, "/v1/capture", &request).await {
            Ok(lines) => {
                let name = place.label.strip_prefix("node/").unwrap_or(&place.label).to_owned();
                observers.push(tokio::spawn(forward(name, lines, sender.clone())));
            }
            Err(error) => eprintln!("seaway capture: {} is not observed: {error}", place.label),
        }
    }
    drop(sender);
    if observers.is_empty() {
        bail!("nothing of lab {} can be observed", args.name);
    }
    eprintln!("capturing at {} places; end with Ctrl-C", observers.len());
    let mut chosen = Chosen { target, filter, follower: Follower::default() };
    let mut waiting: Vec<Arrived> = Vec::new();
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let ended = tokio::select! {
            _ = &mut interrupted => true,
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => true,
            next = timeout(ORDER / 3, arrived.recv()) => match next {
                Ok(Some(packet)) => { waiting.push(packet); false }
                Ok(None) => true,
                Err(_) => false,
            },
        };
        while let Ok(packet) = arrived.try_recv() {
            waiting.push(packet);
        }
        if ended {
            // What was on its way when the end came.
            while let Ok(Some(packet)) = timeout(ORDER, arrived.recv()).await {
                waiting.push(packet);
                if waiting.len() > AHEAD {
                    break;
                }
            }
        }
        let due = if ended { u64::MAX } else { now().saturating_sub(ORDER.as_nanos() as u64) };
        waiting.sort_by_key(|arrived| arrived.packet.time);
        let later = waiting.split_off(waiting.partition_point(|arrived| arrived.packet.time <= due));
        for arrived in std::mem::replace(&mut waiting, later) {
            if chosen.takes(&arrived) && !sink.write(&arrived, &links)? {
                return sink.finish();
            }
        }
        sink.flush()?;
        if ended {
            return sink.finish();
        }
    }
}

/// Passes on what a place's observer tells.
async fn forward(place: String, mut lines: unix::Lines, sender: mpsc::Sender<Arrived>) {
    while let Some(next) = lines.next().await {
        let lines = match next {
            Ok(lines) => lines,
            Err(error) => {
                eprintln!("seaway capture: {place}: {error}");
                return;
            }
        };
        for line in lines {
            match serde_json::from_slice(&line) {
                Ok(Streamed::Lost(0)) => {}
                Ok(Streamed::Lost(lost)) => eprintln!("seaway capture: {place}: {lost} packets were lost"),
                Ok(Streamed::Packet(packet)) => {
                    let Some(data) = show::decode(&packet.data) else { continue };
                    if sender.send(Arrived { place: place.clone(), packet, data }).await.is_err() {
                        return;
                    }
                }
                Err(error) => eprintln!("seaway capture: {place}: {error}"),
            }
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Which packets are shown.
struct Chosen {
    target: Target,
    filter: Option<Filter>,
    follower: Follower,
}

impl Chosen {
    fn takes(&mut self, arrived: &Arrived) -> bool {
        let Some(parsed) = seaway_observe::parse(&arrived.data) else { return false };
        let passes = self.filter.as_ref().is_none_or(|filter| filter.takes(&parsed.ip));
        let Target::Address(address) = self.target else { return passes };
        let asked = passes && has(&parsed.ip, address);
        self.follower.follows(&parsed.ip, parsed.payload, arrived.packet.time, asked)
    }
}

fn has(ip: &seaway_observe::api::IpPacket, address: IpAddr) -> bool {
    [ip.source, ip.destination].contains(&Some(address))
}

/// Where packets go to.
struct Sink {
    file: Option<pcapng::Writer<BufWriter<File>>>,
    output: OutputArg,
    left: Option<u64>,
    written: u64,
}

impl Sink {
    fn open(args: &CaptureArgs) -> anyhow::Result<Self> {
        let create = |path: &PathBuf| {
            let file = File::create(path).and_then(|file| pcapng::Writer::new(BufWriter::new(file)));
            file.with_context(|| format!("write {}", path.display()))
        };
        let file = args.write.as_ref().map(create).transpose()?;
        Ok(Self { file, output: args.output, left: args.count, written: 0 })
    }

    /// `false` where it was the last.
    fn write(&mut self, arrived: &Arrived, links: &Links) -> anyhow::Result<bool> {
        if self.left == Some(0) {
            return Ok(false);
        }
        let link = links.name(&arrived.place, &arrived.packet.link);
        match &mut self.file {
            Some(file) => file.packet(&pcapng::Record {
                interface: &link,
                time: arrived.packet.time,
                out: arrived.packet.out,
                length: arrived.packet.length,
                data: &arrived.data,
            })?,
            None => {
                let line = match self.output {
                    OutputArg::Text => show::text(&link, &arrived.packet, &arrived.data),
                    OutputArg::Json => show::json(&arrived.place, &link, &arrived.packet, &arrived.data)?,
                };
                // A reader that has gone, such as head(1), has seen enough.
                if writeln!(io::stdout(), "{line}").is_err() {
                    return Ok(false);
                }
            }
        }
        self.written += 1;
        self.left = self.left.map(|left| left - 1);
        Ok(self.left != Some(0))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), pcapng::Writer::flush)
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.flush()?;
        eprintln!("{} packets", self.written);
        Ok(())
    }
}

//! The command line of `seaway trace`.

use crate::hop::Proto;

/// What happens to a request, hop by hop.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  seaway trace default/app google.com             the whole way, and which address google.com sees
  seaway trace default/app google.com --verify    send it, and compare what was seen with what was told
  seaway trace default/app svc/shop/web:80        a Service: who may answer, and how the packet gets there
  seaway trace node/node-1 10.96.0.10:53 --proto udp
  seaway trace internet/google.com 203.0.113.12:80 -o json

FROM is a pod as NAMESPACE/NAME, node/NAME or internet/HOST.
TO is a name, a URL, svc/NAMESPACE/NAME:PORT, pod/NAMESPACE/NAME:PORT, node/NAME:PORT or ADDRESS:PORT.
Without a port it is 80 for HTTP, 443 for https://, a Service's first port, a pod's first declared port.

Exit codes: 0 told (with --verify: all was as told), 1 something differs, 2 something could not be seen, or the question
cannot be answered.")]
pub struct TraceArgs {
    /// Who calls
    pub(crate) from: String,
    /// What is called
    pub(crate) to: String,
    /// The lab
    #[arg(long, env = "SEAWAY_LAB", default_value = "default")]
    pub(crate) name: String,
    /// The protocol
    #[arg(long, value_enum, default_value_t)]
    pub(crate) proto: Proto,
    /// Whose getaddrinfo the calling program uses
    #[arg(long, value_enum, default_value = "glibc")]
    pub(crate) libc: LibcArg,
    /// Send the request from the caller's own network namespace and compare what is seen with what is told
    #[arg(long)]
    pub(crate) verify: bool,
    /// With --verify: the source port of the request, instead of one that the kernel chooses
    #[arg(long, value_name = "PORT")]
    pub(crate) source_port: Option<u16>,
    /// The form of the answer
    #[arg(long, short, value_enum, default_value = "text")]
    pub(crate) output: OutputArg,
}

/// A C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LibcArg {
    /// The GNU C library
    Glibc,
    /// musl, as in Alpine
    Musl,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputArg {
    /// For people
    Text,
    /// As docs/trace.schema.json describes it
    Json,
}

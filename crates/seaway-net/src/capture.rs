//! Packets on all links of a network namespace (packet(7)).
//!
//! A [`Capture`] takes what a filter lets through, which the kernel works off as classic BPF, so that traffic which
//! nobody asked for never leaves the kernel. Packets come without their link's header: they begin with IP's. On the
//! loopback link, where every packet is seen leaving and coming in, only the second is taken.

mod program;

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

pub use program::{VXLAN_PORTS, Wanted};

/// Packets that one system call takes.
const BATCH: usize = 32;
/// Bytes of a DNS message over UDP that are kept, whatever else is cut off: EDNS's usual size (RFC 6891).
const DNS_SNAP: u32 = 4096;
/// Room for the control messages of a packet: a timestamp and the auxiliary data.
const CONTROL: usize = 128;

// linux/if_packet.h
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_OUTGOING: u8 = 4;

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Nanoseconds since 1970, by the kernel's clock.
    pub time: u64,
    /// The link's number.
    pub index: u32,
    /// It left by the link; else it came in.
    pub out: bool,
    /// Bytes from the IP header on; more than `data` has where it was cut off.
    pub length: u32,
    /// The IP packet.
    pub data: &'a [u8],
}

/// What a socket is asked to take.
#[derive(Clone, Debug)]
pub struct Settings<'a> {
    /// Packets that match any of these.
    pub wanted: &'a [Wanted],
    /// Bytes of each packet that are kept, at the most 65,535.
    pub snap: u32,
    /// Room in the kernel, in bytes, for packets that are not read yet.
    pub buffer: usize,
}

/// A socket that takes the packets of all links.
#[derive(Debug)]
pub struct Capture {
    fd: OwnedFd,
    snap: u32,
    /// Bytes of a packet's slot in `packets`.
    slot: usize,
    packets: Vec<u8>,
    lost: u64,
}

impl Capture {
    /// Begins to capture in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the system says; `CAP_NET_RAW` is needed.
    pub fn open(settings: &Settings<'_>) -> io::Result<Self> {
        // Protocol 0 takes nothing yet: the filter must be in place before the first packet.
        // SAFETY: the call takes no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let snap = settings.snap.clamp(64, 65_535);
        attach(&fd, &program::compile(settings.wanted, snap, snap.max(DNS_SNAP)))?;
        set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        set_option(&fd, libc::SOL_PACKET, PACKET_AUXDATA, 1)?;
        let bytes = i32::try_from(settings.buffer).unwrap_or(i32::MAX / 2);
        if set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
            set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        bind_to_all(&fd)?;
        let slot = snap.max(DNS_SNAP) as usize;
        Ok(Self { fd, snap, slot, packets: vec![0; BATCH * slot], lost: 0 })
    }

    /// Takes other packets from now on. What waits to be read stays.
    ///
    /// # Errors
    /// What the system says.
    pub fn want(&mut self, wanted: &[Wanted]) -> io::Result<()> {
        attach(&self.fd, &program::compile(wanted, self.snap, self.snap.max(DNS_SNAP)))
    }

    /// Gives `each` of the packets that wait, up to a few dozen, and says how many they were: 0 where none wait.
    ///
    /// # Errors
    /// What the system says.
    pub fn receive(&mut self, mut each: impl FnMut(Frame<'_>)) -> io::Result<usize> {
        let mut names = [EMPTY_NAME; BATCH];
        let mut controls = [[0_u64; CONTROL / 8]; BATCH];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: all-zero bytes are a valid mmsghdr: null pointers with length 0.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let slots = self.packets.chunks_exact_mut(self.slot);
        for ((((header, part), name), control), slot) in
            headers.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut controls).zip(slots)
        {
            part.iov_base = slot.as_mut_ptr().cast();
            part.iov_len = slot.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        let received = loop {
            // SAFETY: every header points to arrays of this frame and to slots of `packets`, which outlive the call and
            // are as long as is said.
            let count = unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    headers.as_mut_ptr(),
                    BATCH as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    std::ptr::null_mut(),
                )
            };
            match usize::try_from(count) {
                Ok(count) => break count,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                    // A link that went down is told once; the others go on.
                    error if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                    error => return Err(error),
                },
            }
        };
        for (((header, name), control), slot) in
            headers.iter().zip(&names).zip(&controls).zip(self.packets.chunks_exact(self.slot)).take(received)
        {
            let data = &slot[..(header.msg_len as usize).min(slot.len())];
            let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let told = read_control(bytes.get(..header.msg_hdr.msg_controllen).unwrap_or_default());
            each(Frame {
                time: told.time,
                index: name.sll_ifindex.cast_unsigned(),
                out: name.sll_pkttype == PACKET_OUTGOING,
                length: told.length.unwrap_or(header.msg_len),
                data,
            });
        }
        Ok(received)
    }

    /// How many packets the kernel had no room for since the capture began.
    ///
    /// # Errors
    /// What the system says.
    pub fn lost(&mut self) -> io::Result<u64> {
        // struct tpacket_stats: packets and drops since it was asked last.
        let mut statistics = [0_u32; 2];
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the pointers describe `statistics` and its length, which outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        self.lost += u64::from(statistics[1]);
        Ok(self.lost)
    }
}

impl AsFd for Capture {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const EMPTY_NAME: libc::sockaddr_ll = libc::sockaddr_ll {
    sll_family: 0,
    sll_protocol: 0,
    sll_ifindex: 0,
    sll_hatype: 0,
    sll_pkttype: 0,
    sll_halen: 0,
    sll_addr: [0; 8],
};

fn attach(fd: &OwnedFd, program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` describes instructions that outlive the call; the kernel only reads them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn bind_to_all(fd: &OwnedFd) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        ..EMPTY_NAME
    };
    // SAFETY: the pointer and length describe `address`, which outlives the call; the kernel only reads it.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What comes beside a packet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    time: u64,
    length: Option<u32>,
}

/// Reads control messages (cmsg(3)): `struct cmsghdr` of 16 bytes, its data, padded to 8.
fn read_control(mut bytes: &[u8]) -> Told {
    const HEADER: usize = 16;
    let mut told = Told::default();
    while let Some(length) = number::<8>(bytes, 0).map(usize::from_ne_bytes)
        && let Some(data) = bytes.get(HEADER..length)
        && let (Some(level), Some(kind)) = (number::<4>(bytes, 8), number::<4>(bytes, 12))
    {
        match (i32::from_ne_bytes(level), i32::from_ne_bytes(kind)) {
            // struct timespec
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                if let (Some(seconds), Some(nanoseconds)) = (number::<8>(data, 0), number::<8>(data, 8)) {
                    let seconds = u64::from_ne_bytes(seconds);
                    told.time =
                        seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::from_ne_bytes(nanoseconds));
                }
            }
            // struct tpacket_auxdata: status, then the length before anything was cut off
            (libc::SOL_PACKET, PACKET_AUXDATA) => told.length = number::<4>(data, 4).map(u32::from_ne_bytes),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    told
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The address's four or sixteen bytes as numbers of 32 bits.
fn words(address: IpAddr) -> Vec<u32> {
    match address {
        IpAddr::V4(address) => vec![address.to_bits()],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32).to_vec()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_control_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_control(&bytes);
        }
    }

    #[test]
    fn time_and_length_are_read() {
        let mut bytes = Vec::new();
        for (length, level, kind, data) in [
            (
                32_u64,
                libc::SOL_SOCKET,
                libc::SCM_TIMESTAMPNS,
                [2_u64.to_ne_bytes(), 5_u64.to_ne_bytes()].concat(),
            ),
            (36, libc::SOL_PACKET, PACKET_AUXDATA, [&[0; 4][..], &1500_u32.to_ne_bytes(), &[0; 16]].concat()),
        ] {
            bytes.extend(length.to_ne_bytes());
            bytes.extend(level.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(data);
        }
        assert_eq!(read_control(&bytes), Told { time: 2_000_000_005, length: Some(1500) });
    }
}

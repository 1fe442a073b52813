//! Pseudo terminals for interactive programs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Both ends of a pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end that a terminal emulator holds.
    pub master: OwnedFd,
    /// The end that the program has as descriptors 0, 1 and 2; drop it in the caller once the program runs,
    /// or reads of the master never end.
    pub slave: OwnedFd,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Allocates a pseudo terminal on the calling process's `/dev/ptmx`.
pub fn open_pty(size: Option<WindowSize>) -> io::Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    if let Some(size) = size {
        set_window_size(&master, size)?;
    }
    Ok(Pty { master, slave })
}

/// Sets the size and, where it changed, has the kernel send SIGWINCH to the foreground process group.
pub fn set_window_size(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)?;
    Ok(())
}

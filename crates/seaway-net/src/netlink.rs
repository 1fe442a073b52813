//! A synchronous netlink socket.

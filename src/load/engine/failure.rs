//! What can go wrong with a connection, in the words that users see.

use std::io;
use std::net::SocketAddr;

use crate::load::tally::Failure;

/// A failure out of an error of the system.
pub fn of_io(error: &io::Error, address: SocketAddr) -> Failure {
    let (kind, what) = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => ("refused", "connection refused"),
        Some(libc::ECONNRESET | libc::EPIPE) => ("reset", "connection reset"),
        Some(libc::ETIMEDOUT) => ("timeout", "the connection timed out"),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => ("unreachable", "host unreachable"),
        Some(libc::EADDRNOTAVAIL) => (
            "no-port",
            "no local port is free (net.ipv4.ip_local_port_range; keep connections alive, or use fewer users)",
        ),
        Some(libc::EMFILE | libc::ENFILE) => ("no-fd", "no file descriptor is free (raise ulimit -n)"),
        Some(libc::ENOBUFS | libc::ENOMEM) => ("no-memory", "the kernel has no memory for the connection"),
        _ => return Failure { kind: "io", message: format!("{error} ({address})") },
    };
    Failure { kind, message: format!("{what} ({address})") }
}

/// A failure of this kind.
pub fn of(kind: &'static str, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

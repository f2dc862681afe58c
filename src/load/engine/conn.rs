//! A connection: a non-blocking socket, TLS over it where it is spoken, and the reader of its answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use rustls::ClientConnection;

use super::Server;
use super::tls::tls_words;
use crate::load::http::Answers;

/// What became of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// All of it is with the kernel.
    All,
    /// The rest waits for room.
    Some,
}

/// What became of reading.
#[derive(Debug)]
pub enum Got {
    /// So many bytes of content; whether more may wait in the kernel.
    Bytes(usize, bool),
    /// Nothing for now.
    Nothing,
    /// The other side has ended.
    End,
    /// TLS is broken.
    Tls(String),
    /// The system says no.
    Failed(io::Error),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// The number of its server.
    pub host: u16,
    /// Where it leads.
    pub address: SocketAddr,
    /// Whether connecting is over.
    pub connected: bool,
    /// Whether it carried an answer before.
    pub reused: bool,
    /// Whether the other side will send no more than what is on its way.
    pub half_closed: bool,
    /// Bytes of the request that are with TLS or the kernel.
    written: usize,
    /// The reader.
    pub answers: Answers,
}

impl Conn {
    /// Begins to connect.
    pub fn open(server: &Server, host: u16, turn: usize) -> Result<Self, (io::Error, Option<SocketAddr>)> {
        let Some(&address) = server.addresses.get(turn % server.addresses.len().max(1)) else {
            return Err((io::Error::from_raw_os_error(libc::EHOSTUNREACH), None));
        };
        let open = || -> io::Result<(OwnedFd, bool)> {
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
            let connected = match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address)) {
                Ok(()) => true,
                Err(Errno::EINPROGRESS) => false,
                Err(e) => return Err(e.into()),
            };
            Ok((fd, connected))
        };
        let (fd, connected) = open().map_err(|e| (e, Some(address)))?;
        let stream = TcpStream::from(fd);
        // Without it small requests wait for acknowledgements; a socket without the option still works.
        drop(stream.set_nodelay(true));
        let tls = match &server.tls {
            None => None,
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config.clone(), name.clone())
                    .map_err(|e| (io::Error::other(e), Some(address)))?;
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
        };
        let answers = Answers::default();
        Ok(Self { stream, tls, host, address, connected, reused: false, half_closed: false, written: 0, answers })
    }

    /// What connecting came to.
    pub fn connect_error(&self) -> Option<io::Error> {
        match self.stream.take_error() {
            Ok(found) => found,
            Err(e) => Some(e),
        }
    }

    /// Forgets how much of a request was written: the next one begins.
    pub fn rewind(&mut self) {
        self.written = 0;
    }

    /// Writes what is left of `request`.
    pub fn write(&mut self, request: &[u8]) -> io::Result<Wrote> {
        let Some(tls) = &mut self.tls else {
            while let Some(rest) = request.get(self.written..).filter(|r| !r.is_empty()) {
                match self.stream.write(rest) {
                    Ok(0) => return Err(io::Error::from_raw_os_error(libc::EPIPE)),
                    Ok(n) => self.written += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Wrote::Some),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            return Ok(Wrote::All);
        };
        if self.written < request.len() {
            tls.writer().write_all(&request[self.written..])?;
            self.written = request.len();
        }
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Wrote::Some),
                Err(e) => return Err(e),
            }
        }
        Ok(Wrote::All)
    }

    /// Reads into `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Got {
        let Some(tls) = &mut self.tls else {
            return match self.stream.read(buffer) {
                Ok(0) => Got::End,
                Ok(n) => Got::Bytes(n, n == buffer.len()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Got::Nothing,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => Got::Bytes(0, true),
                Err(e) => Got::Failed(e),
            };
        };
        loop {
            match tls.reader().read(buffer) {
                Ok(0) => return Got::End,
                Ok(n) => return Got::Bytes(n, true),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The server ended without saying goodbye in TLS; the HTTP reader knows whether something is missing.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Got::End,
                Err(e) => return Got::Failed(e),
            }
            match tls.read_tls(&mut self.stream) {
                // `reader` says at the next turn whether the end was clean; during the handshake it never is.
                Ok(0) if tls.is_handshaking() => return Got::Tls("the server ended during the handshake".to_owned()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Got::Nothing,
                Err(e) => return Got::Failed(e),
            }
            if let Err(e) = tls.process_new_packets() {
                // The alert that says why is worth trying to send.
                drop(tls.write_tls(&mut self.stream));
                return Got::Tls(tls_words(&e));
            }
        }
    }

    /// Whether something of `request` is still to be written.
    pub fn wants_more(&self, request: &[u8]) -> bool {
        self.written < request.len() || self.wants_write()
    }

    /// Whether TLS has something to send by itself (handshakes, tickets).
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|t| t.wants_write())
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

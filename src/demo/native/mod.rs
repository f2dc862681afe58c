//! The NPC world built into perfkit, for machines without a Python: the endpoints, the READY line and the end of
//! `world.py`, in named functions that the compiler does not inline, so that its flame graph reads as well.
//!
//! In: HTTP/1.1 on a free port of the loopback. Out: JSON. Invariants: it ends when its input does, and no request makes
//! it panic. A thread serves each connection; one keeps the world's clock, and one takes its snapshots.

mod memory;
mod people;
mod service;
mod terrain;
mod words;

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use super::http::{BODY_LIMIT, Fault, HEAD_LIMIT, Head, head_end};
use crate::error::{Error, Result};
use service::{Refusal, Service};

/// Serves the world until `input` ends; says `READY {"port":…,"pid":…,"runtime":"native"}` on `output` first.
///
/// Errors: `Io` when it cannot listen, cannot start a thread or cannot say that it is ready.
pub fn serve(mut input: impl Read, output: &mut dyn Write) -> Result<()> {
    let failed = |e: io::Error| Error::io("the demo's world cannot start", e);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let service = Arc::new(Service::new()?);
    let (end_clock, clock_ended) = mpsc::channel();
    let clock = {
        let service = Arc::clone(&service);
        thread::Builder::new()
            .name("world-clock".to_owned())
            .spawn(move || service.live(&clock_ended))
            .map_err(failed)?
    };
    let ended = Arc::new(AtomicBool::new(false));
    let door = {
        let ended = Arc::clone(&ended);
        let welcome = move || accept_connections(&listener, &service, &ended);
        thread::Builder::new().name("world-door".to_owned()).spawn(welcome).map_err(failed)?
    };
    let ready = json!({"port": address.port(), "pid": std::process::id(), "runtime": "native"});
    writeln!(output, "READY {ready}").and_then(|()| output.flush()).map_err(failed)?;

    // Whoever started us holds the other end, and its end is ours; what it writes means nothing.
    let _ = io::copy(&mut input, &mut io::sink());
    ended.store(true, Ordering::Relaxed);
    drop(end_clock);
    // A knock, so that the door looks up and sees that it is over.
    let _ = TcpStream::connect(address);
    for thread in [clock, door] {
        // A panic has been printed by its thread.
        let _ = thread.join();
    }
    Ok(())
}

fn accept_connections(listener: &TcpListener, service: &Arc<Service>, ended: &AtomicBool) {
    for stream in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let service = Arc::clone(service);
        // Without a thread for it the connection is closed, which its client sees.
        let _ =
            thread::Builder::new().name("world-player".to_owned()).spawn(move || serve_connection(&stream, &service));
    }
}

/// One client, request after request, until it goes or breaks the protocol.
fn serve_connection(stream: &TcpStream, service: &Service) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    let mut close = false;
    while !close {
        let (status, document) = match read_request(&mut reader) {
            Ok(None) => return,
            Ok(Some(request)) => {
                close = request.head.closes();
                let [method, path, _] = &request.head.first;
                match service.answer(method, path, &request.body) {
                    Ok(document) => (200, document),
                    Err(Refusal { status, message }) => (status, json!({"error": message})),
                }
            }
            Err(Refusal { status, message }) => {
                // Where the next request would begin is not known any more.
                close = true;
                (status, json!({"error": message}))
            }
        };
        if write_response(stream, status, &document, close).is_err() {
            return;
        }
    }
}

struct Request {
    head: Head,
    body: Vec<u8>,
}

/// The next request of a connection, `None` when the client is gone.
fn read_request(reader: &mut impl io::BufRead) -> std::result::Result<Option<Request>, Refusal> {
    let refuse = |status, message: &str| Err(Refusal::new(status, message));
    let mut bytes = Vec::new();
    while head_end(&bytes).is_none() {
        let room = (HEAD_LIMIT + 1).saturating_sub(bytes.len()) as u64;
        match io::BufRead::read_until(&mut reader.by_ref().take(room), b'\n', &mut bytes) {
            Err(_) => return Ok(None),
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) if bytes.len() > HEAD_LIMIT => return refuse(431, "the header is too long"),
            Ok(0) => return refuse(400, "the request ends in its header"),
            Ok(_) => {}
        }
    }
    let Ok(head) = Head::parse(&bytes) else { return refuse(400, "not an HTTP/1.1 request") };
    let [_, path, version] = &head.first;
    if !path.starts_with('/') || !matches!(version.as_str(), "HTTP/1.0" | "HTTP/1.1") {
        return refuse(400, "not an HTTP/1.1 request");
    }
    let length = match head.length() {
        Ok(length) if length <= BODY_LIMIT => length,
        Ok(_) => return refuse(413, "the body is too long"),
        Err(Fault::Chunked) => return refuse(501, "send a content-length"),
        Err(_) => return refuse(400, "content-length is not a number"),
    };
    let mut body = vec![0; length];
    match reader.read_exact(&mut body) {
        Ok(()) => Ok(Some(Request { head, body })),
        Err(_) => refuse(400, "the request ends in its body"),
    }
}

fn write_response(mut stream: &TcpStream, status: u16, document: &Value, close: bool) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Payload Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        _ => "Internal Server Error",
    };
    let body = document.to_string();
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: \
         {connection}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}

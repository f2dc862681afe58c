//! Bad weather on the wire: resets, half-closed connections, certificates that are none, waits that are too long.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Backlog, setsockopt, sockopt};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::server::{ok, raw, request};
use super::{Ran, load, scenario};

/// Closes with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    setsockopt(&stream.as_fd(), sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    drop(stream);
}

fn one_user(port: u16, words: &[&str]) -> Ran {
    let url = format!("http://127.0.0.1:{port}/x");
    let mut all = vec![url.as_str(), "-u", "1", "-t", "200ms", "-s", "2s", "--fail-on", "never"];
    all.extend_from_slice(words);
    load(&all)
}

/// All requests failed, as `kind` with `message`, under the endpoint's name.
#[track_caller]
fn all_failed(ran: &Ran, kind: &str, message: &str) {
    assert!(ran.count("requests") > 0 && ran.count("failures") == ran.count("requests"), "{kind}: {}", ran.report);
    let (k, m) = ran.error();
    assert!(k == kind && m.contains(message), "wanted {kind}, {message}; got {k}, {m}");
    let errors = ran.report["errors"].as_array().unwrap();
    let counted: u64 = errors.iter().map(|e| e["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, ran.count("failures"), "{:?}", ran.report["errors"]);
    assert!(errors.iter().all(|e| e["name"] == ran.report["by_name"][0]["name"]), "{:?}", ran.report["errors"]);
}

#[test]
fn resets_are_called_so_wherever_they_strike() {
    // At once, within the head, and within the body.
    for part in [&b""[..], b"HTTP/1.1 200 OK\r\nCont", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"] {
        let port = raw(move |mut stream, _| {
            if request(&stream) {
                stream.write_all(part).unwrap();
                // The bytes must be with the client before the reset throws them away: it answers with its acknowledgement.
                while unacknowledged(&stream) > 0 {
                    std::thread::yield_now();
                }
                reset(stream);
            }
        });
        all_failed(&one_user(port, &[]), "reset", "connection reset (127.0.0.1:");
    }
    // Before anything was read.
    let port = raw(|stream, _| reset(stream));
    all_failed(&one_user(port, &[]), "reset", "connection reset");
}

/// Bytes that the other side has not acknowledged (SIOCOUTQ is TIOCOUTQ).
fn unacknowledged(stream: &TcpStream) -> usize {
    // From /proc/net/tcp: no unsafe call is needed for it.
    let (local, peer) = (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port());
    let ports = (format!(":{local:04X}"), format!(":{peer:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let mut rows = row.filter(|w| w.len() > 4 && w[1].ends_with(&ports.0) && w[2].ends_with(&ports.1));
    rows.next().map_or(0, |w| usize::from_str_radix(w[4].split(':').next().unwrap(), 16).unwrap())
}

#[test]
fn a_post_on_a_connection_that_was_reset_is_sent_once_and_a_get_again() {
    // The first request of each connection is answered, the second reset.
    let port = raw(|mut stream, _| {
        if request(&stream) {
            stream.write_all(&ok("", "a")).unwrap();
            if request(&stream) {
                reset(stream);
            }
        }
    });
    let host = format!("http://127.0.0.1:{port}");
    let of = |method: &str| {
        let (_dir, path) = scenario(&format!(
            "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{{ {method} = \"/x\" }}]\n"
        ));
        load(&[&path, "-H", &host, "-u", "1", "-t", "200ms", "--fail-on", "never"])
    };
    let ran = of("get");
    assert!(ran.count("requests") > 2 && ran.count("failures") == 0, "{}", ran.report);
    let ran = of("post");
    let (requests, failures) = (ran.count("requests"), ran.count("failures"));
    assert!(requests > 2 && failures.abs_diff(requests - failures) <= 1, "{}", ran.report);
    assert_eq!(ran.error().0, "reset");
}

#[test]
fn a_half_closed_connection_ends_what_it_carried_and_no_more() {
    // A whole answer and the end of the server's side; the client's side stays open.
    let port = raw(|mut stream, _| {
        if request(&stream) {
            stream.write_all(&ok("", "ab")).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let ran = one_user(port, &[]);
    assert!(ran.count("requests") > 1 && ran.count("failures") == 0, "{}", ran.report);
    // A request that met the half-closed connection was sent again over a new one.
    assert_eq!(ran.count("connections"), ran.count("requests"), "{}", ran.report);
    // No answer, and the end of the server's side.
    let port = raw(|mut stream, _| {
        if request(&stream) {
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    all_failed(&one_user(port, &[]), "closed", "closed without an answer");
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn sign(&self, name: &str, years: (i32, i32)) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A TLS server with this certificate, for one answer a connection.
fn tls_server(cert: &Certificate, key: &KeyPair) -> u16 {
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let config = Arc::new(config);
    raw(move |mut stream, _| {
        let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        let mut head = [0; 4096];
        if tls.read(&mut head).is_ok_and(|n| n > 0) {
            let _ = tls.write_all(&ok("", "a"));
        }
    })
}

#[test]
fn certificates_that_are_none_are_told_apart() {
    let ours = Authority::new("ours");
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, ours.issuer.pem()).unwrap();
    let ca = pem.to_str().unwrap();
    let https = |port: u16| {
        load(&[&format!("https://localhost:{port}/x"), "-u", "1", "-t", "150ms", "--fail-on", "never", "--ca", ca])
    };
    let (cert, key) = ours.sign("localhost", (2020, 2090));
    let ran = https(tls_server(&cert, &key));
    assert!(ran.count("requests") > 0 && ran.count("failures") == 0, "{}", ran.report);
    let (cert, key) = ours.sign("other.test", (2020, 2090));
    all_failed(&https(tls_server(&cert, &key)), "tls", "is for another name");
    let (cert, key) = ours.sign("localhost", (2020, 2021));
    all_failed(&https(tls_server(&cert, &key)), "tls", "has expired");
    let (cert, key) = Authority::new("theirs").sign("localhost", (2020, 2090));
    all_failed(&https(tls_server(&cert, &key)), "tls", "--ca");
    // A server that speaks plain HTTP, and one that ends in the middle of the handshake.
    let plain = raw(|mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    all_failed(&https(plain), "tls", "the server does not speak TLS");
    let mute = raw(|mut stream, _| drop(stream.read(&mut [0; 4096])));
    all_failed(&https(mute), "tls", "ended during the handshake");
    // And one that speaks TLS where plain HTTP is asked for.
    let (cert, key) = ours.sign("localhost", (2020, 2090));
    all_failed(&one_user(tls_server(&cert, &key), &[]), "protocol", "not an HTTP answer");
}

#[test]
fn waits_that_are_too_long_say_what_was_waited_for() {
    // A listener whose queue is full drops further attempts to connect.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    nix::sys::socket::listen(&full, Backlog::new(0).unwrap()).unwrap();
    let port = full.local_addr().unwrap().port();
    let address = full.local_addr().unwrap();
    let limit = Duration::from_millis(200);
    let held: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&address, limit).ok()).take(20).collect();
    assert!(held.len() < 20, "the queue has no end");
    let ran = one_user(port, &["--timeout", "100ms"]);
    all_failed(&ran, "timeout", "no answer within 100.0 ms (connecting)");
    // The latency of a request that took too long is how long it took.
    let p50 = ran.report["latency_ms"]["p50"].as_f64().unwrap();
    assert!((100.0..150.0).contains(&p50), "{p50}");
    // The first byte, which never comes.
    let port = raw(|stream, _| while request(&stream) {});
    all_failed(&one_user(port, &["--timeout", "100ms"]), "timeout", "(waiting for an answer)");
    // The whole, of which a little comes again and again.
    let port = raw(|mut stream, _| {
        if request(&stream) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            while stream.write_all(b"a").is_ok() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    });
    all_failed(&one_user(port, &["--timeout", "100ms"]), "timeout", "(within the answer)");
}

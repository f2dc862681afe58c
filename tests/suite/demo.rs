//! The demo's world as a process, on every CPython and native: it answers, refuses, ends when it should and never
//! otherwise, and the built-in client counts what the service counts.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use perfkit::demo::{Drive, Load, Operation, Runtime, World};
use perfkit::error::Kind;
use serde_json::{Value, json};

use crate::rig::{PATIENCE, Python, for_each_python, perfkit, python, run_command, signal};

#[test]
fn every_endpoint_answers() {
    on_every_world(|world| {
        let mut client = Client::connect(world.address());
        let health = client.ask("GET", "/health", None).good();
        assert_eq!(health["status"], "ok");

        let talk = json!({"player_id": "p1", "text": "Good day friend, did the wolves come down again?"});
        let first = client.ask("POST", "/npc/7/interact", Some(&talk)).good();
        assert_eq!(first["npc_id"], 7);
        assert!(first["reply"].as_str().unwrap().contains("wolves"), "{first}");
        let moods = ["joy", "anger", "fear", "trust", "calm"];
        assert!(moods.contains(&first["mood"].as_str().unwrap()), "{first}");
        assert!(first["memories"].as_u64().unwrap() > 0, "the world has a history: {first}");
        assert_eq!(first["token"], client.ask("POST", "/npc/8/interact", Some(&talk)).good()["token"]);
        client.ask("POST", "/npc/7/interact", Some(&json!({"text": "no player, and an ümlaut"}))).good();

        let npc = client.ask("GET", "/npc/7", None).good();
        assert_eq!((&npc["id"], &npc["talks"]), (&json!(7), &json!(2)), "{npc}");
        assert!(npc["remembers"].as_u64().unwrap() > 0 && npc["emotions"]["joy"].is_f64(), "{npc}");
        assert!(npc["position"]["row"].is_u64() && npc["position"]["column"].is_u64(), "{npc}");

        let everything = client.ask("GET", "/world?fresh=1", None).good();
        let people = everything["people"].as_array().unwrap();
        assert_eq!((everything["population"].as_u64(), people.len()), (Some(50), 50));
        let map = &everything["map"];
        let tiles = map["width"].as_u64().unwrap() * map["height"].as_u64().unwrap();
        assert_eq!(map["heights"].as_array().unwrap().len() as u64, tiles);

        let environment = client.ask("GET", "/environment", None).good();
        assert!((-30.0..50.0).contains(&environment["degrees"].as_f64().unwrap()), "{environment}");

        let chat = |client: &mut Client, message: &str| {
            client.ask("POST", "/chat", Some(&json!({"player_id": "p1", "message": message}))).good()
        };
        let walk = chat(&mut client, "please go to the MARKET now");
        assert_eq!(walk["intent"], "go");
        assert!(walk["steps"].is_u64(), "{walk}");
        assert_eq!(chat(&mut client, "look around")["intent"], "look");
        assert_eq!(chat(&mut client, "I sell 3 loaves")["intent"], "trade");
        let chatter = chat(&mut client, "what about the market?");
        assert_eq!(chatter["intent"], "talk");
        assert!(chatter["context_lines"].as_u64().unwrap() > 0, "{chatter}");

        assert_eq!(client.ask("GET", "/health", None).good()["requests"], 12, "all on one connection");
    });
}

#[test]
fn bad_requests_are_refused_and_the_next_one_is_answered() {
    let long = json!({"text": "x".repeat(2001)});
    on_every_world(|world| {
        let mut client = Client::connect(world.address());
        let body = json!({"text": "hello", "message": "hello"});
        for (method, path, body, status) in [
            ("GET", "/", None, 404),
            ("GET", "/nothing/here", None, 404),
            ("GET", "/npc/51", None, 404),
            ("GET", "/npc/0", None, 404),
            ("GET", "/npc/-1", None, 404),
            ("GET", "/npc/x", None, 404),
            ("GET", "/npc/99999999999999999999999", None, 404),
            ("POST", "/npc/51/interact", Some(&body), 404),
            ("POST", "/npc/1/interact/more", Some(&body), 404),
            ("GET", "/npc/1/interact", None, 405),
            ("POST", "/npc/1", Some(&body), 405),
            ("DELETE", "/world", None, 405),
            ("PUT", "/environment", None, 405),
            ("GET", "/chat", None, 405),
            ("POST", "/health", None, 405),
            ("POST", "/chat", None, 400),
            ("POST", "/chat", Some(&json!({"text": "the field is called message"})), 400),
            ("POST", "/chat", Some(&json!({"message": 7})), 400),
            ("POST", "/chat", Some(&json!({"message": "  "})), 400),
            ("POST", "/chat", Some(&json!({"message": "x", "player_id": null})), 400),
            ("POST", "/npc/1/interact", Some(&json!(["text"])), 400),
            ("POST", "/npc/1/interact", Some(&json!("text")), 400),
            ("POST", "/npc/1/interact", Some(&long), 400),
        ] {
            let answer = client.ask(method, path, body);
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            assert!(answer.body["error"].is_string() && !answer.closes, "{method} {path}: {answer:?}");
        }
        let deep = b"[".repeat(60_000);
        for body in [&b"{"[..], b"{\"message\": \"\xff\"}", br#"{"message": "\ud800"}"#, b"\x00", &deep] {
            let mut request = format!("POST /chat HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            request.extend(body);
            client.stream.write_all(&request).unwrap();
            assert_eq!(client.hear().status, 400);
        }
        client.ask("GET", "/health", None).good();
    });
}

#[test]
fn what_breaks_the_protocol_is_refused_and_only_its_own_connection_closes() {
    let endless = format!("GET /health HTTP/1.1\r\nX-Long: {}", "x".repeat(20_000));
    on_every_world(|world| {
        let mut bystander = Client::connect(world.address());
        bystander.ask("GET", "/health", None).good();
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("\r\n\r\n", 400),
            ("GET /health\r\n\r\n", 400),
            ("GET /health HTTP/2.0\r\n\r\n", 400),
            ("GET health HTTP/1.1\r\n\r\n", 400),
            ("GET /he alth HTTP/1.1\r\n\r\n", 400),
            ("GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET /health HTTP/1.1\r\nHost: x", 400),
            ("POST /chat HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST /chat HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n", 400),
            ("POST /chat HTTP/1.1\r\nContent-Length: 10\r\n\r\n{}", 400),
            ("POST /chat HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", 413),
            ("POST /chat HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
            (endless.as_str(), 431),
        ] {
            let mut client = Client::connect(world.address());
            client.stream.write_all(request.as_bytes()).unwrap();
            client.stream.shutdown(Shutdown::Write).unwrap();
            let answer = client.hear();
            assert_eq!(answer.status, status, "{request:.60}: {answer:?}");
            assert!(answer.closes, "{request:.60}: {answer:?}");
        }
        for request in ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"] {
            let mut client = Client::connect(world.address());
            client.stream.write_all(request.as_bytes()).unwrap();
            assert!(client.hear().closes, "{request}");
            assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "{request}");
        }
        // Two requests in one write, and half a request from somebody who goes away.
        bystander.stream.write_all(b"GET /npc/1 HTTP/1.1\r\n\r\nGET /npc/2 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!([bystander.hear().body["id"].clone(), bystander.hear().body["id"].clone()], [1, 2]);
        Client::connect(world.address()).stream.write_all(b"GET /he").unwrap();
        bystander.ask("GET", "/health", None).good();
    });
}

#[test]
fn the_client_counts_what_the_service_counts() {
    on_every_world(|world| {
        // An unoptimised native world on a busy machine takes seconds for an answer; here only the counts matter.
        let load = Load { requests: 60, users: 4, timeout: PATIENCE, ..Load::default() };
        let summary = Drive::start(world.address(), load).unwrap().wait().unwrap();
        assert_eq!((summary.total.answered, summary.total.failed, summary.total.cut), (60, 0, 0), "{summary}");
        assert_eq!(summary.by_operation.iter().map(|(_, t)| t.answered).sum::<u64>(), 60);
        let (busiest, _) = summary.by_operation.iter().max_by_key(|(_, t)| t.answered).unwrap();
        assert_eq!(*busiest, Operation::PlayerInteraction);
        let health = Client::connect(world.address()).ask("GET", "/health", None).good();
        assert_eq!(health["requests"], 61, "60 of the client's and this one");
        // The language model takes 20 to 60 ms, so an interaction cannot take less.
        let interactions = summary.by_operation[0].1.latency.unwrap();
        assert!(interactions.p50.0 >= 20_000_000, "{summary}");
    });
}

#[test]
fn a_world_that_dies_is_a_failure_and_not_a_hang() {
    let world = World::start_native_with(perfkit()).unwrap();
    // Far more than can be answered before the end, each after the 20 ms of the language model.
    let load = Load { requests: 5000, pause: (Duration::ZERO, Duration::ZERO), ..Load::default() };
    let drive = Drive::start(world.address(), load).unwrap();
    Client::connect(world.address()).ask("POST", "/chat", Some(&json!({"message": "hello"}))).good();
    signal(world.pid(), Signal::SIGKILL);
    let ended = world.end().unwrap_err();
    assert!(ended.to_string().contains("signal: 9"), "{ended:?}");
    let summary = drive.wait().unwrap();
    assert_eq!((summary.total.answered + summary.total.failed, summary.total.cut), (5000, 0), "{summary}");
    assert!(summary.total.failed > 0, "{summary}");
    assert_eq!(summary.failures.iter().map(|(_, n)| n).sum::<u64>(), summary.total.failed, "{summary}");
}

#[test]
fn it_ends_when_its_stdin_closes_even_in_the_middle_of_requests() {
    on_every_world_owned(|mut world| {
        assert!(world.is_alive());
        let drive = Drive::start(world.address(), Load::default()).unwrap();
        let mut client = Client::connect(world.address());
        let talk = b"POST /npc/1/interact HTTP/1.1\r\nContent-Length: 16\r\n\r\n{\"text\":\"hello\"}";
        client.stream.write_all(talk).unwrap();
        Client::connect(world.address()).ask("GET", "/health", None).good();
        let pid = world.pid();
        // It would have been killed, and that an error, if it had not ended by itself.
        assert_eq!(world.end().unwrap(), "", "it ends without a complaint");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is reaped");
        drop(drive);
    });
}

#[test]
fn it_ends_when_its_owner_is_killed() {
    // Three processes: this one; a witness, which becomes the world's parent when its owner is killed and so can wait for
    // the world's end; and the owner.
    const ROLE: &str = "PERFKIT_TEST_ROLE";
    const KIND: &str = "PERFKIT_TEST_WORLD";
    let play = |role: &str, kind: &OsStr| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "demo::it_ends_when_its_owner_is_killed", "--nocapture"]);
        command.env(ROLE, role).env(KIND, kind).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    match (std::env::var(ROLE).as_deref(), std::env::var_os(KIND)) {
        (Ok("owner"), Some(kind)) => own_a_world(&kind),
        (Ok("witness"), Some(kind)) => kill_the_owner(play("owner", &kind)),
        _ => {
            let on = |kind: &OsStr| {
                let seen = run_command(play("witness", kind), 2 * PATIENCE);
                assert_eq!(seen.code, Some(0), "{seen:?}");
            };
            on("native".as_ref());
            for_each_python(|python| on(python.path.as_ref()));
        }
    }
}

/// The owner: says what it owns, and waits to be killed.
fn own_a_world(kind: &OsStr) {
    let world = if kind == "native" { World::start_native_with(perfkit()) } else { World::start_with(kind.as_ref()) };
    let world = world.unwrap();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\nOWNS {} {}", world.pid(), world.address().port()).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

/// The witness: the world answers, its owner is killed, the world ends by itself.
fn kill_the_owner(mut owner: Command) {
    set_child_subreaper(true).unwrap();
    let mut owner = owner.spawn().unwrap();
    let said = lines(owner.stdout.take().unwrap()).find(|l| l.starts_with("OWNS ")).expect("it owns a world");
    let numbers: Vec<u32> = said.split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    let (pid, port) = (numbers[0], numbers[1] as u16);
    Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).ask("GET", "/health", None).good();
    owner.kill().unwrap();
    owner.wait().unwrap();
    let (done, ended) = channel();
    let child = Pid::from_raw(pid as i32);
    thread::spawn(move || done.send(waitpid(child, None)));
    let status = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        signal(pid, Signal::SIGKILL);
        panic!("the world of pid {pid} outlives its owner")
    });
    assert_eq!(status, Ok(WaitStatus::Exited(child, 0)));
}

#[test]
fn the_pid_is_the_interpreter_behind_a_shim() {
    let real = &python("").path;
    let dir = tempfile::tempdir().unwrap();
    // Written by a process that is gone when the shim runs: one that is open for writing cannot be executed.
    let shim = |name: &str, command: &str| -> PathBuf {
        let path = dir.path().join(name);
        let script = format!("#!/bin/sh\n{command} {} \"$@\"\n", real.display());
        let mut install = Command::new("/bin/sh");
        install.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&path).arg(script);
        assert!(install.status().unwrap().success());
        path
    };
    for path in [shim("that-execs", "exec"), shim("that-forks", "env")] {
        let world = World::start_with(&path).unwrap();
        assert_eq!(world.runtime(), &Runtime::Python(version(python(""))));
        let running = fs::read_link(format!("/proc/{}/exe", world.pid())).unwrap();
        assert_eq!(running, real.canonicalize().unwrap());
        let command = fs::read_to_string(format!("/proc/{}/cmdline", world.pid())).unwrap();
        assert!(command.contains("world.py") && command.contains("service.py"), "--name finds it: {command}");
    }
}

#[test]
fn a_python_that_cannot_run_it_is_refused_with_the_reason() {
    let refused = World::start_with(Path::new("/bin/cat")).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused:?}");
}

#[test]
fn the_first_python_on_the_path_is_taken() {
    let path = std::env::var_os("PATH").unwrap();
    let on_path = std::env::split_paths(&path).any(|dir| dir.join("python3").exists());
    if !on_path {
        let _ = crate::rig::skip("python3 on the PATH");
        return;
    }
    let mut world = World::start().unwrap();
    assert!(matches!(world.runtime(), Runtime::Python(_)), "{}", world.runtime());
    assert!(world.is_alive() && world.url().starts_with("http://127.0.0.1:"));
    Client::connect(world.address()).ask("GET", "/health", None).good();
}

// ---- worlds -----------------------------------------------------------------------------------------------------------

fn on_every_world(test: impl Fn(&World) + std::panic::RefUnwindSafe) {
    on_every_world_owned(|world| test(&world));
}

/// Runs `test` on the native world and on that of every CPython.
fn on_every_world_owned(test: impl Fn(World) + std::panic::RefUnwindSafe) {
    let native = World::start_native_with(perfkit()).unwrap();
    assert_eq!(native.runtime(), &Runtime::Native);
    test(native);
    for_each_python(|python| {
        let world = World::start_with(&python.path).unwrap();
        assert_eq!(world.runtime(), &Runtime::Python(version(python)));
        test(world);
    });
}

fn version(python: &Python) -> String {
    let (major, minor, micro) = python.version;
    format!("{major}.{minor}.{micro}")
}

// ---- a client that sends what it is told ------------------------------------------------------------------------------

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    closes: bool,
    body: Value,
}

impl Answer {
    fn good(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, received: Vec::new() }
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: world\r\nContent-Length: {}\r\n\r\n", body.len());
        self.stream.write_all((head + &body).as_bytes()).unwrap();
        self.hear()
    }

    fn hear(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.receive();
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        let field = |name: &str| head.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{head}"));
        let length: usize = field("Content-Length: ").parse().unwrap();
        while self.received.len() < length {
            self.receive();
        }
        let body: Vec<u8> = self.received.drain(..length).collect();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            closes: field("Connection: ") == "close",
            body: serde_json::from_slice(&body).unwrap(),
        }
    }

    fn receive(&mut self) {
        let mut chunk = [0; 8192];
        let n = self.stream.read(&mut chunk).unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&self.received));
        self.received.extend(&chunk[..n]);
    }
}

/// The lines that a child prints, until it ends.
fn lines(output: impl Read) -> impl Iterator<Item = String> {
    std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok)
}

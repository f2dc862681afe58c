//! What scenarios do, as the server sees it.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use super::server::{Reply, Server, ok, read, status};
use super::{load, scenario};

#[test]
fn a_user_logs_in_carries_what_it_got_and_says_goodbye() {
    let server = Server::start(|r| {
        Reply::Keep(match r.target.split('?').next().unwrap() {
            "/login" => ok(
                "Set-Cookie: sid=abc; Path=/\r\nX-Csrf: c5\r\n",
                r#"{"user": {"token": "t\"k"}, "items": [1, 2, 7]}"#,
            ),
            _ => ok("", "name=<b>anna</b>"),
        })
    });
    let (_dir, path) = scenario(
        r#"
        headers = { x-all = "yes" }
        [[user]]
        name = "u"
        sequence = true
        headers = { authorization = "Bearer ${token}" }
        on_start = [{ post = "/login", json = { name = "user ${user.id}", n = "${json(rand(5,5))}", list = [1, true, "a\"b"] },
                      headers = { authorization = "none" },
                      capture = { token = "$.user.token", last = "$.items[-1]", csrf = { header = "x-csrf" } } }]
        on_stop = [{ delete = "/session/${csrf}" }]
        [[user.task]]
        name = "look"
        steps = [{ get = "/look/${last}", as = "/look/[n]", query = { q = "a b&${token}", c = "${counter()}" },
                   capture = { who = { regex = "<b>(\\w+)</b>" } } },
                 { wait = 0.001 }]
        [[user.task]]
        name = "say"
        steps = [{ post = "/say", form = { who = "${who}", line = "${lines.text}" }, expect = { status = "2xx", text = "anna", under = "30s" } },
                 { post = "/raw", body = "${lines.text}${lines.n}" }]
        [data]
        lines = { values = [{ text = "x=1", n = 1 }, { text = "y", n = 2 }], mode = "sequential" }
        "#,
    );
    let ran = load(&[&path, "-H", &server.url(), "-u", "1", "-t", "500ms"]);
    // 4 where the machine is too busy to keep the schedule: that is not what is tested here.
    assert!(matches!(ran.code, 0 | 4) && ran.count("failures") == 0, "{}\n{}", ran.stderr, ran.report);
    let seen = server.requests();
    let of = |target: &str| seen.iter().find(|r| r.target.starts_with(target)).unwrap_or_else(|| panic!("no {target}"));
    let login = of("/login");
    assert_eq!(login.body, r#"{"name":"user 1","n":5,"list":[1,true,"a\"b"]}"#);
    assert_eq!((login.header("content-type"), login.header("authorization")), (Some("application/json"), Some("none")));
    let look = of("/look/7");
    assert_eq!(look.target, "/look/7?q=a+b%26t%22k&c=1");
    assert_eq!((look.header("cookie"), look.header("authorization")), (Some("sid=abc"), Some("Bearer t\"k")));
    assert_eq!(look.header("x-all"), Some("yes"));
    assert_eq!((of("/say").body.as_str(), of("/raw").body.as_str()), ("who=anna&line=x%3D1", "x=11"));
    assert!(seen.iter().any(|r| r.body == "y2"), "the second row of the data");
    let last = seen.last().unwrap();
    assert_eq!((last.method.as_str(), last.target.as_str()), ("DELETE", "/session/c5"));
    assert!(seen.iter().all(|r| r.connection == 0), "one connection, kept alive");
    let names: Vec<_> =
        ran.report["by_name"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["/session/[csrf]", "/look/[n]", "/login", "/raw", "/say"]);
    assert_eq!(ran.count("requests") as usize, seen.len(), "each request is counted once");
}

#[test]
fn redirects_are_followed_as_browsers_do() {
    let server = Server::start(|r| {
        Reply::Keep(match r.target.as_str() {
            "/old" => status("302 Found", "Location: sub/new?x\r\nSet-Cookie: a=b; Path=/sub\r\n", "gone"),
            "/sub/new?x" => status("307 Temporary", "Location: /end\r\n", ""),
            "/loop" => status("301 Moved", "Location: /loop\r\n", ""),
            "/away" => status("301 Moved", "Location: http://elsewhere.invalid/\r\n", ""),
            _ => ok("", "end"),
        })
    });
    let (_dir, path) = scenario(
        r#"
        [[user]]
        name = "u"
        sequence = true
        [[user.task]]
        name = "a"
        steps = [{ post = "/old", body = "b", expect = { text = "end" } }]
        [[user.task]]
        name = "b"
        steps = [{ get = "/loop", redirects = 3 }]
        [[user.task]]
        name = "c"
        steps = [{ get = "/away" }]
        [[user.task]]
        name = "d"
        steps = [{ get = "/old", as = "off", redirects = false, expect = { status = 302 } }, { wait = 60 }]
        "#,
    );
    let ran = load(&[&path, "-H", &server.url(), "-u", "1", "-t", "1s"]);
    let seen = server.requests();
    let lines: Vec<String> = seen.iter().map(|r| format!("{} {}", r.method, r.target)).collect();
    assert_eq!(
        lines,
        [
            "POST /old",
            "GET /sub/new?x",
            "GET /end",
            "GET /loop",
            "GET /loop",
            "GET /loop",
            "GET /loop",
            "GET /away",
            "GET /old"
        ]
    );
    assert_eq!(
        (seen[1].header("cookie"), seen[2].header("cookie"), seen[1].header("content-length")),
        (Some("a=b"), None, None)
    );
    // The circle and the other host; what is not to be followed is an answer like any other.
    assert_eq!((ran.count("requests"), ran.count("failures")), (4, 2), "{}", ran.report);
    let errors = &ran.report["errors"];
    assert!(errors.as_array().unwrap().iter().all(|e| e["kind"] == "redirect"), "{errors}");
    assert!(errors.to_string().contains("elsewhere.invalid") && errors.to_string().contains("more than 3"), "{errors}");
}

#[test]
fn weights_tags_and_classes_are_kept() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let text = r#"
        [[user]]
        name = "A"
        weight = 3
        [[user.task]]
        name = "five"
        weight = 5
        tags = ["x"]
        steps = [{ get = "/five" }]
        [[user.task]]
        name = "one"
        steps = [{ get = "/one" }]
        [[user]]
        name = "B"
        [[user.task]]
        name = "b"
        steps = [{ get = "/b" }]
    "#;
    let (_dir, path) = scenario(text);
    // As arrivals, the shares of classes are exact and those of tasks binomial.
    let ran = load(&[&path, "-H", &server.url(), "--arrivals", "800/s", "-t", "1s"]);
    let count = |ran: &super::Ran, name: &str| {
        let rows = ran.report["by_name"].as_array().unwrap();
        rows.iter().find(|r| r["name"] == name).map_or(0, |r| r["requests"].as_u64().unwrap())
    };
    assert_eq!(
        (ran.count("arrivals_asked"), ran.count("arrivals_made"), count(&ran, "/b")),
        (800, 800, 200),
        "{}",
        ran.stderr
    );
    let five = count(&ran, "/five");
    // 600 draws with probability 5/6: a deviation of 9.1; five of them.
    assert!(five.abs_diff(500) < 46, "{five}");
    let again = load(&[&path, "-H", &server.url(), "--arrivals", "800/s", "-t", "1s", "--processes", "2"]);
    assert_eq!(count(&again, "/five"), five, "the same seed does the same, with two threads too");
    let ran = load(&[&path, "A", "-H", &server.url(), "-T", "x", "--arrivals", "50/s", "-t", "1s"]);
    assert_eq!((count(&ran, "/five"), ran.count("requests")), (50, 50));
    let ran = load(&[&path, "-H", &server.url(), "-E", "x", "-u", "4", "-r", "1000", "-t", "200ms"]);
    assert_eq!(count(&ran, "/five"), 0);
    assert_eq!(ran.count("peak_users"), 4);
}

#[test]
fn unique_data_are_used_once_in_the_whole_run() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let (_dir, path) = scenario(
        r#"
        [[user]]
        name = "u"
        [[user.task]]
        name = "t"
        steps = [{ get = "/${pick(ids)}", as = "/[id]" }]
        [data]
        ids = { values = [1, 2, 3, 4, 5, 6, 7], mode = "unique" }
        "#,
    );
    let ran = load(&[&path, "-H", &server.url(), "-u", "3", "-r", "1000", "-t", "1s", "--processes", "2"]);
    let mut seen: Vec<String> = server.requests().into_iter().map(|r| r.target).collect();
    seen.sort();
    assert_eq!(seen, ["/1", "/2", "/3", "/4", "/5", "/6", "/7"], "{}", ran.report);
}

#[test]
fn streams_tell_the_time_to_their_first_token() {
    let server = Server::start(|_| {
        let event = |t: &str| format!("{:x}\r\ndata: {t}\n\n\r\n", t.len() + 8);
        let text = [&event("one")[..], &event("two"), &event("[DONE]"), "0\r\n\r\n"].concat();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        Reply::Keep(format!("{head}{text}").into_bytes())
    });
    let (_dir, path) = scenario(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ post = \"/chat\", sse = true, json = { q = \"hi\" } }]\n",
    );
    let ran = load(&[&path, "-H", &server.url(), "--arrivals", "20/s", "-t", "500ms"]);
    let row = &ran.report["by_name"][0];
    assert_eq!((row["requests"].as_u64(), row["events"].as_u64()), (Some(10), Some(30)), "{row}");
    assert!(row["first_token_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert_eq!(server.requests()[0].header("accept"), Some("text/event-stream"));
}

#[test]
fn tls_with_an_own_authority_and_without_trust() {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let cert = key.cert.der().clone();
    let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], der.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(config);
    let seen: Arc<Mutex<BTreeMap<usize, u32>>> = Arc::default();
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (mut stream, config, log) = (stream.unwrap(), Arc::clone(&config), Arc::clone(&log));
            thread::spawn(move || {
                let mut tls = rustls::ServerConnection::new(config).unwrap();
                let mut tls = BufReader::new(rustls::Stream::new(&mut tls, &mut stream));
                while let Ok(Some(_)) = read(&mut tls, connection) {
                    *log.lock().unwrap().entry(connection).or_default() += 1;
                    // A body over many records.
                    let _ = tls.get_mut().write_all(&ok("", &"x".repeat(100_000)));
                }
            });
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let pem = dir.path().join("ca.pem");
    std::fs::write(&pem, key.cert.pem()).unwrap();
    let url = format!("https://localhost:{port}/x");
    let ran = load(&[&url, "-u", "2", "-r", "1000", "-t", "300ms", "--ca", pem.to_str().unwrap()]);
    assert!(ran.count("requests") > 2 && ran.count("failures") == 0, "{}", ran.report);
    assert_eq!(ran.count("bytes"), ran.count("requests") * 100_000);
    assert_eq!(ran.count("connections"), 2);
    let ran = load(&[&url, "-u", "1", "-t", "200ms", "--insecure"]);
    assert!(ran.count("requests") > 0 && ran.count("failures") == 0, "{}", ran.report);
    let ran = load(&[&url, "-u", "1", "-t", "200ms"]);
    assert_eq!(ran.count("failures"), ran.count("requests"));
    assert_eq!(ran.error().0, "tls", "{}", ran.report);
}

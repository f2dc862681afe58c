//! Locustfiles on the engine: what users do, what is counted and told, and what is refused before anything is sent.

use std::collections::BTreeMap;

use super::server::{Reply, Server, ok, status};
use super::{Ran, load};

/// Runs `perfkit load` on a locustfile of this text against `server`.
fn run(server: &Server, text: &str, words: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("locustfile.py");
    std::fs::write(&path, text).unwrap();
    let url = server.url();
    let mut all = vec!["-f", path.to_str().unwrap(), "-H", &url, "--fail-on", "never"];
    all.extend_from_slice(words);
    load(&all)
}

/// Requests by name, as the report has them.
fn counts(ran: &Ran) -> BTreeMap<String, u64> {
    let rows = ran.report["by_name"].as_array().unwrap_or_else(|| panic!("no report: {}", ran.stderr));
    rows.iter().map(|r| (r["name"].as_str().unwrap().to_owned(), r["requests"].as_u64().unwrap())).collect()
}

const PLAYERS: &str = r#"
import random
from locust import HttpUser, SequentialTaskSet, constant, tag, task

class Player(HttpUser):
    wait_time = constant(0)

    def on_start(self):
        self.token = self.client.post("/login", json={"name": "a"}).json()["token"]

    @task(3)
    def talk(self):
        with self.client.post(f"/npc/{random.randint(1, 50)}", name="/npc/[id]", catch_response=True,
                              headers={"X-Token": self.token}) as answer:
            if answer.json()["mood"] != "glad":
                answer.failure("a sad one")

    @tag("look")
    @task
    class Walk(SequentialTaskSet):
        @task
        def there(self):
            self.client.get("/there")

        @task
        def back(self):
            self.client.get("/back")
            self.interrupt()

    @task
    def stumble(self):
        print("about to stumble")
        {}["nothing"]
"#;

#[test]
fn users_of_a_locustfile_do_what_it_says() {
    let server = Server::start(|r| {
        Reply::Keep(match r.target.as_str() {
            "/login" => ok("Set-Cookie: session=s1\r\n", r#"{"token": "t7"}"#),
            "/there" | "/back" => status("503 Out For Lunch", "", ""),
            "/npc/1" => ok("", r#"{"mood": "sad"}"#),
            _ => ok("", r#"{"mood": "glad"}"#),
        })
    });
    let ran = run(&server, PLAYERS, &["-u", "4", "-r", "1000", "-t", "1s"]);
    let seen = server.requests();
    let counted = counts(&ran);
    assert_eq!(counted.keys().collect::<Vec<_>>(), ["/back", "/login", "/npc/[id]", "/there"]);
    assert_eq!(counted.values().sum::<u64>(), seen.len() as u64, "each request is counted once");
    assert_eq!(counted["/login"], 4, "on_start, once a user");
    assert!(counted["/there"] - counted["/back"] <= 4, "one after the other: {counted:?}");
    let share = counted["/npc/[id]"] as f64 / counted["/there"] as f64;
    assert!(counted["/there"] > 200 && (2.4..3.6).contains(&share), "3 to 1: {counted:?}");
    let talks: Vec<_> = seen.iter().filter(|r| r.target.starts_with("/npc/")).collect();
    assert!(talks.iter().all(|r| r.header("x-token") == Some("t7") && r.header("cookie") == Some("session=s1")));
    let sad = talks.iter().filter(|r| r.target == "/npc/1").count() as u64;
    let errors = ran.report["errors"].as_array().unwrap();
    let of = |name: &str| errors.iter().filter(|e| e["name"] == name).collect::<Vec<_>>();
    let [judged] = of("/npc/[id]")[..] else { panic!("{errors:?}") };
    assert_eq!(
        (judged["count"].as_u64(), judged["error"].as_str()),
        (Some(sad), Some("CatchResponseError('a sad one')"))
    );
    assert!(of("/back")[0]["error"].as_str().unwrap().contains("503 Server Error: Out For Lunch"), "{errors:?}");
    let [raised] = &ran.report["exceptions"].as_array().unwrap()[..] else { panic!("{}", ran.report["exceptions"]) };
    // As Locust tells it: the text alone, the class with the traceback.
    let message = raised["message"].as_str().unwrap();
    assert!(message.starts_with('\'') && raised["count"].as_u64() > Some(50), "{raised}");
    let traceback = raised["traceback"].as_str().unwrap();
    assert!(traceback.contains("locustfile.py\", line 33, in stumble"), "{raised}");
    assert!(traceback.ends_with(&format!("\nKeyError: {message}")), "{raised}");
    assert!(ran.stderr.contains("about to stumble"), "{}", ran.stderr);
}

#[test]
fn a_shape_drives_the_users_and_ends_the_run() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let text = r#"
from locust import HttpUser, LoadTestShape, constant, task

class One(HttpUser):
    wait_time = constant(0.01)
    @task
    def look(self):
        self.client.get("/")

class Steps(LoadTestShape):
    def tick(self):
        t = self.get_run_time()
        if t < 1.5:
            return (6, 100)
        if t < 2.5:
            return (2, 100)
        return None
"#;
    let ran = run(&server, text, &["-u", "50", "-r", "50"]);
    // 4 where the machine is too busy to keep the schedule.
    assert!([0, 4].contains(&ran.code), "{}", ran.stderr);
    assert_eq!((ran.count("peak_users"), ran.count("failures")), (6, 0), "{}", ran.report);
    let lasted = ran.report["totals"]["duration_s"].as_f64().unwrap();
    assert!((2.9..4.5).contains(&lasted), "{lasted} s");
    assert!(ran.stderr.contains("-u and -r are left aside"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_run_is_named_before_anything_is_sent() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let user = "class U(HttpUser):\n    @task\n    def t(self):\n        self.client.get('/')\n";
    for (text, words, wanted) in [
        (format!("import numpy\nfrom locust import *\n{user}        numpy.array([1])\n"), &[][..], "locustfile.py:7"),
        (format!("from locust import *\n{user}    async def u(self):\n        await x\n"), &[], "locustfile.py:6"),
        (format!("from locust import *\n{user}"), &["Nobody"], "no user class 'Nobody'"),
        (format!("from locust import *\n{user}"), &["-T", "none"], "has no class of users with tasks"),
        ("from locust import *\n1 / 0\n".to_owned(), &[], "locustfile.py:2: ZeroDivisionError"),
        ("def broken(:\n".to_owned(), &[], "locustfile.py:1"),
    ] {
        let words: Vec<&str> = words.iter().chain(&["-t", "1s"]).copied().collect();
        let ran = run(&server, &text, &words);
        assert!(ran.code == 2 && ran.stderr.contains(wanted), "{wanted}: {} {}", ran.code, ran.stderr);
    }
    assert!(server.requests().is_empty());
}

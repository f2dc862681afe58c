//! Locustfiles against a border that answers by itself.

use super::*;

/// What a driven user did.
#[derive(Debug, Default)]
struct Trace {
    requests: Vec<Request>,
    verdicts: Vec<Verdict>,
    waits: Vec<u64>,
    sleeps: Vec<u64>,
    exceptions: Vec<Exception>,
    ended: bool,
}

fn compile(source: &str) -> Locustfile {
    Locustfile::of_source("locustfile.py", Path::new("."), source).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn refused(source: &str) -> Vec<Problem> {
    Locustfile::of_source("locustfile.py", Path::new("."), source).expect_err("nothing was refused")
}

fn answer(request: &Request, token: u64) -> Response {
    let status = if request.url.contains("missing") { 404 } else { 200 };
    let reason = if status == 200 { "OK" } else { "Not Found" };
    let body = br#"{"id": 7, "token": "abc", "items": [{"id": 1}, {"id": 2}], "ok": true}"#.to_vec();
    let headers = vec![("Content-Type".into(), "application/json".into()), ("X-Total".into(), "3".into())];
    Response { status, reason: reason.into(), headers, body, token, ..Response::default() }
}

/// Drives a user of class `class` until it has made `requests` requests or 10000 effects.
fn drive(world: &mut World, class: usize, requests: usize) -> Trace {
    let mut user = world.user(class, 1, 0).unwrap();
    let mut trace = Trace::default();
    let (mut input, mut now) = (Input::Go, 0_u64);
    let mut stopping = false;
    for _ in 0..10_000 {
        // A user that only raises has shown enough.
        if trace.exceptions.len() >= 3 && trace.requests.is_empty() {
            break;
        }
        match user.resume(&mut world.machine, input, now, now as i64 / 1000) {
            Effect::Request(request) => {
                let token = trace.requests.len() as u64;
                input = Input::Response(Box::new(answer(&request, token)));
                trace.requests.push(*request);
            }
            Effect::Verdict(verdict) => {
                trace.verdicts.push(*verdict);
                input = Input::Go;
            }
            Effect::Sleep(ns) => {
                trace.sleeps.push(ns);
                now += ns;
                input = Input::Go;
            }
            Effect::Wait(ns) | Effect::Pace(ns) => {
                trace.waits.push(ns);
                now += ns;
                input = Input::Go;
            }
            Effect::Exception(e) => {
                trace.exceptions.push(*e);
                input = Input::Go;
            }
            Effect::Yield | Effect::StopRun => input = Input::Go,
            Effect::Ended => {
                trace.ended = true;
                break;
            }
        }
        if !stopping && trace.requests.len() >= requests && !matches!(input, Input::Response(_)) {
            stopping = true;
            input = Input::Stop;
        }
    }
    trace
}

fn run(source: &str, requests: usize) -> Trace {
    let mut world = compile(source).world(&Options::default(), 1).unwrap();
    drive(&mut world, 0, requests)
}

const GAME: &str = r#"
import random, json, uuid
from locust import HttpUser, task, between, tag

LINES = ["hello", "any news?", "good day"]

def pick(lines):
    return random.choice(lines)

class NPCInteractionTest(HttpUser):
    wait_time = between(1, 3)
    host = "http://127.0.0.1:8000"

    def on_start(self):
        r = self.client.post("/login", json={"user": f"u{random.randint(1, 9)}"})
        self.token = r.json()["token"]
        self.count = 0

    @task(5)
    def player_interaction(self):
        npc = random.randint(1, 50)
        with self.client.post(f"/npc/{npc}/interact", json={"text": pick(LINES), "n": self.count},
                              headers={"Authorization": "Bearer " + self.token},
                              name="/npc/[id]/interact", catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif not response.json().get("ok"):
                response.failure("not ok")
            else:
                response.success()
        self.count += 1

    @tag("read")
    @task(2)
    def get_npc_state(self):
        self.client.get("/npc/%d" % random.randrange(1, 51), name="/npc/[id]")

    @task
    def get_missing(self):
        try:
            ids = [i["id"] for i in self.client.get("/missing", params={"a": "x y", "b": [1, 2]}).json()["items"] if i["id"] > 1]
            self.client.get(f"/item/{ids[0]:03d}", name="/item")
        except (KeyError, ValueError) as e:
            print("bad", e)

    def on_stop(self):
        self.client.post("/logout")
"#;

#[test]
fn a_game_users_requests_are_those_of_its_file() {
    let trace = run(GAME, 400);
    assert!(trace.exceptions.is_empty(), "{:?}", trace.exceptions);
    assert!(trace.ended);
    let first = trace.requests.first().unwrap();
    assert_eq!((first.method.as_str(), first.url.as_str()), ("POST", "/login"));
    assert_eq!(first.host.as_deref(), Some("http://127.0.0.1:8000"));
    assert_eq!(trace.requests.last().unwrap().url, "/logout");
    let named = |name: &str| trace.requests.iter().filter(|r| r.name == name).count() as f64;
    let (talk, look) = (named("/npc/[id]/interact"), named("/npc/[id]"));
    assert!((1.8..3.4).contains(&(talk / look)), "weights 5 and 2: {talk} and {look}");
    let post = trace.requests.iter().find(|r| r.name == "/npc/[id]/interact").unwrap();
    assert!(post.headers.contains(&("Authorization".into(), "Bearer abc".into())), "{post:?}");
    assert!(post.headers.contains(&("Content-Type".into(), "application/json".into())), "{post:?}");
    assert!(String::from_utf8_lossy(&post.body).starts_with("{\"text\": \""), "{post:?}");
    assert!(trace.requests.iter().any(|r| r.url == "/missing?a=x+y&b=1&b=2"));
    assert!(trace.requests.iter().any(|r| r.url == "/item/002"));
    assert!(trace.waits.iter().all(|w| (1_000_000_000..=3_000_000_000).contains(w)));
    assert_eq!(trace.verdicts.len(), trace.requests.len(), "every request has its verdict");
    for (i, verdict) in trace.verdicts.iter().enumerate() {
        assert_eq!(verdict.token, i as u64);
        let failed = verdict.name.starts_with("/missing");
        assert_eq!(verdict.failure.is_some(), failed, "{verdict:?}");
    }
    let missing = trace.verdicts.iter().find(|v| v.failure.is_some()).unwrap();
    assert_eq!(
        missing.failure.as_deref(),
        Some("HTTPError('404 Client Error: Not Found for url: /missing?a=x+y&b=1&b=2')")
    );
}

#[test]
fn classes_weights_and_tags_are_known() {
    let file = compile(GAME);
    let mut world = file.world(&Options::default(), 1).unwrap();
    let classes = world.classes();
    assert_eq!(classes.len(), 1);
    let tasks = [(0, "player_interaction".to_owned(), 5), (0, "get_npc_state".into(), 2), (0, "get_missing".into(), 1)];
    assert_eq!(classes[0].tasks, tasks);
    let options = Options { tags: vec!["read".into()], ..Options::default() };
    assert_eq!(file.world(&options, 1).unwrap().classes()[0].tasks, [(0, "get_npc_state".to_owned(), 2)]);
    assert!(file.wants_body());
}

#[test]
fn task_sets_nest_and_sequences_keep_their_order() {
    let trace = run(
        r#"
from locust import HttpUser, TaskSet, SequentialTaskSet, task, constant
class Buy(SequentialTaskSet):
    def on_start(self):
        self.client.get("/start")
    @task
    def first(self): self.client.get("/1")
    @task(2)
    def second(self): self.client.get("/2")
    @task
    def third(self):
        self.client.get("/3")
        self.interrupt()
    def on_stop(self):
        self.client.get("/stop")
class Shop(HttpUser):
    wait_time = constant(0.5)
    tasks = {Buy: 1}
"#,
        12,
    );
    assert!(trace.exceptions.is_empty(), "{:?}", trace.exceptions);
    let urls: Vec<_> = trace.requests.iter().map(|r| r.url.as_str()).take(12).collect();
    assert_eq!(urls, ["/start", "/1", "/2", "/2", "/3", "/stop", "/start", "/1", "/2", "/2", "/3", "/stop"]);
    assert!(trace.waits.iter().all(|w| *w == 500_000_000));
}

#[test]
fn pacing_counts_from_the_tasks_start() {
    let trace = run(
        "import time\nfrom locust import *\nclass U(HttpUser):\n  wait_time = constant_pacing(2)\n  @task\n  def t(self):\n    self.client.get('/')\n    time.sleep(0.5)\n",
        3,
    );
    assert_eq!(trace.sleeps, [500_000_000, 500_000_000]);
    // From the beginning of the task: the engine knows when that was.
    assert_eq!(trace.waits, [2_000_000_000, 2_000_000_000]);
}

#[test]
fn python_means_what_python_means() {
    // Each line is true in Python.
    let facts = r#"
1 + 2 * 3 ** 2 == 19 and -7 // 2 == -4 and -7 % 3 == 2 and 7 / 2 == 3.5
"a,b,,c".split(",") == ["a", "b", "", "c"] and " x ".strip() == "x" and "ab" * 2 == "abab"
[1, 2, 3][-1] == 3 and [1, 2, 3, 4][1:3] == [2, 3] and "hello"[::-1] == "olleh" and (1, 2)[0] == 1
{"a": 1}.get("b", 5) == 5 and {**{"a": 1}, "b": 2} == {"a": 1, "b": 2} and "a" in {"a": 1}
[x * y for x in range(3) for y in range(3) if x != y] == [0, 0, 0, 2, 0, 2]
{k: v for k, v in zip("ab", [1, 2])} == {"a": 1, "b": 2} and sorted({3, 1, 2}) == [1, 2, 3]
f"{3.14159:.2f}|{42:05d}|{'x':>3}|{'y'!r}|{1000000:,}" == "3.14|00042|  x|'y'|1,000,000"
"%s %d %.1f %05d" % ("a", 3, 2.55, 42) == "a 3 2.5 00042" or "%s %d %.1f %05d" % ("a", 3, 2.55, 42) == "a 3 2.6 00042"
"{} {1} {name}".replace("{1}", "{}").format(1, 2, name="n") == "1 2 n"
1 < 2 < 3 and not (1 < 3 < 2) and (None or "d") == "d" and (0 and 1) == 0
str([1, "a", None, True, 1.0, {"k": (1,)}]) == "[1, 'a', None, True, 1.0, {'k': (1,)}]"
json.dumps({"a": [1, 2.5, None, True], "b": "x\"y"}) == '{"a": [1, 2.5, null, true], "b": "x\\"y"}'
json.loads('{"a": {"b": [1]}}')["a"]["b"][0] == 1 and re.search(r"id=(\d+)", "x id=42").group(1) == "42"
len({1, 1, 2}) == 2 and max([3, 9, 2]) == 9 and min(4, 2) == 2 and sum([1, 2]) == 3 and abs(-3) == 3
list(map(lambda x: x + 1, [1, 2])) == [2, 3] and sorted([3, 1], key=lambda x: -x) == [3, 1]
[i for i, c in enumerate("abc") if c == "b"] == [1] and any(x > 2 for x in [1, 3]) and all([])
isinstance("s", str) and isinstance(1, (int, float)) and not isinstance([], dict)
int("42") == 42 and float("1.5") == 1.5 and str(10) == "10" and bool([]) is False and round(2.5) == 2
"-".join(str(i) for i in range(3)) == "0-1-2" and "Ab".lower() == "ab" and "x".zfill(3) == "00x"
(lambda a, b=2, *c, d=4, **e: (a, b, c, d, e))(1, 5, 6, d=7, z=8) == (1, 5, (6,), 7, {"z": 8})
datetime(2026, 1, 2).isoformat() == "2026-01-02T00:00:00" and timedelta(days=1).total_seconds() == 86400.0
base64.b64encode(b"hello").decode() == "aGVsbG8=" and base64.b64decode("aGVsbG8=") == b"hello"
quote("a b/c") == "a%20b/c" and urlencode({"a": "x y", "b": 1}) == "a=x+y&b=1"
"abc".startswith(("x", "a")) and "a-b".partition("-") == ("a", "-", "b") and "abc".find("z") == -1
(10 if False else 20) == 20 and [*[1], 2] == [1, 2] and 5 & 3 == 1 and 1 << 4 == 16 and ~0 == -1
1e3 == 1000.0 and repr(1e20) == "1e+20" and repr(0.1) == "0.1" and 10 ** -1 == 0.1
len(str(uuid.uuid4())) == 36 and len(uuid.uuid4().hex) == 32
"#;
    let source = format!(
        "import json, re, uuid, base64\nfrom datetime import datetime, timedelta\nfrom urllib.parse import quote, urlencode\n{}",
        facts.lines().filter(|l| !l.trim().is_empty()).flat_map(|l| ["assert ", l, "\n"]).collect::<String>()
    );
    compile(&source).world(&Options::default(), 1).unwrap();
}

#[test]
fn statements_mean_what_python_means() {
    let source = r#"
log = []
def f(n):
    try:
        if n == 1: return "one"
        if n == 2: raise ValueError("two")
        for i in range(5):
            if i == 3: break
            if i == 1: continue
            log.append(i)
        else:
            log.append("never")
    except ValueError as e:
        return str(e)
    finally:
        log.append("finally")
    return "end"
assert f(1) == "one" and f(2) == "two" and f(3) == "end"
assert log == ["finally", "finally", 0, 2, "finally"], log
class Base:
    kind = "base"
    def __init__(self, x): self.x = x
    def hi(self): return f"{self.kind} {self.x}"
    @staticmethod
    def twice(x): return x * 2
    @property
    def double(self): return self.x * 2
    @classmethod
    def make(cls): return cls(9)
class Child(Base):
    kind = "child"
    def __init__(self, x):
        super().__init__(x)
        self.y = x
    def hi(self): return super().hi() + "!"
c = Child(3)
assert c.hi() == "child 3!" and Base.twice(4) == 8 and c.double == 6 and Child.make().x == 9
a, (b, *rest) = 1, (2, 3, 4)
assert (a, b, rest) == (1, 2, [3, 4])
n = 0
while True:
    n += 1
    if n > 10: break
else:
    assert False
def counter():
    k = 0
    def up():
        nonlocal k
        k += 1
        return k
    return up
up = counter()
assert up() == 1 and up() == 2
total = 0
def add():
    global total
    total += 5
add()
assert total == 5
class Guard:
    def __enter__(self): return self
    def __exit__(self, *a): log.append("left"); return True
with Guard() as g:
    raise KeyError("swallowed")
assert log[-1] == "left"
d = {}
d.setdefault("a", []).append(1)
d["b"] = d.pop("a")
del d["b"]
assert d == {}
try:
    raise RuntimeError("x")
except Exception as e:
    try:
        raise
    except RuntimeError as again:
        assert again is e
if __name__ == "__main__":
    import something_else
    something_else.run()
"#;
    compile(source).world(&Options::default(), 1).unwrap();
}

#[test]
fn what_cannot_be_run_is_named_by_line() {
    let problems = refused(
        "import numpy as np\nfrom locust import HttpUser, task\nclass U(HttpUser):\n  @task\n  def t(self):\n    x = np.zeros(3)\n    self.client.get(nowhere)\n    x.flatten_all()\n    yield 1\nasync def f(): pass\n",
    );
    let said: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.line, p.what)).collect();
    for (line, word) in [(1, "numpy"), (7, "nowhere"), (8, "flatten_all"), (9, "yield"), (10, "async def")] {
        assert!(problems.iter().any(|p| p.line == line && p.what.contains(word)), "{line} {word}: {said:#?}");
    }
    assert_eq!(refused("def f(:\n")[0].line, 1);
    assert!(refused("from locust import nothing_like_it\nnothing_like_it()\n")[0].what.contains("nothing_like_it"));
}

#[test]
fn exceptions_are_counted_and_the_user_goes_on() {
    let trace = run(
        "from locust import HttpUser, task\nclass U(HttpUser):\n  @task\n  def t(self):\n    self.client.get('/')\n    {}['gone']\n",
        3,
    );
    assert_eq!(trace.exceptions.len(), 2);
    assert_eq!(trace.exceptions[0].summary(), "KeyError: 'gone'");
    assert_eq!(trace.exceptions[0].traceback.last().unwrap(), &("t".to_owned(), 6));
}

#[test]
fn exceptions_read_as_in_python() {
    for (raising, class, text) in [
        ("{}['']", "KeyError", "''"),
        ("{1: 2}.pop(3)", "KeyError", "3"),
        ("raise KeyError('k')", "KeyError", "'k'"),
        ("raise ValueError('bad', 1)", "ValueError", "('bad', 1)"),
        ("raise ValueError()", "ValueError", ""),
        ("[][1]", "IndexError", "list index out of range"),
        ("raise ConnectionResetError('gone')", "ConnectionResetError", "gone"),
    ] {
        let source = format!(
            "from locust import HttpUser, task\nclass U(HttpUser):\n  @task\n  def t(self):\n    self.client.get('/')\n    {raising}\n"
        );
        let e = &run(&source, 3).exceptions[0];
        assert_eq!((e.class.as_str(), e.message.as_str()), (class, text), "{raising}");
    }
    // What is caught by a base, and a text made of what was caught.
    let trace = run(
        "from locust import HttpUser, task, tag\nfrom http import HTTPStatus\n@tag('a')\nclass Helper:\n  pass\nclass U(HttpUser):\n  @task\n  def t(self):\n    try:\n      {}['a']\n    except LookupError as e:\n      self.client.get(f'/{e}')\n    try:\n      raise ConnectionRefusedError('no')\n    except (ConnectionError, OSError) as e:\n      r = self.client.get(f'/{e}')\n      assert r.status_code == HTTPStatus.OK\n",
        2,
    );
    let urls: Vec<_> = trace.requests.iter().map(|r| r.url.as_str()).collect();
    assert_eq!(urls[..2], ["/'a'", "/no"]);
    assert!(trace.exceptions.is_empty(), "{:?}", trace.exceptions);
}

#[test]
fn hostile_files_end_by_their_bounds() {
    let limits = Limits { steps: 200_000, memory: live_start() + (64 << 20), ..Limits::default() };
    let options = Options { limits, ..Options::default() };
    for task in [
        "while True: pass",
        "while True:\n      try:\n        x = 1 / 0\n      except Exception: pass",
        "while True:\n      try:\n        while True: pass\n      except BaseException: pass\n      finally: pass",
        "x = []\n    while True: x.append('a' * 1000)",
        "x = []\n    while True: x = [x]",
        "x = 'a'\n    while True: x = x + x",
        "f = lambda g: g(g)\n    f(f)",
        "x = [1]\n    for i in x: x.append(i)",
        "sorted([2, 1], key=lambda x: sorted([2, 1], key=lambda y: y))\n    range(10**12)[5]\n    list(range(10**12))",
        "'%10000000d' % 3",
        "x = []\n    x.append(x)\n    str(x) == str([x])",
        "d = {}\n    d['d'] = d\n    import_json = __import__ if False else 1\n    d == d.copy()",
        "2 ** 100000",
        "self.wait_time = 1\n    super().nothing()",
    ] {
        let source = format!(
            "from locust import HttpUser, task, constant\nclass U(HttpUser):\n  wait_time = constant(1)\n  @task\n  def t(self):\n    {task}\n    self.client.get('/')\n"
        );
        let Ok(file) = Locustfile::of_source("f", Path::new("."), &source) else { continue };
        let mut world = file.world(&options, 1).unwrap();
        let trace = drive(&mut world, 0, 2);
        assert!(!trace.exceptions.is_empty() || !trace.requests.is_empty(), "{task}");
    }
    for source in [
        "(".repeat(100_000),
        "-".repeat(100_000) + "1",
        "a".to_owned() + &".b".repeat(50_000),
        "1+".repeat(60_000) + "1",
        "not ".repeat(50_000) + "1",
        "x if y else ".repeat(20_000) + "1",
        "lambda: ".repeat(20_000) + "1",
    ] {
        assert!(Locustfile::of_source("f", Path::new("."), &source).is_err());
    }
}

fn live_start() -> usize {
    value::live_bytes()
}

/// Mutated files never panic, hang or bloat: parser, compiler, machine.
#[test]
fn mutated_files_never_break_the_machine() {
    let mut chance = Chance::new(3, 4);
    let limits = Limits { steps: 20_000, slice: 2000, memory: live_start() + (64 << 20), frames: 60 };
    let options = Options { limits, ..Options::default() };
    let words = [
        "(",
        ")",
        "[",
        "]",
        ":",
        "\n",
        "  ",
        "=",
        "lambda x: ",
        "0",
        "-",
        "'",
        "self",
        "while True:",
        "try:",
        "**",
        "*",
        "None",
        "[x for x in ",
        "in",
        ".append",
        "del ",
        "return ",
    ];
    let mut ran = 0;
    for _ in 0..400 {
        let mut text = GAME.as_bytes().to_vec();
        for _ in 0..=chance.below(2) {
            let at = chance.below(text.len() as u64) as usize;
            match chance.below(3) {
                0 => drop(text.drain(at..(at + chance.below(12) as usize).min(text.len()))),
                1 => drop(text.splice(at..at, words[chance.below(words.len() as u64) as usize].bytes())),
                _ => {
                    let from = chance.below(text.len() as u64) as usize;
                    let piece = text[from..(from + chance.below(40) as usize).min(text.len())].to_vec();
                    drop(text.splice(at..at, piece));
                }
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let Ok(file) = Locustfile::of_source("f", Path::new("."), &text) else { continue };
        let Ok(mut world) = file.world(&options, 1) else { continue };
        if !world.classes().is_empty() {
            drive(&mut world, 0, 20);
            ran += 1;
        }
    }
    assert!(ran > 20, "too few mutants ran: {ran}");
}

#[test]
fn an_idle_user_is_small() {
    let mut world = compile(GAME).world(&Options::default(), 1).unwrap();
    let before = value::live_bytes();
    let users: Vec<_> = (0..100)
        .map(|i| {
            let mut user = world.user(0, 1, i).unwrap();
            let mut input = Input::Go;
            loop {
                match user.resume(&mut world.machine, input, 0, 0) {
                    Effect::Request(r) => input = Input::Response(Box::new(answer(&r, 0))),
                    Effect::Wait(_) => break,
                    _ => input = Input::Go,
                }
            }
            user
        })
        .collect();
    let each = (value::live_bytes() - before) / users.len() + size_of::<User>();
    assert!(each < 2048, "{each} bytes a user");
}

/// Files named by `PERFKIT_LOCUST_CORPUS` (a directory): what runs, what is refused and why. A measurement, not a check.
#[test]
#[ignore = "needs a directory of foreign locustfiles"]
fn corpus() {
    use std::io::Write;
    let Some(dir) = std::env::var_os("PERFKIT_LOCUST_CORPUS") else { return };
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut good = 0;
    let mut out = std::io::stdout();
    for path in &files {
        let name = path.file_name().unwrap().to_string_lossy().replace('+', "/");
        let source = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        let directory = path.parent().unwrap();
        let outcome = match Locustfile::of_source(&name, directory, &source) {
            Err(p) => format!("refused: line {}: {}", p[0].line, p[0].what),
            Ok(file) => match file.world(&Options { host: Some("http://127.0.0.1:1".into()), ..Options::default() }, 1)
            {
                Err(e) => format!("does not load: {e}"),
                Ok(mut world) => {
                    let classes = world.classes().len();
                    let (mut requests, mut exceptions) = (0, Vec::new());
                    for class in 0..classes {
                        let trace = drive(&mut world, class, 50);
                        requests += trace.requests.len();
                        exceptions.extend(trace.exceptions);
                    }
                    let faults: Vec<_> = exceptions
                        .iter()
                        .filter(|e| {
                            ["AttributeError", "TypeError", "NotImplemented", "NameError", "RuntimeError", "more than"]
                                .iter()
                                .any(|w| e.summary().starts_with(w))
                        })
                        .collect();
                    if classes == 0 {
                        "no user class".to_owned()
                    } else if requests == 0 {
                        format!("no request; {:?}", exceptions.first())
                    } else if let Some(e) = faults.first() {
                        format!("runs, {requests} requests, raises {} at {:?}", e.summary(), e.traceback.last())
                    } else {
                        good += 1;
                        format!("runs: {classes} classes, {requests} requests")
                    }
                }
            },
        };
        writeln!(out, "{name}\t{outcome}").unwrap();
    }
    writeln!(out, "{good} of {}", files.len()).unwrap();
}

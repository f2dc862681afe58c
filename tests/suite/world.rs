//! The NPC world service as a target: each endpoint answers, each fault does what its text says, perfkit sees its handlers
//! by name, and nothing of it outlives its test.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::rig::{self, PATIENCE, World, ask, run, wait_until};

fn talk() -> Value {
    json!({"player_id": "p1", "text": "Good day friend, any news?"})
}

#[test]
fn live_world_endpoints_answer() {
    let Some(mut world) = World::start(&[]) else { return };
    assert_eq!(world.ask("GET", "/health", None).good()["status"], "ok");

    let said = world.ask("POST", "/npc/7/interact", Some(&talk())).good();
    assert_eq!((&said["npc_id"], &said["memories"]), (&json!(7), &json!(8)), "{said}");
    assert!(said["reply"].as_str().unwrap().starts_with("The road is long"), "{said}");

    let npc = world.ask("GET", "/npc/7", None).good();
    assert_eq!((&npc["id"], &npc["talks"], &npc["remembers"]), (&json!(7), &json!(1), &json!(41)), "{npc}");
    let again = world.ask("GET", "/npc/7", None).good();
    assert_eq!(again["position"], npc["position"], "from the cache");

    let everybody = world.ask("GET", "/world", None).good();
    assert_eq!(everybody["people"].as_array().unwrap().len(), 50);
    assert_eq!(everybody["people"][6]["talks"], 1, "from PostgreSQL");

    let weather = world.ask("GET", "/environment", None).good();
    assert!((-30.0..60.0).contains(&weather["degrees"].as_f64().unwrap()), "{weather}");

    let mut chat = json!({"player_id": "p1", "message": "please go to the market"});
    let answer = world.ask("POST", "/chat", Some(&chat)).good();
    assert_eq!((&answer["intent"], &answer["target"]), (&json!("go"), &json!("market")), "{answer}");
    chat["stream"] = json!(true);
    let streamed = world.ask("POST", "/chat", Some(&chat));
    assert!(streamed.head.to_lowercase().contains("text/event-stream"), "{streamed:?}");
    assert_eq!(streamed.body.matches("data: {\"token\"").count(), 12, "{streamed:?}");
    assert!(streamed.body.ends_with("data: [DONE]\n\n"), "{streamed:?}");

    for (method, path, body, status) in [
        ("GET", "/npc/51", None, 404),
        ("GET", "/npc/x", None, 422),
        ("GET", "/nothing", None, 404),
        ("POST", "/chat", Some(json!({"text": "no message"})), 422),
        ("PUT", "/faults", Some(json!({"no_such_fault": 1})), 400),
    ] {
        let answer = world.ask(method, path, body.as_ref());
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
    let stub = ask(
        world.ready()["llm"]["port"].as_u64().unwrap() as u16,
        "POST",
        "/v1/chat/completions",
        Some(&json!({"stream": true})),
    );
    assert_eq!(stub.body.matches("data: ").count(), 13, "{stub:?}");

    let truth = world.truth();
    let requests = &truth["requests"];
    assert_eq!((&requests["player_interaction"], &requests["chat_command"]), (&json!(1), &json!(2)), "{truth}");
    assert!(truth["ticks"].as_u64().unwrap() > 0, "{truth}");
    assert_eq!((&truth["leaked"], &truth["orphans"], &truth["cached"]), (&json!(0), &json!(0), &json!(0)));

    let pids = world.pids();
    world.finish();
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} outlived the world");
    }
}

#[test]
fn live_world_ends_with_its_launcher() {
    let Some(world) = World::start(&[("WORLD_WORKERS", "2")]) else { return };
    let pids = world.pids();
    let launcher = world.ready()["pid"].as_u64().unwrap() as u32;
    assert_eq!(world.ready()["service"]["workers"].as_array().unwrap().len(), 2);
    rig::signal(launcher, nix::sys::signal::Signal::SIGKILL);
    for pid in pids {
        let runs = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
        wait_until("the end of all parts", PATIENCE, || !runs());
    }
}

#[test]
fn live_world_faults_do_what_they_say() {
    let Some(mut world) = World::start(&[("WORLD_POSTGRES_POOL", "2"), ("WORLD_FAULT_LEAK_PER_REQUEST", "5")]) else {
        return;
    };
    for name in ["slow_query_ms", "block_ms", "block_cpu_ms", "lock_ms", "row_lock_ms"] {
        world.ask("PUT", "/faults", Some(&json!({ name: 120 }))).good();
        let begin = std::time::Instant::now();
        world.ask("POST", "/npc/1/interact", Some(&talk())).good();
        assert!(begin.elapsed().as_millis() >= 120, "{name} took no time");
        world.ask("PUT", "/faults", Some(&json!({ name: 0 }))).good();
    }
    for block in world.events("block") {
        let length = block["end_ns"].as_u64().unwrap() - block["begin_ns"].as_u64().unwrap();
        assert!(length >= 120_000_000, "{block}");
    }
    assert_eq!(world.events("block").len(), 2);
    let more = json!({"tasks_per_request": 3, "cache_entries": 10, "n_plus_one": 1, "hold_connection": 1});
    world.ask("PUT", "/faults", Some(&more)).good();
    world.ask("POST", "/npc/1/interact", Some(&talk())).good();
    for _ in 0..20 {
        world.ask("GET", "/npc/1", None).good();
    }
    world.ask("GET", "/world", None).good();
    let truth = world.truth();
    assert_eq!((&truth["leaked"], &truth["orphans"], &truth["cached"]), (&json!(30), &json!(3), &json!(10)), "{truth}");
    assert_eq!(world.events("leak").last().unwrap()["count"], 30);
    for kind in ["cpu", "block", "gc", "lock", "query", "pool"] {
        let stall = world.ask("POST", "/stall", Some(&json!({"kind": kind, "ms": 100}))).good();
        let length = stall["end_ns"].as_u64().unwrap() - stall["begin_ns"].as_u64().unwrap();
        assert!(length >= 100_000_000, "{stall}");
    }
    world.ask("PUT", "/faults", Some(&json!({"errors_pct": 100}))).good();
    assert_eq!(world.ask("POST", "/chat", Some(&json!({"message": "x"}))).status, 500);
}

#[test]
fn live_world_handlers_show_by_name() {
    let Some(world) = World::start(&[("WORLD_TICK_MS", "100")]) else { return };
    let port = world.port();

    // A handler that sits in a blocking call is what a dump must name.
    world.ask("PUT", "/faults", Some(&json!({"block_ms": 5000}))).good();
    let dump = thread::scope(|scope| {
        scope.spawn(|| ask(port, "POST", "/npc/3/interact", Some(&talk())).good());
        world.await_event("block-begin");
        run(["dump", "--port", &port.to_string()]).expect(0)
    });
    assert!(world.events("block").len() == 1, "the dump came while the call blocked: {:?}", world.events("block"));
    for name in ["moderate_text (faults.py:", "player_interaction (service.py:"] {
        assert!(dump.stdout.contains(name), "no {name}: {dump:#?}");
    }

    world.ask("PUT", "/faults", Some(&json!({"block_ms": 0, "block_cpu_ms": 5}))).good();
    let stop = AtomicBool::new(false);
    let document = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    ask(port, "POST", "/npc/3/interact", Some(&talk())).good();
                    ask(port, "GET", "/npc/4", None).good();
                    ask(port, "GET", "/world", None).good();
                    ask(port, "GET", "/environment", None).good();
                    ask(port, "POST", "/chat", Some(&json!({"message": "look around"}))).good();
                }
            });
        }
        let out = run(["cpu", "--port", &port.to_string(), "-d", "4s", "-r", "499", "--json"]);
        stop.store(true, Ordering::Relaxed);
        out.expect(0).json()
    });
    let names: Vec<_> =
        document["functions"].as_array().unwrap().iter().map(|f| f["function"].as_str().unwrap()).collect();
    let handlers = ["player_interaction", "get_world_state", "get_environment_state", "chat_command"];
    for name in handlers.into_iter().chain(["score_toxicity", "World.tick", "World.drift_weather"]) {
        let short = name.rsplit('.').next().unwrap();
        assert!(names.iter().any(|n| *n == name || *n == short), "no {name} among {names:?}");
    }
}

"""Starts the world: redis-server, PostgreSQL, the language model's stub and the service, on free ports of 127.0.0.1.

    python start.py [--people] [--port N] [--directory DIR]

All four are children of this process and end with it, however it ends (PR_SET_PDEATHSIG).  Without `--people` it speaks the
rig's protocol: one line of JSON when the world is ready (URLs and PIDs of each part), `report` on standard input for the
service's own truth, and the end of standard input is the world's end.  With `--people` it prints the same as a table and
ends on Ctrl-C.  Everything it writes goes to DIR (a fresh temporary directory by default, removed at the end): data, logs,
and `events.jsonl`, the truth about faults (see faults.py).  As root, PostgreSQL runs as user `postgres` or `nobody`, since it
refuses root.  The environment (knobs of service.py, model_stub.py, faults.py) is handed on.

Run by the interpreter that has `requirements.txt` (scripts/setup makes it in target/world).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import glob
import json
import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from typing import Any, Callable, NoReturn

from store import DATABASE, create_database
from world import NPC_COUNT, World

HERE = os.path.dirname(os.path.abspath(__file__))
PATIENCE_S = 60
PR_SET_PDEATHSIG = 1
DEBIAN_POSTGRES = "/usr/lib/postgresql/*/bin"


class Failed(Exception):
    """The world cannot be started, and why."""


def find_program(name: str, *elsewhere: str) -> str:
    path = shutil.which(name)
    for pattern in elsewhere:
        path = path or next((p for p in reversed(sorted(glob.glob(os.path.join(pattern, name)))) if os.access(p, os.X_OK)), None)
    if not path:
        raise Failed(f"{name} is not installed (scripts/setup installs it)")
    return path


def free_port() -> int:
    """A port that nobody has. It could be taken before its user binds it; then that one says so and the world ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_user() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: ourselves, unless we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Failed("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def dies_with_us(kill_by: int, user: pwd.struct_passwd | None) -> Callable[[], None]:
    """What a child does before its program starts; the order matters, a change of user clears the death signal."""
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        libc.prctl(PR_SET_PDEATHSIG, kill_by, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


class Part:
    """One of the four programs."""

    def __init__(self, name: str, command: list[str], ready: str, end_by: int, news: queue.SimpleQueue[Any], **how: Any):
        self.name, self.ready_word, self.end_by, self.news = name, ready, end_by, news
        log = how.pop("log")
        user, kill_by = how.pop("user", None), how.pop("kill_by", signal.SIGKILL)
        # Its own session: Ctrl-C reaches this process alone, which ends the parts in their order.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=dies_with_us(kill_by, user),
            **how,
        )
        self.log = log
        threading.Thread(target=self.listen, name="listen-" + name, daemon=True).start()

    def listen(self) -> None:
        with open(self.log, "w", encoding="utf-8") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if self.ready_word in line:
                    self.news.put(("ready", self.name, line))
        self.news.put(("ended", self.name, ""))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(self.end_by)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def last_words(self) -> str:
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-15:])


class Launcher:
    """The parts, started one after the other and ended in the opposite order."""

    def __init__(self, directory: str, port: int):
        self.directory, self.port = directory, port
        self.news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.parts: list[Part] = []
        self.facts: dict[str, Any] = {}

    def start_part(self, name: str, command: list[str], ready: str, end_by: int, **how: Any) -> str:
        """Starts it and waits until it says that it is ready; returns that line."""
        log = os.path.join(self.directory, name + ".log")
        part = Part(name, command, ready, end_by, self.news, log=log, **how)
        self.parts.append(part)
        return self.await_ready(part)

    def await_ready(self, part: Part) -> str:
        while True:
            try:
                what, name, line = self.news.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise Failed(f"{part.name} is not ready after {PATIENCE_S} s:\n{part.last_words()}") from None
            if what == "ended":
                raise Failed(f"{name} ended:\n{self.part(name).last_words()}")
            if what == "ready" and name == part.name:
                return line
            if what == "stop":
                raise KeyboardInterrupt

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def start(self) -> None:
        self.start_redis()
        self.start_postgres()
        stub = self.start_part("llm", [sys.executable, os.path.join(HERE, "model_stub.py")], "READY ", signal.SIGTERM)
        said = json.loads(stub.split("READY ", 1)[1])
        self.facts["llm"] = {"url": f"http://127.0.0.1:{said['port']}", **said}
        self.start_service()

    def start_redis(self) -> None:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.directory]
        command = [find_program("redis-server"), *options, "--latency-monitor-threshold", "1"]
        self.start_part("redis", command, "Ready to accept connections", signal.SIGTERM)
        pid = self.part("redis").process.pid
        self.facts["redis"] = {"url": f"redis://127.0.0.1:{port}/0", "port": port, "pid": pid}

    def start_postgres(self) -> None:
        initdb, user = os.path.realpath(find_program("initdb", DEBIAN_POSTGRES)), postgres_user()
        server = os.path.join(os.path.dirname(initdb), "postgres")
        data, port = os.path.join(self.directory, "postgres"), free_port()
        os.mkdir(data, 0o700)
        if user is not None:
            os.chmod(self.directory, 0o711)
            os.chown(data, user.pw_uid, user.pw_gid)
        before = dies_with_us(signal.SIGKILL, user)
        command = [initdb, "-D", data, "-U", "world", "-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(command, capture_output=True, text=True, preexec_fn=before, cwd="/", stdin=subprocess.DEVNULL)
        if made.returncode != 0:
            raise Failed(f"initdb failed:\n{made.stdout}{made.stderr}")
        settings = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 100,
            "logging_collector": "off",
        }
        library = os.path.join(os.path.dirname(initdb), "..", "lib", "pg_stat_statements.so")
        if os.path.exists(library):
            settings["shared_preload_libraries"] = "pg_stat_statements"
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [server, "-D", data, *words]
        # SIGINT: "fast shutdown"; SIGQUIT, should we die: "immediate".
        how = {"user": user, "kill_by": signal.SIGQUIT, "cwd": "/"}
        self.start_part("postgres", command, "database system is ready to accept connections", signal.SIGINT, **how)
        base = f"postgres://world@127.0.0.1:{port}/"
        asyncio.run(create_database(base + "postgres", [person.name for person in World().people]))
        pid = self.part("postgres").process.pid
        self.facts["postgres"] = {"url": base + DATABASE, "port": port, "pid": pid, "data": data}

    def start_service(self) -> None:
        events = os.path.join(self.directory, "events.jsonl")
        open(events, "a").close()
        environment = {
            **os.environ,
            "WORLD_REDIS_URL": self.facts["redis"]["url"],
            "WORLD_POSTGRES_URL": self.facts["postgres"]["url"],
            "WORLD_LLM_URL": self.facts["llm"]["url"],
            "WORLD_PORT": str(self.port),
            "WORLD_EVENTS": events,
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, os.path.join(HERE, "service.py")]
        line = self.start_part("service", command, "READY ", signal.SIGTERM, env=environment)
        workers = [json.loads(line.split("READY ", 1)[1])]
        for _ in range(int(os.environ.get("WORLD_WORKERS", "1")) - 1):
            workers.append(json.loads(self.await_ready(self.part("service")).split("READY ", 1)[1]))
        port = workers[0]["port"]
        self.facts["service"] = {
            "url": f"http://127.0.0.1:{port}",
            "port": port,
            "pid": self.part("service").process.pid,
            "workers": sorted(worker["pid"] for worker in workers),
        }
        self.facts["events"] = events

    def report(self) -> dict[str, Any]:
        """The service's own truth (of one of its workers)."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.facts["service"]["url"] + "/truth", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def end(self) -> None:
        for part in reversed(self.parts):
            part.end()


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def listen_to_stdin(news: queue.SimpleQueue[Any]) -> None:
    for line in sys.stdin:
        news.put(("command", line.strip(), ""))
    news.put(("stop", "", ""))


def print_table(launcher: Launcher, log: str) -> None:
    print("The world is ready (Ctrl-C ends it):")
    for name in ("service", "redis", "postgres", "llm"):
        facts = launcher.facts[name]
        workers = [pid for pid in facts.get("workers", []) if pid != facts["pid"]]
        more = f"  workers {' '.join(map(str, workers))}" if workers else ""
        print(f"  {name:9} pid {facts['pid']:<8} {facts['url']}{more}")
    print(f"  logs and events in {log}")
    print(f"\n  perfkit cpu --port {launcher.facts['service']['port']} -d 10", flush=True)


def converse(launcher: Launcher, for_people: bool) -> int:
    """Until the end is asked for, or one of the parts dies."""
    while True:
        what, name, _ = launcher.news.get()
        if what == "stop":
            if not for_people:
                say(last=True, **launcher.report())
            return 0
        if what == "ended":
            print(f"start.py: {name} ended:\n{launcher.part(name).last_words()}", file=sys.stderr)
            return 1
        if what == "command":
            say(**(launcher.report() if name == "report" else {"error": "unknown command " + name}))


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description="Starts the NPC world service with its Redis, PostgreSQL and model.")
    parser.add_argument("--people", action="store_true", help="print a table and end on Ctrl-C")
    parser.add_argument("--port", type=int, default=0, help="port of the service (default: a free one)")
    parser.add_argument("--directory", help="where data and logs go (default: a temporary directory)")
    options = parser.parse_args()
    directory = options.directory or tempfile.mkdtemp(prefix="perfkit-world-")
    launcher = Launcher(directory, options.port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: launcher.news.put(("stop", "", "")))
    code = 1
    try:
        if not options.people:
            threading.Thread(target=listen_to_stdin, args=(launcher.news,), name="listen-stdin", daemon=True).start()
        launcher.start()
        if options.people:
            print_table(launcher, directory)
        else:
            say(ready=True, pid=os.getpid(), directory=directory, **launcher.facts)
        code = converse(launcher, options.people)
    except Failed as failed:
        print(f"start.py: {failed}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    finally:
        launcher.end()
        if not options.directory:
            shutil.rmtree(directory, ignore_errors=True)
    # The thread that reads standard input may still sit in its read.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

"""What can be wrong with the world service, on request: every knob is off by default and has a stated truth.

A knob is an environment variable, or a field of `PUT /faults` while the service runs (`{"block_ms": 200}`; the name without
`WORLD_FAULT_`, in lower case).  Every moment in which a fault strikes is a line of JSON in the file `WORLD_EVENTS`, with
the monotonic clock in nanoseconds (CLOCK_MONOTONIC, the clock of perf): the truth that a test compares perfkit with.

| knob (WORLD_FAULT_...) | what happens | the truth that a profiler should find |
|---|---|---|
| SLOW_QUERY_MS=N      | the query of `Store.recall_memories` takes N ms more, in PostgreSQL | tasks of `player_interaction` wait in `recall_memories`; `pg_stat_activity` shows wait event PgSleep; the service's CPU is idle |
| LEAK_PER_REQUEST=N   | each `player_interaction` keeps N `LeakedState` (about 1 kB each) for ever | module `faults`, list `REGISTRY`, type `LeakedState`; events `leak` hold the count |
| LEAK_PER_S=N         | the same, N a second, without any traffic | the same |
| CACHE_ENTRIES=N      | `get_npc_state` fills a cache `WARM` (dict) of at most N entries of 1 kB, then it stays | healthy: a cache that warms up, plateau at N entries |
| BLOCK_MS=N           | each BLOCK_EVERY-th `player_interaction` blocks the event loop for N ms in `moderate_text` (`time.sleep`) | loop lag of N ms, culprit `moderate_text` under `player_interaction`; events `block` with begin and end |
| BLOCK_CPU_MS=N       | the same, but computing (`score_toxicity`) | the same lag, and CPU in `score_toxicity` |
| HOLD_CONNECTION=1    | `player_interaction` keeps its PostgreSQL connection while the language model talks | pool in use: held by `player_interaction` in `LanguageModel.complete`; waiters in `Pool.acquire` |
| LOCK_MS=N            | `player_interaction` holds one asyncio.Lock for N ms | all other tasks of `player_interaction` wait in `Lock.acquire`; at most 1000/N talks a second |
| ROW_LOCK_MS=N        | `player_interaction` holds the row lock of the world's row for N ms in an open transaction | PostgreSQL: waits of type Lock, blocker `idle in transaction` |
| N_PLUS_ONE=1         | `get_world_state` asks PostgreSQL once for each of the people, not once for all | one query text, 50 calls a request |
| TASKS_PER_REQUEST=N  | each `player_interaction` leaves N tasks that wait for ever in `wait_for_nobody` | tasks grow; list `ORPHANS` |
| ERRORS_PCT=N         | N % of `chat_command` are answered with status 500 | error rate of `POST /chat` |

A pool that is too small is no fault but a size: `WORLD_POSTGRES_POOL`, `WORLD_REDIS_POOL` (see service.py).

`POST /stall {"kind": "cpu", "ms": 500}` plants one stall now and answers with its begin and end on the monotonic clock.
Kinds: `cpu` (a loop in Python on the event loop), `block` (a blocking call on the event loop), `gc` (collections), `lock`
(the world's lock is held), `query` (a slow query), `pool` (every connection of the pool to PostgreSQL is held).
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from dataclasses import dataclass, fields

PREFIX = "WORLD_FAULT_"
LEAKED_TEXT_LENGTH = 800
CACHED_TEXT_LENGTH = 1000


@dataclass
class Faults:
    """The knobs; 0 is off."""

    slow_query_ms: int = 0
    leak_per_request: int = 0
    leak_per_s: int = 0
    cache_entries: int = 0
    block_ms: int = 0
    block_cpu_ms: int = 0
    block_every: int = 1
    hold_connection: int = 0
    lock_ms: int = 0
    row_lock_ms: int = 0
    n_plus_one: int = 0
    tasks_per_request: int = 0
    errors_pct: int = 0

    @classmethod
    def from_environment(cls) -> Faults:
        """The knobs that the environment sets; a name that is none ends the service, since a fault that is not there
        would be a wrong truth."""
        faults = cls()
        for name, value in os.environ.items():
            if name.startswith(PREFIX):
                faults.set(name[len(PREFIX) :].lower(), value)
        return faults

    def set(self, name: str, value: object) -> None:
        if name not in {field.name for field in fields(self)}:
            raise ValueError(f"no fault is called {name!r}")
        number = int(str(value))
        if not 0 <= number <= 1_000_000:
            raise ValueError(f"{name} must be from 0 to 1000000, not {number}")
        setattr(self, name, number)


class Events:
    """The file in which the truth is written down, a line an event."""

    def __init__(self, path: str | None):
        self.file = open(path, "a", buffering=1, encoding="utf-8") if path else None
        self.lock = threading.Lock()

    def write(self, event: str, **facts: object) -> None:
        if self.file is not None:
            line = json.dumps({"event": event, "pid": os.getpid(), "monotonic_ns": time.monotonic_ns(), **facts})
            with self.lock:
                self.file.write(line + "\n")


# --- What leaks, and what only looks like it ----------------------------------------------------------------------------


class LeakedState:
    """One of the objects that nobody needs any more."""

    def __init__(self, number: int):
        self.number = number
        self.text = chr(97 + number % 26) * LEAKED_TEXT_LENGTH


REGISTRY: list[LeakedState] = []
WARM: dict[int, str] = {}
ORPHANS: list[asyncio.Task[None]] = []


def leak(count: int, events: Events) -> None:
    for _ in range(count):
        REGISTRY.append(LeakedState(len(REGISTRY)))
    if count:
        events.write("leak", count=len(REGISTRY))


def warm_cache(limit: int, requests: int) -> None:
    """Keeps an entry a request until there are `limit`; from then on old ones are used again."""
    if limit and requests % limit not in WARM:
        WARM[requests % limit] = f"{requests:>{CACHED_TEXT_LENGTH}}"


async def wait_for_nobody() -> None:
    await asyncio.Event().wait()


def leave_tasks(count: int) -> None:
    for _ in range(count):
        ORPHANS.append(asyncio.create_task(wait_for_nobody()))


# --- What holds the event loop ------------------------------------------------------------------------------------------


def score_toxicity(duration_ms: int) -> float:
    """Computes for that long, in Python."""
    end = time.monotonic_ns() + duration_ms * 1_000_000
    score = 0.0
    while time.monotonic_ns() < end:
        for letter in "good words and bad words, all to be weighed":
            score = (score * 31.0 + ord(letter)) % 1009.0
    return score


def moderate_text(faults: Faults, events: Events, requests: int) -> None:
    """Where a blocking call sits that nobody noticed in review."""
    if requests % max(1, faults.block_every) != 0:
        return
    for kind, duration_ms in (("sleep", faults.block_ms), ("cpu", faults.block_cpu_ms)):
        if duration_ms:
            begin = time.monotonic_ns()
            events.write("block-begin", kind=kind)
            if kind == "cpu":
                score_toxicity(duration_ms)
            else:
                time.sleep(duration_ms / 1000)
            events.write("block", kind=kind, begin_ns=begin, end_ns=time.monotonic_ns())


def collect_garbage(duration_ms: int) -> None:
    """Full collections over a heap with many cycles, for that long."""
    end = time.monotonic_ns() + duration_ms * 1_000_000
    rings = []
    for _ in range(20_000):
        ring: list[object] = []
        ring.append(ring)
        rings.append(ring)
    while time.monotonic_ns() < end:
        gc.collect()

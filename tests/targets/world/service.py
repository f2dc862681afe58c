"""The NPC world service: FastAPI on uvicorn, Redis and PostgreSQL behind pools, a language model that streams.

    POST /npc/{id}/interact   {"player_id": "p1", "text": "any news?"}      player_interaction
    GET  /npc/{id}                                                          get_npc_state
    GET  /world                                                             get_world_state
    GET  /environment                                                       get_environment_state (a `def`: on anyio's threads)
    POST /chat                {"player_id": "p1", "message": "go to the market", "stream": false}   chat_command
    GET  /health              pings both stores
    GET  /truth               what the service itself counts: requests by handler, its pools, its tasks, what leaked
    PUT  /faults, POST /stall see faults.py

With `"stream": true` a chat is answered as server-sent events: one `data: {"token": …}` for each token, then `data: [DONE]`.
Beside the requests the world ticks: CPU-bound Python on the event loop, as in many a game service.

Environment (start.py sets the URLs; the numbers are the defaults): WORLD_REDIS_URL, WORLD_POSTGRES_URL, WORLD_LLM_URL,
WORLD_PORT 0 (free), WORLD_WORKERS 1, WORLD_LOOP asyncio (or uvloop), WORLD_REDIS_POOL 20, WORLD_POSTGRES_POOL 10,
WORLD_LLM_POOL 200, WORLD_TICK_MS 250 (0: no tick), WORLD_TICK_ROUNDS 3, WORLD_EVENTS (a file, see faults.py).

Each worker prints one line `READY {"pid": …, "port": …}` when it takes requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from uvicorn.supervisors import Multiprocess

import faults as wrong
from faults import Events, Faults
from store import Store
from world import NPC_COUNT, World, parse_command, weigh_sentiment


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


class Interaction(BaseModel):
    player_id: str = Field(default="player", max_length=100)
    text: str = Field(min_length=1, max_length=2000)


class Chat(BaseModel):
    player_id: str = Field(default="player", max_length=100)
    message: str = Field(min_length=1, max_length=2000)
    stream: bool = False


class Stall(BaseModel):
    kind: str
    ms: int = Field(ge=1, le=60_000)


class LanguageModel:
    """The client of the language model."""

    def __init__(self, url: str, pool: int):
        limits = httpx.Limits(max_connections=pool, max_keepalive_connections=pool)
        self.client = httpx.AsyncClient(base_url=url, limits=limits, timeout=30.0, trust_env=False)

    async def tokens(self, prompt: str) -> AsyncIterator[str]:
        """The answer, token by token, as it comes."""
        question = {"messages": [{"role": "user", "content": prompt}], "stream": True}
        async with self.client.stream("POST", "/v1/chat/completions", json=question) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line[6:])["choices"][0]["delta"]["content"]

    async def complete(self, prompt: str) -> str:
        return "".join([token async for token in self.tokens(prompt)]).strip()


class Service:
    """What the handlers share."""

    def __init__(self, store: Store, model: LanguageModel):
        self.store, self.model = store, model
        self.world = World()
        self.faults = Faults.from_environment()
        self.events = Events(os.environ.get("WORLD_EVENTS"))
        self.world_lock = asyncio.Lock()
        self.requests: Counter[str] = Counter()
        self.started = time.monotonic()

    def person(self, npc: int) -> Any:
        if not 1 <= npc <= NPC_COUNT:
            raise HTTPException(404, "no such NPC")
        return self.world.people[npc - 1]

    async def run_world(self) -> None:
        """The ticks, and what leaks without anybody asking for it."""
        period, rounds = setting("WORLD_TICK_MS", 250) / 1000, setting("WORLD_TICK_ROUNDS", 3)
        loop = asyncio.get_running_loop()
        due, owed = loop.time(), 0.0
        while True:
            if period:
                self.world.tick(rounds)
            pause = period or 0.25
            owed += self.faults.leak_per_s * pause
            wrong.leak(int(owed), self.events)
            owed -= int(owed)
            # A tick that comes late does not make up for it: the world slows down instead.
            due = max(due + pause, loop.time())
            await asyncio.sleep(due - loop.time())

    def truth(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "monotonic_ns": time.monotonic_ns(),
            "requests": dict(self.requests),
            "ticks": self.world.ticks,
            "pools": self.store.gauges(),
            "tasks": len(asyncio.all_tasks()),
            "leaked": len(wrong.REGISTRY),
            "cached": len(wrong.WARM),
            "orphans": len(wrong.ORPHANS),
            "faults": asdict(self.faults),
        }


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    sizes = setting("WORLD_REDIS_POOL", 20), setting("WORLD_POSTGRES_POOL", 10)
    store = await Store.connect(os.environ["WORLD_REDIS_URL"], sizes[0], os.environ["WORLD_POSTGRES_URL"], sizes[1])
    service = Service(store, LanguageModel(os.environ["WORLD_LLM_URL"], setting("WORLD_LLM_POOL", 200)))
    app.state.service = service
    ticking = asyncio.create_task(service.run_world(), name="world-tick")
    # The socket listens already: what connects from here on is answered.
    print("READY " + json.dumps({"pid": os.getpid(), "port": setting("WORLD_LISTENS_ON", 0)}), flush=True)
    yield
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    await service.model.client.aclose()
    await store.close()


app = FastAPI(title="NPC world", lifespan=lifespan, docs_url=None, redoc_url=None)


def service_of(request: Request) -> Service:
    return request.app.state.service


# --- The endpoints --------------------------------------------------------------------------------------------------------


@app.post("/npc/{npc}/interact")
async def player_interaction(npc: int, said: Interaction, request: Request) -> dict[str, Any]:
    """A player talks to one of them: recall, think of an answer, feel, remember."""
    service = service_of(request)
    person, store, faults = service.person(npc), service.store, service.faults
    service.requests["player_interaction"] += 1
    wrong.leak(faults.leak_per_request, service.events)
    wrong.leave_tasks(faults.tasks_per_request)
    wrong.moderate_text(faults, service.events, service.requests["player_interaction"])
    if faults.lock_ms:
        async with service.world_lock:
            await asyncio.sleep(faults.lock_ms / 1000)
    else:
        async with service.world_lock:
            person.talks += 1
    sentiment = weigh_sentiment(said.text)
    person.mood[3] = min(1.0, max(0.0, person.mood[3] + sentiment / 10))
    async with contextlib.AsyncExitStack() as kept:
        connection = await kept.enter_async_context(store.connection())
        memories = await store.recall_memories(connection, npc, faults.slow_query_ms)
        if faults.row_lock_ms:
            await store.lock_world_row(connection, faults.row_lock_ms)
        if not faults.hold_connection:
            await kept.aclose()
        reply = await service.model.complete("\n".join([person.name, said.text, *memories]))
    async with store.connection() as connection:
        await store.remember(connection, npc, said.player_id, said.text, abs(sentiment))
    await store.forget_state(npc)
    return {
        "npc_id": npc,
        "name": person.name,
        "reply": reply,
        "mood": person.mood_name(),
        "sentiment": round(sentiment, 3),
        "memories": len(memories),
    }


@app.get("/npc/{npc}")
async def get_npc_state(npc: int, request: Request) -> dict[str, Any]:
    """How that one feels and where it stands; from Redis where it is known there."""
    service = service_of(request)
    person = service.person(npc)
    service.requests["get_npc_state"] += 1
    wrong.warm_cache(service.faults.cache_entries, service.requests["get_npc_state"])
    state = await service.store.cached_state(npc)
    if state is None:
        state = {**person.state(), "remembers": await service.store.count_memories(npc)}
        await service.store.cache_state(npc, state)
    return state


@app.get("/world")
async def get_world_state(request: Request) -> dict[str, Any]:
    """Everybody."""
    service = service_of(request)
    service.requests["get_world_state"] += 1
    talks = await service.store.talks_of_all(bool(service.faults.n_plus_one), NPC_COUNT)
    people = [{**person.state(), "talks": talks.get(person.id, 0)} for person in service.world.people]
    return {"population": len(people), "ticks": service.world.ticks, "people": people}


@app.get("/environment")
def get_environment_state(request: Request) -> dict[str, Any]:
    """The weather: computed on a thread of anyio's pool, since this handler is not `async`."""
    service = service_of(request)
    service.requests["get_environment_state"] += 1
    return service.world.weather_report()


@app.post("/chat")
async def chat_command(chat: Chat, request: Request) -> Any:
    """A free-form command; the model words the answer, as a whole or as a stream."""
    service = service_of(request)
    service.requests["chat_command"] += 1
    if service.world.rng.random() * 100 < service.faults.errors_pct:
        service.events.write("error")
        raise HTTPException(500, "the model did not answer")
    intent, target = parse_command(chat.message)
    context = await service.store.log_chat(chat.player_id, chat.message)
    prompt = "\n".join([chat.player_id, *context])
    if chat.stream:
        return StreamingResponse(stream_reply(service.model, prompt), media_type="text/event-stream")
    reply = await service.model.complete(prompt)
    return {"intent": intent, "target": target, "context_lines": len(context), "reply": reply}


async def stream_reply(model: LanguageModel, prompt: str) -> AsyncIterator[str]:
    async for token in model.tokens(prompt):
        yield f"data: {json.dumps({'token': token})}\n\n"
    yield "data: [DONE]\n\n"


@app.get("/health")
async def health(request: Request) -> dict[str, Any]:
    service = service_of(request)
    await service.store.ping()
    return {"status": "ok", "uptime_s": round(time.monotonic() - service.started, 3)}


# --- For those who test ---------------------------------------------------------------------------------------------------


@app.get("/truth")
async def truth(request: Request) -> dict[str, Any]:
    return service_of(request).truth()


@app.put("/faults")
async def set_faults(request: Request) -> Any:
    service = service_of(request)
    try:
        for name, value in (await request.json()).items():
            service.faults.set(name, value)
    except (ValueError, AttributeError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    service.events.write("faults", **asdict(service.faults))
    return asdict(service.faults)


@app.post("/stall")
async def plant_stall(stall: Stall, request: Request) -> dict[str, Any]:
    """One stall, now."""
    service = service_of(request)
    begin = time.monotonic_ns()
    service.events.write("stall-begin", kind=stall.kind)
    if stall.kind == "cpu":
        wrong.score_toxicity(stall.ms)
    elif stall.kind == "block":
        time.sleep(stall.ms / 1000)
    elif stall.kind == "gc":
        wrong.collect_garbage(stall.ms)
    elif stall.kind == "lock":
        async with service.world_lock:
            await asyncio.sleep(stall.ms / 1000)
    elif stall.kind == "query":
        async with service.store.connection() as connection:
            await service.store.recall_memories(connection, 1, stall.ms)
    elif stall.kind == "pool":
        await exhaust_pool(service.store, stall.ms)
    else:
        raise HTTPException(400, "kind is one of cpu, block, gc, lock, query, pool")
    facts = {"kind": stall.kind, "begin_ns": begin, "end_ns": time.monotonic_ns()}
    service.events.write("stall", **facts)
    return facts


async def exhaust_pool(store: Store, hold_ms: int) -> None:
    async with contextlib.AsyncExitStack() as held:
        for _ in range(store.postgres.get_max_size()):
            await held.enter_async_context(store.connection())
        await asyncio.sleep(hold_ms / 1000)


# --- The process ----------------------------------------------------------------------------------------------------------


def main() -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", setting("WORLD_PORT", 0)))
    listener.listen(2048)
    listener.set_inheritable(True)
    os.environ["WORLD_LISTENS_ON"] = str(listener.getsockname()[1])
    workers = setting("WORLD_WORKERS", 1)
    config = uvicorn.Config(
        "service:app",
        loop=os.environ.get("WORLD_LOOP", "asyncio"),
        workers=workers,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    if workers > 1:
        Multiprocess(config, sockets=[listener]).run()
    else:
        server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())

"""What the service keeps: NPC states and chat logs in Redis, memories in PostgreSQL.

Both clients are the ordinary ones with their ordinary pools (redis.asyncio, asyncpg); `Store.gauges` tells what the pools
themselves say, read by the code of the pool's owner: the truth for whoever reads them from outside.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator

import asyncpg
import redis.asyncio

DATABASE = "ai_world_memory"
MEMORIES_PER_NPC = 40
REMEMBERED_AT_MOST = 500
STATE_SECONDS = 2
SCHEMA = """
create table npc (id integer primary key, name text not null, talks bigint not null default 0);
create table memory (
    id bigserial primary key, npc_id integer not null references npc, player text not null, said text not null,
    weight real not null, at timestamptz not null default now());
create index memory_of_npc on memory (npc_id, weight desc);
create index age_of_memory on memory (npc_id, id desc);
create table world (id integer primary key, day integer not null);
insert into world values (1, 1);
"""


async def create_database(url: str, names: list[str]) -> None:
    """Makes the database and what is known when the world begins. `url` is that of the server's own database."""
    server = await asyncpg.connect(url)
    try:
        await server.execute(f"create database {DATABASE}")
    finally:
        await server.close()
    connection = await asyncpg.connect(url.rsplit("/", 1)[0] + "/" + DATABASE)
    try:
        await connection.execute(SCHEMA)
        await connection.copy_records_to_table("npc", records=[(i + 1, name, 0) for i, name in enumerate(names)])
        memories = [
            (npc + 1, f"player{number % 7}", f"something about the {number}th harvest", number / MEMORIES_PER_NPC)
            for npc in range(len(names))
            for number in range(MEMORIES_PER_NPC)
        ]
        columns = ["npc_id", "player", "said", "weight"]
        await connection.copy_records_to_table("memory", records=memories, columns=columns)
        if await connection.fetchval("select current_setting('shared_preload_libraries') like '%pg_stat_statements%'"):
            await connection.execute("create extension pg_stat_statements")
    finally:
        await connection.close()


class Store:
    """The pools and what is asked through them."""

    def __init__(self, redis_pool: redis.asyncio.BlockingConnectionPool, postgres: asyncpg.Pool):
        self.redis_pool = redis_pool
        self.redis = redis.asyncio.Redis(connection_pool=redis_pool)
        self.postgres = postgres
        self.waiting_for_postgres = 0

    @classmethod
    async def connect(cls, redis_url: str, redis_size: int, postgres_url: str, postgres_size: int) -> Store:
        pool = redis.asyncio.BlockingConnectionPool.from_url(redis_url, max_connections=redis_size, timeout=20)
        postgres = await asyncpg.create_pool(
            postgres_url, min_size=1, max_size=postgres_size, server_settings={"application_name": "world"}
        )
        return cls(pool, postgres)

    async def close(self) -> None:
        await self.redis.aclose()
        await self.redis_pool.disconnect()
        self.postgres.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the pool to PostgreSQL."""
        self.waiting_for_postgres += 1
        try:
            connection = await self.postgres.acquire()
        finally:
            self.waiting_for_postgres -= 1
        try:
            yield connection
        finally:
            await self.postgres.release(connection)

    async def ping(self) -> None:
        await self.redis.ping()
        async with self.connection() as connection:
            await connection.fetchval("select 1")

    async def recall_memories(self, connection: asyncpg.Connection, npc: int, slow_ms: int) -> list[str]:
        query = "select said from memory where npc_id = $1 order by weight desc limit 8"
        if slow_ms:
            query = "select said from memory, pg_sleep($2) where npc_id = $1 order by weight desc limit 8"
            return [row["said"] for row in await connection.fetch(query, npc, slow_ms / 1000)]
        return [row["said"] for row in await connection.fetch(query, npc)]

    async def remember(self, connection: asyncpg.Connection, npc: int, player: str, said: str, weight: float) -> None:
        """Keeps what was said; the oldest are forgotten, so that a long run does not grow."""
        async with connection.transaction():
            await connection.execute(
                "insert into memory (npc_id, player, said, weight) values ($1, $2, $3, $4)", npc, player, said, weight
            )
            await connection.execute("update npc set talks = talks + 1 where id = $1", npc)
            await connection.execute(
                "delete from memory where id in (select id from memory where npc_id = $1 order by id desc offset $2)",
                npc,
                REMEMBERED_AT_MOST,
            )

    async def lock_world_row(self, connection: asyncpg.Connection, hold_ms: int) -> None:
        async with connection.transaction():
            await connection.execute("update world set day = day + 1 where id = 1")
            await asyncio.sleep(hold_ms / 1000)

    async def count_memories(self, npc: int) -> int:
        async with self.connection() as connection:
            return await connection.fetchval("select count(*) from memory where npc_id = $1", npc)

    async def talks_of_all(self, one_by_one: bool, count: int) -> dict[int, int]:
        async with self.connection() as connection:
            if one_by_one:
                query = "select talks from npc where id = $1"
                return {npc: await connection.fetchval(query, npc) for npc in range(1, count + 1)}
            return {row["id"]: row["talks"] for row in await connection.fetch("select id, talks from npc")}

    async def cached_state(self, npc: int) -> dict[str, Any] | None:
        text = await self.redis.get(f"npc:{npc}")
        return json.loads(text) if text else None

    async def cache_state(self, npc: int, state: dict[str, Any]) -> None:
        await self.redis.set(f"npc:{npc}", json.dumps(state), ex=STATE_SECONDS)

    async def forget_state(self, npc: int) -> None:
        await self.redis.delete(f"npc:{npc}")

    async def log_chat(self, player: str, message: str) -> list[str]:
        """Adds to a player's log and returns its end."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(f"chat:{player}", message).ltrim(f"chat:{player}", -20, -1).expire(f"chat:{player}", 600)
            pipeline.lrange(f"chat:{player}", -10, -1)
            return [line.decode() for line in (await pipeline.execute())[-1]]

    def gauges(self) -> dict[str, dict[str, int]]:
        postgres = self.postgres
        size, idle = postgres.get_size(), postgres.get_idle_size()
        redis_pool = self.redis_pool
        return {
            "postgres": {
                "size": size,
                "idle": idle,
                "in_use": size - idle,
                "max": postgres.get_max_size(),
                "waiting": self.waiting_for_postgres,
            },
            "redis": {"in_use": len(redis_pool._in_use_connections), "max": redis_pool.max_connections},
        }

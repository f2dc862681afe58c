"""A small NPC world as a web service: the program that `perfkit demo` looks at.

It is an ordinary asyncio service of the standard library alone, for CPython 3.8 and later.  Fifty people live on a
map with hills, water and weather; players talk to them over HTTP/1.1:

    POST /npc/{id}/interact   {"player_id": "p1", "text": "any news?"}   a player talks to one of them
    GET  /npc/{id}            how that one feels, where it stands, what it remembers
    GET  /world               everybody, and the map
    GET  /environment         the weather
    POST /chat                {"player_id": "p1", "message": "go to the market"}   a free-form command
    GET  /health

The work is of the kinds that a profiler has to tell apart: pure Python (dialogue scoring, path finding, moods,
weather), C code called from Python (json, re, sqlite3, hashlib, zlib), waiting (the language model, which is only a
sleep here) and a job on a thread pool (snapshots).  Nothing is done merely to burn time, and nothing grows for ever.

It listens on a free port of 127.0.0.1, says so in one line on stdout (`READY {"port": ...}`) and ends when its stdin
is closed, so that it cannot outlive whoever started it.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import os
import random
import re
import sqlite3
import sys
import threading
import time
import traceback
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

NPC_COUNT = 50
MAP_WIDTH, MAP_HEIGHT = 40, 28
WEATHER_COLUMNS, WEATHER_ROWS = 20, 14
TICK_S = 0.25
SNAPSHOT_EVERY_TICKS = 4
MEMORIES_PER_NPC = 120
CHAT_LOG_LENGTH = 160
HEADER_LIMIT_BYTES = 16 * 1024
BODY_LIMIT_BYTES = 64 * 1024
TEXT_LIMIT = 2000

NAMES = ["Alda", "Bram", "Cosima", "Dorian", "Edda", "Falk", "Greta", "Hanno", "Ilse", "Jorin"]
ROLES = ["smith", "innkeeper", "guard", "farmer", "healer"]
PLACES = {"market": (20, 14), "harbour": (37, 5), "forge": (6, 22), "inn": (12, 8), "gate": (33, 24)}
EMOTIONS = ["joy", "anger", "fear", "trust"]
PLEASANT = {"thanks", "please", "friend", "good", "gift", "help", "fine", "welcome", "beautiful", "peace"}
UNPLEASANT = {"fool", "liar", "thief", "hate", "fight", "curse", "ugly", "war", "steal", "burn"}
TOPICS = ["road", "harvest", "wolves", "market", "harbour", "weather", "king", "sword", "bread", "fever"]
OPENINGS = [
    "They say the {topic} will be trouble before the month is out",
    "My mother used to warn me about the {topic} every single winter",
    "If you want to hear of the {topic} then sit down, friend",
    "Nobody in this town talks about the {topic} any more",
]


# --- The map ----------------------------------------------------------------------------------------------------------


class Terrain:
    """Hills and water on a grid; a tile is the number `row * MAP_WIDTH + column`."""

    def __init__(self, rng):
        self.heights = smooth_heights([rng.random() * 12.0 for _ in range(MAP_WIDTH * MAP_HEIGHT)])
        lake_level = sorted(self.heights)[len(self.heights) // 6]
        self.dry = [height > lake_level for height in self.heights]
        for column, row in PLACES.values():
            self.dry[row * MAP_WIDTH + column] = True
        self.neighbours = [self.dry_neighbours(tile) for tile in range(len(self.heights))]
        self.land = [tile for tile, around in enumerate(self.neighbours) if self.dry[tile] and around]

    def dry_neighbours(self, tile):
        row, column = divmod(tile, MAP_WIDTH)
        around = []
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < MAP_HEIGHT and 0 <= c < MAP_WIDTH and self.dry[r * MAP_WIDTH + c]:
                around.append(r * MAP_WIDTH + c)
        return around

    def climb_cost(self, here, there):
        """Walking costs one a tile, uphill more."""
        return 1.0 + max(0.0, self.heights[there] - self.heights[here])


def smooth_heights(heights):
    smooth = []
    for tile, height in enumerate(heights):
        around = [heights[t] for t in (tile - 1, tile + 1, tile - MAP_WIDTH, tile + MAP_WIDTH) if 0 <= t < len(heights)]
        smooth.append(round((height * 2 + sum(around)) / (2 + len(around)), 2))
    return smooth


def tile_distance(here, there):
    """Steps between two tiles if there were no water."""
    return abs(here // MAP_WIDTH - there // MAP_WIDTH) + abs(here % MAP_WIDTH - there % MAP_WIDTH)


def find_path(terrain, start, goal):
    """A* from `start` to `goal`: the tiles to walk over, nothing if there is no way."""
    frontier = [(0.0, start)]
    cheapest = {start: 0.0}
    came_from = {}
    while frontier:
        _, here = heapq.heappop(frontier)
        if here == goal:
            return trace_path(came_from, start, goal)
        for there in terrain.neighbours[here]:
            cost = cheapest[here] + terrain.climb_cost(here, there)
            if there not in cheapest or cost < cheapest[there]:
                cheapest[there] = cost
                came_from[there] = here
                heapq.heappush(frontier, (cost + tile_distance(there, goal), there))
    return []


def trace_path(came_from, start, goal):
    path = [goal]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    path.reverse()
    return path[1:]


class Weather:
    """Temperature and rain over the map, a coarse grid that wind and chance keep moving."""

    def __init__(self, rng):
        self.rng = rng
        self.degrees = [8.0 + rng.random() * 14.0 for _ in range(WEATHER_COLUMNS * WEATHER_ROWS)]
        self.rain_mm = [rng.random() * 4.0 for _ in range(WEATHER_COLUMNS * WEATHER_ROWS)]

    def drift(self):
        self.degrees = diffuse_weather(self.degrees, 0.2)
        self.rain_mm = diffuse_weather(self.rain_mm, 0.4)
        front = self.rng.randrange(len(self.degrees))
        self.degrees[front] += self.rng.uniform(-6.0, 6.0)
        self.rain_mm[front] = self.rng.random() * 4.0

    def report(self):
        wettest = max(range(len(self.rain_mm)), key=self.rain_mm.__getitem__)
        return {
            "degrees": round(sum(self.degrees) / len(self.degrees), 2),
            "rain_mm": round(sum(self.rain_mm) / len(self.rain_mm), 2),
            "wettest": {"row": wettest // WEATHER_COLUMNS, "column": wettest % WEATHER_COLUMNS},
            "degrees_by_region": [round(value, 1) for value in self.degrees],
        }


def diffuse_weather(values, share):
    """Each region moves towards the mean of its four neighbours by `share`; the map's edges meet."""
    moved = []
    count = len(values)
    for region, value in enumerate(values):
        around = (
            values[region - 1]
            + values[(region + 1) % count]
            + values[region - WEATHER_COLUMNS]
            + values[(region + WEATHER_COLUMNS) % count]
        )
        moved.append(value + share * (around / 4.0 - value))
    return moved


# --- The people -------------------------------------------------------------------------------------------------------


class Npc:
    """One person: a role, a mood, a place on the map and a way ahead."""

    def __init__(self, npc_id, tile, rng):
        self.id = npc_id
        self.name = "{} {}".format(NAMES[npc_id % len(NAMES)], npc_id)
        self.role = ROLES[npc_id % len(ROLES)]
        self.tile = tile
        self.path = []
        self.mood = {emotion: rng.uniform(-0.5, 0.5) for emotion in EMOTIONS}
        self.talks = 0

    def state(self):
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role,
            "mood": name_mood(self.mood),
            "emotions": {emotion: round(value, 3) for emotion, value in self.mood.items()},
            "position": {"row": self.tile // MAP_WIDTH, "column": self.tile % MAP_WIDTH},
            "steps_ahead": len(self.path),
            "talks": self.talks,
        }


def name_mood(mood):
    strongest = max(mood, key=mood.__getitem__)
    return strongest if mood[strongest] > 0.1 else "calm"


def update_mood(npc, sentiment, people):
    """What was said moves the mood, what the people nearby feel rubs off, and time heals."""
    sway = {emotion: 0.0 for emotion in EMOTIONS}
    for other in people:
        nearness = 1.0 / (1.0 + tile_distance(npc.tile, other.tile))
        for emotion in EMOTIONS:
            sway[emotion] += nearness * (other.mood[emotion] - npc.mood[emotion])
    push = {"joy": sentiment, "anger": -sentiment, "fear": -sentiment / 2, "trust": sentiment / 2}
    for emotion in EMOTIONS:
        felt = 0.97 * npc.mood[emotion] + 0.02 * sway[emotion] + 0.1 * push[emotion]
        npc.mood[emotion] = max(-1.0, min(1.0, felt))


class Memory:
    """What people remember of their talks, in an SQLite database in memory."""

    def __init__(self):
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute(
            "CREATE TABLE memory (id INTEGER PRIMARY KEY, npc INTEGER, player TEXT, text TEXT, weight REAL)"
        )
        self.db.execute("CREATE INDEX memory_npc ON memory (npc, id)")

    def remember(self, npc_id, player, text, weight):
        self.db.execute(
            "INSERT INTO memory (npc, player, text, weight) VALUES (?, ?, ?, ?)", (npc_id, player, text, weight)
        )
        self.db.execute(
            "DELETE FROM memory WHERE npc = ? AND id <= (SELECT id FROM memory WHERE npc = ? ORDER BY id DESC"
            " LIMIT 1 OFFSET ?)",
            (npc_id, npc_id, MEMORIES_PER_NPC),
        )

    def recall(self, npc_id, words):
        """The weightiest memories in which one of `words` occurs."""
        likes = " OR ".join(["text LIKE ?"] * len(words)) or "1"
        rows = self.db.execute(
            "SELECT text FROM memory WHERE npc = ? AND ({}) ORDER BY weight DESC, id DESC LIMIT 5".format(likes),
            [npc_id] + ["%{}%".format(word) for word in words],
        )
        return [text for (text,) in rows]

    def count(self, npc_id):
        return self.db.execute("SELECT count(*) FROM memory WHERE npc = ?", (npc_id,)).fetchone()[0]


# --- Words ------------------------------------------------------------------------------------------------------------

TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|[!?]")
COMMANDS = [
    ("go", re.compile(r"\b(?:go|walk|run|travel)\b.*?\b(market|harbour|forge|inn|gate)\b", re.IGNORECASE)),
    ("look", re.compile(r"\b(?:look|watch|search)\b(?:\s+(?:at|for|around))?", re.IGNORECASE)),
    ("trade", re.compile(r"\b(?:buy|sell|trade)\b\s+(?:\d+\s+)?(\w+)", re.IGNORECASE)),
]


def tokenize_chat(text):
    return TOKEN.findall(text.lower())


def weigh_sentiment(tokens):
    pleasant = sum(token in PLEASANT for token in tokens)
    unpleasant = sum(token in UNPLEASANT for token in tokens)
    return (pleasant - unpleasant) / max(1, pleasant + unpleasant)


def word_similarity(one, other):
    """1 for the same word, a part of it for words that begin alike."""
    if one == other:
        return 1.0
    alike = 0
    for a, b in zip(one, other):
        if a != b:
            break
        alike += 1
    return alike / (2.0 * max(len(one), len(other)))


def score_dialogue_line(line_words, tokens):
    score = 0.0
    for token in tokens:
        best = 0.0
        for word in line_words:
            best = max(best, word_similarity(token, word))
        score += best
    return score / (1.0 + len(line_words))


def choose_dialogue_line(lines, tokens, npc):
    """The line that answers `tokens` best; angry people prefer short ones."""
    temper = 0.02 * max(0.0, npc.mood["anger"])
    best_text, best_score = "", -1.0
    for text, words in lines:
        score = score_dialogue_line(words, tokens) - temper * len(words)
        if score > best_score:
            best_text, best_score = text, score
    return best_text


def search_chat_log(log, tokens):
    """The lines of the chat log in which a longer word of the message occurs."""
    words = [re.escape(token) for token in tokens if len(token) > 3]
    if not words:
        return []
    pattern = re.compile(r"\b(?:{})\w*\b".format("|".join(sorted(words))), re.IGNORECASE)
    return [line for line in log if pattern.search(line)]


async def ask_language_model(prompt):
    """Stands in for the language model: an answer takes 20 to 60 ms, in which this process has nothing to do."""
    digest = hashlib.sha256(prompt.encode()).digest()
    await asyncio.sleep(0.020 + 0.040 * digest[0] / 255)
    return "{:x}".format(int.from_bytes(digest[:4], "big"))


# --- The world and its clock ------------------------------------------------------------------------------------------


class World:
    """Everything that the service knows."""

    def __init__(self, seed=7):
        self.rng = random.Random(seed)
        self.terrain = Terrain(self.rng)
        self.weather = Weather(self.rng)
        self.people = [Npc(n, self.rng.choice(self.terrain.land), self.rng) for n in range(1, NPC_COUNT + 1)]
        self.lines = [
            (opening.format(topic=topic), tokenize_chat(opening.format(topic=topic)))
            for topic in TOPICS
            for opening in OPENINGS
        ]
        self.memory = Memory()
        self.chat_log = deque(maxlen=CHAT_LOG_LENGTH)
        self.tick = 0
        self.snapshot = {"bytes": 0, "compressed_bytes": 0, "digest": ""}
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="world-snapshot")

    def state(self):
        return {
            "tick": self.tick,
            "population": len(self.people),
            "snapshot": self.snapshot,
            "people": [npc.state() for npc in self.people],
            "map": {"width": MAP_WIDTH, "height": MAP_HEIGHT, "heights": self.terrain.heights},
        }

    def move_people(self):
        """Everybody takes a step; one who has arrived looks for a new way, a few of them each tick."""
        for npc in self.people:
            if npc.path:
                npc.tile = npc.path.pop(0)
            elif self.rng.random() < 0.1:
                npc.path = find_path(self.terrain, npc.tile, self.rng.choice(self.terrain.land))

    async def live(self):
        """The world's clock: it goes on whether or not players are about."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            self.tick += 1
            self.move_people()
            self.weather.drift()
            if self.tick % SNAPSHOT_EVERY_TICKS == 0:
                state = encode_json(self.state()) + b"\n" + "\n".join(self.chat_log).encode()
                self.snapshot = await loop.run_in_executor(self.pool, take_snapshot, state)


def take_snapshot(state):
    """Runs on the thread pool: zlib and hashlib leave the interpreter lock while they work."""
    compressed = zlib.compress(state, 9)
    digest = hashlib.sha256(compressed).hexdigest()
    return {"bytes": len(state), "compressed_bytes": len(compressed), "digest": digest}


# --- The service ------------------------------------------------------------------------------------------------------


class HttpError(Exception):
    """An answer other than 200; `close` when the connection can no longer be trusted."""

    def __init__(self, status, message, close=False):
        super().__init__(message)
        self.status, self.message, self.close = status, message, close


REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Payload Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}


def encode_json(document):
    return json.dumps(document, separators=(",", ":")).encode()


def decode_json(body):
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HttpError(400, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise HttpError(400, "the body is not a JSON object")
    return document


def text_field(document, name, default=None):
    text = document.get(name, default)
    if not isinstance(text, str) or not text.strip() or len(text) > TEXT_LIMIT:
        raise HttpError(400, "'{}' must be a text of at most {} characters".format(name, TEXT_LIMIT))
    # A lone surrogate is valid JSON but not valid UTF-8; it must not reach the database.
    return text.encode("utf-8", "replace").decode()


class Service:
    """The endpoints."""

    def __init__(self, world):
        self.world = world
        self.started = time.monotonic()
        self.requests = 0

    async def answer(self, method, path, body):
        self.requests += 1
        parts = path.split("?", 1)[0].strip("/").split("/")
        if len(parts) == 3 and parts[0] == "npc" and parts[2] == "interact":
            require_method("POST", method)
            return await self.interact(self.npc(parts[1]), decode_json(body))
        if len(parts) == 2 and parts[0] == "npc":
            require_method("GET", method)
            return self.npc_state(self.npc(parts[1]))
        if parts == ["chat"]:
            require_method("POST", method)
            return await self.chat(decode_json(body))
        if parts == ["world"]:
            require_method("GET", method)
            return self.world_state()
        if parts == ["environment"]:
            require_method("GET", method)
            return self.environment_state()
        if parts == ["health"]:
            require_method("GET", method)
            uptime_s = round(time.monotonic() - self.started, 3)
            return {"status": "ok", "uptime_s": uptime_s, "requests": self.requests}
        raise HttpError(404, "no such resource")

    def npc(self, text):
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= len(self.world.people):
            raise HttpError(404, "no such NPC")
        return self.world.people[int(text) - 1]

    async def interact(self, npc, document):
        """A player says something: remember, choose what to say, feel, perhaps walk off, and let the model phrase it."""
        world = self.world
        player, text = text_field(document, "player_id", "player"), text_field(document, "text")
        tokens = tokenize_chat(text)[:40]
        memories = world.memory.recall(npc.id, tokens[:8])
        line = choose_dialogue_line(world.lines, tokens, npc)
        sentiment = weigh_sentiment(tokens)
        update_mood(npc, sentiment, world.people)
        if not npc.path and sentiment <= 0:
            npc.path = find_path(world.terrain, npc.tile, world.rng.choice(world.terrain.land))
        voice = await ask_language_model("\n".join([npc.name, text, line] + memories))
        world.memory.remember(npc.id, player, text, abs(sentiment) + len(tokens) / 100)
        npc.talks += 1
        return {
            "npc_id": npc.id,
            "name": npc.name,
            "reply": line,
            "voice": voice,
            "mood": name_mood(npc.mood),
            "memories": len(memories),
        }

    def npc_state(self, npc):
        state = npc.state()
        state["remembers"] = self.world.memory.count(npc.id)
        return state

    def world_state(self):
        state = self.world.state()
        state["digest"] = hashlib.sha256(encode_json(state["people"])).hexdigest()
        return state

    def environment_state(self):
        self.world.weather.drift()
        return self.world.weather.report()

    async def chat(self, document):
        """A free-form command; what is none is answered by the model, with what was said before as its context."""
        world = self.world
        player, message = text_field(document, "player_id", "player"), text_field(document, "message")
        tokens = tokenize_chat(message)[:40]
        context = search_chat_log(world.chat_log, tokens)
        world.chat_log.append("{}: {}".format(player, message))
        for intent, pattern in COMMANDS:
            match = pattern.search(message)
            if match:
                break
        else:
            intent, match = "talk", None
        answer = {"intent": intent, "context_lines": len(context)}
        if intent == "go":
            column, row = PLACES[match.group(1).lower()]
            start = world.rng.choice(world.terrain.land)
            answer["steps"] = len(find_path(world.terrain, start, row * MAP_WIDTH + column))
        answer["reply"] = await ask_language_model("\n".join([player, message] + context[-10:]))
        return answer


def require_method(wanted, method):
    if method != wanted:
        raise HttpError(405, "use {}".format(wanted))


# --- HTTP -------------------------------------------------------------------------------------------------------------


async def read_request(reader):
    """The next request of a connection as (method, path, headers, body), None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise HttpError(400, "the request ends in its header", close=True) from None
        return None
    except asyncio.LimitOverrunError:
        raise HttpError(431, "the header is too long", close=True) from None
    method, path, headers = parse_head(head)
    if "transfer-encoding" in headers:
        raise HttpError(501, "send a content-length", close=True)
    length = headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise HttpError(400, "content-length is not a number", close=True)
    if int(length) > BODY_LIMIT_BYTES:
        raise HttpError(413, "the body is too long", close=True)
    try:
        body = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise HttpError(400, "the request ends in its body", close=True) from None
    return method, path, headers, body


def parse_head(head):
    lines = head.decode("latin-1").split("\r\n")
    request_line = lines[0].split(" ")
    if len(request_line) != 3 or not request_line[1].startswith("/") or request_line[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise HttpError(400, "not an HTTP/1.1 request", close=True)
    headers = {}
    for line in lines[1:-2]:
        name, colon, value = line.partition(":")
        if not colon:
            raise HttpError(400, "a header without a colon", close=True)
        headers[name.strip().lower()] = value.strip()
    if request_line[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return request_line[0], request_line[1], headers


def format_response(status, document, close):
    body = encode_json(document)
    head = "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n".format(
        status, REASONS[status], len(body), "close" if close else "keep-alive"
    )
    return head.encode() + body


async def serve_connection(service, reader, writer):
    """One client, request after request, until it goes or breaks the protocol."""
    close = False
    try:
        while not close:
            try:
                request = await read_request(reader)
                if request is None:
                    break
                method, path, headers, body = request
                close = headers.get("connection", "").lower() == "close"
                status, document = 200, await service.answer(method, path, body)
            except HttpError as error:
                status, document = error.status, {"error": error.message}
                close = close or error.close
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception:
                traceback.print_exc()
                status, document = 500, {"error": "the service failed"}
            writer.write(format_response(status, document, close))
            await writer.drain()
    except (ConnectionError, asyncio.CancelledError):
        pass  # The client is gone, or the service is ending: there is nobody to tell.
    finally:
        writer.close()


# --- The process ------------------------------------------------------------------------------------------------------


def watch_stdin(on_end):
    """Runs on a thread of its own: whoever started us holds the other end, and its end is ours."""
    while os.read(0, 4096):
        pass
    on_end()


async def serve():
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    world = World()
    service = Service(world)
    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(service, reader, writer), "127.0.0.1", 0, limit=HEADER_LIMIT_BYTES
    )
    clock = asyncio.ensure_future(world.live())
    port = server.sockets[0].getsockname()[1]
    runtime = "CPython {}.{}.{}".format(*sys.version_info[:3])
    print("READY " + json.dumps({"port": port, "pid": os.getpid(), "runtime": runtime}), flush=True)
    on_end = lambda: loop.call_soon_threadsafe(ended.set)  # noqa: E731
    threading.Thread(target=watch_stdin, args=(on_end,), name="watch-stdin", daemon=True).start()
    await ended.wait()
    server.close()
    clock.cancel()
    world.pool.shutdown()


if __name__ == "__main__":
    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        sys.exit(130)

"""A small world of people: a map with hills, water and weather, moods, memories and words.

The work is of the kinds that a profiler has to tell apart: pure Python (dialogue scoring, path finding, moods, weather),
C code called from Python (re, sqlite3, json, zlib, hashlib) and a job on a thread pool (snapshots).  Nothing is done
merely to burn time, and nothing grows for ever.  `service.py` puts it on the network.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import json
import random
import re
import sqlite3
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

NPC_COUNT = 50
MAP_WIDTH, MAP_HEIGHT = 48, 32
WEATHER_COLUMNS, WEATHER_ROWS = 48, 32
TICK_S = 0.25
SNAPSHOT_EVERY_TICKS = 4
MEMORIES_PER_NPC = 120
CHAT_LOG_LENGTH = 400
GOSSIP_REACH = 6

NAMES = ["Alda", "Bram", "Cosima", "Dorian", "Edda", "Falk", "Greta", "Hanno", "Ilse", "Jorin"]
ROLES = ["smith", "innkeeper", "guard", "farmer", "healer"]
PLACES = {"market": (24, 16), "harbour": (44, 6), "forge": (7, 25), "inn": (14, 9), "gate": (40, 27)}
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


def spread_gossip(npc, sentiment, people):
    """Those nearest to the talk hear of it, each a little less than the one before."""
    nearest = heapq.nsmallest(GOSSIP_REACH, people, key=lambda other: tile_distance(npc.tile, other.tile))
    for heard_by, other in enumerate(nearest):
        update_mood(other, sentiment / (1 + heard_by), people)


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

    def everything(self):
        return ["{}: {}".format(player, text) for player, text in self.db.execute("SELECT player, text FROM memory")]

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
    if one[0] != other[0]:
        return 0.0
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


# --- The world and its clock ------------------------------------------------------------------------------------------


def encode_json(document):
    return json.dumps(document, separators=(",", ":")).encode()


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
        self.dream_up_history()
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

    def dream_up_history(self):
        """The world was there before its first player: rumours in the chat log, and in everybody's memory."""
        for n in range(CHAT_LOG_LENGTH):
            self.chat_log.append("traveller-{}: {}".format(n % 9, self.rng.choice(self.lines)[0]))
        for npc in self.people:
            for n in range(MEMORIES_PER_NPC):
                self.memory.remember(npc.id, "traveller-{}".format(n % 9), self.rng.choice(self.lines)[0], n / 1000)

    def player_tile(self, player):
        """Players have no place of their own yet: each is somewhere, and stays there."""
        return self.terrain.land[zlib.crc32(player.encode()) % len(self.terrain.land)]

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
                lines = list(self.chat_log) + self.memory.everything()
                state = encode_json(self.state()) + "\n".join(lines).encode()
                self.snapshot = await loop.run_in_executor(self.pool, take_snapshot, state)


def take_snapshot(state):
    """Runs on the thread pool: zlib and hashlib leave the interpreter lock while they work."""
    compressed = zlib.compress(state, 9)
    digest = hashlib.sha256(compressed).hexdigest()
    return {"bytes": len(state), "compressed_bytes": len(compressed), "digest": digest}

"""The world's own computing: people who move and feel, weather, and the tick that keeps it all going.

Pure Python and CPU-bound; nothing here waits.  `WORLD_TICK_ROUNDS` scales what one tick costs (a round is about 2 ms).
"""

from __future__ import annotations

import math
import random
import re

NPC_COUNT = 50
WIDTH, HEIGHT = 40, 30
NAMES = ["Alda", "Bram", "Cosima", "Dorian", "Edda", "Falk", "Greta", "Hanno", "Ilse", "Jorin"]
ROLES = ["smith", "innkeeper", "guard", "farmer", "healer"]
MOODS = ["joy", "anger", "fear", "trust"]
WORD = re.compile(r"[^\W\d_]+")
PLEASANT = {"thanks", "please", "friend", "good", "gift", "help", "welcome", "peace"}
UNPLEASANT = {"fool", "liar", "thief", "hate", "fight", "curse", "steal", "burn"}
COMMANDS = [
    ("go", re.compile(r"\b(?:go|walk|run) to (?:the )?(\w+)", re.IGNORECASE)),
    ("look", re.compile(r"\b(?:look|inspect|examine)\b", re.IGNORECASE)),
    ("trade", re.compile(r"\b(?:buy|sell|trade)\b", re.IGNORECASE)),
]


class Person:
    """One of the people."""

    def __init__(self, number: int, rng: random.Random):
        self.id = number
        self.name = f"{NAMES[number % len(NAMES)]} {number}"
        self.role = ROLES[number % len(ROLES)]
        self.x, self.y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        self.mood = [rng.random() for _ in MOODS]
        self.talks = 0

    def mood_name(self) -> str:
        strongest = max(range(len(MOODS)), key=self.mood.__getitem__)
        return MOODS[strongest] if self.mood[strongest] > 0.3 else "calm"

    def state(self) -> dict[str, object]:
        position = {"x": round(self.x, 2), "y": round(self.y, 2)}
        emotions = {name: round(value, 3) for name, value in zip(MOODS, self.mood)}
        about = {"id": self.id, "name": self.name, "role": self.role, "mood": self.mood_name()}
        return {**about, "emotions": emotions, "position": position, "talks": self.talks}


class World:
    """Everybody, and the weather over them."""

    def __init__(self, seed: int = 7):
        self.rng = random.Random(seed)
        self.people = [Person(number, self.rng) for number in range(1, NPC_COUNT + 1)]
        self.degrees = [[12.0 + 6.0 * self.rng.random() for _ in range(WIDTH)] for _ in range(HEIGHT)]
        self.ticks = 0

    def tick(self, rounds: int) -> None:
        """One step of the simulation."""
        self.ticks += 1
        self.move_people()
        for _ in range(rounds):
            self.drift_weather()
            self.spread_gossip()

    def move_people(self) -> None:
        for person in self.people:
            angle = self.rng.uniform(0, math.tau)
            person.x = min(WIDTH - 1.0, max(0.0, person.x + math.cos(angle)))
            person.y = min(HEIGHT - 1.0, max(0.0, person.y + math.sin(angle)))

    def drift_weather(self) -> None:
        old = self.degrees
        fresh = []
        for y in range(HEIGHT):
            above, row, below = old[y - 1], old[y], old[(y + 1) % HEIGHT]
            fresh.append([0.6 * row[x] + 0.1 * (above[x] + below[x] + row[x - 1] + row[(x + 1) % WIDTH]) for x in range(WIDTH)])
        fresh[self.rng.randrange(HEIGHT)][self.rng.randrange(WIDTH)] += self.rng.uniform(-8.0, 8.0)
        self.degrees = fresh

    def spread_gossip(self) -> None:
        for speaker in self.people:
            for listener in self.people:
                if speaker is not listener and math.hypot(speaker.x - listener.x, speaker.y - listener.y) < 4.0:
                    for emotion in range(len(MOODS)):
                        listener.mood[emotion] += 0.01 * (speaker.mood[emotion] - listener.mood[emotion])

    def weather_report(self) -> dict[str, object]:
        flat = [value for row in self.degrees for value in row]
        mean = sum(flat) / len(flat)
        spread = math.sqrt(sum((value - mean) ** 2 for value in flat) / len(flat))
        return {"degrees": round(mean, 2), "spread": round(spread, 3), "ticks": self.ticks}


def weigh_sentiment(text: str) -> float:
    words = WORD.findall(text.lower())
    return sum((word in PLEASANT) - (word in UNPLEASANT) for word in words) / max(1, len(words))


def parse_command(message: str) -> tuple[str, str | None]:
    """What a player wants: the intent and its object."""
    for intent, pattern in COMMANDS:
        match = pattern.search(message)
        if match:
            return intent, match.group(1).lower() if match.groups() else None
    return "talk", None

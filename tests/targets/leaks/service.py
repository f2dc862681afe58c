"""A small service that leaks in one way, or looks as if it did: `service.py SHAPE [operations a second]`.

READY: {"shape", "verdict", "kind", "culprit": words of the suspect's name or path, any order, "class": a type or null}.
It ends when its input closes. Truth: each operation of a leaky shape leaves one object of 0.5 to 1 kB behind.
"""
import collections
import functools
import json
import os
import random
import sys
import threading
import time
import weakref


class Session:
    def __init__(self, i):
        self.key = i
        self.history = ["line %d of %d" % (n, i) for n in range(6)]


class NpcState:
    def __init__(self, i):
        self.i = i
        self.mood = "calm"
        self.memory = ["%s remembers %d" % (i, n) for n in range(6)]


class Cycle:
    def __init__(self):
        self.me = self
        self.payload = ["payload %d" % n for n in range(8)]


class Node:
    def __init__(self, next):
        self.next = next
        self.payload = ["payload %d of %d" % (n, id(self)) for n in range(6)]


class App:
    def __init__(self):
        self.sessions = []


REGISTRY = {}
TRACEBACKS = []
app = App()
inbox = collections.deque()
recent = collections.deque(maxlen=3000)
groups = collections.defaultdict(list)
listeners = set()
chain = None


@functools.lru_cache(None)
def profile(i):
    return NpcState(i)


@functools.lru_cache(2000)
def bounded(i):
    return NpcState(i)


def make_handler():
    seen = []

    def handle(i):
        seen.append(Session(i))

    return handle


handler = make_handler()


def registry(i):
    REGISTRY[i] = NpcState(i)


def attribute(i):
    app.sessions.append(Session(i))


def unbounded_cache(i):
    profile(i)


def queue(i):
    inbox.append(Session(i))


def closure(i):
    handler(i)


def default_dict(i):
    groups["all"].append(Session(i))


def callbacks(i):
    listeners.add(functools.partial(print, NpcState(i)))


def tracebacks(i):
    try:
        payload = Session(i)
        raise ValueError(i)
    except ValueError as e:
        TRACEBACKS.append(e)


def linked(i):
    global chain
    chain = Node(chain)


def threads(i):
    if i % 40 == 0:
        threading.Thread(target=stop.wait, daemon=True).start()


def descriptors(i):
    if i % 20 == 0:
        keep.append(os.open("/dev/null", os.O_RDONLY))


def lru(i):
    # Keys of a distribution with a long tail, as real ones are.
    bounded(int(random.paretovariate(0.7)) % 1500)


def ring(i):
    recent.append(Session(i))


def churn(i):
    [Session(n) for n in range(5)]


def cycles(i):
    for _ in range(5):
        Cycle()


def idle(i):
    pass


LEAKS = {
    registry: ("container-leak", ["__main__.REGISTRY"], "NpcState"),
    attribute: ("container-leak", ["sessions", "App"], "Session"),
    unbounded_cache: ("container-leak", ["profile"], "NpcState"),
    queue: ("container-leak", ["inbox"], "Session"),
    closure: ("container-leak", ["handler"], "Session"),
    default_dict: ("container-leak", ["groups"], "Session"),
    callbacks: ("container-leak", ["listeners"], "NpcState"),
    tracebacks: ("container-leak", ["TRACEBACKS"], "Session"),
    linked: ("type-leak", ["Node"], "Node"),
    threads: ("thread-leak", ["threads"], None),
    descriptors: ("fd-leak", ["open descriptors"], None),
}
HEALTHY = [lru, ring, churn, cycles, idle]
keep = []
stop = threading.Event()
shape = next(f for f in [*LEAKS, *HEALTHY] if f.__name__ == sys.argv[1])
rate = float(sys.argv[2]) if len(sys.argv) > 2 else 200.0
random.seed(1)
# A heap of some size, as a service that has begun has one; warm-up of the healthy ones is over.
base = [Session(-i) for i in range(3000)]
warm = 10000 if shape in HEALTHY else 100
for i in range(warm):
    shape(i)
kind, culprit, cls = LEAKS.get(shape, (None, [], None))


def work():
    i, begun = warm, time.monotonic()
    while not stop.is_set():
        due = begun + (i - warm) / rate
        stop.wait(max(0.0, due - time.monotonic()))
        shape(i)
        i += 1


threading.Thread(target=work, daemon=True).start()
print(json.dumps({"shape": sys.argv[1], "verdict": "leak" if kind else None, "kind": kind, "culprit": culprit, "class": cls}), flush=True)
sys.stdin.read()

"""Holds known objects in known places; with `churn` a thread makes and drops others all the while.

READY: counts by type, and for each holder the address of what it holds with words that must be in its path, in order.
"""
import collections
import functools
import gc
import json
import queue
import sys
import threading


class NpcState:
    def __init__(self, i):
        self.i = i
        self.mood = "calm"


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, i):
        self.a = i
        self.b = None


class Session:
    pass


class Held:
    pass


class App:
    shared = []

    def __init__(self):
        self.state = Session()
        self.state.cache = []


class Node:
    def __init__(self, next):
        self.next = next


REGISTRY = {i: NpcState(i) for i in range(20000)}
SLOTTED = [Slotted(i) for i in range(5000)]
FLOATS = [i + 0.5 for i in range(3000)]
app = App()
app.state.cache.extend(Held() for _ in range(300))
App.shared.extend(Held() for _ in range(300))
recent = collections.deque(Held() for _ in range(300))
groups = collections.defaultdict(list)
for i in range(300):
    groups["all"].append(Held())
ordered = collections.OrderedDict((i, Held()) for i in range(300))
backlog = queue.Queue()
for i in range(300):
    backlog.put(Held())


def closure():
    kept = [Held() for _ in range(300)]

    def handler():
        return len(kept)

    return handler, kept


handler, _kept = closure()
KEPT = id(_kept)
del _kept


@functools.lru_cache(None)
def lookup(i):
    return Held()


for i in range(300):
    lookup(i)
bound = functools.partial(print, [Held() for _ in range(300)])
chain = None
for i in range(200):
    chain = Node(chain)
members = {Held() for _ in range(300)}
tail = chain
while tail.next:
    tail = tail.next

holders = {
    "global dict": [id(REGISTRY), ["module __main__", "REGISTRY", "dict"]],
    "item of a global dict": [id(REGISTRY[777]), ["module __main__", "REGISTRY", "dict"]],
    "global list": [id(SLOTTED), ["module __main__", "SLOTTED", "list"]],
    "attribute of an attribute": [id(app.state.cache), ["module __main__", "app", "App", "state", "Session", "cache"]],
    "class attribute": [id(App.shared), ["App", "shared"]],
    "deque": [id(recent), ["module __main__", "recent"]],
    "defaultdict": [id(groups["all"]), ["module __main__", "groups", "defaultdict"]],
    "ordered": [id(ordered[5]), ["module __main__", "ordered", "OrderedDict"]],
    "queue": [id(backlog.queue), ["module __main__", "backlog", "queue.Queue"]],
    "closure": [KEPT, ["module __main__", "handler", "function"]],
    "lru_cache": [id(lookup(7)), ["module __main__", "lookup", "functools._lru_cache_wrapper"]],
    "partial": [id(bound.args[0]), ["module __main__", "bound", "functools.partial"]],
    "set": [id(next(iter(members))), ["module __main__", "members", "set"]],
    "end of a chain": [id(tail), ["Node"]],
}

stop = threading.Event()


def churn():
    kept = collections.deque(maxlen=2000)
    while not stop.is_set():
        for i in range(500):
            kept.append({"i": i, "text": "x" * (i % 200), "list": [i] * (i % 40), "at": (i, str(i))})


if "churn" in sys.argv:
    threading.Thread(target=churn, daemon=True).start()

gc.collect()
mine = (NpcState, Slotted, Session, Held, App, Node)
counts = collections.Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, mine))
counts["Slotted"] = len(SLOTTED)
print(json.dumps({
    "executable": sys.executable,
    "counts": {"__main__." + k: v for k, v in counts.items()},
    "floats": len(FLOATS),
    "lengths": {str(id(REGISTRY)): 20000, str(id(SLOTTED)): 5000, str(id(ordered)): 300, str(id(members)): 300},
    "blocks": sys.getallocatedblocks(),
    "holders": holders,
}), flush=True)
sys.stdin.read()
stop.set()

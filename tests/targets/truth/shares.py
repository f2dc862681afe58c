"""Ten kinds of work, pure Python and C, whose CPU time the program measures of itself.

Truth: each unit_* function's CPU time, by CLOCK_THREAD_CPUTIME_ID round each call (calls last about 0.5 to 3 ms, so the
clock costs under 1 %; one clock read's cost is taken off each). A profiler's figure to compare: the share of its samples
whose stack holds that function. What remains of the threads' CPU time (the clock, the loop, asyncio) is `rest_ns`.
The order of the units is shuffled each round, so that a window of a second or more holds the same mix.
Known and kept out: CPython destroys a function's locals after its frame is gone, so that their time stands in the caller's
name for every sampler that reads frames; no unit leaves much behind.

    shares.py [--threads N | --asyncio N] [--seconds T] [--only unit_json,unit_stat,...]

Report: {"cpu_ns": all threads, "truth": {unit: ns}, "calls": {unit: n}, "rest_ns", "clock_ns": one clock read, "rounds"}.
Tolerance: issue 2 asks for 1 percentage point at 20,000 samples; at n samples a share p has sigma sqrt(p(1-p)/n).
"""
import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import sqlite3
import threading
import time
import zlib

from talk import Control, ready

clock = time.thread_time_ns
DOCUMENT = {"npc": list(range(40)), "mood": "calm", "memory": [{"at": i, "text": "line %d" % i} for i in range(12)]}
TEXT = " ".join("word%d-%d" % (i, i * i % 97) for i in range(300))
BLOB = (TEXT * 40).encode()
WORDS = [("k%d" % (i * 7919 % 1000), i) for i in range(600)]
PATTERN = re.compile(r"(\w+)-(\d+)")
local = threading.local()


def unit_loop(size):
    total = 0
    for i in range(size * 200):
        total += i * i & 7
    return total


class Npc:
    def __init__(self, name):
        self.name = name
        self.mood = 0

    def feel(self, by):
        self.mood += by
        return self.mood


def unit_objects(size):
    crowd = {}
    for i in range(size * 40):
        npc = Npc(i)
        npc.feel(3)
        crowd[i] = npc
    # Not left to the end of the call: CPython destroys locals when the frame is already gone, in the caller's name.
    crowd.clear()


def unit_json(size):
    for _ in range(size):
        json.loads(json.dumps(DOCUMENT))


def unit_zlib(size):
    for _ in range(size):
        zlib.compress(BLOB[:4000], 6)


def unit_sha256(size):
    for _ in range(size):
        hashlib.sha256(BLOB).digest()


def unit_sqlite(size):
    base = getattr(local, "base", None)
    if base is None:
        base = local.base = sqlite3.connect(":memory:")
        base.execute("create table npc (id integer primary key, mood real)")
        base.executemany("insert into npc values (?, ?)", [(i, i * 0.5) for i in range(500)])
    for _ in range(size):
        base.execute("select sum(mood), avg(mood) from npc where id % 3 = 1").fetchone()


def unit_regex(size):
    for _ in range(size):
        PATTERN.sub(r"\2-\1", TEXT)


def sort_key(pair):
    return pair[0]


def unit_sort(size):
    for _ in range(size):
        sorted(WORDS, key=sort_key)


def descend(depth, size):
    if depth:
        return descend(depth - 1, size) + 1
    total = 0
    for i in range(size * 20):
        total += i & 3
    return total


def unit_recursion(size):
    for _ in range(8):
        descend(20, size)


def unit_stat(size):
    for _ in range(size * 10):
        os.stat("/proc/self/status")


# Length of one call in microseconds: unequal, so that shares differ and a mix-up shows.
LENGTHS = {
    unit_loop: 2400,
    unit_objects: 800,
    unit_json: 1500,
    unit_zlib: 1000,
    unit_sha256: 600,
    unit_sqlite: 1800,
    unit_regex: 700,
    unit_sort: 1200,
    unit_recursion: 500,
    unit_stat: 900,
}


def cpu_of(call, *args):
    begin = clock()
    call(*args)
    return clock() - begin


def calibrate(units):
    """Size of each unit for its length, from runs that grow until they are long enough to trust."""
    sizes = {}
    for unit in units:
        unit(1)
        size = 1
        while True:
            took = min(cpu_of(unit, size) for _ in range(3))
            if took > 200_000:
                break
            size *= 2
        sizes[unit] = max(1, round(size * LENGTHS[unit] * 1000 / took))
    return sizes


def clock_cost():
    """Median of two clock reads in a row."""
    gaps = sorted(cpu_of(int) for _ in range(2001))
    return gaps[1000]


class Truth:
    """What one thread measured. Published at each round's end, so that sums and total belong together."""

    def __init__(self):
        self.begin = clock()
        self.spent = dict.fromkeys(SIZES, 0)
        self.published = (0, dict(self.spent), 0)
        self.rounds = 0

    def publish(self):
        self.rounds += 1
        self.published = (clock() - self.begin, dict(self.spent), self.rounds)


def measured(truth, unit, size):
    begin = clock()
    unit(size)
    truth.spent[unit] += clock() - begin - CLOCK_NS


def one_round(truth, order):
    random.shuffle(order)
    for unit, size in order:
        measured(truth, unit, size)
    truth.publish()


def report():
    published = [t.published for t in truths]
    spent = {u.__name__: sum(p[1][u] for p in published) for u in SIZES}
    cpu = sum(p[0] for p in published)
    rounds = sum(p[2] for p in published)
    return {
        "cpu_ns": cpu,
        "truth": spent,
        "calls": dict.fromkeys(spent, rounds),
        "rest_ns": cpu - sum(spent.values()),
        "clock_ns": CLOCK_NS,
        "rounds": rounds,
    }


def on():
    return time.monotonic() < DEADLINE


def run_main(control):
    truth = Truth()
    truths.append(truth)
    order = list(SIZES.items())
    ready(mode="main")
    while (OPTIONS.seconds is not None or control.poll()) and on():
        one_round(truth, order)


def run_threads(control, count):
    def worker():
        truth = Truth()
        truths.append(truth)
        order = list(SIZES.items())
        begun.release()
        while control.open and on():
            one_round(truth, order)

    begun = threading.Semaphore(0)
    threads = [threading.Thread(target=worker, name="worker-%d" % i) for i in range(count)]
    for thread in threads:
        thread.start()
        begun.acquire()
    ready(mode="threads", threads=count)
    if OPTIONS.seconds is None:
        control.serve()
    for thread in threads:
        thread.join()


async def run_asyncio(control, count):
    truth = Truth()
    truths.append(truth)

    async def serve_npc():
        order = list(SIZES.items())
        while control.open and on():
            random.shuffle(order)
            for unit, size in order:
                measured(truth, unit, size)
                await asyncio.sleep(0)
            truth.publish()

    loop = asyncio.get_running_loop()
    if OPTIONS.seconds is None:
        loop.add_reader(0, lambda: control.take(os.read(0, 4096)))
    ready(mode="asyncio", tasks=count)
    await asyncio.gather(*(serve_npc() for _ in range(count)))
    loop.remove_reader(0)


def main():
    control = Control(report)
    if OPTIONS.asyncio:
        asyncio.run(run_asyncio(control, OPTIONS.asyncio))
    elif OPTIONS.threads:
        run_threads(control, OPTIONS.threads)
    else:
        run_main(control)
    control.finish()


parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--asyncio", type=int, default=0)
parser.add_argument("--seconds", type=float)
parser.add_argument("--only", default="")
OPTIONS = parser.parse_args()
SIZES = calibrate([u for u in LENGTHS if not OPTIONS.only or u.__name__ in OPTIONS.only.split(",")])
CLOCK_NS = clock_cost()
DEADLINE = time.monotonic() + OPTIONS.seconds if OPTIONS.seconds is not None else float("inf")
truths = []

if __name__ == "__main__":
    main()

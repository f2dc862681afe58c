"""Threads parked in known places; prints the truth about all of them as one JSON line, then waits for its stdin to end.

Truth: every thread stands on the line that it printed, since it says that it is ready and blocks on one and the same
line. Runs on CPython 3.8 and later.
"""
import asyncio
import json
import os
import sys
import threading

PARKED = []
GATE = threading.Lock()
GATE.acquire()


def name_of(code):
    return getattr(code, "co_qualname", code.co_name)


def park():
    PARKED.append(threading.get_ident()); GATE.acquire(); GATE.release()


class Wagon:
    def method(self):
        return self.inner(lambda: park())

    def inner(self, call):
        def nested():
            try:
                return call()
            finally:
                pass

        return nested()

    @classmethod
    def create(cls):
        return cls().method()

    @property
    def value(self):
        return Wagon.create()


def recurse(n):
    if n:
        return recurse(
            n - 1
        )
    return park()


def counter():
    yield 1
    yield from deeper()


def deeper():
    for i in range(
        3
    ):
        yield park()


def generators():
    return [x for x in counter()]


async def outer():
    await middle()


async def middle():
    async for _ in agen():
        pass


async def agen():
    await asyncio.sleep(0)
    yield await inner_await()


async def inner_await():
    park()


def coroutines():
    asyncio.new_event_loop().run_until_complete(outer())


def callbacks():
    sorted([2, 1], key=lambda x: next(map(with_key, [x])))


def with_key(x):
    with memoryview(b"x"):
        return eval("park()", globals())


def größe():
    return 変数()


def 変数():
    return 𠀀𠀁()


def 𠀀𠀁():
    return park()


def generated():
    # A file name of its own, thousands of lines, a jump back, and a line table far larger than a page.
    body = "".join("    a%d = (%d +\n\n        a%d)\n" % (i + 1, i, i) for i in range(6000))
    source = "\n" * 70000 + "def far(park, a0=0):\n" + body + "    return [\n        0,\n        park()]\n"
    scope = {}
    exec(compile(source, "/tmp/пример ü.py", "exec"), scope)
    scope["far"](park)


def stack(frame):
    found = []
    while frame:
        found.append([name_of(frame.f_code), frame.f_code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found


def truth(me):
    frames = sys._current_frames()
    frames[threading.get_ident()] = me
    return {
        "version": sys.version.split()[0],
        "executable": sys.executable,
        "threads": [
            {"ident": t.ident, "native": getattr(t, "native_id", None), "name": t.name, "stack": stack(frames[t.ident])}
            for t in threading.enumerate()
        ],
    }


def report():
    print(json.dumps(truth(sys._getframe()))); sys.stdout.flush(); os.read(0, 1)


def give_up(args):
    sys.__excepthook__(*args[:3])
    os._exit(1)


def main():
    threading.excepthook = give_up
    sys.setrecursionlimit(10000)
    threading.stack_size(64 << 20)
    targets = [Wagon.create, lambda: Wagon().value, lambda: recurse(30), lambda: recurse(3000), generators, coroutines,
               callbacks, größe, generated]
    for i, target in enumerate(targets):
        threading.Thread(target=target, name="wagön %d" % i, daemon=True).start()
    while len(PARKED) < len(targets):
        threading.Event().wait(0.001)
    report()


main()

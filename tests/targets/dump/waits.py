"""Python threads that wait in known ways, one that computes, and one that has not much of a rest.

Truth: the ready line has {"threads": {name: {"ident", "call", "chain": [functions, innermost first]}}}. `call` is the
system call; `null` for the threads that do not rest. The command `busy` starts two threads that compute (one has the GIL,
the other waits for it or for a CPU) and answers with the same list, longer. With the argument `restless` there is but one
thread, which stands below `restless` > `pause_a` | `pause_b`, awake or not.
Report: {"pauses"}.
"""
import os
import select
import socket
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "truth"))

from talk import Control, ready  # noqa: E402

LOCK = threading.Lock()
LOCK.acquire()
THREADS = {}
STARTED = threading.Semaphore(0)
PAUSES = 0


def enter(call, chain):
    name = threading.current_thread().name
    THREADS[name] = {"ident": threading.get_ident(), "call": call, "chain": chain}
    STARTED.release()


def lock():
    enter("futex", ["lock"])
    LOCK.acquire()


def in_sort():
    # Python in C in Python: the key function is called by list.sort.
    enter("futex", ["acquire_one", "<lambda>", "in_sort"])
    sorted([1], key=lambda x: acquire_one())


def acquire_one():
    LOCK.acquire()


def nap():
    token = "s3cr3t"
    count = 3
    enter("clock_nanosleep" if sys.version_info >= (3, 11) else "pselect6", ["nap"])
    time.sleep(100000)
    print(token, count)


def pipe():
    reader, writer = os.pipe()
    enter("read", ["pipe"])
    os.read(reader, 1)
    print(writer)


def receive():
    ours, theirs = socket.socketpair()
    enter("recvfrom", ["receive"])
    ours.recv(1)
    print(theirs)


def event_loop():
    poll = select.epoll()
    enter("epoll_wait", ["event_loop"])
    poll.poll()


def deep():
    enter("futex", ["dig", "deep"])
    dig(500)


def dig(depth):
    if depth:
        dig(depth - 1)
    else:
        LOCK.acquire()


def generator():
    enter("futex", ["produce", "generator"])
    for _ in produce():
        pass


def produce():
    LOCK.acquire()
    yield 1


def compute_one():
    enter(None, ["compute_one"])
    n = 0
    while True:
        n += 1


def compute_two():
    enter(None, ["compute_two"])
    n = 0
    while True:
        n += 1


def pause_a():
    time.sleep(0.0001)


def pause_b():
    time.sleep(0.0001)


def restless():
    global PAUSES
    enter(None, ["restless"])
    while True:
        pause_a()
        pause_b()
        PAUSES += 2


def begin(*bodies):
    for body in bodies:
        threading.Thread(target=body, name=body.__name__, daemon=True).start()
    for _ in bodies:
        STARTED.acquire()
    return {"threads": THREADS}


def main():
    if sys.argv[1:] == ["restless"]:
        begin(restless)
    else:
        begin(lock, in_sort, nap, pipe, receive, event_loop, deep, generator)
    control = Control(lambda: {"pauses": PAUSES}, busy=lambda: begin(compute_one, compute_two))
    ready(threads=THREADS)
    control.serve()
    control.finish()


main()

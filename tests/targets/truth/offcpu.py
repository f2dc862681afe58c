"""Threads that wait, each for one thing only, and know for how long.

    offcpu.py [--gil N]     N threads that burn pure Python and so wait for the GIL; default 0: then nobody waits for it

Threads (kernel names are the same, through /proc/self/task/TID/comm) and what they wait for: `sleeper` sleep, `futexer`
futex (a Condition), `epoller` epoll, `piper` pipe, `socketer` socket, `disker` disk (an uncached read; absent where the file
system refuses O_DIRECT), `burner-N` the GIL. The main thread waits in select/read of its standard input (pipe), and feeds
the others by `feeder`, which sleeps.
Truth, per thread since `born_ns`: elapsed = on + runnable + off, with `on_ns` from the thread's CPU clock, `runnable_ns` from
the scheduler's account (/proc/self/task/TID/schedstat; a wait for the CPU counts when it ends) and off the rest; `waits` of
`blocked_ns` together were asked for (by the thread's own clock round each wait; without --gil that is off within the
cost of a few instructions and wake-ups).
Report: {"at_ns": CLOCK_MONOTONIC, "threads": {name: {"tid", "reason", "born_ns", "on_ns", "runnable_ns", "waits", "blocked_ns"}}}.
The difference of two reports is the truth of the time between.
"""
import argparse
import mmap
import os
import select
import socket
import tempfile
import threading
import time

from talk import Control, ready

PERIOD = 0.03
now = time.monotonic_ns


class Waiter(threading.Thread):
    """A thread with a name the kernel knows, and its account."""

    def __init__(self, name, reason, once):
        super().__init__(name=name, daemon=True)
        self.reason, self.once = reason, once
        self.waits = self.blocked = 0
        self.begun = threading.Event()

    def run(self):
        self.tid = threading.get_native_id()
        with open("/proc/self/task/%d/comm" % self.tid, "w") as comm:
            comm.write(self.name)
        self.clock = time.pthread_getcpuclockid(self.ident)
        self.runnable_before = self.runnable()
        self.on_before = time.thread_time_ns()
        self.born = now()
        self.begun.set()
        while True:
            begin = now()
            self.once()
            self.blocked += now() - begin
            self.waits += 1

    def runnable(self):
        with open("/proc/self/task/%d/schedstat" % self.tid) as stat:
            return int(stat.read().split()[1])

    def account(self):
        return {
            "tid": self.tid,
            "reason": self.reason,
            "born_ns": self.born,
            "on_ns": time.clock_gettime_ns(self.clock) - self.on_before,
            "runnable_ns": self.runnable() - self.runnable_before,
            "waits": self.waits,
            "blocked_ns": self.blocked,
        }


condition = threading.Condition()
pipe_out, pipe_in = os.pipe()
poll_out, poll_in = os.pipe()
near, far = socket.socketpair()
poller = select.epoll()
poller.register(poll_out, select.EPOLLIN)


def sleep_once():
    time.sleep(PERIOD)


def futex_once():
    with condition:
        condition.wait()


def epoll_once():
    poller.poll()
    os.read(poll_out, 1)


def pipe_once():
    os.read(pipe_out, 1)


def socket_once():
    near.recv(1)


def feed_once():
    time.sleep(PERIOD)
    os.write(pipe_in, b"x")
    os.write(poll_in, b"x")
    far.send(b"x")
    with condition:
        condition.notify()


def burn_once():
    total = 0
    for i in range(200_000):
        total += i & 3


def disk_reader():
    """Reads that the page cache cannot answer, or None where O_DIRECT is refused (tmpfs)."""
    handle, path = tempfile.mkstemp(dir=os.environ.get("PERFKIT_TARGET_CACHE"))
    os.write(handle, b"\0" * (8 << 20))
    os.fsync(handle)
    os.close(handle)
    try:
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        block = mmap.mmap(-1, 1 << 20)
        os.preadv(direct, [block], 0)
    except OSError:
        return None
    finally:
        os.unlink(path)
    places = [i << 20 for i in range(8)]

    def disk_once():
        places.append(places.pop(0))
        os.preadv(direct, [block], places[0])

    return disk_once


def report():
    return {"at_ns": now(), "threads": {t.name: t.account() for t in threads}}


parser = argparse.ArgumentParser()
parser.add_argument("--gil", type=int, default=0)
OPTIONS = parser.parse_args()
control = Control(report)
plan = [
    ("sleeper", "sleep", sleep_once),
    ("futexer", "futex", futex_once),
    ("epoller", "epoll", epoll_once),
    ("piper", "pipe", pipe_once),
    ("socketer", "socket", socket_once),
    ("disker", "disk", disk_reader()),
    ("feeder", "sleep", feed_once),
]
plan += [("burner-%d" % i, "GIL", burn_once) for i in range(OPTIONS.gil)]
threads = [Waiter(*row) for row in plan if row[2]]


def main():
    for thread in threads:
        thread.start()
        thread.begun.wait()
    ready(threads={t.name: t.tid for t in threads})
    control.serve()
    control.finish()


if __name__ == "__main__":
    main()

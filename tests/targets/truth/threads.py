"""Threads that live for some milliseconds each, four at a time, born after the profiler came.

    threads.py [--life-ms N]     default 5 ms of CPU time each

Truth: all CPU time but the starting of threads (`begin_one`, main thread) is in the Python function `short_work`, one third
of it in `half_a`, two thirds in `half_b`; thread names are short-N. A sampler that sees a thread only some time after its
birth misses a part that is the same for each thread: compare its samples times their weight with `cpu_ns`.
Report: {"threads": ended so far, "cpu_ns": their CPU time, "truth": {"half_a": ns, "half_b": ns}, "alive"}.
"""
import argparse
import threading
import time

from talk import Control, ready

clock = time.thread_time_ns
lock = threading.Lock()
free = threading.Semaphore(4)


class Sums:
    threads = cpu = a = b = alive = 0


def half_a(until):
    while clock() < until:
        sum(range(300))


def half_b(until):
    while clock() < until:
        sum(range(300))


def short_work():
    begin = clock()
    half_a(begin + LIFE // 3)
    middle = clock()
    half_b(begin + LIFE)
    end = clock()
    with lock:
        Sums.threads += 1
        Sums.cpu += end
        Sums.a += middle - begin
        Sums.b += end - middle
        Sums.alive -= 1
    free.release()


def begin_one():
    free.acquire()
    with lock:
        Sums.alive += 1
    threading.Thread(target=short_work, name="short-%d" % Sums.threads, daemon=True).start()


def report():
    with lock:
        return {
            "threads": Sums.threads,
            "cpu_ns": Sums.cpu,
            "truth": {"half_a": Sums.a, "half_b": Sums.b},
            "alive": Sums.alive,
        }


parser = argparse.ArgumentParser()
parser.add_argument("--life-ms", type=float, default=5)
LIFE = int(parser.parse_args().life_ms * 1e6)


def main():
    control = Control(report)
    ready()
    while control.poll():
        begin_one()
    for _ in range(4):
        free.acquire()
    control.finish()


if __name__ == "__main__":
    main()

"""Short work between two clock reads, as timing decorators do it: about 2 % of the time is the wrapper's.

Truth: the share of CPU time spent in `timed` itself (its two clock reads, which are system calls, and its bytecode), not
in `work` that it calls. Found from the sums: with T the CPU time of a batch of n calls, W the sum of what the n pairs of
reads measured, and c the cost of one read (an interval holds the work and one read's worth), the wrapper costs T - W + n c.
A profiler's figure: samples whose innermost Python frame is `timed`, over all samples with `batch` in them.
Samplers by wall clock meet preempted threads at system-call exits and put 10 % and more there.
Report: {"cpu_ns": T, "wrapper_ns", "wrapper_pct", "calls", "clock_ns": c, "work_ns": of one call}.
"""
import time

from talk import Control, ready

clock = time.thread_time_ns


def work(size):
    total = 0
    for i in range(size):
        total += i & 7
    return total


def timed(size):
    begin = clock()
    work(size)
    return clock() - begin


def batch(size, calls):
    spent = 0
    for _ in range(calls):
        spent += timed(size)
    return spent


def calibrate():
    pairs = sorted(empty_pair() for _ in range(2001))
    read = pairs[1000]
    begin = clock()
    spent = batch(0, 20_000)
    wrapper = (clock() - begin - spent) / 20_000 + read
    begin = clock()
    work(1_000_000)
    per_turn = (clock() - begin) / 1_000_000
    return read, int(49 * wrapper / per_turn)


def empty_pair():
    begin = clock()
    return clock() - begin


class Sums:
    cpu = inside = calls = 0


def report():
    wrapper = Sums.cpu - Sums.inside + Sums.calls * READ_NS
    return {
        "cpu_ns": Sums.cpu,
        "wrapper_ns": wrapper,
        "wrapper_pct": 100 * wrapper / max(1, Sums.cpu),
        "calls": Sums.calls,
        "clock_ns": READ_NS,
        "work_ns": (Sums.inside / max(1, Sums.calls)) - READ_NS,
    }


def main():
    control = Control(report)
    ready(size=SIZE, clock_ns=READ_NS)
    while control.poll():
        begin = clock()
        inside = batch(SIZE, 200)
        Sums.cpu += clock() - begin
        Sums.inside += inside
        Sums.calls += 200
    control.finish()


if __name__ == "__main__":
    READ_NS, SIZE = calibrate()
    main()

"""Work that keeps step with a timer: a sampler whose period fits it sees only one half of the truth.

    lockstep.py [--clock wall|cpu] [--period-us N]      commands: `go N` starts N more threads that do the same

--clock wall (period 10,000 us): at each multiple of the period on CLOCK_MONOTONIC phase_a burns 15 % of a period, phase_b
25 %, then the thread sleeps until the next. --clock cpu (period 1,001 us): the thread never sleeps and changes over after
30 % and 100 % of each period of its own CPU time, the clock that cpu-clock events follow.
Truth: CPU time in phase_a and phase_b of each thread, from the clock reads at the change-overs (the target a share of
phase_a / (phase_a + phase_b) is 37.5 % for wall and 30 % for cpu, the report has the true one).
Report: {"threads": [{"tid", "a_ns", "b_ns"}], "a_pct": over all threads}.
"""
import argparse
import threading
import time

from talk import Control, ready

clock = time.thread_time_ns


def phase_a(until):
    while clock() < until:
        for _ in range(40):
            pass


def phase_b(until):
    while clock() < until:
        for _ in range(40):
            pass


class Phases:
    def __init__(self):
        self.tid = threading.get_native_id()
        self.a = self.b = 0
        self.start = clock()

    def step(self, a_ns, b_ns):
        begin = clock()
        phase_a(begin + a_ns)
        middle = clock()
        phase_b(middle + b_ns)
        self.a += middle - begin
        self.b += clock() - middle

    def step_to_grid(self):
        """One period of the thread's CPU clock; the grid is absolute, so that no error adds up."""
        base = clock() - (clock() - self.start) % PERIOD
        begin = clock()
        phase_a(base + PERIOD * 30 // 100)
        middle = clock()
        phase_b(base + PERIOD)
        self.a += middle - begin
        self.b += clock() - middle


def rounds(phases, keep_on):
    while keep_on():
        if OPTIONS.clock == "cpu":
            for _ in range(20):
                phases.step_to_grid()
        else:
            time.sleep((PERIOD - time.monotonic_ns() % PERIOD) / 1e9)
            phases.step(PERIOD * 15 // 100, PERIOD * 25 // 100)


def worker(begun):
    phases = Phases()
    everyone.append(phases)
    begun.release()
    rounds(phases, lambda: control.open)


def go(count):
    begun = threading.Semaphore(0)
    for i in range(int(count)):
        threading.Thread(target=worker, args=(begun,), name="late-%d" % i).start()
        begun.acquire()
    return {"threads": [p.tid for p in everyone]}


def report():
    seen = [{"tid": p.tid, "a_ns": p.a, "b_ns": p.b} for p in everyone]
    a, b = sum(t["a_ns"] for t in seen), sum(t["b_ns"] for t in seen)
    return {"threads": seen, "a_pct": 100 * a / max(1, a + b)}


parser = argparse.ArgumentParser()
parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
parser.add_argument("--period-us", type=int)
OPTIONS = parser.parse_args()
PERIOD = (OPTIONS.period_us or (10_000 if OPTIONS.clock == "wall" else 1_001)) * 1000
everyone = []
control = Control(report, go=go)


def main():
    mine = Phases()
    everyone.append(mine)
    ready(clock=OPTIONS.clock, period_ns=PERIOD)
    rounds(mine, control.poll)
    control.finish()


if __name__ == "__main__":
    main()

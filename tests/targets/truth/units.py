"""Fixed work, over and over, each unit with its own CPU time and its place on the clock: what does a profiler cost it?

    units.py [--us N]      length of one unit, default 700 microseconds

Truth: each unit is the same work (20 Python frames deep, the loop at the bottom). An outside force that is switched on and
off (`scripts/peers/cpu-overhead`) shows as a difference of the units' CPU and wall time between the two kinds of windows.
Command: `dump PATH` writes all units so far as little-endian u64 triples (start on CLOCK_MONOTONIC, wall ns, CPU ns) and
forgets them, answering {"units", "path"}. Report: {"units": since the last dump, "size"}. At most 4,000,000 are kept.
"""
import argparse
import array
import time

from talk import Control, ready

cpu, wall = time.thread_time_ns, time.monotonic_ns
LIMIT = 4_000_000
units = array.array("Q")


def unit(depth, turns):
    if depth:
        return unit(depth - 1, turns)
    total = 0
    for i in range(turns):
        total += i & 3
    return total


def dump(path):
    global units
    done, units = units, array.array("Q")
    with open(path, "wb") as out:
        done.tofile(out)
    return {"units": len(done) // 3, "path": path}


def calibrate(us):
    begin = cpu()
    unit(20, 500_000)
    return int(500_000 * us * 1000 / (cpu() - begin))


def main():
    control = Control(lambda: {"units": len(units) // 3, "size": TURNS}, dump=dump)
    ready(size=TURNS)
    while control.poll():
        for _ in range(20):
            begin, used = wall(), cpu()
            unit(20, TURNS)
            used = cpu() - used
            if len(units) < 3 * LIMIT:
                units.extend((begin, wall() - begin, used))
    control.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--us", type=int, default=700)
    TURNS = calibrate(parser.parse_args().us)
    main()

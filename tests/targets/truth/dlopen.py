"""Code that is mapped only after the profiler has attached.

Commands: `load` compiles late.c, loads it by dlopen and from then on works in it, answering {"loaded": path, "at_ns"}.
Truth: before, all work is in the Python function `early_work`; after, 80 % is in late_work > late_leaf of the new library,
called from the Python function `call_late`, and every stack with late_leaf in it still reaches <module>.
Report: {"loaded": path or null, "truth": {"early_work": ns, "call_late": ns}} of thread CPU time.
"""
import ctypes
import os
import subprocess
import tempfile
import time

from talk import Control, ready

clock = time.thread_time_ns
spent = {"early_work": 0, "call_late": 0}
loaded = None


def early_work():
    total = 0
    for i in range(20_000):
        total += i & 3
    return total


def call_late(turns):
    loaded.late_work(turns)


def load():
    global loaded
    cache = os.environ.get("PERFKIT_TARGET_CACHE") or tempfile.gettempdir()
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "late.c")
    path = os.path.join(cache, "late-%d.so" % os.stat(source).st_mtime_ns)
    if not os.path.exists(path):
        fresh = "%s.%d" % (path, os.getpid())
        subprocess.check_call(["cc", "-O2", "-g", "-shared", "-fPIC", "-fno-optimize-sibling-calls", source, "-o", fresh])
        os.rename(fresh, path)
    loaded = ctypes.CDLL(path)
    loaded.late_work.argtypes = [ctypes.c_long]
    return {"loaded": path, "at_ns": time.monotonic_ns()}


def report():
    return {"loaded": loaded and loaded._name, "truth": spent}


def main():
    control = Control(report, load=load)
    ready()
    while control.poll():
        begin = clock()
        early_work()
        took = clock() - begin
        spent["early_work"] += took
        if loaded:
            begin = clock()
            while clock() < begin + 4 * took:
                call_late(200_000)
            spent["call_late"] += clock() - begin
    control.finish()


if __name__ == "__main__":
    main()

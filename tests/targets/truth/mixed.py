"""Python > C extension > Python > C++ > system call, in one exact order.

Truth: every stack (kernel frames and the timer's aside) is a part from the root of

    python <module>, main, outer       then native mixed_enter, mixed_layer      leaf may be mixed_spin
    python callback                    then native mixed_leave, mixed_burst, npc::Worker<long>::run
    leaf: npc::Worker<long>::spin, or npc::Worker<long>::kernel > getrandom (libc) > kernel

with the interpreter's own native frames between, which a profiler may show or fold into the Python frames. The READY line
holds the order as `chain`: [kind, function] from root to leaf.
Report: {"rounds", "truth": {"mixed_spin"|"callback"|"spin"|"kernel": ns of thread CPU time}} (`callback`: the Python loop in it).
"""
import os
import subprocess
import sys
import sysconfig
import tempfile
import time

from talk import Control, ready

CHAIN = [
    ["python", "<module>"],
    ["python", "main"],
    ["python", "outer"],
    ["native", "mixed_enter"],
    ["native", "mixed_layer"],
    ["python", "callback"],
    ["native", "mixed_leave"],
    ["native", "mixed_burst"],
    ["native", "npc::Worker<long>::run"],
]
clock = time.thread_time_ns
spent = {"mixed_spin": 0, "callback": 0, "spin": 0, "kernel": 0}
rounds = 0


def build():
    """Compile the extension for this interpreter, once per interpreter and source."""
    here = os.path.dirname(os.path.abspath(__file__))
    sources = [os.path.join(here, name) for name in ("mixed.c", "mixed_cpp.cpp")]
    cache = os.environ.get("PERFKIT_TARGET_CACHE") or tempfile.gettempdir()
    stamp = max(os.stat(source).st_mtime_ns for source in sources)
    name = "mixed-%s-%s-%d" % (sysconfig.get_config_var("SOABI"), hash_of(sys.executable), stamp)
    home = os.path.join(cache, name)
    if not os.path.isdir(home):
        work = tempfile.mkdtemp(dir=cache)
        include = "-I" + sysconfig.get_paths()["include"]
        flags = ["-O2", "-g", "-fPIC", "-fno-optimize-sibling-calls"]
        subprocess.check_call(["cc", *flags, include, "-c", sources[0], "-o", work + "/mixed.o"])
        subprocess.check_call(["c++", *flags, "-c", sources[1], "-o", work + "/mixed_cpp.o"])
        library = "%s/mixedext%s" % (work, sysconfig.get_config_var("EXT_SUFFIX"))
        subprocess.check_call(["c++", "-shared", work + "/mixed.o", work + "/mixed_cpp.o", "-o", library])
        os.chmod(work, 0o755)
        try:
            os.rename(work, home)
        except OSError:
            pass  # Another target was faster; its build is as good.
    return home


def hash_of(text):
    return "%08x" % (sum(ord(c) * 31**i for i, c in enumerate(text)) & 0xFFFFFFFF)


def callback():
    begin = clock()
    total = 0
    for i in range(3000):
        total += i & 3
    spent["callback"] += clock() - begin
    begin = clock()
    leave(400_000, 0)
    spent["spin"] += clock() - begin
    begin = clock()
    leave(0, 1 << 16)
    spent["kernel"] += clock() - begin


def outer():
    begin, inside = clock(), sum(spent.values())
    enter(callback, 400_000)
    spent["mixed_spin"] += clock() - begin - (sum(spent.values()) - inside)


def main():
    global rounds
    control = Control(lambda: {"rounds": rounds, "truth": spent})
    ready(chain=CHAIN)
    while control.poll():
        for _ in range(10):
            outer()
        rounds += 10
    control.finish()


if __name__ == "__main__":
    sys.path.insert(0, build())
    from mixedext import enter, leave

    main()

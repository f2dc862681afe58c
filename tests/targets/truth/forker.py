"""A process that forks, spawns and execs while it is watched.

Commands: `fork` (a child by os.fork alone), `spawn` (a child by fork and exec of this script), each answered with
{"kind", "pid"} once the child works; `end PID` ends a child, answered {"ended": PID, "status"}; `exec` replaces the process
by a new image of this script, which prints a READY line of its own with "execed": true.
Truth: the parent's time is in `parent_work`, a forked child's in `forked_work`, a spawned child's and the new image's in
`fresh_work`; children end when they are told or when the parent is gone. (Between two commands nothing is forked.)
Report: {"children": [pids], "execed"}.
"""
import os
import signal
import subprocess
import sys

from talk import Control, ready

children = {}


def parent_work():
    return burn()


def forked_work():
    return burn()


def fresh_work():
    return burn()


def burn():
    total = 0
    for i in range(20_000):
        total += i & 3
    return total


def work_while_parent(work, parent):
    while os.getppid() == parent:
        work()


def fork():
    parent, (began, begin) = os.getpid(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            forked_work()
            os.write(begin, b"x")
            work_while_parent(forked_work, parent)
        finally:
            os._exit(0)
    return answer("fork", pid, began, begin)


def spawn():
    began, begin = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-B", os.path.abspath(__file__), "--child", str(os.getpid()), str(begin)], pass_fds=[begin]
    )
    # The rig ends children by their PID and we wait by PID: Popen's own bookkeeping must not do it first.
    child.returncode = 0
    return answer("spawn", child.pid, began, begin)


def answer(kind, pid, began, begin):
    os.close(begin)
    os.read(began, 1)
    os.close(began)
    children[pid] = kind
    return {"kind": kind, "pid": pid}


def end(pid):
    pid = int(pid)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    children.pop(pid)
    return {"ended": pid, "status": status}


def become():
    os.execv(sys.executable, [sys.executable, "-B", os.path.abspath(__file__), "--execed"])


def main():
    execed = "--execed" in sys.argv
    work = fresh_work if execed else parent_work
    control = Control(
        lambda: {"children": sorted(children), "execed": execed}, fork=fork, spawn=spawn, end=end, exec=become
    )
    ready(execed=execed)
    while control.poll():
        work()
    for pid in list(children):
        end(pid)
    control.finish()


if __name__ == "__main__":
    if "--child" in sys.argv:
        at = sys.argv.index("--child")
        fresh_work()
        os.write(int(sys.argv[at + 2]), b"x")
        work_while_parent(fresh_work, int(sys.argv[at + 1]))
    else:
        main()

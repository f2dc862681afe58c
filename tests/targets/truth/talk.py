"""How a Python target talks to the rig: one JSON line when ready, one per command, one at the end.

Standard library only, CPython 3.8 to 3.13. No reader thread: a thread that blocks in read() would be one more thread in
every profile. `Control.poll()` costs one select() and is called every few milliseconds by the work loop.
"""
import json
import os
import select
import sys
import time


def say(**facts):
    """Print one line at once."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def ready(**facts):
    """Tell the rig that the target now does what it is there for."""
    say(ready=True, pid=os.getpid(), python="%d.%d.%d" % sys.version_info[:3], monotonic_ns=time.monotonic_ns(), **facts)


class Control:
    """Commands from standard input. `answers` maps a command to a function that returns a dict (or None: no answer)."""

    def __init__(self, report, **answers):
        self.answers = dict(answers, report=report)
        self.open = True
        self.pending = b""

    def poll(self, timeout=0.0):
        """Answer what came in; False once the input is closed."""
        while self.open:
            readable, _, _ = select.select([0], [], [], timeout)
            if not readable:
                break
            timeout = 0.0
            self.take(os.read(0, 4096))
        return self.open

    def take(self, data):
        """Digest bytes of the input."""
        if not data:
            self.open = False
            return
        self.pending += data
        while b"\n" in self.pending:
            line, self.pending = self.pending.split(b"\n", 1)
            words = line.decode().split()
            if not words:
                continue
            answer = self.answers.get(words[0])
            facts = answer(*words[1:]) if answer else {"error": "unknown command " + words[0]}
            if facts is not None:
                say(**facts)

    def serve(self):
        """Block in the input until it closes (for targets whose work is done by other threads)."""
        while self.open:
            self.take(os.read(0, 4096))

    def finish(self):
        """Print the last report."""
        say(last=True, **self.answers["report"]())

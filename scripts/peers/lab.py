"""What the side-by-side measurements share: targets, tools, spinners, folded stacks, tables.

Standard library only. Each script runs a target of tests/targets/truth, points a tool at its PID, and compares what the tool
says with what the target measured of itself. Only processes started here are ended, each by its PID.
"""
import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRUTH = os.path.join(ROOT, "tests", "targets", "truth")
BUILT = os.path.join(ROOT, "target", "peers")
PYTHON_FRAME = re.compile(r"^(.*) \((?:.*\.py|<[^>]*>):-?\d+\)$")


class Target:
    """A truth target, ready; `with` ends it."""

    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.hear()
        self.pid = self.ready["pid"]

    @classmethod
    def python(cls, interpreter, script, *args):
        os.makedirs(BUILT, exist_ok=True)
        os.environ["PERFKIT_TARGET_CACHE"] = BUILT
        return cls([interpreter, "-B", os.path.join(TRUTH, script), *map(str, args)])

    @classmethod
    def native(cls, source, *args):
        return cls([compiled(os.path.join(TRUTH, source)), *map(str, args)])

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the target ended: %s" % self.process.wait())
        return json.loads(line)

    def ask(self, command="report"):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait()


def compiled(source):
    """The program of a C file, built with the flags of its `build:` line, kept by content."""
    with open(source) as file:
        text = file.read()
    flags = re.search(r"build:(.*)", text).group(1).split()
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    os.makedirs(BUILT, exist_ok=True)
    built = os.path.join(BUILT, os.path.basename(source).split(".")[0] + "-" + key)
    if not os.path.exists(built):
        subprocess.check_call(["cc", *flags, source, "-o", built + ".new"])
        os.rename(built + ".new", built)
    return built


class Spinners:
    """N processes that burn a core each while the `with` lasts (and end with their parent in any case)."""

    BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(2000000): pass\n"

    def __init__(self, count):
        self.count = count

    def __enter__(self):
        self.all = [subprocess.Popen([sys.executable, "-c", self.BURN]) for _ in range(self.count)]
        return self

    def __exit__(self, *_):
        for one in self.all:
            one.kill()
            one.wait()


class Run:
    """A finished run of a tool: its cost and what it wrote."""

    def __init__(self, argv, limit):
        self.argv = argv
        self.rss_anon = self.rss = 0
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            self.begin_ns = time.monotonic_ns()
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
            self.ended = threading.Event()
            watches = [threading.Thread(target=w, daemon=True) for w in (self.watch_end, self.watch_memory)]
            for watch in watches:
                watch.start()
            # As a user would: once politely. What does not listen is killed and has no result.
            for seconds, then in [(limit, signal.SIGINT), (30, signal.SIGKILL), (None, None)]:
                if self.ended.wait(seconds):
                    break
                os.kill(self.process.pid, then)
            for watch in watches:
                watch.join()
            self.stdout, self.stderr = self.text_of(stdout), self.text_of(stderr)

    @staticmethod
    def text_of(file):
        file.seek(0)
        return file.read()

    def watch_end(self):
        """Waits for the tool. Its account of CPU time is its own and its children's: not what we run beside it."""
        _, status, used = os.wait4(self.process.pid, 0)
        self.wall_s = (time.monotonic_ns() - self.begin_ns) / 1e9
        self.cpu_s = used.ru_utime + used.ru_stime
        self.code = self.process.returncode = os.waitstatus_to_exitcode(status)
        self.ended.set()

    def complaint(self):
        """Its first line about an error, or its last line."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()] or ["exit code %s" % self.code]
        return next((line for line in lines if "rror" in line), lines[-1])[:120]

    def watch_memory(self):
        """Peaks of resident and of anonymous memory, looked at every 50 ms while the tool runs."""
        while not self.ended.wait(0.05):
            try:
                with open("/proc/%d/status" % self.process.pid) as status:
                    fields = dict(line.split(":", 1) for line in status)
                self.rss_anon = max(self.rss_anon, int(fields["RssAnon"].split()[0]) * 1024)
                self.rss = max(self.rss, int(fields["VmHWM"].split()[0]) * 1024)
            except (OSError, KeyError):
                pass


# ---- tools -------------------------------------------------------------------------------------------------------------


class Tool:
    """A profiler: how to run it on a PID, and how to read its stacks (root first, with counts)."""

    def __init__(self, name, argv, read, kinds=("python", "native")):
        self.name, self.argv, self.read, self.kinds = name, argv, read, kinds

    def sample(self, pid, seconds, rate, at_end=lambda: None):
        """Returns (Run, stacks); stacks is None when the tool failed. `at_end` is called when the tool has ended, before its
        output is read (which may take long): the moment for the target's report."""
        with tempfile.TemporaryDirectory() as home:
            out = os.path.join(home, "out")
            run = Run(self.argv(pid, "%g" % seconds, rate, out), limit=4 * seconds + 60)
            at_end()
            try:
                return run, self.read(out)
            except (OSError, ValueError, subprocess.CalledProcessError):
                return run, None


def perfkit_binary():
    """The release build: $PERFKIT, or target/release/perfkit."""
    return os.environ.get("PERFKIT") or os.path.join(ROOT, "target", "release", "perfkit")


def py_spy_binary():
    return shutil.which("py-spy") or os.path.join(ROOT, "target", "peers", "bin", "py-spy")


def read_folded(path):
    stacks = []
    with open(path) as lines:
        for line in lines:
            stack, _, count = line.rstrip("\n").rpartition(" ")
            stacks.append((stack.split(";"), int(count)))
    return stacks


def read_perf(path):
    """Stacks of a perf.data file, through perf script."""
    command = ["perf", "script", "-i", path + ".data", "-F", "comm,tid,ip,sym"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    stacks = []
    for block in text.split("\n\n"):
        frames = [line.split(None, 1)[1] for line in block.split("\n")[1:] if len(line.split(None, 1)) == 2]
        if frames:
            stacks.append((frames[::-1], 1))
    return stacks


def perfkit(*options):
    def argv(pid, seconds, rate, out):
        command = [perfkit_binary(), "cpu", "--pid", str(pid), "-d", seconds, "-r", str(rate)]
        return command + ["-o", out + ".folded", "--force", "-q", *options]

    return argv


def py_spy(*options):
    def argv(pid, seconds, rate, out):
        command = [py_spy_binary(), "record", "-p", str(pid), "-d", seconds, "-r", str(rate), "-f", "raw"]
        return command + ["-o", out + ".folded", *options]

    return argv


def perf(*options):
    def argv(pid, seconds, rate, out):
        command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(rate), "-p", str(pid), "-o", out + ".data", *options]
        return command + ["--", "sleep", seconds]

    return argv


def folded(out):
    return read_folded(out + ".folded")


TOOLS = {
    tool.name: tool
    for tool in [
        Tool("perfkit", perfkit(), folded),
        Tool("perfkit --python-only", perfkit("--python-only"), folded, kinds=("python",)),
        Tool("py-spy", py_spy(), folded, kinds=("python",)),
        Tool("py-spy --nonblocking", py_spy("--nonblocking"), folded, kinds=("python",)),
        Tool("py-spy --native", py_spy("--native"), folded, kinds=("python",)),
        Tool("perf (fp)", perf("-g"), read_perf, kinds=("native",)),
        Tool("perf (dwarf)", perf("--call-graph", "dwarf,16384"), read_perf, kinds=("native",)),
    ]
}


# ---- stacks ------------------------------------------------------------------------------------------------------------


def function_of(frame):
    """`unit_json` of `unit_json (shares.py:71)`, `unit_spin` of `unit_spin (shares-1f)` or of `unit_spin+0x1a`."""
    return re.split(r" \(|\+0x", frame, maxsplit=1)[0]


def python_frames(stack):
    """The Python functions of a stack, root first."""
    return [match.group(1) for match in map(PYTHON_FRAME.match, stack) if match]


# ---- output ------------------------------------------------------------------------------------------------------------


def table(header, rows):
    """A Markdown table; numbers as they are, everything else by str()."""
    lines = ["| %s |" % " | ".join(header), "|%s|" % "|".join("---" for _ in header)]
    lines += ["| %s |" % " | ".join(map(str, row)) for row in rows]
    return "\n".join(lines)


def machine():
    """One line about where this was measured."""
    load = "%.1f %.1f %.1f" % os.getloadavg()
    steal = steal_share()
    return "%s, %d CPUs, load %s%s, %s" % (
        platform.release(),
        os.cpu_count(),
        load,
        "" if steal is None else ", steal %.1f %% since boot" % (100 * steal),
        time.strftime("%Y-%m-%d"),
    )


def steal_share():
    try:
        with open("/proc/stat") as stat:
            fields = [int(n) for n in stat.readline().split()[1:9]]
        return fields[7] / sum(fields)
    except (OSError, IndexError, ZeroDivisionError):
        return None


def arguments(description, **defaults):
    """The flags that all the scripts share; more can be added before parse_args()."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the targets (default: this one)")
    parser.add_argument("--rate", type=int, default=defaults.get("rate", 999))
    parser.add_argument("--seconds", type=float, default=defaults.get("seconds", 25))
    parser.add_argument("--tools", default=defaults.get("tools", "perfkit,py-spy"), help="comma-separated: " + ", ".join(TOOLS))
    parser.add_argument("--json", help="also write all figures to this file")
    return parser


def chosen(options):
    unknown = [name for name in options.tools.split(",") if name not in TOOLS]
    if unknown:
        raise SystemExit("unknown tools %s; there are: %s" % (unknown, ", ".join(TOOLS)))
    return [TOOLS[name] for name in options.tools.split(",")]

"""A new function for every call: code objects die and their addresses are used again.

Truth: CPU time under `run_made` is spent in functions named made_0, made_1, … (each compiled, called once, dropped; their
line is always 2 of <churn>), under `steady` in one function, under `compile_one` in the compiler. A name or line other than
these under run_made is a stale cache of a code object.
Report: {"made": functions so far, "truth": {"run_made": ns, "steady": ns, "compile_one": ns}} of thread CPU time.
"""
import time

from talk import Control, ready

clock = time.thread_time_ns
spent = {"run_made": 0, "steady": 0, "compile_one": 0}
made = 0
SOURCE = "def made_%d(n):\n    return sum(i & 3 for i in range(n))\n"


def compile_one(number):
    names = {}
    exec(compile(SOURCE % number, "<churn>", "exec"), names)
    return names["made_%d" % number]


def run_made(function):
    function(15_000)


def steady():
    total = 0
    for i in range(15_000):
        total += i & 3
    return total


def timed(what, call, *args):
    begin = clock()
    result = call(*args)
    spent[what] += clock() - begin
    return result


def main():
    global made
    control = Control(lambda: {"made": made, "truth": spent})
    ready()
    while control.poll():
        for _ in range(5):
            timed("run_made", run_made, timed("compile_one", compile_one, made))
            made += 1
            timed("steady", steady)
    control.finish()


if __name__ == "__main__":
    main()

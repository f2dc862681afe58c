"""Two call chains in quick alternation, to catch stacks that never existed.

Truth: the Python stack is always  <module> > main > (hot_a > leaf_a | hot_b > leaf_b), cut anywhere from the leaf side.
Impossible: hot_a > leaf_b, hot_b > leaf_a, a leaf without its hot, any of them without main and <module> above.
(Frames of talk.py stand below main for under 0.1 % of the time.)
Report: {"rounds": completed a+b pairs, "cpu_ns": CPU time of the process}.
"""
import time

from talk import Control, ready

rounds = 0


def leaf_a():
    return sum(range(50))


def leaf_b():
    return sum(range(50))


def hot_a():
    return leaf_a()


def hot_b():
    return leaf_b()


def main():
    global rounds
    control = Control(lambda: {"rounds": rounds, "cpu_ns": time.process_time_ns()})
    ready()
    while control.poll():
        for _ in range(5000):
            hot_a()
            hot_b()
        rounds += 5000
    control.finish()


if __name__ == "__main__":
    main()

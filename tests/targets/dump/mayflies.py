"""Threads that live for a millisecond, some twenty at a time, without end.

Truth: the main thread stands below <module> > main; the others below `live`, if they have begun. The program ends when its
input does. It reports nothing.
"""
import os
import select
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "truth"))

from talk import ready  # noqa: E402


def live():
    time.sleep(0.001)


def main():
    # Not select(): its frame in C is larger than what a sample copies.
    input_closed = select.poll()
    input_closed.register(0, select.POLLIN)
    ready()
    while not input_closed.poll(0):
        threads = [threading.Thread(target=live) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("{}")


main()

"""Code in a sub-interpreter, called from the main one; prints where both stand and waits for its stdin to end."""
import sys

try:
    import _interpreters as interpreters  # 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

INNER = """if True:
    import os, sys, json

    def park():
        print(json.dumps({"version": sys.version.split()[0], "line": sys._getframe().f_lineno})); sys.stdout.flush(); os.read(0, 1)

    def inner():
        return park()

    inner()
"""


def outer():
    interpreters.run_string(interpreters.create(), INNER)


outer()

"""Forks like a server with workers; the worker says who it is and waits. Ends with its stdin."""
import json
import os
import sys
import threading


def worker():
    say = {"pid": os.getpid(), "ident": threading.get_ident(), "native": threading.get_native_id()}
    print(json.dumps(say)); sys.stdout.flush(); os.read(0, 1)


def main():
    # A thread of the parent's that the child does not have.
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    else:
        worker()


main()

"""One thread that computes for ever and one that waits; prints who is who."""
import json
import sys
import threading

STARTED = threading.Event()


def spin():
    STARTED.set()
    n = 0
    while True:
        n += 1


def main():
    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start()
    STARTED.wait()
    print(json.dumps({"spinner": spinner.ident, "main": threading.get_ident()})); sys.stdout.flush(); sys.stdin.read()


main()

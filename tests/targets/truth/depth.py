"""Stacks of a known depth.

Commands: `steady` (the start), `deep`, `native`. Each answers {"mode", "python_frames", "leaf"} when it holds.
Truth, for samples with `bottom` in them: exactly `python_frames` Python frames from <module> to `bottom` (both counted):
    steady  <module>, main, spell, level x 26, bottom: 30 frames; the native part is the interpreter's own, about 15 frames
            from 3.11 on and one eval frame or more per Python frame before
    deep    the same with 400 levels: 404 frames
    native  <module>, main, nest, json's Python frames, and some hundreds of C frames of the json encoder's recursion;
            `python_frames` is null, `leaf` is null: the root must still be found, or the sample be marked as truncated
"""
import json
import sys

from talk import Control, ready

MODES = {"steady": 26, "deep": 400, "native": None}
mode = "steady"


def bottom():
    total = 0
    for i in range(20_000):
        total += i & 3
    return total


def level(below):
    if below > 1:
        return level(below - 1) + 1
    for _ in range(10):
        bottom()
    return 0


def spell(levels):
    level(levels)


def nest(document):
    json.dumps(document)


def switch(name):
    def answer():
        global mode
        mode = name
        return facts()

    return answer


def facts():
    levels = MODES[mode]
    return {"mode": mode, "python_frames": levels and levels + 4, "leaf": "bottom" if levels else None}


def nested(depth):
    document = list(range(3000))
    for _ in range(depth):
        document = [document]
    return document


def main():
    document = nested(300)
    ready(**facts())
    while control.poll():
        if mode == "native":
            nest(document)
        else:
            spell(MODES[mode])
    control.finish()


control = Control(facts, **{name: switch(name) for name in MODES})

if __name__ == "__main__":
    sys.setrecursionlimit(2000)
    main()

"""A frame with all kinds of arguments and locals; prints what `dump --locals` has to say about it.

The expected text is `repr` for small built-in values; what is cut, redacted or not opened is spelt out below.
"""
import json
import os
import sys
import collections

class Npc:
    class Mood:
        pass

    def __init__(self):
        self.name = "Ada"
        self.level = 7
        self.password = "hunter2"


Row = collections.namedtuple("Row", "x y")
NPC = Npc()
MOOD = Npc.Mood()
ROW = Row(1, 2)


def work(first, pos=-1, *args, named=1.5, secret_key="s3cr3t", **kwargs):
    none = None
    yes, no = True, False
    zero = 0
    negative = -5
    digit = 2 ** 30
    large = 2 ** 119 + 12345
    minus_large = -(2 ** 90)
    half, tiny, huge, minus_zero, whole = 0.5, 1e-7, 1.25e+22, -0.0, 3.0
    text = "plain 'quoted' text"
    latin = "größe"
    ucs2 = "переменная"
    ucs4 = "npc 😀 𠀀"
    raw = b"bytes"
    raw_odd = b"a\x00\xff"
    empty = [[], (), {}, "", b""]
    nothing = set(), frozenset()
    nested = [1, [2, [3]]]
    pair, one = ("a", 1), (1,)
    mapping = {"b": 1, 2: None, (1, 2): [True]}
    single, frozen = {7}, frozenset({"x"})
    deleted = {i: i for i in range(8)}
    for i in range(6):
        del deleted[i]
    shared = NPC.__dict__["level"], Npc.__name__
    enclosed = [first]
    gone = 1
    del gone

    def closure():
        return enclosed, first

    expected = dict(locals())
    special = {
        "secret_key": "<redacted>",
        "minus_large": repr(minus_large),
        "expected": None,
        "special": None,
        "closure": None,
    }
    api_token = "abc"
    special["api_token"] = "<redacted>"
    auth = None
    special["auth"] = "<redacted>"
    enormous = 2 ** 3000
    special["enormous"] = "<int of about 3030 bits>"
    long_text = "x" * 1000
    special["long_text"] = "'" + "x" * 80 + "'… 1000 characters"
    long_bytes = b"y" * 1000
    special["long_bytes"] = "b'" + "y" * 80 + "'… 1000 bytes"
    long_list = list(range(1000))
    special["long_list"] = "[0, 1, 2, 3, 4, 5, 6, 7, … 1000 items]"
    long_dict = {i: i for i in range(1000)}
    special["long_dict"] = "{" + ", ".join("%d: %d" % (i, i) for i in range(8)) + ", … 1000 items}"
    deep = [[[[[1]]]]]
    special["deep"] = "[[[[… 1 items]]]]"
    looped = [1]
    looped.append(looped)
    special["looped"] = "[1, [1, [1, [… 2 items]]]]"
    instance = NPC
    special["instance"] = "<__main__.Npc at %#x>" % id(NPC)
    mood = MOOD
    special["mood"] = "<__main__.Npc.Mood at %#x>" % id(MOOD)
    row = ROW
    special["row"] = "<__main__.Row at %#x>" % id(ROW)
    ordered = collections.OrderedDict()
    special["ordered"] = "<collections.OrderedDict at %#x>" % id(ordered)
    kinds = int, Npc
    special["kinds"] = "(<class 'int'>, <class '__main__.Npc'>)"
    attributes = NPC.__dict__
    special["attributes"] = "{'name': 'Ada', 'level': 7, 'password': <redacted>}"
    headers = [(b"authorization", b"Bearer abc"), (b"host", b"npc"), ("X-Api-Key", "k")]
    special["headers"] = "[(b'authorization', <redacted>), (b'host', b'npc'), ('X-Api-Key', <redacted>)]"
    url = "postgres://npc:hunter2@db/world"
    special["url"] = "'postgres://npc:<redacted>@db/world'"
    special["nothing"] = "(set(), frozenset())"
    special["text"] = repr(text)
    shown = {k: special.get(k, repr(v)) for k, v in expected.items()}
    shown.update({k: v for k, v in special.items() if k not in ("expected", "special", "closure")})
    del expected, special
    arguments = ["first", "pos", "named", "secret_key", "args", "kwargs"]
    # No Python function is called from here on: whoever has read the line finds this frame on top.
    print(document({k: v for k, v in shown.items() if v is not None}, arguments)); sys.stdout.flush(); os.read(0, 1)


def document(shown, arguments):
    return json.dumps({"shown": shown, "arguments": arguments})


work("a", 2, 3, 4, named=2.5, extra=True)

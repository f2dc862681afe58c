"""Calls through everything that gives a function a qualified name; prints the names, innermost first, and waits.

The names are spelt out. On 3.11 and later they are also what the code objects say (`co_qualname`), which is checked here.
"""
import functools
import json
import os
import sys

NAMES = [
    "report",
    "Root.Leaf.static",
    "Root.Leaf.of_class",
    "Root.value",
    "Root.changed",
    "cached",
    "decorate.<locals>.wrapper",
    "decorated",
    "factory.<locals>.Made.method",
    "factory.<locals>.Made.outer_method.<locals>.deep",
    "factory.<locals>.Made.outer_method",
    "<lambda>",
    "Base.inherited",
    "Child.inherited",
    "generator",
    "bare",  # made by exec: no module leads to it
    "<module>",
]


def report():
    check(sys._getframe())
    print(json.dumps({"names": NAMES})); sys.stdout.flush(); os.read(0, 1)


def check(frame):
    """The list above is right: bare names everywhere, qualified ones where the interpreter has them."""
    found = []
    while frame:
        found.append(getattr(frame.f_code, "co_qualname", frame.f_code.co_name))
        frame = frame.f_back
    if sys.version_info < (3, 11):
        assert found == [name.rpartition(".")[2] for name in NAMES], found
    else:
        assert found == NAMES, found


class Root:
    class Leaf:
        @staticmethod
        def static():
            report()

        @classmethod
        def of_class(cls):
            cls.static()

    @property
    def value(self):
        return self.Leaf.of_class()

    def _get(self):
        return None

    def changed(self, to):
        return self.value

    setting = property(_get, changed)


@functools.lru_cache(None)
def cached():
    Root().setting = 1


def decorate(function):
    @functools.wraps(function)
    def wrapper():
        cached()
        return function()

    return wrapper


@decorate
def undecorated_is_never_called():
    pass


def decorated():
    undecorated_is_never_called()


def factory():
    class Made:
        def method(self):
            decorated()

        def outer_method(self):
            def deep():
                self.method()

            deep()

    return Made


INSTANCE = factory()()


class Base:
    def inherited(self):
        return CALL()


class Child(Base):
    def inherited(self):
        return super().inherited()


CALL = lambda: INSTANCE.outer_method()


def generator():
    yield Child().inherited()


exec("def bare():\n    list(generator())\n", globals())
LATER = {"bare": globals().pop("bare")}
LATER["bare"]()

"""Compiles the standard library and writes, for every code object, its line table and the line of every instruction as
the interpreter itself finds it.

    reader_lines.py SHARE    of the files, the first of every SHARE; 1 is all

A record, little-endian: i32 first line, u32 bytes of the table, the table, u32 number of lines, an i32 for each two
bytes of bytecode, -1 for none; then u32 bytes of a name for messages and the name. The truth is `co_lines()`, and before
3.10 the interpreter's own `PyCode_Addr2Line`.
"""
import array
import os
import struct
import sys
import warnings

CODE = type(compile("", "", "exec"))

if sys.version_info < (3, 10):
    import ctypes

    addr2line = ctypes.pythonapi.PyCode_Addr2Line
    addr2line.argtypes = [ctypes.py_object, ctypes.c_int]
    addr2line.restype = ctypes.c_int


def lines_of(code):
    size = len(code.co_code)
    if sys.version_info < (3, 10):
        return array.array("i", [addr2line(code, at) for at in range(0, size, 2)])
    lines = array.array("i", [-2]) * (size // 2)
    for start, end, line in code.co_lines():
        for at in range(start // 2, end // 2):
            lines[at] = -1 if line is None else line
    assert -2 not in lines, code
    return lines


def write(out, code, path):
    table = code.co_lnotab if sys.version_info < (3, 10) else code.co_linetable
    lines = lines_of(code)
    name = ("%s of %s:%d" % (code.co_name, path, code.co_firstlineno)).encode()
    out.write(struct.pack("<iI", code.co_firstlineno, len(table)) + table)
    out.write(struct.pack("<I", len(lines)) + lines.tobytes())
    out.write(struct.pack("<I", len(name)) + name)
    for const in code.co_consts:
        if isinstance(const, CODE):
            write(out, const, path)


def generated():
    """A line table of more than 64 KiB, lines far apart, forward and back."""
    body = "".join("    a = (%d +\n%s        b)\n" % (i, "\n" * (i % 400)) for i in range(4000))
    yield "\n" * 70000 + "def far(b):\n" + body + "    return a\n"
    yield "x = [\n" + ",\n".join("f(%d)" % i for i in range(20000)) + "]\n"


def main(share):
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(5000)
    out = sys.stdout.buffer
    for i, source in enumerate(generated()):
        write(out, compile(source, "generated", "exec"), "generated %d" % i)
    paths = []
    for folder, below, names in os.walk(os.path.dirname(os.__file__)):
        below[:] = sorted(d for d in below if d not in ("site-packages", "dist-packages", "__pycache__"))
        paths += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    for path in sorted(paths)[::share]:
        with open(path, "rb") as file:
            source = file.read()
        try:
            code = compile(source, path, "exec")
        except (SyntaxError, ValueError, RecursionError):
            continue  # the tests of the standard library have files that are wrong on purpose
        write(out, code, path)


main(int(sys.argv[1]))

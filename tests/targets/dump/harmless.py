"""Runs a command that is killed as soon as it stops, traces, signals or writes to another process.

A seccomp filter (inherited over exec) ends it by SIGSYS at ptrace, kill, tkill, tgkill, rt_sigqueueinfo,
rt_tgsigqueueinfo, pidfd_send_signal, process_vm_writev and process_madvise; opening /proc/PID/mem for writing is left to
the eye. x86-64 only.
"""
import ctypes
import os
import struct
import sys

FORBIDDEN = [101, 62, 200, 234, 129, 297, 424, 311, 440]
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2

program = [struct.pack("HBBI", LOAD_NUMBER, 0, 0, 0)]
for i, number in enumerate(FORBIDDEN):
    program.append(struct.pack("HBBI", IF_EQUAL, len(FORBIDDEN) - i, 0, number))
program.append(struct.pack("HBBI", RETURN, 0, 0, ALLOW))
program.append(struct.pack("HBBI", RETURN, 0, 0, KILL_PROCESS))
code = ctypes.create_string_buffer(b"".join(program))
table = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))

libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, table, 0, 0):
    sys.exit("no seccomp: %s" % os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])

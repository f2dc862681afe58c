/* How a C or C++ target talks to the rig: one JSON line when ready, one per command, one at the end.
 * The work loop calls talk_poll() every few milliseconds; it costs one poll(). See talk.py for the same in Python.
 */
#ifndef TALK_H
#define TALK_H

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Nothing after a call would let the compiler make it a jump, and the caller would vanish from the stack. */
#define HOLD __asm__ volatile("" ::: "memory")

static inline long long clock_of(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static inline long long thread_cpu_ns(void) { return clock_of(CLOCK_THREAD_CPUTIME_ID); }
static inline long long monotonic_ns(void) { return clock_of(CLOCK_MONOTONIC); }

/* `rest` is more JSON, beginning with a comma, or "". */
static inline void talk_ready(const char *rest) {
    printf("{\"ready\": true, \"pid\": %d, \"monotonic_ns\": %lld%s}\n", getpid(), monotonic_ns(), rest);
    fflush(stdout);
}

/* The next command into `line` (without its line end). 1: there is one; 0: not now; -1: the input is closed.
 * `wait_ms` as in poll(2). */
static inline int talk_poll(char *line, size_t size, int wait_ms) {
    struct pollfd input = {0, POLLIN, 0};
    if (poll(&input, 1, wait_ms) <= 0) {
        return 0;
    }
    size_t length = 0;
    while (length + 1 < size) {
        char byte;
        if (read(0, &byte, 1) != 1) {
            return -1;
        }
        if (byte == '\n') {
            break;
        }
        line[length++] = byte;
    }
    line[length] = 0;
    return 1;
}

#endif

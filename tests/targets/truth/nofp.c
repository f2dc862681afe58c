/* A C program without frame pointers: the stack can be followed by .eh_frame alone.
 *
 * build: -O2 -g -fomit-frame-pointer -fno-optimize-sibling-calls -fno-ipa-icf
 *
 * Truth: every stack is (a part from the root of) main > outer > middle > leaf_many | leaf_few; leaf_many has about 70 %
 * and leaf_few 30 % of the CPU time; the report has the measured times. `inlined_step` is inlined into leaf_many.
 * Report: {"truth": {"leaf_many": ns, "leaf_few": ns}, "cpu_ns"}. Compile with -s, or split the debug information off, for
 * the same truth in a stripped program.
 */
#define _GNU_SOURCE
#include "talk.h"

#define APART __attribute__((noinline, noclone))

static long long many_ns, few_ns;

static inline __attribute__((always_inline)) void inlined_step(long i) { __asm__ volatile("" : : "r"(i)); }

APART static void leaf_many(void) {
    for (long i = 0; i < 700000; i++) {
        inlined_step(i);
    }
}

APART static void leaf_few(void) {
    for (long i = 0; i < 300000; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

APART static void middle(void) {
    /* A large frame, so that a walk by guessing goes wrong. */
    char room[3000];
    __asm__ volatile("" : : "r"(room) : "memory");
    long long begin = thread_cpu_ns();
    leaf_many();
    long long between = thread_cpu_ns();
    leaf_few();
    few_ns += thread_cpu_ns() - between;
    many_ns += between - begin;
    HOLD;
}

APART static void outer(void) {
    for (int i = 0; i < 4; i++) {
        middle();
    }
    HOLD;
}

static void report(const char *prefix) {
    printf("{%s\"truth\": {\"leaf_many\": %lld, \"leaf_few\": %lld}, \"cpu_ns\": %lld}\n", prefix, many_ns, few_ns,
           thread_cpu_ns());
    fflush(stdout);
}

int main(void) {
    char line[64];
    int heard;
    talk_ready("");
    while ((heard = talk_poll(line, sizeof line, 0)) >= 0) {
        if (heard) {
            report("");
        }
        outer();
    }
    report("\"last\": true, ");
    return 0;
}

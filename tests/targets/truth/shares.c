/* Six kinds of native work whose CPU time the program measures of itself.
 *
 * build: -O2 -g -pthread -fno-optimize-sibling-calls -fno-ipa-icf
 *
 *     shares [THREADS]     0 (default): the main thread works
 *
 * Truth: each unit_* function's CPU time, by CLOCK_THREAD_CPUTIME_ID round each call of about 0.5 to 2 ms. A profiler's
 * figure to compare: the share of its samples whose stack holds that function. Order is shuffled each round.
 * Report: {"cpu_ns", "truth": {unit: ns}, "rest_ns", "rounds"}.
 */
#define _GNU_SOURCE
#include "talk.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define UNITS 6
#define APART __attribute__((noinline, noclone))

static _Thread_local unsigned long seed = 88172645463325252UL;

static inline unsigned long next_random(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

APART static void unit_spin(void) {
    for (long i = 0; i < 2000000; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

static int compare_longs(const void *a, const void *b) {
    long x = *(const long *)a, y = *(const long *)b;
    return (x > y) - (x < y);
}

APART static void unit_sort(void) {
    long values[4000];
    for (int i = 0; i < 4000; i++) {
        values[i] = (long)(next_random() & 0xffffff);
    }
    qsort(values, 4000, sizeof values[0], compare_longs);
    HOLD;
}

APART static void unit_format(void) {
    char text[128];
    for (int i = 0; i < 3000; i++) {
        snprintf(text, sizeof text, "npc %d of %s at %.3f", i, "the world", i * 0.5);
        HOLD;
    }
}

APART static void unit_syscall(void) {
    for (int i = 0; i < 4000; i++) {
        syscall(SYS_getppid);
    }
    HOLD;
}

APART static long descend(int depth) {
    if (depth == 0) {
        for (long i = 0; i < 20000; i++) {
            __asm__ volatile("" : : "r"(i));
        }
        return 1;
    }
    long below = descend(depth - 1);
    HOLD;
    return below + 1;
}

APART static void unit_recursion(void) {
    for (int i = 0; i < 40; i++) {
        descend(60);
    }
    HOLD;
}

APART static void unit_memory(void) {
    static _Thread_local char from[1 << 18], to[1 << 18];
    for (int i = 0; i < 30; i++) {
        memcpy(to, from, sizeof to);
        from[i] = to[i * 64] + 1;
        HOLD;
    }
}

static void (*const units[UNITS])(void) = {unit_spin, unit_sort, unit_format, unit_syscall, unit_recursion, unit_memory};
static const char *const names[UNITS] = {"unit_spin",    "unit_sort",      "unit_format",
                                         "unit_syscall", "unit_recursion", "unit_memory"};

static atomic_llong spent[UNITS], total, rounds;
static atomic_int stop;

APART static void one_round(void) {
    long long begin = thread_cpu_ns(), took[UNITS];
    int order[UNITS];
    for (int i = 0; i < UNITS; i++) {
        int j = (int)(next_random() % (unsigned long)(i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (int i = 0; i < UNITS; i++) {
        long long from = thread_cpu_ns();
        units[order[i]]();
        took[order[i]] = thread_cpu_ns() - from;
    }
    for (int i = 0; i < UNITS; i++) {
        spent[i] += took[i];
    }
    total += thread_cpu_ns() - begin;
    rounds++;
}

static void *worker(void *unused) {
    (void)unused;
    seed += (unsigned long)pthread_self();
    while (!stop) {
        one_round();
    }
    return NULL;
}

static void report(const char *prefix) {
    long long sum = 0, all = total;
    printf("{%s\"truth\": {", prefix);
    for (int i = 0; i < UNITS; i++) {
        long long one = spent[i];
        sum += one;
        printf("%s\"%s\": %lld", i ? ", " : "", names[i], one);
    }
    printf("}, \"cpu_ns\": %lld, \"rest_ns\": %lld, \"rounds\": %lld}\n", all, all - sum, (long long)rounds);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 0, heard;
    pthread_t threads[64];
    char line[64];
    count = count > 64 ? 64 : count;
    for (int i = 0; i < count; i++) {
        pthread_create(&threads[i], NULL, worker, NULL);
    }
    talk_ready("");
    while ((heard = talk_poll(line, sizeof line, count ? -1 : 0)) >= 0) {
        if (heard) {
            report("");
        } else {
            one_round();
        }
    }
    stop = 1;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
    report("\"last\": true, ");
    return 0;
}

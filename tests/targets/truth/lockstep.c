/* Native work that keeps step with a timer: a sampler whose period fits it sees only one half of the truth.
 *
 * build: -O2 -g -pthread -fno-optimize-sibling-calls -fno-ipa-icf
 *
 *     lockstep wall|cpu [PERIOD_US]      commands: `go N` starts N more threads that do the same
 *
 * wall (10,000 us): from each multiple of the period on CLOCK_MONOTONIC phase_a burns 15 % of a period and phase_b 25 %, then
 * the thread sleeps until the next. cpu (1,001 us): no sleep; change-over at 30 % and 100 % of each period of the thread's
 * own CPU time, the clock that cpu-clock events follow.
 * Truth: CPU time in phase_a and phase_b of each thread, from the clock reads at the change-overs.
 * Report: {"threads": [{"tid", "a_ns", "b_ns"}], "a_pct"}.
 */
#define _GNU_SOURCE
#include "talk.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define MOST 64
#define APART __attribute__((noinline, noclone))

static struct phases {
    atomic_llong a, b;
    atomic_int tid;
    long long start;
} everyone[MOST];
static atomic_int known, begun, stop;
static long long period_ns = 10000000;
static int by_cpu;

static inline void spin(void) {
    for (int i = 0; i < 400; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

APART static void phase_a(long long until) {
    while (thread_cpu_ns() < until) {
        spin();
    }
    HOLD;
}

APART static void phase_b(long long until) {
    while (thread_cpu_ns() < until) {
        spin();
    }
    HOLD;
}

APART static void step(struct phases *mine) {
    long long base, end_a, end_b;
    if (by_cpu) {
        long long now = thread_cpu_ns();
        base = now - (now - mine->start) % period_ns;
        end_a = base + period_ns * 30 / 100;
        end_b = base + period_ns;
    } else {
        long long next = (monotonic_ns() / period_ns + 1) * period_ns;
        struct timespec at = {next / 1000000000LL, next % 1000000000LL};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        base = thread_cpu_ns();
        end_a = base + period_ns * 15 / 100;
        end_b = end_a + period_ns * 25 / 100;
    }
    long long begin = thread_cpu_ns();
    phase_a(end_a);
    long long middle = thread_cpu_ns();
    phase_b(end_b);
    mine->a += middle - begin;
    mine->b += thread_cpu_ns() - middle;
}

static void join_in(struct phases *mine) {
    mine->tid = (int)syscall(SYS_gettid);
    mine->start = thread_cpu_ns();
    begun++;
}

static void *worker(void *argument) {
    struct phases *mine = argument;
    join_in(mine);
    while (!stop) {
        step(mine);
    }
    return NULL;
}

static void report(const char *prefix) {
    long long a = 0, b = 0;
    printf("{%s\"threads\": [", prefix);
    for (int i = 0; i < begun; i++) {
        long long mine_a = everyone[i].a, mine_b = everyone[i].b;
        a += mine_a;
        b += mine_b;
        printf("%s{\"tid\": %d, \"a_ns\": %lld, \"b_ns\": %lld}", i ? ", " : "", everyone[i].tid, mine_a, mine_b);
    }
    printf("], \"a_pct\": %.4f}\n", 100.0 * a / (a + b > 0 ? a + b : 1));
    fflush(stdout);
}

int main(int argc, char **argv) {
    pthread_t threads[MOST];
    char line[64];
    int heard;
    by_cpu = argc > 1 && strcmp(argv[1], "cpu") == 0;
    period_ns = argc > 2 ? atoll(argv[2]) * 1000 : by_cpu ? 1001000 : 10000000;
    known = 1;
    join_in(&everyone[0]);
    talk_ready("");
    while ((heard = talk_poll(line, sizeof line, 0)) >= 0) {
        if (heard) {
            if (strncmp(line, "go ", 3) == 0) {
                for (int n = atoi(line + 3); n > 0 && known < MOST; n--, known++) {
                    pthread_create(&threads[known], NULL, worker, &everyone[known]);
                }
                while (begun < known) {
                    sched_yield();
                }
            }
            report("");
        }
        for (int i = 0; i < (by_cpu ? 10 : 1); i++) {
            step(&everyone[0]);
        }
    }
    stop = 1;
    for (int i = 1; i < known; i++) {
        pthread_join(threads[i], NULL);
    }
    report("\"last\": true, ");
    return 0;
}

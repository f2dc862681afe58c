/* Pairs of threads that hand a turn to and fro, so many times a second in all: a service that switches all the time.
 *
 * build: -O2 -g -pthread -fno-optimize-sibling-calls
 *
 * Arguments: switches a second in all (default 20000), pairs (default 1). Each pair sits on one CPU (pair i on CPU i modulo
 * their number) and sleeps for the rest of each 2 ms. The main thread waits in poll on its input.
 * Truth: `switches`, the sum of voluntary and involuntary switches of all threads, by the kernel's count
 * (/proc/self/task/TID/status).
 * Report: {"at_ns", "cpu_ns", "switches"}.
 */
#define _GNU_SOURCE
#include "talk.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

enum { TURN_NS = 2000000 };

struct pair {
    sem_t ball[2];
    int cpu, turns;
};

static void sit_on(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *returner(void *argument) {
    struct pair *pair = argument;
    sit_on(pair->cpu);
    for (;;) {
        sem_wait(&pair->ball[0]);
        sem_post(&pair->ball[1]);
    }
}

static void *server(void *argument) {
    struct pair *pair = argument;
    struct timespec next;
    sit_on(pair->cpu);
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (;;) {
        for (int i = 0; i < pair->turns; i++) {
            sem_post(&pair->ball[0]);
            sem_wait(&pair->ball[1]);
        }
        next.tv_nsec += TURN_NS;
        if (next.tv_nsec >= 1000000000) {
            next.tv_nsec -= 1000000000;
            next.tv_sec++;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}

static long long switches(void) {
    DIR *tasks = opendir("/proc/self/task");
    long long sum = 0;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        char path[300], line[200];
        long long n;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
        FILE *status = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        while (status && fgets(line, sizeof line, status)) {
            if (sscanf(line, "voluntary_ctxt_switches: %lld", &n) == 1 || sscanf(line, "nonvoluntary_ctxt_switches: %lld", &n) == 1) {
                sum += n;
            }
        }
        if (status) {
            fclose(status);
        }
    }
    closedir(tasks);
    return sum;
}

int main(int argc, char **argv) {
    int rate = argc > 1 ? atoi(argv[1]) : 20000, pairs = argc > 2 ? atoi(argv[2]) : 1;
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    struct pair *all = calloc((size_t)pairs, sizeof *all);
    for (int i = 0; i < pairs; i++) {
        pthread_t thread;
        sem_init(&all[i].ball[0], 0, 0);
        sem_init(&all[i].ball[1], 0, 0);
        all[i].cpu = i % cpus;
        /* A turn is two switches, and the sleep one more. */
        all[i].turns = rate / pairs / (1000000000 / TURN_NS) / 2;
        pthread_create(&thread, NULL, returner, &all[i]);
        pthread_create(&thread, NULL, server, &all[i]);
    }
    talk_ready("");
    char line[64];
    for (int said; (said = talk_poll(line, sizeof line, -1)) >= 0;) {
        printf("{\"at_ns\": %lld, \"cpu_ns\": %lld, \"switches\": %lld}\n", monotonic_ns(), clock_of(CLOCK_PROCESS_CPUTIME_ID), switches());
        fflush(stdout);
    }
    return 0;
}

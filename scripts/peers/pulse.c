/* Switches a bare cpu-clock perf event on every thread of a process on and off: what does the timer interrupt alone cost?
 *
 * build: -O2 -Wall -pthread
 *
 *     pulse PID HZ WINDOW_MS SECONDS     prints "off T" and "bare T" (CLOCK_MONOTONIC ns) at each change, ends with "end T"
 *
 * The event has no ring and no program: the interrupt comes, the kernel finds nothing to write, and the thread goes on.
 * It is the zero of scripts/peers/cpu-overhead, and its proof that 40 ms windows can resolve a known cost.
 */
#include <dirent.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST 1024

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: pulse PID HZ WINDOW_MS SECONDS\n");
        return 2;
    }
    int events[MOST], count = 0;
    char path[64];
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 1000000000LL / atoi(argv[2]),
        .disabled = 1,
        .inherit = 1,
    };
    snprintf(path, sizeof path, "/proc/%s/task", argv[1]);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks)) && count < MOST;) {
        if (task->d_name[0] == '.') {
            continue;
        }
        int event = (int)syscall(SYS_perf_event_open, &attr, atoi(task->d_name), -1, -1, PERF_FLAG_FD_CLOEXEC);
        if (event >= 0) {
            events[count++] = event;
        }
    }
    if (!count) {
        perror("perf_event_open");
        return 3;
    }
    long long window = atoll(argv[3]) * 1000000LL, next = now(), end = next + atoll(argv[4]) * 1000000000LL;
    for (int on = 0; next < end; on = !on) {
        next += window;
        struct timespec at = {next / 1000000000LL, next % 1000000000LL};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        for (int i = 0; i < count; i++) {
            ioctl(events[i], on ? PERF_EVENT_IOC_DISABLE : PERF_EVENT_IOC_ENABLE, 0);
        }
        printf("%s %lld\n", on ? "off" : "bare", now());
    }
    printf("end %lld\n", now());
    return 0;
}

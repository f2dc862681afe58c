/* Native threads that wait, each for one thing only, and know for how long.
 *
 * build: -O2 -g -pthread -fno-optimize-sibling-calls -fno-ipa-icf
 *
 * Threads (kernel names) and what they wait for: `sleeper` sleep (30 ms), `futexer` futex (a condition variable), `epoller`
 * epoll, `piper` pipe, `socketer` socket, `feeder` sleeps and feeds them, `burner-0` and `burner-1` never wait: they share
 * CPU 0, so each is runnable about half of the time. The main thread waits in poll on its input. Each waits in a function
 * of its own: wait_sleep, wait_futex, wait_epoll, wait_pipe, wait_socket, feed, burn.
 * Truth, per thread since `born_ns`: elapsed = on + runnable + off, with on from the thread's CPU clock and runnable from the
 * scheduler's account (/proc/self/task/TID/schedstat; a wait for the CPU counts when it ends); `blocked_ns` by the thread's
 * own clock round its `waits`. The difference of two reports is the truth of the time between.
 * Report: {"at_ns", "threads": {name: {"tid", "reason", "born_ns", "on_ns", "runnable_ns", "waits", "blocked_ns"}}}.
 */
#define _GNU_SOURCE
#include "talk.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define APART __attribute__((noinline, noclone))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static unsigned long edition;
static int pipe_fds[2], poll_fds[2], socket_fds[2], epoll_fd;
static atomic_int begun;

APART static void wait_sleep(void) {
    struct timespec length = {0, 30000000};
    nanosleep(&length, NULL);
    HOLD;
}

APART static void wait_futex(void) {
    pthread_mutex_lock(&lock);
    for (unsigned long seen = edition; seen == edition;) {
        pthread_cond_wait(&news, &lock);
    }
    pthread_mutex_unlock(&lock);
    HOLD;
}

APART static void wait_epoll(void) {
    struct epoll_event event;
    char byte;
    epoll_wait(epoll_fd, &event, 1, -1);
    if (read(poll_fds[0], &byte, 1) != 1) {
        abort();
    }
}

APART static void wait_pipe(void) {
    char byte;
    if (read(pipe_fds[0], &byte, 1) != 1) {
        abort();
    }
}

APART static void wait_socket(void) {
    char byte;
    if (recv(socket_fds[0], &byte, 1, 0) != 1) {
        abort();
    }
}

APART static void feed(void) {
    wait_sleep();
    if (write(pipe_fds[1], "x", 1) != 1 || write(poll_fds[1], "x", 1) != 1 || send(socket_fds[1], "x", 1, 0) != 1) {
        abort();
    }
    pthread_mutex_lock(&lock);
    edition++;
    pthread_cond_signal(&news);
    pthread_mutex_unlock(&lock);
}

APART static void burn(void) {
    for (long i = 0; i < 1000000; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

static struct waiter {
    const char *name, *reason;
    void (*once)(void);
    int pinned;
    atomic_int tid;
    atomic_llong born, waits, blocked;
    long long runnable_before, on_before;
    clockid_t clock;
} waiters[] = {
    {.name = "sleeper", .reason = "sleep", .once = wait_sleep},
    {.name = "futexer", .reason = "futex", .once = wait_futex},
    {.name = "epoller", .reason = "epoll", .once = wait_epoll},
    {.name = "piper", .reason = "pipe", .once = wait_pipe},
    {.name = "socketer", .reason = "socket", .once = wait_socket},
    {.name = "feeder", .reason = "sleep", .once = feed},
    {.name = "burner-0", .reason = "none", .once = burn, .pinned = 1},
    {.name = "burner-1", .reason = "none", .once = burn, .pinned = 1},
};
#define WAITERS (sizeof waiters / sizeof waiters[0])

/* Time that thread `tid` could have run and did not. */
static long long runnable_of(int tid) {
    char path[64];
    long long on, runnable;
    snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", tid);
    FILE *stat = fopen(path, "r");
    if (!stat || fscanf(stat, "%lld %lld", &on, &runnable) != 2) {
        abort();
    }
    fclose(stat);
    return runnable;
}

static void *run(void *argument) {
    struct waiter *self = argument;
    pthread_setname_np(pthread_self(), self->name);
    if (self->pinned) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    self->tid = (int)syscall(SYS_gettid);
    pthread_getcpuclockid(pthread_self(), &self->clock);
    self->runnable_before = runnable_of(self->tid);
    self->on_before = thread_cpu_ns();
    self->born = monotonic_ns();
    begun++;
    for (;;) {
        long long begin = monotonic_ns();
        self->once();
        self->blocked += self->pinned ? 0 : monotonic_ns() - begin;
        self->waits += !self->pinned;
    }
    return NULL;
}

static void report(const char *prefix) {
    printf("{%s\"at_ns\": %lld, \"threads\": {", prefix, monotonic_ns());
    for (size_t i = 0; i < WAITERS; i++) {
        struct waiter *w = &waiters[i];
        long long on = clock_of(w->clock) - w->on_before, runnable = runnable_of(w->tid) - w->runnable_before;
        printf("%s\"%s\": {\"tid\": %d, \"reason\": \"%s\", \"born_ns\": %lld, \"on_ns\": %lld, \"runnable_ns\": %lld, "
               "\"waits\": %lld, \"blocked_ns\": %lld}",
               i ? ", " : "", w->name, w->tid, w->reason, w->born, on, runnable, w->waits, w->blocked);
    }
    printf("}}\n");
    fflush(stdout);
}

int main(void) {
    char line[64];
    int heard;
    struct epoll_event event = {EPOLLIN, {0}};
    epoll_fd = epoll_create1(0);
    if (pipe(pipe_fds) || pipe(poll_fds) || socketpair(AF_UNIX, SOCK_STREAM, 0, socket_fds) ||
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, poll_fds[0], &event)) {
        abort();
    }
    for (size_t i = 0; i < WAITERS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run, &waiters[i]);
    }
    while (begun < (int)WAITERS) {
        sched_yield();
    }
    talk_ready("");
    while ((heard = talk_poll(line, sizeof line, -1)) >= 0) {
        report("");
    }
    report("\"last\": true, ");
    return 0;
}

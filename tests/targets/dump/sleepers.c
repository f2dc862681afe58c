/* Threads that sleep in many ways, each under a known stack.
 *
 * build: -O2 -g -fno-optimize-sibling-calls -pthread
 *
 * Truth: the ready line has {"threads": [{"tid", "name", "call", "frames": [innermost first]}]}; `frames` are the program's
 * own functions, and what lies between them is libc's. Compile it with other flags (-fno-omit-frame-pointer, -O0, -static)
 * for the same truth. With the argument `orphan` the main thread ends with pthread_exit, and the others go on.
 * Everything sleeps for ever; the program ends when its input does.
 */
#define _GNU_SOURCE
#include "../truth/talk.h"

#include <alloca.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define APART __attribute__((noinline, noclone))

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t mine[2] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static sem_t empty;
static int silent[2];
static int port;
static volatile int sink;

APART static void in_mutex(void) { pthread_mutex_lock(&held); HOLD; }
APART static void in_cond(void) {
    pthread_mutex_lock(&mine[0]);
    pthread_cond_wait(&never, &mine[0]);
    HOLD;
}
APART static void in_timed_cond(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 100000;
    pthread_mutex_lock(&mine[1]);
    pthread_cond_timedwait(&never, &mine[1], &end);
    HOLD;
}
APART static void in_semaphore(void) { sem_wait(&empty); HOLD; }
APART static void in_read(void) {
    char byte;
    sink = (int)read(silent[0], &byte, 1);
    HOLD;
}
APART static void in_poll(void) {
    struct pollfd one = {silent[0], POLLIN, 0};
    poll(&one, 1, -1);
    HOLD;
}
APART static void in_epoll(void) {
    struct epoll_event event;
    epoll_wait(epoll_create1(0), &event, 1, -1);
    HOLD;
}
APART static void in_sleep(void) {
    struct timespec day = {86400, 0};
    nanosleep(&day, NULL);
    HOLD;
}
APART static void in_sigwait(void) {
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigwait(&set, &number);
    HOLD;
}
APART static void in_accept(void) { accept(port, NULL, NULL); HOLD; }
APART static void in_alloca(void) {
    /* The size is known to nobody before it runs: the frame is found through RBP. */
    char *room = alloca((size_t)(getpid() % 64 + 100));
    room[0] = 1;
    __asm__ volatile("" : : "r"(room) : "memory");
    in_read();
    HOLD;
}
APART static void in_aligned(void) {
    char room[256] __attribute__((aligned(128)));
    __asm__ volatile("" : : "r"(room) : "memory");
    in_read();
    HOLD;
}
APART static void in_deep(int depth) {
    char room[200];
    __asm__ volatile("" : : "r"(room) : "memory");
    if (depth > 0) {
        in_deep(depth - 1);
    } else {
        in_read();
    }
    HOLD;
}
static void deep_300(void) { in_deep(300); HOLD; }

/* A signal handler that sleeps, and what it interrupts. */
APART static void handler(int number) {
    sink = number;
    in_read();
    HOLD;
}
APART static void interrupted(void) {
    pthread_kill(pthread_self(), SIGUSR1);
    for (;;) {
        sink++;
    }
}
APART static void on_other_stack(int number) {
    sink = number;
    in_read();
    HOLD;
}
APART static void interrupted_to_other_stack(void) {
    stack_t other = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&other, NULL);
    pthread_kill(pthread_self(), SIGURG);
    for (;;) {
        sink++;
    }
}
/* vfork keeps the caller in an uninterruptible sleep until the child is gone. */
APART static void in_vfork(void) {
    if (vfork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        syscall(SYS_pause);
        _exit(0);
    }
    HOLD;
}

/* A read that the kernel is told to do in a worker of its own. */
static int start_ring(void) {
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    int ring = (int)syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        return 0;
    }
    size_t size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    char *sq = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entries = mmap(NULL, params.sq_entries * sizeof *entries, PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || entries == MAP_FAILED) {
        return 0;
    }
    static char byte;
    memset(&entries[0], 0, sizeof entries[0]);
    entries[0].opcode = IORING_OP_READ;
    entries[0].flags = IOSQE_ASYNC;
    entries[0].fd = silent[0];
    entries[0].addr = (unsigned long)&byte;
    entries[0].len = 1;
    ((unsigned *)(sq + params.sq_off.array))[0] = 0;
    atomic_store((_Atomic unsigned *)(sq + params.sq_off.tail), 1);
    return (int)syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0) == 1;
}

struct way {
    const char *name;
    void (*park)(void);
    const char *call;
    const char *frames; /* a JSON list */
};

static const struct way ways[] = {
    {"mutex", in_mutex, "futex", "[\"in_mutex\"]"},
    {"cond", in_cond, "futex", "[\"in_cond\"]"},
    {"timed-cond", in_timed_cond, "futex", "[\"in_timed_cond\"]"},
    {"semaphore", in_semaphore, "futex", "[\"in_semaphore\"]"},
    {"read", in_read, "read", "[\"in_read\"]"},
    {"poll", in_poll, "poll", "[\"in_poll\"]"},
    {"epoll", in_epoll, "epoll_wait", "[\"in_epoll\"]"},
    {"sleep", in_sleep, "clock_nanosleep", "[\"in_sleep\"]"},
    {"sigwait", in_sigwait, "rt_sigtimedwait", "[\"in_sigwait\"]"},
    {"accept", in_accept, "accept", "[\"in_accept\"]"},
    {"alloca", in_alloca, "read", "[\"in_read\", \"in_alloca\"]"},
    {"aligned", in_aligned, "read", "[\"in_read\", \"in_aligned\"]"},
    {"deep", deep_300, "read", "[\"in_read\", \"in_deep\", \"deep_300\"]"},
    {"handler", interrupted, "read", "[\"in_read\", \"handler\", \"interrupted\"]"},
    {"altstack", interrupted_to_other_stack, "read",
     "[\"in_read\", \"on_other_stack\", \"interrupted_to_other_stack\"]"},
    {"vfork", in_vfork, "vfork", "[\"in_vfork\"]"},
};
#define WAYS (sizeof ways / sizeof ways[0])

static atomic_int tids[WAYS];

APART static void middle(const struct way *way) {
    way->park();
    HOLD;
}

APART static void *outer(void *argument) {
    const struct way *way = argument;
    prctl(PR_SET_NAME, way->name);
    atomic_store(&tids[way - ways], (int)syscall(SYS_gettid));
    middle(way);
    return NULL;
}

/* Whether a thread has come to rest in its call. */
static int asleep(int tid) {
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "r");
    if (!file) {
        return 0;
    }
    int state = fgets(text, sizeof text, file) ? strrchr(text, ')')[2] : '?';
    fclose(file);
    return state == 'S' || state == 'D';
}

static void listen_somewhere(void) {
    port = socket(AF_UNIX, SOCK_STREAM, 0);
    sa_family_t family = AF_UNIX;
    bind(port, (const struct sockaddr *)&family, sizeof family);
    listen(port, 1);
}

int main(int argc, char **argv) {
    int orphan = argc > 1 && strcmp(argv[1], "orphan") == 0;
    struct sigaction action = {.sa_handler = handler}, other = {.sa_handler = on_other_stack, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGURG, &other, NULL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pipe(silent) != 0) {
        return 1;
    }
    listen_somewhere();
    sem_init(&empty, 0, 0);
    pthread_mutex_lock(&held);
    for (size_t i = 0; i < WAYS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, outer, (void *)&ways[i]);
    }
    for (size_t i = 0; i < WAYS; i++) {
        while (!atomic_load(&tids[i]) || !asleep(tids[i])) {
            usleep(1000);
        }
    }
    int ring = start_ring();
    char rest[8192];
    int at = snprintf(rest, sizeof rest, ", \"ring\": %s, \"threads\": [", ring ? "true" : "false");
    for (size_t i = 0; i < WAYS; i++) {
        at += snprintf(rest + at, sizeof rest - (size_t)at, "%s{\"tid\": %d, \"name\": \"%s\", \"call\": \"%s\", \"frames\": %s}",
                       i ? ", " : "", tids[i], ways[i].name, ways[i].call, ways[i].frames);
    }
    snprintf(rest + at, sizeof rest - (size_t)at, "]");
    talk_ready(rest);
    if (orphan) {
        pthread_exit(NULL);
    }
    char line[64];
    int heard;
    while ((heard = talk_poll(line, sizeof line, -1)) >= 0) {
        if (heard) {
            printf("{}\n");
            fflush(stdout);
        }
    }
    printf("{\"last\": true}\n");
    fflush(stdout);
    _exit(0);
}

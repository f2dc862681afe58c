/* Memory of every kind, each of a known size, touched and held.
 *
 * build: -O1 -pthread
 * Truth, in MiB (READY has it in bytes): 40 in small blocks of the main heap, 48 in one anonymous mapping, 32 of shared memory,
 * 12 of a private file mapping that was written to, 6 of one that was only read, 10 in small blocks of a thread's arena, 4 on
 * that thread's stack. A child holds 20 more of its own and shares the rest. What libc and the program itself take comes on
 * top: less than 2 of each kind. Ends when its input closes; the child ends with it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>

#include "talk.h"

#define MIB (1L << 20)

static volatile char sink;
static pthread_barrier_t filled;

static void must(int fine, const char *what) {
    if (!fine) {
        perror(what);
        exit(1);
    }
}

static void small_blocks(long bytes) {
    for (long had = 0; had < bytes; had += 1024) {
        char *block = malloc(1024 - 8);
        must(block != NULL, "malloc");
        memset(block, 1, 1024 - 8);
    }
}

static void *mapped(long bytes, int flags, int fd, int rights) {
    char *at = mmap(NULL, bytes, rights, flags, fd, 0);
    must(at != MAP_FAILED, "mmap");
    for (long i = 0; i < bytes; i += 4096) {
        if (rights & PROT_WRITE) {
            at[i] = 1;
        } else {
            sink = at[i];
        }
    }
    return at;
}

static int file_of(long bytes) {
    FILE *file = tmpfile();
    must(file != NULL, "tmpfile");
    static char page[4096];
    memset(page, 7, sizeof page);
    for (long i = 0; i < bytes; i += 4096) {
        must(fwrite(page, sizeof page, 1, file) == 1, "write");
    }
    fflush(file);
    return fileno(file);
}

static void *thread(void *unused) {
    (void)unused;
    small_blocks(10 * MIB);
    char deep[4 * MIB];
    memset(deep, 1, sizeof deep);
    sink = deep[sizeof deep / 2];
    pthread_barrier_wait(&filled);
    for (;;) {
        pause();
        sink = deep[1];
    }
}

int main(void) {
    small_blocks(40 * MIB);
    mapped(48 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1, PROT_READ | PROT_WRITE);
    mapped(32 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1, PROT_READ | PROT_WRITE);
    mapped(12 * MIB, MAP_PRIVATE, file_of(12 * MIB), PROT_READ | PROT_WRITE);
    mapped(6 * MIB, MAP_PRIVATE, file_of(6 * MIB), PROT_READ);
    int told[2];
    must(pipe(told) == 0, "pipe");
    pid_t parent = getpid(), child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        mapped(20 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1, PROT_READ | PROT_WRITE);
        must(write(told[1], "x", 1) == 1, "write");
        while (getppid() == parent) {
            pause();
        }
        _exit(0);
    }
    char byte;
    must(read(told[0], &byte, 1) == 1, "read");
    pthread_barrier_init(&filled, NULL, 2);
    pthread_t other;
    must(pthread_create(&other, NULL, thread, NULL) == 0, "pthread_create");
    pthread_barrier_wait(&filled);
    char ready[512];
    snprintf(ready, sizeof ready,
             ", \"child\": %d, \"heap\": %ld, \"anonymous\": %ld, \"shmem\": %ld, \"file_private\": %ld, \"file\": %ld, "
             "\"arenas\": %ld, \"stacks\": %ld, \"child_own\": %ld",
             child, 40 * MIB, 48 * MIB, 32 * MIB, 12 * MIB, 6 * MIB, 10 * MIB, 4 * MIB, 20 * MIB);
    talk_ready(ready);
    char line[64];
    while (talk_poll(line, sizeof line, 1000) != -1) {
    }
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}

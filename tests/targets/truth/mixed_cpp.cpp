// The C++ half of mixed.py's extension module: a template between the interpreter and the kernel. Truth: see mixed.py.
#include <cstddef>
#include <sys/random.h>

#define HOLD __asm__ volatile("" ::: "memory")

namespace npc {

template <typename T>
struct Worker {
    T turns;

    __attribute__((noinline)) void spin() {
        for (T i = 0; i < turns; i++) {
            __asm__ volatile("" : : "r"(i));
        }
    }

    __attribute__((noinline)) void run(long bytes) {
        spin();
        kernel(bytes);
        HOLD;
    }

    // The kernel's random generator: CPU time in a system call, without waiting and without a file.
    __attribute__((noinline)) void kernel(long bytes) {
        static char buffer[1 << 16];
        while (bytes > 0) {
            ssize_t got = getrandom(buffer, sizeof buffer, 0);
            bytes -= got > 0 ? got : 1;
        }
        HOLD;
    }
};

}  // namespace npc

extern "C" void mixed_burst(long spins, long bytes) {
    npc::Worker<long> worker{spins};
    worker.run(bytes);
    HOLD;
}

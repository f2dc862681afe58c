/* A library that dlopen.py loads after the profiler has come. Truth: see dlopen.py. */
__attribute__((noinline)) static void late_leaf(long turns) {
    for (long i = 0; i < turns; i++) {
        __asm__ volatile("" : : "r"(i));
    }
}

void late_work(long turns) {
    late_leaf(turns);
    __asm__ volatile("" ::: "memory");
}

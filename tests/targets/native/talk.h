/* The protocol of the naming targets: each function says where it is, under the name that perfkit should give it.
 *
 * One JSON line when ready: {"at": [{"pc", "function", "line", "inlined": [...]}]}. `function` is null where no name is
 * right; `inlined` are the functions inlined at that place, outermost first. Ends when its input closes.
 */
#include <stdio.h>

/* An address inside the instruction that asks. */
#if defined(__x86_64__)
#define PC(at) __asm__ volatile("lea -1(%%rip), %0" : "=r"(at))
#elif defined(__aarch64__)
#define PC(at) __asm__ volatile("adr %0, ." : "=r"(at))
#endif
#define APART __attribute__((noinline, noclone))
#define INTO static inline __attribute__((always_inline))

static int said;

/* Says that the code at `pc` is in line `line` of `function`, or of the last of `inlined` (JSON, or ""). */
static void say(unsigned long pc, const char *function, int line, const char *inlined) {
    printf("%s{\"pc\": %lu, \"line\": %d, \"inlined\": [%s], \"function\": ", said++ ? ", " : "{\"at\": [", pc, line, inlined);
    if (function) {
        printf("\"%s\"}", function);
    } else {
        printf("null}");
    }
}

static int wait_for_the_end(void) {
    printf("]}\n");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    printf("{}\n");
    return 0;
}

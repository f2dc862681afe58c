/* Functions of C in every shape that a symbol table knows: exported, static, aliases, assembly with and without sizes.
 *
 * build: -O2
 *
 * Truth: where each function is, by its own program counter. The 64 bytes after `sized` belong to nobody: no name
 * is right there. With STUB defined (and -no-pie -fno-pie) the address of getppid is that of its stub.
 */
#define _GNU_SOURCE
#include <time.h>
#include <unistd.h>

#include "talk.h"

APART void exported(void) {
    unsigned long pc;
    PC(pc);
    say(pc, "exported", __LINE__ - 1, "");
}

APART static void hidden(void) {
    unsigned long pc;
    PC(pc);
    say(pc, "hidden", __LINE__ - 1, "");
}

INTO void inner(void) {
    unsigned long pc;
    PC(pc);
    say(pc, "outer", __LINE__ - 1, "\"middle\", \"inner\"");
}

INTO void middle(void) { inner(); }

APART static void outer(void) {
    middle();
    __asm__ volatile("" ::: "memory");
}

APART void __long_alias(void) { __asm__ volatile("nop"); }
void alias(void) __attribute__((alias("__long_alias")));

/* `label` has neither type nor size; it reaches to `sized`, which ends before the padding. */
void label(void);
void sized(void);
__asm__(".text\n.balign 64\n.globl label\nlabel: nop\nnop\nnop\nnop\n.globl sized\n.type sized, %function\nsized: nop\nnop\n"
        ".size sized, 2\n.skip 64, 0xcc\n.globl after\n.type after, %function\nafter: nop\n.size after, 1\n");

int main(void) {
    exported();
    hidden();
    outer();
    say((unsigned long)alias, "alias", 0, "");
    say((unsigned long)label + 2, "label", 0, "");
    say((unsigned long)sized + 1, "sized", 0, "");
    say((unsigned long)sized + 2, NULL, 0, "");
    say((unsigned long)sized + 40, NULL, 0, "");
#ifdef STUB
    say((unsigned long)getppid, "getppid@plt", 0, "");
#endif
    return wait_for_the_end();
}

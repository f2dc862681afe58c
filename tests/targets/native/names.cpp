/* Functions of C++: namespaces, templates, methods, overloads, lambdas.
 *
 * build: -O2 -std=c++17
 *
 * Truth: where each function is, by its own program counter, under its name without parameters.
 */
#include "talk.h"

#define HERE(name, inlined)                                                                                                   \
    unsigned long pc;                                                                                                         \
    PC(pc);                                                                                                                   \
    say(pc, name, __LINE__, inlined)

namespace space {
template <typename T> struct Thing {
    T held;
    APART T work(T by) const {
        HERE(sizeof(T) == 4 ? "space::Thing<int>::work" : "space::Thing<double>::work", "");
        return held * by;
    }
};

APART void overloaded(int) { HERE("space::overloaded", ""); }
APART void overloaded(double) { HERE("space::overloaded", ""); }

struct Plain {
    APART Plain() { HERE("space::Plain::Plain", ""); }
    APART ~Plain() { HERE("space::Plain::~Plain", ""); }
    APART bool operator<(const Plain &) const {
        HERE("space::Plain::operator<", "");
        return true;
    }
};

template <typename T> INTO T twice(T v) {
    HERE("space::calls", "\"space::twice<int>\"");
    return v + v;
}

APART int calls(int v) { return twice(v) + 1; }
} // namespace space

namespace {
APART void nameless() { HERE("(anonymous namespace)::nameless", ""); }
} // namespace

extern "C" APART void as_in_c() { HERE("as_in_c", ""); }

template <typename F> APART void call(F f) { f(1); }

int main() {
    space::Thing<int>{2}.work(3);
    space::Thing<double>{2}.work(3);
    space::overloaded(1);
    space::overloaded(1.0);
    {
        space::Plain plain;
        (void)(plain < plain);
    }
    space::calls(4);
    nameless();
    as_in_c();
    call([](int) __attribute__((noinline)) { HERE("main::{lambda(int)#1}::operator()", ""); });
    return wait_for_the_end();
}

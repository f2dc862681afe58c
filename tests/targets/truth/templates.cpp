// C++ with templates, virtual calls, lambdas and exceptions that unwind through them.
//
// build: -O2 -g -std=c++17 -fno-optimize-sibling-calls -fno-ipa-icf
//
// Truth: every stack is (a part from the root of) main > npc::World::tick > npc::Brain<npc::Player>::think
//   > npc::Brain<npc::Player>::weigh(int)                              about half of the CPU time
//   > npc::provoke(int) > throwing and catching (libstdc++, libgcc)    about half: `npc::provoke(int)` or below it
// The report has the measured times. Report: {"truth": {"weigh": ns, "provoke": ns}, "cpu_ns", "caught"}.
#include "talk.h"

#include <memory>
#include <stdexcept>
#include <string>

#define APART __attribute__((noinline))

namespace npc {

static long long weigh_ns, provoke_ns, caught;

struct Player {
    int mood = 3;
};

APART static void throw_deep(int depth) {
    std::string ballast("a destructor on the way up");
    if (depth == 0) {
        throw std::runtime_error(ballast);
    }
    throw_deep(depth - 1);
    HOLD;
}

APART static int provoke(int depth) {
    try {
        throw_deep(depth);
    } catch (const std::runtime_error &anger) {
        caught++;
        return anger.what()[0];
    }
    return 0;
}

struct Mind {
    virtual ~Mind() = default;
    virtual int think() = 0;
};

template <typename Who>
struct Brain final : Mind {
    Who who;
    int turns = 100000;

    // As long as the exceptions take, so that the halves are halves on any machine. Once and for all: work that watched the
    // clock while it is sampled would keep step with the sampler, whose interrupts take time too.
    Brain() {
        for (int i = 0; i < 20; i++) {
            think();
        }
        turns = static_cast<int>(turns * (static_cast<double>(provoke_ns) / static_cast<double>(weigh_ns)));
        weigh_ns = provoke_ns = caught = 0;
    }

    APART int weigh(int turns) {
        auto step = [this](int i) { __asm__ volatile("" : : "r"(i + who.mood)); };
        for (int i = 0; i < turns; i++) {
            step(i);
        }
        return turns;
    }

    APART int think() override {
        long long begin = thread_cpu_ns(), sum = 0;
        for (int i = 0; i < 20; i++) {
            sum += provoke(5);
        }
        long long between = thread_cpu_ns();
        sum += weigh(turns);
        weigh_ns += thread_cpu_ns() - between;
        provoke_ns += between - begin;
        return static_cast<int>(sum);
    }
};

struct World {
    std::unique_ptr<Mind> mind = std::make_unique<Brain<Player>>();

    APART void tick() {
        for (int i = 0; i < 5; i++) {
            mind->think();
        }
        HOLD;
    }
};

}  // namespace npc

static void report(const char *prefix) {
    printf("{%s\"truth\": {\"weigh\": %lld, \"provoke\": %lld}, \"cpu_ns\": %lld, \"caught\": %lld}\n", prefix, npc::weigh_ns,
           npc::provoke_ns, thread_cpu_ns(), npc::caught);
    fflush(stdout);
}

int main() {
    char line[64];
    int heard;
    npc::World world;
    talk_ready("");
    while ((heard = talk_poll(line, sizeof line, 0)) >= 0) {
        if (heard) {
            report("");
        }
        world.tick();
    }
    report("\"last\": true, ");
    return 0;
}

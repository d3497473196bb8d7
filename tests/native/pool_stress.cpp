// Rounds of tiny chunks without pause: is every chunk done once, and done when `parallel` returns?
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "pool.h"

namespace {

constexpr int kMost = 64;

struct Round {
    std::atomic<int> done[kMost]{};
    int chunks = 0;
};

void count(void *context, std::int64_t chunk) {
    Round &round = *static_cast<Round *>(context);
    if (chunk < round.chunks) ++round.done[chunk];
}

}  // namespace

int main(int, char **words) {
    const int threads = std::atoi(words[1]);
    const long rounds = std::atol(words[2]);
    unsigned random = 1;
    long wrong = 0;
    for (long n = 0; n < rounds; ++n) {
        random = random * 1664525u + 1013904223u;
        Round round;
        round.chunks = 2 + static_cast<int>(random >> 26) % (kMost - 2);
        locum::parallel(count, &round, round.chunks, 2 + static_cast<int>(random >> 20) % (threads - 1));
        for (int chunk = 0; chunk < round.chunks; ++chunk) wrong += round.done[chunk] != 1;
    }
    std::printf("%ld rounds, %ld chunks wrong\n", rounds, wrong);
    return wrong != 0;
}

#include "pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>

#include <pthread.h>

namespace locum {
namespace {

// How often an idle helper looks for the next product before it sleeps: about 50 us, which spans the small
// operations between the products of one layer, and not the attention between two layers.
constexpr int kSpins = 1500;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    void run(Work work, void *context, std::uint32_t chunks, int helpers) {
        while (started_ < helpers) std::thread([this, n = started_++] { serve(n); }).detach();
        work_.store(work, std::memory_order_relaxed);
        context_.store(context, std::memory_order_relaxed);
        chunks_.store(chunks, std::memory_order_relaxed);
        helpers_.store(helpers, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        const std::uint32_t round = static_cast<std::uint32_t>(ticket_.load() >> 32) + 1;
        ticket_.store(static_cast<std::uint64_t>(round) << 32);
        round_.store(round);
        round_.notify_all();
        take_all(round);
        while (done_.load(std::memory_order_acquire) < chunks) relax();
    }

    std::mutex mutex;

  private:
    // The chunk number is taken together with the number of the round. What a helper has read of a round is
    // still true when it gets a chunk of it, because a round is only replaced once all its chunks are done.
    void take_all(std::uint32_t round) {
        for (;;) {
            std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
            if (static_cast<std::uint32_t>(ticket >> 32) != round) return;
            const Work work = work_.load(std::memory_order_relaxed);
            void *const context = context_.load(std::memory_order_relaxed);
            const std::uint32_t chunks = chunks_.load(std::memory_order_relaxed);
            const std::uint32_t chunk = static_cast<std::uint32_t>(ticket);
            if (chunk >= chunks) return;
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            work(context, chunk);
            done_.fetch_add(1, std::memory_order_release);
        }
    }

    void serve(int number) {
        std::uint32_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < kSpins && round_.load(std::memory_order_acquire) == seen; ++spin) relax();
            round_.wait(seen);
            seen = round_.load(std::memory_order_acquire);
            if (number < helpers_.load(std::memory_order_relaxed)) take_all(seen);
        }
    }

    std::atomic<std::uint64_t> ticket_{0};  // round << 32 | next chunk
    std::atomic<std::uint32_t> round_{0}, done_{0}, chunks_{0};
    std::atomic<Work> work_{nullptr};
    std::atomic<void *> context_{nullptr};
    std::atomic<int> helpers_{0};
    int started_ = 0;
};

// Never destroyed: helpers sleep in it until the process ends. A forked child has no helpers and makes its own.
std::atomic<Pool *> the_pool{nullptr};

Pool &pool() {
    static const int once = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); });
    (void)once;
    Pool *found = the_pool.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    auto fresh = std::make_unique<Pool>();
    if (the_pool.compare_exchange_strong(found, fresh.get())) return *fresh.release();
    return *found;
}

}  // namespace

void parallel(Work work, void *context, std::int64_t chunks, int threads) {
    if (threads > 1 && chunks > 1) {
        Pool &shared = pool();
        const std::unique_lock<std::mutex> lock(shared.mutex, std::try_to_lock);
        if (lock.owns_lock()) {
            shared.run(work, context, static_cast<std::uint32_t>(chunks), threads - 1);
            return;
        }
    }
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) work(context, chunk);
}

}  // namespace locum

#include "pool.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include <pthread.h>

namespace locum {
namespace {

// How often an idle helper looks for the next product before it sleeps: about 50 us, which spans the small
// operations between the products of one layer, and not the attention between two layers.
constexpr int kSpins = 1500;

// How often the caller looks for the end of chunks that helpers have begun before it lets others go first: some
// milliseconds. A helper that has begun is mostly done within 10 us, and who yields may be long in coming back.
constexpr int kPatience = 200000;

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

class Pool {
  public:
    void run(Work work, void *context, std::uint32_t chunks, int helpers) {
        start(helpers);
        const std::uint32_t round = static_cast<std::uint32_t>(ticket_ >> 32) + 1;
        ticket_ = ticket(round, kClosed);  // from here on nobody gets a chunk of the round before
        work_ = work;
        context_ = context;
        chunks_ = chunks;
        helpers_ = helpers;
        done_ = 0;
        ticket_ = ticket(round, 0);
        round_ = round;
        round_.notify_all();
        take_all(round);
        for (int spin = 0; done_ < chunks; ++spin)
            if (spin < kPatience) relax();
            else std::this_thread::yield();
    }

    std::mutex mutex;

  private:
    static std::uint64_t ticket(std::uint32_t round, std::uint32_t chunk) {
        return static_cast<std::uint64_t>(round) << 32 | chunk;
    }

    // As many helpers as the system gives; without any the caller does it all.
    void start(int helpers) {
        try {
            for (; started_ < helpers; ++started_) std::thread([this, n = started_] { serve(n); }).detach();
        } catch (const std::system_error &) {
        }
    }

    // Chunk and round are taken in one step, and the ticket is closed before anything else of a round changes. So
    // what a helper has read belongs to the very round of which it gets a chunk, and stays until that is done.
    void take_all(std::uint32_t round) {
        for (;;) {
            std::uint64_t seen = ticket_;
            if (static_cast<std::uint32_t>(seen >> 32) != round) return;
            const Work work = work_;
            void *const context = context_;
            const std::uint32_t chunk = static_cast<std::uint32_t>(seen);
            if (chunk >= chunks_) return;
            if (!ticket_.compare_exchange_weak(seen, seen + 1)) continue;
            work(context, chunk);
            ++done_;
        }
    }

    void serve(int number) {
        std::uint32_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < kSpins && round_ == seen; ++spin) relax();
            round_.wait(seen);
            seen = round_;
            if (number < helpers_) take_all(seen);
        }
    }

    static constexpr std::uint32_t kClosed = 0xffffffff;

    // All with sequential consistency, which costs nothing beside the work.
    std::atomic<std::uint64_t> ticket_{0};  // the round, and the next chunk of it
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

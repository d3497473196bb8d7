// A thread pool for products of a fraction of a millisecond.
//
// The calling thread works too and takes chunks of rows one after the other, as the helpers do. So a helper that
// comes late, or whose core another process keeps, costs its share of the work and nothing more: nobody waits for
// a thread that has not begun a chunk.
#pragma once

#include <cstdint>

namespace locum {

using Work = void (*)(void *context, std::int64_t chunk);

// Call `work(context, chunk)` once for each chunk below `chunks` (at most 2^31), on at most `threads` threads,
// and return when all are done. From several threads at once: one has the helpers, the others work alone.
void parallel(Work work, void *context, std::int64_t chunks, int threads);

}  // namespace locum

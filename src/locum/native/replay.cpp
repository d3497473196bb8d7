// Replaying requests through caches, many millions a second: what analysis and simulation ask most often.
//
// Requests come as acquires, each a run of distinct keys in ascending order: keys[starts[a]] up to
// keys[starts[a + 1]]. Every acquire is classified against the state before it, and then all its keys are in use:
// the rules of the Ledger (residency/ledger.py) for experts of one size, without speculation. The twins in numpy
// are in twin_replay.py.
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Key = std::int32_t;
using Count = std::int64_t;

constexpr Count kNever = Count{1} << 62;

enum Kind : int { kLru = 0, kLfu = 1, kNext = 2, kWindow = 3 };

// (score, stamp): the lowest leaves first. Stamps differ, so there are no ties.
using Rank = std::pair<Count, Count>;

struct Acquires {
  const Key *keys;
  const Count *starts;
  Count count;

  const Key *begin(Count a) const { return keys + starts[a]; }
  const Key *end(Count a) const { return keys + starts[a + 1]; }
};

// For each request, the acquire that asks for the same key next, kNever if there is none.
std::vector<Count> next_uses(const Acquires &acquires, Count key_count) {
  std::vector<Count> next(acquires.starts[acquires.count]), coming(key_count, kNever);
  for (Count a = acquires.count - 1; a >= 0; --a) {
    for (Count r = acquires.starts[a]; r < acquires.starts[a + 1]; ++r) {
      next[r] = coming[acquires.keys[r]];
      coming[acquires.keys[r]] = a;
    }
  }
  return next;
}

// How many of the keys used last stand above a key: a Fenwick tree over the times of last use, renumbered when
// the times run out.
class Recency {
 public:
  explicit Recency(Count key_count)
      : span_(2 * key_count + 64), time_(key_count, 0), owner_(span_ + 1, -1), tree_(span_ + 1, 0) {}

  bool seen(Key key) const { return time_[key] != 0; }

  // 1 for the key used last.
  Count depth(Key key) const { return live_ - below(time_[key]) + 1; }

  void touch(Key key) {
    if (now_ == span_) renumber();
    if (time_[key]) {
      add(time_[key], -1);
      owner_[time_[key]] = -1;
    } else {
      ++live_;
    }
    time_[key] = ++now_;
    owner_[now_] = key;
    add(now_, 1);
  }

 private:
  Count below(Count place) const {
    Count sum = 0;
    for (; place > 0; place -= place & -place) sum += tree_[place];
    return sum;
  }

  void add(Count place, Count by) {
    for (; place <= span_; place += place & -place) tree_[place] += by;
  }

  void renumber() {
    Count kept = 0;
    for (Count place = 1; place <= span_; ++place) {
      if (owner_[place] < 0) continue;
      ++kept;
      std::swap(owner_[kept], owner_[place]);
      time_[owner_[kept]] = kept;
    }
    std::fill(tree_.begin(), tree_.end(), 0);
    for (Count place = 1; place <= kept; ++place) add(place, 1);
    now_ = kept;
  }

  Count span_, now_ = 0, live_ = 0;
  std::vector<Count> time_;
  std::vector<Key> owner_;
  std::vector<Count> tree_;
};

// Scores that do not depend on the cache's size: with them every larger cache holds what a smaller one holds.
class Scores {
 public:
  Scores(int kind, Count window, const Acquires &acquires, Count key_count)
      : kind_(kind), window_(window), acquires_(acquires), score_(key_count, 0), stamp_(key_count, 0) {
    if (kind == kNext) next_ = next_uses(acquires, key_count);
    if (kind == kWindow) {
      for (Count a = 0; a < std::min(window, acquires.count); ++a) tally(a, 1);
    }
  }

  // Acquire number `a` is under way: its keys are used now.
  void use(Count a) {
    if (kind_ == kWindow) {  // the acquires after this one, `window` of them
      tally(a, -1);
      if (a + window_ < acquires_.count) tally(a + window_, 1);
    }
    for (Count r = acquires_.starts[a]; r < acquires_.starts[a + 1]; ++r) {
      const Key key = acquires_.keys[r];
      stamp_[key] = ++now_;
      if (kind_ == kLfu) ++score_[key];
      if (kind_ == kNext) score_[key] = -next_[r];
    }
  }

  Rank rank(Key key) const { return {score_[key], stamp_[key]}; }

 private:
  void tally(Count a, Count by) {
    for (const Key *key = acquires_.begin(a); key != acquires_.end(a); ++key) score_[*key] += by;
  }

  int kind_;
  Count window_, now_ = 0;
  const Acquires &acquires_;
  std::vector<Count> next_, score_, stamp_;
};

// A binary heap of keys that knows where each of them lies, the lowest rank on top.
class Heap {
 public:
  explicit Heap(Count key_count) : place_(key_count, -1), rank_(key_count) {}

  Count size() const { return static_cast<Count>(heap_.size()); }
  bool holds(Key key) const { return place_[key] >= 0; }

  void set(Key key, Rank rank) {
    const Rank before = rank_[key];
    rank_[key] = rank;
    if (place_[key] < 0) {
      place_[key] = size();
      heap_.push_back(key);
      rise(place_[key]);
    } else if (rank < before) {
      rise(place_[key]);
    } else {
      sink(place_[key]);
    }
  }

  Key pop() {
    const Key top = heap_[0], last = heap_.back();
    heap_.pop_back();
    place_[top] = -1;
    if (!heap_.empty()) {
      heap_[0] = last;
      place_[last] = 0;
      sink(0);
    }
    return top;
  }

  Rank rank(Key key) const { return rank_[key]; }

  // Every key's rank through `change`, which must keep the order of the stamps.
  template <typename Change>
  void rerank(Change change) {
    for (const Key key : heap_) rank_[key] = change(key, rank_[key]);
    for (Count place = size() / 2 - 1; place >= 0; --place) sink(place);
  }

 private:
  void put(Count place, Key key) {
    heap_[place] = key;
    place_[key] = place;
  }

  void rise(Count place) {
    const Key key = heap_[place];
    while (place > 0) {
      const Count above = (place - 1) / 2;
      if (!(rank_[key] < rank_[heap_[above]])) break;
      put(place, heap_[above]);
      place = above;
    }
    put(place, key);
  }

  void sink(Count place) {
    const Key key = heap_[place];
    for (;;) {
      Count below = 2 * place + 1;
      if (below >= size()) break;
      if (below + 1 < size() && rank_[heap_[below + 1]] < rank_[heap_[below]]) ++below;
      if (!(rank_[heap_[below]] < rank_[key])) break;
      put(place, heap_[below]);
      place = below;
    }
    put(place, key);
  }

  std::vector<Key> heap_;
  std::vector<Count> place_;
  std::vector<Rank> rank_;
};

// One cache of one size. What `replay` needs from a policy: hold, use, evict.
struct Tally {
  Count hits = 0, evicted = 0, streamed = 0;
};

class Cache {
 public:
  Cache(int kind, Count capacity, Count period, const Acquires &acquires, Count key_count)
      : kind_(kind), capacity_(capacity), period_(period), turn_(period), heap_(key_count), count_(key_count, 0) {
    if (kind == kNext) next_ = next_uses(acquires, key_count);
  }

  void acquire(const Acquires &acquires, Count a, Tally &tally) {
    const Key *begin = acquires.begin(a), *end = acquires.end(a);
    for (const Key *key = begin; key != end; ++key) tally.hits += heap_.holds(*key);
    if (period_ && now_ >= turn_) age();
    for (const Key *key = begin; key != end; ++key) {
      const Count request = key - acquires.keys;
      ++now_;
      heap_.set(*key, {score(*key, request), now_});
    }
    // while they fit, those asked for stay; else all compete, and who loses streams past
    const bool fits = end - begin <= capacity_;
    aside_.clear();
    while (heap_.size() + static_cast<Count>(aside_.size()) > capacity_) {
      const Key worst = heap_.pop();
      const bool asked = std::binary_search(begin, end, worst);
      if (asked && fits) {
        aside_.push_back(worst);
      } else {
        ++(asked ? tally.streamed : tally.evicted);
      }
    }
    for (const Key key : aside_) heap_.set(key, heap_.rank(key));
  }

 private:
  Count score(Key key, Count request) {
    if (kind_ == kLfu) return ++count_[key];
    return kind_ == kNext ? -next_[request] : 0;
  }

  void age() {
    turn_ = now_ + period_;
    for (Count &count : count_) count >>= 1;
    heap_.rerank([this](Key key, Rank rank) { return Rank{count_[key], rank.second}; });
  }

  int kind_;
  Count capacity_, period_, turn_, now_ = 0;
  Heap heap_;
  std::vector<Count> count_, next_;
  std::vector<Key> aside_;
};

// The keys of caches of all sizes at once (Mattson and others, 1970): the first n of the stack are what a cache of
// n holds, for every n that an acquire fits into.
class Stack {
 public:
  explicit Stack(Count key_count) : asked_(key_count, 0), place_(key_count, 0) {}

  // Depth from 1; 0 for a key never asked for before.
  Count depth(Key key) const { return place_[key]; }

  void update(const Key *begin, const Key *end, const Scores &scores) {
    const Count width = end - begin, before = static_cast<Count>(stack_.size());
    Count missing = width;
    for (const Key *key = begin; key != end; ++key) asked_[*key] = 1;
    pool_.clear();
    for (Count n = 1; n <= before && missing; ++n) {
      const Key held = stack_[n - 1];
      if (asked_[held]) {
        --missing;
      } else {
        push(held, scores);
      }
      if (n > width && !pool_.empty()) put(n, pop(scores));
    }
    const Count deepest = std::max(before, width);
    stack_.resize(deepest + pool_.size());
    for (Count n = deepest + 1; !pool_.empty(); ++n) put(n, pop(scores));
    Count n = 1;
    for (const Key *key = begin; key != end; ++key) {
      put(n++, *key);
      asked_[*key] = 0;
    }
  }

 private:
  void put(Count n, Key key) {
    stack_[n - 1] = key;
    place_[key] = n;
  }

  void push(Key key, const Scores &scores) {
    pool_.push_back(key);
    std::push_heap(pool_.begin(), pool_.end(), [&](Key a, Key b) { return scores.rank(a) < scores.rank(b); });
  }

  Key pop(const Scores &scores) {
    std::pop_heap(pool_.begin(), pool_.end(), [&](Key a, Key b) { return scores.rank(a) < scores.rank(b); });
    const Key best = pool_.back();
    pool_.pop_back();
    return best;
  }

  std::vector<Key> stack_, pool_;
  std::vector<char> asked_;
  std::vector<Count> place_;
};

}  // namespace

// depths[d] is how many requests found their key at depth d, depths[0] how many were the first for theirs: a least
// recently used cache of n hits depths[1] + ... + depths[n] times.
EXPORT void locum_lru_depths(const Key *keys, const Count *starts, Count count, Count key_count, Count *depths) {
  const Acquires acquires{keys, starts, count};
  Recency recency(key_count);
  for (Count a = 0; a < count; ++a) {
    for (const Key *key = acquires.begin(a); key != acquires.end(a); ++key) {
      ++depths[recency.seen(*key) ? recency.depth(*key) : 0];
    }
    for (const Key *key = acquires.begin(a); key != acquires.end(a); ++key) recency.touch(*key);
  }
}

// The same for caches ruled by a score: 1 uses so far, 2 the next use, 3 uses in the next `window` acquires. For
// caches that hold any one acquire.
EXPORT void locum_score_depths(const Key *keys, const Count *starts, Count count, Count key_count, int kind,
                               Count window, Count *depths) {
  const Acquires acquires{keys, starts, count};
  Scores scores(kind, window, acquires, key_count);
  Stack stack(key_count);
  for (Count a = 0; a < count; ++a) {
    for (const Key *key = acquires.begin(a); key != acquires.end(a); ++key) ++depths[stack.depth(*key)];
    scores.use(a);
    stack.update(acquires.begin(a), acquires.end(a), scores);
  }
}

// One cache of `capacity` experts, ruled by 0 recency, 1 uses so far, 2 the next use; uses are halved every
// `period` requests, never for 0. Gives found[3]: hits, evicted, streamed.
EXPORT void locum_replay(const Key *keys, const Count *starts, Count count, Count key_count, int kind, Count capacity,
                         Count period, Count *found) {
  const Acquires acquires{keys, starts, count};
  Cache cache(kind, capacity, period, acquires, key_count);
  Tally tally;
  for (Count a = 0; a < count; ++a) cache.acquire(acquires, a, tally);
  found[0] = tally.hits;
  found[1] = tally.evicted;
  found[2] = tally.streamed;
}

// Division of a layer's features among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "vectors.h"

namespace {

// Phases take some 10 µs. So waiting threads spin, and yield the processor if a phase takes longer.
class Barrier {
 public:
  void wait(int threads) {
    const int phase = phase_.load();
    if (arrived_.fetch_add(1) + 1 == threads) {
      arrived_.store(0);
      phase_.store(phase + 1);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins)
      if (spins > 4096) std::this_thread::yield();
  }

 private:
  std::atomic<int> arrived_{0}, phase_{0};
};

// Features [begin, end) of a thread: whole vectors, except at the end of the layer. `filled` is the end of the
// last vector.
struct Share {
  int64_t begin, end, filled;
};

inline Share share_of(int64_t dim, int thread, int threads) {
  const int64_t vectors = (dim + WIDTH - 1) / WIDTH, each = (vectors + threads - 1) / threads;
  const int64_t first = std::min(vectors, thread * each), last = std::min(vectors, first + each);
  if (first == last) return {0, 0, 0};
  return {first * WIDTH, std::min(dim, last * WIDTH), last * WIDTH};
}

// Call `work(thread, threads)` in each of `threads` threads.
template <class Work> void in_parallel(int threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), omp_get_num_threads());
#else
  work(0, 1);
#endif
}

}  // namespace

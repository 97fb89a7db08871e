// What the kernels share: types, reciprocals, and a loop over XLA's threads.

#ifndef SHOW_ATTEND_TELL_KERNELS_H_
#define SHOW_ATTEND_TELL_KERNELS_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32, 3>;
using Halves = ffi::Buffer<ffi::BF16, 3>;
using Vector = ffi::Buffer<ffi::F32, 1>;
using Matrix = ffi::Buffer<ffi::F32, 2>;
using FloatsOut = ffi::Result<Floats>;
using MatrixOut = ffi::Result<Matrix>;

constexpr int kBlock = 64;  // elements at a time: what is summed over them stays in registers
// Beyond it 1 + x overflows, and a refined reciprocal of infinity is not a number.
constexpr float kLargest = 1e30f;

// 1 / (1 + x). Compiled with -ffast-math, it is an approximation and one step of Newton's method.
inline float Share(float x) { return 1.0f / std::min(1.0f + x, kLargest); }

// Calls work(0) ... work(count - 1) on the pool's threads and this one; returns once all are done.
template <typename Work>
void ForEach(ffi::ThreadPool& pool, int64_t count, Work work) {
  struct Progress {
    std::atomic<int64_t> next{0};
    int64_t done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
  };
  // Helpers may start only after the last item is taken, so they share what they look at.
  auto progress = std::make_shared<Progress>();
  auto run = [progress, count, work] {
    int64_t mine = 0;
    for (int64_t i; (i = progress->next.fetch_add(1)) < count; ++mine) work(i);
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(progress->mutex);
    progress->done += mine;
    if (progress->done == count) progress->all_done.notify_all();
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([run] { run(); });
  run();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == count; });
}

#endif  // SHOW_ATTEND_TELL_KERNELS_H_

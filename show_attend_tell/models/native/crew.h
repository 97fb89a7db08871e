// Threads of XLA's pool that stay together over many short phases of work.
//
// Waking a thread takes as long as many a phase, so a helper waits actively between phases.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

class Crew {
 public:
  explicit Crew(xla::ffi::ThreadPool& pool)
      : shared_(std::make_shared<Shared>()),
        size_(std::clamp<int64_t>(pool.num_threads(), 1, kMost)) {
    const auto own = std::this_thread::get_id();
    for (int64_t i = 1; i < size_; ++i) {
      pool.Schedule([shared = shared_, i, n = size_, own] {
        if (std::this_thread::get_id() != own) Help(*shared, i, n);  // a pool that cannot calls it
      });
    }
  }
  ~Crew() { shared_->closed.store(true); }
  Crew(const Crew&) = delete;

  int64_t size() const { return size_; }

  // Calls work(0) ... work(count - 1), and returns once all are done. Each thread prefers the same
  // part of the numbers in every phase, so that what belongs to them stays in its cache. A helper
  // that has not started yet is not waited for: its part is done by the others.
  template <typename Work>
  void Share(int64_t count, const Work& work) {
    if (size_ == 1 || count <= 1) {
      for (int64_t i = 0; i < count; ++i) work(i);
      return;
    }
    Shared& s = *shared_;
    s.work = &work;
    s.call = [](const void* work, int64_t i) { (*static_cast<const Work*>(work))(i); };
    s.done.store(0);
    for (int64_t i = 0; i < size_; ++i) {
      const uint64_t begin = count * i / size_, end = count * (i + 1) / size_;
      s.parts[i].numbers.store(end << 32 | begin, std::memory_order_release);
    }
    s.phase.fetch_add(1, std::memory_order_release);
    Take(s, 0, size_);
    for (int64_t spins = 0; s.done.load(std::memory_order_acquire) < count; ++spins) Wait(spins);
  }

 private:
  static constexpr int64_t kMost = 64;  // threads
  struct alignas(64) Part {
    std::atomic<uint64_t> numbers{0};  // the end in the upper half, the next in the lower
  };
  struct Shared {
    Part parts[kMost];
    std::atomic<int64_t> phase{0}, done{0};
    std::atomic<bool> closed{false};
    const void* work = nullptr;
    void (*call)(const void*, int64_t) = nullptr;
  };

  static void Wait(int64_t spins) {
    if (spins > 2000) std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  // A number that was taken belongs to the phase that is now: no phase ends before all are done.
  static void Take(Shared& s, int64_t own, int64_t size) {
    for (int64_t k = 0; k < size; ++k) {
      std::atomic<uint64_t>& numbers = s.parts[(own + k) % size].numbers;
      for (;;) {
        const uint64_t now = numbers.fetch_add(1, std::memory_order_acq_rel);
        const uint64_t next = now & 0xffffffff;
        if (next >= now >> 32) break;
        s.call(s.work, static_cast<int64_t>(next));
        s.done.fetch_add(1, std::memory_order_acq_rel);
      }
    }
  }

  static void Help(Shared& s, int64_t own, int64_t size) {
    int64_t seen = 0;
    for (int64_t spins = 0; !s.closed.load(std::memory_order_acquire); ++spins) {
      const int64_t phase = s.phase.load(std::memory_order_acquire);
      if (phase == seen) {
        Wait(spins);
        continue;
      }
      seen = phase, spins = 0;
      Take(s, own, size);
    }
  }

  std::shared_ptr<Shared> shared_;
  const int64_t size_;
};

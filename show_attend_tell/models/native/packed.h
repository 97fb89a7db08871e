// Matrices that are packed once, for products with the same number of rows at every step.

#pragma once

#include "crew.h"
#include "matrix_product.h"

namespace {

constexpr int64_t kMostColumns = 64;  // of a part: a thread's sums stay in its cache

// Rows of numbers that products multiply: padded as a Format demands, and zero there.
template <typename Format>
class Rows {
 public:
  using Number = typename Format::Number;
  Rows(int64_t count, int64_t size) : count_(count), pitch_(Up(size, Format::kDepth)) {
    begin_ = numbers_.At(Up(count, 2 * kTile) * std::max<int64_t>(pitch_, 1));
  }
  int64_t count() const { return count_; }
  int64_t pitch() const { return pitch_; }
  Number* operator[](int64_t n) { return begin_ + n * pitch_; }

 private:
  int64_t count_, pitch_;
  Kept<Number> numbers_;
  Number* begin_;
};

// Some columns of a matrix: number (k, n) is at from[k * down + n * across]; one of both is 1.
template <typename Number>
struct Part {
  const Number* from;
  int64_t columns, down, across;
};

// A matrix packed for products.
template <typename Format>
class Packed {
 public:
  using Number = typename Format::Number;

  // The columns n to n + kColumns of a (K, N) matrix are those of part(n), whose further ones are 0.
  template <typename Panel>
  Packed(Crew& crew, int64_t K, int64_t N, const Panel& part)
      : K_(Up(K, Format::kDepth)), N_(Up(N, Format::kColumns)) {
    Number* to = numbers_.At(std::max<int64_t>(K_ * N_, 1));
    none_.At(std::max<int64_t>(N_, 1));
    crew.Share(N_ / Format::kColumns, [=](int64_t panel) {
      const int64_t first = panel * Format::kColumns;
      const Part<Number> p = part(first);
      Copy(p, K, std::clamp<int64_t>(p.columns, 0, Format::kColumns), to + first * K_);
    });
  }

  // The product with all rows of x, or their first numbers; of its columns those from `first` on,
  // where a panel begins. The result's rows are `step` apart.
  void Multiply(Rows<Format>& x, int64_t first, int64_t columns, float* out, int64_t step) {
    const int64_t M = x.count();
    static thread_local Kept<int32_t> kept;
    int32_t* offset = kept.At(M);
    for (int64_t m = 0; m < M; ++m) offset[m] = m * step - first;
    const Target target{out, offset, kWidth, none_.At(1), nullptr, first + columns, false};
    Format::Begin();
    const int64_t whole = Up(columns, Format::kColumns);  // the target leaves out what is beyond
    Format::Multiply(x[0], x.pitch(), numbers_.At(1), M, first, whole, K_, target);
    Format::End();
  }

 private:
  // In blocks: what is read or written far apart stays in the cache until it is read or written on.
  void Copy(const Part<Number>& p, int64_t K, int64_t columns, Number* panel) const {
    constexpr int64_t kRowsAtOnce = 64;
    for (int64_t begin = 0; begin < K; begin += kRowsAtOnce) {
      const int64_t end = std::min(begin + kRowsAtOnce, K);
      if (p.across == 1) {
        for (int64_t k = begin; k < end; ++k) {
          const Number* row = p.from + k * p.down;
          for (int64_t n = 0; n < columns; ++n) panel[Format::Place(k, n, K_)] = row[n];
        }
      } else {
        for (int64_t n = 0; n < columns; ++n) {
          const Number* column = p.from + n * p.across;
          for (int64_t k = begin; k < end; ++k) panel[Format::Place(k, n, K_)] = column[k];
        }
      }
    }
  }

  int64_t K_, N_;
  Kept<Number> numbers_;
  Kept<float> none_;  // no bias
};

// Calls work(first, count) for parts of `total` columns, whole panels.
template <typename Format, typename Work>
void Columns(Crew& crew, int64_t total, const Work& work) {
  constexpr int64_t unit = Format::kColumns;
  const int64_t wanted = std::min<int64_t>(kMostColumns, total / (2 * crew.size()));
  const int64_t part = std::max(unit, wanted / unit * unit);
  crew.Share((total + part - 1) / part, [&](int64_t i) {
    work(i * part, std::min(part, total - i * part));
  });
}

}  // namespace

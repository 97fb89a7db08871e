// Products of matrices that end in bias, ReLU6 or a sum; in float32, or in bfloat16 on a CPU with
// matrix units (AMX). Both sum in float32.
//
// A (M, K) has rows; B (K, N) is packed; row m and column n of the result go where a Target says.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define MATRIX_UNITS 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define MATRIX_UNITS 0
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRows = 8;  // numbers of a vector; rows of A at a time
#elif defined(__AVX2__)
constexpr int kWidth = 8, kRows = 4;
#else
constexpr int kWidth = 4, kRows = 8;
#endif
constexpr int kPanel = 3;      // vectors of a column panel: kRows * kPanel sums fit the registers
constexpr int kTile = 16;      // rows and columns of a tile of the matrix units
constexpr int kTileDepth = 32;  // numbers of a tile's row in bfloat16

typedef float Vector __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef uint16_t Half;  // the bits of a bfloat16

inline int64_t Up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
inline Vector Load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void Store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector Relu6(Vector v) {
  const Vector zero = {}, six = zero + 6.0f;
  v = v > zero ? v : zero;
  return v < six ? v : six;
}

// Memory that a thread keeps for its next call. What it held is lost when it grows.
template <typename T>
class Kept {
 public:
  T* At(int64_t size) {
    if (size > size_) {
      size_ = size;
      memory_.reset(new (std::align_val_t(64)) T[size]());
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<T[], Free> memory_;
  int64_t size_ = 0;
};

// Where a product goes: column n of row m is at out[offset[m] + n / kWidth * step + n % kWidth].
struct Target {
  float* out;
  const int32_t* offset;
  int64_t step;           // kWidth if a row's columns lie side by side
  const float* bias;      // of Up(N, kWidth) columns
  const float* residual;  // added; lies as `out` does; or null
  int64_t columns;        // those beyond are not written
  bool relu6;

  inline void Put(int64_t m, int64_t n, Vector v) const {
    const int64_t place = offset[m] + n / kWidth * step;
    v += Load(bias + n);
    if (n + kWidth <= columns) {
      if (residual) v += Load(residual + place);
      Store(out + place, relu6 ? Relu6(v) : v);
      return;
    }
    for (int64_t i = 0; i < columns - n; ++i) {
      const float x = v[i] + (residual ? residual[place + i] : 0.0f);
      out[place + i] = relu6 ? std::min(std::max(x, 0.0f), 6.0f) : x;
    }
  }
};

// float32. Packed: panels of up to kPanel vectors of columns, each (K, its columns).
struct Single {
  using Number = float;
  static constexpr int64_t kDepth = 1;
  static constexpr int64_t kColumns = kPanel * kWidth;  // of a panel

  // Where number (k, n) of a matrix of whole panels lies when packed.
  static int64_t Place(int64_t k, int64_t n, int64_t K) {
    return n / kColumns * kColumns * K + k * kColumns + n % kColumns;
  }

  static int64_t PackedSize(int64_t K, int64_t N) { return K * Up(N, kWidth); }
  static int64_t Panels(int64_t N) { return (N + kPanel * kWidth - 1) / (kPanel * kWidth); }

  // Packs a panel of a (rows, N) matrix; K >= rows: further rows are 0.
  static void Pack(const float* matrix, int64_t rows, int64_t K, int64_t N, int64_t panel,
                   float* packed) {
    const int64_t first = panel * kPanel * kWidth;
    const int64_t width = std::min<int64_t>(kPanel * kWidth, Up(N, kWidth) - first);
    const int64_t used = std::min(width, N - first);
    float* to = packed + first * K;
    for (int64_t k = 0; k < K; ++k, to += width) {
      std::fill(to, to + width, 0.0f);
      if (k < rows) std::copy_n(matrix + k * N + first, used, to);
    }
  }

  static void Begin() {}
  static void End() {}
  static void Convert(const float* from, int64_t count, float* to) { std::copy_n(from, count, to); }
  static void Write(float* to, Vector v) { Store(to, v); }

  // The columns from `first` on, a multiple of kPanel * kWidth; N of them.
  static void Multiply(const float* a, int64_t lda, const float* packed, int64_t M, int64_t first,
                       int64_t N, int64_t K, const Target& target) {
    const int64_t end = first + Up(N, kWidth);
    for (int64_t n = first; n < end; n += kPanel * kWidth) {
      const float* b = packed + n * K;
      switch (std::min<int64_t>(kPanel, (end - n) / kWidth)) {
        case 1: Panel<1>(a, lda, b, M, n, K, target); break;
        case 2: Panel<2>(a, lda, b, M, n, K, target); break;
        default: Panel<3>(a, lda, b, M, n, K, target);
      }
    }
  }

 private:
  template <int kVectors>
  static void Panel(const float* a, int64_t lda, const float* b, int64_t M, int64_t n, int64_t K,
                    const Target& target) {
    int64_t m = 0;
    for (; m + kRows <= M; m += kRows) Tile<kRows, kVectors>(a, lda, b, m, n, K, target);
    if (m + 4 <= M) Tile<4, kVectors>(a, lda, b, m, n, K, target), m += 4;
    if (m + 2 <= M) Tile<2, kVectors>(a, lda, b, m, n, K, target), m += 2;
    if (m < M) Tile<1, kVectors>(a, lda, b, m, n, K, target);
  }

  template <int kTall, int kVectors>
  static void Tile(const float* a, int64_t lda, const float* b, int64_t m, int64_t n, int64_t K,
                   const Target& target) {
    Vector sum[kTall][kVectors] = {};
    const float* row = a + m * lda;
    for (int64_t k = 0; k < K; ++k) {
      Vector columns[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) columns[v] = Load(b + (k * kVectors + v) * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < kTall; ++r) {
        const Vector x = Vector{} + row[r * lda + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] += x * columns[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTall; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) target.Put(m + r, n + v * kWidth, sum[r][v]);
    }
  }
};

#if MATRIX_UNITS

// bfloat16. Packed: tiles of 16 columns, each of K / 32 tiles (16 pairs of rows, 16, 2).
// A must have memory for Up(M, 32) rows; K is a multiple of 32.
struct Brain {
  using Number = Half;
  static constexpr int64_t kDepth = kTileDepth;
  static constexpr int64_t kNumbers = kTile * kTileDepth;  // of a tile
  static constexpr int64_t kColumns = 2 * kTile;  // of two panels, multiplied together

  static int64_t Place(int64_t k, int64_t n, int64_t K) {
    return n / kTile * kTile * K + k / 2 * 2 * kTile + n % kTile * 2 + k % 2;
  }

  static int64_t PackedSize(int64_t K, int64_t N) { return K * Up(N, kTile); }
  static int64_t Panels(int64_t N) { return (N + kTile - 1) / kTile; }

  static void Pack(const float* matrix, int64_t rows, int64_t K, int64_t N, int64_t panel,
                   Half* packed) {
    const int64_t first = panel * kTile, used = std::min<int64_t>(kTile, N - first);
    const __mmask16 mask = (1u << used) - 1;
    auto* to = reinterpret_cast<__m512i*>(packed + first * K);
    for (int64_t k = 0; k < K; k += 2) {
      auto row = [&](int64_t i) {
        return i < rows ? _mm512_maskz_loadu_ps(mask, matrix + i * N + first) : _mm512_setzero_ps();
      };
      // Pairs of rows side by side: an even row is the lower half of each pair.
      const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(row(k)));
      const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(row(k + 1)));
      _mm512_store_si512(to++, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }

  // A thread's matrix units are set up between Begin and End.
  static void Begin() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = kTile;
    _tile_loadconfig(&shape);
  }
  static void End() { _tile_release(); }

  static void Convert(const float* from, int64_t count, Half* to) {
    for (; count >= kWidth; from += kWidth, to += kWidth, count -= kWidth) Write(to, Load(from));
    const __mmask16 mask = (1u << count) - 1;
    const __m512 rest = _mm512_maskz_loadu_ps(mask, from);
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(rest));
  }
  static void Write(Half* to, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh((__m512)v));
  }

  static void Multiply(const Half* a, int64_t lda, const Half* packed, int64_t M, int64_t first,
                       int64_t N, int64_t K, const Target& target) {
    const int64_t end = first + Up(N, kTile);
    for (int64_t n = first; n < end; n += 2 * kTile) {
      for (int64_t m = 0; m < M; m += 2 * kTile) {
        const Half* b = packed + n * K;
        if (n + kTile < end) Block<true>(a + m * lda, lda, b, m, M, n, K, target);
        else Block<false>(a + m * lda, lda, b, m, M, n, K, target);
      }
    }
  }

 private:
  template <bool kTwo>  // tiles of columns
  static void Block(const Half* a, int64_t lda, const Half* b, int64_t m, int64_t M, int64_t n,
                    int64_t K, const Target& target) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const bool tall = m + kTile < M;
    for (int64_t k = 0; k < K; k += kTileDepth) {
      _tile_loadd(4, a + k, 2 * lda);
      _tile_loadd(6, b + k * kTile, 4 * kTile);
      _tile_dpbf16ps(0, 4, 6);
      if (kTwo) {
        _tile_loadd(7, b + (K + k) * kTile, 4 * kTile);
        _tile_dpbf16ps(1, 4, 7);
      }
      if (tall) {
        _tile_loadd(5, a + kTile * lda + k, 2 * lda);
        _tile_dpbf16ps(2, 5, 6);
        if (kTwo) _tile_dpbf16ps(3, 5, 7);
      }
    }
    alignas(64) float sums[2 * kTile][2 * kTile];
    constexpr int64_t kStride = sizeof(sums[0]);
    _tile_stored(0, sums[0], kStride);
    if (kTwo) _tile_stored(1, sums[0] + kTile, kStride);
    if (tall) {
      _tile_stored(2, sums[kTile], kStride);
      if (kTwo) _tile_stored(3, sums[kTile] + kTile, kStride);
    }
    for (int64_t r = 0; r < std::min<int64_t>(2 * kTile, M - m); ++r) {
      target.Put(m + r, n, Load(sums[r]));
      if (kTwo) target.Put(m + r, n + kTile, Load(sums[r] + kTile));
    }
  }
};

// Asks the system for the right to use the matrix units.
inline bool MatrixUnits() {
  constexpr int kRequest = 0x1023, kTiles = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTiles) == 0;
}

#else

inline bool MatrixUnits() { return false; }

#endif

}  // namespace

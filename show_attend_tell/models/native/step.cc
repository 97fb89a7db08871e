// What a step does besides its products and scores, on a CPU, for XLA: reading and the LSTM's cell.
//
//   combine   z = sum_l w_l a_l
//   compare   the inner products of d and every a_l: the gradient of `combine` towards w
//   cell      c' = s(f) c + s(i) tanh(g), h = s(o) tanh(c'), with s(x) = 1 / (1 + exp(-x))
//   cell_gradient  of c and of the gates, which recomputes what `cell` did
//
// Annotation vectors are float32 or bfloat16, all else is float32.
// Symbols: B inputs, R rows, L places, D features, H units. Arrays are row-major.

#include "step.h"

namespace {

inline float Value(float x) { return x; }
inline float Value(uint16_t x) {  // bfloat16: the upper half of a float32
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// exp(x) = 2^n 2^f with |f| <= 1/2, and 2^f as a polynomial (relative error 1e-7).
inline float Exp(float x) {
  const float y = std::min(std::max(x * 1.44269504f, -126.0f), 126.0f);
  const int32_t n = static_cast<int32_t>(y + (y < 0 ? -0.5f : 0.5f));
  const float f = y - static_cast<float>(n);
  float p = 1.5403530e-4f;
  p = p * f + 1.33335581e-3f;
  p = p * f + 9.61812911e-3f;
  p = p * f + 5.55041087e-2f;
  p = p * f + 2.40226507e-1f;
  p = p * f + 6.93147181e-1f;
  p = p * f + 1.0f;
  return p * __builtin_bit_cast(float, (n + 127) << 23);
}

inline float Sigmoid(float x) { return Share(Exp(-x)); }
inline float Tanh(float x) { return 1.0f - 2.0f * Share(Exp(2.0f * x)); }

template <int kWidth, typename T>
void CombineBlock(const float* w, const T* a, float* z, int64_t L, int64_t D, int64_t width) {
  const int64_t n = kWidth ? kWidth : width;
  float sum[kBlock] = {0};
  for (int64_t l = 0; l < L; ++l) {
    const T* vector = a + l * D;
    const float weight = w[l];
    for (int64_t d = 0; d < n; ++d) sum[d] += weight * Value(vector[d]);
  }
  for (int64_t d = 0; d < n; ++d) z[d] = sum[d];
}

template <typename T, typename Vectors>
ffi::Error Combine(ffi::ThreadPool pool, Floats weights, Vectors vectors, FloatsOut out) {
  const int64_t B = weights.dimensions()[0], R = weights.dimensions()[1];
  const int64_t L = vectors.dimensions()[1], D = vectors.dimensions()[2];
  const float* w = weights.typed_data();
  const T* a = static_cast<const T*>(vectors.untyped_data());
  float* z = out->typed_data();
  ForEach(pool, B, [=](int64_t b) {
    for (int64_t d = 0; d < D; d += kBlock) {
      auto block = D - d >= kBlock ? CombineBlock<kBlock, T> : CombineBlock<0, T>;
      for (int64_t row = b * R; row < (b + 1) * R; ++row) {
        block(w + row * L, a + b * L * D + d, z + row * D + d, L, D, D - d);
      }
    }
  });
  return ffi::Error::Success();
}

template <typename T, typename Vectors>
ffi::Error Compare(ffi::ThreadPool pool, Floats x, Vectors vectors, FloatsOut out) {
  const int64_t B = x.dimensions()[0], R = x.dimensions()[1];
  const int64_t L = vectors.dimensions()[1], D = vectors.dimensions()[2];
  const float* given = x.typed_data();
  const T* a = static_cast<const T*>(vectors.untyped_data());
  float* products = out->typed_data();
  ForEach(pool, B, [=](int64_t b) {
    for (int64_t l = 0; l < L; ++l) {
      const T* vector = a + (b * L + l) * D;
      for (int64_t row = b * R; row < (b + 1) * R; ++row) {
        float sum = 0;
        for (int64_t d = 0; d < D; ++d) sum += given[row * D + d] * Value(vector[d]);
        products[row * L + l] = sum;
      }
    }
  });
  return ffi::Error::Success();
}

ffi::Error Cell(ffi::ThreadPool pool, Floats c, Floats gates, FloatsOut h_out, FloatsOut c_out) {
  const int64_t rows = c.dimensions()[0] * c.dimensions()[1], H = c.dimensions()[2];
  const float *before = c.typed_data(), *all = gates.typed_data();
  float *h = h_out->typed_data(), *after = c_out->typed_data();
  ForEach(pool, rows, [=](int64_t row) {
    const float *i = all + 4 * row * H, *f = i + H, *o = f + H, *g = o + H;
#pragma GCC ivdep
    for (int64_t u = 0; u < H; ++u) {
      const float now = Sigmoid(f[u]) * before[row * H + u] + Sigmoid(i[u]) * Tanh(g[u]);
      after[row * H + u] = now;
      h[row * H + u] = Sigmoid(o[u]) * Tanh(now);
    }
  });
  return ffi::Error::Success();
}

ffi::Error CellGradient(ffi::ThreadPool pool, Floats c, Floats gates, Floats after, Floats d_h,
                        Floats d_c, FloatsOut d_before, FloatsOut d_gates) {
  const int64_t rows = c.dimensions()[0] * c.dimensions()[1], H = c.dimensions()[2];
  const float *before = c.typed_data(), *all = gates.typed_data(), *now = after.typed_data();
  const float *of_h = d_h.typed_data(), *of_c = d_c.typed_data();
  float *out_c = d_before->typed_data(), *out = d_gates->typed_data();
  ForEach(pool, rows, [=](int64_t row) {
    const float* own = all + 4 * row * H;
    float* d = out + 4 * row * H;
#pragma GCC ivdep
    for (int64_t u = 0; u < H; ++u) {
      const int64_t at = row * H + u;
      const float i = Sigmoid(own[u]), f = Sigmoid(own[H + u]), o = Sigmoid(own[2 * H + u]);
      const float g = Tanh(own[3 * H + u]), t = Tanh(now[at]);
      const float d_now = of_c[at] + of_h[at] * o * (1 - t * t);
      out_c[at] = d_now * f;
      d[u] = d_now * g * i * (1 - i);
      d[H + u] = d_now * before[at] * f * (1 - f);
      d[2 * H + u] = of_h[at] * t * o * (1 - o);
      d[3 * H + u] = d_now * i * (1 - g * g);
    }
  });
  return ffi::Error::Success();
}

constexpr auto CombineFloats = Combine<float, Floats>;
constexpr auto CombineHalves = Combine<uint16_t, Halves>;
constexpr auto CompareFloats = Compare<float, Floats>;
constexpr auto CompareHalves = Compare<uint16_t, Halves>;

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    combine_float32, CombineFloats,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    combine_bfloat16, CombineHalves,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Halves>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    compare_float32, CompareFloats,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Floats>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    compare_bfloat16, CompareHalves,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Floats>().Arg<Halves>().Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cell, Cell,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cell_gradient, CellGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>());

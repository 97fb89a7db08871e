// Sums over rows for the gradient of additive scores towards keys and v, on a CPU, for XLA.
//
// With k = exp(2 U a), q = exp(2 W h) and r = 1 / (1 + k q): of each place and unit the sums over rows
// of d_e r (1 - r) and, over places too, of d_e r.
// XLA divides; this multiplies by an approximate reciprocal, refined once to float32's precision.
//
// Symbols: B inputs, R rows, L places, A units. Arrays are row-major.

#include "activations.h"
#include "for_each.h"

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32, 3>;
using FloatsOut = ffi::Result<Floats>;
using Matrix = ffi::Buffer<ffi::F32, 2>;
using MatrixOut = ffi::Result<Matrix>;

namespace {

template <int kWidth>
void MemoryBlock(const float* key, const float* q, const float* d, float* keys_out, float* v_out,
                 int64_t R, int64_t L, int64_t A, int64_t width) {
  const int64_t n = kWidth ? kWidth : width;
  float of_key[kBlock] = {0}, of_v[kBlock] = {0};
  for (int64_t row = 0; row < R; ++row) {
    const float *query = q + row * A, d_score = d[row * L];
    for (int64_t a = 0; a < n; ++a) {
      const float r = Share(key[a] * query[a]), term = d_score * r;
      of_v[a] += term;
      of_key[a] += term - term * r;
    }
  }
  for (int64_t a = 0; a < n; ++a) keys_out[a] = of_key[a];
  for (int64_t a = 0; a < n; ++a) v_out[a] += of_v[a];
}

ffi::Error Memory(ffi::ThreadPool pool, Floats query, Floats keys, Floats d_scores,
                  FloatsOut of_keys, MatrixOut of_v) {
  const int64_t B = query.dimensions()[0], R = query.dimensions()[1], A = query.dimensions()[2];
  const int64_t L = keys.dimensions()[1];
  const float *q = query.typed_data(), *k = keys.typed_data(), *d = d_scores.typed_data();
  float *key_sums = of_keys->typed_data(), *v_sums = of_v->typed_data();
  ForEach(pool, B, [=](int64_t b) {
    std::fill(v_sums + b * A, v_sums + (b + 1) * A, 0.0f);
    for (int64_t a = 0; a < A; a += kBlock) {
      for (int64_t l = 0; l < L; ++l) {
        const int64_t place = (b * L + l) * A + a;
        auto block = A - a >= kBlock ? MemoryBlock<kBlock> : MemoryBlock<0>;
        block(k + place, q + b * R * A + a, d + b * R * L + l, key_sums + place,
              v_sums + b * A + a, R, L, A, A - a);
      }
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(memory, Memory,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Matrix>());

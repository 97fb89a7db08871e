// Inverted residual blocks and the first convolution of EfficientNet-Lite on a CPU, for XLA;
// `models.native` builds and registers them.
//
// A block expands the channels of a pixel, convolves each channel, and projects them:
//   h = ReLU6(x We + be), d = ReLU6(depthwise(h) + bd), y = d Wp + bp (+ x)
// XLA writes every intermediate map to memory, several times. Here a band of rows passes through
// the whole block while it is in the cache. Padding is TensorFlow's SAME.
//
// Symbols: B images of h x w pixels, I, E and O channels, k side of a kernel, i x j pixels of a
// result. Arrays are row-major, channels last. A plane holds kWidth channels of a band's pixels.

#include <cstdint>

#include "for_each.h"
#include "matrix_product.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Maps = ffi::Buffer<ffi::F32, 4>;
using MapsOut = ffi::Result<Maps>;
using Cube = ffi::Buffer<ffi::F32, 3>;
using Matrix = ffi::Buffer<ffi::F32, 2>;
using Bias = ffi::Buffer<ffi::F32, 1>;

namespace {

constexpr int64_t kPlanes = 2 * kPanel;       // of the expanded map at a time
constexpr int64_t kBandBytes = 512 * 1024;  // of those planes: half of a usual second-level cache

struct Side {  // of a map under a kernel
  int64_t in, out, before;
  Side(int64_t size, int64_t k, int64_t stride) : in(size), out((size + stride - 1) / stride) {
    before = std::max<int64_t>((out - 1) * stride + k - in, 0) / 2;
  }
};

struct Block {
  int64_t B, I, E, O, k, stride;
  Side tall, wide;
  const float *x, *kernel, *depthwise_bias;
  bool expands, residual;
  float* y;
  // Set by Run.
  int64_t width = 0, rows = 0, bands = 0;  // padded pixels of a row; output rows of a band
  const float *expand_bias = nullptr, *project_bias = nullptr;
};

// The band's input rows that exist, `from` up to `to`; `top` is where the kernel starts.
struct Rows {
  int64_t first, count, top, from, to, padded;
  Rows(const Block& s, int64_t band) {
    first = band * s.rows;
    count = std::min(s.rows, s.tall.out - first);
    top = first * s.stride - s.tall.before;
    padded = (count - 1) * s.stride + s.k;
    from = std::max<int64_t>(top, 0);
    to = std::min(top + padded, s.tall.in);
  }
};

void ZeroBorder(const Block& s, const Rows& rows, float* plane) {
  const int64_t line = s.width * kWidth;
  std::fill_n(plane, (rows.from - rows.top) * line, 0.0f);
  for (int64_t i = rows.from - rows.top; i < rows.to - rows.top; ++i) {
    float* begin = plane + i * line;
    std::fill_n(begin, s.wide.before * kWidth, 0.0f);
    std::fill(begin + (s.wide.before + s.wide.in) * kWidth, begin + line, 0.0f);
  }
  std::fill(plane + (rows.to - rows.top) * line, plane + rows.padded * line, 0.0f);
}

void CopyPlane(const Block& s, const Rows& rows, const float* image, int64_t c, float* plane) {
  const int64_t used = std::min<int64_t>(kWidth, s.I - c);
  for (int64_t i = rows.from; i < rows.to; ++i) {
    float* to = plane + ((i - rows.top) * s.width + s.wide.before) * kWidth;
    const float* pixel = image + i * s.wide.in * s.I + c;
    for (int64_t j = 0; j < s.wide.in; ++j, pixel += s.I, to += kWidth) {
      if (used == kWidth) {
        Store(to, Load(pixel));
      } else {
        for (int64_t n = 0; n < kWidth; ++n) to[n] = n < used ? pixel[n] : 0.0f;
      }
    }
  }
}

template <typename Format, int k, int stride>
void Depthwise(const Block& s, const Rows& rows, const float* plane, const float* kernel,
               Vector bias, int64_t pitch, typename Format::Number* to) {
  Vector taps[k * k];
#pragma GCC unroll 32
  for (int t = 0; t < k * k; ++t) taps[t] = Load(kernel + t * kWidth);
  for (int64_t i = 0; i < rows.count; ++i) {
    const float* line = plane + i * stride * s.width * kWidth;
    for (int64_t j = 0; j < s.wide.out; ++j, to += pitch, line += stride * kWidth) {
      Vector sum = bias;
#pragma GCC unroll 8
      for (int p = 0; p < k; ++p) {
#pragma GCC unroll 8
        for (int q = 0; q < k; ++q) sum += taps[p * k + q] * Load(line + (p * s.width + q) * kWidth);
      }
      Format::Write(to, Relu6(sum));
    }
  }
}

template <typename Format>
void Band(const Block& s, int64_t item, const typename Format::Number* expand,
          const typename Format::Number* project) {
  using Number = typename Format::Number;
  static thread_local Kept<float> kept_planes, kept_taps;
  static thread_local Kept<Number> kept_input, kept_deep;
  static thread_local Kept<int32_t> kept_places;
  const int64_t b = item / s.bands, channels = Up(s.E, kWidth);
  const Rows rows(s, item % s.bands);
  const float* image = s.x + b * s.tall.in * s.wide.in * s.I;
  const int64_t M = (rows.to - rows.from) * s.wide.in, results = rows.count * s.wide.out;
  const int64_t plane = rows.padded * s.width * kWidth;
  const int64_t depth = Up(s.I, Format::kDepth), pitch = Up(channels, Format::kDepth);
  float* planes = kept_planes.At(kPlanes * plane);
  float* taps = kept_taps.At(s.k * s.k * kWidth + kWidth);
  int32_t* places = kept_places.At(std::max(M, results));
  Number* deep = kept_deep.At(Up(results, 2 * kTile) * pitch);
  const Number* input = nullptr;
  if (s.expands) {
    for (int64_t m = 0; m < M; ++m) {
      const int64_t i = m / s.wide.in + rows.from - rows.top, j = m % s.wide.in + s.wide.before;
      places[m] = (i * s.width + j) * kWidth;
    }
    const float* first = image + rows.from * s.wide.in * s.I;
    if constexpr (Format::kDepth == 1) {
      input = first;
    } else {
      Number* to = kept_input.At(Up(M, 2 * kTile) * depth);
      for (int64_t m = 0; m < M; ++m) {
        Format::Convert(first + m * s.I, s.I, to + m * depth);
        std::fill(to + m * depth + s.I, to + (m + 1) * depth, Number(0));
      }
      input = to;
    }
  }
  for (int64_t p = 0; p < kPlanes; ++p) ZeroBorder(s, rows, planes + p * plane);
  Format::Begin();
  for (int64_t c = 0; c < channels; c += kPlanes * kWidth) {
    const int64_t now = std::min(kPlanes * kWidth, channels - c);
    if (s.expands) {
      // A target counts its columns from the first.
      const Target target{planes - c / kWidth * plane, places, plane, s.expand_bias, nullptr,
                          channels, true};
      Format::Multiply(input, depth, expand, M, c, now, depth, target);
    }
    for (int64_t n = 0; n < now; n += kWidth) {
      float* here = planes + n / kWidth * plane;
      const int64_t used = std::min<int64_t>(kWidth, s.E - c - n);
      if (!s.expands) CopyPlane(s, rows, image, c + n, here);
      std::fill_n(taps, (s.k * s.k + 1) * kWidth, 0.0f);
      for (int64_t t = 0; t < s.k * s.k; ++t) {
        std::copy_n(s.kernel + t * s.E + c + n, used, taps + t * kWidth);
      }
      std::copy_n(s.depthwise_bias + c + n, used, taps + s.k * s.k * kWidth);
      const Vector bias = Load(taps + s.k * s.k * kWidth);
      auto convolve = s.k == 3 ? (s.stride == 1 ? Depthwise<Format, 3, 1> : Depthwise<Format, 3, 2>)
                               : (s.stride == 1 ? Depthwise<Format, 5, 1> : Depthwise<Format, 5, 2>);
      convolve(s, rows, here, taps, bias, pitch, deep + c + n);
    }
  }
  for (int64_t m = 0; pitch > channels && m < results; ++m) {
    std::fill(deep + m * pitch + channels, deep + (m + 1) * pitch, Number(0));
  }
  for (int64_t m = 0; m < results; ++m) places[m] = m * s.O;
  const int64_t start = (b * s.tall.out + rows.first) * s.wide.out * s.O;
  const Target target{s.y + start, places, kWidth, s.project_bias, s.residual ? s.x + start : nullptr,
                      s.O, false};
  Format::Multiply(deep, pitch, project, results, 0, s.O, pitch, target);
  Format::End();
}

template <typename Format>
void Run(ffi::ThreadPool& pool, Block s, Matrix& expand, Bias& expand_bias, Matrix& project,
         Bias& project_bias) {
  using Number = typename Format::Number;
  static thread_local Kept<Number> kept_weights;
  static thread_local Kept<float> kept_biases;
  const int64_t channels = Up(s.E, kWidth);
  s.width = std::max(s.wide.in + s.wide.before, (s.wide.out - 1) * s.stride + s.k);
  // The most rows whose planes fit, in bands of equal size, and work for every thread.
  const int64_t line = std::min(kPlanes, channels / kWidth) * s.width * kWidth * sizeof(float);
  const int64_t fit = std::max<int64_t>((kBandBytes / line - s.k) / s.stride + 1, 1);
  s.bands = std::max((s.tall.out + fit - 1) / fit, (pool.num_threads() + s.B - 1) / s.B);
  s.rows = (s.tall.out + s.bands - 1) / s.bands;
  s.bands = (s.tall.out + s.rows - 1) / s.rows;
  const int64_t depth = Up(s.I, Format::kDepth), pitch = Up(channels, Format::kDepth);
  const int64_t of_expand = s.expands ? Format::PackedSize(depth, channels) : 0;
  Number* weights = kept_weights.At(of_expand + Format::PackedSize(pitch, s.O));
  float* biases = kept_biases.At(channels + Up(s.O, kWidth));
  std::fill_n(biases, channels + Up(s.O, kWidth), 0.0f);
  if (s.expands) std::copy_n(expand_bias.typed_data(), s.E, biases);
  std::copy_n(project_bias.typed_data(), s.O, biases + channels);
  s.expand_bias = biases, s.project_bias = biases + channels;
  const int64_t panels = s.expands ? Format::Panels(s.E) : 0;
  const float *plain_expand = expand.typed_data(), *plain_project = project.typed_data();
  ForEach(pool, panels + Format::Panels(s.O), [=](int64_t i) {
    if (i < panels) Format::Pack(plain_expand, s.I, depth, s.E, i, weights);
    else Format::Pack(plain_project, s.E, pitch, s.O, i - panels, weights + of_expand);
  });
  ForEach(pool, s.B * s.bands,
          [=](int64_t item) { Band<Format>(s, item, weights, weights + of_expand); });
}

ffi::Error InvertedResidual(ffi::ThreadPool pool, Maps x, Matrix expand, Bias expand_bias,
                            Cube kernel, Bias bias, Matrix project, Bias project_bias, MapsOut y,
                            int64_t stride, bool residual, bool bfloat16) {
  auto size = x.dimensions();
  const int64_t k = kernel.dimensions()[0], I = size[3], E = kernel.dimensions()[2];
  const Block s{size[0], I, E, project.dimensions()[1], k, stride, Side(size[1], k, stride),
                Side(size[2], k, stride), x.typed_data(), kernel.typed_data(), bias.typed_data(),
                expand.element_count() > 0, residual, y->typed_data()};
#if MATRIX_UNITS
  if (bfloat16) {
    Run<Brain>(pool, s, expand, expand_bias, project, project_bias);
    return ffi::Error::Success();
  }
#endif
  if (bfloat16) return ffi::Error::InvalidArgument("no matrix units");
  Run<Single>(pool, s, expand, expand_bias, project, project_bias);
  return ffi::Error::Success();
}

// Writes the k x k pixels under each place of an output row side by side. A line of a patch is
// copied as a whole vector: what it writes too much, the next line overwrites.
void Patches(const float* x, int64_t numbers, int64_t image, int64_t top, const Side& tall,
             const Side& wide, int64_t k, int64_t stride, int64_t I, float* patch) {
  for (int64_t j = 0; j < wide.out; ++j) {
    const int64_t left = j * stride - wide.before;
    const int64_t from = std::max<int64_t>(left, 0), to = std::min(left + k, wide.in);
    for (int64_t i = top; i < top + k; ++i, patch += k * I) {
      const int64_t line = image + i * wide.in * I, start = line + left * I;
      const bool inside = i >= 0 && i < tall.in;
      if (inside && to - from == k && k * I <= kWidth && start + kWidth <= numbers) {
        Store(patch, Load(x + start));
        continue;
      }
      std::fill_n(patch, k * I, 0.0f);
      if (inside) std::copy(x + line + from * I, x + line + to * I, patch + (from - left) * I);
    }
  }
}

// A convolution with few input channels, then ReLU6: a product with a matrix of patches.
ffi::Error Stem(ffi::ThreadPool pool, Maps x, Maps kernel, Bias bias, MapsOut y, int64_t stride) {
  static thread_local Kept<float> kept_weights, kept_biases;
  const int64_t B = x.dimensions()[0], I = x.dimensions()[3], O = kernel.dimensions()[3];
  const int64_t k = kernel.dimensions()[0], K = k * k * I, numbers = x.element_count();
  const Side tall(x.dimensions()[1], k, stride), wide(x.dimensions()[2], k, stride);
  float* weights = kept_weights.At(Single::PackedSize(K, O));
  float* biases = kept_biases.At(Up(O, kWidth));
  std::fill_n(biases, Up(O, kWidth), 0.0f);
  std::copy_n(bias.typed_data(), O, biases);
  for (int64_t p = 0; p < Single::Panels(O); ++p) {
    Single::Pack(kernel.typed_data(), K, K, O, p, weights);
  }
  const float* pixels = x.typed_data();
  float* out = y->typed_data();
  ForEach(pool, B * tall.out, [=](int64_t item) {
    static thread_local Kept<float> kept_patches;
    static thread_local Kept<int32_t> kept_places;
    const int64_t image = item / tall.out * tall.in * wide.in * I;
    float* patches = kept_patches.At(wide.out * K + kWidth);
    int32_t* places = kept_places.At(wide.out);
    for (int64_t j = 0; j < wide.out; ++j) places[j] = j * O;
    const int64_t top = item % tall.out * stride - tall.before;
    Patches(pixels, numbers, image, top, tall, wide, k, stride, I, patches);
    const Target target{out + item * wide.out * O, places, kWidth, biases, nullptr, O, true};
    Single::Multiply(patches, K, weights, wide.out, 0, O, K, target);
  });
  return ffi::Error::Success();
}

}  // namespace

extern "C" bool matrix_units() { return MatrixUnits(); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(inverted_residual, InvertedResidual,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Maps>()
                                  .Arg<Matrix>()
                                  .Arg<Bias>()
                                  .Arg<Cube>()
                                  .Arg<Bias>()
                                  .Arg<Matrix>()
                                  .Arg<Bias>()
                                  .Ret<Maps>()
                                  .Attr<int64_t>("stride")
                                  .Attr<bool>("residual")
                                  .Attr<bool>("bfloat16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(stem, Stem,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Maps>()
                                  .Arg<Maps>()
                                  .Arg<Bias>()
                                  .Ret<Maps>()
                                  .Attr<int64_t>("stride"));

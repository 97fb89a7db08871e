// The recurrence over given captions, and its gradient, on a CPU, for XLA: `models.recurrence` with
// additive scores, or with nothing to attend to.
//
//   q = exp(2 W h_{t-1}), e_l = v^T (1 - 2 / (1 + k_l q)), alpha = softmax(e)
//   z = beta sum_l w_l a_l, beta = s(b^T h_{t-1} + b_0); w is alpha or, in hard attention, one place
//   (i, f, o, g) = s, s, s, tanh of M [h_{t-1}; z] + what the word adds
//   c_t = f c_{t-1} + i g, h_t = o tanh(c_t)
//
// XLA's loop computes each product on one thread and copies what it stores. Here all steps are one
// call. The weights are packed once, and each thread multiplies by its own columns at every step,
// so that they stay in its cache.
//
// Symbols: T steps, B inputs, R rows, N = B R, L places, A units, D features, H units of the LSTM.
// Arrays are row-major; what has no numbers (L, D or the gate's weights) is absent.

#include <cmath>

#include "activations.h"
#include "crew.h"
#include "packed.h"

namespace ffi = xla::ffi;

namespace {

inline float Value(float x) { return x; }
inline float Value(Half x) {  // bfloat16: the upper half of a float32
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// What both directions know; `Number` is that of products and annotation vectors.
template <typename Number>
struct Steps {
  int64_t T, B, R, N, L, A, D, H;
  bool gate, hard;
  const bool* starts;     // (T, N)
  const float *h0, *c0;   // (B, H)
  const Number* matrix;   // M: (H + D, 4 H)
  const Number* query;    // W: (H, A)
  const float *gate_weights, *gate_bias, *v;  // b: (H), b_0, (A)
  const float* keys;      // k = exp(2 U a): (B, L, A)
  const Number* a;        // (B, L, D)
  const bool* allowed;    // (B, L)
  const bool* expected;   // (N): rows that read as soft attention does
  // Of all steps.
  float *gates;           // activated: (T, N, 4 H)
  float *h, *c;           // (T, N, H)
  float *q;               // (T, N, A)
  float *log_alpha;       // (T, N, L)
  float *beta;            // (T, N)
  int32_t* location;      // (T, N)

  bool Begins(int64_t t, int64_t n) const { return t == 0 || starts[t * N + n]; }
  // h or c before a step.
  const float* Before(const float* x, const float* x0, int64_t t, int64_t n) const {
    return Begins(t, n) ? x0 + n / R * H : x + ((t - 1) * N + n) * H;
  }
  bool Soft(int64_t n) const { return !hard || expected[n]; }
};

constexpr float kLargestQuery = 40;  // see `models.attention`
constexpr float kNever = 1e9f;  // so unlikely is a place that may not be read

template <int kSize, typename Number>
void SumBlock(const float* w, const Number* a, float* z, int64_t L, int64_t D, int64_t size) {
  const int64_t n = kSize ? kSize : size;
  float sum[kBlock] = {0};
  for (int64_t l = 0; l < L; ++l) {
    const Number* vector = a + l * D;
    const float weight = w[l];
    for (int64_t d = 0; d < n; ++d) sum[d] += weight * Value(vector[d]);
  }
  for (int64_t d = 0; d < n; ++d) z[d] = sum[d];
}

// The sum of L vectors of D numbers with weights.
template <typename Number>
void Sum(const float* w, const Number* a, float* z, int64_t L, int64_t D) {
  for (int64_t d = 0; d < D; d += kBlock) {
    auto block = D - d >= kBlock ? SumBlock<kBlock, Number> : SumBlock<0, Number>;
    block(w, a + d, z + d, L, D, D - d);
  }
}

template <typename Number>
float Inner(const float* x, const Number* y, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * Value(y[i]);
  return sum;
}

template <typename Format>
class Forward {
 public:
  using Number = typename Format::Number;

  Forward(Crew& crew, const Steps<Number>& s, const float* words, const float* noise, float* z)
      : crew_(crew), s_(s), words_(words), noise_(noise), z_(z),
        padded_(Up(s.H, Format::kColumns)),  // each gate's columns begin a panel
        query_(crew, s.H, s.A, [&s](int64_t n) {
          return Part<Number>{s.query + n, s.A - n, s.A, 1};
        }),
        matrix_(crew, s.H + s.D, 4 * padded_, [&s, this](int64_t n) {
          const int64_t gate = n / padded_, u = n % padded_;
          return Part<Number>{s.matrix + gate * s.H + u, s.H - u, 4 * s.H, 1};
        }),
        inputs_{{s.N, s.H + s.D}, {s.N, s.H + s.D}} {}

  void Run() {
    for (int64_t n = 0; n < s_.N; ++n) {
      Format::Convert(s_.h0 + n / s_.R * s_.H, s_.H, inputs_[0][n]);
    }
    for (int64_t t = 0; t < s_.T; ++t) {
      if (s_.L) {
        Columns<Format>(crew_, s_.A, [&](int64_t first, int64_t count) { Ask(t, first, count); });
        crew_.Share(s_.B, [&](int64_t b) {
          for (int64_t n = b * s_.R; n < (b + 1) * s_.R; ++n) Attend(t, n);
        });
      }
      Columns<Format>(crew_, s_.H, [&](int64_t first, int64_t count) { Update(t, first, count); });
    }
  }

 private:
  // q of some units.
  void Ask(int64_t t, int64_t first, int64_t count) {
    float* q = s_.q + t * s_.N * s_.A + first;
    query_.Multiply(inputs_[t % 2], first, count, q, s_.A);
    for (int64_t n = 0; n < s_.N; ++n, q += s_.A) {
      for (int64_t a = 0; a < count; ++a) {
        q[a] = Exp(2.0f * std::min(std::max(q[a], -kLargestQuery), kLargestQuery));
      }
    }
  }

  void Attend(int64_t t, int64_t n) {
    static thread_local Kept<float> kept;
    const int64_t b = n / s_.R, L = s_.L, at = t * s_.N + n;
    float *w = kept.At(L), *log_alpha = s_.log_alpha + at * L, *z = z_ + at * s_.D;
    Weigh(b, s_.q + at * s_.A, log_alpha, w);
    int64_t place = 0;
    const float* noise = s_.hard ? noise_ + at * L : nullptr;
    auto drawn = [&](int64_t l) { return log_alpha[l] + (noise ? noise[l] : 0.0f); };
    for (int64_t l = 1; l < L; ++l) {
      if (drawn(l) > drawn(place)) place = l;
    }
    s_.location[at] = place;
    const Number* a = s_.a + b * L * s_.D;
    if (s_.Soft(n)) {
      Sum(w, a, z, L, s_.D);
    } else {
      for (int64_t d = 0; d < s_.D; ++d) z[d] = Value(a[place * s_.D + d]);
    }
    float beta = 1;
    if (s_.gate) {
      const float* h = s_.Before(s_.h, s_.h0, t, n);
      beta = Sigmoid(Inner(h, s_.gate_weights, s_.H) + *s_.gate_bias);
    }
    s_.beta[at] = beta;
    for (int64_t d = 0; d < s_.D; ++d) z[d] *= beta;
    Format::Convert(z, s_.D, inputs_[t % 2][n] + s_.H);
  }

  // log alpha, and alpha, which is exactly 0 where it must be.
  void Weigh(int64_t b, const float* q, float* log_alpha, float* alpha) const {
    const int64_t L = s_.L, A = s_.A;
    const bool* allowed = s_.allowed + b * L;
    float total = 0, largest = -kNever;
    for (int64_t u = 0; u < A; ++u) total += s_.v[u];
    for (int64_t l = 0; l < L; ++l) {
      const float* k = s_.keys + (b * L + l) * A;
      float sum = 0;
      for (int64_t u = 0; u < A; ++u) sum += s_.v[u] * Share(k[u] * q[u]);
      log_alpha[l] = allowed[l] ? total - 2 * sum : -kNever;
      largest = std::max(largest, log_alpha[l]);
    }
    float sum = 0;
    for (int64_t l = 0; l < L; ++l) sum += alpha[l] = allowed[l] ? Exp(log_alpha[l] - largest) : 0;
    const float log_sum = largest + std::log(sum);
    for (int64_t l = 0; l < L; ++l) log_alpha[l] -= log_sum, alpha[l] /= sum;
  }

  // Gates, c and h of some units, and the h that the next step multiplies.
  void Update(int64_t t, int64_t first, int64_t count) {
    static thread_local Kept<float> kept;
    float* sums = kept.At(4 * s_.N * count);
    for (int64_t gate = 0; gate < 4; ++gate) {
      matrix_.Multiply(inputs_[t % 2], gate * padded_ + first, count, sums + gate * count,
                       4 * count);
    }
    for (int64_t n = 0; n < s_.N; ++n, sums += 4 * count) {
      const int64_t at = t * s_.N + n;
      const float *word = words_ + 4 * at * s_.H + first;
      const float* before = s_.Before(s_.c, s_.c0, t, n) + first;
      float* gates = s_.gates + 4 * at * s_.H + first;
      float *c = s_.c + at * s_.H + first, *h = s_.h + at * s_.H + first;
#pragma GCC ivdep
      for (int64_t u = 0; u < count; ++u) {
        const float i = Sigmoid(sums[u] + word[u]);
        const float f = Sigmoid(sums[count + u] + word[s_.H + u]);
        const float o = Sigmoid(sums[2 * count + u] + word[2 * s_.H + u]);
        const float g = Tanh(sums[3 * count + u] + word[3 * s_.H + u]);
        gates[u] = i, gates[s_.H + u] = f, gates[2 * s_.H + u] = o, gates[3 * s_.H + u] = g;
        c[u] = f * before[u] + i * g;
        h[u] = o * Tanh(c[u]);
      }
      if (t + 1 == s_.T) continue;
      const float* next = s_.Before(s_.h, s_.h0, t + 1, n) + first;
      Format::Convert(next, count, inputs_[(t + 1) % 2][n] + first);
    }
  }

  Crew& crew_;
  const Steps<Number> s_;
  const float *words_, *noise_;
  float* z_;
  const int64_t padded_;
  Packed<Format> query_, matrix_;
  Rows<Format> inputs_[2];
};

// Gradients towards what the loop produces.
struct Given {
  const float *h, *z, *log_alpha, *beta;  // (T, N, ..)
};

// Gradients towards sums: each gate, W h, the gate beta's, scores, contexts; and initial states.
struct Sought {
  float *gates, *query, *beta, *scores, *context;  // (T, N, ..)
  float *h0, *c0;                                  // (B, H)
};

template <typename Format>
class Backward {
 public:
  using Number = typename Format::Number;

  Backward(Crew& crew, const Steps<Number>& s, const Given& given, const Sought& sought)
      : crew_(crew), s_(s), given_(given), to_(sought),
        query_(crew, s.A, s.H, [&s](int64_t n) {
          return Part<Number>{s.query + n * s.A, s.H - n, 1, s.A};
        }),
        matrix_(crew, 4 * s.H, s.H + s.D, [&s](int64_t n) {
          return Part<Number>{s.matrix + 4 * n * s.H, s.H + s.D - n, 1, 4 * s.H};
        }),
        d_gates_(s.N, 4 * s.H), d_query_(s.N, s.A) {
    d_inputs_ = kept_[0].At(s.N * (s.H + s.D));
    d_h_ = kept_[1].At(s.N * s.H);
    d_c_ = kept_[2].At(s.N * s.H);
    std::fill_n(to_.h0, s.B * s.H, 0.0f);
    std::fill_n(to_.c0, s.B * s.H, 0.0f);
  }

  void Run() {
    Columns<Format>(crew_, s_.H, [&](int64_t first, int64_t count) {
      if (s_.T) OfCell(s_.T - 1, first, count);
    });
    for (int64_t t = s_.T - 1; t >= 0; --t) {
      Columns<Format>(crew_, s_.H + s_.D, [&](int64_t first, int64_t count) {
        matrix_.Multiply(d_gates_, first, count, d_inputs_ + first, s_.H + s_.D);
      });
      if (s_.L) {
        crew_.Share(s_.B, [&](int64_t b) {
          for (int64_t n = b * s_.R; n < (b + 1) * s_.R; ++n) OfAttention(t, n);
        });
      }
      Columns<Format>(crew_, s_.H, [&](int64_t first, int64_t count) {
        OfState(t, first, count);
        if (t) OfCell(t - 1, first, count);
      });
    }
  }

 private:
  // From d_h and d_c of some units after a step to the gates and to c before it.
  void OfCell(int64_t t, int64_t first, int64_t count) {
    for (int64_t n = 0; n < s_.N; ++n) {
      const int64_t at = t * s_.N + n, unit = n * s_.H + first;
      const float* gates = s_.gates + 4 * at * s_.H + first;
      const float *c = s_.c + at * s_.H + first, *given = given_.h + at * s_.H + first;
      const float* before = s_.Before(s_.c, s_.c0, t, n) + first;
      float *d_h = d_h_ + unit, *d_c = d_c_ + unit, *out = to_.gates + 4 * at * s_.H + first;
#pragma GCC ivdep
      for (int64_t u = 0; u < count; ++u) {
        const float i = gates[u], f = gates[s_.H + u];
        const float o = gates[2 * s_.H + u], g = gates[3 * s_.H + u];
        const float tanh = Tanh(c[u]), d = d_h[u] + given[u];
        const float d_now = d_c[u] + d * o * (1 - tanh * tanh);
        d_c[u] = d_now * f;
        out[u] = d_now * g * i * (1 - i);
        out[s_.H + u] = d_now * before[u] * f * (1 - f);
        out[2 * s_.H + u] = d * tanh * o * (1 - o);
        out[3 * s_.H + u] = d_now * i * (1 - g * g);
      }
      for (int64_t gate = 0; gate < 4; ++gate) {
        const int64_t place = gate * s_.H + first;
        Format::Convert(to_.gates + 4 * at * s_.H + place, count, d_gates_[n] + place);
      }
      if (s_.Begins(t, n)) Begin(d_c, to_.c0 + n / s_.R * s_.H + first, count);
    }
  }

  // From some units of W h, beta and the inputs to h before a step.
  void OfState(int64_t t, int64_t first, int64_t count) {
    if (s_.L) query_.Multiply(d_query_, first, count, d_h_ + first, s_.H);
    for (int64_t n = 0; n < s_.N; ++n) {
      float* d_h = d_h_ + n * s_.H + first;
      const float* d = d_inputs_ + n * (s_.H + s_.D) + first;
      for (int64_t u = 0; u < count; ++u) d_h[u] = (s_.L ? d_h[u] : 0.0f) + d[u];
      if (s_.gate) {
        const float d_beta = to_.beta[t * s_.N + n];
        for (int64_t u = 0; u < count; ++u) d_h[u] += d_beta * s_.gate_weights[first + u];
      }
      if (s_.Begins(t, n)) Begin(d_h, to_.h0 + n / s_.R * s_.H + first, count);
    }
  }

  // A sequence begins here: the gradient goes to the initial state, none to the step before.
  static void Begin(float* d, float* initial, int64_t count) {
    for (int64_t u = 0; u < count; ++u) initial[u] += d[u], d[u] = 0;
  }

  // From z to beta, the scores and W h.
  void OfAttention(int64_t t, int64_t n) {
    static thread_local Kept<float> kept;
    const int64_t b = n / s_.R, at = t * s_.N + n, L = s_.L, D = s_.D;
    const float *log_alpha = s_.log_alpha + at * L, *from = d_inputs_ + n * (s_.H + D) + s_.H;
    const float beta = s_.beta[at];
    float *inner = kept.At(2 * L), *alpha = inner + L, *d_z = to_.context + at * D;
    for (int64_t d = 0; d < D; ++d) d_z[d] = from[d] + given_.z[at * D + d];
    for (int64_t l = 0; l < L; ++l) inner[l] = Inner(d_z, s_.a + (b * L + l) * D, D);
    for (int64_t d = 0; d < D; ++d) d_z[d] *= beta;  // now towards the context
    float d_beta = given_.beta[at];
    for (int64_t l = 0; l < L; ++l) alpha[l] = s_.allowed[b * L + l] ? Exp(log_alpha[l]) : 0;
    if (s_.Soft(n)) {
      for (int64_t l = 0; l < L; ++l) d_beta += alpha[l] * inner[l];
    } else {
      d_beta += inner[s_.location[at]];
    }
    to_.beta[at] = d_beta * beta * (1 - beta);
    OfScores(n, at, inner, alpha);
  }

  void OfScores(int64_t n, int64_t at, const float* inner, const float* alpha) {
    const int64_t b = n / s_.R, L = s_.L, A = s_.A;
    float* d_scores = to_.scores + at * L;
    const float read = s_.Soft(n) ? s_.beta[at] : 0.0f;
    float total = 0;
    for (int64_t l = 0; l < L; ++l) {
      d_scores[l] = given_.log_alpha[at * L + l] + read * alpha[l] * inner[l];
      total += d_scores[l];
    }
    for (int64_t l = 0; l < L; ++l) {
      d_scores[l] = s_.allowed[b * L + l] ? d_scores[l] - total * alpha[l] : 0.0f;
    }
    float* d_query = to_.query + at * A;
    for (int64_t u = 0; u < A; u += kBlock) {
      auto block = A - u >= kBlock ? QueryBlock<kBlock> : QueryBlock<0>;
      block(s_.keys + b * L * A + u, s_.q + at * A + u, d_scores, s_.v + u, d_query + u, L, A,
            A - u);
    }
    Format::Convert(d_query, A, d_query_[n]);
  }

  // With r = 1 / (1 + k q), a score's derivative by W h is 4 v r (1 - r).
  template <int kSize>
  static void QueryBlock(const float* k, const float* q, const float* d, const float* v, float* out,
                         int64_t L, int64_t A, int64_t size) {
    const int64_t n = kSize ? kSize : size;
    float sum[kBlock] = {0};
    for (int64_t l = 0; l < L; ++l) {
      const float *key = k + l * A, d_score = d[l];
      for (int64_t u = 0; u < n; ++u) {
        const float r = Share(key[u] * q[u]);
        sum[u] += d_score * (r - r * r);
      }
    }
    for (int64_t u = 0; u < n; ++u) out[u] = 4 * v[u] * sum[u];
  }

  Crew& crew_;
  const Steps<Number> s_;
  const Given given_;
  const Sought to_;
  Packed<Format> query_, matrix_;
  Rows<Format> d_gates_, d_query_;
  Kept<float> kept_[3];
  float *d_inputs_, *d_h_, *d_c_;
};

class Arrays {
 public:
  Arrays(ffi::RemainingArgs given, ffi::RemainingRets made) : given_(given), made_(made) {}
  bool AreValid(size_t given, size_t made) const {
    return given_.size() == given && made_.size() == made;
  }
  ffi::AnyBuffer Buffer(size_t i) const { return *given_.get<ffi::AnyBuffer>(i); }
  template <typename T = float>
  T* In(size_t i) const { return static_cast<T*>(Buffer(i).untyped_data()); }
  template <typename T = float>
  T* Out(size_t i) const {
    return static_cast<T*>((*made_.get<ffi::AnyBuffer>(i))->untyped_data());
  }

 private:
  ffi::RemainingArgs given_;
  ffi::RemainingRets made_;
};

// The arguments that both directions begin with; `like` is the one of shape (T, B, R, 4 H).
template <typename Number>
Steps<Number> Common(const Arrays& x, size_t like) {
  const auto shape = x.Buffer(like).dimensions(), annotations = x.Buffer(9).dimensions();
  Steps<Number> s = {};
  s.T = shape[0], s.B = shape[1], s.R = shape[2], s.N = s.B * s.R, s.H = shape[3] / 4;
  s.L = annotations[1], s.D = annotations[2], s.A = x.Buffer(7).dimensions()[0];
  s.starts = x.In<bool>(0), s.h0 = x.In(1), s.c0 = x.In(2), s.matrix = x.In<Number>(3);
  s.query = x.In<Number>(4), s.gate_weights = x.In(5), s.gate_bias = x.In(6);
  s.gate = x.Buffer(5).element_count() > 0;
  s.v = x.In(7), s.keys = x.In(8), s.a = x.In<Number>(9), s.allowed = x.In<bool>(10);
  s.expected = x.In<bool>(11), s.hard = x.Buffer(11).element_count() > 0;
  return s;
}

constexpr size_t kCommon = 12;

template <typename Format>
void RunForward(Crew& crew, const Arrays& x) {
  auto s = Common<typename Format::Number>(x, kCommon);
  s.gates = x.Out(0), s.h = x.Out(1), s.c = x.Out(2), s.q = x.Out(3), s.log_alpha = x.Out(4);
  s.beta = x.Out(5), s.location = x.Out<int32_t>(6);
  Forward<Format>(crew, s, x.In(kCommon), x.In(kCommon + 1), x.Out(7)).Run();
}

template <typename Format>
void RunBackward(Crew& crew, const Arrays& x) {
  auto s = Common<typename Format::Number>(x, kCommon);
  s.gates = x.In(kCommon), s.h = x.In(kCommon + 1), s.c = x.In(kCommon + 2);
  s.q = x.In(kCommon + 3), s.log_alpha = x.In(kCommon + 4), s.beta = x.In(kCommon + 5);
  s.location = x.In<int32_t>(kCommon + 6);
  const Given given{x.In(kCommon + 7), x.In(kCommon + 8), x.In(kCommon + 9), x.In(kCommon + 10)};
  const Sought sought{x.Out(0), x.Out(1), x.Out(2), x.Out(3), x.Out(4), x.Out(5), x.Out(6)};
  Backward<Format>(crew, s, given, sought).Run();
}

ffi::Error Unsupported() {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "recurrence: arguments or number format");
}

ffi::Error Recurrence(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const Arrays x(args, rets);
  if (!x.AreValid(kCommon + 2, 8)) return Unsupported();
  Crew crew(pool);
  const auto type = x.Buffer(3).element_type();
#if MATRIX_UNITS
  if (type == ffi::BF16) return RunForward<Brain>(crew, x), ffi::Error::Success();
#endif
  if (type != ffi::F32) return Unsupported();
  return RunForward<Single>(crew, x), ffi::Error::Success();
}

ffi::Error RecurrenceGradient(ffi::ThreadPool pool, ffi::RemainingArgs args,
                              ffi::RemainingRets rets) {
  const Arrays x(args, rets);
  if (!x.AreValid(kCommon + 11, 7)) return Unsupported();
  Crew crew(pool);
  const auto type = x.Buffer(3).element_type();
#if MATRIX_UNITS
  if (type == ffi::BF16) return RunBackward<Brain>(crew, x), ffi::Error::Success();
#endif
  if (type != ffi::F32) return Unsupported();
  return RunBackward<Single>(crew, x), ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    recurrence, Recurrence, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    recurrence_gradient, RecurrenceGradient,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());

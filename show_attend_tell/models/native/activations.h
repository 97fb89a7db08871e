// Activations of a training step.
//
// -ffast-math turns each division here into an approximate reciprocal and one step of Newton's
// method.

#pragma once

#include <algorithm>
#include <cstdint>

constexpr int kBlock = 64;  // elements at a time: what is summed over them stays in registers
// Beyond it 1 + x overflows, and a refined reciprocal of infinity is not a number.
constexpr float kLargest = 1e30f;

inline float Share(float x) { return 1.0f / (1.0f + std::min(x, kLargest)); }

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

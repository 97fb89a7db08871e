// What the functions of a training step share: types of arrays and the logistic function.

#pragma once

#include <algorithm>
#include <cstdint>

#include "for_each.h"
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

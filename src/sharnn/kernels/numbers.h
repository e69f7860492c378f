// Number formats and functions that the kernels share; branch-free, so that loops over them vectorise.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
  uint16_t bits;
};

inline float widened(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

inline bfloat16 rounded(float x) {  // to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return {uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}

// e^x as 2^k (1 + p), where p = e^r - 1 with |r| ≤ ln 2 / 2 is a polynomial.
struct Exponential {
  float power, p;
};
inline Exponential taken_apart(float x) {
  float bounded = x > 88.0f ? 88.0f : x;
  bounded = bounded < -87.0f ? -87.0f : bounded;  // a NaN stays a NaN
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // k in the low bits of 1.5 · 2²³ + k
  const float k = shifted - 12582912.0f;
  const float r = (bounded - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 1.0f / 2;
  p = p * r * r + r;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return {power, p};
}

inline float exponential(float x) {
  const Exponential e = taken_apart(x);
  return e.power + e.power * e.p;
}

inline float hyperbolic_tangent(float x) {
  const Exponential e = taken_apart(2.0f * x);
  const float less_one = (e.power - 1.0f) + e.power * e.p;  // e^2x - 1 without cancellation near 0
  return less_one / (less_one + 2.0f);
}

}  // namespace

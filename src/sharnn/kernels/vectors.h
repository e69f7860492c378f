// Vectors of 16 numbers, in as many registers as the instruction set needs for them.
//
// Kernels are written once with these vectors. Only this file and `products.h` depend on instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "numbers.h"

namespace {

constexpr int WIDTH = 16;  // numbers of a vector
#if defined(__AVX512F__)
constexpr int NATIVE = 16, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int NATIVE = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int NATIVE = 4, REGISTERS = 32;
#else
constexpr int NATIVE = 4, REGISTERS = 16;
#endif
constexpr int PARTS = WIDTH / NATIVE;  // registers of a vector

typedef float FloatRegister __attribute__((vector_size(4 * NATIVE)));
typedef int32_t IntRegister __attribute__((vector_size(4 * NATIVE)));
typedef uint32_t BitRegister __attribute__((vector_size(4 * NATIVE)));
typedef int16_t ShortRegister __attribute__((vector_size(4 * NATIVE)));
typedef uint16_t HalfRegister __attribute__((vector_size(2 * NATIVE)));
typedef int8_t ByteRegister __attribute__((vector_size(NATIVE)));

// Loops over registers are unrolled, so that the compiler keeps arrays of registers in registers.
#define UNROLLED _Pragma("GCC unroll 16")

template <class T> inline T read_as(const void *p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

// NATIVE numbers as floats.
inline FloatRegister load_register(const float *p) { return read_as<FloatRegister>(p); }
inline FloatRegister load_register(const bfloat16 *p) {
#if defined(__AVX512F__)
  return (FloatRegister)_mm512_slli_epi32(_mm512_cvtepu16_epi32(read_as<__m256i>(p)), 16);
#elif defined(__AVX2__)
  return (FloatRegister)_mm256_slli_epi32(_mm256_cvtepu16_epi32(read_as<__m128i>(p)), 16);
#else
  return (FloatRegister)(__builtin_convertvector(read_as<HalfRegister>(p), BitRegister) << 16);
#endif
}
inline FloatRegister load_register(const int8_t *p) {  // GCC's own conversion is scalar
#if defined(__AVX512F__)
  return (FloatRegister)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(read_as<__m128i>(p)));
#elif defined(__AVX2__)
  return (FloatRegister)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#elif defined(__SSE4_1__)
  return (FloatRegister)_mm_cvtepi32_ps(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(read_as<int32_t>(p))));
#else
  return __builtin_convertvector(read_as<ByteRegister>(p), FloatRegister);
#endif
}

struct Floats {
  FloatRegister part[PARTS];

  inline Floats &operator+=(const Floats &other) {
    UNROLLED for (int i = 0; i < PARTS; ++i) part[i] += other.part[i];
    return *this;
  }
  // Add `x · factor`.
  inline void add_product(const Floats &x, const Floats &factor) {
    UNROLLED for (int i = 0; i < PARTS; ++i) part[i] += x.part[i] * factor.part[i];
  }
  inline void add_product(const Floats &x, float factor) {
    UNROLLED for (int i = 0; i < PARTS; ++i) part[i] += x.part[i] * factor;
  }
};

inline Floats operator*(Floats x, float factor) {
  UNROLLED for (int i = 0; i < PARTS; ++i) x.part[i] *= factor;
  return x;
}

// 16 numbers as floats, from floats, bfloat16s or int8s.
template <class W> inline Floats load(const W *p) {
  Floats x;
  UNROLLED for (int i = 0; i < PARTS; ++i) x.part[i] = load_register(p + i * NATIVE);
  return x;
}
inline void store(float *p, const Floats &x) { std::memcpy(p, &x, sizeof x); }

// The sums of four vectors at once, in less time than two single sums take.
inline void sums(const Floats (&x)[4], float (&out)[4]) {
#if defined(__AVX2__)
  __m256 half[4];
  UNROLLED for (int r = 0; r < 4; ++r) {
#if defined(__AVX512F__)
    const __m512 all = (__m512)x[r].part[0];
    half[r] = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
#else
    half[r] = (__m256)(x[r].part[0] + x[r].part[1]);
#endif
  }
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#else
  FloatRegister quarter[4];
  UNROLLED for (int r = 0; r < 4; ++r)
    quarter[r] = (x[r].part[0] + x[r].part[1]) + (x[r].part[2] + x[r].part[3]);
#if defined(__SSE3__)
  _mm_storeu_ps(out, _mm_hadd_ps(_mm_hadd_ps((__m128)quarter[0], (__m128)quarter[1]),
                                 _mm_hadd_ps((__m128)quarter[2], (__m128)quarter[3])));
#else
  UNROLLED for (int r = 0; r < 4; ++r)
    out[r] = (quarter[r][0] + quarter[r][1]) + (quarter[r][2] + quarter[r][3]);
#endif
#endif
}
// The sum of one vector, computed as for four.
inline void sums(const Floats (&x)[1], float (&out)[1]) {
  float four[4];
  sums({x[0], x[0], x[0], x[0]}, four);
  out[0] = four[0];
}

}  // namespace

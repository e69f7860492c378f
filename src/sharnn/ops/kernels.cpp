// The pointwise operations between the matrix products of a training step, each as one pass over its data.
// `pointwise.py` has the equations.
//
// Legend: B lanes · T tokens · D embed_dim · F boom_dim · K rows attended to.
// All arrays are dense and row-major. The file is built once for each dtype, with STORED as float, double
// or bfloat16 (computed as float). The caller checks shapes and gives the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "numbers.h"

namespace {

using isize = int64_t;

using T = STORED;
using A = std::conditional_t<std::is_same_v<T, double>, double, float>;  // type of the arithmetic

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bfloat16 x) { return widened(x); }

inline void store(float &place, float x) { place = x; }
inline void store(double &place, double x) { place = x; }
inline void store(bfloat16 &place, float x) { place = rounded(x); }

inline double exponential(double x) { return std::exp(x); }
inline double hyperbolic_tangent(double x) { return std::tanh(x); }
inline A sigmoid(A x) { return A(1) / (A(1) + exponential(-x)); }

constexpr isize BLOCK = 256;  // features that a thread processes at a time

// The random number of element `i` of the mask that `seed` identifies: MurmurHash3's finaliser over a
// counter. Masks are never stored, but computed again where they are needed again.
inline uint32_t hashed(uint32_t seed, uint32_t i) {
  uint32_t h = i * 0x9E3779B1u + seed;
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 13)) * 0xC2B2AE35u;
  return h ^ (h >> 16);
}

// Parallel loops take it as firstprivate. If it were shared, the compiler would read its members again for
// every element, since a store might have changed them, and could not vectorise the loop.
struct Dropout {
  uint32_t seed, threshold;  // an element is dropped if its number is below the threshold
  A scale;                   // 1 / (1 - rate)
  Dropout(isize seed, double rate)
      : seed(uint32_t(seed)), threshold(uint32_t(rate * 4294967296.0)), scale(A(1 / (1 - rate))) {}
  inline A operator()(isize i) const { return hashed(seed, uint32_t(i)) < threshold ? A(0) : scale; }
};

constexpr A SLOPE = A(1.702);

}  // namespace

extern "C" {

// Boom's activation and sum: `out` [N, D] = Σ_chunk m φ(z), φ(z) = z·σ(1.702 z), with z [N, chunks · D] and the
// dropout mask m.
void boom_forward(const T *z, T *out, isize rows, isize chunks, isize dim, isize seed, double rate,
                  int threads) {
  const Dropout keep(seed, rate);
  const isize blocks = (dim + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) firstprivate(keep)
  for (isize job = 0; job < rows * blocks; ++job) {
    const isize row = job / blocks, start = job % blocks * BLOCK;
    const isize count = std::min(BLOCK, dim - start);
    A sum[BLOCK] = {};
    for (isize chunk = 0; chunk < chunks; ++chunk) {
      const isize at = (row * chunks + chunk) * dim + start;
      const T *__restrict__ x = z + at;
      if (rate == 0) {
#pragma omp simd
        for (isize d = 0; d < count; ++d) sum[d] += load(x[d]) * sigmoid(SLOPE * load(x[d]));
      } else {
#pragma omp simd
        for (isize d = 0; d < count; ++d)
          sum[d] += load(x[d]) * sigmoid(SLOPE * load(x[d])) * keep(at + d);
      }
    }
    T *__restrict__ y = out + row * dim + start;
#pragma omp simd
    for (isize d = 0; d < count; ++d) store(y[d], sum[d]);
  }
}

// Gradient of z: `z_grad` [N, chunks · D] = m φ'(z) · out_grad, φ'(z) = s (1 + 1.702 z (1 - s)), s = σ(1.702 z).
void boom_backward(const T *z, const T *out_grad, T *z_grad, isize rows, isize chunks, isize dim,
                   isize seed, double rate, int threads) {
  const Dropout keep(seed, rate);
#pragma omp parallel for num_threads(threads) firstprivate(keep)
  for (isize job = 0; job < rows * chunks; ++job) {
    const isize at = job * dim;
    const T *__restrict__ x = z + at;
    const T *__restrict__ dy = out_grad + job / chunks * dim;
    T *__restrict__ dx = z_grad + at;
#pragma omp simd
    for (isize d = 0; d < dim; ++d) {
      const A value = load(x[d]), s = sigmoid(SLOPE * value);
      store(dx[d], load(dy[d]) * s * (A(1) + SLOPE * value * (A(1) - s)));
    }
    if (rate != 0) {
#pragma omp simd
      for (isize d = 0; d < dim; ++d) store(dx[d], load(dx[d]) * keep(at + d));
    }
  }
}

// Softmax in place over the rows that each position reaches, 0 elsewhere. `scores` [T, K]; position t reaches
// the rows after `last + t - window` up to `last + t`, but none before `first`. With `reads_next`, 0 or 1, it
// does not reach row `last + t`, the softmax has an additional score of 0, and the weight of row k is written
// to column k + 1.
void reach_softmax(T *scores, isize tokens, isize rows, isize last, isize window, isize first,
                   isize reads_next, int threads) {
#pragma omp parallel for num_threads(threads)
  for (isize t = 0; t < tokens; ++t) {
    T *__restrict__ s = scores + t * rows;
    isize start = std::max(first, std::max(last + t + 1 - window, isize(0)));
    isize stop = std::max(start, last + t + 1 - reads_next);
    A largest = reads_next ? A(0) : A(-INFINITY);
#pragma omp simd reduction(max : largest)
    for (isize k = start; k < stop; ++k) largest = std::max(largest, A(load(s[k])));
    A sum = reads_next ? A(exponential(-largest)) : A(0);
#pragma omp simd reduction(+ : sum)
    for (isize k = start; k < stop; ++k) sum += exponential(load(s[k]) - largest);
    const A scale = A(1) / sum;
#pragma omp simd
    for (isize k = start; k < stop; ++k) store(s[k], exponential(load(s[k]) - largest) * scale);
    if (reads_next) {  // move weights to the columns of the rows that are read
      std::memmove(s + start + 1, s + start, (stop - start) * sizeof(T));
      ++start, ++stop;
    }
    for (isize k = 0; k < start; ++k) store(s[k], A(0));
    for (isize k = stop; k < rows; ++k) store(s[k], A(0));
  }
}

// Turns `grad` [T, K], the gradient dA of the weights A, into that of the scores: A (dA - Σ_k A dA). Weights of
// 0 give 0. With `reads_next` the result is moved back by one column.
void softmax_backward(T *grad, const T *weights, isize tokens, isize rows, isize reads_next, int threads) {
#pragma omp parallel for num_threads(threads)
  for (isize t = 0; t < tokens; ++t) {
    T *__restrict__ g = grad + t * rows;
    const T *__restrict__ w = weights + t * rows;
    A dot = 0;
#pragma omp simd reduction(+ : dot)
    for (isize k = 0; k < rows; ++k) dot += load(g[k]) * load(w[k]);
    if (reads_next) std::memmove(g, g + 1, (rows - 1) * sizeof(T)), ++w;
    const isize count = rows - reads_next;
#pragma omp simd
    for (isize k = 0; k < count; ++k) store(g[k], load(w[k]) * (load(g[k]) - dot));
    if (reads_next) store(g[count], A(0));
  }
}

// `out[i] = in[i] · mask[i] / (1 - rate)`, in the forward and the backward pass; `out` may be `in`.
void dropout(const T *in, T *out, isize count, isize seed, double rate, int threads) {
  const Dropout keep(seed, rate);
#pragma omp parallel for simd num_threads(threads) firstprivate(keep)
  for (isize i = 0; i < count; ++i) store(out[i], load(in[i]) * keep(i));
}

}  // extern "C"

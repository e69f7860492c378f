// One step of a SHA-RNN for B lanes: every weight is read once, every memory row once, in one call.
//
// Legend: B lanes · D dim · C chunks of Boom · K columns of a matrix · W rows of a ring.
// A step is bound by the bytes of the weights it reads, so these may be float, bfloat16 or int8; all that
// is computed is float. Each thread takes a range of features through a phase and waits for the others
// where the next phase needs all features; what is small, each thread computes for itself.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "numbers.h"

using isize = int64_t;

enum Kind : isize { FLOAT = 0, BFLOAT16 = 1, INT8 = 2 };

extern "C" {

struct Norm {
  const float *gain, *bias;  // [D] each; no norm where they are null
};

// [rows, columns]. int8: a row stands for `scale[row]` times its integers, whose sum is `sum[row]`.
struct Matrix {
  const void *weight;
  const float *scale;
  const int32_t *sum;
  const float *bias;
  isize rows, columns, kind;
};

// Rows [B, W, D] of the lanes' memories; int8 rows with a scale each, `scale` [B, W].
struct Ring {
  void *rows;
  float *scale;
  const isize *lengths;  // [B]: rows of each lane's own text with the one that this step writes
  isize window, kind, place, filled;  // of the row that this step writes; places written after it
};

struct Layer {
  Norm start, mid, memory, query_norm, skip, boom_norm;
  Matrix from_input, from_hidden;  // [4D, D]: the gates of a feature stand together
  Matrix query, boom;              // [D, D], [D C, D]: the chunks of a feature stand together
  const float *query_scale, *value_gate;
  float *hidden, *cell;  // [B, D]
  Ring ring;
  isize attends;  // with a head (`query`) but without a memory, a block only normalises
};

struct Model {
  Layer *layers;
  Norm final;
  isize num_layers, dim, residual;
};

}  // extern "C"

namespace {

constexpr int WIDTH = 16;
typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
typedef int8_t Bytes __attribute__((vector_size(WIDTH)));

inline Floats load(const float *p) {
  Floats x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Floats load(const bfloat16 *p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  const Bits bits = __builtin_convertvector(halves, Bits) << 16;
  Floats x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline Floats load(const int8_t *p) {
#ifdef __AVX512F__  // GCC would convert one number after the other
  return (Floats)_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
#else
  Bytes bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, Floats);
#endif
}
inline float value(float x) { return x; }
inline float value(int8_t x) { return x; }
inline float value(bfloat16 x) { return widened(x); }

template <class V> inline auto sum(V x) {
  x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  x += __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return x[0];
}

// The sums of four vectors at once, in less than the time of two.
template <class V, class N> inline void sums(const V (&x)[4], N (&out)[4]) {
  // Pairs of a and b side by side, then of all four, then halves onto halves.
  const V ab = __builtin_shufflevector(x[0], x[1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
               __builtin_shufflevector(x[0], x[1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  const V cd = __builtin_shufflevector(x[2], x[3], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
               __builtin_shufflevector(x[2], x[3], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
  V all = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
          __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  all += __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  all += __builtin_shufflevector(all, all, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  std::memcpy(out, &all, sizeof out);
}
template <class V, class N> inline void sums(const V (&x)[1], N (&out)[1]) { out[0] = sum(x[0]); }

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// ------------------------------------------------------------------------------------ products

// A row is too short for the processor to see where reading goes on: it is told, so many rows ahead.
constexpr isize AHEAD = 2;

// `out[l][r]` = Σ_k w[r][k] x[l][k] for R rows of a matrix and L lanes.
template <int R, int L, class W>
inline void dots(const W *w, const float *x, isize columns, float (&out)[L][R]) {
  Floats totals[L][R] = {};
  isize k = 0;
  for (; k + WIDTH <= columns; k += WIDTH) {
    Floats row[R];
    for (int r = 0; r < R; ++r) {
      row[r] = load(w + r * columns + k);
      __builtin_prefetch(w + (r + AHEAD * R) * columns + k);
    }
    for (int l = 0; l < L; ++l) {
      const Floats lane = load(x + l * columns + k);
      for (int r = 0; r < R; ++r) totals[l][r] += row[r] * lane;
    }
  }
  for (int l = 0; l < L; ++l) {
    sums(totals[l], out[l]);
    for (int r = 0; r < R; ++r)
      for (isize rest = k; rest < columns; ++rest)
        out[l][r] += value(w[r * columns + rest]) * x[l * columns + rest];
  }
}

// The same of integers: `w` signed, `x` unsigned.
template <int R, int L>
inline void dots(const int8_t *w, const uint8_t *x, isize columns, int32_t (&out)[L][R]) {
  isize k = 0;
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r) out[l][r] = 0;
#ifdef __AVX512VNNI__
  Ints totals[L][R] = {};
  for (; k + 64 <= columns; k += 64) {
    __m512i row[R];
    for (int r = 0; r < R; ++r) {
      row[r] = _mm512_loadu_si512(w + r * columns + k);
      __builtin_prefetch(w + (r + AHEAD * R) * columns + k);
    }
    for (int l = 0; l < L; ++l) {
      const __m512i lane = _mm512_loadu_si512(x + l * columns + k);
      for (int r = 0; r < R; ++r) totals[l][r] = (Ints)_mm512_dpbusd_epi32((__m512i)totals[l][r], lane, row[r]);
    }
  }
  for (int l = 0; l < L; ++l) sums(totals[l], out[l]);
#endif
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r) {
      int32_t total = 0;
#pragma omp simd reduction(+ : total)
      for (isize rest = k; rest < columns; ++rest)
        total += int16_t(w[r * columns + rest]) * int16_t(x[l * columns + rest]);
      out[l][r] += total;
    }
}

// What a matrix multiplies, for all lanes: as floats and, for int8 weights, as integers around 128.
struct Activations {
  const float *x;  // [B, K]
  std::vector<uint8_t> integers;
  std::vector<float> scale;
};

void quantize(Activations &a, isize lanes, isize columns) {
  a.integers.resize(lanes * columns);
  a.scale.resize(lanes);
  for (isize lane = 0; lane < lanes; ++lane) {
    const float *x = a.x + lane * columns;
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (isize k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(x[k]));
    const float inverse = largest > 0 ? 127 / largest : 0;
    uint8_t *q = a.integers.data() + lane * columns;
    for (isize k = 0; k < columns; ++k) {
      const float shifted = x[k] * inverse + 12582912.0f;  // rounds to nearest, ties to even
      uint32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      q[k] = uint8_t(bits + 128);
    }
    a.scale[lane] = largest / 127;
  }
}

Activations prepared(const Matrix &m, const float *x, isize lanes) {
  Activations a{x, {}, {}};
  if (m.kind == INT8) quantize(a, lanes, m.columns);
  return a;
}

template <int R, int L, class W>
inline void block(const Matrix &m, const Activations &a, isize row, isize lane, float *out) {
  float y[L][R];
  dots<R, L>(static_cast<const W *>(m.weight) + row * m.columns, a.x + lane * m.columns, m.columns, y);
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r) out[(lane + l) * m.rows + row + r] += y[l][r];
}
template <int R, int L>
inline void integer_block(const Matrix &m, const Activations &a, isize row, isize lane, float *out) {
  int32_t y[L][R];
  dots<R, L>(static_cast<const int8_t *>(m.weight) + row * m.columns,
             a.integers.data() + lane * m.columns, m.columns, y);
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r)
      out[(lane + l) * m.rows + row + r] +=
          float(y[l][r] - 128 * m.sum[row + r]) * (m.scale[row + r] * a.scale[lane + l]);
}
template <int R, int L>
inline void any_block(const Matrix &m, const Activations &a, isize row, isize lane, float *out) {
  if (m.kind == INT8) integer_block<R, L>(m, a, row, lane, out);
  else if (m.kind == BFLOAT16) block<R, L, bfloat16>(m, a, row, lane, out);
  else block<R, L, float>(m, a, row, lane, out);
}
template <int R>
inline void lanes_of_block(const Matrix &m, const Activations &a, isize row, isize lanes, float *out) {
  isize lane = 0;
  for (; lane + 4 <= lanes; lane += 4) any_block<R, 4>(m, a, row, lane, out);
  for (; lane < lanes; ++lane) any_block<R, 1>(m, a, row, lane, out);
}

// Add `W x` of rows [begin, end) to `out` [B, rows]. Each row of weights is read once for all lanes.
void multiply_add(const Matrix &m, const Activations &a, isize lanes, isize begin, isize end, float *out) {
  isize row = begin;
  for (; row + 4 <= end; row += 4) lanes_of_block<4>(m, a, row, lanes, out);
  for (; row < end; ++row) lanes_of_block<1>(m, a, row, lanes, out);
}

// The LSTM's cell and hidden state [D] of features [begin, end), from their gates [D, 4].
void update(const float *gates, float *cell, float *hidden, isize begin, isize end) {
#pragma omp simd
  for (isize d = begin; d < end; ++d) {
    const float *g = gates + 4 * d;
    cell[d] = sigmoid(g[1]) * cell[d] + sigmoid(g[0]) * hyperbolic_tangent(g[2]);
    hidden[d] = sigmoid(g[3]) * hyperbolic_tangent(cell[d]);
  }
}

void start_with_bias(const Matrix &m, isize lanes, isize begin, isize end, float *out) {
  for (isize lane = 0; lane < lanes; ++lane)
    std::copy(m.bias + begin, m.bias + end, out + lane * m.rows + begin);
}

// LayerNorm of every lane: `out` [B, D].
void normalize(const Norm &norm, const float *x, isize lanes, isize dim, float *out) {
  for (isize lane = 0; lane < lanes; ++lane, x += dim, out += dim) {
    if (norm.gain == nullptr) {
      std::copy(x, x + dim, out);
      continue;
    }
    float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
    for (isize d = 0; d < dim; ++d) mean += x[d];
    mean /= dim;
#pragma omp simd reduction(+ : variance)
    for (isize d = 0; d < dim; ++d) variance += (x[d] - mean) * (x[d] - mean);
    const float scale = 1 / std::sqrt(variance / dim + 1e-12f);
    for (isize d = 0; d < dim; ++d) out[d] = (x[d] - mean) * scale * norm.gain[d] + norm.bias[d];
  }
}

// ----------------------------------------------------------------------------------- attention

// Softmax over a part of the rows, unfinished: Σ e^(s - largest) and the same weighted sum of rows.
struct Partial {
  float largest = -INFINITY, total = 0;
  std::vector<float> mixed;
};

// Add rows [begin, end) to a partial softmax. Rows are read from memory once: a block of them stays in
// the cache between its scores and its sum.
template <class W>
void attend(const W *rows, const float *scales, const float *query, isize begin, isize end, isize dim,
            Partial &partial) {
  constexpr isize BLOCK = 16;
  for (isize start = begin; start < end; start += BLOCK) {
    const isize count = std::min(BLOCK, end - start);
    float scores[BLOCK], largest = partial.largest;
    for (isize j = 0; j < count; j += 4) {
      float found[1][4];
      const W *row = rows + (start + j) * dim;
      if (j + 4 <= count) {
        dots<4, 1>(row, query, dim, found);
      } else {
        for (isize i = 0; i < count - j; ++i) {
          float one[1][1];
          dots<1, 1>(row + i * dim, query, dim, one);
          found[0][i] = one[0][0];
        }
      }
      for (isize i = j; i < std::min(j + 4, count); ++i) {
        scores[i] = found[0][i - j] * (scales ? scales[start + i] : 1.0f);
        largest = std::max(largest, scores[i]);
      }
    }
    const float shrink = exponential(partial.largest - largest);
    partial.largest = largest;
    partial.total *= shrink;
    float weights[BLOCK] = {};
    for (isize j = 0; j < count; ++j) {
      const float weight = exponential(scores[j] - largest);
      partial.total += weight;
      weights[j] = weight * (scales ? scales[start + j] : 1.0f);
    }
    float *mixed = partial.mixed.data();
    isize d = 0;
    for (; d + WIDTH <= dim; d += WIDTH) {
      Floats total = load(mixed + d) * shrink;
      for (isize j = 0; j < count; ++j) total += load(rows + (start + j) * dim + d) * weights[j];
      std::memcpy(mixed + d, &total, sizeof total);
    }
    for (; d < dim; ++d) {
      mixed[d] *= shrink;
      for (isize j = 0; j < count; ++j) mixed[d] += value(rows[(start + j) * dim + d]) * weights[j];
    }
  }
}

void write_row(const Ring &ring, isize lane, const float *row, isize dim) {
  const isize at = lane * ring.window + ring.place;
  if (ring.kind == FLOAT) {
    std::copy(row, row + dim, static_cast<float *>(ring.rows) + at * dim);
  } else if (ring.kind == BFLOAT16) {
    bfloat16 *out = static_cast<bfloat16 *>(ring.rows) + at * dim;
    for (isize d = 0; d < dim; ++d) out[d] = rounded(row[d]);
  } else {
    float largest = 0;
    for (isize d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(row[d]));
    const float inverse = largest > 0 ? 127 / largest : 0;
    int8_t *out = static_cast<int8_t *>(ring.rows) + at * dim;
    for (isize d = 0; d < dim; ++d) out[d] = int8_t(std::nearbyint(row[d] * inverse));
    ring.scale[at] = largest / 127;
  }
}

// A lane's rows are cut in as many shares, whatever the number of threads: results don't depend on it.
constexpr int SHARES = 8;

// A share of a lane's rows. Those of its own text stand before `place + 1`, round the ring.
void attend_share(const Ring &ring, isize lane, const float *query, isize dim, int share,
                  Partial &partial) {
  partial.largest = -INFINITY;
  partial.total = 0;
  partial.mixed.assign(dim, 0.0f);
  const isize own = std::min(ring.lengths[lane], ring.filled), end = ring.place + 1;
  const isize size = (own + SHARES - 1) / SHARES;
  const isize from = std::min(own, share * size), to = std::min(own, from + size);
  // Rows [from, to) counted from the oldest, in at most two runs of places.
  const isize oldest = end - own;
  const isize runs[2][2] = {{oldest + from, std::min(oldest + to, isize(0))},
                            {std::max(oldest + from, isize(0)), oldest + to}};
  for (int run = 0; run < 2; ++run) {
    const isize wrap = run == 0 ? ring.filled : 0;
    const isize first = runs[run][0] + wrap, last = runs[run][1] + wrap;
    if (first >= last) continue;
    const isize at = lane * ring.window;
    if (ring.kind == FLOAT)
      attend(static_cast<const float *>(ring.rows) + at * dim, nullptr, query, first, last, dim, partial);
    else if (ring.kind == BFLOAT16)
      attend(static_cast<const bfloat16 *>(ring.rows) + at * dim, nullptr, query, first, last, dim,
             partial);
    else
      attend(static_cast<const int8_t *>(ring.rows) + at * dim, ring.scale + at, query, first, last, dim,
             partial);
  }
}

// ---------------------------------------------------------------------------------------- step

// Phases are some 10 µs long: threads wait for each other awake, and let others run if it takes longer.
class Barrier {
 public:
  void wait(int threads) {
    const int phase = phase_.load();
    if (arrived_.fetch_add(1) + 1 == threads) {
      arrived_.store(0);
      phase_.store(phase + 1);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins)
      if (spins > 4096) std::this_thread::yield();
  }

 private:
  std::atomic<int> arrived_{0}, phase_{0};
};

struct Range {
  isize begin, end;
};

// The features that a thread takes: whole vectors, so that how they are shared out changes no rounding.
Range share_of(isize dim, int thread, int threads) {
  const isize share = (dim + threads * WIDTH - 1) / (threads * WIDTH) * WIDTH;
  const isize begin = std::min(dim, thread * share);
  return {begin, std::min(dim, begin + share)};
}

// Call `work(thread, threads)` in as many threads.
template <class Work> void in_parallel(int threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), omp_get_num_threads());
#else
  work(0, 1);
#endif
}

struct Step {
  const Model &model;
  isize lanes, dim;
  float *h;  // [B, D]: the input, then each block's output, then what the softmax reads
  std::vector<float> u, wide, query;
  std::vector<Partial> partials;  // [SHARES, B]
  Barrier barrier;

  Step(const Model &model, float *h, isize lanes)
      : model(model), lanes(lanes), dim(model.dim), h(h), u(lanes * dim), query(lanes * dim),
        partials(SHARES * lanes) {
    isize rows = 4 * dim;
    for (isize i = 0; i < model.num_layers; ++i) rows = std::max(rows, model.layers[i].boom.rows);
    wide.resize(lanes * rows);
  }

  void run(int thread, int threads) {
    const auto [begin, end] = share_of(dim, thread, threads);
    for (isize index = 0; index < model.num_layers; ++index) {
      const Layer &layer = model.layers[index];
      lstm(layer, begin, end, threads);
      if (layer.attends) attention(layer, begin, end, thread, threads);
      else if (layer.query.weight && !model.residual) normalize_only(layer, begin, end, threads);
      boom(layer, begin, end);
      barrier.wait(threads);
    }
    if (thread == 0) normalize(model.final, h, lanes, dim, h);
  }

  void lstm(const Layer &layer, isize begin, isize end, int threads) {
    std::vector<float> x(lanes * dim);
    normalize(layer.start, h, lanes, dim, x.data());
    float *gates = wide.data();
    start_with_bias(layer.from_input, lanes, 4 * begin, 4 * end, gates);
    const Activations from_input = prepared(layer.from_input, x.data(), lanes);
    multiply_add(layer.from_input, from_input, lanes, 4 * begin, 4 * end, gates);
    const Activations from_hidden = prepared(layer.from_hidden, layer.hidden, lanes);
    multiply_add(layer.from_hidden, from_hidden, lanes, 4 * begin, 4 * end, gates);
    barrier.wait(threads);  // until now others read the hidden state
    for (isize lane = 0; lane < lanes; ++lane) {
      const isize at = lane * dim;
      update(gates + 4 * at, layer.cell + at, layer.hidden + at, begin, end);
      for (isize d = begin; d < end; ++d)
        u[at + d] = layer.hidden[at + d] + (model.residual ? h[at + d] : 0.0f);
    }
    barrier.wait(threads);
  }

  void attention(const Layer &layer, isize begin, isize end, int thread, int threads) {
    std::vector<float> g(lanes * dim), q(lanes * dim);
    normalize(layer.mid, u.data(), lanes, dim, g.data());
    if (thread == 0) {
      std::vector<float> rows(lanes * dim);
      normalize(layer.memory, u.data(), lanes, dim, rows.data());
      for (isize lane = 0; lane < lanes; ++lane)
        write_row(layer.ring, lane, rows.data() + lane * dim, dim);
    }
    start_with_bias(layer.query, lanes, begin, end, query.data());
    multiply_add(layer.query, prepared(layer.query, g.data(), lanes), lanes, begin, end, query.data());
    barrier.wait(threads);
    normalize(layer.query_norm, query.data(), lanes, dim, q.data());
    for (isize i = 0; i < lanes * dim; ++i) q[i] *= layer.query_scale[i % dim];
    for (isize job = thread; job < SHARES * lanes; job += threads) {
      const isize lane = job / SHARES, share = job % SHARES;
      attend_share(layer.ring, lane, q.data() + lane * dim, dim, share, partials[share * lanes + lane]);
    }
    barrier.wait(threads);
    for (isize lane = 0; lane < lanes; ++lane)
      mix(layer, (model.residual ? u.data() : g.data()) + lane * dim, lane, begin, end);
    barrier.wait(threads);
  }

  void normalize_only(const Layer &layer, isize begin, isize end, int threads) {
    std::vector<float> g(lanes * dim);
    normalize(layer.mid, u.data(), lanes, dim, g.data());
    barrier.wait(threads);
    for (isize lane = 0; lane < lanes; ++lane)
      std::copy(&g[lane * dim] + begin, &g[lane * dim] + end, &u[lane * dim] + begin);
    barrier.wait(threads);
  }

  // Join the partial softmaxes of a lane for features [begin, end).
  void mix(const Layer &layer, const float *skip, isize lane, isize begin, isize end) {
    float largest = -INFINITY, total = 0;
    for (int s = 0; s < SHARES; ++s) largest = std::max(largest, partials[s * lanes + lane].largest);
    std::vector<float> mixed(end - begin, 0.0f);
    for (int s = 0; s < SHARES; ++s) {
      const Partial &partial = partials[s * lanes + lane];
      const float weight = exponential(partial.largest - largest);
      total += weight * partial.total;
      for (isize d = begin; d < end; ++d) mixed[d - begin] += weight * partial.mixed[d];
    }
    for (isize d = begin; d < end; ++d)
      u[lane * dim + d] = skip[d] + mixed[d - begin] / total * layer.value_gate[d];
  }

  void boom(const Layer &layer, isize begin, isize end) {
    if (layer.boom.weight == nullptr) {  // the plain LSTM
      for (isize lane = 0; lane < lanes; ++lane)
        std::copy(u.data() + lane * dim + begin, u.data() + lane * dim + end, h + lane * dim + begin);
      return;
    }
    std::vector<float> x(lanes * dim), skip(lanes * dim);
    normalize(layer.boom_norm, u.data(), lanes, dim, x.data());
    normalize(layer.skip, u.data(), lanes, dim, skip.data());
    const isize chunks = layer.boom.rows / dim;
    float *z = wide.data();
    start_with_bias(layer.boom, lanes, chunks * begin, chunks * end, z);
    multiply_add(layer.boom, prepared(layer.boom, x.data(), lanes), lanes, chunks * begin, chunks * end, z);
    for (isize lane = 0; lane < lanes; ++lane) {
      float *wide = z + lane * layer.boom.rows;
#pragma omp simd
      for (isize r = chunks * begin; r < chunks * end; ++r) wide[r] *= sigmoid(1.702f * wide[r]);
      for (isize d = begin; d < end; ++d) {
        float total = skip[lane * dim + d];
        for (isize c = 0; c < chunks; ++c) total += wide[d * chunks + c];
        h[lane * dim + d] = total;
      }
    }
  }
};

}  // namespace

extern "C" {

void step(const Model *model, float *h, isize lanes, int threads) {
  Step work(*model, h, lanes);
  in_parallel(threads, [&](int thread, int threads) { work.run(thread, threads); });
}

// The recurrence of an LSTM over a segment: all that must wait for the token before. `gates` [T, B, D, 4]
// come with what inputs and biases give; `hidden`, `cell` [B, D] go from before the segment to after it;
// `out` [T, B, D] gets the hidden states.
void recur(const Matrix *from_hidden, float *gates, float *hidden, float *cell, float *out, isize tokens,
           isize lanes, int threads) {
  const isize dim = from_hidden->columns;
  Barrier barrier;
  in_parallel(threads, [&](int thread, int threads) {
    const auto [begin, end] = share_of(dim, thread, threads);
    for (isize t = 0; t < tokens; ++t) {
      float *g = gates + 4 * t * lanes * dim;
      const Activations a = prepared(*from_hidden, hidden, lanes);
      multiply_add(*from_hidden, a, lanes, 4 * begin, 4 * end, g);
      barrier.wait(threads);  // until now others read the hidden state
      for (isize at = 0; at < lanes * dim; at += dim) {
        update(g + 4 * at, cell + at, hidden + at, begin, end);
        std::copy(hidden + at + begin, hidden + at + end, out + t * lanes * dim + at + begin);
      }
      barrier.wait(threads);
    }
  });
}

}  // extern "C"

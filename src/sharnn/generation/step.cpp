// One step of a SHA-RNN for B lanes: every weight is read once, every memory row once, in one call.
//
// Legend: B lanes · D dim · P parts: gates of the LSTM, chunks of Boom · K columns of a matrix · W rows of a
// ring.
// A step is bound by the bytes of the weights it reads, so these may be float, bfloat16 or int8; sums and
// all between the products are float. Each thread takes a range of features through a phase and waits for
// the others where the next phase needs all features; what is small, each thread computes for itself.

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
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include "numbers.h"

using isize = int64_t;

enum Kind : isize { FLOAT = 0, BFLOAT16 = 1, INT8 = 2 };

extern "C" {

struct Norm {
  const float *gain, *bias;  // [D] each; no norm where they are null
};

// A matrix [P · D, K], laid out as it is read, from its first byte to its last. Its rows stand in panels of
// 16: features 0 to 15 of part 0, then the same of part 1, …, then features 16 to 31. A panel is a sequence
// of lines of 64 bytes: 16 rows × 1 column of float, 2 of bfloat16 or 4 of int8. Rows and columns that are
// missing to whole panels and lines are zeros. int8: a row stands for `scale[row]` times its integers, whose
// sum is `sum[row]`.
struct Matrix {
  const char *lines;
  const float *scale;
  const int32_t *sum;
  const float *bias;
  isize rows, columns, kind;  // rows with those that fill up the panels
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
  Matrix from_input, from_hidden;  // 4 parts: input, forget, candidate, output
  Matrix query, boom;              // 1 part, as many as there are chunks
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

// A line of each kind in registers, and how it adds its products with a lane's next columns to a total.
struct FloatLine {
  using X = float;
  using Total = Floats;
  static constexpr isize COLUMNS = 1;
  Floats weights;
  void read(const char *line) { std::memcpy(&weights, line, sizeof weights); }
  void add_to(Total &total, const X *x) const { total += weights * *x; }
};

struct Bfloat16Line {
  using X = bfloat16;
  using Total = Floats;
  static constexpr isize COLUMNS = 2;
#ifdef __AVX512BF16__
  __m512i weights;
  void read(const char *line) { weights = _mm512_loadu_si512(line); }
  void add_to(Total &total, const X *x) const {
    int32_t both;
    std::memcpy(&both, x, sizeof both);
    total = (Floats)_mm512_dpbf16_ps((__m512)total, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(both));
  }
#else
  Floats even, odd;
  void read(const char *line) {
    Bits both;
    std::memcpy(&both, line, sizeof both);
    const Bits low = both << 16, high = both & 0xFFFF0000u;
    std::memcpy(&even, &low, sizeof even);
    std::memcpy(&odd, &high, sizeof odd);
  }
  void add_to(Total &total, const X *x) const { total += even * widened(x[0]) + odd * widened(x[1]); }
#endif
};

struct Int8Line {
  using X = uint8_t;
  using Total = Ints;
  static constexpr isize COLUMNS = 4;
#ifdef __AVX512VNNI__
  __m512i weights;
  void read(const char *line) { weights = _mm512_loadu_si512(line); }
  void add_to(Total &total, const X *x) const {
    int32_t four;
    std::memcpy(&four, x, sizeof four);
    total = (Ints)_mm512_dpbusd_epi32((__m512i)total, _mm512_set1_epi32(four), weights);
  }
#else
  Ints columns[COLUMNS];
  void read(const char *line) {
    Ints four;
    std::memcpy(&four, line, sizeof four);
    for (int c = 0; c < COLUMNS; ++c) columns[c] = (four << (24 - 8 * c)) >> 24;
  }
  void add_to(Total &total, const X *x) const {
    for (int c = 0; c < COLUMNS; ++c) total += columns[c] * int32_t(x[c]);
  }
#endif
};

// What a matrix multiplies, for all lanes, as its lines want it: float, bfloat16, or integers around 128
// with a scale for each lane. Columns are filled up with zeros to a whole line.
struct Activations {
  const float *x;  // [B, K]
  isize stride;
  std::vector<bfloat16> halves;
  std::vector<uint8_t> integers;
  std::vector<float> scale;

  Activations(const Matrix &m, const float *x, isize lanes) : x(x), stride(m.columns) {
    if (m.kind == BFLOAT16) halve(lanes, m.columns);
    if (m.kind == INT8) quantize(lanes, m.columns);
  }
  const float *of(const FloatLine *) const { return x; }
  const bfloat16 *of(const Bfloat16Line *) const { return halves.data(); }
  const uint8_t *of(const Int8Line *) const { return integers.data(); }

 private:
  void halve(isize lanes, isize columns) {
    stride = columns + columns % 2;
    halves.resize(lanes * stride);
    for (isize lane = 0; lane < lanes; ++lane)
      for (isize k = 0; k < columns; ++k) halves[lane * stride + k] = rounded(x[lane * columns + k]);
  }
  void quantize(isize lanes, isize columns) {
    stride = (columns + 3) / 4 * 4;
    integers.resize(lanes * stride);
    scale.resize(lanes);
    for (isize lane = 0; lane < lanes; ++lane) {
      const float *from = x + lane * columns;
      float largest = 0;
#pragma omp simd reduction(max : largest)
      for (isize k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(from[k]));
      const float inverse = largest > 0 ? 127 / largest : 0;
      uint8_t *to = integers.data() + lane * stride;
      for (isize k = 0; k < columns; ++k) {
        const float shifted = from[k] * inverse + 12582912.0f;  // rounds to nearest, ties to even
        uint32_t bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        to[k] = uint8_t(bits + 128);
      }
      scale[lane] = largest / 127;
    }
  }
};

inline Floats scaled(const Matrix &, const Activations &, isize, isize, Floats total) { return total; }
inline Floats scaled(const Matrix &m, const Activations &a, isize row, isize lane, Ints total) {
  Ints sum;
  std::memcpy(&sum, m.sum + row, sizeof sum);
  return __builtin_convertvector(total - sum * 128, Floats) * (load(m.scale + row) * a.scale[lane]);
}

// Add the products of `PANELS` panels with `LANES` lanes to `out` [B, rows]. The order of additions is the
// same however many there are, so a lane's result depends on no other lane.
template <class Line, int PANELS, int LANES>
void block(const Matrix &m, const Activations &a, isize panel, isize lane, float *out) {
  typename Line::Total totals[LANES][PANELS] = {};
  const isize length = (m.columns + Line::COLUMNS - 1) / Line::COLUMNS;
  const char *lines = m.lines + panel * length * 64;
  const auto *x = a.of(static_cast<const Line *>(nullptr)) + lane * a.stride;
  for (isize k = 0; k < length; ++k) {
    Line line[PANELS];
    for (int p = 0; p < PANELS; ++p) line[p].read(lines + (p * length + k) * 64);
    for (int l = 0; l < LANES; ++l)
      for (int p = 0; p < PANELS; ++p) line[p].add_to(totals[l][p], x + l * a.stride + k * Line::COLUMNS);
  }
  for (int l = 0; l < LANES; ++l)
    for (int p = 0; p < PANELS; ++p) {
      const isize row = (panel + p) * WIDTH;
      float *place = out + (lane + l) * m.rows + row;
      const Floats sum = load(place) + scaled(m, a, row, lane + l, totals[l][p]);
      std::memcpy(place, &sum, sizeof sum);
    }
}

// As many totals as registers hold: 4 panels × 1 or 4 lanes, 2 × 8. A group of panels stays in the cache
// from one group of lanes to the next.
template <class Line, int PANELS>
void panels_with_lanes(const Matrix &m, const Activations &a, isize panel, isize lanes, float *out) {
  constexpr int SOME = std::min(PANELS, 2);
  isize lane = 0;
  for (; lane + 8 <= lanes; lane += 8)
    for (int p = 0; p < PANELS; p += SOME) block<Line, SOME, 8>(m, a, panel + p, lane, out);
  for (; lane + 4 <= lanes; lane += 4) block<Line, PANELS, 4>(m, a, panel, lane, out);
  for (; lane < lanes; ++lane) block<Line, PANELS, 1>(m, a, panel, lane, out);
}
template <class Line>
void multiply_add_of(const Matrix &m, const Activations &a, isize lanes, isize begin, isize end, float *out) {
  isize panel = begin / WIDTH;
  const isize last = end / WIDTH;
  for (; panel + 4 <= last; panel += 4) panels_with_lanes<Line, 4>(m, a, panel, lanes, out);
  for (; panel < last; ++panel) panels_with_lanes<Line, 1>(m, a, panel, lanes, out);
}

// Add `W x` of rows [begin, end), whole panels, to `out` [B, rows].
void multiply_add(const Matrix &m, const float *x, isize lanes, isize begin, isize end, float *out) {
  const Activations a(m, x, lanes);
  if (m.kind == INT8) multiply_add_of<Int8Line>(m, a, lanes, begin, end, out);
  else if (m.kind == BFLOAT16) multiply_add_of<Bfloat16Line>(m, a, lanes, begin, end, out);
  else multiply_add_of<FloatLine>(m, a, lanes, begin, end, out);
}

void start_with_bias(const Matrix &m, isize lanes, isize begin, isize end, float *out) {
  for (isize lane = 0; lane < lanes; ++lane)
    std::copy(m.bias + begin, m.bias + end, out + lane * m.rows + begin);
}

// LayerNorm of one lane. Not inlined: each copy that the compiler makes may round in its own way.
__attribute__((noinline)) void normalize_lane(const Norm &norm, const float *x, isize dim, float *out) {
  float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
  for (isize d = 0; d < dim; ++d) mean += x[d];
  mean /= dim;
#pragma omp simd reduction(+ : variance)
  for (isize d = 0; d < dim; ++d) variance += (x[d] - mean) * (x[d] - mean);
  const float scale = 1 / std::sqrt(variance / dim + 1e-12f);
  for (isize d = 0; d < dim; ++d) out[d] = (x[d] - mean) * scale * norm.gain[d] + norm.bias[d];
}

// LayerNorm of every lane: `out` [B, D], with `stride` numbers from lane to lane in `x`.
void normalize(const Norm &norm, const float *x, isize stride, isize lanes, isize dim, float *out) {
  for (isize lane = 0; lane < lanes; ++lane, x += stride, out += dim) {
    if (norm.gain == nullptr) std::copy(x, x + dim, out);
    else normalize_lane(norm, x, dim, out);
  }
}

// ----------------------------------------------------------------------------------- attention

// Softmax over a part of the rows, unfinished: Σ e^(s - largest) and the same weighted sum of rows.
struct Partial {
  float largest = -INFINITY, total = 0;
  std::vector<float> mixed;
};

// `out[r]` = rows[r] · x for R rows of D numbers.
template <int R, class W> inline void dots(const W *rows, const float *x, isize dim, float (&out)[R]) {
  Floats totals[R] = {};
  isize d = 0;
  for (; d + WIDTH <= dim; d += WIDTH) {
    const Floats part = load(x + d);
    for (int r = 0; r < R; ++r) totals[r] += load(rows + r * dim + d) * part;
  }
  sums(totals, out);
  for (int r = 0; r < R; ++r)
    for (isize rest = d; rest < dim; ++rest) out[r] += value(rows[r * dim + rest]) * x[rest];
}

// `mixed` = mixed · shrink + Σ_j weights[j] · rows[j]. A line of the cache is used up before the next, for rows
// that stand 4 KiB apart push each other out of it. Meanwhile as many rows behind these come to the second
// cache: memory would stand idle otherwise.
template <class W>
void mix_rows(const W *rows, const float *weights, isize count, isize dim, float shrink, float *mixed) {
  constexpr isize LINE = 64 / sizeof(W);
  isize d = 0;
  for (; d + LINE <= dim; d += LINE) {
    Floats totals[LINE / WIDTH];
    for (isize i = 0; i < LINE / WIDTH; ++i) totals[i] = load(mixed + d + i * WIDTH) * shrink;
    for (isize j = 0; j < count; ++j) {
      for (isize i = 0; i < LINE / WIDTH; ++i) totals[i] += load(rows + j * dim + d + i * WIDTH) * weights[j];
      __builtin_prefetch(rows + (count + j) * dim + d, 0, 2);
    }
    std::memcpy(mixed + d, totals, sizeof totals);
  }
  for (; d < dim; ++d) {
    mixed[d] *= shrink;
    for (isize j = 0; j < count; ++j) mixed[d] += value(rows[j * dim + d]) * weights[j];
  }
}

// Add rows [begin, end) to a partial softmax. Rows are read from memory once: a block of them stays in
// the cache between its scores and its sum.
template <class W>
void attend(const W *rows, const float *scales, const float *query, isize begin, isize end, isize dim,
            Partial &partial) {
  constexpr isize BLOCK = sizeof(W) == 4 ? 8 : 16;
  for (isize start = begin; start < end; start += BLOCK) {
    const isize count = std::min(BLOCK, end - start);
    float scores[BLOCK], largest = partial.largest;
    for (isize j = 0; j < count; j += 4) {
      float found[4], one[1];
      const W *row = rows + (start + j) * dim;
      if (j + 4 <= count) {
        dots(row, query, dim, found);
      } else {
        for (isize i = 0; i < count - j; ++i) {
          dots(row + i * dim, query, dim, one);
          found[i] = one[0];
        }
      }
      for (isize i = j; i < std::min(j + 4, count); ++i) {
        scores[i] = found[i - j] * (scales ? scales[start + i] : 1.0f);
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
    mix_rows(rows + start * dim, weights, count, dim, shrink, partial.mixed.data());
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

// Features [begin, end) that a thread takes, whole vectors but at the end of all; `filled` is where the last
// vector ends.
struct Share {
  isize begin, end, filled;
};

Share share_of(isize dim, int thread, int threads) {
  const isize vectors = (dim + WIDTH - 1) / WIDTH, each = (vectors + threads - 1) / threads;
  const isize first = std::min(vectors, thread * each), last = std::min(vectors, first + each);
  if (first == last) return {0, 0, 0};
  return {first * WIDTH, std::min(dim, last * WIDTH), last * WIDTH};
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

// The LSTM's cell and hidden state [D] of a thread's features, from their gates [D / 16, 4, 16].
void update(const float *gates, float *cell, float *hidden, Share share) {
  for (isize first = share.begin; first < share.end; first += WIDTH) {
    const float *input = gates + 4 * first, *forget = input + WIDTH, *candidate = forget + WIDTH;
    const float *output = candidate + WIDTH;
    const isize count = std::min<isize>(WIDTH, share.end - first);
#pragma omp simd
    for (isize j = 0; j < count; ++j) {
      float &c = cell[first + j];
      c = sigmoid(forget[j]) * c + sigmoid(input[j]) * hyperbolic_tangent(candidate[j]);
      hidden[first + j] = sigmoid(output[j]) * hyperbolic_tangent(c);
    }
  }
}

inline isize filled(isize dim) { return (dim + WIDTH - 1) / WIDTH * WIDTH; }

// Boom's activation and sum for a thread's features: `out` [D] = skip + Σ_c φ(z), φ(z) = z·σ(1.702 z), with z
// [D / 16, C, 16].
void activate_and_sum(const float *z, isize chunks, Share share, const float *skip, float *out) {
  for (isize first = share.begin; first < share.end; first += WIDTH) {
    float total[WIDTH] = {};
    for (isize c = 0; c < chunks; ++c) {
      const float *part = z + chunks * first + c * WIDTH;
#pragma omp simd
      for (int j = 0; j < WIDTH; ++j) total[j] += part[j] * sigmoid(1.702f * part[j]);
    }
    for (isize j = 0; j < std::min<isize>(WIDTH, share.end - first); ++j)
      out[first + j] = total[j] + (skip ? skip[first + j] : 0.0f);
  }
}

// Put a lane's gates [4, D] in the order of panels, [D / 16, 4, 16].
template <class T> void gather(const T *gates, isize dim, Share share, float *out) {
  for (isize first = share.begin; first < share.end; first += WIDTH)
    for (isize part = 0; part < 4; ++part)
      for (isize j = 0; j < std::min<isize>(WIDTH, share.end - first); ++j)
        out[4 * first + part * WIDTH + j] = value(gates[part * dim + first + j]);
}

struct Step {
  const Model &model;
  isize lanes, dim;
  float *h;  // [B, D]: the input, then each block's output, then what the softmax reads
  std::vector<float> u, wide, query;
  std::vector<Partial> partials;  // [SHARES, B]
  Barrier barrier;

  Step(const Model &model, float *h, isize lanes)
      : model(model), lanes(lanes), dim(model.dim), h(h), u(lanes * dim), partials(SHARES * lanes) {
    isize rows = 0;
    for (isize i = 0; i < model.num_layers; ++i)
      rows = std::max({rows, model.layers[i].from_input.rows, model.layers[i].boom.rows});
    wide.resize(lanes * rows);
    query.resize(lanes * rows);
  }

  void run(int thread, int threads) {
    const Share share = share_of(dim, thread, threads);
    for (isize index = 0; index < model.num_layers; ++index) {
      const Layer &layer = model.layers[index];
      lstm(layer, share, threads);
      if (layer.attends) attention(layer, share, thread, threads);
      else if (layer.query.lines && !model.residual) normalize_only(layer, share, threads);
      boom(layer, share);
      barrier.wait(threads);
    }
    if (thread == 0) normalize(model.final, h, dim, lanes, dim, h);
  }

  void lstm(const Layer &layer, Share share, int threads) {
    std::vector<float> x(lanes * dim);
    normalize(layer.start, h, dim, lanes, dim, x.data());
    float *gates = wide.data();
    const isize begin = 4 * share.begin, end = 4 * share.filled;
    start_with_bias(layer.from_input, lanes, begin, end, gates);
    multiply_add(layer.from_input, x.data(), lanes, begin, end, gates);
    multiply_add(layer.from_hidden, layer.hidden, lanes, begin, end, gates);
    barrier.wait(threads);  // until now others read the hidden state
    for (isize lane = 0; lane < lanes; ++lane) {
      const isize at = lane * dim;
      update(gates + lane * layer.from_input.rows, layer.cell + at, layer.hidden + at, share);
      for (isize d = share.begin; d < share.end; ++d)
        u[at + d] = layer.hidden[at + d] + (model.residual ? h[at + d] : 0.0f);
    }
    barrier.wait(threads);
  }

  void attention(const Layer &layer, Share share, int thread, int threads) {
    std::vector<float> g(lanes * dim), q(lanes * dim);
    normalize(layer.mid, u.data(), dim, lanes, dim, g.data());
    if (thread == 0) {
      std::vector<float> rows(lanes * dim);
      normalize(layer.memory, u.data(), dim, lanes, dim, rows.data());
      for (isize lane = 0; lane < lanes; ++lane)
        write_row(layer.ring, lane, rows.data() + lane * dim, dim);
    }
    start_with_bias(layer.query, lanes, share.begin, share.filled, query.data());
    multiply_add(layer.query, g.data(), lanes, share.begin, share.filled, query.data());
    barrier.wait(threads);
    normalize(layer.query_norm, query.data(), layer.query.rows, lanes, dim, q.data());
    for (isize i = 0; i < lanes * dim; ++i) q[i] *= layer.query_scale[i % dim];
    for (isize job = thread; job < SHARES * lanes; job += threads) {
      const isize lane = job / SHARES, part = job % SHARES;
      attend_share(layer.ring, lane, q.data() + lane * dim, dim, part, partials[part * lanes + lane]);
    }
    barrier.wait(threads);
    for (isize lane = 0; lane < lanes; ++lane)
      mix(layer, (model.residual ? u.data() : g.data()) + lane * dim, lane, share);
    barrier.wait(threads);
  }

  void normalize_only(const Layer &layer, Share share, int threads) {
    std::vector<float> g(lanes * dim);
    normalize(layer.mid, u.data(), dim, lanes, dim, g.data());
    barrier.wait(threads);
    for (isize at = 0; at < lanes * dim; at += dim)
      std::copy(&g[at] + share.begin, &g[at] + share.end, &u[at] + share.begin);
    barrier.wait(threads);
  }

  // Join the partial softmaxes of a lane for a thread's features.
  void mix(const Layer &layer, const float *skip, isize lane, Share share) {
    float largest = -INFINITY, total = 0;
    for (int s = 0; s < SHARES; ++s) largest = std::max(largest, partials[s * lanes + lane].largest);
    std::vector<float> mixed(dim, 0.0f);
    for (int s = 0; s < SHARES; ++s) {
      const Partial &partial = partials[s * lanes + lane];
      const float weight = exponential(partial.largest - largest);
      total += weight * partial.total;
      for (isize d = share.begin; d < share.end; ++d) mixed[d] += weight * partial.mixed[d];
    }
    for (isize d = share.begin; d < share.end; ++d)
      u[lane * dim + d] = skip[d] + mixed[d] / total * layer.value_gate[d];
  }

  void boom(const Layer &layer, Share share) {
    if (layer.boom.lines == nullptr) {  // the plain LSTM
      for (isize at = 0; at < lanes * dim; at += dim)
        std::copy(&u[at] + share.begin, &u[at] + share.end, h + at + share.begin);
      return;
    }
    std::vector<float> x(lanes * dim), skip(lanes * dim);
    normalize(layer.boom_norm, u.data(), dim, lanes, dim, x.data());
    normalize(layer.skip, u.data(), dim, lanes, dim, skip.data());
    const isize chunks = layer.boom.rows / filled(dim), begin = chunks * share.begin;
    float *z = wide.data();
    start_with_bias(layer.boom, lanes, begin, chunks * share.filled, z);
    multiply_add(layer.boom, x.data(), lanes, begin, chunks * share.filled, z);
    for (isize lane = 0; lane < lanes; ++lane, z += layer.boom.rows)
      activate_and_sum(z, chunks, share, &skip[lane * dim], h + lane * dim);
  }
};

// A segment for an LSTM; see `recur`.
struct Segment {
  const Matrix &from_hidden;
  float *hidden, *cell, *out;
  isize lanes, tokens;
};

// Run it token by token. `gates_of(share, t, lane, to)` writes what the inputs give a thread's features.
template <class Gates> void run_recurrence(const Segment &segment, int threads, Gates gates_of) {
  const Matrix &m = segment.from_hidden;
  const isize dim = m.columns, lanes = segment.lanes;
  std::vector<float> gates(lanes * m.rows);
  Barrier barrier;
  in_parallel(threads, [&](int thread, int threads) {
    const Share share = share_of(dim, thread, threads);
    for (isize t = 0; t < segment.tokens; ++t) {
      for (isize lane = 0; lane < lanes; ++lane) gates_of(share, t, lane, &gates[lane * m.rows]);
      multiply_add(m, segment.hidden, lanes, 4 * share.begin, 4 * share.filled, gates.data());
      barrier.wait(threads);  // until now others read the hidden state
      for (isize lane = 0; lane < lanes; ++lane) {
        float *hidden = segment.hidden + lane * dim;
        update(&gates[lane * m.rows], segment.cell + lane * dim, hidden, share);
        std::copy(hidden + share.begin, hidden + share.end,
                  segment.out + (lane * segment.tokens + t) * dim + share.begin);
      }
      barrier.wait(threads);
    }
  });
}

// Tokens of a segment that share one reading of a matrix; what comes of them stays in the cache.
constexpr isize TOKENS_AT_ONCE = 64;

}  // namespace

extern "C" {

void step(const Model *model, float *h, isize lanes, int threads) {
  Step work(*model, h, lanes);
  in_parallel(threads, [&](int thread, int threads) { work.run(thread, threads); });
}

// The recurrence of an LSTM over a segment: all that must wait for the token before. `gates` [B, T, 4, D],
// float or bfloat16 by `kind`, is what inputs and biases give; `hidden`, `cell` [B, D] go from before the
// segment to after it; `out` [B, T, D] gets the hidden states.
void recur(const Matrix *from_hidden, const void *gates, isize kind, float *hidden, float *cell, float *out,
           isize lanes, isize tokens, int threads) {
  const isize dim = from_hidden->columns;
  const Segment segment{*from_hidden, hidden, cell, out, lanes, tokens};
  run_recurrence(segment, threads, [=](Share share, isize t, isize lane, float *to) {
    const isize at = (lane * tokens + t) * 4 * dim;
    if (kind == FLOAT) gather(static_cast<const float *>(gates) + at, dim, share, to);
    else gather(static_cast<const bfloat16 *>(gates) + at, dim, share, to);
  });
}

// The same from the LSTM's inputs `x` [B, T, D], whose products come a block of tokens at a time.
void read_lstm(const Matrix *from_input, const Matrix *from_hidden, const float *x, float *hidden,
               float *cell, float *out, isize lanes, isize tokens, int threads) {
  const isize dim = from_hidden->columns, rows = from_hidden->rows;
  std::vector<float> gates(lanes * TOKENS_AT_ONCE * rows);
  const Segment segment{*from_hidden, hidden, cell, out, lanes, tokens};
  run_recurrence(segment, threads, [&](Share share, isize t, isize lane, float *to) {
    float *block = gates.data() + lane * TOKENS_AT_ONCE * rows;
    const isize begin = 4 * share.begin, end = 4 * share.filled, place = t % TOKENS_AT_ONCE;
    if (place == 0) {
      const isize count = std::min(TOKENS_AT_ONCE, tokens - t);
      start_with_bias(*from_input, count, begin, end, block);
      multiply_add(*from_input, x + (lane * tokens + t) * dim, count, begin, end, block);
    }
    std::copy(block + place * rows + begin, block + place * rows + end, to + begin);
  });
}

// Boom of `count` tokens, `x` and `out` [count, D].
void read_boom(const Matrix *boom, const float *x, float *out, isize count, int threads) {
  const isize dim = boom->columns, chunks = boom->rows / filled(dim);
  std::vector<float> z(TOKENS_AT_ONCE * boom->rows);
  in_parallel(threads, [&](int thread, int threads) {
    const Share share = share_of(dim, thread, threads);
    for (isize t = 0; t < count; t += TOKENS_AT_ONCE) {
      const isize some = std::min(TOKENS_AT_ONCE, count - t), begin = chunks * share.begin;
      start_with_bias(*boom, some, begin, chunks * share.filled, z.data());
      multiply_add(*boom, x + t * dim, some, begin, chunks * share.filled, z.data());
      for (isize i = 0; i < some; ++i)
        activate_and_sum(z.data() + i * boom->rows, chunks, share, nullptr, out + (t + i) * dim);
    }
  });
}

// Ask the system for large pages under a matrix that is still to be written: a step reads all of it, and
// finding its pages takes time. Nothing happens where there are none.
void prefer_large_pages(void *start, isize bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t PAGE = 1 << 21;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(start) + PAGE - 1) / PAGE * PAGE;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(start) + bytes) / PAGE * PAGE;
  if (first < last) madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // extern "C"

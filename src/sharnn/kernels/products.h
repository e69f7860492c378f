// Products of a packed matrix with several lanes, in float, bfloat16 or int8, with tiles sized to the registers.
//
// Legend: B lanes · D dim · P parts: gates of the LSTM, chunks of Boom · K columns of a matrix.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "vectors.h"

using isize = int64_t;

enum Kind : isize { FLOAT = 0, BFLOAT16 = 1, INT8 = 2 };

extern "C" {

// A matrix [P · D, K] in the order in which it is read, from its first byte to its last. Its rows are grouped
// in panels of 16: features 0 to 15 of part 0, then the same of part 1, …, then features 16 to 31. A panel is
// a sequence of 64-byte lines: 16 rows × 1 column of float, 2 of bfloat16 or 4 of int8. Panels and lines are
// padded with zeros. int8: a row is `scale[row]` times its integers, whose sum is `sum[row]`.
struct Matrix {
  const char *lines;
  const float *scale;
  const int32_t *sum;
  const float *bias;
  isize rows, columns, kind;  // rows include the padding
};

}  // extern "C"

namespace {

constexpr int LINE_BYTES = 64;
// Prefetch distance in bytes. Narrow registers leave time for prefetching, which makes a single lane a third
// faster. With 64-byte registers the processor's own prefetching is as fast.
constexpr int AHEAD = NATIVE < WIDTH ? 1024 : 0;

// One line of a matrix, of each kind:
//   X          type of a lane's activations
//   COLUMNS    columns of a line
//   NUMBERS    activations (of type X) for these columns
//   HELD       registers that hold a line during its products with the lanes, for each register of a vector
//   SPARE      further registers that a product needs
//   Total      register type in which products are accumulated
struct FloatLine {
  using X = float;
  using Total = FloatRegister;
  static constexpr int COLUMNS = 1, NUMBERS = 1, HELD = 1, SPARE = 1;
  FloatRegister weights;
  void read(const char *line) { weights = read_as<FloatRegister>(line); }
  void add_to(Total &total, const X *x) const { total += weights * *x; }
};

#if defined(__AVX512BF16__)
struct Bfloat16Line {
  using X = bfloat16;
  using Total = FloatRegister;
  static constexpr int COLUMNS = 2, NUMBERS = 2, HELD = 1, SPARE = 1;
  __m512i weights;
  void read(const char *line) { weights = _mm512_loadu_si512(line); }
  void add_to(Total &total, const X *x) const {
    const __m512i both = _mm512_set1_epi32(read_as<int32_t>(x));
    total = (FloatRegister)_mm512_dpbf16_ps((__m512)total, (__m512bh)weights, (__m512bh)both);
  }
};
#else
// Without bfloat16 products in hardware, weights are widened to float and activations stay float.
struct Bfloat16Line {
  using X = float;
  using Total = FloatRegister;
  static constexpr int COLUMNS = 2, NUMBERS = 2, HELD = 2, SPARE = 2;
  FloatRegister even, odd;
  void read(const char *line) {
    const BitRegister both = read_as<BitRegister>(line);
    even = (FloatRegister)(both << 16);
    odd = (FloatRegister)(both & 0xFFFF0000u);
  }
  void add_to(Total &total, const X *x) const {
    total += even * x[0];
    total += odd * x[1];
  }
};
#endif

#if defined(__AVX512VNNI__)
struct Int8Line {
  using X = uint8_t;  // integers with an offset of 128
  using Total = IntRegister;
  static constexpr int COLUMNS = 4, NUMBERS = 4, HELD = 1, SPARE = 1;
  static constexpr int32_t OFFSET = 128;
  __m512i weights;
  void read(const char *line) { weights = _mm512_loadu_si512(line); }
  void add_to(Total &total, const X *x) const {
    total = (IntRegister)_mm512_dpbusd_epi32((__m512i)total, _mm512_set1_epi32(read_as<int32_t>(x)), weights);
  }
};
#else
// Sums of the products of each two neighbouring 16-bit integers.
inline IntRegister products_of_pairs(ShortRegister a, ShortRegister b) {
#if defined(__AVX512BW__)
  return (IntRegister)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (IntRegister)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (IntRegister)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
  return (IntRegister)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
  const IntRegister x = (IntRegister)a, y = (IntRegister)b;
  return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

// Without VNNI, bytes are widened to 16 bits, with even and odd columns in separate registers. The sum of two
// 8-bit products needs 16 bits and a sign, so `maddubs`, which saturates, cannot be used.
struct Int8Line {
  using X = int16_t;  // of columns 0 to 3 in the order 0, 2, 1, 3
  using Total = IntRegister;
  static constexpr int COLUMNS = 4, NUMBERS = 4, HELD = 2, SPARE = 3;
  static constexpr int32_t OFFSET = 0;
  ShortRegister even, odd;
  void read(const char *line) {
    const ShortRegister both = read_as<ShortRegister>(line);
    even = both << 8 >> 8;
    odd = both >> 8;
  }
  void add_to(Total &total, const X *x) const {
    total += products_of_pairs(even, (ShortRegister)(IntRegister{} + read_as<int32_t>(x)));
    total += products_of_pairs(odd, (ShortRegister)(IntRegister{} + read_as<int32_t>(x + 2)));
  }
};
#endif

// The activations of all lanes, in the format that a matrix's lines need; int8 with a scale for each lane.
// Columns are padded with zeros to a whole line.
template <class Line> struct Activations {
  using X = typename Line::X;
  const X *x;  // [B, stride]
  isize stride;
  std::vector<X> kept;
  std::vector<float> scale;

  template <class T> Activations(const Matrix &m, const T *from, isize lanes) {
    if constexpr (std::is_same_v<X, T> && !std::is_same_v<Line, Int8Line>) {
      if (m.columns % Line::COLUMNS == 0) {  // without a copy
        x = from, stride = m.columns;
        return;
      }
    }
    stride = (m.columns + Line::COLUMNS - 1) / Line::COLUMNS * Line::NUMBERS;
    kept.resize(lanes * stride);
    if constexpr (std::is_same_v<Line, Int8Line>) scale.resize(lanes);
    for (isize lane = 0; lane < lanes; ++lane) fill(from + lane * m.columns, m.columns, lane);
    x = kept.data();
  }

 private:
  template <class T> void fill(const T *from, isize columns, isize lane) {
    X *to = kept.data() + lane * stride;
    if constexpr (std::is_same_v<Line, Int8Line>) {
      quantize(from, columns, to, scale[lane]);
    } else {
      for (isize k = 0; k < columns; ++k) to[k] = converted(from[k]);
    }
  }
  static X converted(float x) {
    if constexpr (std::is_same_v<X, bfloat16>) return rounded(x);
    else return x;
  }
  static X converted(bfloat16 x) {
    if constexpr (std::is_same_v<X, bfloat16>) return x;
    else return widened(x);
  }
  static void quantize(const float *from, isize columns, X *to, float &scale) {
    float largest = 0;
#pragma omp simd reduction(max : largest)
    for (isize k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(from[k]));
    const float inverse = largest > 0 ? 127 / largest : 0;
    for (isize k = 0; k < columns; ++k) {
      const float shifted = from[k] * inverse + 12582912.0f;  // 1.5 · 2²³: rounds to nearest, ties to even
      const uint32_t bits = read_as<uint32_t>(&shifted);
      to[k] = X(bits - 0x4B400000u + Line::OFFSET);
    }
    if constexpr (std::is_same_v<X, int16_t>)
      for (X *four = to; four < to + columns; four += 4) std::swap(four[1], four[2]);
    scale = largest / 127;
  }
};

inline Floats scaled(const Matrix &, isize, float, const FloatRegister (&total)[PARTS]) {
  Floats x;
  std::memcpy(&x, total, sizeof x);
  return x;
}
inline Floats scaled(const Matrix &m, isize row, float scale, const IntRegister (&total)[PARTS]) {
  Floats x;
  UNROLLED for (int i = 0; i < PARTS; ++i) {
    const isize at = row + i * NATIVE;
    const IntRegister offset = read_as<IntRegister>(m.sum + at) * Int8Line::OFFSET;
    x.part[i] = __builtin_convertvector(total[i] - offset, FloatRegister) *
                (load_register(m.scale + at) * scale);
  }
  return x;
}

// Whether a tile of `panels` and `lanes` fits into the registers: its totals, and a line of each panel. A
// single lane reads the line from memory as an operand.
template <class Line> constexpr bool fits(int panels, int lanes) {
  const int held = lanes == 1 && Line::HELD == 1 ? 0 : Line::HELD;
  return PARTS * panels * (lanes + held) + Line::SPARE <= REGISTERS;
}
// The most lanes that can share one read of a line, and the most panels for a number of lanes.
template <class Line> constexpr int most_lanes() {
  int lanes = 1;
  while (lanes < 8 && fits<Line>(1, lanes + 1)) ++lanes;
  return lanes;
}
template <class Line> constexpr int panels_with(int lanes) {
  int panels = 4;
  while (panels > 1 && !fits<Line>(panels, lanes)) --panels;
  return panels;
}

template <class Line, int PANELS, int LANES> struct Totals {
  typename Line::Total part[LANES][PANELS][PARTS];
};

// Accumulate the products of a tile. Not inlined: constants of the surrounding code would occupy registers.
template <class Line, int PANELS, int LANES>
__attribute__((noinline)) void add_up(const char *lines, isize length, const typename Line::X *x, isize stride,
                                      Totals<Line, PANELS, LANES> &out) {
  typename Line::Total totals[LANES][PANELS][PARTS] = {};
  for (isize k = 0; k < length; ++k, lines += LINE_BYTES, x += Line::NUMBERS) {
    Line line[PANELS][PARTS];
    UNROLLED for (int p = 0; p < PANELS; ++p) {
      if constexpr (AHEAD > 0) __builtin_prefetch(lines + p * length * LINE_BYTES + AHEAD);
      UNROLLED for (int i = 0; i < PARTS; ++i)
        line[p][i].read(lines + p * length * LINE_BYTES + i * (LINE_BYTES / PARTS));
    }
    UNROLLED for (int l = 0; l < LANES; ++l)
      UNROLLED for (int p = 0; p < PANELS; ++p)
        UNROLLED for (int i = 0; i < PARTS; ++i) line[p][i].add_to(totals[l][p][i], x + l * stride);
  }
  std::memcpy(out.part, totals, sizeof totals);
}

// The products of `PANELS` panels with `LANES` lanes; `finish(row, lane, sum)` receives 16 at a time. The order
// of additions does not depend on the tile's size, so a lane's result does not depend on other lanes.
template <class Line, int PANELS, int LANES, class Finish>
inline void tile(const Matrix &m, const Activations<Line> &a, isize panel, isize lane, Finish finish) {
  const isize length = (m.columns + Line::COLUMNS - 1) / Line::COLUMNS;
  Totals<Line, PANELS, LANES> totals;
  add_up(m.lines + panel * length * LINE_BYTES, length, a.x + lane * a.stride, a.stride, totals);
  for (int l = 0; l < LANES; ++l)
    for (int p = 0; p < PANELS; ++p) {
      const isize row = (panel + p) * WIDTH;
      finish(row, lane + l, scaled(m, row, a.scale.empty() ? 1 : a.scale[lane + l], totals.part[l][p]));
    }
}

// Panels [panel, last) with `LANES` lanes, or with `count` if that is fewer.
template <class Line, int LANES, class Finish>
void tiles(const Matrix &m, const Activations<Line> &a, isize panel, isize last, isize lane, isize count,
           Finish finish) {
  if constexpr (LANES > 1)
    if (count < LANES) return tiles<Line, LANES - 1>(m, a, panel, last, lane, count, finish);
  constexpr int PANELS = panels_with<Line>(LANES);
  for (; panel + PANELS <= last; panel += PANELS) tile<Line, PANELS, LANES>(m, a, panel, lane, finish);
  if constexpr (PANELS > 1)
    for (; panel < last; ++panel) tile<Line, 1, LANES>(m, a, panel, lane, finish);
}

// The products of rows [begin, end), whole panels, with all lanes. A few panels at a time are multiplied with
// all lanes, so that they stay in the nearest cache from one group of lanes to the next.
template <class Line, class Finish>
void products(const Matrix &m, const Activations<Line> &a, isize lanes, isize begin, isize end, Finish finish) {
  constexpr int MOST = most_lanes<Line>();
  const isize groups = (lanes + MOST - 1) / MOST, together = lanes <= MOST ? end : 4;
  for (isize panel = begin / WIDTH; panel < end / WIDTH; panel += together) {
    const isize last = std::min(panel + together, end / WIDTH);
    for (isize group = 0, lane = 0; group < groups; ++group) {
      const isize next = lanes * (group + 1) / groups;  // groups of similar size
      tiles<Line, MOST>(m, a, panel, last, lane, next - lane, finish);
      lane = next;
    }
  }
}

template <class Line, class T>
void multiply_add_of(const Matrix &m, const T *x, isize lanes, isize begin, isize end, float *out) {
  const Activations<Line> a(m, x, lanes);
  products(m, a, lanes, begin, end, [&](isize row, isize lane, const Floats &sum) {
    float *place = out + lane * m.rows + row;
    Floats total = load(place);
    total += sum;
    store(place, total);
  });
}

// Add `W x` of rows [begin, end), whole panels, to `out` [B, rows].
inline void multiply_add(const Matrix &m, const float *x, isize lanes, isize begin, isize end, float *out) {
  if (m.kind == INT8) multiply_add_of<Int8Line>(m, x, lanes, begin, end, out);
  else if (m.kind == BFLOAT16) multiply_add_of<Bfloat16Line>(m, x, lanes, begin, end, out);
  else multiply_add_of<FloatLine>(m, x, lanes, begin, end, out);
}

inline void start_with_bias(const Matrix &m, isize lanes, isize begin, isize end, float *out) {
  for (isize lane = 0; lane < lanes; ++lane)
    std::copy(m.bias + begin, m.bias + end, out + lane * m.rows + begin);
}

}  // namespace

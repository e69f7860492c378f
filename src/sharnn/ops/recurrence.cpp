// The sequential part of an LSTM over a whole segment, forward and backward: the product with the previous
// hidden state, and the pointwise operations. `lstm.py` computes the rest, and has all equations.
//
// Legend: B lanes · T tokens · D embed_dim.
// All arrays are dense and row-major. The file is built once for each dtype, with STORED as float or bfloat16;
// sums and cells are float. Each thread processes a range of features: for every token it reads its part of
// the matrix, and waits once for the other threads.

#include <type_traits>

#include "products.h"
#include "threads.h"

namespace {

using T = STORED;
using Line = std::conditional_t<std::is_same_v<T, float>, FloatLine, Bfloat16Line>;

inline float value(float x) { return x; }
inline float value(bfloat16 x) { return widened(x); }
inline void put(float &place, float x) { place = x; }
inline void put(bfloat16 &place, float x) { place = rounded(x); }
inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// One step of one lane, for up to 16 features. `gates` (4 rows, `dim` apart) is W x + b on entry and holds the
// activated gates i, f, g, o on return; `recurrent` [4, 16] is U h', with h' the previous hidden state:
//   c = f c' + i g      h = o tanh(c)
void lstm_step(T *__restrict__ gates, const float *__restrict__ recurrent, const float *__restrict__ before,
               float *__restrict__ cell, T *__restrict__ hidden, isize dim, isize count) {
#pragma omp simd
  for (isize d = 0; d < count; ++d) {
    const float input = sigmoid(value(gates[d]) + recurrent[d]);
    const float forget = sigmoid(value(gates[d + dim]) + recurrent[d + WIDTH]);
    const float candidate = hyperbolic_tangent(value(gates[d + 2 * dim]) + recurrent[d + 2 * WIDTH]);
    const float output = sigmoid(value(gates[d + 3 * dim]) + recurrent[d + 3 * WIDTH]);
    const float c = forget * before[d] + input * candidate;
    cell[d] = c;
    put(gates[d], input);
    put(gates[d + dim], forget);
    put(gates[d + 2 * dim], candidate);
    put(gates[d + 3 * dim], output);
    put(hidden[d], output * hyperbolic_tangent(c));
  }
}

// The backward step. dX is the gradient of the loss with respect to X, z the gates before activation.
// `hidden_grad` is dy, from the output, and `later` is Uᵀ dz of the next token. `cell_grad` is the part of dc
// that comes from the next token on entry, and dc' on return; `grads` is dz:
//   dh  = dy + later                       dc' = dc f
//   dc  = cell_grad + dh o (1 - tanh² c)
//   dzi = dc g i (1 - i)                   dzf = dc c' f (1 - f)
//   dzg = dc i (1 - g²)                    dzo = dh tanh(c) o (1 - o)
void lstm_step_backward(const T *__restrict__ gates, const float *__restrict__ before,
                        const float *__restrict__ cell, const T *__restrict__ hidden_grad,
                        const float *__restrict__ later, float *__restrict__ cell_grad, T *__restrict__ grads,
                        isize dim, isize count) {
#pragma omp simd
  for (isize d = 0; d < count; ++d) {
    const float input = value(gates[d]), forget = value(gates[d + dim]);
    const float candidate = value(gates[d + 2 * dim]), output = value(gates[d + 3 * dim]);
    const float squashed = hyperbolic_tangent(cell[d]);
    const float from_hidden = value(hidden_grad[d]) + later[d];
    const float from_cell = cell_grad[d] + from_hidden * output * (1 - squashed * squashed);
    put(grads[d], from_cell * candidate * input * (1 - input));
    put(grads[d + dim], from_cell * before[d] * forget * (1 - forget));
    put(grads[d + 2 * dim], from_cell * input * (1 - candidate * candidate));
    put(grads[d + 3 * dim], from_hidden * squashed * output * (1 - output));
    cell_grad[d] = from_cell * forget;
  }
}

// A thread's rows of a matrix, packed by the thread itself. Element (part, feature, column) is
// `weight[(part * dim + feature) * row_stride + column * column_stride]`.
class OwnRows {
 public:
  OwnRows(const T *weight, isize dim, isize parts, isize row_stride, isize columns, isize column_stride, Share share) {
    constexpr isize TOGETHER = LINE_BYTES / WIDTH / sizeof(T);  // columns of a line
    const isize lines = (columns + TOGETHER - 1) / TOGETHER, rows = parts * (share.filled - share.begin);
    bytes_.assign(rows / WIDTH * lines * LINE_BYTES + LINE_BYTES, 0);
    char *start = bytes_.data() + (-reinterpret_cast<uintptr_t>(bytes_.data())) % LINE_BYTES;
    matrix = {start, nullptr, nullptr, nullptr, rows, columns, 0};
    T *panel = reinterpret_cast<T *>(start);
    for (isize first = share.begin; first < share.end; first += WIDTH)
      for (isize part = 0; part < parts; ++part, panel += lines * WIDTH * TOGETHER) {
        const T *from = weight + (part * dim + first) * row_stride;
        const isize count = std::min<isize>(WIDTH, share.end - first);
        for (isize k = 0; k < columns; ++k)
          for (isize r = 0; r < count; ++r)
            panel[(k / TOGETHER * WIDTH + r) * TOGETHER + k % TOGETHER] = from[r * row_stride + k * column_stride];
      }
  }
  Matrix matrix;

 private:
  std::vector<char> bytes_;
};

}  // namespace

extern "C" {

// `weight` [4, D, D] is U, with the parts input, forget, candidate, output. `gates` [T, B, 4, D] is W x + b on
// entry and holds the activated gates on return. `cells` and `hiddens` [T + 1, B, D] have c_0 and h_0 on entry,
// and all states on return.
void lstm_forward(const T *weight, T *gates, float *cells, T *hiddens, isize lanes, isize tokens, isize dim,
                  int threads) {
  const isize size = lanes * dim;
  Barrier barrier;
  in_parallel(threads, [&](int thread, int threads) {
    const Share share = share_of(dim, thread, threads);
    const OwnRows own(weight, dim, 4, dim, dim, 1, share);
    std::vector<float> recurrent(lanes * 4 * WIDTH);
    for (isize t = 0; t < tokens; ++t) {
      const Activations<Line> last(own.matrix, hiddens + t * size, lanes);
      for (isize first = share.begin; first < share.end; first += WIDTH) {
        const isize row_of_first = 4 * (first - share.begin), count = std::min<isize>(WIDTH, share.end - first);
        products(own.matrix, last, lanes, row_of_first, row_of_first + 4 * WIDTH,
                 [&](isize row, isize lane, const Floats &sum) {
                   store(&recurrent[lane * 4 * WIDTH + row - row_of_first], sum);
                 });
        for (isize lane = 0; lane < lanes; ++lane) {
          const isize at = (t * lanes + lane) * dim + first;
          lstm_step(gates + (t * lanes + lane) * 4 * dim + first, &recurrent[lane * 4 * WIDTH], cells + at,
                    cells + at + size, hiddens + at + size, dim, count);
        }
      }
      barrier.wait(threads);
    }
  });
}

// `gates` and `cells` are the results of the forward pass. `hidden_grads` [T, B, D] is dy. `cell_grad` [B, D] is
// the gradient of the last cell on entry, and dc_0 on return. Outputs: `later` [B, D] is dh_0, and `gate_grads`
// [T, B, 4, D] is dz, before activation.
void lstm_backward(const T *weight, const T *gates, const float *cells, const T *hidden_grads, float *cell_grad,
                   float *later, T *gate_grads, isize lanes, isize tokens, isize dim, int threads) {
  const isize size = lanes * dim;
  Barrier barrier;
  in_parallel(threads, [&](int thread, int threads) {
    const Share share = share_of(dim, thread, threads);
    const OwnRows own(weight, dim, 1, 1, 4 * dim, dim, share);  // Uᵀ
    for (isize lane = 0; lane < lanes; ++lane)
      std::fill(later + lane * dim + share.begin, later + lane * dim + share.end, 0.0f);
    for (isize t = tokens - 1; t >= 0; --t) {
      T *grads = gate_grads + t * 4 * size;
      for (isize lane = 0; lane < lanes; ++lane) {
        const isize at = lane * dim + share.begin, in_segment = t * size + at;
        const isize of_gates = 4 * lane * dim + share.begin;
        lstm_step_backward(gates + t * 4 * size + of_gates, cells + in_segment, cells + in_segment + size,
                           hidden_grads + in_segment, later + at, cell_grad + at, grads + of_gates, dim,
                           share.end - share.begin);
      }
      barrier.wait(threads);
      const Activations<Line> all(own.matrix, grads, lanes);
      products(own.matrix, all, lanes, 0, own.matrix.rows, [&](isize row, isize lane, const Floats &sum) {
        float whole[WIDTH];
        store(whole, sum);
        const isize first = share.begin + row;
        std::copy(whole, whole + std::min<isize>(WIDTH, share.end - first), later + lane * dim + first);
      });
    }
  });
}

}  // extern "C"

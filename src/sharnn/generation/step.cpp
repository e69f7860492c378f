// One step of a SHA-RNN for B lanes in one call: every weight and every memory row is read once.
//
// Legend: B lanes · D dim · P parts: gates of the LSTM, chunks of Boom · K columns of a matrix · W rows of a
// ring.
// The speed of a step is limited by the bytes of weights that it reads, so these may be float, bfloat16 or
// int8; sums and all operations between the matrix products are float. Each thread computes a range of
// features in each phase and waits for the others where the next phase needs all features. Small
// computations are repeated in every thread.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "products.h"
#include "threads.h"

extern "C" {

struct Norm {
  const float *gain, *bias;  // [D] each; null means no norm
};

// Memory rows [B, W, D] of the lanes; for int8, `scale` [B, W] has the scale of each row.
struct Ring {
  void *rows;
  float *scale;
  const isize *lengths;  // [B]: rows of each lane's own text, including the row that this step writes
  isize window, kind, place, filled;  // place of the row that this step writes; places filled after it
};

struct Layer {
  Norm start, mid, memory, query_norm, skip, boom_norm;
  Matrix from_input, from_hidden;  // 4 parts: input, forget, candidate, output
  Matrix query, boom;              // query: 1 part; boom: one part per chunk
  const float *query_scale, *value_gate;
  float *hidden, *cell;  // [B, D]
  Ring ring;
  isize attends;     // 0 without a memory: a block with a head (`query`) then only normalises
  isize reads_next;  // the value of a row is the row after it
};

struct Model {
  Layer *layers;
  Norm final;
  isize num_layers, dim, residual;
};

}  // extern "C"

namespace {

inline float value(float x) { return x; }
inline float value(int8_t x) { return x; }
inline float value(bfloat16 x) { return widened(x); }

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// LayerNorm of one lane. Not inlined: the compiler's inlined copies could round differently.
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

// LayerNorm of every lane into `out` [B, D]; lanes of `x` are `stride` numbers apart.
void normalize(const Norm &norm, const float *x, isize stride, isize lanes, isize dim, float *out) {
  for (isize lane = 0; lane < lanes; ++lane, x += stride, out += dim) {
    if (norm.gain == nullptr) std::copy(x, x + dim, out);
    else normalize_lane(norm, x, dim, out);
  }
}

// ----------------------------------------------------------------------------------- attention

// Partial softmax over some of the rows: Σ e^(s - largest), and the sum of rows with the same weights.
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
    UNROLLED for (int r = 0; r < R; ++r) totals[r].add_product(load(rows + r * dim + d), part);
  }
  sums(totals, out);
  for (int r = 0; r < R; ++r)
    for (isize rest = d; rest < dim; ++rest) out[r] += value(rows[r * dim + rest]) * x[rest];
}

// `mixed` = mixed · shrink + Σ_j weights[j] · rows[j]. Each cache line is used up before the next is read,
// because rows 4 KiB apart evict each other. Meanwhile the same number of following rows is prefetched into
// the second-level cache; otherwise memory would be idle. Not inlined: totals would not stay in registers.
template <class W>
__attribute__((noinline)) void mix_rows(const W *rows, const float *weights, isize count, isize dim, float shrink, float *mixed) {
  constexpr isize LINE = 64 / sizeof(W);
  isize d = 0;
  for (; d + LINE <= dim; d += LINE) {
    Floats totals[LINE / WIDTH];
    UNROLLED for (isize i = 0; i < LINE / WIDTH; ++i) totals[i] = load(mixed + d + i * WIDTH) * shrink;
    for (isize j = 0; j < count; ++j) {
      UNROLLED for (isize i = 0; i < LINE / WIDTH; ++i)
        totals[i].add_product(load(rows + j * dim + d + i * WIDTH), weights[j]);
      __builtin_prefetch(rows + (count + j) * dim + d, 0, 2);
    }
    std::memcpy(mixed + d, totals, sizeof totals);
  }
  for (; d < dim; ++d) {
    mixed[d] *= shrink;
    for (isize j = 0; j < count; ++j) mixed[d] += value(rows[j * dim + d]) * weights[j];
  }
}

// Add rows [begin, end) to a partial softmax; the value of a row is the row `ahead` places after it. Rows
// are read from memory once: a block stays in the cache between its scores and its sum.
template <class W>
void attend(const W *rows, const float *scales, const float *query, isize begin, isize end, isize ahead,
            isize dim, Partial &partial) {
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
      weights[j] = weight * (scales ? scales[start + ahead + j] : 1.0f);
    }
    mix_rows(rows + (start + ahead) * dim, weights, count, dim, shrink, partial.mixed.data());
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

// Number of shares of a lane's rows; it is fixed, so results don't depend on the number of threads.
constexpr int SHARES = 8;

// Add the rows at places [begin, end) of a lane, with values `ahead` places after them.
void attend_places(const Ring &ring, isize lane, const float *query, isize begin, isize end, isize ahead,
                   isize dim, Partial &partial) {
  if (begin >= end) return;
  const isize at = lane * ring.window;
  if (ring.kind == FLOAT)
    attend(static_cast<const float *>(ring.rows) + at * dim, nullptr, query, begin, end, ahead, dim, partial);
  else if (ring.kind == BFLOAT16)
    attend(static_cast<const bfloat16 *>(ring.rows) + at * dim, nullptr, query, begin, end, ahead, dim,
           partial);
  else
    attend(static_cast<const int8_t *>(ring.rows) + at * dim, ring.scale + at, query, begin, end, ahead, dim,
           partial);
}

// Attend to one share of a lane's rows. The rows of its own text end at `place`, wrapping round the ring.
// With `reads_next` the newest row is excluded, since no row follows it yet, and a row of zeros with score 0
// is added.
void attend_share(const Ring &ring, isize lane, const float *query, isize dim, int share, isize reads_next,
                  Partial &partial) {
  const bool zeros = reads_next && share == 0;
  partial.largest = zeros ? 0 : -INFINITY;
  partial.total = zeros;
  partial.mixed.assign(dim, 0.0f);
  const isize own = std::min(ring.lengths[lane], ring.filled) - reads_next, end = ring.place + 1 - reads_next;
  const isize size = (own + SHARES - 1) / SHARES;
  const isize from = std::min(own, share * size), to = std::min(own, from + size);
  // Rows [from, to) counted from the oldest, in at most two runs of places. The row after the last place of
  // the ring is at its first place.
  const isize oldest = end - own, wrap = ring.filled;
  const isize first = oldest + from + wrap, last = std::min(oldest + to, isize(0)) + wrap;
  const isize before_last = reads_next ? std::min(last, wrap - 1) : last;
  attend_places(ring, lane, query, first, before_last, reads_next, dim, partial);
  attend_places(ring, lane, query, std::max(first, before_last), last, 1 - wrap, dim, partial);
  attend_places(ring, lane, query, std::max(oldest + from, isize(0)), oldest + to, reads_next, dim, partial);
}

// ---------------------------------------------------------------------------------------- step

// Update the LSTM's cell and hidden state [D] for a thread's features, from their gates [D / 16, 4, 16].
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

// Boom's activation and sum for a thread's features: `out` [D] = skip + Σ_c φ(z), φ(z) = z·σ(1.702 z), where
// z is [D / 16, C, 16].
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

struct Step {
  const Model &model;
  isize lanes, dim;
  float *h;  // [B, D]: the input, then each block's output, finally the softmax's input
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
    barrier.wait(threads);  // before this, other threads may still read the hidden state
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
      attend_share(layer.ring, lane, q.data() + lane * dim, dim, part, layer.reads_next,
                   partials[part * lanes + lane]);
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

  // Combine the partial softmaxes of a lane for a thread's features.
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

// A segment for an LSTM; see `run_recurrence`.
struct Segment {
  const Matrix &from_hidden;
  float *hidden, *cell, *out;
  isize lanes, tokens;
};

// Run an LSTM over a segment token by token. `gates_of(share, t, lane, to)` writes the contribution of the
// inputs to the gates of a thread's features.
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
      barrier.wait(threads);  // before this, other threads may still read the hidden state
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

// Tokens of a segment for which a matrix is read once; their results stay in the cache.
constexpr isize TOKENS_AT_ONCE = 64;

}  // namespace

extern "C" {

void step(const Model *model, float *h, isize lanes, int threads) {
  Step work(*model, h, lanes);
  in_parallel(threads, [&](int thread, int threads) { work.run(thread, threads); });
}

// An LSTM over a segment with inputs `x` [B, T, D], whose matrix products are computed for a block of tokens
// at a time. `hidden` and `cell` [B, D] are updated in place; `out` [B, T, D] receives the hidden states.
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

// Boom for `count` tokens; `x` and `out` are [count, D].
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

}  // extern "C"

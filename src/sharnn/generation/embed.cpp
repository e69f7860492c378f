// The input of a step for B lanes: a token's embedding, the rows of its n-grams, and the recalled tokens.
//
// Legend: B lanes · D dim · N earlier tokens used · O orders · R rows of n-grams · S slots of recall.
// The input takes a few hundred bytes from tables of megabytes. It is computed in one pass, since a chain of
// PyTorch operations would take longer than the rest of the step of a small model.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ngrams.h"
#include "numbers.h"

using isize = int64_t;

enum Kind : isize { FLOAT = 0, BFLOAT16 = 1 };

extern "C" {

// Orders 2 … `longest`, with a table [R, width] for each; `keys` [O, R] is sorted within each order.
struct Ngrams {
  const int32_t *keys;
  const void *const *tables;
  isize longest, num_rows, width;
};

// `tokens` [V, D] is an embedding table; `gain` [2 O] and `source` [2 O, D] are float.
struct Recall {
  const void *tokens;
  const float *gain, *source;
  const isize *orders;
  isize num_orders;
};

// All tables have the dtype `kind`. There are no n-grams if `longest` is 0, and no recall without orders.
struct Embedding {
  const void *tokens;  // [V, D]
  Ngrams ngrams;
  Recall recall;
  isize vocab_size, dim, looks_back, kind;
};

}  // extern "C"

namespace {

inline float value(float x) { return x; }
inline float value(bfloat16 x) { return widened(x); }

template <class W> inline const W *row_of(const void *table, isize row, isize width) {
  return static_cast<const W *>(table) + row * width;
}

// The keys of the last 1, 2, … `longest` tokens, which end at `last`.
std::vector<isize> keys_at(const isize *last, isize longest) {
  std::vector<isize> keys(longest);
  keys[0] = key_of(*last);
  for (isize n = 1; n < longest; ++n) keys[n] = longer_key(keys[n - 1], last[-n]);
  return keys;
}

template <class W> void add_ngrams(const Ngrams &ngrams, const isize *keys, float *out) {
  for (isize n = 2; n <= ngrams.longest; ++n, out += ngrams.width) {
    const int32_t *first = ngrams.keys + (n - 2) * ngrams.num_rows, *end = first + ngrams.num_rows;
    const int32_t key = int32_t(keys[n - 1]), *found = std::lower_bound(first, end, key);
    if (found == end || *found != key) continue;
    const W *row = row_of<W>(ngrams.tables[n - 2], found - first, ngrams.width);
    for (isize d = 0; d < ngrams.width; ++d) out[d] += value(row[d]);
  }
}

template <class W> void add_recalled(const Recall &recall, isize token, isize i, isize dim, float *out) {
  if (token < 0) return;
  const W *row = row_of<W>(recall.tokens, token, dim);
  const float gain = recall.gain[i], *source = recall.source + i * dim;
  for (isize d = 0; d < dim; ++d) out[d] += gain * value(row[d]) + source[d];
}

template <class W>
void recall_followers(const Embedding &model, const isize *earlier, const isize *keys, isize token,
                      isize *slots, isize num_slots, float *out) {
  const Recall &recall = model.recall;
  for (isize order = 0; order < recall.num_orders; ++order, slots += num_slots) {
    const isize mask = num_slots - 1, n = recall.orders[order];
    isize &slot = slots[earlier[n - 1] & mask];
    slot = followed_by(slot, earlier[n - 1], token);
    const isize known = followers(slots[keys[n - 1] & mask], keys[n - 1]);
    add_recalled<W>(recall, last_follower(known), 2 * order, model.dim, out);
    add_recalled<W>(recall, earlier_follower(known), 2 * order + 1, model.dim, out);
  }
}

template <class W>
void embed_lane(const Embedding &model, isize token, isize *recent, isize *slots, isize num_slots,
                float *out) {
  const W *row = row_of<W>(model.tokens, token, model.dim);
  for (isize d = 0; d < model.dim; ++d) out[d] = value(row[d]);
  std::vector<isize> text(recent, recent + model.looks_back);
  const std::vector<isize> earlier = keys_at(&text.back(), model.looks_back);
  text.push_back(token);
  const std::vector<isize> keys = keys_at(&text.back(), model.looks_back + 1);
  add_ngrams<W>(model.ngrams, keys.data(), out);
  recall_followers<W>(model, earlier.data(), keys.data(), token, slots, num_slots, out);
  std::copy(text.begin() + 1, text.end(), recent);
}

}  // namespace

extern "C" {

// Read `tokens` [B], write `out` [B, D] and update `recent` [B, N] and `slots` [B, O, S] in place.
// Returns -1, or the first lane whose token is outside the vocabulary; nothing is read in that case.
isize embed(const Embedding *model, const isize *tokens, isize *recent, isize *slots, float *out, isize lanes,
            isize num_slots) {
  for (isize lane = 0; lane < lanes; ++lane)
    if (tokens[lane] < 0 || tokens[lane] >= model->vocab_size) return lane;
  const isize slots_of_lane = model->recall.num_orders * num_slots;
  const auto lane_function = model->kind == FLOAT ? embed_lane<float> : embed_lane<bfloat16>;
  for (isize lane = 0; lane < lanes; ++lane)
    lane_function(*model, tokens[lane], recent + lane * model->looks_back, slots + lane * slots_of_lane,
                  num_slots, out + lane * model->dim);
  return -1;
}

}  // extern "C"

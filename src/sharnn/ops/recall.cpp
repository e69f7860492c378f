// Looks up which tokens followed the last n tokens at their previous occurrences; see `reference.recall`.
//
// Legend: B lanes · T tokens · N highest order · O orders · S slots.

#include <cstdint>

#include "ngrams.h"

using isize = int64_t;

namespace {

// The key of the n tokens that end at `last`.
inline isize ngram_key(const isize *last, isize n) {
  isize key = key_of(*last);
  for (isize back = 1; back < n; ++back) key = longer_key(key, last[-back]);
  return key;
}

}  // namespace

extern "C" {

// `text` [B, N + T]; `slots` [B, O, S] is updated in place; `found` [B, T, O, 2] is the output.
void recall(const isize *text, isize *slots, isize *found, const isize *orders, isize lanes,
            isize tokens, isize longest, isize num_orders, isize num_slots, int threads) {
  const isize mask = num_slots - 1;
#pragma omp parallel for num_threads(threads)
  for (isize job = 0; job < lanes * num_orders; ++job) {
    const isize lane = job / num_orders, order = job % num_orders, n = orders[order];
    const isize *x = text + lane * (longest + tokens) + longest;
    isize *table = slots + job * num_slots;
    isize key = ngram_key(x - 1, n);
    for (isize t = 0; t < tokens; ++t) {
      isize &slot = table[key & mask];
      slot = followed_by(slot, key, x[t]);
      key = ngram_key(x + t, n);
      const isize known = followers(table[key & mask], key);
      isize *out = found + ((lane * tokens + t) * num_orders + order) * 2;
      out[0] = last_follower(known);
      out[1] = earlier_follower(known);
    }
  }
}

}  // extern "C"

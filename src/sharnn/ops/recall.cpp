// Looking up what followed the last n tokens when they last stood in the text; see `reference.recall`.
//
// Legend: B lanes · T tokens · N highest order · O orders · S slots.
// Built with PRIME and MULTIPLIER of the keys (`ngram_keys.py`), TOKEN_BITS and PLACE_BITS of a slot
// (`reference.py`).

#include <algorithm>
#include <cstdint>

namespace {

using isize = int64_t;

constexpr isize TOKEN = (isize(1) << TOKEN_BITS) - 1, TOKENS = (isize(1) << 2 * TOKEN_BITS) - 1;

// The key of the n tokens that end at `last`.
inline isize ngram_key(const isize *last, isize n) {
  isize key = *last + 2;
  for (isize back = 1; back < n; ++back) key = (key * isize(MULTIPLIER) + last[-back] + 2) % isize(PRIME);
  return key;
}

// The two tokens that the slot knows to follow this n-gram; 0 for none.
inline isize followers(isize entry, isize key) {
  return entry >> 2 * TOKEN_BITS == key >> PLACE_BITS ? entry & TOKENS : 0;
}

}  // namespace

extern "C" {

// `text` [B, N + T], `slots` [B, O, S] before and after, `found` [B, T, O, 2].
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
      isize &before = table[key & mask];
      before = key >> PLACE_BITS << 2 * TOKEN_BITS | (x[t] + 1) << TOKEN_BITS |
               followers(before, key) >> TOKEN_BITS;
      key = ngram_key(x + t, n);
      const isize known = followers(table[key & mask], key);
      isize *out = found + ((lane * tokens + t) * num_orders + order) * 2;
      out[0] = (known >> TOKEN_BITS) - 1;
      out[1] = (known & TOKEN) - 1;
    }
  }
}

}  // extern "C"

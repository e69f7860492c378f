// Keys of n-grams (`ops/ngram_keys.py`) and recall's slots, which store the tokens that followed an n-gram
// (`ops/reference.py`). Needs the definitions PRIME and MULTIPLIER of the keys, and TOKEN_BITS and PLACE_BITS
// of the slots.
#pragma once

#include <cstdint>

namespace {

constexpr int64_t TOKEN = (int64_t(1) << TOKEN_BITS) - 1, TOKENS = (int64_t(1) << 2 * TOKEN_BITS) - 1;

// The key of a single token, and the key of an n-gram extended by the token before it.
inline int64_t key_of(int64_t token) { return token + 2; }
inline int64_t longer_key(int64_t key, int64_t earlier) {
  return (key * int64_t(MULTIPLIER) + earlier + 2) % int64_t(PRIME);
}

// The two tokens that followed this n-gram, packed as in the slot; 0 if the slot belongs to another n-gram.
inline int64_t followers(int64_t slot, int64_t key) {
  return slot >> 2 * TOKEN_BITS == key >> PLACE_BITS ? slot & TOKENS : 0;
}

// The new value of the slot after `token` has followed this n-gram.
inline int64_t followed_by(int64_t slot, int64_t key, int64_t token) {
  return key >> PLACE_BITS << 2 * TOKEN_BITS | (token + 1) << TOKEN_BITS | followers(slot, key) >> TOKEN_BITS;
}

// The token that followed at the last occurrence, and at the one before; -1 for none.
inline int64_t last_follower(int64_t both) { return (both >> TOKEN_BITS) - 1; }
inline int64_t earlier_follower(int64_t both) { return (both & TOKEN) - 1; }

}  // namespace

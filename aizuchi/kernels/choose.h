// A token for each row: temperature, top-k, top-p, with noise keyed by (seed, frame, codebook, token). The same choice
// as `choose` in engine/sampling.py.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "vectors.h"

namespace aizuchi {

struct Choice {
  const float* temperature;  // (rows) each
  const int64_t* top_k;
  const float* top_p;
  const int64_t* seed;
  const int64_t* frame;
};

inline uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64 (Steele et al., 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

constexpr uint64_t GAMMA = 0x9e3779b97f4a7c15u;

// Greater for greater floats. A NaN is beyond one end or the other: its row has failed anyway.
inline int32_t order(float v) {
  const int32_t bits = bits_of<int32_t>(v + 0.f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
inline Ints order(Lanes v) {
  const Ints bits = bits_of<Ints>(v + 0.f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

struct Candidate {
  int32_t key, id;
  bool operator<(const Candidate& other) const {  // the best first, of equal ones the lower id
    return key != other.key ? key > other.key : id < other.id;
  }
};

// A key that at least k of n logits reach, and few more.
inline int32_t threshold(const float* logits, int64_t n, int64_t k) {
  static thread_local std::vector<int32_t> keys;
  keys.clear();
  constexpr int64_t BLOCK = 4 * LANES;
  if (k * 2 * BLOCK <= n) {  // the k-th of the blocks' greatest keys
    for (int64_t i = 0; i + BLOCK <= n; i += BLOCK) {
      Ints most = order(load(logits + i));
      for (int64_t j = LANES; j < BLOCK; j += LANES) {
        const Ints next = order(load(logits + i + j));
        most = next > most ? next : most;
      }
      int32_t greatest = most[0];
      for (int j = 1; j < LANES; j++) greatest = std::max(greatest, int32_t(most[j]));
      keys.push_back(greatest);
    }
  } else {
    keys.resize(n);
    for (int64_t i = 0; i < n; i++) keys[i] = order(logits[i]);
  }
  std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<int32_t>());
  return keys[k - 1];
}

// The k best of n logits, in no order.
inline void best(const float* logits, int64_t n, int64_t k, std::vector<Candidate>& out) {
  out.clear();
  const int32_t least = k < n ? threshold(logits, n, k) : INT32_MIN;
  for (int64_t i = 0; i < n; i++) {
    const int32_t key = order(logits[i]);
    if (key >= least) out.push_back({key, int32_t(i)});
  }
  if (int64_t(out.size()) > k) {
    std::nth_element(out.begin(), out.begin() + (k - 1), out.end());
    out.resize(k);
  }
}

inline int64_t choose(const float* logits, int64_t n, const Choice& choice, int64_t row, int64_t codebook) {
  static thread_local std::vector<Candidate> found;
  const float temperature = choice.temperature[row];
  if (!(temperature > 0.f)) {
    best(logits, n, 1, found);
    return found[0].id;
  }
  const int64_t k = choice.top_k[row] > 0 ? std::min(choice.top_k[row], n) : n;
  best(logits, n, k, found);
  size_t kept = found.size();
  if (choice.top_p[row] < 1.f) {
    std::sort(found.begin(), found.end());
    double sum = 0, before = 0;
    const float most = logits[found[0].id] / temperature;
    for (const Candidate& c : found) sum += std::exp(double(logits[c.id] / temperature - most));
    kept = 0;
    while (kept < found.size() && (kept == 0 || before < choice.top_p[row]))
      before += std::exp(double(logits[found[kept++].id] / temperature - most)) / sum;
  }
  uint64_t key = mix(uint64_t(choice.seed[row]) + GAMMA);
  key = mix(key ^ (uint64_t(choice.frame[row]) * 4096 + uint64_t(codebook)) * GAMMA);
  float most = -INFINITY;
  int64_t id = found[0].id;
  for (size_t i = 0; i < kept; i++) {
    const uint64_t bits = mix(key ^ (uint64_t(found[i].id) + 1) * GAMMA);
    const double u = (double(bits >> 11) + 0.5) * 0x1p-53;
    const float noisy = logits[found[i].id] / temperature + float(-std::log(-std::log(u)));
    if (noisy > most || (noisy == most && found[i].id < id)) most = noisy, id = found[i].id;
  }
  return id;
}

}  // namespace aizuchi

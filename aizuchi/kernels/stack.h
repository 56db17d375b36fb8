// One step of a transformer's layers over their caches: norm, attention, feed-forward, for the new positions of all
// rows that take part. What a layer is, is said in models/layers.py, moshi/decoder.py and mimi/transformer.py; this is
// their inside for one kind of input, a few positions of float32.
#pragma once
#include <algorithm>

#include "linear.h"

namespace aizuchi {

struct Norm {
  const float* weight;
  const float* bias;  // null: the root-mean-square norm
  double eps;
};

struct Layer {
  Norm first, second;  // before attention, before the feed-forward
  Linear query, key, value, out, up, down;
  const float* attention_scale;  // of each channel of the branch; may be null
  const float* mlp_scale;
};

struct Stack {
  const Layer* layers;
  const Norm* last;          // norm after the layers; may be null
  const float* frequencies;  // (head_dim / 2) of the rotary embedding; null: no positions
  int64_t count, dim, heads, kv_heads, head_dim, gated;  // gated: silu(first half) * second half, else gelu
};

// Keys and values of the past, a ring for each row or the steps of one frame.
struct Past {
  void* const* keys;    // of each layer: (rows, kv_heads, capacity, head_dim)
  void* const* values;
  int64_t format;       // F32 or BF16
  int64_t* positions;   // (rows, capacity) of what the slots hold, -1 = empty; null: slot i holds step i
  int64_t* offset;      // (rows)
  // kept: slots of the first positions, which the window never leaves; they stand right before it (see models/cache.py)
  int64_t rows, capacity, window, kept;
};

inline void normalise(const Norm& norm, const float* x, float* y, int64_t n) {
  Lanes sum = {}, squares = {};
  float rest = 0, rest_squares = 0, mean = 0;
  int64_t i = 0;
  if (norm.bias) {
    for (; i + LANES <= n; i += LANES) sum += load(x + i);
    for (; i < n; i++) rest += x[i];
    mean = (total(sum) + rest) / float(n);
  }
  for (i = 0; i + LANES <= n; i += LANES) {
    Lanes v = load(x + i) - mean;
    squares = madd(v, v, squares);
  }
  for (; i < n; i++) rest_squares += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.f / std::sqrt((total(squares) + rest_squares) / float(n) + float(norm.eps));
  for (i = 0; i + LANES <= n; i += LANES) {
    Lanes v = (load(x + i) - mean) * scale * load(norm.weight + i);
    store(y + i, norm.bias ? v + load(norm.bias + i) : v);
  }
  for (; i < n; i++) y[i] = (x[i] - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.f);
}

template <class T>
inline float dot(const float* a, const T* b, int64_t n) {
  Lanes sum = {};
  float rest = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) sum = madd(load(a + i), load(b + i), sum);
  for (; i < n; i++) rest = madd(a[i], widen(b[i]), rest);
  return total(sum) + rest;
}

// First half real, second half imaginary parts; turns is (2, n / 2): cosines, sines.
inline void rotate(float* x, const float* turns, int64_t n) {
  const int64_t half = n / 2;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half], c = turns[i], s = turns[i + half];
    x[i] = a * c - b * s;
    x[i + half] = a * s + b * c;
  }
}

// What all layers of one call share about the new positions, one entry each (row after row).
struct Places {
  std::vector<int64_t> row, slot, filled, at;  // at: its position in its row
  std::vector<float> turns;     // (positions, head_dim): cosines, then sines
  std::vector<float> stopped;   // the same of queries as they look at the kept positions; empty: there are none
  std::vector<uint8_t> hidden;  // (positions, capacity), empty: all filled slots are seen
};

inline void place(const Stack& stack, const Past& past, const uint8_t* active, int64_t length, int64_t index,
                  Places& places) {
  for (auto* entries : {&places.row, &places.slot, &places.filled, &places.at}) entries->clear();
  places.hidden.clear();
  std::vector<int64_t>& at = places.at;
  bool hides = false;
  for (int64_t r = 0; r < past.rows; r++) {
    if (active && !active[r]) continue;
    for (int64_t t = 0; t < length; t++) {
      places.row.push_back(r);
      if (!past.positions) {
        at.push_back(index + t);
        places.slot.push_back(index + t);
        places.filled.push_back(index + t + 1);
        continue;
      }
      const int64_t position = past.offset[r] + t, ring = past.capacity - past.kept;
      const int64_t slot = position < past.kept ? position : past.kept + (position - past.kept) % ring;
      past.positions[r * past.capacity + slot] = position;
      at.push_back(position);
      places.slot.push_back(slot);
      places.filled.push_back(std::min(past.offset[r] + length, past.capacity));
    }
    if (past.positions) past.offset[r] += length;
  }
  const int64_t count = int64_t(at.size());
  if (past.positions) {
    hides = length > 1 || past.capacity - past.kept > past.window;
    if (hides) places.hidden.assign(count * past.capacity, 0);
    for (int64_t p = 0; hides && p < count; p++) {
      const int64_t* seen = past.positions + places.row[p] * past.capacity;
      for (int64_t s = 0; s < places.filled[p]; s++) {
        const int64_t distance = at[p] - seen[s];
        const bool sees = seen[s] >= 0 && distance >= 0 && (distance < past.window || seen[s] < past.kept);
        places.hidden[p * past.capacity + s] = !sees;
      }
    }
  }
  places.turns.clear();
  places.stopped.clear();
  if (stack.frequencies) {
    const int64_t half = stack.head_dim / 2, last = past.kept + past.window - 1;
    const auto turn = [&](std::vector<float>& turns, int64_t most) {
      turns.resize(count * 2 * half);
      for (int64_t p = 0; p < count; p++)
        for (int64_t i = 0; i < half; i++) {
          const float angle = float(std::min(at[p], most)) * stack.frequencies[i];
          turns[p * 2 * half + i] = std::cos(angle);
          turns[p * 2 * half + half + i] = std::sin(angle);
        }
    };
    turn(places.turns, INT64_MAX);
    if (past.kept) turn(places.stopped, last);
  }
}

// One query over the filled slots of one head; `stopped` is what looks at the first `kept` of them.
template <class T>
void attend(const float* query, const float* stopped, int64_t kept, const T* keys, const T* values, int64_t filled,
            const uint8_t* hidden, int64_t n, float* scores, float* out) {
  const float scale = 1.f / std::sqrt(float(n));
  float most = -INFINITY;
  for (int64_t s = 0; s < filled; s++) {
    scores[s] = hidden && hidden[s] ? -INFINITY : dot(s < kept ? stopped : query, keys + s * n, n) * scale;
    most = scores[s] > most || scores[s] != scores[s] ? scores[s] : most;
  }
  map(scores, scores, filled, [most](Lanes v) { return exponential(v - most); });
  Lanes sum = {};
  float rest = 0;
  int64_t i = 0;
  for (; i + LANES <= filled; i += LANES) sum += load(scores + i);
  for (; i < filled; i++) rest += scores[i];
  const float by = 1.f / (total(sum) + rest);
  for (i = 0; i + 4 * LANES <= n; i += 4 * LANES) {
    Lanes part[4] = {};
    for (int64_t s = 0; s < filled; s++) {
      if (hidden && hidden[s]) continue;
      for (int j = 0; j < 4; j++) part[j] = madd(load(values + s * n + i + j * LANES), all(scores[s]), part[j]);
    }
    for (int j = 0; j < 4; j++) store(out + i + j * LANES, part[j] * by);
  }
  for (; i + LANES <= n; i += LANES) {
    Lanes part = {};
    for (int64_t s = 0; s < filled; s++)
      if (!hidden || !hidden[s]) part = madd(load(values + s * n + i), all(scores[s]), part);
    store(out + i, part * by);
  }
  for (; i < n; i++) {
    float part = 0;
    for (int64_t s = 0; s < filled; s++)
      if (!hidden || !hidden[s]) part = madd(widen(values[s * n + i]), scores[s], part);
    out[i] = part * by;
  }
}

// Attention of all new positions of one row and one head of keys; q, k, v hold a position's heads one after the other.
template <class T>
void attend_head(const Stack& stack, const Past& past, const Places& places, int64_t layer, int64_t first,
                 int64_t length, int64_t kv, float* mixed, float* scores, float* out) {
  const int64_t n = stack.head_dim, group = stack.heads / stack.kv_heads, row = places.row[first];
  const int64_t wide = (stack.heads + 2 * stack.kv_heads) * n, at = (row * stack.kv_heads + kv) * past.capacity;
  T* keys = (T*)past.keys[layer] + at * n;
  T* values = (T*)past.values[layer] + at * n;
  for (int64_t p = first; p < first + length; p++) {
    float* key = mixed + p * wide + (stack.heads + kv) * n;
    const float* value = key + stack.kv_heads * n;
    if (stack.frequencies) rotate(key, places.turns.data() + p * n, n);
    for (int64_t i = 0; i < n; i++) narrow(key[i], keys + places.slot[p] * n + i);
    for (int64_t i = 0; i < n; i++) narrow(value[i], values + places.slot[p] * n + i);
  }
  for (int64_t p = first; p < first + length; p++)
    for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
      float *query = mixed + p * wide + h * n, *stopped = query;
      if (!places.stopped.empty()) {
        stopped = scores + past.capacity + LANES;
        std::copy(query, query + n, stopped);
        rotate(stopped, places.stopped.data() + p * n, n);
      }
      if (stack.frequencies) rotate(query, places.turns.data() + p * n, n);
      const uint8_t* hidden = places.hidden.empty() ? nullptr : places.hidden.data() + p * past.capacity;
      attend<T>(query, stopped, past.kept, keys, values, places.filled[p], hidden, n, scores, out + (p * stack.heads + h) * n);
    }
}

// Memory that the workers of one call share.
struct Shared {
  Buffer x, mixed, attended, inner;
  Places places;
};

// x (positions, dim) through all layers, in place; every worker calls it.
inline void run(const Stack& stack, const Past& past, int64_t length, Shared& shared, float* x, Worker worker) {
  thread_local Buffer normed, ordered, scores;
  const Places& places = shared.places;
  const int64_t count = int64_t(places.row.size()), dim = stack.dim, n = stack.head_dim;
  const int64_t wide = (stack.heads + 2 * stack.kv_heads) * n, tasks = count / length * stack.kv_heads;
  float *mixed = shared.mixed.floats(0), *attended = shared.attended.floats(0), *inner = shared.inner.floats(0);
  float* h = normed.floats(count * dim);
  float* weights = scores.floats(past.capacity + LANES + n);  // and a query
  for (int64_t l = 0; l < stack.count; l++) {
    const Layer& layer = stack.layers[l];
    for (int64_t p = 0; p < count; p++) normalise(layer.first, x + p * dim, h + p * dim, dim);
    int64_t column = 0, format = -1, ldx = dim;
    const float* in = h;
    for (const Linear* part : {&layer.query, &layer.key, &layer.value}) {
      if (part->format != format) ldx = dim, in = prepare(*part, h, ldx, count, ordered), format = part->format;
      outputs_of(*part, worker.begin(part->out), worker.end(part->out), in, ldx, count,
                 [&](int64_t o, int64_t p, float v) { mixed[p * wide + column + o] = v; });
      column += part->out;
    }
    worker.wait();
    for (int64_t task = worker.begin(tasks, 1); task < worker.end(tasks, 1); task++) {
      const int64_t first = task / stack.kv_heads * length, kv = task % stack.kv_heads;
      if (past.format == F32)
        attend_head<float>(stack, past, places, l, first, length, kv, mixed, weights, attended);
      else
        attend_head<uint16_t>(stack, past, places, l, first, length, kv, mixed, weights, attended);
    }
    worker.wait();
    ldx = stack.heads * n;
    in = prepare(layer.out, attended, ldx, count, ordered);
    outputs_of(layer.out, worker.begin(dim), worker.end(dim), in, ldx, count, [&](int64_t o, int64_t p, float v) {
      x[p * dim + o] += layer.attention_scale ? v * layer.attention_scale[o] : v;
    });
    worker.wait();
    for (int64_t p = 0; p < count; p++) normalise(layer.second, x + p * dim, h + p * dim, dim);
    ldx = dim;
    in = prepare(layer.up, h, ldx, count, ordered);
    const int64_t hidden = layer.down.in, begin = worker.begin(hidden, LANES), end = worker.end(hidden, LANES);
    float* up = inner + count * hidden;  // the second half's outputs, where there are two
    outputs_of(layer.up, begin, end, in, ldx, count, [&](int64_t o, int64_t p, float v) { inner[p * hidden + o] = v; });
    if (stack.gated) {
      outputs_of(layer.up, begin + hidden, end + hidden, in, ldx, count,
                 [&](int64_t o, int64_t p, float v) { up[p * hidden + o - hidden] = v; });
      for (int64_t p = 0; p < count; p++) {
        float* gate = inner + p * hidden;
        map(gate + begin, gate + begin, end - begin, silu);
        for (int64_t i = begin; i < end; i++) gate[i] *= up[p * hidden + i];
      }
    } else {
      for (int64_t p = 0; p < count; p++)
        map(inner + p * hidden + begin, inner + p * hidden + begin, end - begin, gelu);
    }
    worker.wait();
    ldx = hidden;
    in = prepare(layer.down, inner, ldx, count, ordered);
    outputs_of(layer.down, worker.begin(dim), worker.end(dim), in, ldx, count, [&](int64_t o, int64_t p, float v) {
      x[p * dim + o] += layer.mlp_scale ? v * layer.mlp_scale[o] : v;
    });
    worker.wait();
  }
}

}  // namespace aizuchi

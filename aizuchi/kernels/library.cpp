// The doors of the library: plain C functions without torch's headers, so that it compiles in seconds and fits every
// version of torch. All activations are float32; ids are int64; `active` is one byte a row, or null for all.
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "choose.h"
#include "convolve.h"
#include "quantize.h"
#include "stack.h"

using namespace aizuchi;

namespace {

template <class F>
void together(int64_t threads, F f) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(int(threads))
    f(Worker{omp_get_thread_num(), omp_get_num_threads()});
    return;
  }
#endif
  f(Worker{0, 1});
}

struct Table {
  const void* weight;  // (entries, dim)
  int64_t format, entries;
};

// x (rows, length, dim) -> y, same. Rows that are not active keep their past, and give zeros.
void through(const Stack& stack, const Past& past, const uint8_t* active, int64_t length, int64_t index, const float* x,
             float* y, int64_t threads) {
  static thread_local Shared shared;
  Shared& ours = shared;  // the calling thread's, which all workers are to see
  place(stack, past, active, length, index, ours.places);
  const Places& places = ours.places;
  const int64_t count = int64_t(places.row.size()), dim = stack.dim;
  int64_t hidden = 0;
  for (int64_t l = 0; l < stack.count; l++) hidden = std::max(hidden, stack.layers[l].down.in);
  float* mine = ours.x.floats(count * dim);
  ours.mixed.floats(count * (stack.heads + 2 * stack.kv_heads) * stack.head_dim);
  ours.attended.floats(count * stack.heads * stack.head_dim);
  ours.inner.floats(2 * count * hidden);
  for (int64_t p = 0; p < count; p++)
    std::memcpy(mine + p * dim, x + (places.row[p] * length + p % length) * dim, dim * sizeof(float));
  if (count) together(threads, [&](Worker worker) { run(stack, past, length, ours, mine, worker); });
  if (count < past.rows * length) std::memset(y, 0, past.rows * length * dim * sizeof(float));
  for (int64_t p = 0; p < count; p++) {
    float* to = y + (places.row[p] * length + p % length) * dim;
    if (stack.last)
      normalise(*stack.last, mine + p * dim, to, dim);
    else
      std::memcpy(to, mine + p * dim, dim * sizeof(float));
  }
}

void linear_of(const Linear& linear, const float* x, int64_t ldx, float* y, int64_t ldy, int64_t rows, int64_t threads) {
  if (linear.out * linear.in < 65536) threads = 1;
  together(threads, [&](Worker worker) {
    thread_local Buffer ordered;
    int64_t stride = ldx;
    const float* in = prepare(linear, x, stride, rows, ordered);
    outputs_of(linear, worker.begin(linear.out), worker.end(linear.out), in, stride, rows,
               [&](int64_t o, int64_t r, float v) { y[r * ldy + o] = v; });
  });
}

// y (rows, dim) += entries ids[row, table] of the tables; a negative id adds nothing.
void embed(const Table* tables, int64_t count, int64_t dim, const int64_t* ids, int64_t ldi, float* y, int64_t rows) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t t = 0; t < count; t++) {
      float* to = y + r * dim;
      const int64_t id = ids[r * ldi + t];
      if (id < 0 || id >= tables[t].entries) continue;  // ids are checked where they come in
      if (tables[t].format == F32) {
        const float* from = (const float*)tables[t].weight + id * dim;
        for (int64_t i = 0; i < dim; i++) to[i] += from[i];
      } else {
        const uint16_t* from = (const uint16_t*)tables[t].weight + id * dim;
        for (int64_t i = 0; i < dim; i++) to[i] += widen(from[i]);
      }
    }
}

// A step of the depth decoder: the token's entry and the projected hidden state, the layers, the head.
struct Step {
  Table table;
  Linear projection;
  Stack stack;
  Linear head;
};

}  // namespace


extern "C" {

// 1 where vectors of 16 floats are one register.
int64_t aizuchi_wide() {
#if defined(__AVX512F__)
  return 1;
#else
  return 0;
#endif
}

// y (rows, out; ldy apart) = x (rows, in; ldx apart) W^T + bias
void aizuchi_linear(const Linear* linear, const float* x, int64_t ldx, float* y, int64_t ldy, int64_t rows,
                    int64_t threads) {
  linear_of(*linear, x, ldx, y, ldy, rows, threads);
}

// y (rows, dim) = sum of the entries that ids (rows, count) name
void aizuchi_embed(const Table* tables, int64_t count, int64_t dim, const int64_t* ids, float* y, int64_t rows) {
  std::memset(y, 0, rows * dim * sizeof(float));
  embed(tables, count, dim, ids, count, y, rows);
}

// See `through`.
void aizuchi_stack(const Stack* stack, const Past* past, const uint8_t* active, int64_t length, const float* x,
                   float* y, int64_t threads) {
  through(*stack, *past, active, length, 0, x, y, threads);
}

// Codebook step `index` of a frame: ids (rows), x (rows, projection.in) -> logits (rows, head.out)
void aizuchi_depth_step(const Step* step, const Past* past, int64_t index, const int64_t* ids, const float* x,
                        float* logits, int64_t threads) {
  thread_local Buffer in, out;
  const int64_t dim = step->stack.dim, rows = past->rows;
  float *here = in.floats(rows * dim), *there = out.floats(rows * dim);
  linear_of(step->projection, x, step->projection.in, here, dim, rows, threads);
  embed(&step->table, 1, dim, ids, 1, here, rows);
  through(step->stack, *past, nullptr, 1, index, here, there, threads);
  linear_of(step->head, there, dim, logits, step->head.out, rows, threads);
}

// ids (rows) of logits (rows, n); see choose.h
void aizuchi_choose(const float* logits, int64_t n, const float* temperature, const int64_t* top_k, const float* top_p,
                    const int64_t* seed, const int64_t* frame, int64_t codebook, int64_t* ids, int64_t rows) {
  const Choice choice{temperature, top_k, top_p, seed, frame};
  for (int64_t r = 0; r < rows; r++) ids[r] = choose(logits + r * n, n, choice, r, codebook);
}

// Padding bonus and repetition penalty on logits (rows, n), in place. history (rows, length): the newest last.
void aizuchi_shape_text(float* logits, int64_t n, int64_t rows, int64_t padding, const int64_t* quiet, int64_t quiets,
                        const float* bonus, const float* penalty, const int64_t* context, const int64_t* history,
                        int64_t length) {
  for (int64_t r = 0; r < rows; r++) {
    float* row = logits + r * n;
    const int64_t* ids = history + r * length;
    row[padding] += bonus[r];
    if (penalty[r] == 1.f) continue;
    for (int64_t i = std::max<int64_t>(0, length - context[r]); i < length; i++) {
      bool counts = ids[i] >= 0 && ids[i] < n;
      for (int64_t q = 0; q < quiets; q++) counts &= ids[i] != quiet[q];
      for (int64_t j = std::max<int64_t>(0, length - context[r]); j < i && counts; j++) counts = ids[j] != ids[i];
      if (counts) row[ids[i]] = row[ids[i]] > 0.f ? row[ids[i]] / penalty[r] : row[ids[i]] * penalty[r];
    }
  }
}

// x (rows, length, channels) -> y (rows, what becomes of length, channels of the last), through convolutions over
// streams. Rows that are not active keep their state, and give zeros.
void aizuchi_convolve(const Convolution* convolutions, const ConvolutionState* states, int64_t count, int64_t rows,
                      const uint8_t* active, int64_t length, const float* x, float* y, int64_t threads) {
  static thread_local Scratch shared;
  static thread_local std::vector<int64_t> taking;
  Scratch& s = shared;
  std::vector<int64_t>& part = taking;
  part.clear();
  for (int64_t r = 0; r < rows; r++)
    if (!active || active[r]) part.push_back(r);
  const int64_t n = int64_t(part.size()), channels = convolutions[0].in_channels;
  int64_t longer = length;
  for (int64_t i = 0; i < count; i++) {
    const Convolution& c = convolutions[i];
    longer = c.kind == CONVOLUTION ? longer / c.stride : longer * c.stride;
  }
  const int64_t size = longer * convolutions[count - 1].out_channels;
  if (n < rows) std::memset(y, 0, rows * size * sizeof(float));
  if (!n) return;
  s.in.reserve(n, length, channels);
  for (int64_t r = 0; r < n; r++)
    std::memcpy(s.in.floats() + r * s.in.stride, x + part[r] * length * channels, length * channels * sizeof(float));
  for (int64_t i = 0; i < count; i++) {
    const Convolution& c = convolutions[i];
    begin(c, states[i], part, s);
    const int64_t windows = int64_t(s.from.size());
    const bool in_tiles = tiled(c, s.out.length);
#if defined(AIZUCHI_TILES)
    if (in_tiles) split_windows(s, n);
#endif
    if (c.kind == CHANNELWISE)
      channelwise(c, s);
    else
      together(c.panels.in * c.panels.out * windows < 200000 ? 1 : threads, [&](Worker worker) {
#if defined(AIZUCHI_TILES)
        if (in_tiles) return tiles_of(c, s, n, worker);
#endif
        if (c.panels.format == F32)
          panels_of<float>(c.panels, s.from.data(), s.to.data(), windows, worker);
        else
          panels_of<uint16_t>(c.panels, s.from.data(), s.to.data(), windows, worker);
      });
    if (c.kind != CONVOLUTION) overlap(c, states[i], part, s);
    end(c, n, s);
  }
  for (int64_t r = 0; r < n; r++)
    std::memcpy(y + part[r] * size, s.in.floats() + r * size, size * sizeof(float));
}

// Whether long signals go through AMX tiles here.
void aizuchi_tiles(int64_t* answer) { *answer = has_tiles(); }

// x (n, dim), which is overwritten -> codes (n, count)
void aizuchi_quantize(const Codebook* books, int64_t count, float* x, int64_t n, int64_t* codes, int64_t threads) {
  static thread_local Buffer places;
  int64_t most = 0;
  for (int64_t b = 0; b < count; b++) most = std::max(most, books[b].size);
  float* scores = places.floats(n * most);
  together(threads, [&](Worker worker) {
    for (int64_t b = 0; b < count; b++) nearest(books[b], x, n, scores, codes + b, count, worker);
  });
}

// codes (n, count) -> x (n, dim), the sum of their entries
void aizuchi_dequantize(const Codebook* books, int64_t count, const int64_t* codes, int64_t n, float* x) {
  const int64_t dim = books[0].dim;
  std::memset(x, 0, n * dim * sizeof(float));
  for (int64_t r = 0; r < n; r++)
    for (int64_t b = 0; b < count; b++) {
      const int64_t code = std::min(std::max<int64_t>(codes[r * count + b], 0), books[b].size - 1);
      for (int64_t i = 0; i < dim; i++) x[r * dim + i] += books[b].sums[code * dim + i] / books[b].used(code);
    }
}

}

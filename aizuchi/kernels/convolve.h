// Causal convolutions over the next positions of streams, what models/mimi/conv.py and seanet.py say, with channels
// last: the window of an output is then one run of memory, and a convolution is a product of windows and weights.
// Weights lie in panels of 64 outputs (the last ones 32 or 16), rounded up with zeros; input i is tap * in_channels +
// channel. A panel is (input, output) in float32; in bfloat16 (inputs two by two, output, input of the two), with the
// inputs rounded up to 32.
#pragma once
#include <algorithm>

#include "tiles.h"

namespace aizuchi {

struct Panels {
  const void* weight;
  int64_t format;  // F32 or BF16
  int64_t out, in;
  int64_t inputs() const {  // as they are stored
    return format == BF16 ? (in + TILE_INPUTS - 1) / TILE_INPUTS * TILE_INPUTS : in;
  }
};

inline int64_t panel_width(int64_t left) { return left > 32 ? 64 : left > 16 ? 32 : 16; }

template <class T, int R, int V>
inline void panel_tile(const T* w, int64_t k, const float* const* x, float* const* y, int64_t outputs) {
  Lanes sum[R][V] = {};
  for (int64_t i = 0; i < k; i++) {
    Lanes b[V];
    for (int v = 0; v < V; v++) {
      if constexpr (sizeof(T) == sizeof(float)) {
        b[v] = load(w + i * V * LANES + v * LANES);
      } else {
        const Bits both = read<Bits>(w + (i & ~int64_t(1)) * V * LANES + v * 2 * LANES);
        b[v] = bits_of<Lanes>(i & 1 ? both & 0xffff0000u : both << 16);
      }
    }
    for (int r = 0; r < R; r++) {
      const Lanes a = all(x[r][i]);
      for (int v = 0; v < V; v++) sum[r][v] = madd(a, b[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) {
      const int64_t count = std::min<int64_t>(LANES, outputs - v * LANES);
      if (count == LANES)
        store(y[r] + v * LANES, sum[r][v]);
      else if (count > 0)
        std::memcpy(y[r] + v * LANES, &sum[r][v], count * sizeof(float));
    }
}

template <class T, int V>
void panel_rows(const T* w, int64_t k, const float* const* x, float* const* y, int64_t rows, int64_t outputs) {
  int64_t r = 0;
  for (; r + 6 <= rows; r += 6) panel_tile<T, 6, V>(w, k, x + r, y + r, outputs);
  switch (rows - r) {
    case 5: return panel_tile<T, 5, V>(w, k, x + r, y + r, outputs);
    case 4: return panel_tile<T, 4, V>(w, k, x + r, y + r, outputs);
    case 3: return panel_tile<T, 3, V>(w, k, x + r, y + r, outputs);
    case 2: return panel_tile<T, 2, V>(w, k, x + r, y + r, outputs);
    case 1: return panel_tile<T, 1, V>(w, k, x + r, y + r, outputs);
  }
}

// One output: sums along the inputs, as of its panel's lanes only the first would count.
template <class T>
void single(const Panels& p, const float* const* x, float* const* y, int64_t rows, Worker worker) {
  static thread_local Buffer column;
  float* w = column.floats(p.in);
  const T* weight = (const T*)p.weight;
  for (int64_t i = 0; i < p.in; i++)
    w[i] = widen(sizeof(T) == sizeof(float) ? weight[i * LANES] : weight[(i & ~int64_t(1)) * LANES + (i & 1)]);
  for (int64_t r = worker.begin(rows, 1); r < worker.end(rows, 1); r++) {
    Lanes sum = {};
    float rest = 0;
    int64_t i = 0;
    for (; i + LANES <= p.in; i += LANES) sum = madd(load(x[r] + i), load(w + i), sum);
    for (; i < p.in; i++) rest = madd(x[r][i], w[i], rest);
    *y[r] = total(sum) + rest;
  }
}

// y[row] (out) = x[row] (in) W^T, this worker's part: of the rows where they are many, else of the panels.
template <class T>
void panels_of(const Panels& p, const float* const* x, float* const* y, int64_t rows, Worker worker) {
  if (p.out == 1) return single<T>(p, x, y, rows, worker);
  const bool many = rows >= 48;
  const int64_t first = many ? worker.begin(rows, 6) : 0, last = many ? worker.end(rows, 6) : rows;
  std::vector<float*> to(last - first);
  const int64_t panels = (p.out + 63) / 64;
  const int64_t begin = many ? 0 : worker.begin(panels, 1), end = many ? panels : worker.end(panels, 1);
  for (int64_t panel = begin; panel < end; panel++) {
    int64_t n = panel * 64;
    const int64_t stop = std::min(p.out, n + 64);
    while (n < stop) {
      const int64_t width = panel_width(p.out - n);
      for (int64_t r = first; r < last; r++) to[r - first] = y[r] + n;
      const T* w = (const T*)p.weight + n * p.inputs();
      if (width == 64)
        panel_rows<T, 4>(w, p.in, x + first, to.data(), last - first, p.out - n);
      else if (width == 32)
        panel_rows<T, 2>(w, p.in, x + first, to.data(), last - first, p.out - n);
      else
        panel_rows<T, 1>(w, p.in, x + first, to.data(), last - first, p.out - n);
      n += width;
    }
  }
}

enum Kind : int64_t { CONVOLUTION = 0, TRANSPOSED = 1, CHANNELWISE = 2 };  // the last: transposed, a group a channel

struct Convolution {
  int64_t kind, in_channels, out_channels, kernel, stride;
  Panels panels;      // transposed: outputs are tap * out_channels + channel; channelwise: (kernel, channel), float32
  const float* bias;  // may be null
  int64_t activated;  // 1: of the ELU of its input
  int64_t branch;     // 1: its input goes past it and the next, 2: what went past is added to its output
};

struct ConvolutionState {
  float* past;     // (rows, channels, kernel - stride): inputs, or what outputs to come have already
  uint8_t* first;  // (rows): where set, the first input stands for the past; may be null
};

struct Signal {
  Buffer buffer;
  int64_t length = 0, channels = 0, stride = 0;  // stride: floats from row to row
  float* floats() { return (float*)buffer.data; }
  float* reserve(int64_t rows, int64_t positions, int64_t width) {
    length = positions, channels = width, stride = positions * width;
    return buffer.floats(rows * stride + LANES);
  }
};

struct Scratch {
  Signal in, out, window, kept;
  Buffer planes;  // of the windows, for tiles
  std::vector<const float*> from;
  std::vector<float*> to;
};

// What is done before workers share the product: past and new inputs side by side, and where windows and outputs lie.
inline void begin(const Convolution& c, const ConvolutionState& state, const std::vector<int64_t>& rows, Scratch& s) {
  const int64_t count = int64_t(rows.size()), length = s.in.length, channels = c.in_channels;
  const int64_t padding = c.kind == CONVOLUTION ? c.kernel - c.stride : 0;
  if (c.branch == 1) {
    s.kept.reserve(count, length, channels);
    std::memcpy(s.kept.floats(), s.in.floats(), count * s.in.stride * sizeof(float));
  }
  s.window.reserve(count, length + padding, channels);
  for (int64_t r = 0; r < count; r++) {
    float* past = state.past ? state.past + rows[r] * channels * padding : nullptr;
    float* window = s.window.floats() + r * s.window.stride;
    const float* fresh = s.in.floats() + r * s.in.stride;
    float* now = window + padding * channels;
    if (c.activated)
      map(fresh, now, length * channels, elu);
    else
      std::memcpy(now, fresh, length * channels * sizeof(float));
    if (!padding) continue;
    const bool first = state.first && state.first[rows[r]];
    for (int64_t t = 0; t < padding; t++)
      for (int64_t i = 0; i < channels; i++) window[t * channels + i] = first ? now[i] : past[i * padding + t];
    for (int64_t t = 0; t < padding; t++)
      for (int64_t i = 0; i < channels; i++) past[i * padding + t] = window[(length + t) * channels + i];
    if (state.first) state.first[rows[r]] = 0;
  }
  const bool transposed = c.kind != CONVOLUTION;
  const int64_t outputs = transposed ? length : length / c.stride;
  const int64_t width = transposed ? c.kernel * c.out_channels : c.out_channels;
  s.out.reserve(count, outputs, width);
  s.from.clear(), s.to.clear();
  for (int64_t r = 0; r < count; r++)
    for (int64_t t = 0; t < outputs; t++) {
      s.from.push_back(s.window.floats() + r * s.window.stride + t * (transposed ? 1 : c.stride) * channels);
      s.to.push_back(s.out.floats() + r * s.out.stride + t * width);
    }
}

// Whether a convolution is done in tiles: by its shape and the stream's length alone, so that other streams, their number
// and the number of threads change nothing.
inline bool tiled(const Convolution& c, int64_t outputs) {
  return c.panels.format == BF16 && c.kind != CHANNELWISE && outputs >= TILE && c.panels.out % TILE == 0 &&
         c.panels.in >= 24 && has_tiles();
}

#if defined(AIZUCHI_TILES)
inline uint16_t* plane_of(const Scratch& s, int64_t rows, int64_t row, int part) {
  return (uint16_t*)s.planes.data + (part * rows + row) * (s.window.stride + TILE_INPUTS);
}

inline void split_windows(Scratch& s, int64_t rows) {
  const int64_t size = s.window.stride, plane = size + TILE_INPUTS;
  s.planes.floats((PARTS * rows * plane + 1) / 2);
  for (int64_t row = 0; row < rows; row++) {
    uint16_t* planes[PARTS];
    for (int part = 0; part < PARTS; part++) {
      planes[part] = plane_of(s, rows, row, part);
      std::memset(planes[part] + size, 0, TILE_INPUTS * sizeof(uint16_t));  // read with weights of zero
    }
    split(s.window.floats() + row * size, size, planes);
  }
}

// This worker's part of a product in tiles: of the positions of all rows, 32 at a time.
inline void tiles_of(const Convolution& c, Scratch& s, int64_t rows, Worker worker) {
  const Panels& p = c.panels;
  const int64_t outputs = s.out.length, step = (c.kind == CONVOLUTION ? c.stride : 1) * c.in_channels;
  const int64_t groups = (outputs + 2 * TILE - 1) / (2 * TILE), blocks = p.inputs() / TILE_INPUTS;
  const Tiles registers;
  for (int64_t item = worker.begin(rows * groups, 1); item < worker.end(rows * groups, 1); item++) {
    const int64_t row = item / groups, first = std::min(item % groups * 2 * TILE, outputs - TILE);
    // the last sixteen may be some that were done already: the same again
    const int64_t second = first + TILE < outputs ? std::min(first + TILE, outputs - TILE) : first;
    const uint16_t* x[PARTS];
    for (int part = 0; part < PARTS; part++) x[part] = plane_of(s, rows, row, part) + first * step;
    float* y = s.out.floats() + row * s.out.stride;
    for (int64_t n = 0; n < p.out;) {
      const int64_t width = panel_width(p.out - n);
      const uint16_t* w = (const uint16_t*)p.weight + n * p.inputs();
      for (int64_t i = 0; i < width && n + i < p.out; i += 2 * TILE)
        tile_product(w + 2 * i, 4 * width, blocks, x, 2 * step, 2 * (second - first) * step, n + i + TILE < p.out,
                     y + first * p.out + n + i, p.out, y + second * p.out + n + i);
      n += width;
    }
  }
}
#endif

// Outputs of a transposed convolution from each input's part, (positions, kernel * channels) -> (positions * stride, ...)
inline void overlap(const Convolution& c, const ConvolutionState& state, const std::vector<int64_t>& rows, Scratch& s) {
  const int64_t count = int64_t(rows.size()), length = s.in.length, channels = c.out_channels;
  const int64_t rest = c.kernel - c.stride, step = c.stride * channels;
  std::swap(s.window, s.out);  // window: the parts
  s.out.reserve(count, length * c.stride, channels);
  thread_local Buffer sums;
  const int64_t size = length * step + rest * channels;
  float* sum = sums.floats(size);
  for (int64_t r = 0; r < count; r++) {
    const float* parts = s.window.floats() + r * s.window.stride;
    float* partial = state.past ? state.past + rows[r] * channels * rest : nullptr;
    std::memset(sum, 0, size * sizeof(float));
    for (int64_t t = 0; t < length; t++)
      for (int64_t i = 0; i < c.kernel * channels; i++) sum[t * step + i] += parts[t * c.kernel * channels + i];
    for (int64_t t = 0; t < rest; t++)
      for (int64_t i = 0; i < channels; i++) sum[t * channels + i] += partial[i * rest + t];
    for (int64_t t = 0; t < rest; t++)
      for (int64_t i = 0; i < channels; i++) partial[i * rest + t] = sum[length * step + t * channels + i];
    std::memcpy(s.out.floats() + r * s.out.stride, sum, length * step * sizeof(float));
  }
}

// Parts of a transposed convolution whose channels do not mix.
inline void channelwise(const Convolution& c, Scratch& s) {
  const float* weight = (const float*)c.panels.weight;
  for (size_t row = 0; row < s.from.size(); row++)
    for (int64_t k = 0; k < c.kernel; k++)
      for (int64_t i = 0; i < c.out_channels; i++)
        s.to[row][k * c.out_channels + i] = s.from[row][i] * weight[k * c.out_channels + i];
}

inline void end(const Convolution& c, int64_t rows, Scratch& s) {
  const int64_t positions = rows * s.out.length, channels = c.out_channels;
  float* y = s.out.floats();
  if (c.bias)
    for (int64_t p = 0; p < positions; p++)
      for (int64_t i = 0; i < channels; i++) y[p * channels + i] += c.bias[i];
  if (c.branch == 2) {
    const float* kept = s.kept.floats();
    for (int64_t i = 0; i < positions * channels; i++) y[i] += kept[i];
  }
  std::swap(s.in, s.out);
}

}  // namespace aizuchi

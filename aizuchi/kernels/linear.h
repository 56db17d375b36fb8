// y = x W^T for few rows of x: what a step of conversation does with every weight, once. Reading W from memory is
// all the time there is to spend, so weights are read once for all rows, in the form in which they are stored:
//
//   F32   W (out, in)
//   BF16  W (out, in)
//   INT8  W (out, in), one float scale for each output
//   INT4  W (out, in / 2 rounded up to 64 bytes), one bfloat16 scale for each 32 inputs; the order is `int4_place`'s
//
// x is float32 and is never rounded. Sums are taken in an order that depends on the format and on `in` alone: a
// row's result does not change with the rows beside it, their number, or the number of threads.
#pragma once
#include <cstdlib>
#include <utility>
#include <vector>

#include "vectors.h"

namespace aizuchi {

struct Linear {
  const void* weight;
  const void* scale;
  const float* bias;  // may be null
  int64_t out, in, format;
  int64_t width() const { return format == INT4 ? (in + 127) / 128 * 128 : in; }  // of a row, as it is stored
};

// Memory on cache lines, kept from call to call.
struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  float* floats(int64_t count) {
    size_t bytes = (size_t(count) * sizeof(float) + 4095) & ~size_t(4095);
    if (bytes > size) {
      std::free(data);
      data = std::aligned_alloc(64, bytes);
      if (!data) std::abort();
      size = bytes;
    }
    return (float*)data;
  }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) : data(other.data), size(other.size) { other.data = nullptr, other.size = 0; }
  Buffer& operator=(Buffer&& other) {
    std::swap(data, other.data), std::swap(size, other.size);
    return *this;
  }
  ~Buffer() { std::free(data); }
};

// Where input i of a block of 128 stands in x as int4 reads it: byte lane l's nibble j is input (l % 4) * 32 + j * 4 +
// l / 4, so that the four groups of a block have every fourth lane, and their scales repeat.
inline int64_t int4_place(int64_t i) {
  int64_t in = i & 127, group = in >> 5, j = (in & 31) >> 2, quarter = in & 3;
  return (i & ~int64_t(127)) + j * 16 + quarter * 4 + group;
}
// Of 32 bfloat16 the even ones come out of their register first.
inline int64_t bf16_place(int64_t i) { return (i & ~int64_t(31)) + ((i & 1) << 4) + ((i & 31) >> 1); }

// x (rows, in; ldx apart) in the order that the format reads it -> (rows, width()); x itself where that is its order.
inline const float* prepare(const Linear& linear, const float* x, int64_t& ldx, int64_t rows, Buffer& buffer) {
  if (linear.format == F32 || linear.format == INT8) return x;
  const int64_t width = linear.width(), k = linear.in;
  float* out = buffer.floats(rows * width);
  for (int64_t r = 0; r < rows; r++) {
    const float* from = x + r * ldx;
    float* to = out + r * width;
    if (linear.format == BF16) {
      int64_t i = 0;
      for (; i + 32 <= k; i += 32)
        for (int64_t j = 0; j < 16; j++) to[i + j] = from[i + 2 * j], to[i + 16 + j] = from[i + 2 * j + 1];
      for (; i < k; i++) to[i] = from[i];
    } else {
      if (k < width) std::memset(to, 0, width * sizeof(float));
      for (int64_t i = 0; i < k; i++) to[int4_place(i)] = from[i];
    }
  }
  ldx = width;
  return out;
}

inline void ahead(const void* line) { __builtin_prefetch(line, 0, 3); }

template <int64_t FORMAT, int R, int N>
inline void tile(const Linear& linear, int64_t first, const float* x, int64_t ldx, float out[N][R]) {
  const int64_t k = linear.in;
  Lanes sum[N][R] = {};
  float rest[N][R] = {};
  if constexpr (FORMAT == F32) {
    const float* w = (const float*)linear.weight + first * k;
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES)
      for (int n = 0; n < N; n++) {
        ahead(w + (n + N) * k + i);
        Lanes v = load(w + n * k + i);
        for (int r = 0; r < R; r++) sum[n][r] = madd(v, load(x + r * ldx + i), sum[n][r]);
      }
    for (; i < k; i++)
      for (int n = 0; n < N; n++)
        for (int r = 0; r < R; r++) rest[n][r] = madd(w[n * k + i], x[r * ldx + i], rest[n][r]);
  } else if constexpr (FORMAT == BF16) {
    const uint16_t* w = (const uint16_t*)linear.weight + first * k;
    int64_t i = 0;
    for (; i + 32 <= k; i += 32)
      for (int n = 0; n < N; n++) {
        ahead(w + (n + N) * k + i);
        Bits both = read<Bits>(w + n * k + i);
        Lanes even = bits_of<Lanes>(both << 16), odd = bits_of<Lanes>(both & 0xffff0000u);
        for (int r = 0; r < R; r++) {
          sum[n][r] = madd(even, load(x + r * ldx + i), sum[n][r]);
          sum[n][r] = madd(odd, load(x + r * ldx + i + 16), sum[n][r]);
        }
      }
    for (; i < k; i++)
      for (int n = 0; n < N; n++)
        for (int r = 0; r < R; r++) rest[n][r] = madd(widen(w[n * k + i]), x[r * ldx + i], rest[n][r]);
  } else if constexpr (FORMAT == INT8) {
    const int8_t* w = (const int8_t*)linear.weight + first * k;
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES)
      for (int n = 0; n < N; n++) {
        if ((i & 63) == 0) ahead(w + (n + N) * k + i);
        Lanes v = load(w + n * k + i);
        for (int r = 0; r < R; r++) sum[n][r] = madd(v, load(x + r * ldx + i), sum[n][r]);
      }
    for (; i < k; i++)
      for (int n = 0; n < N; n++)
        for (int r = 0; r < R; r++) rest[n][r] = madd(float(w[n * k + i]), x[r * ldx + i], rest[n][r]);
  } else {
    const int64_t width = linear.width();
    const uint8_t* w = (const uint8_t*)linear.weight + first * (width / 2);
    const uint16_t* scale = (const uint16_t*)linear.scale + first * (width / 32);
#if defined(__AVX512F__)
    const __m512 levels = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
#endif
    for (int64_t i = 0; i < width; i += 128)
      for (int n = 0; n < N; n++) {
        ahead(w + (n + N) * (width / 2) + i / 2);
        Bits packed = read<Bits>(w + n * (width / 2) + i / 2);
        const uint16_t* s = scale + n * (width / 32) + i / 32;
        Lanes part[R] = {};
        for (int j = 0; j < 8; j++) {
#if defined(__AVX512F__)
          Lanes v = (Lanes)_mm512_permutexvar_ps((__m512i)(packed >> (4 * j)), levels);
#else
          Ints nibble = bits_of<Ints>((packed >> (4 * j)) & 15u) - 8;
          Lanes v = __builtin_convertvector(nibble, Lanes);
#endif
          for (int r = 0; r < R; r++) part[r] = madd(v, load(x + r * ldx + i + j * 16), part[r]);
        }
#if defined(__AVX512F__)
        __m128i four = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)s)), 16);
        Lanes by = (Lanes)_mm512_broadcast_f32x4(_mm_castsi128_ps(four));
#else
        float a = widen(s[0]), b = widen(s[1]), c = widen(s[2]), d = widen(s[3]);
        Lanes by = {a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d};
#endif
        for (int r = 0; r < R; r++) sum[n][r] = madd(part[r], by, sum[n][r]);
      }
  }
  for (int n = 0; n < N; n++)
    for (int r = 0; r < R; r++) {
      float value = total(sum[n][r]) + rest[n][r];
      if (FORMAT == INT8) value *= ((const float*)linear.scale)[first + n];
      out[n][r] = linear.bias ? value + linear.bias[first + n] : value;
    }
}

template <int64_t FORMAT, int R, int N, class Put>
inline void put_tile(const Linear& linear, int64_t n, const float* x, int64_t ldx, int64_t r, Put& put) {
  float out[N][R];
  tile<FORMAT, R, N>(linear, n, x + r * ldx, ldx, out);
  for (int i = 0; i < N; i++)
    for (int j = 0; j < R; j++) put(n + i, r + j, out[i][j]);
}

template <int64_t FORMAT, int N, class Put>
inline void outputs(const Linear& linear, int64_t n, const float* x, int64_t ldx, int64_t rows, Put& put) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) put_tile<FORMAT, 4, N>(linear, n, x, ldx, r, put);  // the rest: from the cache
  if (rows - r == 3) put_tile<FORMAT, 3, N>(linear, n, x, ldx, r, put);
  if (rows - r == 2) put_tile<FORMAT, 2, N>(linear, n, x, ldx, r, put);
  if (rows - r == 1) put_tile<FORMAT, 1, N>(linear, n, x, ldx, r, put);
}

template <int64_t FORMAT, class Put>
void outputs_of(const Linear& linear, int64_t begin, int64_t end, const float* x, int64_t ldx, int64_t rows, Put& put) {
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) outputs<FORMAT, 4>(linear, n, x, ldx, rows, put);
  for (; n < end; n++) outputs<FORMAT, 1>(linear, n, x, ldx, rows, put);
}

// Outputs [begin, end) of all rows; x as `prepare` gave it; put(output, row, value) takes each.
template <class Put>
void outputs_of(const Linear& linear, int64_t begin, int64_t end, const float* x, int64_t ldx, int64_t rows, Put put) {
  switch (linear.format) {
    case F32: return outputs_of<F32>(linear, begin, end, x, ldx, rows, put);
    case BF16: return outputs_of<BF16>(linear, begin, end, x, ldx, rows, put);
    case INT8: return outputs_of<INT8>(linear, begin, end, x, ldx, rows, put);
    default: return outputs_of<INT4>(linear, begin, end, x, ldx, rows, put);
  }
}

// One thread of those that work together.
struct Worker {
  int64_t id, count;
  // this worker's part of n things, in whole steps
  int64_t begin(int64_t n, int64_t step = 4) const { return (n + step - 1) / step * id / count * step; }
  int64_t end(int64_t n, int64_t step = 4) const {
    int64_t last = (n + step - 1) / step * (id + 1) / count * step;
    return last < n ? last : n;
  }
  void wait() const {
#if defined(_OPENMP)
#pragma omp barrier
#endif
  }
};

}  // namespace aizuchi

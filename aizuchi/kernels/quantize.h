// Residual quantization of a few vectors, what models/mimi/quantization.py says.
#pragma once
#include "linear.h"

namespace aizuchi {

struct Codebook {
  const float* sums;   // (size, dim): entry = sum / usage
  const float* usage;  // (size)
  double epsilon;      // the least usage that counts
  int64_t size, dim;
  float used(int64_t i) const { return usage[i] < float(epsilon) ? float(epsilon) : usage[i]; }
};

// Scores of N entries for R vectors: x.e - |e|^2 / 2, the greater the nearer; the entries are read once for both.
template <int R, int N>
inline void score(const Codebook& book, int64_t first, const float* x, float* scores) {
  Lanes dots[N][R] = {}, squares[N] = {};
  float rest[N][R] = {}, rest_squares[N] = {};
  const int64_t dim = book.dim;
  const float* sums = book.sums + first * dim;
  int64_t i = 0;
  for (; i + LANES <= dim; i += LANES)
    for (int n = 0; n < N; n++) {
      ahead(sums + (n + N) * dim + i);
      const Lanes v = load(sums + n * dim + i);
      squares[n] = madd(v, v, squares[n]);
      for (int r = 0; r < R; r++) dots[n][r] = madd(v, load(x + r * dim + i), dots[n][r]);
    }
  for (; i < dim; i++)
    for (int n = 0; n < N; n++) {
      const float v = sums[n * dim + i];
      rest_squares[n] = madd(v, v, rest_squares[n]);
      for (int r = 0; r < R; r++) rest[n][r] = madd(v, x[r * dim + i], rest[n][r]);
    }
  for (int n = 0; n < N; n++) {
    const float usage = book.used(first + n);
    const float half = (total(squares[n]) + rest_squares[n]) / (usage * usage) / 2;
    for (int r = 0; r < R; r++) scores[r * book.size + first + n] = (total(dots[n][r]) + rest[n][r]) / usage - half;
  }
}

template <int N>
inline void score_rows(const Codebook& book, int64_t first, const float* x, int64_t rows, float* scores) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) score<4, N>(book, first, x + r * book.dim, scores + r * book.size);
  for (; r < rows; r++) score<1, N>(book, first, x + r * book.dim, scores + r * book.size);
}

// The nearest entry of each x (n, dim), which loses it; scores has n * size places, and every worker calls this.
inline void nearest(const Codebook& book, float* x, int64_t n, float* scores, int64_t* codes, int64_t step,
                    Worker worker) {
  int64_t first = worker.begin(book.size);
  const int64_t last = worker.end(book.size);
  for (; first + 4 <= last; first += 4) score_rows<4>(book, first, x, n, scores);
  for (; first < last; first++) score_rows<1>(book, first, x, n, scores);
  worker.wait();
  for (int64_t r = worker.id; r < n; r += worker.count) {
    const float* row = scores + r * book.size;
    int64_t code = 0;
    for (int64_t i = 1; i < book.size; i++)
      if (row[i] > row[code]) code = i;
    codes[r * step] = code;
    for (int64_t i = 0; i < book.dim; i++) x[r * book.dim + i] -= book.sums[code * book.dim + i] / book.used(code);
  }
  worker.wait();
}

}  // namespace aizuchi

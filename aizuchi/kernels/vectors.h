// Sixteen floats at a time, in the compilers' own vectors: one AVX-512 register, two of AVX, four of NEON.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace aizuchi {

constexpr int LANES = 16;
typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

enum Format : int64_t { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

template <class To, class From>
inline To bits_of(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
template <class T>
inline T read(const void* p) {
  T out;
  std::memcpy(&out, p, sizeof out);
  return out;
}

inline Lanes load(const float* p) { return read<Lanes>(p); }
inline Lanes load(const uint16_t* p) {  // bfloat16
  return bits_of<Lanes>(__builtin_convertvector(read<Halves>(p), Bits) << 16);
}
inline void store(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }
inline Lanes load(const int8_t* p) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#else
  typedef int16_t Shorts __attribute__((vector_size(32)));  // in two steps, which compilers know
  Shorts wide = __builtin_convertvector(read<Bytes>(p), Shorts);
  return __builtin_convertvector(__builtin_convertvector(wide, Ints), Lanes);
#endif
}
inline float widen(uint16_t v) { return bits_of<float>(uint32_t(v) << 16); }
inline float widen(float v) { return v; }
inline uint16_t narrow(float v) {  // to bfloat16, to the nearest even; NaN stays NaN
  uint32_t bits = bits_of<uint32_t>(v);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void narrow(float v, float* to) { *to = v; }
inline void narrow(float v, uint16_t* to) { *to = narrow(v); }
inline Lanes all(float v) { return v - Lanes{}; }

// a * b + c, rounded once where the machine can. The compiler is told not to choose that by itself: what it made of one
// row and of four would differ in the last bit.
inline float madd(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
inline Lanes madd(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX__) && defined(__FMA__)
  struct Two {
    __m256 low, high;
  } x = bits_of<Two>(a), y = bits_of<Two>(b), z = bits_of<Two>(c);
  return bits_of<Lanes>(Two{_mm256_fmadd_ps(x.low, y.low, z.low), _mm256_fmadd_ps(x.high, y.high, z.high)});
#else
  return a * b + c;
#endif
}

inline float total(Lanes v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float sum[LANES];
  store(sum, v);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) sum[i] += sum[i + width];
  return sum[0];
#endif
}

inline Lanes pick(Ints where, Lanes a, Lanes b) {
  return bits_of<Lanes>((where & bits_of<Ints>(a)) | (~where & bits_of<Ints>(b)));
}

// e^x within 2 ulp: range reduction and a polynomial of degree 6. NaN stays NaN, large x gives infinity.
inline Lanes exponential(Lanes x) {
  const Lanes high = all(88.72f), low = all(-87.33f);
  Lanes in = pick(x > high, high, pick(x < low, low, x));
  Lanes n = in * 1.44269504088896341f;
  n = (n + 12582912.f) - 12582912.f;  // to the nearest whole number
  Lanes r = madd(n, all(-0.693359375f), in);
  r = madd(n, all(2.12194440e-4f), r);
  Lanes p = madd(r, all(1.9875691500e-4f), all(1.3981999507e-3f));
  for (float next : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = madd(p, r, all(next));
  p = madd(p * r, r, r) + 1.f;
  Ints whole = __builtin_convertvector(pick(x == x, n, Lanes{}), Ints);
  Ints first = whole >> 1;  // 2^128 is no float: in two steps
  Lanes out = p * bits_of<Lanes>((first + 127) << 23) * bits_of<Lanes>((whole - first + 127) << 23);
  out = pick(x > high, all(INFINITY), pick(x < low, Lanes{}, out));
  return pick(x == x, out, x);
}

inline Lanes silu(Lanes x) { return x / (exponential(-x) + 1.f); }

inline Lanes elu(Lanes x) { return pick(x > 0.f, x, exponential(pick(x > 0.f, Lanes{}, x)) - 1.f); }

// x (1 + erf(x / sqrt 2)) / 2, erf by formula 7.1.26 of Abramowitz and Stegun (within 1.5e-7)
inline Lanes gelu(Lanes x) {
  Lanes z = x * 0.70710678118654752f;
  Lanes size = pick(z < 0.f, -z, z);
  Lanes t = 1.f / (size * 0.3275911f + 1.f);
  Lanes p = all(1.061405429f);
  for (float next : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = madd(p, t, all(next));
  Lanes erf = 1.f - p * t * exponential(-size * size);
  return x * 0.5f * (1.f + pick(z < 0.f, -erf, erf));
}

// x (n) through a function of lanes, in place or elsewhere
template <class F>
inline void map(const float* x, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(y + i, f(load(x + i)));
  if (i < n) {
    float rest[LANES] = {};
    std::memcpy(rest, x + i, (n - i) * sizeof(float));
    store(rest, f(load(rest)));
    std::memcpy(y + i, rest, (n - i) * sizeof(float));
  }
}

}  // namespace aizuchi
